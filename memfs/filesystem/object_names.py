"""Names of objects: the path of a file that is made of a key.

Invariant: two keys have two paths. A part that can be a name is its own name, but where it looks
like one that was escaped.

`a//b` has an empty part, which is `%`; `.` and `..` are `%2E` and `%2E%2E`; NUL is `%00`. A part of
more than 255 bytes is its beginning, `%~` and 32 hexadecimal digits of its digest.
"""

from __future__ import annotations

import hashlib
import re

from memfs.types import NAME_BYTES_MAX

EMPTY_PART = b"%"
_BEGINNING_BYTES = 200
_ESCAPED = re.compile(rb"%|%2E|%2E%2E|.*%00.*|.*%~[0-9a-f]{32}", re.DOTALL)
_RESERVED = b".memfs"


def names_of_key(key: bytes, *, at_mount_root: bool) -> tuple[tuple[bytes, ...], bool, bool]:
    """Return the names on the path of a key.

    Args:
        key: That of an object, not empty.
        at_mount_root: The path begins in the root of a mount, where one name is memfs's own.

    Returns:
        The names; whether the key stands for a directory; whether a part had to be escaped.
    """
    is_directory = key.endswith(b"/")
    parts = (key[:-1] if is_directory else key).split(b"/")
    names = [_name_of(part) for part in parts]
    if at_mount_root and names[0] == _RESERVED:
        names[0] = b"%2E" + _RESERVED[1:]
    return tuple(names), is_directory, names != parts


def _name_of(part: bytes) -> bytes:
    if _ESCAPED.fullmatch(part):
        part = part.replace(b"%", b"%25")
    if not part:
        return EMPTY_PART
    if part in (b".", b".."):
        return part.replace(b".", b"%2E")
    part = part.replace(b"\0", b"%00")
    if len(part) > NAME_BYTES_MAX:
        digest = hashlib.blake2b(part, digest_size=16).hexdigest().encode()
        return part[:_BEGINNING_BYTES] + b"%~" + digest
    return part
