"""Xattrs of users: which they are, and how much of them an inode may have.

Invariant: what memfs keeps in xattrs for itself takes no room of a user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.errors import XattrsFullError
from memfs.types import NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

USER_PREFIX = b"user."

CONTROL_PREFIX = b"user.memfs."
"""What controls memfs, and what memfs keeps for itself."""

XATTRS_BYTES_MAX = XATTR_VALUE_BYTES_MAX + NAME_BYTES_MAX
"""Names and values of a user that an inode can have together. One of the greatest length fits. ext4
has room for some 4 KiB, or for 64 KiB with `ea_inode`; without a bound each file could hold
gigabytes of the tables, which no quota of disks counts as its owner's."""


def is_users(name: bytes) -> bool:
    """Return whether an xattr is a user's own."""
    return name.startswith(USER_PREFIX) and not name.startswith(CONTROL_PREFIX)


def check_room(used_bytes: int) -> None:
    """See that an inode can have so much.

    Raises:
        XattrsFullError: It is more than `XATTRS_BYTES_MAX`.
    """
    if used_bytes > XATTRS_BYTES_MAX:
        raise XattrsFullError(
            f"xattrs of a user would take {used_bytes} bytes of one file; {XATTRS_BYTES_MAX} are "
            "there for names and values together: remove some, or keep them in a file"
        )


def users_bytes(xattrs: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the bytes that names and values of a user take."""
    return sum(len(name) + len(value) for name, value in xattrs if is_users(name))
