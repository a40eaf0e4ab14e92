"""Importing: a new state directory from the parts of an export.

1. `importing` is there, and says that nothing else here counts. *Killed from here on*: there is no
   format file, and neither a mount nor a creation takes the directory; the next import begins anew.
2. The rows are written to `metadata.db.new`, without a journal, and without indexes at first.
3. It becomes `metadata.db`, durable, with the lease and both journals beside it.
4. The format file is written. *Killed from here on*: the state is whole.
5. `importing` goes.

Invariant: a directory with a format file has everything; what was in use before is never touched.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.errors import CorruptDataError, MetadataError, NoSpaceError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.files import open_regular, sync_directory
from memfs.metadata.columns import decode, pick
from memfs.metadata.foreign import Conflict
from memfs.metadata.records import Usage
from memfs.metadata.sqlite import foreign_schema
from memfs.metadata.sqlite.check import RECOUNT, SUM_OF_SIZES
from memfs.metadata.sqlite.creation import LEASE_NAME, create_journals
from memfs.metadata.sqlite.exporting import CONTENT_SHAPE, INODE_SHAPE, PERHAPS
from memfs.metadata.sqlite.field_schema import BUILDING, FIELDS, NAME_FIELD
from memfs.metadata.sqlite.format import (
    FOREIGN_NUMBER,
    FORMAT_NUMBER,
    IMPORT_NAME,
    read_format,
    write_format,
)
from memfs.metadata.sqlite.import_faults import require_whole
from memfs.metadata.sqlite.import_rows import TAKERS, alike, insert_rows
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from memfs.metadata.sqlite.lease import FIRST_ID, IdLease
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.metadata.sqlite.schema import (
    ADDITIONS,
    SCHEMA,
    TOTALS_END,
    Made,
    match_triggers,
    totals_of,
)
from memfs.metadata.sqlite.text_index import FOLDING, SLOT_COUNT, texts_of
from memfs.query.fields import ATTRIBUTE_PREFIX, is_queryable
from memfs.types import ROOT_INODE, InodeNo, StateId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from memfs.metadata.columns import Columns
    from memfs.metadata.foreign import Source

CACHE_KIB = 256 << 10
"""For tables without indexes and then for these: what does not fit is sorted on the disk."""

GAP_COUNT = 1 << 32
"""Numbers beyond those of the export: the former state may have given some out since, and its
objects are told by them from those of others. It may have given a million a second for an hour."""

ID_MAX = 1 << 47
"""No number comes near it (`browse` of snapshots has them in 48 bits)."""

_LEFT_ALONE = frozenset({"lock", "lost+found", "daemon.log", IMPORT_NAME})
_NEW_NAME = FILE_NAME + ".new"
_OURS = (
    *(_NEW_NAME, _NEW_NAME + "-journal", FILE_NAME, FILE_NAME + "-wal", FILE_NAME + "-shm"),
    *(LEASE_NAME, *JOURNAL_NAMES, "format.new"),
)
"""What an import that was cut short may have left."""

PATH_COUNT_MAX = 1000
"""Paths of files without bytes that an import tells."""

_DEPTH_MAX = 100_000
_TEMPORARY = (
    "create temp table missing (ino integer primary key, size integer)",
    "create temp table batch_size (key text primary key, size_bytes integer) without rowid",
)
_STORE_OF_KEY = "substr(key, 1, instr(key, ':') - 1)"
"""The name of the store in an address (`memfs.addresses`)."""
_STORES = f"""
    select {_STORE_OF_KEY}, count(*), group_concat(distinct nullif(key_id, '')) from form
    where kind = 'remote' and instr(key, ':') > 0 group by 1 order by 1
"""
# An inode that has lost its name, or its key, since the snapshot had both at its instant.
_SETTLE_OBJECTS = (
    "create index settling on foreign_object (source, key, ino)",
    f"""update foreign_object set current = 1,
            conflict = iif(conflict = '{Conflict.TAKEN.value}', conflict, '')
        where current = {PERHAPS} and not exists (
            select 1 from foreign_object as o where o.source = foreign_object.source
            and o.key = foreign_object.key and (
                o.current = 1 or o.current = {PERHAPS} and o.ino < foreign_object.ino))""",
    f"update foreign_object set current = 0 where current = {PERHAPS}",
    # Read at two instants, a key may have led to two inodes.
    """update foreign_object set current = 0 where current = 1 and exists (
           select 1 from foreign_object as o where o.source = foreign_object.source
           and o.key = foreign_object.key and o.current = 1 and o.ino < foreign_object.ino)""",
    """delete from foreign_gone where exists (
           select 1 from foreign_object as o where o.source = foreign_gone.source
           and o.key = foreign_gone.key and o.current = 1)""",
    "drop index settling",
    *(text for text in foreign_schema.TABLES if Made.by(text).kind == "index"),
)
# One of a later generation would hold for other bytes, once the file is changed as often here.
_SETTLE_PUBLISHED = """
    update published set generation = 0 where exists (
        select 1 from inode as i where i.ino = published.ino
        and i.generation < published.generation)
"""
_HAS_TEXT_SEARCH = "select 1 from pragma_module_list where name = 'fts5'"
_PUT_SOURCE = (
    f"insert into source ({foreign_schema.SOURCE_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?)"
)
_TOTALS = ", ".join(f"{name} = ?" for name in Usage._fields)


class StoreUse(NamedTuple):
    """What lies in a named store."""

    name: str
    form_count: int
    key_ids: tuple[str, ...]
    """Those of the keys that encrypt some of it."""


class Imported(NamedTuple):
    """What a new state directory holds."""

    usage: Usage
    missing_count: int
    """Files that have lost their bytes."""
    missing_bytes: int
    missing_paths: tuple[bytes, ...]
    """The first `PATH_COUNT_MAX` of them, from the root."""
    stores: tuple[StoreUse, ...] = ()
    """Named stores that have objects."""
    indexes: tuple[str, ...] = ()
    """Those that the first mount builds, in order."""


class _Waiting(NamedTuple):
    """Inodes that get their blobs with the next part."""

    columns: list[Sequence[Any]]
    """Those of `INODE_SHAPE`."""
    name: str
    now_ns: int


class StateBuilder:
    """Makes one state directory; `close` ends it, whether it is whole or not.

    Args:
        state_dir: Made if it is missing; locked by this process.
        reach: Told of each fault point.

    Raises:
        UsageError: It is not empty.
        NoSpaceError, MetadataError: The disk refuses.
    """

    def __init__(self, state_dir: Path, reach: Callable[[str], None] = lambda _point: None) -> None:
        self._state_dir = state_dir
        self._reach = reach
        self._connection: sqlite3.Connection | None = None
        self._waiting: _Waiting | None = None
        require_empty(state_dir)
        with _disk(state_dir):
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            marker = state_dir / IMPORT_NAME
            marker.touch(mode=0o600)
            _sync(marker)
            sync_directory(state_dir)
        reach("import.begun")

    def begin(self) -> None:
        """Begin with no rows; forgets those of an attempt before."""
        self.close()
        self._waiting = None
        with _disk(self._state_dir):
            for name in _OURS:
                (self._state_dir / name).unlink(missing_ok=True)
            path = self._state_dir / _NEW_NAME
            path.touch(mode=0o600)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection = connection
            # Thrown away if this process ends early.
            for pragma in (
                "journal_mode = off",
                "synchronous = off",
                "locking_mode = exclusive",
                f"cache_size = -{CACHE_KIB}",
            ):
                connection.execute("pragma " + pragma).fetchone()
            connection.execute("begin")
            for text in SCHEMA + ADDITIONS:
                if Made.by(text).kind == "table":
                    connection.execute(text)
            for text in _TEMPORARY:
                connection.execute(text)

    def add(self, data: bytes, name: str, now_ns: int) -> None:
        """Take the rows of a part. Blocks; any thread may call it, one at a time.

        Args:
            data: Its bytes.
            name: The part, for messages.
            now_ns: When its files count as last used.

        Raises:
            CorruptDataError: They are no rows, or contradict those before.
        """
        tables = decode(data, name)
        with _disk(self._state_dir), _contradicting(name):
            if (inodes := tables.pop(INODE_SHAPE.name, None)) is not None:
                self._put_waiting()
                self._waiting = _Waiting(pick(inodes, list(INODE_SHAPE.kinds), name), name, now_ns)
            if (contents := tables.pop(CONTENT_SHAPE.name, None)) is not None:
                self._take_contents(contents, name)
            for table, columns in tables.items():
                if (take := TAKERS.get(table)) is not None:
                    take(self._need(), columns, name)

    def _take_contents(self, columns: Columns, name: str) -> None:
        """Give inodes their blobs: in most cases to those that wait, which the part before had."""
        inos, blobs = pick(columns, ["ino", "blob"], name)
        blob_of = dict(zip(inos, blobs, strict=True))
        if (waiting := self._waiting) is not None:
            self._put_waiting([*map(blob_of.get, waiting.columns[0], repeat(0))])
            for ino in blob_of.keys() & {*waiting.columns[0]}:
                del blob_of[ino]
        self._need().executemany(
            "update inode set blob = ? where ino = ?",
            ((blob, ino) for ino, blob in blob_of.items()),
        )

    def _put_waiting(self, blobs: Sequence[int] | None = None) -> None:
        """Put the inodes that wait into the table; without blobs, unless there are some."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        *attributes, pins, codecs = waiting.columns
        none = alike(0, pins)
        now_ns = alike(waiting.now_ns, pins)
        # Without raw file and packed form.
        columns = [*attributes, none, blobs or none, none, pins, codecs, now_ns, none]
        with _contradicting(waiting.name):
            insert_rows(self._need(), "insert into inode", columns)

    def has_xattrs(self, names: Sequence[bytes]) -> bool:
        """Return whether any inode that was added has an xattr of one of these names."""
        query = f"select 1 from xattr where name in ({', '.join('?' * len(names))}) limit 1"
        with _disk(self._state_dir):
            return self._need().execute(query, names).fetchone() is not None

    def inodes_with(self, name: bytes, limit: int) -> list[int]:
        """Return inodes that were added with an xattr of a name, in order, at most so many."""
        query = "select ino from xattr where name = ? order by ino limit ?"
        with _disk(self._state_dir):
            return [ino for (ino,) in self._need().execute(query, (name, limit)).fetchall()]

    def finish(
        self,
        state_id: StateId,
        next_id: int,
        settings: Mapping[str, bytes],
        sources: Sequence[Source] = (),
        indexes: Sequence[str] = (),
    ) -> Imported:
        """Make the state directory whole, durably.

        Args:
            state_id: Its identity: that of the state that was exported, whose objects are its own.
            next_id: No number of the export reaches it.
            settings: Values by name.
            sources: Those of adopted files.
            indexes: Fields and xattrs that are to have an index, as `Queries.add_index` takes them:
                the first mount builds it. What this version cannot build is left out.

        Raises:
            CorruptDataError: The parts do not make a tree.
        """
        connection = self._need()
        if not 0 < next_id < ID_MAX:
            raise CorruptDataError(f"the export says that {next_id} is the next number")
        known = [source.source for source in sources]
        if len({*known}) < len(known) or any(number >= next_id for number in known):
            raise CorruptDataError("the export has two sources of one number, or one of no number")
        with _disk(self._state_dir):
            self._put_waiting()
            for text in SCHEMA:
                if Made.by(text).kind == "index":
                    connection.execute(text)
            self._reach("import.indexed")
            with _contradicting("the export"):
                self._join(sources)
            found = connection.execute(RECOUNT).fetchone()
            missing = connection.execute(f"select count(*), {SUM_OF_SIZES} from missing").fetchone()
            paths = self._paths_of_missing(PATH_COUNT_MAX)
            connection.execute(f"insert into state values (0{', 0' * len(Usage._fields)})")
            connection.execute(f"update state set {_TOTALS}", found)
            connection.executemany("insert into setting values (?, ?)", settings.items())
            for text in SCHEMA:
                if Made.by(text).kind == "trigger":
                    connection.execute(text)
            begun = self._begin_indexes(indexes)
            number = FOREIGN_NUMBER if sources else FORMAT_NUMBER
            connection.execute(f"pragma user_version = {number}")
            stores = tuple(
                StoreUse(name, count, tuple(sorted(key_ids.split(","))) if key_ids else ())
                for name, count, key_ids in connection.execute(_STORES).fetchall()
            )
            connection.execute("commit")
            self.close()
            self._put_in_place(state_id, next_id)
        lost_bytes = missing[1] % TOTALS_END
        usage = Usage._make(totals_of(found))
        return Imported(usage, missing[0], lost_bytes, tuple(paths), stores, begun)

    def _begin_indexes(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Have indexes built by the mount to come; returns those that it can build."""
        connection = self._need()
        fields = {field for field in wanted if field in FIELDS}
        names = [
            name
            for name in dict.fromkeys(wanted)
            if name.startswith(ATTRIBUTE_PREFIX) and is_queryable(name.encode())
        ][:SLOT_COUNT]
        if connection.execute(_HAS_TEXT_SEARCH).fetchone() is None:
            fields.discard(NAME_FIELD)
            names.clear()
        connection.executemany(
            "insert into field_index values (?, 0, ?)", ((field, BUILDING) for field in fields)
        )
        for slot, name in enumerate(names):
            connection.execute(texts_of(slot).make)
            connection.execute(
                "insert into attribute_name values (?, ?)", (slot + 1, name.encode())
            )
            connection.execute(
                "insert into text_index values (?, ?, 0, ?, ?)",
                (name.encode(), slot, BUILDING, FOLDING),
            )
        match_triggers(connection)
        return tuple(sorted((*fields, *names)))

    def _join(self, sources: Sequence[Source]) -> None:
        """Put contents and inodes together, and see that all rows belong to a tree."""
        connection = self._need()
        connection.executemany(
            _PUT_SOURCE,
            ((*source[:4], source.deleted.value, *source[5:]) for source in sources),
        )
        for text in (*_SETTLE_OBJECTS, _SETTLE_PUBLISHED):
            connection.execute(text)
        connection.execute(
            """insert into batch select size.key, size.size_bytes, count(*), sum(stored_bytes)
               from form join temp.batch_size as size on size.key = form.key
               where offset is not null group by size.key"""
        )
        require_whole(connection)

    def _paths_of_missing(self, limit: int) -> list[bytes]:
        """Return paths of files that have lost their bytes."""
        connection = self._need()
        rows = connection.execute("select ino from missing order by ino limit ?", (limit,))
        return [
            path for (ino,) in rows.fetchall() if (path := self._path(InodeNo(ino))) is not None
        ]

    def _path(self, ino: InodeNo) -> bytes | None:
        connection = self._need()
        names: list[bytes] = []
        while ino != ROOT_INODE:
            row = connection.execute(
                "select parent, name from dentry where ino = ? limit 1", (ino,)
            ).fetchone()
            if row is None or len(names) > _DEPTH_MAX:
                return None
            ino = row[0]
            names.append(row[1])
        return b"/" + b"/".join(reversed(names))

    def _put_in_place(self, state_id: StateId, next_id: int) -> None:
        state_dir = self._state_dir
        new = state_dir / _NEW_NAME
        _sync(new)
        self._reach("import.written")
        new.rename(state_dir / FILE_NAME)
        IdLease.format(state_dir / LEASE_NAME, max(next_id, FIRST_ID) + GAP_COUNT)
        create_journals(state_dir, state_id, 0)
        sync_directory(state_dir)
        self._reach("import.placed")
        write_format(state_dir, state_id)
        self._reach("import.formatted")
        (state_dir / IMPORT_NAME).unlink(missing_ok=True)
        sync_directory(state_dir)

    def close(self) -> None:
        """Release the database; idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def discard(self) -> None:
        """Remove what was written, since it came to nothing."""
        self.close()
        for name in (*_OURS, IMPORT_NAME):
            (self._state_dir / name).unlink(missing_ok=True)

    def _need(self) -> sqlite3.Connection:
        assert self._connection is not None, "begun"
        return self._connection


def require_empty(state_dir: Path) -> None:
    """See that an import may make a state directory of a directory.

    Raises:
        UsageError: It is one, or holds something else.
    """
    try:
        names = sorted(os.listdir(state_dir))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"{state_dir} cannot be the state directory: {error.strerror}", ExitCode.STATE_UNUSABLE
        ) from None
    if read_format(state_dir) is not None:
        raise UsageError(
            f"{state_dir} is a state directory already: name a new one with --state",
            ExitCode.STATE_UNUSABLE,
        )
    if IMPORT_NAME in names:
        names = [name for name in names if name not in _OURS]
    foreign = [name for name in names if name not in _LEFT_ALONE]
    if foreign:
        raise UsageError(
            f"{state_dir} is not empty, it holds {foreign[0]!r}: name a new one with --state",
            ExitCode.STATE_UNUSABLE,
        )


@contextlib.contextmanager
def _disk(state_dir: Path) -> Iterator[None]:
    """Explain what the disk refuses."""
    what = f"{state_dir} cannot be written"
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            raise NoSpaceError(f"{what}: the disk is full") from error
        raise MetadataError(f"{what}: {error}") from error
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}", ExitCode.STATE_UNUSABLE) from error


@contextlib.contextmanager
def _contradicting(name: str) -> Iterator[None]:
    """Name the part whose rows cannot be taken."""
    try:
        yield
    except (sqlite3.IntegrityError, OverflowError) as error:
        raise CorruptDataError(f"{name}: contradicts other parts: {error}") from None
    except UnicodeEncodeError:
        raise CorruptDataError(f"{name}: has a text that is not Unicode") from None


def _sync(path: Path) -> None:
    fd = open_regular(path, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
