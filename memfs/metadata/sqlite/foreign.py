"""Foreign: the engine methods for sources and the objects that files were made of.

Invariant: an inode has one row at most, and a key of a source one inode at most that listings
compare with it. The tables have the number of states with sources as long as there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.errors import AlreadyExistsError, InvalidValueError, NotFoundError
from memfs.metadata.foreign import (
    Conflict,
    ForeignDirectory,
    ForeignObject,
    Source,
    SourceCounts,
    WhenGone,
)
from memfs.metadata.records import Inode
from memfs.metadata.sqlite.foreign_schema import (
    DIRECTORY_COLUMNS,
    OBJECT_COLUMNS,
    SOURCE_COLUMNS,
)
from memfs.metadata.sqlite.held import Held
from memfs.metadata.sqlite.namespace import check_new_name
from memfs.metadata.sqlite.rows import INODE_COUNT, LOGICAL_BYTES, is_regular
from memfs.metadata.sqlite.schema import TOTALS_END
from memfs.metadata.sqlite.source_tallies import LISTED, UNLISTED, Tally
from memfs.metadata.sqlite.statements import (
    DELETE_GONE,
    DELETE_OBJECT,
    DELETE_SOURCE,
    FORGET_DIRECTORIES,
    FORGET_GONE,
    FORGET_OBJECTS,
    INSERT_DENTRY,
    INSERT_DIRECTORY,
    INSERT_INODE,
    INSERT_OBJECT,
    INSERT_UNBORN,
    MARK_FOREIGN,
    PUT_SOURCE,
    SET_LISTED,
    UNMARK_FOREIGN,
)
from memfs.types import BLOCK_BYTES, Generation, SourceId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.foreign import AdoptedFile
    from memfs.metadata.records import Form
    from memfs.metadata.sqlite.statements import Row, SqlValue
    from memfs.types import InodeNo

_SELECT_SOURCES = f"select {SOURCE_COLUMNS} from source order by source"
_SELECT_OBJECT = f"select {OBJECT_COLUMNS} from foreign_object where ino = ?"
# `current = 1` is the condition of the partial index; it must stand there literally.
_FIND_OBJECT = (
    f"select {OBJECT_COLUMNS} from foreign_object where source = ? and key = ? and current = 1"
)
_LIST_OBJECTS = (
    f"select {OBJECT_COLUMNS} from foreign_object where source = ? and key > ? and current = 1"
    " order by key limit ?"
)
_LIST_OBJECTS_UNTIL = (
    f"select {OBJECT_COLUMNS} from foreign_object where source = ? and key > ? and key <= ?"
    " and current = 1 order by key limit ?"
)
_IS_SHOWN = """
    select 1 from foreign_object as o where source = ? and (
        exists (select 1 from inode as i where i.ino = o.ino and i.nlink > 0)
        or exists (select 1 from inode_was as w where w.ino = o.ino))
    limit 1
"""
_IS_SHOWN_STANDING = """
    select 1 from foreign_object as o join inode_was as w
        on w.ino = o.ino and w.generation = o.generation where o.ino = ?
"""
# Rows from a key on, at most so many, and the last key among them.
_COUNT_OBJECTS = """
    select count(*), 0, max(key) from (
        select key from foreign_object where source = ? and key >= ? and current = 1
        order by key limit ?)
"""
_COUNT_DIRECTORIES = """
    select coalesce(sum(listed_ns <> 0), 0), coalesce(sum(listed_ns = 0), 0), max(prefix) from (
        select prefix, listed_ns from foreign_directory where source = ? and prefix >= ?
        order by prefix limit ?)
"""
_LIST_GONE = "select key from foreign_gone where source = ? and key > ? order by key limit ?"
_SELECT_DIRECTORY = f"select {DIRECTORY_COLUMNS} from foreign_directory where ino = ?"
_FIND_DIRECTORY = (
    f"select {DIRECTORY_COLUMNS} from foreign_directory where source = ? and prefix = ?"
)
_LIST_DIRECTORIES = (
    f"select {DIRECTORY_COLUMNS} from foreign_directory where source = ? and prefix > ?"
    " order by prefix limit ?"
)
_FIRST_GENERATION = Generation(1)
_CONFLICTS = {each.value: each for each in Conflict}
_KEYS_A_QUERY = 250
"""SQLite takes 32,766 parameters at most, and keeps the statement for a whole page of so many."""


def _source_of(row: Row) -> Source:
    source = Source._make(row)
    return source._replace(deleted=WhenGone(source.deleted))


def _source_row(source: Source) -> tuple[SqlValue, ...]:
    return (*source[:4], source.deleted.value, *source[5:])


def _object_of(row: Row) -> ForeignObject:
    *rest, ours, current, conflict = row
    return ForeignObject._make((*rest, ours == 1, current == 1, _CONFLICTS[conflict]))


def _row_of(foreign: ForeignObject) -> tuple[SqlValue, ...]:
    rest: tuple[SqlValue, ...] = foreign[:-3]
    return (*rest, int(foreign.ours), int(foreign.current), foreign.conflict.value)


class Foreign(Held):
    """Sources and foreign objects."""

    # --- sources ---------------------------------------------------------------------------------
    async def add_source(
        self, url: str, root: InodeNo, watch_s: int, deleted: WhenGone, options: str
    ) -> Source:
        self._begin_change(grows=True)
        self._directory(root)
        number = SourceId(self._take_id())
        source = Source(number, url, root, watch_s, deleted, 0, "", options)
        if self._row("select 1 from source limit 1") is None:
            self._write(MARK_FOREIGN, ())
        self._write(PUT_SOURCE, _source_row(source))
        return source

    async def list_sources(self) -> list[Source]:
        return [_source_of(row) for row in self._rows(_SELECT_SOURCES)]

    async def put_source(self, source: Source) -> None:
        self._begin_change(grows=True)
        if self._row("select 1 from source where source = ?", (source.source,)) is None:
            raise NotFoundError(f"there is no source of number {source.source} any more")
        self._write(PUT_SOURCE, _source_row(source))

    async def remove_source(self, source: SourceId) -> None:
        self._begin_change()
        if self._row(_IS_SHOWN, (source,)):
            raise InvalidValueError(f"source {source}: files or snapshots have objects of it still")
        self._write(FORGET_OBJECTS, (source,))
        self._cache.has_objects = None
        self._write(FORGET_GONE, (source,))
        self._write(FORGET_DIRECTORIES, (source,))
        self._cache.has_directories = None
        self._cache.tallies.forget(source)
        self._write(DELETE_SOURCE, (source,))
        if self._row("select 1 from source limit 1") is None:
            self._write(UNMARK_FOREIGN, ())

    # --- objects ---------------------------------------------------------------------------------
    async def adopt_files(self, files: Sequence[AdoptedFile]) -> list[bool]:
        self._begin_change(grows=True)
        for parent in {file.parent for file in files}:
            self._require_thawed(self._living_directory(parent))
        for file in files:
            check_new_name(file.name)
        known: set[tuple[int, bytes]] = set()
        for source in {file.foreign.source for file in files}:
            keys = [file.foreign.key for file in files if file.foreign.source == source]
            known |= {(source, key) for key in self._known_among(source, keys)}
        made = []
        for file in files:
            key = file.foreign.source, file.foreign.key
            was_made = key not in known and self._adopt(file)
            if was_made:
                known.add(key)
            made.append(was_made)
        touched = {
            file.parent: file.new.now_ns for file, was in zip(files, made, strict=True) if was
        }
        for parent, now_ns in touched.items():
            directory = self._directory(parent)
            self._set_links(directory, directory.nlink, now_ns, now_ns)
        return made

    def _known_among(self, source: SourceId, keys: Sequence[bytes]) -> list[bytes]:
        """Return which of some keys a file is current for."""
        found: list[bytes] = []
        for at in range(0, len(keys), _KEYS_A_QUERY):
            some = keys[at : at + _KEYS_A_QUERY]
            marks = ", ".join("?" * len(some))
            text = (
                f"select key from foreign_object where source = ? and key in ({marks})"
                " and current = 1"
            )
            found += [row[0] for row in self._rows(text, (source, *some))]
        return found

    def _adopt(self, file: AdoptedFile) -> bool:
        """Make a file of an object whose key is not known; False if its name is taken."""
        parent, name, new, foreign = file
        # As in `create`.
        newest = self._newest_snapshot()
        cookie = new.ino if new.ino > newest else self._take_id()
        if not self._database.write_unique(INSERT_DENTRY, (parent, cookie, name, new.ino)):
            return False
        # By position, as in `set_attributes`.
        bare, times = new.as_inode(1), (foreign.mtime_ns, foreign.mtime_ns)
        inode = Inode._make(
            (*bare[:6], foreign.size, -(-foreign.size // BLOCK_BYTES), *times, *bare[10:])
        )
        self._write(INSERT_INODE, inode[:])
        if new.ino < newest:
            self._write(INSERT_UNBORN, (new.ino, newest))
        assert (foreign.ino, foreign.generation) == (new.ino, _FIRST_GENERATION), foreign
        self._insert_object(foreign)
        for xattr, value in new.xattrs:
            self._put_xattr(new.ino, xattr, value)
        self._totals[INODE_COUNT] += 1
        self._totals[LOGICAL_BYTES] = (self._totals[LOGICAL_BYTES] + foreign.size) % TOTALS_END
        self._cache.put(inode)
        return True

    def _insert_object(self, foreign: ForeignObject) -> None:
        self._write(INSERT_OBJECT, _row_of(foreign))
        self._cache.has_objects = True
        if foreign.current:
            self._cache.tallies.note_object(foreign.source, foreign.key, 1)

    def _delete_object(self, row: Row) -> None:
        foreign = _object_of(row)
        self._write(DELETE_OBJECT, (foreign.ino,))
        if foreign.current:
            self._cache.tallies.note_object(foreign.source, foreign.key, -1)

    def _check_only(self, foreign: ForeignObject) -> None:
        """See that no other file is current for the key of an object that is to be."""
        row = self._row(_FIND_OBJECT, (foreign.source, foreign.key)) if foreign.current else None
        if row is not None and _object_of(row).ino != foreign.ino:
            raise AlreadyExistsError(f"{foreign.name!r} is adopted as another file already")

    async def attach_object(self, foreign: ForeignObject) -> bool:
        self._begin_change(grows=True)
        inode = self._find_inode(foreign.ino)
        if inode is None or not is_regular(inode):
            return False
        if foreign.generation and self._find_sealed(foreign.ino, foreign.generation) is None:
            return False
        self._check_only(foreign)
        if (row := self._row(_SELECT_OBJECT, (foreign.ino,))) is not None:
            self._delete_object(row)
        self._insert_object(foreign)
        return True

    async def get_object(self, ino: InodeNo) -> ForeignObject | None:
        row = self._row(_SELECT_OBJECT, (ino,)) if self._has_objects() else None
        return None if row is None else _object_of(row)

    async def find_object(self, source: SourceId, key: bytes) -> ForeignObject | None:
        row = self._row(_FIND_OBJECT, (source, key))
        return None if row is None else _object_of(row)

    async def list_objects(
        self, source: SourceId, after: bytes, limit: int, until: bytes | None = None
    ) -> list[ForeignObject]:
        if until is None:
            rows = self._rows(_LIST_OBJECTS, (source, after, limit))
        else:
            rows = self._rows(_LIST_OBJECTS_UNTIL, (source, after, until, limit))
        return [_object_of(row) for row in rows]

    async def put_object(self, foreign: ForeignObject) -> bool:
        self._begin_change(grows=True)
        row = self._row(_SELECT_OBJECT, (foreign.ino,))
        if row is None or _object_of(row).etag != foreign.etag:
            return False
        self._check_only(foreign)
        self._delete_object(row)
        self._insert_object(foreign)
        return True

    async def note_object_digest(self, foreign: ForeignObject, digest: bytes) -> None:
        if foreign.digest != digest:
            await self.put_object(foreign._replace(digest=digest))

    async def can_detach(self, ino: InodeNo) -> bool:
        inode = self._find_inode(ino)
        if inode is not None and self._stands(inode):
            return False
        return self._row(_IS_SHOWN_STANDING, (ino,)) is None

    async def detach_object(self, ino: InodeNo) -> bool:
        self._begin_change()
        if not await self.can_detach(ino):
            return False
        if (row := self._row(_SELECT_OBJECT, (ino,))) is not None:
            self._delete_object(row)
        return True

    async def list_all_forms(self, inode: Inode) -> list[Form]:
        forms = await self.list_forms(inode.blob) if inode.blob else []
        if self._has_objects():
            row = self._row(_SELECT_OBJECT, (inode.ino,))
            if row is not None:
                foreign = _object_of(row)
                if foreign.generation == inode.generation:
                    forms.append(foreign.as_form(inode.blob))
        return forms

    # --- directories that are listed when somebody looks into them -------------------------------
    async def add_directory(self, directory: ForeignDirectory) -> bool:
        self._begin_change(grows=True)
        self._living_directory(directory.ino)
        if self._row(_SELECT_DIRECTORY, (directory.ino,)) is not None:
            return False
        if self._row(_FIND_DIRECTORY, (directory.source, directory.prefix)) is not None:
            return False
        self._write(INSERT_DIRECTORY, directory[:])
        self._cache.has_directories = True
        self._note_directory(directory, 1)
        return True

    async def get_directory(self, ino: InodeNo) -> ForeignDirectory | None:
        row = self._row(_SELECT_DIRECTORY, (ino,)) if self._has_directories() else None
        return None if row is None else ForeignDirectory._make(row)

    async def find_directory(self, source: SourceId, prefix: bytes) -> ForeignDirectory | None:
        row = self._row(_FIND_DIRECTORY, (source, prefix)) if self._has_directories() else None
        return None if row is None else ForeignDirectory._make(row)

    async def list_directories(
        self, source: SourceId, after: bytes, limit: int
    ) -> list[ForeignDirectory]:
        rows = self._rows(_LIST_DIRECTORIES, (source, after, limit))
        return [ForeignDirectory._make(row) for row in rows]

    async def set_listed(self, ino: InodeNo, listed_ns: int) -> None:
        self._begin_change()
        row = self._row(_SELECT_DIRECTORY, (ino,))
        if row is None:
            return
        self._write(SET_LISTED, (listed_ns, ino))
        directory = ForeignDirectory._make(row)
        self._note_directory(directory, -1)
        self._note_directory(directory._replace(listed_ns=listed_ns), 1)

    def _note_directory(self, directory: ForeignDirectory, change: int) -> None:
        place = LISTED if directory.listed_ns else UNLISTED
        self._cache.tallies.note_directory(directory.source, directory.prefix, place, change)

    async def forget_directories(self, source: SourceId) -> None:
        self._begin_change()
        self._write(FORGET_DIRECTORIES, (source,))
        self._cache.has_directories = None
        self._cache.tallies.directories.pop(source, None)

    # --- how many there are ----------------------------------------------------------------------
    async def count_source(self, source: SourceId, limit: int) -> SourceCounts | None:
        tallies = self._cache.tallies
        objects = tallies.objects.setdefault(source, Tally())
        directories = tallies.directories.setdefault(source, Tally())
        for tally, text in ((objects, _COUNT_OBJECTS), (directories, _COUNT_DIRECTORIES)):
            if tally.begin is not None:
                ((first, second, last),) = self._rows(text, (source, tally.begin, limit))
                tally.advance(first, second, last, ends=first + second < limit)
            if tally.begin is not None:
                return None
        return SourceCounts(
            objects.counts[0], directories.counts[LISTED], directories.counts[UNLISTED]
        )

    # --- what was removed here -------------------------------------------------------------------
    async def list_gone(self, source: SourceId, after: bytes, limit: int) -> list[bytes]:
        return [row[0] for row in self._rows(_LIST_GONE, (source, after, limit))]

    async def clear_gone(self, source: SourceId, keys: Sequence[bytes]) -> None:
        self._begin_change()
        for key in keys:
            self._write(DELETE_GONE, (source, key))
