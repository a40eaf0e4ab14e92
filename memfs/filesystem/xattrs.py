"""Requests about extended attributes: the users' own, the ACLs, and those that control memfs.

Invariant: every `user.*` name outside `user.memfs.` is the user's own: stored and returned as is.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from memfs.errors import (
    InvalidValueError,
    NotSupportedError,
    NoXattrError,
    TooBigError,
)
from memfs.filesystem.content import ContentRequests
from memfs.filesystem.control import Control
from memfs.filesystem.control_names import XATTRS_XATTR
from memfs.filesystem.operations import CAPABILITY_XATTR
from memfs.namespace import acl
from memfs.namespace.xattrs import CONTROL_PREFIX, USER_PREFIX, is_users
from memfs.types import XATTR_VALUE_BYTES_MAX

if TYPE_CHECKING:
    from memfs.filesystem.operations import Caller
    from memfs.filesystem.shared import Parts
    from memfs.types import InodeNo

TRUSTED_PREFIX = b"trusted."
_PREFIXES = (USER_PREFIX, TRUSTED_PREFIX, b"security.")
_NAMESPACES = (*_PREFIXES, acl.ACCESS_XATTR, acl.DEFAULT_XATTR)


class XattrRequests(ContentRequests):
    """The requests that read and change extended attributes."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._control = Control(parts)

    def lacks_capability(self, ino: InodeNo) -> bool:
        """Return True if it is known that a file has no `security.capability`."""
        return ino in self._without_capability

    async def get_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> bytes:
        """GETXATTR."""
        if name.startswith(CONTROL_PREFIX):
            # It may seal the file, and commit that: what came before is to fail by itself. What is
            # on its way to another machine is no concern of who reads.
            if self.uncommitted:
                await self._commit_early()
            return await self._control.get(caller, ino, name)
        if name == CAPABILITY_XATTR:
            return await self._get_capability(ino)
        return await self._engine.get_xattr(ino, name)

    async def set_xattr(
        self, caller: Caller, ino: InodeNo, name: bytes, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """SETXATTR."""
        if name == XATTRS_XATTR:
            await self._set_several(ino, parse_xattrs(value))
            return
        if name.startswith(CONTROL_PREFIX):
            await self._control.set(caller, ino, name, value, flags)
            return
        if name in _PREFIXES:
            raise InvalidValueError(f"xattr {_printable(name)}: a name must follow the prefix")
        if not name.startswith(_NAMESPACES):
            raise NotSupportedError(f"xattr {_printable(name)}: no such namespace here")
        if len(value) > XATTR_VALUE_BYTES_MAX:
            raise TooBigError(f"xattr {_printable(name)}: {len(value)} bytes are over 64 KiB")
        if name == CAPABILITY_XATTR and not value:
            # The kernel asks no right for it (`vfs_setxattr` looks at the size first), so that
            # anybody could take away the capabilities of a program.
            raise InvalidValueError(f"xattr {_printable(name)}: an empty value is no capability")
        if name in (acl.ACCESS_XATTR, acl.DEFAULT_XATTR):
            await self._set_acl(ino, name, value, kill_sgid)
        else:
            async with self._open_table.gates.hold(ino), self._engine.change(deferred=True):
                await self._engine.set_xattr(ino, name, value, flags, await self._change_ns(ino))
                self._traffic.user_write_count += name.startswith(USER_PREFIX)
                if name == CAPABILITY_XATTR:
                    self._without_capability.pop(ino, None)

    async def _set_several(self, ino: InodeNo, xattrs: list[tuple[bytes, bytes | None]]) -> None:
        async with self._open_table.gates.hold(ino), self._engine.change(deferred=True):
            time_ns = await self._change_ns(ino)
            await self._engine.set_mode_and_xattrs(ino, None, xattrs, time_ns)
            self._traffic.user_write_count += len(xattrs)

    async def list_xattrs(self, caller: Caller, ino: InodeNo) -> list[bytes]:
        """LISTXATTR; what controls memfs is not listed.

        Programs that copy attributes would spread it, and take it from what they copy onto.
        `trusted.*` is there for root alone (xattr(7)), which the kernel checks for all but this.
        """
        hidden = CONTROL_PREFIX if caller.uid == 0 else (CONTROL_PREFIX, TRUSTED_PREFIX)
        names = await self._engine.list_xattrs(ino)
        return [name for name in names if not name.startswith(hidden)]

    async def remove_xattr(self, caller: Caller, ino: InodeNo, name: bytes) -> None:
        """REMOVEXATTR."""
        if name.startswith(CONTROL_PREFIX):
            await self._control.remove(caller, ino, name)
            return
        async with self._open_table.gates.hold(ino), self._engine.change(deferred=True):
            await self._engine.remove_xattr(ino, name, await self._change_ns(ino))
            self._traffic.user_write_count += name.startswith(USER_PREFIX)
            if name == acl.DEFAULT_XATTR:
                self._default_acls.pop(ino, None)

    async def _change_ns(self, ino: InodeNo) -> int:
        return self._next_ctime_ns(self._live(await self._engine.get_inode(ino)))

    async def _get_capability(self, ino: InodeNo) -> bytes:
        """Answer what the kernel asks before a write: has the file capabilities to lose?"""
        if ino in self._without_capability:
            raise NoXattrError("no file capabilities")
        # Else what is set meanwhile would be followed here by what was there before.
        async with self._open_table.gates.hold(ino):
            change_count = self.invalidations.count
            try:
                return await self._engine.get_xattr(ino, CAPABILITY_XATTR)
            except NoXattrError:
                if self.invalidations.count == change_count:
                    self._note_without_capability(ino)
                raise

    async def _set_acl(self, ino: InodeNo, name: bytes, value: bytes, kill_sgid: bool) -> None:
        if not self._features.acl:
            raise NotSupportedError("POSIX ACLs need the kernel driver")
        entries = acl.parse(value)
        async with self._open_table.gates.hold(ino), self._engine.change(deferred=True):
            await self._store_acl(ino, name, value, entries, kill_sgid)

    async def _store_acl(
        self,
        ino: InodeNo,
        name: bytes,
        value: bytes,
        entries: list[acl.AclEntry],
        kill_sgid: bool,
    ) -> None:
        inode = await self._engine.get_inode(ino)
        time_ns = self._next_ctime_ns(self._live(inode))
        if name == acl.DEFAULT_XATTR:
            if not stat.S_ISDIR(inode.mode):
                raise InvalidValueError("only a directory has a default ACL")
            stored = value if entries else None
            await self._engine.set_mode_and_xattrs(ino, None, [(name, stored)], time_ns)
            self._default_acls.pop(ino, None)
            return
        mode = inode.mode & 0o7777
        if entries:
            mode = mode & ~0o777 | acl.permission_bits(entries)
        if kill_sgid:
            mode &= ~stat.S_ISGID
        stored = value if acl.is_extended(entries) else None
        await self._engine.set_mode_and_xattrs(ino, mode, [(name, stored)], time_ns)


def parse_xattrs(value: bytes) -> list[tuple[bytes, bytes | None]]:
    """Return names and values of several xattrs; None removes one.

    Raises:
        InvalidValueError: It is no JSON object of texts by names that users may set.
    """
    try:
        wanted = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"xattrs: {error}") from None
    if not isinstance(wanted, dict):
        raise InvalidValueError("xattrs: no object of values by name")
    found: list[tuple[bytes, bytes | None]] = []
    for text, each in wanted.items():
        name = _bytes_of(text)
        require_users_name(name)
        if each is not None and not isinstance(each, str):
            raise InvalidValueError(f"xattrs: the value of {text!r} is no text")
        found.append((name, None if each is None else _bytes_of(each)))
    return found


def require_users_name(name: bytes) -> None:
    """Refuse names of xattrs but those of users.

    Raises:
        InvalidValueError: It is another one, or one that controls memfs.
    """
    if name == USER_PREFIX or not is_users(name):
        raise InvalidValueError(f"xattrs: {_printable(name)!r} is no name of a user's xattr")


def _bytes_of(text: str) -> bytes:
    """Return what a text stands for; bytes that are no UTF-8 are half surrogates, as in paths."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"xattrs: {error}") from None


def _printable(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
