"""Names: the engine methods that read and change dentries.

Invariant: a directory's nlink is 2 plus its subdirectories, any other inode's its dentries.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from memfs.errors import (
    AlreadyExistsError,
    DirectoryNotEmptyError,
    InvalidValueError,
    IsADirectoryInodeError,
    NameTooLongError,
    NotADirectoryInodeError,
    NotFoundError,
    NotPermittedError,
)
from memfs.metadata.records import DirectoryEntry, Inode, NewInode, RenameResult
from memfs.metadata.sqlite.frozen import Frozen
from memfs.metadata.sqlite.rows import INODE_COUNT, RAW_COUNT, is_directory
from memfs.metadata.sqlite.statements import (
    DELETE_DENTRY,
    DELETE_INODE,
    DELETE_UNSHOWN_OBJECTS,
    INSERT_DENTRY,
    INSERT_INODE,
    INSERT_SYMLINK,
    INSERT_UNBORN,
    MOVE_DENTRY,
    POINT_DENTRY,
)
from memfs.namespace.xattrs import check_room, users_bytes
from memfs.types import NAME_BYTES_MAX, NO_INODE, ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.sqlite.statements import SqlValue

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4  # linux/fs.h, rename(2)

_SELECT_DENTRY = "select cookie, ino from dentry where parent = ? and name = ?"
FOUND_A_QUERY = 64
"""Names that one query looks up: 1.7 us of a processor for each, and 3.3 by queries of their own;
with 128 or 256 names it is the same (10,000 names in 100 directories)."""

_FOUND_SINGLY_MAX = 15
"""So few names are looked up one by one: a query has `FOUND_A_QUERY` in any case, and those that
are missing cost it a third."""

_SELECT_DENTRIES = f"""
    with wanted (number, parent, name) as (
        values {", ".join(f"({number}, ?, ?)" for number in range(FOUND_A_QUERY))}
    )
    select number, dentry.ino from wanted cross join dentry
    on dentry.parent = wanted.parent and dentry.name = wanted.name
"""
_LIST_DIRECTORY = (
    f"select dentry.cookie, dentry.name, {', '.join('inode.' + c for c in Inode._fields)}"
    " from dentry cross join inode on inode.ino = dentry.ino"
    " where parent = ? and cookie > ? order by cookie limit ?"
)


def check_new_name(name: bytes) -> None:
    """See that a name can be one."""
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLongError(f"name of {len(name)} bytes; {NAME_BYTES_MAX} are allowed")
    if b"/" in name or b"\0" in name or name in (b"", b".", b".."):
        raise InvalidValueError(f"{name!r} cannot be a name")


def _check_expected(parent: InodeNo, name: bytes, found: InodeNo, expected: InodeNo | None) -> None:
    if expected is not None and found != expected:
        raise NotFoundError(
            f"{name!r} in directory {parent} leads to inode {found} by now, not {expected}"
        )


def _later(inode: Inode, now_ns: int) -> int:
    """Return the ctime of a change now: never that of the change before, whatever the clock."""
    return max(now_ns, inode.ctime_ns + 1)


class Namespace(Frozen):
    """Reading and changing names."""

    # --- reading ---------------------------------------------------------------------------------
    async def get_inode(self, ino: InodeNo) -> Inode:
        inode = self._cache.get(ino)
        return inode if inode is not None else self._load_inode(ino)

    async def lookup(self, parent: InodeNo, name: bytes) -> Inode:
        inode = await self.find(parent, name)
        if inode is None:
            raise NotFoundError(f"no {name!r} in directory {parent}")
        return inode

    async def find(self, parent: InodeNo, name: bytes) -> Inode | None:
        row = self._row(_SELECT_DENTRY, (parent, name))
        if row is not None:
            return self._inode(row[1])
        self._directory(parent)
        if len(name) > NAME_BYTES_MAX:
            raise NameTooLongError(f"name of {len(name)} bytes; {NAME_BYTES_MAX} are allowed")
        return None

    async def find_all(self, names: Sequence[tuple[InodeNo, bytes]]) -> list[Inode | None]:
        found: list[Inode | None] = [None] * len(names)
        for begin in range(0, len(names), FOUND_A_QUERY):
            part = names[begin : begin + FOUND_A_QUERY]
            if len(part) <= _FOUND_SINGLY_MAX:
                for number, name in enumerate(part, begin):
                    row = self._row(_SELECT_DENTRY, name)
                    found[number] = None if row is None else self._inode(row[1])
                continue
            wanted: list[SqlValue] = [value for name in part for value in name]
            wanted += (NO_INODE, b"") * (FOUND_A_QUERY - len(part))
            for number, ino in self._rows(_SELECT_DENTRIES, tuple(wanted)):
                found[begin + number] = self._inode(ino)
        return found

    async def list_directory(
        self, parent: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        self._directory(parent)
        rows = self._rows(_LIST_DIRECTORY, (parent, after_cookie, limit))
        return [DirectoryEntry(row[0], row[1], Inode._make(row[2:])) for row in rows]

    async def get_parent(self, ino: InodeNo) -> InodeNo:
        self._inode(ino)
        return self._parent(ino)

    async def get_dentry(self, ino: InodeNo) -> tuple[InodeNo, bytes] | None:
        self._inode(ino)
        row = self._row("select parent, name from dentry where ino = ? limit 1", (ino,))
        return None if row is None else (InodeNo(row[0]), row[1])

    async def get_path(self, ino: InodeNo) -> bytes:
        self._inode(ino)
        return self._path(ino)

    async def read_link(self, ino: InodeNo) -> bytes:
        row = self._row("select target from symlink where ino = ?", (ino,))
        if row is None:
            self._inode(ino)
            raise InvalidValueError(f"inode {ino} is not a symlink")
        target: bytes = row[0]
        return target

    # --- creating --------------------------------------------------------------------------------
    async def create(self, parent: InodeNo, name: bytes, new: NewInode) -> Inode:
        self._begin_change(grows=True)
        directory = self._living_directory(parent)
        self._require_thawed(directory)
        check_new_name(name)
        check_room(users_bytes(new.xattrs))
        makes_directory = new.mode & 0o170000 == stat.S_IFDIR
        # The cookie tells snapshots when the name was made. The inode's number, which was taken
        # earlier, is as good while there is no snapshot in between, and nothing to look up.
        cookie = new.ino if new.ino > self._newest_snapshot() else self._take_id()
        if not self._database.write_unique(INSERT_DENTRY, (parent, cookie, name, new.ino)):
            raise AlreadyExistsError(f"{name!r} exists in directory {parent}")
        inode = self._insert_inode(new, 2 if makes_directory else 1)
        nlink = directory.nlink + 1 if makes_directory else directory.nlink
        self._set_links(directory, nlink, new.now_ns, new.now_ns)
        return inode

    async def create_orphan(self, new: NewInode) -> Inode:
        self._begin_change(grows=True)
        check_room(users_bytes(new.xattrs))
        return self._insert_inode(new, 0)

    def _living_directory(self, ino: InodeNo) -> Inode:
        directory = self._directory(ino)
        if directory.nlink == 0:
            raise NotFoundError(f"directory {ino} was removed")
        return directory

    def _insert_inode(self, new: NewInode, nlink: int) -> Inode:
        ino = new.ino
        inode = new.as_inode(nlink)
        self._write(INSERT_INODE, inode[:])
        if ino < self._newest_snapshot():
            self._write(INSERT_UNBORN, (ino, self._newest_snapshot()))
        if new.mode & 0o170000 == stat.S_IFLNK:
            self._write(INSERT_SYMLINK, (ino, new.target))
        for name, value in new.xattrs:
            self._put_xattr(ino, name, value)
        if new.written is not None:
            self._account(inode, 1)
        else:
            # All of it that counts, in less time.
            self._totals[INODE_COUNT] += 1
            if new.raw:
                self._totals[RAW_COUNT] += 1
        self._cache.put(inode)
        return inode

    async def link(self, ino: InodeNo, parent: InodeNo, name: bytes, now_ns: int) -> Inode:
        self._begin_change(grows=True)
        inode = self._inode(ino)
        directory = self._living_directory(parent)
        check_new_name(name)
        if is_directory(inode):
            raise NotPermittedError(f"inode {ino} is a directory: it has one name only")
        self._require_thawed(inode, directory)
        cookie = self._take_id()
        if not self._database.write_unique(INSERT_DENTRY, (parent, cookie, name, ino)):
            raise AlreadyExistsError(f"{name!r} exists in directory {parent}")
        self._set_links(directory, directory.nlink, now_ns, now_ns)
        return self._set_links(inode, inode.nlink + 1, inode.mtime_ns, _later(inode, now_ns))

    # --- removing --------------------------------------------------------------------------------
    def _dentry(
        self, parent: InodeNo, name: bytes, expected: InodeNo | None = None
    ) -> tuple[int, Inode]:
        row = self._row(_SELECT_DENTRY, (parent, name))
        if row is None:
            raise NotFoundError(f"no {name!r} in directory {parent}")
        _check_expected(parent, name, row[1], expected)
        return row[0], self._inode(row[1])

    async def unlink(
        self, parent: InodeNo, name: bytes, now_ns: int, expected: InodeNo | None = None
    ) -> Inode:
        self._begin_change()
        directory = self._directory(parent)
        cookie, inode = self._dentry(parent, name, expected)
        if is_directory(inode):
            raise IsADirectoryInodeError(f"{name!r} in directory {parent} is a directory")
        self._require_thawed(directory, inode)
        self._remove_dentry(parent, cookie, name, inode.ino)
        self._set_links(directory, directory.nlink, now_ns, now_ns)
        after = self._set_links(inode, inode.nlink - 1, inode.mtime_ns, _later(inode, now_ns))
        self._note_gone(after)
        return after

    async def rmdir(
        self, parent: InodeNo, name: bytes, now_ns: int, expected: InodeNo | None = None
    ) -> Inode:
        self._begin_change()
        directory = self._directory(parent)
        cookie, inode = self._dentry(parent, name, expected)
        if not is_directory(inode):
            raise NotADirectoryInodeError(f"{name!r} in directory {parent} is not a directory")
        self._check_empty(inode)
        self._require_thawed(inode)
        self._remove_dentry(parent, cookie, name, inode.ino)
        self._set_links(directory, directory.nlink - 1, now_ns, now_ns)
        self._note_directory_gone(inode.ino)
        return self._set_links(inode, 0, inode.mtime_ns, now_ns)

    def _remove_dentry(self, parent: InodeNo, cookie: int, name: bytes, ino: InodeNo) -> None:
        self._save_dentry(parent, cookie, name, ino)
        self._write(DELETE_DENTRY, (parent, cookie))

    def _check_empty(self, directory: Inode) -> None:
        if self._row("select 1 from dentry where parent = ? limit 1", (directory.ino,)):
            raise DirectoryNotEmptyError(f"directory {directory.ino} is not empty")

    async def reap(self, inos: Sequence[InodeNo]) -> None:
        self._begin_change()
        for ino in inos:
            inode = self._find_inode(ino)
            if inode is None or inode.nlink > 0:
                continue
            needed = self._needed(inode)
            self._save_all(inode)
            self._delete_entries(ino)
            self._write(DELETE_INODE, (ino,))
            self._cache.forget(ino)
            self._account(inode, -1)
            if not self._let_go_unless_kept(inode, needed=needed):
                self._let_go_copy(inode)
            if self._has_objects():
                self._note_gone(inode)
                self._write(DELETE_UNSHOWN_OBJECTS, (json.dumps([ino]),))

    async def list_orphans(self, limit: int) -> list[InodeNo]:
        rows = self._rows("select ino from inode where nlink = 0 order by ino limit ?", (limit,))
        return [InodeNo(row[0]) for row in rows]

    # --- renaming --------------------------------------------------------------------------------
    async def rename(
        self,
        parent: InodeNo,
        name: bytes,
        new_parent: InodeNo,
        new_name: bytes,
        flags: int,
        now_ns: int,
        whiteout: NewInode | None = None,
        expected: InodeNo | None = None,
        expected_target: InodeNo | None = None,
    ) -> RenameResult:
        self._begin_change(grows=whiteout is not None)
        if (flags & RENAME_WHITEOUT != 0) != (whiteout is not None):
            raise InvalidValueError(f"rename flags {flags:#x} ask for another inode than is given")
        kind = flags & ~RENAME_WHITEOUT
        if kind not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE) or (
            whiteout is not None and kind == RENAME_EXCHANGE
        ):
            raise InvalidValueError(f"rename flags {flags:#x} are not known")
        directories = self._directory(parent), self._living_directory(new_parent)
        check_new_name(new_name)
        cookie, moved = self._dentry(parent, name, expected)
        self._require_thawed(*directories, moved)
        self._require_way_free(moved)
        target = self._row(_SELECT_DENTRY, (new_parent, new_name))
        found = NO_INODE if target is None else target[1]
        _check_expected(new_parent, new_name, found, expected_target)
        if target is None:
            if kind == RENAME_EXCHANGE:
                raise NotFoundError(f"no {new_name!r} in directory {new_parent}")
            self._check_no_cycle(moved, new_parent)
            self._save_dentry(parent, cookie, name, moved.ino)
            self._write(MOVE_DENTRY, (new_parent, new_name, parent, cookie))
            self._leave_whiteout(parent, name, whiteout)
            self._cross(parent, new_parent, int(is_directory(moved)), now_ns)
            return RenameResult(self._set_ctime(moved, now_ns), None)
        if kind == RENAME_NOREPLACE:
            raise AlreadyExistsError(f"{new_name!r} exists in directory {new_parent}")
        target_cookie, replaced = target[0], self._inode(target[1])
        if replaced.ino == moved.ino:
            return RenameResult(moved, None)
        self._require_thawed(replaced)
        self._require_way_free(replaced)
        self._check_no_cycle(moved, new_parent)
        if kind == RENAME_EXCHANGE:
            self._check_no_cycle(replaced, parent)
            self._save_dentry(parent, cookie, name, moved.ino)
            self._save_dentry(new_parent, target_cookie, new_name, replaced.ino)
            self._write(POINT_DENTRY, (replaced.ino, parent, cookie))
            self._write(POINT_DENTRY, (moved.ino, new_parent, target_cookie))
            self._cross(parent, new_parent, is_directory(moved) - is_directory(replaced), now_ns)
            replaced = self._set_ctime(replaced, now_ns)
        else:
            self._check_replaceable(moved, replaced)
            self._remove_dentry(new_parent, target_cookie, new_name, replaced.ino)
            self._save_dentry(parent, cookie, name, moved.ino)
            self._write(MOVE_DENTRY, (new_parent, new_name, parent, cookie))
            self._leave_whiteout(parent, name, whiteout)
            self._cross(parent, new_parent, int(is_directory(moved)), now_ns)
            replaced = self._drop_link(replaced, new_parent, now_ns)
        return RenameResult(self._set_ctime(moved, now_ns), replaced)

    def _leave_whiteout(self, parent: InodeNo, name: bytes, whiteout: NewInode | None) -> None:
        """Put the inode that tells overlayfs of a removal where a dentry has left."""
        if whiteout is not None:
            self._write(INSERT_DENTRY, (parent, self._take_id(), name, whiteout.ino))
            self._insert_inode(whiteout, 1)

    def _set_ctime(self, inode: Inode, now_ns: int) -> Inode:
        return self._set_links(inode, inode.nlink, inode.mtime_ns, _later(inode, now_ns))

    def _check_no_cycle(self, moved: Inode, new_parent: InodeNo) -> None:
        if not is_directory(moved):
            return
        ino = new_parent
        while ino != ROOT_INODE:
            if ino == moved.ino:
                raise InvalidValueError(f"directory {moved.ino} cannot move below itself")
            ino = self._parent(ino)

    def _check_replaceable(self, moved: Inode, replaced: Inode) -> None:
        if is_directory(replaced):
            if not is_directory(moved):
                raise IsADirectoryInodeError(f"inode {replaced.ino} is a directory")
            self._check_empty(replaced)
        elif is_directory(moved):
            raise NotADirectoryInodeError(f"inode {replaced.ino} is not a directory")

    def _cross(self, parent: InodeNo, new_parent: InodeNo, gain: int, now_ns: int) -> None:
        """Update both parents after `gain` more directories went from one to the other."""
        if parent != new_parent:
            source = self._inode(parent)
            self._set_links(source, source.nlink - gain, now_ns, now_ns)
        else:
            gain = 0
        target = self._inode(new_parent)
        self._set_links(target, target.nlink + gain, now_ns, now_ns)

    def _drop_link(self, replaced: Inode, parent: InodeNo, now_ns: int) -> Inode:
        if not is_directory(replaced):
            nlink = replaced.nlink - 1
            after = self._set_links(replaced, nlink, replaced.mtime_ns, _later(replaced, now_ns))
            self._note_gone(after)
            return after
        directory = self._inode(parent)
        self._set_links(directory, directory.nlink - 1, now_ns, now_ns)
        self._note_directory_gone(replaced.ino)
        return self._set_links(replaced, 0, replaced.mtime_ns, now_ns)
