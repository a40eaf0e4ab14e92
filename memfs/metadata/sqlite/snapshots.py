"""Snapshots: the engine methods that keep an instant, read it, compare it and let it go.

Invariant: what is read as of a snapshot is the undo row with the least number that is not lower, or
the live row where no such row is; `schema` tells who writes them. Nothing here writes a live row.
"""

from __future__ import annotations

import heapq
import json
from itertools import islice
from typing import TYPE_CHECKING

from memfs.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NameTooLongError,
    NotADirectoryInodeError,
    NotFoundError,
    StaleInodeError,
)
from memfs.metadata.records import (
    Difference,
    DifferencePage,
    DirectoryEntry,
    Inode,
    InodeFlags,
    Snapshot,
    SnapshotUsage,
)
from memfs.metadata.sqlite.queries import Queries
from memfs.metadata.sqlite.rows import SELECT_KEPT, is_directory, kept_of
from memfs.metadata.sqlite.schema import WAS_COLUMNS
from memfs.metadata.sqlite.statements import (
    DELETE_INTENT,
    DELETE_KEPT,
    DELETE_SNAPSHOT,
    DELETE_TARGETS,
    DELETE_UNSHOWN_OBJECTS,
    FORGET_HEAD,
    INSERT_HEAD,
    INSERT_KEPT,
    INSERT_SNAPSHOT,
    LEAVE_SNAPSHOT,
    UNDO_TABLES,
    UNSEAL,
)
from memfs.metadata.sqlite.view import XATTRS_AT
from memfs.types import (
    BLOCK_BYTES,
    NAME_BYTES_MAX,
    NO_BLOB,
    NO_RAW,
    NOW,
    NOW_NAME,
    ROOT_INODE,
    Generation,
    InodeNo,
    SnapshotId,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.metadata.records import KeptContent, OpenContent
    from memfs.metadata.sqlite.statements import Row
    from memfs.types import IntentId

_SELECT_SNAPSHOTS = (
    "select snap, name, created_ns, description, labels, kept_until_ns from snapshot"
    " where state = 'live'"
)
_COUNT_KEPT = "select count(*), coalesce(sum(blocks), 0) from kept where raw <> 0"
# The newest first: a name that changed while one was leaving may have its inode with that one, and
# has it beside it when its own turn comes.
_A_LEAVING = "select max(snap) from snapshot where state = 'leaving' having count(*) > 0"
_LEAVING_INODES = "select ino from inode_was where snap = ? order by ino limit ?"

# Undo rows of a snapshot that is leaving are read like others: they stand for the older ones too.
_SELECT_WAS = (
    f"select {WAS_COLUMNS} from inode_was where ino = ? and snap >= ? order by snap limit 1"
)
_LIVE_NAME = """
    cookie < ?1 and not exists (
        select 1 from dentry_was as w where w.cookie = d.cookie and w.snap >= ?1)
"""
_FORMER_NAME = """
    snap >= ?1 and cookie < ?1 and not exists (
        select 1 from dentry_was as w
        where w.cookie = d.cookie and w.snap >= ?1 and w.snap < d.snap)
"""


def _names(where: str, tail: str) -> str:
    """Return a query for dentries as of the snapshot ?1, by cookie."""
    return (
        f"select cookie, parent, name, ino from dentry as d where {where} and {_LIVE_NAME}"
        f" union all"
        f" select cookie, parent, name, ino from dentry_was as d where {where} and {_FORMER_NAME}"
        f" order by cookie {tail}"
    )


_LOOKUP = _names("parent = ?2 and name = ?3", "limit 1")
_NAMES_OF = _names("ino = ?2", "")
_LIST_DIRECTORY = f"""
    select d.cookie, d.name, d.ino,
        exists (select 1 from inode_was as w where w.ino = d.ino and w.snap >= ?1),
        {", ".join("i." + name for name in Inode._fields)}
    from ({_names("parent = ?2 and cookie > ?3", "limit ?4")}) as d
    left join inode as i on i.ino = d.ino
    order by d.cookie
"""

_TARGET = """
    select target from symlink where ino = ?1
    union all select target from symlink_was where ino = ?1 limit 1
"""

# What may differ: inodes that changed, by snapshot, and those with numbers from in between.
_PERIODS = "select snap from snapshot where snap >= ? and snap < ?"
_CHANGED = "select ino from inode_was where snap = ? and ino > ? order by ino limit ?"
_BORN = "select ino from inode where ino > ? and ino < ? order by ino limit ?"
_BORN_AND_CHANGED = (
    "select distinct ino from inode_was where ino > ? and ino < ? order by ino limit ?"
)
_SIZE = WAS_COLUMNS.split(", ").index("size") - 1
_MTIME = WAS_COLUMNS.split(", ").index("mtime_ns") - 1
"""Among the attributes of an undo row behind its mode."""
_ALIKE = tuple(
    Inode._fields.index(name)
    for name in (
        *("nlink", "blocks", "atime_ns", "ctime_ns"),
        *("raw", "blob", "flags", "pin", "codec", "accessed_ns"),
    )
)
"""That of `Inode`: what changes without that the inode differs in a user's eyes."""
_DIRECTORY_ALIKE = (*_ALIKE, Inode._fields.index("size"), Inode._fields.index("mtime_ns"))


_Directories = dict[tuple[int, int], "tuple[bytes, list[int]] | None"]
"""Paths of directories, and those above them, by instant and inode."""


class Snapshots(Queries):
    """Instants of the namespace."""

    # --- making and removing ---------------------------------------------------------------------
    async def create_snapshot(
        self,
        name: str,
        now_ns: int,
        description: str = "",
        labels: Sequence[tuple[str, str]] = (),
        kept_until_ns: int | None = None,
    ) -> Snapshot:
        self._begin_change(grows=True)
        _check_name(name)
        if self._row(f"{_SELECT_SNAPSHOTS} and name = ?", (name,)) is not None:
            raise AlreadyExistsError(f"there is a snapshot {name!r} already: choose another name")
        snap = SnapshotId(self._take_id())
        ordered = tuple(sorted(labels))
        self._write(
            INSERT_SNAPSHOT,
            (snap, name, now_ns, description, json.dumps(dict(ordered)), kept_until_ns),
        )
        self._set_head(snap)
        return Snapshot(snap, name, now_ns, description, ordered, kept_until_ns)

    async def part_open(self, files: Sequence[OpenContent]) -> list[Inode]:
        self._begin_change()
        head = self._newest_snapshot()
        parted = []
        for ino, size, mtime_ns in files:
            inode = self._find_inode(ino)
            if inode is None or not inode.flags & InodeFlags.UNSEALED or not inode.nlink:
                continue
            if ino >= head:
                continue
            self._write(INSERT_KEPT, (ino, inode.generation, 0, 0, size, 0, mtime_ns, 1))
            after = inode._replace(generation=Generation(inode.generation + 1))
            self._save_inode(ino)
            self._write(UNSEAL, (after.generation, inode.raw, ino))
            self._cache.put(after)
            parted.append(inode)
        return parted

    async def keep_open(self, content: KeptContent, intent: IntentId) -> bool:
        self._begin_change()
        self._write(DELETE_INTENT, (intent,))
        key = content.ino, content.generation
        row = self._row(SELECT_KEPT, key)
        former = None if row is None else kept_of(row)
        if former is None or not former.open or former.raw or former.blob:
            self._discard_raw(content.raw)
            return False
        self._write(DELETE_KEPT, key)
        self._insert_kept(content)
        return True

    def _set_head(self, snap: int) -> None:
        """Have undo rows written for a snapshot from now on; 0: for no snapshot."""
        self._write(FORGET_HEAD, ())
        if snap:
            self._write(INSERT_HEAD, (snap,))
        self._cache.forget_snapshots()

    async def list_snapshots(self) -> list[Snapshot]:
        return [_snapshot(row) for row in self._rows(f"{_SELECT_SNAPSHOTS} order by snap")]

    async def get_snapshot(self, name: str) -> Snapshot:
        # Names have letters that can be printed. SQLite refuses to look for bytes that are no text.
        row = None
        if name.isprintable():
            row = self._row(f"{_SELECT_SNAPSHOTS} and name = ?", (name,))
        if row is None:
            raise NotFoundError(
                f"there is no snapshot {name!r}: `memfs snapshot list` shows those there are"
            )
        return _snapshot(row)

    async def delete_snapshot(self, snap: SnapshotId) -> None:
        self._begin_change()
        self._check_snapshot(snap)
        self._write(LEAVE_SNAPSHOT, (snap,))
        ((newest,),) = self._rows(
            "select coalesce(max(snap), 0) from snapshot where state = 'live'"
        )
        if newest != self._newest_snapshot():
            self._set_head(newest)

    async def delete_snapshot_step(self, limit: int) -> bool:
        self._begin_change()
        row = self._row(_A_LEAVING)
        if row is None:
            return False
        (snap,) = row
        ((older,),) = self._rows(
            "select coalesce(max(snap), 0) from snapshot where snap < ?", (snap,)
        )
        # Undo rows of names and xattrs have one of their inode beside them.
        if inos := [row[0] for row in self._rows(_LEAVING_INODES, (snap, limit))]:
            listed = json.dumps(inos)
            # No older snapshot shows a name that led to a younger inode. One that is leaving
            # as well may lack the row of its own that would keep such a name from it.
            handed = json.dumps([ino for ino in inos if ino < older])
            for table in UNDO_TABLES:
                if older:
                    self._write(table.hand_down, (snap, older, handed))
                self._write(table.delete, (snap, listed))
            self._write(DELETE_TARGETS, (listed,))
            if self._has_objects():
                self._write(DELETE_UNSHOWN_OBJECTS, (listed,))
            self._let_go_kept(inos)
            return True
        if self._row("select 1 from snapshot where snap <> ?", (snap,)) is None:
            # Copies that were made for a change that never came.
            rows = self._rows("select distinct ino from kept limit ?", (limit,))
            if rows:
                self._let_go_kept([ino for (ino,) in rows])
                return True
        self._write(DELETE_SNAPSHOT, (snap,))
        self._cache.forget_snapshots()
        return self._row(_A_LEAVING) is not None

    async def snapshot_usage(self) -> SnapshotUsage:
        ((count, newest_ns),) = self._rows(
            "select count(*), max(created_ns) from snapshot where state = 'live'"
        )
        ((leaving,),) = self._rows("select count(*) from snapshot where state = 'leaving'")
        kept = self._cache.kept_raw
        if kept is None:
            ((*kept,),) = self._rows(_COUNT_KEPT)
            self._cache.kept_raw = kept
        kept_count, kept_blocks = kept
        return SnapshotUsage(count, newest_ns, leaving, kept_count, kept_blocks * BLOCK_BYTES)

    def _check_snapshot(self, snap: SnapshotId) -> None:
        if snap != NOW and self._row(f"{_SELECT_SNAPSHOTS} and snap = ?", (snap,)) is None:
            raise NotFoundError(f"there is no snapshot of number {snap} any more")

    # --- reading ---------------------------------------------------------------------------------
    async def inode_at(self, snap: SnapshotId, ino: InodeNo) -> Inode:
        self._check_snapshot(snap)
        return self._inode_at(snap, ino)

    def _inode_at(self, snap: SnapshotId, ino: InodeNo) -> Inode:
        inode = self._find_at(snap, ino)
        if inode is None:
            raise StaleInodeError(f"inode {ino} did not exist when the snapshot was made")
        return inode

    def _find_at(self, snap: SnapshotId, ino: InodeNo) -> Inode | None:
        live = self._find_inode(ino)
        if snap == NOW:
            return live
        if ino >= snap:
            return None
        return self._former_inode(ino, self._row(_SELECT_WAS, (ino, snap)), live)

    def _former_inode(self, ino: InodeNo, was: Row | None, live: Inode | None) -> Inode | None:
        """Return an inode as of a snapshot by its undo row and its live row; None: neither."""
        if was is None:
            return None if live is None else Inode._make((*live[:16], 0, None, 0))
        (mode, *attributes), generation = was[:-1], Generation(was[-1])
        if not mode:
            return None
        raw, blob, flags, size = NO_RAW, NO_BLOB, 0, attributes[_SIZE]
        if live is not None and live.generation == generation:
            raw, blob, flags = live.raw, live.blob, live.flags
            if live.size != size:
                flags |= InodeFlags.UNSEALED
        row = self._row(SELECT_KEPT, (ino, generation))
        if row is not None:
            kept = kept_of(row)
            raw, blob = kept.raw, kept.blob
            flags = InodeFlags.UNSEALED if kept.open or kept.size != size else 0
            if kept.open:
                attributes[_SIZE], attributes[_MTIME] = kept.size, kept.mtime_ns
        return Inode._make((ino, mode, *attributes, generation, raw, blob, flags, 0, None, 0))

    async def lookup_at(self, snap: SnapshotId, parent: InodeNo, name: bytes) -> Inode:
        self._check_snapshot(snap)
        row = self._row(_LOOKUP, (snap, parent, name))
        if row is not None:
            return self._inode_at(snap, row[3])
        self._directory_at(snap, parent)
        raise NotFoundError(f"there was no {name!r} in directory {parent}")

    def _directory_at(self, snap: SnapshotId, ino: InodeNo) -> None:
        if not is_directory(self._inode_at(snap, ino)):
            raise NotADirectoryInodeError(f"inode {ino} is not a directory")

    async def list_directory_at(
        self, snap: SnapshotId, parent: InodeNo, after_cookie: int, limit: int
    ) -> list[DirectoryEntry]:
        self._check_snapshot(snap)
        self._directory_at(snap, parent)
        rows = self._rows(_LIST_DIRECTORY, (snap, parent, after_cookie, limit))
        entries = []
        for cookie, name, ino, changed, *columns in rows:
            live = None if columns[0] is None else Inode._make(columns)
            was = self._row(_SELECT_WAS, (ino, snap)) if changed else None
            inode = live if snap == NOW else self._former_inode(ino, was, live)
            if inode is not None:
                entries.append(DirectoryEntry(cookie, name, inode))
        return entries

    async def get_parent_at(self, snap: SnapshotId, ino: InodeNo) -> InodeNo:
        self._check_snapshot(snap)
        self._inode_at(snap, ino)
        row = self._row(f"{_NAMES_OF} limit 1", (snap, ino))
        return ROOT_INODE if row is None else InodeNo(row[1])

    async def read_link_at(self, snap: SnapshotId, ino: InodeNo) -> bytes:
        self._check_snapshot(snap)
        self._inode_at(snap, ino)
        row = self._row(_TARGET, (ino,))
        if row is None:
            raise InvalidValueError(f"inode {ino} is not a symlink")
        target: bytes = row[0]
        return target

    async def list_xattrs_at(self, snap: SnapshotId, ino: InodeNo) -> list[tuple[bytes, bytes]]:
        self._check_snapshot(snap)
        self._inode_at(snap, ino)
        return self._xattrs_at(snap, ino)

    def _xattrs_at(self, snap: SnapshotId, ino: InodeNo) -> list[tuple[bytes, bytes]]:
        rows = self._rows(XATTRS_AT, (ino, snap))
        return [(name, value) for name, value in rows]

    async def list_paths_at(self, snap: SnapshotId, ino: InodeNo) -> list[bytes]:
        self._check_snapshot(snap)
        return [path for path, _above in self._places_at(snap, ino)]

    def _places_at(
        self, snap: SnapshotId, ino: InodeNo, known: _Directories | None = None
    ) -> list[tuple[bytes, list[int]]]:
        """Return each path of an inode, and the directories on it from the parent up.

        Args:
            snap: The instant.
            ino: The inode.
            known: Directories that were looked up, for who asks for many inodes.
        """
        if ino == ROOT_INODE:
            return [(b"/", [])]
        known = {} if known is None else known
        places = []
        for _cookie, parent, name, _ino in self._rows(_NAMES_OF, (snap, ino)):
            place = self._directory_place(snap, parent, known)
            if place is not None:
                path, above = place
                places.append((b"%s/%s" % (path, name), [parent, *above]))
        return places

    def _directory_place(
        self, snap: SnapshotId, ino: int, known: _Directories
    ) -> tuple[bytes, list[int]] | None:
        """Return the path of a directory, empty for the root, and those above it.

        Returns:
            None: it was not in the tree.
        """
        known[snap, ROOT_INODE] = b"", []
        names: list[tuple[int, int, bytes]] = []
        while (snap, ino) not in known:
            row = self._row(f"{_NAMES_OF} limit 1", (snap, ino))
            if row is None:
                known[snap, ino] = None
                break
            names.append((ino, row[1], row[2]))
            ino = row[1]
        place = known[snap, ino]
        for below, parent, name in reversed(names):
            if place is not None:
                place = b"%s/%s" % (place[0], name), [parent, *place[1]]
            known[snap, below] = place
        return place

    # --- comparing -------------------------------------------------------------------------------
    async def diff(
        self,
        before: SnapshotId,
        after: SnapshotId,
        under: InodeNo,
        position: InodeNo,
        limit: int,
    ) -> DifferencePage:
        self._check_snapshot(before)
        self._check_snapshot(after)
        if after < before:
            raise InvalidValueError(
                f"the snapshot of number {after} is earlier than that of {before}: swap them"
            )
        inos = list(islice(self._changed(before, after, position, limit), limit))
        known: _Directories = {}
        differences = [
            difference
            for ino in inos
            if (difference := self._difference(before, after, under, ino, known)) is not None
        ]
        return DifferencePage(tuple(differences), inos[-1] if len(inos) == limit else None)

    def _changed(
        self, before: SnapshotId, after: SnapshotId, position: InodeNo, limit: int
    ) -> Iterator[InodeNo]:
        """Yield the inodes that may differ, in order; the first `limit` are all there are."""
        born = max(position, before - 1)
        periods = self._rows(_PERIODS, (before, after))
        lists = [self._rows(_CHANGED, (snap, position, limit)) for (snap,) in periods]
        # What was born in between may have changed, or gone, after it.
        lists += [self._rows(query, (born, after, limit)) for query in (_BORN, _BORN_AND_CHANGED)]
        last = 0
        for (ino,) in heapq.merge(*lists):
            if ino != last:
                last = ino
                yield InodeNo(ino)

    def _difference(
        self,
        before: SnapshotId,
        after: SnapshotId,
        under: InodeNo,
        ino: InodeNo,
        known: _Directories,
    ) -> Difference | None:
        was, places_were = self._in_tree_at(before, ino, known)
        now, places_are = self._in_tree_at(after, ino, known)
        if under != ROOT_INODE and not any(
            under in (ino, *above) for _path, above in (*places_were, *places_are)
        ):
            return None
        paths_were = tuple(path for path, _above in places_were)
        paths_are = tuple(path for path, _above in places_are)
        xattrs_differ = (
            was is not None
            and now is not None
            and self._xattrs_at(before, ino) != self._xattrs_at(after, ino)
        )
        if _looks(was) == _looks(now) and not xattrs_differ:
            names_were, names_are = self._names_at(before, ino), self._names_at(after, ino)
            if names_were == names_are:
                return None
        return Difference(ino, was, now, paths_were, paths_are, xattrs_differ)

    def _in_tree_at(
        self, snap: SnapshotId, ino: InodeNo, known: _Directories
    ) -> tuple[Inode | None, list[tuple[bytes, list[int]]]]:
        """Return an inode with its places, or None if it had no place in the tree."""
        inode = self._find_at(snap, ino)
        places = [] if inode is None else self._places_at(snap, ino, known)
        return (inode if places else None), places

    def _names_at(self, snap: SnapshotId, ino: InodeNo) -> set[tuple[int, bytes]]:
        rows = self._rows(_NAMES_OF, (snap, ino))
        return {(parent, name) for _cookie, parent, name, _ino in rows}


def _looks(inode: Inode | None) -> tuple[object, ...] | None:
    """Return an inode with all that a user looks for in a comparison."""
    if inode is None:
        return None
    attributes: list[object] = [*inode]
    for index in _DIRECTORY_ALIKE if is_directory(inode) else _ALIKE:
        attributes[index] = None
    return tuple(attributes)


def _snapshot(row: Row) -> Snapshot:
    snap, name, created_ns, description, labels, kept_until_ns = row
    pairs = tuple(json.loads(labels).items())
    return Snapshot(snap, name, created_ns, description, pairs, kept_until_ns)


def _check_name(name: str) -> None:
    if name == NOW_NAME:
        raise InvalidValueError(
            f"{name!r} cannot be the name of a snapshot: a comparison means the present by it"
        )
    if len(name.encode(errors="surrogateescape")) > NAME_BYTES_MAX:
        raise NameTooLongError(
            f"the name of a snapshot has {len(name)} letters; {NAME_BYTES_MAX} bytes are allowed"
        )
    if "/" in name or "\0" in name or name in ("", ".", "..") or not name.isprintable():
        raise InvalidValueError(
            f"{name!r} cannot be the name of a snapshot: it is the name of a directory, of "
            "letters that can be printed"
        )
