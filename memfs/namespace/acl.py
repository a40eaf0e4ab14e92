"""POSIX access control lists as xattr values: inheritance, masks, and permission bits.

Invariant: the permission bits of an inode and its access ACL always agree (acl(5), "CORRESPONDENCE
BETWEEN ACL ENTRIES AND FILE PERMISSION BITS"). The kernel checks accesses; under FUSE_POSIX_ACL it
leaves the keeping of that agreement to the file system (fs/fuse/acl.c).

The value's layout is that of linux/posix_acl_xattr.h: a 32-bit version, then entries of 16-bit tag,
16-bit permissions and 32-bit id, all little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from memfs.errors import InvalidValueError

ACCESS_XATTR = b"system.posix_acl_access"
DEFAULT_XATTR = b"system.posix_acl_default"

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_ID_UNDEFINED = 0xFFFFFFFF

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_EXTENDED = USER | GROUP | MASK


class AclEntry(NamedTuple):
    """One entry: whom it is for, what is permitted (rwx as 4, 2, 1), and the uid or gid."""

    tag: int
    permissions: int
    id: int = _ID_UNDEFINED


class InheritedAcl(NamedTuple):
    """What a new inode gets from its directory's default ACL."""

    mode: int
    """Permission bits after the ACL, instead of the umask, has been applied."""
    access: bytes | None
    """Access ACL to store; None where the bits say it all."""
    default: bytes | None
    """Default ACL to store, for directories."""


def parse(value: bytes) -> list[AclEntry]:
    """Parse an ACL xattr.

    Raises:
        InvalidValueError: Not an ACL, or one without the three entries that each must have.
    """
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise InvalidValueError(f"an ACL of {len(value)} bytes is not a whole number of entries")
    (version,) = _HEADER.unpack_from(value)
    if version != _VERSION:
        raise InvalidValueError(f"ACL version {version} is not {_VERSION}")
    entries = [AclEntry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]
    tags = [entry.tag for entry in entries]
    if entries and any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)):
        raise InvalidValueError("an ACL needs one entry each for owner, group and others")
    if (USER in tags or GROUP in tags) and tags.count(MASK) != 1:
        raise InvalidValueError("an ACL with named users or groups needs one mask entry")
    return entries


def serialise(entries: list[AclEntry]) -> bytes:
    """Return the xattr value of an ACL."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def permission_bits(entries: list[AclEntry]) -> int:
    """Return the nine permission bits that an access ACL stands for."""
    by_tag = {entry.tag: entry.permissions & 7 for entry in entries}
    group = by_tag.get(MASK, by_tag.get(GROUP_OBJ, 0))
    return by_tag.get(USER_OBJ, 0) << 6 | group << 3 | by_tag.get(OTHER, 0)


def is_extended(entries: list[AclEntry]) -> bool:
    """True if the ACL says more than nine permission bits can."""
    return any(entry.tag & _EXTENDED for entry in entries)


def with_mode(value: bytes, mode: int) -> bytes:
    """Return an access ACL after chmod(2): owner, mask (else group) and others from the bits."""
    entries = parse(value)
    has_mask = any(entry.tag == MASK for entry in entries)
    shifts = {USER_OBJ: 6, OTHER: 0, (MASK if has_mask else GROUP_OBJ): 3}
    return serialise(
        [
            entry._replace(permissions=mode >> shifts[entry.tag] & 7)
            if entry.tag in shifts
            else entry
            for entry in entries
        ]
    )


def inherit(default: bytes, mode: int, *, directory: bool) -> InheritedAcl:
    """Apply a directory's default ACL to a new inode (acl(5), "OBJECT CREATION").

    Args:
        default: The directory's default ACL.
        mode: The mode that the creating call asked for; the umask is not applied.
        directory: True if the new inode is a directory, which inherits the default ACL itself.
    """
    entries = parse(default)
    has_mask = any(entry.tag == MASK for entry in entries)
    shifts = {USER_OBJ: 6, OTHER: 0, (MASK if has_mask else GROUP_OBJ): 3}
    access = [
        entry._replace(permissions=entry.permissions & (mode >> shifts[entry.tag]) & 7)
        if entry.tag in shifts
        else entry
        for entry in entries
    ]
    return InheritedAcl(
        mode & ~0o777 | permission_bits(access),
        serialise(access) if is_extended(access) else None,
        default if directory else None,
    )
