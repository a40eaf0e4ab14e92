"""Marks: what users set on files and directories to steer the policy, beside pins.

Invariant: a mark of a directory holds for all below it that has no own one, as pins do; a mark
that was stored can be parsed.
"""

from __future__ import annotations

from memfs.errors import InvalidValueError
from memfs.policy.view import PRIORITY_MAX

PRIORITY_XATTR = b"user.memfs.priority"
POOL_XATTR = b"user.memfs.pool"

AGES_XATTR = b"user.memfs.policy"
"""How long files go unused before they move on, as `policy.ages` reads it."""

SNAPSHOT_XATTR = b"user.memfs.snapshot"
SNAPSHOTS_ON, SNAPSHOTS_OFF = b"on", b"off"
"""Whether snapshots keep the bytes of a file, or of all below a directory."""

TENSOR_DTYPE_XATTR = b"user.memfs.dtype"
TENSOR_SHAPE_XATTR = b"user.memfs.shape"
"""What a file of plain numbers is, for the hot tier: `float32` and `1024,768`."""

STORE_XATTR = b"user.memfs.store"
"""Name of the object store that a file goes to."""

PUBLISH_XATTR = b"user.memfs.publish"
"""URL below which all files of a directory are published."""

PUBLISH_DELETED_XATTR = b"user.memfs.publish_deleted"
DELETED_KEEP, DELETED_REMOVE = b"keep", b"remove"
"""What becomes of a published object whose file is gone or renamed."""

MARKS = (
    *(PRIORITY_XATTR, POOL_XATTR, AGES_XATTR, SNAPSHOT_XATTR, STORE_XATTR),
    *(PUBLISH_XATTR, PUBLISH_DELETED_XATTR),
)
"""Stored as xattrs of the inode, and inherited by all below a directory that has no own one."""

TENSOR_MARKS = (TENSOR_DTYPE_XATTR, TENSOR_SHAPE_XATTR)
"""Stored and inherited likewise."""

MARKED_SETTING = "policy.marked"
"""Setting of the engine: some inode has one of them, or had one."""


def parse_priority(text: str) -> int:
    """Return a priority as users write it: a whole number, 0 to 100; the higher, the dearer.

    Raises:
        InvalidValueError: It is not one.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= PRIORITY_MAX):
        raise InvalidValueError(
            f"priority {text!r} is no whole number from 0 to {PRIORITY_MAX}; 50 is the default, "
            "files of a higher one move first and leave fast tiers last"
        )
    return int(text)


def parse_deleted(text: str) -> bool:
    """Return whether objects of files that are gone are removed: `keep` or `remove`.

    Raises:
        InvalidValueError: It is neither.
    """
    if text.encode() not in (DELETED_KEEP, DELETED_REMOVE):
        raise InvalidValueError(f"{text!r}: what becomes of the objects is keep or remove")
    return text.encode() == DELETED_REMOVE


def parse_snapshots(text: str) -> bytes:
    """Return whether snapshots keep the bytes of a file, as users write it: `on` or `off`.

    Raises:
        InvalidValueError: It is neither.
    """
    value = text.encode()
    if value not in (SNAPSHOTS_ON, SNAPSHOTS_OFF):
        raise InvalidValueError(f"{SNAPSHOT_XATTR.decode()} {text!r}: write on or off")
    return value
