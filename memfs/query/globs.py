"""Globs: patterns of paths.

Invariant: a glob without a special character matches exactly the path that it spells, and all below
it if it ends with a slash.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SPECIAL = re.compile(r"[*?\[\]]")
"""A bracket at the end of a set is no letter; one without a set is left out of what is fixed."""


@lru_cache(maxsize=256)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """Return the pattern that a whole path, `a/b` from the root on, has to match.

    `*`, `?` and `[...]` match within one name, `**` any number of directories. A glob without a
    slash is a name in any directory, and one that ends with a slash is all below.

    Raises:
        ValueError: A `[` is not closed, or its range runs backwards.
    """
    blocks: list[list[str]] = [[]]
    for part in _parts(glob):
        if part == "**":
            blocks.append([])
        else:
            blocks[-1].append(_name_pattern(part))
    try:
        return re.compile(_path_pattern(blocks), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{error.msg} in {glob!r}") from None


def _parts(glob: str) -> list[str]:
    """Return the patterns of the names of a path, and `**` for any number of directories."""
    anchored = "/" in glob.rstrip("/") or glob.startswith("/")
    parts = glob.strip("/").split("/")
    if not anchored:
        parts.insert(0, "**")
    if glob.endswith("/"):
        parts.append("**")
    return parts


def fixed_directories(glob: str) -> tuple[str, ...]:
    """Return the names that each path that matches begins with; the last name is not among them."""
    found = []
    for part in _parts(glob)[:-1]:
        if _SPECIAL.search(part):
            break
        found.append(part)
    return tuple(found)


def has_any_depth(glob: str) -> bool:
    """Tell whether paths that match may have any number of names."""
    return "**" in _parts(glob)


def part_count(glob: str) -> int:
    """Return how many names a path that matches has, if all have as many."""
    return len(_parts(glob))


def fixed_name(glob: str) -> str | None:
    """Return the last name of each path that matches; None: it may differ."""
    last = _parts(glob)[-1]
    return None if _SPECIAL.search(last) else last


def ends_of_name(glob: str) -> tuple[str, str]:
    """Return what the last name of each path that matches begins with, and what it ends with."""
    last = _parts(glob)[-1]
    pieces = _SPECIAL.split(last)
    return pieces[0], pieces[-1]


def _path_pattern(blocks: list[list[str]]) -> str:
    """Return the pattern of names with any number of directories between the blocks.

    The first place where a block fits is as good as any later one, so that no other is tried:
    the groups are atomic. A glob with many stars would else take for ever, and nothing ends `re`.
    """
    first, *middle, last = blocks if len(blocks) > 1 else [[], *blocks]
    if len(blocks) == 1:
        return "/".join(last)
    text = "".join(f"{name}/" for name in first)
    for block in middle:
        if block:
            text += f"(?>(?:[^/]+/)*?{''.join(f'{name}/' for name in block)})"
    return text + ("(?:[^/]+/)*" + "/".join(last) if last else ".+")


def _name_pattern(part: str) -> str:
    """Return the pattern of one name; between two stars the first fit counts, as above."""
    pieces = [""]
    at = 0
    while at < len(part):
        letter = part[at]
        at += 1
        if letter == "*":
            pieces.append("")
        elif letter == "?":
            pieces[-1] += "[^/]"
        elif letter == "[":
            # The first of the set may be a bracket: POSIX has no other way to write it.
            end = part.find("]", at + 1 + part.startswith("!", at))
            if end < 0:
                raise ValueError(f"a [ is not closed in {part!r}")
            inner = part[at:end]
            negated = inner.startswith("!")
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[negated:])
            pieces[-1] += f"(?!/)[{'^' if negated else ''}{escaped}]"
            at = end + 1
        else:
            pieces[-1] += re.escape(letter)
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle if piece) + f"[^/]*{last}"


def escaped_glob(path: str) -> str:
    """Return a glob that matches exactly a path."""
    return re.sub(r"([*?\[])", r"[\1]", path)
