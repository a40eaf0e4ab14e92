"""The database: SQLite tables in one long transaction, and the journal that makes them last.

A commit for each change costs SQLite 44-58 us; the same statements inside a long transaction plus
one append to a redo journal cost 14-16 us (2 vCPU Xeon, kernel 6.18, ext4). So the tables
run ahead in an open transaction, and two journal files take turns to make it safe:

1. `write` runs a statement in the open transaction and keeps it with its parameters.
   *Killed here*: SQLite forgets the transaction, nobody was told of the change.
2. `commit_nowait` appends what was kept as one journal entry.
   *Killed from here on*: opening redoes all entries beyond `state.applied_sequence`.
   *Power lost*: a prefix of the entries is left, and that counts; see 3.
3. `sync` fsyncs the journal in use, and the retiring one of step 6 if there is one. Then it notes
   in the other file, and beside the page sums, how far that was, so that damage and older copies
   can be told from an end that was never synced.
   *Power lost from here on*: all entries up to here are on the disk, without a gap. The note may be
   lost: it claims less than there is, never more.
4. `maintain`, once the journal is long enough, stores `applied_sequence` and the totals, and
   COMMITs to SQLite's write-ahead log, which is in the page cache only.
   *Killed here*: the entries up to `applied_sequence` are skipped at opening.
   *Power lost*: the log may be lost or torn back to an older commit; the journal is still whole.
5. `maintain` begins the next transaction, and the other journal file is started. It is free: step 6
   of the former round ended before, else step 4 would not have begun.
6. A thread fsyncs the write-ahead log and the new journal, notes the name of that in the retiring
   one, and takes the sums of the log's pages (`pages`); only then may the latter be overwritten.
   *Power lost before*: both journals are redone, in order of sequence, from wherever the tables
   are. A journal that does not join the one before without a gap is later than all `sync` promised
   of that one, and so are all its entries: they are dropped.
7. The thread copies the log into the database file; SQLite orders its own fsyncs there.

Opening compares the pages with their sums before SQLite sees them, sees that the journals continue
the tables (`chain`), redoes the entries, commits, makes the tables durable, and only then starts
both journals afresh, one after the other, with new salts: an entry of an abandoned future can never
be taken for a new one. What a kill or a power cut cannot explain is damage: nothing is touched.
Tables of an older format are changed in the transaction that redoes the entries (`migration`).

Invariant: the tables hold exactly the committed entries plus what `write` kept since.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import marshal
import re
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from memfs.config import KIB, MIB
from memfs.errors import MetadataError, NoSpaceError, StateDamagedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.records import Usage
from memfs.metadata.sqlite import format2
from memfs.metadata.sqlite.chain import join
from memfs.metadata.sqlite.checkpointer import Checkpointer
from memfs.metadata.sqlite.element_index import empty_elements
from memfs.metadata.sqlite.field_schema import fold_name
from memfs.metadata.sqlite.format import (
    FOREIGN_NUMBER,
    FORMAT_NUMBER,
    OLDEST_FORMAT,
    write_format,
)
from memfs.metadata.sqlite.journal import Journal, Origin
from memfs.metadata.sqlite.lease import LEASE_COUNT
from memfs.metadata.sqlite.pages import PageSums
from memfs.metadata.sqlite.reserve import Reserve
from memfs.metadata.sqlite.schema import ADDITIONS, match_triggers, stored_totals, totals_of
from memfs.metadata.sqlite.statements import (
    FINGERPRINT,
    KEEPS_ELEMENTS,
    TEXTS,
    UNDERSTOOD,
    Parameters,
    SqlValue,
)
from memfs.metadata.sqlite.undo_triggers import drop_undo_triggers, make_undo_triggers
from memfs.types import StateId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.chain import Joined
    from memfs.metadata.sqlite.lease import IdLease
    from memfs.metadata.sqlite.migration import Migration

log = logging.getLogger(__name__)

FILE_NAME = "metadata.db"
JOURNAL_NAMES = ("journal.0", "journal.1")
MARSHAL_VERSION = 2
"""The oldest that has all the types of a record; its encoding of them has never changed."""

_SET_STATE = "update state set applied_sequence = ?, " + ", ".join(
    f"{name} = ?" for name in Usage._fields
)
_HIGHEST_NUMBER = """
    select max(
        (select coalesce(max(ino), 0) from inode), (select coalesce(max(blob), 0) from blob),
        (select coalesce(max(item), 0) from garbage), (select coalesce(max(intent), 0) from intent),
        (select coalesce(max(snap), 0) from snapshot),
        (select coalesce(max(ino), 0) from inode_was),
        (select coalesce(max(cookie), 0) from dentry_was)
    )
"""
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""SQLITE_ERROR: a table is missing."""
_PLAIN = re.compile(r"^(insert|update)(?: or fail)?(?! or)\b")
"""How a statement begins that a row in its way makes fail."""
PROGRESS_COUNT = 1000
"""Steps of SQLite's virtual machine between two looks at the clock: some 30 us."""
MIN_JOURNAL_BYTES = 64 * KIB

Row = tuple[Any, ...]
Record = tuple[int, Parameters]


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of what the database keeps on disk beside the tables, bytes, and how often it syncs."""

    checkpoint_bytes: int = 512 * KIB
    """A journal of this length is moved into the tables. 128 KiB, 512 KiB, 1 MiB measured on a
    loaded 2 vCPU machine: a creation costs 51, 40, 41 us."""
    checkpoint_page_count: int = 2048
    """Changed pages beyond which a shorter journal is moved, down to an eighth: SQLite writes them
    to its log in the event loop, at 4-5 us a page."""
    journal_bytes: int = 4 * MIB
    """Preallocated for each of the two journals; more than `checkpoint_bytes`, so that a full disk
    stops nobody while a checkpoint is late."""
    reserve_bytes: int = 16 * MIB
    """Given up when the disk is full: room to commit a journal of changes that remove things."""
    log_page_count: int = 16384
    """SQLite's write-ahead log starts over beyond this length: with two fsyncs in the event loop,
    so rarely, and with as little to copy as can be."""
    late_bytes: int = 128 * KIB
    """A checkpoint that failed is tried again after so much more journal."""
    lease_count: int = LEASE_COUNT
    """Numbers of inodes that a durable write buys."""


class Identity(NamedTuple):
    """What ties the files of one state directory together."""

    state_id: bytes
    boot: bytes
    """Name of this run of the kernel, 16 bytes; zeros where it is not known."""
    lease: IdLease
    """Opened, and not begun."""


class Savepoint(NamedTuple):
    """A point between two changes, to go back to."""

    record_count: int
    totals: tuple[int, ...]
    entry: int
    """The journal entry that the next commit writes."""


class _Refusal:
    """Refuses a state directory at the first complaint."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __call__(self, damage: str) -> None:
        raise StateDamagedError(damage, str(self._state_dir))


class Database:
    """Tables, journals, and the way back to the last committed state.

    One thread calls everything but `sync`, which any thread may call.
    """

    def __init__(
        self,
        state_dir: Path,
        cache_bytes: int,
        limits: Limits,
        on_undo: Callable[[], None],
        identity: Identity,
        complain: Callable[[str], None] | None = None,
        migration: Migration | None = None,
    ) -> None:
        """Open the tables of a state directory and redo what the journal has beyond them.

        Args:
            state_dir: Has a database made by `creation.create`.
            cache_bytes: SQLite's page cache.
            limits: Sizes on disk.
            on_undo: Called when changes were undone: a cache of rows must forget them.
            identity: What the journals must belong to.
            complain: Told of damage, and what can be used is used (repair); None: it is refused.
            migration: Changes tables of an older format; None: they are refused.

        Raises:
            UsageError: The tables are of an older format, or the journal was written by another
                version of memfs; nothing was changed.
            StateDamagedError: The files are damaged or do not belong together; nothing was changed.
            MetadataError: The files cannot be used.
            NoSpaceError: The disk is too full even to open.
        """
        self._limits = limits
        self._on_undo = on_undo
        self._identity = identity
        self._complain = complain or _Refusal(state_dir)
        self._migration = migration
        self._records: list[Record] = []
        self._change_begin = 0
        self._lost: NoSpaceError | MetadataError | None = None
        self._failure: MetadataError | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._note_lock = threading.Lock()
        self._synced_sequence = 0
        self._known_sequence = 0
        """First sequence of the newest journal whose header is on stable storage."""
        self._retiring: Journal | None = None
        self._starts_over = False
        self.is_read_elsewhere = False
        """Another process may read the tables: the log cannot start over (SQLite, `walRestartLog`),
        and is not asked to."""
        self._late_offset = 0
        self._bulk_count = 0
        """Rows since the last checkpoint that were written by few, short records."""
        self._due_bytes = limits.checkpoint_bytes
        self._retired_bytes = 0
        self._reserve = Reserve(state_dir / "reserve", limits.reserve_bytes)
        self._path = state_dir / FILE_NAME
        with contextlib.ExitStack() as opened:
            try:
                self._open(opened, cache_bytes)
            except (sqlite3.Error, OSError) as error:
                raise _explain(error, f"{self._path} cannot be opened") from error
            opened.pop_all()

    def _open(self, opened: contextlib.ExitStack, cache_bytes: int) -> None:
        journals = [self._open_journal(self._path.with_name(name)) for name in JOURNAL_NAMES]
        for journal in journals:
            opened.callback(journal.close)
        self._sums = PageSums(self._path, self._identity.state_id)
        opened.callback(self._sums.release)
        self._check_pages(journals)
        # SQLite moves the log into the database when the last connection closes. It must not where
        # the state is refused: this one closes last, and may not write.
        reader = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
        )
        opened.callback(reader.close)
        self.connection = sqlite3.connect(
            self._path, isolation_level=None, cached_statements=256, check_same_thread=False
        )
        # Triggers of the index of names call it, when a journal is redone as well.
        self.connection.create_function("fold_name", 1, fold_name, deterministic=True)
        cursor = self.connection.cursor()
        opened.callback(self._abandon, cursor)
        self._execute = cursor.execute
        try:
            self._configure(cache_bytes)
            reader.execute("select count(*) from state").fetchone()
            self._execute("begin immediate")
            self._read_format()
            joined = self._read_state(journals)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE_CODES:
                raise
            raise StateDamagedError(f"{self._path}: {error}", str(self._path.parent)) from error
        self._check_lease(journals)
        self._reserve.acquire()
        for journal in journals:
            self._allocate(journal)
        # The one that was begun first is begun anew first: see `chain`.
        self._spare, self._journal = sorted(journals, key=lambda each: each.first_sequence)
        ((page_bytes,),) = self._execute("pragma page_size").fetchall()
        self._sums.begin(page_bytes)
        self._checkpointer = Checkpointer(self._path)
        opened.callback(self._checkpointer.close)
        # One of them is the newest.
        keeps_elements = all(journal.fingerprint in KEEPS_ELEMENTS for journal in journals)
        self._recover(joined, keeps_elements=keeps_elements)
        reader.close()

    def _abandon(self, cursor: sqlite3.Cursor) -> None:
        """Close SQLite's connection at once, whatever a traceback still refers to."""
        # A statement that is left would keep it open, and the lock of its transaction with it.
        cursor.close()
        if self.connection.in_transaction:
            self.connection.rollback()
        self.connection.close()

    def _open_journal(self, path: Path) -> Journal:
        try:
            return Journal(path, create=False)
        except FileNotFoundError:
            self._complain(f"{path} is missing")
            return Journal(path)

    def _check_pages(self, journals: Sequence[Journal]) -> None:
        """Compare the database with its sums, before SQLite acts on what it finds."""
        if any(journal.origin is None and journal.first_sequence for journal in journals):
            self._sums.forget()
        if (damage := self._sums.find_damage()) is not None:
            self._complain(damage)
            self._sums.forget()
        newest = max(journal.first_sequence for journal in journals)
        if self._sums.known and newest < self._sums.covered.journal_sequence:
            self._complain(
                f"{journals[0].path} and {journals[1].path} are older than the database: they "
                f"begin at change {newest}, not {self._sums.covered.journal_sequence}"
            )

    def _check_lease(self, journals: Sequence[Journal]) -> None:
        """See that no number will be handed out twice."""
        turns = [journal.origin.lease_turn for journal in journals if journal.origin is not None]
        if self._identity.lease.found.turn < max(turns, default=0):
            self._complain(f"{self._path.with_name('ids')} is damaged, or an older copy")

    def _check_numbers(self) -> None:
        """See that all numbers in use were handed out; in the open transaction."""
        ((highest,),) = self._execute(_HIGHEST_NUMBER).fetchall()
        if highest >= self._identity.lease.found.next_id:
            self._complain(
                f"{self._path.with_name('ids')} is damaged, or an older copy: it says "
                f"{self._identity.lease.found.next_id}, and {highest} is in use"
            )

    def _allocate(self, journal: Journal) -> None:
        """Give a journal its room, or what the disk has: a start must not need any."""
        size_bytes = self._limits.journal_bytes
        while size_bytes >= MIN_JOURNAL_BYTES:
            try:
                journal.allocate(size_bytes)
            except OSError as error:
                if not _is_full(error):
                    raise
                size_bytes //= 4
            else:
                return

    def _configure(self, cache_bytes: int) -> None:
        for pragma in (
            "journal_mode = wal",
            "synchronous = normal",
            "wal_autocheckpoint = 0",
            f"cache_size = -{max(1, cache_bytes // KIB)}",
            "secure_delete = off",
            "temp_store = memory",
        ):
            self._execute("pragma " + pragma).fetchone()

    # --- opening ---------------------------------------------------------------------------------
    def _read_format(self) -> None:
        """See of what format the tables are: a migration that was cut short has marked the file."""
        ((number,),) = self._execute("pragma user_version").fetchall()
        self._format = FORMAT_NUMBER if number == FOREIGN_NUMBER else number or OLDEST_FORMAT
        if self._format > FORMAT_NUMBER:
            raise UsageError(
                f"{self._path} has tables of format {number}, this memfs knows {FORMAT_NUMBER}: "
                "use the version of memfs that wrote it, or a newer one",
                ExitCode.STATE_UNUSABLE,
            )
        if self._format < FORMAT_NUMBER and self._migration is None:
            raise UsageError(
                f"{self._path} has tables of format {self._format}, and this memfs serves format "
                f"{FORMAT_NUMBER}: mount it, which migrates it",
                ExitCode.STATE_UNUSABLE,
            )

    def _read_state(self, journals: Sequence[Journal]) -> Joined:
        """Read how far the tables are, and see which entries continue them."""
        row = self._execute("select * from state").fetchone()
        if row is None:
            raise StateDamagedError(f"{self._path} has no state row", str(self._path.parent))
        self._applied: int = row[0]
        self.totals = totals_of(row[1:])
        joined = join(
            journals,
            self._applied,
            max(self._sums.synced_sequence, self._identity.lease.found.synced_sequence),
            self._identity.state_id,
            self._identity.boot,
            self._complain,
        )
        for journal in joined.usable:
            known = UNDERSTOOD.get(journal.fingerprint)
            if (known is None or known.format != self._format) and any(
                sequence > self._applied for sequence, _payload in journal.entries()
            ):
                raise UsageError(
                    f"{journal.path} was written by another version of memfs: "
                    "mount and unmount once with that version"
                )
        return joined

    def _recover(self, joined: Joined, *, keeps_elements: bool) -> None:
        try:
            self._redo_journals(joined, keeps_elements=keeps_elements)
        except sqlite3.Error as error:
            if not self._give_up_room(error):
                raise
            if self.connection.in_transaction:
                self._execute("rollback")
            self._execute("begin immediate")
            self.totals[:] = totals_of(self._execute("select * from state").fetchone()[1:])
            self._redo_journals(joined, keeps_elements=keeps_elements)
        # Durable before the journals that hold the same are overwritten.
        self._checkpointer.run(lambda: self._sums.note_log(self._sums.covered.journal_sequence))
        if self._checkpointer.failure is not None:
            raise self._checkpointer.failure
        self._reach("migrate.durable")
        self._begin_journals(joined.last_sequence + 1)
        self._end_migration()
        self._execute("begin immediate")

    def _redo_journals(self, joined: Joined, *, keeps_elements: bool) -> None:
        """Redo and COMMIT all entries that the tables lack."""
        for text in ADDITIONS if self._format == FORMAT_NUMBER else format2.ADDITIONS:
            self._execute(text)
        if self._format == FORMAT_NUMBER:
            match_triggers(self.connection)
        # Tables that a version with triggers has closed have them.
        drop_undo_triggers(self.connection)
        for journal in joined.usable:
            known = UNDERSTOOD.get(journal.fingerprint)
            if known is not None and known.has_triggers and known.format == self._format:
                make_undo_triggers(self.connection)
            for sequence, payload in journal.entries():
                if sequence > self._applied:
                    assert known is not None, "read_state has seen to it"
                    records, totals = marshal.loads(payload)
                    try:
                        self._redo(records, totals, known.texts)
                    except sqlite3.IntegrityError as error:
                        self._complain(
                            f"change {sequence} of {journal.path} contradicts the tables "
                            f"({error}): {self._path} is damaged, or older in part"
                        )
                        self._redo_forcibly(records, totals, known.texts)
            drop_undo_triggers(self.connection)
        if self._format == FORMAT_NUMBER and not keeps_elements:
            empty_elements(self.connection)
        if self._format < FORMAT_NUMBER:
            self._migrate()
        self._check_numbers()
        self._committed_totals = tuple(self.totals)
        # One more, for the header of the file that is not in use: no other one has its number.
        self._commit_tables(joined.last_sequence + 1)
        self._reach("migrate.committed")

    def _migrate(self) -> None:
        """Change the tables into those of this format, in the open transaction; see `migration`."""
        assert self._migration is not None, "read_format has seen to it"
        columns = [name for _, name, *_ in self._execute("pragma table_info(state)").fetchall()]
        counted = ", ".join(f"{name} = ?" for name in columns[1:])
        self._execute(f"update state set {counted}", stored_totals(self.totals))
        self._migration.run(self.connection, self._format)
        self.totals[:] = totals_of(self._execute("select * from state").fetchone()[1:])
        # From here on an older memfs refuses the directory. It would take the tables for its own,
        # since the journals, once they are applied, tell nothing of their format.
        write_format(self._path.parent, StateId(self._identity.state_id))
        self._reach("migrate.marked")

    def _end_migration(self) -> None:
        if self._format < FORMAT_NUMBER:
            assert self._migration is not None
            self._migration.end()
            self._format = FORMAT_NUMBER

    def _reach(self, point: str) -> None:
        """Tell of a fault point, while tables are being migrated."""
        if self._format < FORMAT_NUMBER and self._migration is not None:
            self._migration.reach(point)

    def _begin_journals(self, applied: int) -> None:
        """Begin both files afresh, one on stable storage before the other; see `chain`.

        Args:
            applied: The tables have everything up to here.
        """
        self._synced_sequence = applied
        self._identity.lease.begin(applied)
        self._begin_journal(self._spare, applied, self._journal)
        self._spare.sync()
        self._reach("migrate.first_journal")
        self._begin_journal(self._journal, applied + 1, self._spare)
        self._journal.sync()
        self._spare.note(self._journal.salt, applied)
        self._spare.sync()
        self._known_sequence = self._journal.first_sequence
        self._sums.note_journal(self._known_sequence)

    def _begin_journal(self, journal: Journal, first_sequence: int, before: Journal) -> None:
        origin = Origin(
            self._identity.state_id,
            self._identity.boot,
            before.salt,
            self._synced_sequence,
            self._identity.lease.turn,
        )
        journal.start(first_sequence, FINGERPRINT, origin)

    def _redo(
        self,
        records: Iterable[Record],
        totals: Sequence[int],
        texts: tuple[str, ...] = TEXTS,
    ) -> None:
        for statement, parameters in records:
            self._execute(texts[statement], parameters)
        self.totals[:] = totals

    def _redo_forcibly(
        self, records: Iterable[Record], totals: Sequence[int], texts: tuple[str, ...]
    ) -> None:
        """Redo a change of which a part may be done; rows that it contradicts give way (repair)."""
        for statement, parameters in records:
            text = _PLAIN.sub(r"\1 or replace", texts[statement])
            self._execute(text, parameters)
        self.totals[:] = totals

    # --- reading and changing --------------------------------------------------------------------
    def row(self, text: str, parameters: Parameters = ()) -> Row | None:
        """Return the first row of a query, or None."""
        try:
            row: Row | None = self._execute(text, parameters).fetchone()
        except sqlite3.Error as error:
            return self._rescue(error, text, parameters)
        except OverflowError:
            # A number of 64 bits without a sign, from a file handle say: no row has it.
            return None
        return row

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query."""
        try:
            return self._execute(text, parameters).fetchall()
        except sqlite3.Error as error:
            self._rescue(error, text, parameters)
            return self._execute(text, parameters).fetchall()

    def search(
        self, text: str, parameters: Sequence[SqlValue], until_s: float | None
    ) -> list[Row] | None:
        """Return all rows of a query whose length nobody knows; None if it took too long.

        Args:
            text: A select.
            until_s: When it is ended, as `time.perf_counter` tells; None: when it is done.

        Raises:
            MetadataError: It cannot be answered.
        """
        connection = self.connection
        if until_s is not None and time.perf_counter() > until_s:
            # Many short ones take long together.
            return None
        if until_s is not None:
            connection.set_progress_handler(lambda: time.perf_counter() > until_s, PROGRESS_COUNT)
        try:
            # The cursor of the changes would have to be done with the rows first.
            return connection.execute(text, parameters).fetchall()
        except sqlite3.Error as error:
            if until_s is not None and time.perf_counter() > until_s:
                # An interrupted select takes no change back (sqlite3VdbeHalt, `readOnly`).
                return None
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
                raise MetadataError(f"{self._path}: a query failed: {error}") from error
            self.undo(error)
        finally:
            if until_s is not None:
                connection.set_progress_handler(None, 0)

    def begin_change(self, *, grows: bool = False) -> None:
        """Announce one change: it happens whole or not at all; checks come before the first write.

        Args:
            grows: The change needs room for good, so a full disk refuses it.

        Raises:
            NoSpaceError: It grows, and the disk is full; or as below.
            MetadataError: Earlier changes of this batch were undone, or the engine has failed.
        """
        if self._failure is not None or self._lost is not None:
            raise _again(self._failure or self._lost)  # type: ignore[arg-type]  # one is set
        if grows and not self._regain_reserve():
            raise NoSpaceError(f"the disk under {self._path.parent} is full: remove files from it")
        self._change_begin = len(self._records)

    def write(self, statement: int, parameters: Parameters) -> int:
        """Run one of `statements`, to be committed with the next entry.

        Returns:
            Rows that it has changed or inserted; -1 where it is not a matter of rows.

        Raises:
            NoSpaceError: All since the last commit is undone.
            MetadataError: Any other failure; undone likewise.
        """
        try:
            count = self._execute(TEXTS[statement], parameters).rowcount
        except sqlite3.Error as error:
            self._rescue(error, TEXTS[statement], parameters)
            count = -1
        except OverflowError as error:
            self.undo(error)
        self._records.append((statement, parameters))
        return count

    def write_unique(self, statement: int, parameters: Parameters) -> bool:
        """Run a statement like `write`; False, and nothing happens, if a unique key is taken."""
        try:
            self._execute(TEXTS[statement], parameters)
        except sqlite3.IntegrityError:
            return False
        except sqlite3.Error as error:
            self._rescue(error, TEXTS[statement], parameters)
        except OverflowError as error:
            self.undo(error)
        self._records.append((statement, parameters))
        return True

    # --- committing ------------------------------------------------------------------------------
    @property
    def uncommitted(self) -> bool:
        """True if `commit_nowait` has something to do, or to say."""
        return bool(self._records) or self._lost is not None

    def commit_nowait(self) -> None:
        """Append what was written as one journal entry; see `Engine.commit`."""
        if self._lost is not None:
            lost, self._lost = self._lost, None
            raise lost
        if not self._records:
            return
        try:
            payload = marshal.dumps((self._records, self.totals), MARSHAL_VERSION)
            self._journal.append(payload, self._synced_sequence)
        except OSError as error:
            self._change_begin = 0
            self.undo(error)
        self._records.clear()
        self._committed_totals = tuple(self.totals)
        size = self._journal.size_bytes
        if size >= self._late_offset and (self._is_due() or self._log_is_long()):
            self.maintain()

    def note_bulk(self, row_count: int) -> None:
        """Note that the last statement has written many rows, each perhaps in a page of its own.

        Its record is short: without this a checkpoint would come late, and write them all at once;
        and a start would redo all of it.
        """
        self._bulk_count += row_count

    def _is_due(self) -> bool:
        """Tell whether the journal is long enough, or stands for enough, to be moved."""
        return (
            self._journal.size_bytes >= self._due_bytes
            or self._bulk_count >= self._limits.checkpoint_page_count
        )

    def savepoint(self) -> Savepoint:
        """Return the present point, for `take_back`."""
        return Savepoint(len(self._records), tuple(self.totals), self._journal.next_sequence)

    def take_back(self, savepoint: Savepoint) -> None:
        """Undo what was written since a savepoint, and keep what was uncommitted before it.

        Raises:
            MetadataError: The engine cannot go on.
        """
        if len(self._records) <= savepoint.record_count:
            # Nothing was written, or a failure has undone it already.
            return
        assert savepoint.entry == self._journal.next_sequence, "a change was committed half done"
        del self._records[savepoint.record_count :]
        self._change_begin = len(self._records)
        self.totals[:] = savepoint.totals
        self._on_undo()
        try:
            self._restore()
        except sqlite3.Error as error:
            self._failure = MetadataError(f"{self._path} cannot go on: {error}")
            raise _again(self._failure) from error

    @property
    def synced(self) -> bool:
        """True if everything that was written survives power loss; see `Engine.synced`."""
        # No lock: the number only grows, and it is set once the disk has answered.
        return not self.uncommitted and self._synced_sequence >= self._journal.next_sequence - 1

    def sync(self) -> None:
        """Make all committed entries survive power loss. Blocks; any thread may call it."""
        target = self._journal.next_sequence - 1
        with self._lock:
            if self._synced_sequence >= target:
                return
            # The order matters: `maintain` retires a journal before it puts the other in use.
            journals = [self._journal]
            if (retiring := self._retiring) is not None and retiring is not journals[0]:
                journals.insert(0, retiring)
            end = journals[-1].next_sequence - 1
            try:
                for journal in journals:
                    journal.sync()
            except OSError as error:
                # A failed fsync may have dropped pages: a later one that succeeds proves nothing.
                self._failure = MetadataError(f"the journal cannot be made durable: {error}")
                raise _again(self._failure) from error
            self._synced_sequence = end
            self._note_synced(journals[-1], end)

    def _note_synced(self, journal: Journal, sequence: int) -> None:
        """Note in the file that is not in use how far a journal was synced, its header included."""
        self._known_sequence = max(self._known_sequence, journal.first_sequence)
        with self._note_lock, contextlib.suppress(OSError):
            sequence = max(sequence, self._synced_sequence)
            self._sums.note_synced(sequence)
            self._identity.lease.note_synced(sequence)
            if journal is self._journal:
                self._spare.note(journal.salt, sequence)
            else:
                # Its turn has ended meanwhile, and the other file is in use.
                journal.note(journal.successor, sequence)

    @property
    def is_checkpointing(self) -> bool:
        """True until the log and the page sums of the last checkpoint are durable, and copied."""
        return self._checkpointer.running

    def maintain(self) -> None:
        """Move the journal into the tables if that is due; see `Engine.maintain`."""
        if self._failure is not None or self._records or self._checkpointer.running:
            return
        if self._checkpointer.failure is not None:
            self._failure = MetadataError(
                f"the database cannot be made durable: {self._checkpointer.failure}"
            )
            return
        self._regain_reserve()
        self._adapt()
        starts_over = self._log_is_long()
        size = self._journal.size_bytes
        if self._is_due() or (starts_over and size > 0):
            self._checkpoint(starts_over=starts_over)

    def publish(self) -> bool:
        """Bring all changes so far into tables that other processes can read.

        Returns:
            False if the checkpoint before has not ended: try again in some milliseconds.

        Raises:
            NoSpaceError, MetadataError: That cannot be; as `commit_nowait`.
        """
        self.commit_nowait()
        if self._failure is not None:
            raise _again(self._failure)
        if self._checkpointer.running:
            return False
        if self._journal.size_bytes > 0:
            self._checkpoint(starts_over=self._log_is_long())
            if self._journal.size_bytes > 0:
                raise NoSpaceError(f"{self._path}: the tables cannot be committed: make room")
        return True

    def _log_is_long(self) -> bool:
        if self.is_read_elsewhere:
            return False
        # Where a reader held the log, the next attempt comes after as many pages as the first one:
        # each costs two fsyncs in the event loop.
        beyond = self._checkpointer.frame_count - self._checkpointer.held_count
        return beyond > self._limits.log_page_count

    def _adapt(self) -> None:
        """Let the next journal be as long as the last one's pages say: scattered changes cost most.

        The journal's bytes a page are taken to stay what they were.
        """
        if self._retired_bytes and (pages := self._checkpointer.added_count):
            longest = self._limits.checkpoint_bytes
            due_bytes = self._retired_bytes * self._limits.checkpoint_page_count // pages
            self._due_bytes = min(longest, max(longest // 8, due_bytes))
            self._retired_bytes = 0

    def _checkpoint(self, *, starts_over: bool) -> None:
        applied = self._journal.next_sequence - 1
        try:
            try:
                self._commit_tables(applied)
            except sqlite3.Error as error:
                full = self._give_up_reserve(error)
                self._restore()
                if not full:
                    raise
                self._commit_tables(applied)
        except sqlite3.Error as error:
            # Nothing is lost: the journal stays and grows, into its preallocated room.
            log.warning("checkpoint of %s failed, trying again later: %s", self._path, error)
            self._late_offset = self._journal.size_bytes + self._limits.late_bytes
            self._restore()
            return
        self._late_offset = 0
        self._bulk_count = 0
        self._retired_bytes = 0 if starts_over else self._journal.size_bytes
        try:
            if starts_over:
                # Only a log that is copied to its end, with no transaction open, can start over.
                self._checkpointer.sync_log()
                self._sums.note_log(self._known_sequence)
                row = self._execute("pragma wal_checkpoint(passive)").fetchone()
                self._checkpointer.note_copied(row[1], row[2])
            self._execute("begin immediate")
            self._retiring = self._journal
            with self._note_lock:
                self._begin_journal(self._spare, applied + 1, self._journal)
                self._journal, self._spare = self._spare, self._journal
        except (sqlite3.Error, OSError) as error:
            self._failure = MetadataError(f"{self._path} cannot go on: {error}")
            raise _again(self._failure) from error
        self._starts_over = starts_over
        self._checkpointer.begin(self._retire)

    def _retire(self) -> None:
        # Runs in the checkpoint thread. The header has to be on stable storage before the next one
        # is begun: whatever power loss leaves must be linked; see `chain`.
        self._journal.sync()
        self._note_synced(self._journal, self._synced_sequence)
        # A log that starts over was covered when it was copied.
        if not self._starts_over:
            self._sums.note_log(self._known_sequence, durably=False)
        # One reference is replaced, which is atomic.
        self._retiring = None

    def _commit_tables(self, applied: int) -> None:
        self._execute(_SET_STATE, (applied, *stored_totals(self._committed_totals)))
        self._execute("commit")

    # --- failing ---------------------------------------------------------------------------------
    def _give_up_reserve(self, error: sqlite3.Error) -> bool:
        """Make room if the disk is full and there is a reserve; return whether that was so."""
        if not _is_full(error) or not self._reserve.held:
            return False
        log.warning("the disk under %s is full: only removing works", self._path.parent)
        self._reserve.release()
        # Keep changed pages in memory until the commit, so that no read can need disk space.
        self._execute("pragma cache_spill = off").fetchone()
        return True

    def _give_up_room(self, error: sqlite3.Error) -> bool:
        """Make room for an opening: the reserve, else what the journals have beyond their ends."""
        if self._give_up_reserve(error):
            return True
        if not _is_full(error):
            return False
        log.warning("the disk under %s is full: only removing works", self._path.parent)
        self._execute("pragma cache_spill = off").fetchone()
        for journal in (self._journal, self._spare):
            journal.trim()
        return True

    def _regain_reserve(self) -> bool:
        """Take the reserve back as soon as the disk has room again; return whether it is held."""
        if not self._reserve.held and self._reserve.acquire():
            self._execute("pragma cache_spill = on").fetchone()
        return self._reserve.held

    def _restore(self) -> None:
        """Bring the tables back to the committed entries and what was written since."""
        if self.connection.in_transaction:
            self._execute("rollback")
        self._execute("begin immediate")
        totals = list(self.totals)
        for _sequence, payload in self._journal.entries():
            self._redo(*marshal.loads(payload))
        self._redo(self._records, totals)

    def _rescue(self, error: sqlite3.Error, text: str, parameters: Parameters) -> Row | None:
        """Give up the reserve and run the statement again, or undo the batch and raise."""
        if self._give_up_reserve(error):
            try:
                self._restore()
                row: Row | None = self._execute(text, parameters).fetchone()
            except sqlite3.Error as again:
                error = again
            else:
                return row
        return self.undo(error)

    def undo(self, error: sqlite3.Error | OSError | OverflowError) -> NoReturn:
        """Go back to the last commit and raise; earlier changes of the batch fail at its commit."""
        explained = _explain(error, f"{self._path} cannot be used")
        if self._change_begin > 0:
            self._lost = explained
        self._records.clear()
        self.totals[:] = self._committed_totals
        self._on_undo()
        try:
            self._restore()
        except sqlite3.Error as again:
            self._failure = MetadataError(f"{self._path} cannot go on: {again}")
        raise explained from error

    # --- closing ---------------------------------------------------------------------------------
    def wait_for_checkpoint(self) -> None:
        """Wait until no checkpoint is under way."""
        self._checkpointer.join()

    def close(self) -> bool:
        """Commit, make durable and close; return whether all that was durable. Idempotent."""
        if self._closed:
            return self._failure is None
        self._closed = True
        try:
            if self._failure is None:
                self.commit_nowait()
                self.sync()
                self.wait_for_checkpoint()
                try:
                    self._commit_tables(self._journal.next_sequence - 1)
                except sqlite3.Error as error:
                    # All is in the journal, durably; the next opening redoes it.
                    log.warning("%s: closed with its journal not applied: %s", self._path, error)
                else:
                    # SQLite copies the log when it closes.
                    self._checkpointer.sync_log()
                    self._sums.note_log(self._known_sequence)
        except OSError as error:
            self._failure = MetadataError(f"{self._path} cannot be made durable: {error}")
        finally:
            self._checkpointer.close()
            if self._failure is not None:
                # SQLite copies a log when it closes that nobody has covered.
                self._sums.give_up()
            self.connection.close()
            self._sums.close()
            for journal in (self._journal, self._spare):
                journal.close()
        return self._failure is None


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", 0) in _FULL_CODES


def _explain(error: Exception, what: str) -> NoSpaceError | MetadataError:
    if _is_full(error):
        return NoSpaceError(f"{what}: the disk is full; remove files from it")
    return MetadataError(f"{what}: {error}")


def _again(error: NoSpaceError | MetadataError) -> NoSpaceError | MetadataError:
    """Return a fresh copy: raising one exception twice piles its tracebacks up."""
    return type(error)(*error.args)
