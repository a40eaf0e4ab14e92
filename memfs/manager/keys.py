"""Keys: any text, as the path of a file below one directory, and back.

Invariant: two keys never have one path, no path leaves the directory, and no path is hidden; so the
temporary files of a manager, whose names begin with a dot, are no key's.
"""

from __future__ import annotations

import re

import blake3

from memfs.manager.errors import ValueFormatError

NAME_BYTES_MAX = 200
"""A longer component is cut, and ends with a digest: a name has 255 bytes at most, and the name of
a temporary file holds this one."""

KEY_CHARACTERS_MAX = 65_536
"""A longer key is refused; the kernel takes an attribute of 64 KiB, which holds a long key."""

PATH_BYTES_MAX = 3500
"""A longer path is refused; the kernel takes one of 4095 bytes, with that of the mount before it
(PATH_MAX of limits.h)."""

_AS_IT_IS = re.compile(r"[^%./\0][^%/\0]*(?:/[^%./\0][^%/\0]*)*")
"""Most keys: nothing in them is escaped, and no component is empty. It takes a quarter of the time
that it takes to look at each component."""

_DIGEST_BYTES = 16
_ESCAPED = re.compile(r"%([0-9A-F]{2})")
_EMPTY = "%"
_CUT = "%~"
_KEPT_BYTES = NAME_BYTES_MAX - len(_CUT) - 2 * _DIGEST_BYTES


def path_of(key: str) -> str:
    """Return the path of a key, relative to the directory of all keys.

    `/` separates directories. In each component `%` and a leading dot are escaped as in URLs, an
    empty component is `%`.

    Args:
        key: Any text.

    Raises:
        ValueFormatError: The key is empty or too long, has too many directories, or holds NUL or
            half of a surrogate pair.
    """
    if not isinstance(key, str):
        raise ValueFormatError(f"a key is a text, and not {type(key).__name__}")
    if _is_as_it_is(key):
        return key
    if not key or len(key) > KEY_CHARACTERS_MAX:
        raise ValueFormatError(f"a key has 1 to {KEY_CHARACTERS_MAX} characters, not {len(key)}")
    if "\0" in key:
        raise ValueFormatError(f"key {key[:80]!r}: NUL cannot be in a name")
    try:
        path = "/".join(_name_of(component) for component in key.split("/"))
    except UnicodeEncodeError:
        raise ValueFormatError(f"key {key[:80]!r} holds half of a surrogate pair") from None
    if len(path) > PATH_BYTES_MAX // 4 and len(path.encode()) > PATH_BYTES_MAX:
        raise ValueFormatError(
            f"key {key[:80]!r}...: its {key.count('/')} directories make a path of more than "
            f"{PATH_BYTES_MAX} bytes"
        )
    return path


def is_cut(path: str) -> bool:
    """Return whether a path does not tell its whole key, which is stored beside it then."""
    return any(component[_cut_at(component) :].startswith(_CUT) for component in path.split("/"))


def key_of(path: str) -> str | None:
    """Return the key of a path; None if no key has it, or the path does not tell (`is_cut`)."""
    if _is_as_it_is(path):
        return path
    components = []
    for name in path.split("/"):
        component = "" if name == _EMPTY else _ESCAPED.sub(_unescape, name)
        components.append(component)
    key = "/".join(components)
    try:
        return key if path_of(key) == path else None
    except ValueFormatError:
        return None


def _is_as_it_is(text: str) -> bool:
    """Tell a key that is its own path, and short enough for one name whatever its components."""
    return text.isascii() and len(text) <= NAME_BYTES_MAX and _AS_IT_IS.fullmatch(text) is not None


def _name_of(component: str) -> str:
    if not component:
        return _EMPTY
    name = component.replace("%", "%25")
    if name.startswith("."):
        name = "%2E" + name[1:]
    encoded = name.encode()
    if len(encoded) <= NAME_BYTES_MAX:
        return name
    digest = blake3.blake3(component.encode()).hexdigest(length=_DIGEST_BYTES)
    begin = encoded[:_KEPT_BYTES].decode(errors="ignore")
    return f"{begin}{_CUT}{digest}"


def _cut_at(name: str) -> int:
    return max(0, len(name) - len(_CUT) - 2 * _DIGEST_BYTES)


def _unescape(matched: re.Match[str]) -> str:
    return chr(int(matched[1], 16))
