"""Permissions: what an inode permits a process by its ids.

Invariant: the answer is that of the kernel under `default_permissions` (fs/namei.c,
`acl_permission_check`; fs/posix_acl.c, `posix_acl_permission`) for a process without capabilities.
"""

from __future__ import annotations

from typing import NamedTuple

from memfs.errors import InvalidValueError
from memfs.namespace import acl

READ, WRITE, SEARCH = 4, 2, 1
"""Bits of a permission, as in a mode."""


class Credentials(NamedTuple):
    """Ids of a process."""

    uid: int
    """fsuid."""
    gid: int
    """fsgid."""
    groups: frozenset[int]
    """Supplementary groups: all of them, since a group can be shut out as well."""

    def is_in(self, gid: int) -> bool:
        """Tell whether it is a member of a group."""
        return gid == self.gid or gid in self.groups


def permits(
    who: Credentials, mode: int, uid: int, gid: int, access_acl: bytes | None, wanted: int
) -> bool:
    """Tell whether an inode permits all that a process wants.

    Args:
        who: The process.
        mode: That of the inode, as `st_mode`.
        uid: Its owner.
        gid: Its group.
        access_acl: `system.posix_acl_access`; None: there is no such xattr.
        wanted: `READ`, `WRITE`, `SEARCH`, or several of them.
    """
    if who.uid == uid:
        return not wanted & ~(mode >> 6)
    if access_acl is not None and mode & 0o070:
        return _acl_permits(who, gid, access_acl, wanted)
    bits = mode >> 3 if who.is_in(gid) else mode
    return not wanted & ~bits


def _acl_permits(who: Credentials, gid: int, access_acl: bytes, wanted: int) -> bool:
    try:
        entries = acl.parse(access_acl)
    except InvalidValueError:
        return False
    mask = next((entry.permissions for entry in entries if entry.tag == acl.MASK), 7)
    is_member = False
    for entry in entries:
        if entry.tag == acl.USER and entry.id == who.uid:
            return not wanted & ~(entry.permissions & mask)
        group = gid if entry.tag == acl.GROUP_OBJ else entry.id
        if entry.tag in (acl.GROUP_OBJ, acl.GROUP) and who.is_in(group):
            is_member = True
            if not wanted & ~entry.permissions:
                return not wanted & ~(entry.permissions & mask)
        if entry.tag == acl.OTHER:
            return not is_member and not wanted & ~entry.permissions
    return False
