"""Attributes: the engine methods that change what stat and xattrs show, pins and codecs.

Invariant: an inode's own pin and codec are columns; what is in force is found by walking up.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memfs.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NameTooLongError,
    NoXattrError,
    TooBigError,
)
from memfs.metadata.records import AttributeChanges, EffectivePin, Inode
from memfs.metadata.sqlite.namespace import Namespace
from memfs.metadata.sqlite.rows import SELECT_XATTR, rules
from memfs.metadata.sqlite.statements import (
    SET_ATTRIBUTES,
    SET_CODEC,
    SET_PIN,
)
from memfs.namespace.xattrs import (
    CONTROL_PREFIX,
    USER_PREFIX,
    XATTRS_BYTES_MAX,
    check_room,
    is_users,
    users_bytes,
)
from memfs.types import (
    NAME_BYTES_MAX,
    ROOT_INODE,
    XATTR_VALUE_BYTES_MAX,
    InodeNo,
    Tier,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

XATTR_CREATE, XATTR_REPLACE = 1, 2  # setxattr(2)

_USERS_BYTES = """
    select ifnull(sum(length(name) + length(value)), 0) from xattr
    where ino = ?1 and name >= ?2 and name < ?3 and not (name >= ?4 and name < ?5)
"""
"""Bytes of names and values of users' xattrs; the same as `users_bytes`."""
_USERS_RANGES = tuple(
    bound
    for prefix in (USER_PREFIX, CONTROL_PREFIX)
    for bound in (prefix, prefix[:-1] + bytes([prefix[-1] + 1]))
)
_SELECT_XATTRS = """
    select x.ino, x.value from json_each(?) as asked cross join xattr as x
    on x.ino = asked.value and x.name = ?
"""
_XATTR_BYTES = "select length(name) + length(value) from xattr where ino = ? and name = ?"


def _check_xattr(name: bytes, value: bytes) -> None:
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLongError(f"xattr name of {len(name)} bytes; {NAME_BYTES_MAX} are allowed")
    if not name or b"\0" in name:
        raise InvalidValueError(f"{name!r} cannot be the name of an xattr")
    if len(value) > XATTR_VALUE_BYTES_MAX:
        raise TooBigError(f"xattr of {len(value)} bytes; {XATTR_VALUE_BYTES_MAX} are allowed")


_NO_CHANGES = AttributeChanges()


class Attributes(Namespace):
    """Changing inodes that stay where they are."""

    async def set_attributes(self, ino: InodeNo, changes: AttributeChanges) -> Inode:
        self._begin_change()
        inode = self._inode(ino)
        if self._frozen_trees() and changes._replace(atime_ns=None) != _NO_CHANGES:
            self._require_thawed(inode)
        return self._change_attributes(inode, changes)

    def _change_attributes(self, inode: Inode, changes: AttributeChanges) -> Inode:
        mode, uid, gid, size, blocks, atime_ns, mtime_ns, ctime_ns = changes
        ino = inode.ino
        mode = inode.mode if mode is None else inode.mode & 0o170000 | mode & 0o7777
        uid = inode.uid if uid is None else uid
        gid = inode.gid if gid is None else gid
        rest = (
            inode.size if size is None else size,
            inode.blocks if blocks is None else blocks,
            inode.atime_ns if atime_ns is None else atime_ns,
            inode.mtime_ns if mtime_ns is None else mtime_ns,
            inode.ctime_ns if ctime_ns is None else ctime_ns,
        )
        self._save_inode(ino)
        self._write(SET_ATTRIBUTES, (mode, uid, gid, *rest, ino))
        # By position: half of the time that it takes by name.
        after = Inode._make((ino, mode, uid, gid, inode.nlink, inode.rdev, *rest, *inode[11:]))
        return self._replace(inode, after)

    # --- xattrs ----------------------------------------------------------------------------------
    async def get_xattr(self, ino: InodeNo, name: bytes) -> bytes:
        row = self._row(SELECT_XATTR, (ino, name))
        if row is None:
            self._inode(ino)
            raise NoXattrError(f"inode {ino} has no xattr {name!r}")
        value: bytes = row[0]
        return value

    async def get_xattrs(self, inos: Sequence[InodeNo], name: bytes) -> dict[InodeNo, bytes]:
        return dict(self._rows(_SELECT_XATTRS, (json.dumps(inos), name)))

    async def list_xattrs(self, ino: InodeNo) -> list[bytes]:
        self._inode(ino)
        rows = self._rows("select name from xattr where ino = ? order by name", (ino,))
        return [row[0] for row in rows]

    async def set_xattr(
        self, ino: InodeNo, name: bytes, value: bytes, flags: int, now_ns: int
    ) -> None:
        self._begin_change(grows=True)
        inode = self._inode(ino)
        _check_xattr(name, value)
        if flags not in (0, XATTR_CREATE, XATTR_REPLACE):
            raise InvalidValueError(f"setxattr flags {flags:#x} are not known")
        if flags:
            exists = self._row(SELECT_XATTR, (ino, name)) is not None
            if exists and flags == XATTR_CREATE:
                raise AlreadyExistsError(f"inode {ino} has an xattr {name!r}")
            if not exists and flags == XATTR_REPLACE:
                raise NoXattrError(f"inode {ino} has no xattr {name!r}")
        self._require_settable(inode, name)
        self._check_room(ino, [(name, value)])
        self._put_xattr(ino, name, value)
        self._set_links(inode, inode.nlink, inode.mtime_ns, now_ns)

    async def remove_xattr(self, ino: InodeNo, name: bytes, now_ns: int) -> None:
        self._begin_change()
        inode = self._inode(ino)
        if self._row(SELECT_XATTR, (ino, name)) is None:
            raise NoXattrError(f"inode {ino} has no xattr {name!r}")
        self._require_settable(inode, name)
        self._delete_xattr(ino, name)
        self._set_links(inode, inode.nlink, inode.mtime_ns, now_ns)

    async def set_mode_and_xattrs(
        self,
        ino: InodeNo,
        mode: int | None,
        xattrs: Sequence[tuple[bytes, bytes | None]],
        now_ns: int,
    ) -> Inode:
        self._begin_change(grows=any(value is not None for _name, value in xattrs))
        inode = self._inode(ino)
        for name, value in xattrs:
            _check_xattr(name, value or b"")
            self._require_settable(inode, name)
        if mode is not None:
            self._require_thawed(inode)
        self._check_room(ino, xattrs)
        for name, value in xattrs:
            if value is None:
                self._delete_xattr(ino, name)
            else:
                self._put_xattr(ino, name, value)
        return self._change_attributes(inode, AttributeChanges(mode=mode, ctime_ns=now_ns))

    def _require_settable(self, inode: Inode, name: bytes) -> None:
        """See that an xattr may change: what steers memfs may in a frozen tree, too."""
        if not name.startswith(CONTROL_PREFIX):
            self._require_thawed(inode)

    def _check_room(self, ino: InodeNo, xattrs: Sequence[tuple[bytes, bytes | None]]) -> None:
        """See that an inode has room for xattrs that it is to get.

        One that has more than there is room for, from a version without a bound, may have less.

        Args:
            ino: The inode.
            xattrs: Names and values; None: it is removed. The last one of a name counts.
        """
        changes = {name: value for name, value in xattrs if is_users(name)}
        new_bytes = users_bytes(
            (name, value) for name, value in changes.items() if value is not None
        )
        if not new_bytes:
            return
        row = self._row(_USERS_BYTES, (ino, *_USERS_RANGES))
        used_bytes: int = row[0] if row is not None else 0
        if used_bytes + new_bytes <= XATTRS_BYTES_MAX:
            # Whatever goes for them.
            return
        rows = (self._row(_XATTR_BYTES, (ino, name)) for name in changes)
        former_bytes: int = sum(row[0] for row in rows if row is not None)
        if new_bytes > former_bytes:
            check_room(used_bytes - former_bytes + new_bytes)

    async def effective_xattr(self, ino: InodeNo, name: bytes) -> bytes | None:
        inode = above = self._inode(ino)
        while True:
            row = self._row(SELECT_XATTR, (above.ino, name)) if rules(above, inode) else None
            if row is not None or above.ino == ROOT_INODE:
                return row[0] if row is not None else None
            above = self._inode(self._parent(above.ino))

    # --- pins and codecs -------------------------------------------------------------------------
    async def set_pin(self, ino: InodeNo, tier: Tier | None) -> None:
        self._begin_change()
        inode = self._inode(ino)
        pin = int(tier or 0)
        self._write(SET_PIN, (pin, ino))
        self._cache.put(inode._replace(pin=pin))

    async def effective_pin(self, ino: InodeNo) -> EffectivePin:
        inode = above = self._inode(ino)
        while not (above.pin and rules(above, inode)):
            if above.ino == ROOT_INODE:
                return EffectivePin(None, ino)
            above = self._inode(self._parent(above.ino))
        return EffectivePin(Tier(above.pin), above.ino)

    async def set_codec(self, ino: InodeNo, codec: str | None) -> None:
        self._begin_change()
        inode = self._inode(ino)
        self._write(SET_CODEC, (codec, ino))
        self._cache.put(inode._replace(codec=codec))

    async def effective_codec(self, ino: InodeNo) -> str | None:
        inode = above = self._inode(ino)
        while above.codec is None or not rules(above, inode):
            if above.ino == ROOT_INODE:
                return None
            above = self._inode(self._parent(above.ino))
        return above.codec
