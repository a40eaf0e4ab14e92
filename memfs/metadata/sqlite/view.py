"""Views: names, attributes and permissions as one scope shows them, on any connection.

Invariant: nothing is written; what a view remembers is true for one transaction, and no longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.records import EVERYTHING, XATTR_BYTES_DESCRIBED_MAX, FoundInode
from memfs.namespace.acl import ACCESS_XATTR
from memfs.namespace.permissions import READ, SEARCH, permits
from memfs.types import NOW, ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.metadata.records import Scope
    from memfs.metadata.sqlite.statements import Parameters, Row

    Fetch = Callable[[str, Parameters], list[Row]]

_READABLE_MAX = 1000
"""Most files have one of a few modes and owners."""

_COLUMNS = "mode, uid, gid, size, mtime_ns"
_INODE = f"select {_COLUMNS} from inode where ino = ?"
_INODE_AT = f"""
    select {_COLUMNS} from inode_was as w where ino = ?1 and mode <> 0 and snap = (
        select min(snap) from inode_was as v where v.ino = w.ino and v.snap >= ?2)
    union all
    select {_COLUMNS} from inode as i where ino = ?1 and ino < ?2 and not exists (
        select 1 from inode_was as w where w.ino = i.ino and w.snap >= ?2)
"""
_NAMES = "select parent, name from dentry where ino = ? order by cookie"
_NAMES_AT = """
    select parent, name, cookie from dentry as d where ino = ?1 and cookie < ?2 and not exists (
        select 1 from dentry_was as w where w.cookie = d.cookie and w.snap >= ?2)
    union all
    select parent, name, cookie from dentry_was as d
    where ino = ?1 and snap >= ?2 and cookie < ?2 and not exists (
        select 1 from dentry_was as w
        where w.cookie = d.cookie and w.snap >= ?2 and w.snap < d.snap)
    order by cookie
"""
_XATTR = "select value from xattr where ino = ? and name = ?"
_XATTR_AT = """
    select value from (
        select value from xattr_was where ino = ?1 and name = ?3 and snap >= ?2
        order by snap limit 1)
    union all
    select value from xattr where ino = ?1 and name = ?3 and not exists (
        select 1 from xattr_was where ino = ?1 and name = ?3 and snap >= ?2)
"""
_XATTRS = "select name, value from xattr where ino = ? order by name"
XATTRS_AT = """
    select name, value from xattr_was as x where ino = ?1 and value is not null and snap = (
        select min(snap) from xattr_was as w
        where w.ino = x.ino and w.name = x.name and w.snap >= ?2)
    union all
    select name, value from xattr as x where ino = ?1 and not exists (
        select 1 from xattr_was as w
        where w.ino = x.ino and w.name = x.name and w.snap >= ?2)
    order by name
"""
"""Names and values of the xattrs of inode ?1 as of snapshot ?2."""
_XATTR_BYTES = f"select sum(length(name) + length(value)) from ({_XATTRS})"
_XATTR_BYTES_AT = f"select sum(length(name) + length(value)) from ({XATTRS_AT})"


class View:
    """Looks at inodes in one scope.

    Args:
        fetch: Runs a select.
        scope: Which instant, and for whom.
    """

    def __init__(self, fetch: Fetch, scope: Scope = EVERYTHING) -> None:
        self._fetch = fetch
        self._caller = scope.caller
        self._snap = scope.snap
        self._directories: dict[int, list[bytes]] = {}
        self._read: tuple[int, bool] = (0, False)
        """The last answer of `may_read`."""
        self._readable: dict[tuple[int, int, int, bytes | None], bool] = {}

    def paths(self, ino: int) -> list[bytes]:
        """Return the paths to an inode that the caller can go, without the first slash.

        An orphan has no path.
        """
        if ino == ROOT_INODE:
            return [b""]
        found = []
        for parent, name, *_ in self._fetch(*self._at(ino, _NAMES, _NAMES_AT)):
            found += [path + b"/" + name if path else name for path in self.open_paths(parent)]
        return found

    def names(self, ino: int) -> list[bytes]:
        """Return the names of an inode, the last parts of its paths."""
        if ino == ROOT_INODE:
            return [b""]
        found = self._fetch(*self._at(ino, _NAMES, _NAMES_AT))
        if self._caller is None and self._snap == NOW:
            return [name for _parent, name in found]
        return [name for parent, name, *_ in found if self.open_paths(parent)]

    def shows(self, directory: int) -> bool:
        """Tell whether the caller can see the names in a directory."""
        return self._caller is None or bool(self.open_paths(directory))

    def open_paths(self, ino: int) -> list[bytes]:
        """Return the paths of a directory that the caller can list and search."""
        found = self._directories.get(ino)
        if found is None:
            found = self._directories[ino] = self._find_open_paths(ino)
        return found

    def _find_open_paths(self, ino: int) -> list[bytes]:
        found = self.paths(ino)
        return found if found and self._permits(ino, READ | SEARCH) else []

    def may_read(self, ino: int) -> bool:
        """Tell whether the caller may read an inode that it can reach."""
        if self._caller is None:
            return True
        if self._read[0] != ino:
            self._read = (ino, self._permits(ino, READ))
        return self._read[1]

    def _permits(self, ino: int, wanted: int) -> bool:
        if self._caller is None:
            return True
        rows = self._fetch(*self._at(ino, _INODE, _INODE_AT))
        if not rows:
            return False
        mode, uid, gid, *_ = rows[0]
        access_acl = None
        if mode & 0o070 and uid != self._caller.uid:
            text, arguments = self._at(ino, _XATTR, _XATTR_AT)
            rows = self._fetch(text, (*arguments, ACCESS_XATTR))
            access_acl = rows[0][0] if rows else None
        return permits(self._caller, mode, uid, gid, access_acl, wanted)

    def permits_reading(self, mode: int, uid: int, gid: int, access_acl: bytes | None) -> bool:
        """Tell whether the caller may read an inode with these attributes."""
        if self._caller is None:
            return True
        asked = (mode, uid, gid, access_acl)
        known = self._readable.get(asked)
        if known is None:
            if len(self._readable) >= _READABLE_MAX:
                self._readable.clear()
            known = self._readable[asked] = permits(self._caller, *asked, READ)
        return known

    def xattrs(self, ino: int) -> list[tuple[bytes, bytes]]:
        """Return all xattrs of an inode, by name, for every caller."""
        rows = self._fetch(*self._at(ino, _XATTRS, XATTRS_AT))
        return [(name, value) for name, value in rows]

    def describe(self, inos: Sequence[InodeNo], *, with_xattrs: bool) -> list[FoundInode]:
        """Return what is there of inodes, as `Queries.describe_files`."""
        found = []
        for ino in inos:
            rows = self._fetch(*self._at(ino, _INODE, _INODE_AT))
            paths = self.paths(ino) if rows else []
            if not paths:
                continue
            *_, size, mtime_ns = rows[0]
            xattrs = None
            if with_xattrs and self.may_read(ino) and self._are_describable(ino):
                xattrs = tuple(self.xattrs(ino))
            found.append(FoundInode(ino, tuple(paths), size, mtime_ns, xattrs))
        return found

    def _are_describable(self, ino: int) -> bool:
        """Tell whether the xattrs are short enough; their values are not read for it."""
        [(byte_count,)] = self._fetch(*self._at(ino, _XATTR_BYTES, _XATTR_BYTES_AT))
        return (byte_count or 0) <= XATTR_BYTES_DESCRIBED_MAX

    def _at(self, ino: int, now: str, then: str) -> tuple[str, Parameters]:
        return (now, (ino,)) if self._snap == NOW else (then, (ino, self._snap))
