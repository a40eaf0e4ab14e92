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
8. Where the log has become long, the thread notes so with the page sums, durably, and has the
   kernel drop its pages, which takes most of the time of a cut. Once it has ended, `maintain` rolls
   the open transaction back, cuts the log, of which the file has all, to nothing, and redoes the
   entries in the next transaction. The event loop waits for no fsync.
   *Killed here*: as in step 2. *Power lost*: the log is whole or empty.
9. That transaction is committed as in step 4. SQLite would fsync the header of a log that starts
   over, lest pages of the former one count behind it; `synchronous` is off until then, since a file
   that was cut has no former pages.
   *Power lost*: any part of the new log may be there, up to the first page that is not; the
   journals are whole, as in step 4.

`opening` tells how a database is opened. `tables` is SQLite's side of it, `journals` the two files.

Invariant: the tables hold exactly the committed entries plus what `write` kept since.
"""

from __future__ import annotations

import logging
import marshal
import sqlite3
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from memfs.errors import MetadataError, NoSpaceError
from memfs.metadata.sqlite import following
from memfs.metadata.sqlite.opening import open_database
from memfs.metadata.sqlite.statements import TEXTS, Parameters, Row, SqlValue
from memfs.metadata.sqlite.tables import FULL_REMEDY, again, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.following import Follower, KeptEntry
    from memfs.metadata.sqlite.journals import Identity
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.migration import Migration
    from memfs.metadata.sqlite.tables import Record

log = logging.getLogger(__name__)

MARSHAL_VERSION = 2
"""The oldest that has all the types of a record; its encoding of them has never changed."""

PROGRESS_COUNT = 1000
"""Steps of SQLite's virtual machine between two looks at the clock: some 30 us."""


class Savepoint(NamedTuple):
    """A point between two changes, to go back to."""

    record_count: int
    totals: tuple[int, ...]
    entry: int
    """The journal entry that the next commit writes."""


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

        Arguments and errors are those of `open_database`, and:

        Args:
            on_undo: Called when changes were undone: a cache of rows must forget them.
        """
        self._limits = limits
        self._on_undo = on_undo
        self._records: list[Record] = []
        self._change_begin = 0
        self._lost: NoSpaceError | MetadataError | None = None
        self._failure: MetadataError | None = None
        self._closed = False
        self.is_read_elsewhere = False
        """Another process may read the tables: the log cannot start over (SQLite, `walRestartLog`),
        and is not asked to."""
        self._follower: Follower | None = None
        self.refusal: MetadataError | None = None
        """Why no change may begin; None: it may."""
        self._late_offset = 0
        self._bulk_count = 0
        """Rows since the last checkpoint that were written by few, short records."""
        self._due_bytes = limits.checkpoint_bytes
        self._retired_bytes = 0
        opened = open_database(state_dir, cache_bytes, limits, identity, complain, migration)
        self._tables, self._journals, self._sums, self._checkpointer = opened
        self._path = self._tables.path
        self.connection = self._tables.connection
        self.totals = self._tables.totals
        self._committed_totals = tuple(self.totals)

    # --- reading and changing --------------------------------------------------------------------
    def row(self, text: str, parameters: Parameters = ()) -> Row | None:
        """Return the first row of a query, or None."""
        try:
            row: Row | None = self._tables.execute(text, parameters).fetchone()
        except sqlite3.Error as error:
            return self._rescue(error, text, parameters)
        except OverflowError:
            # A number of 64 bits without a sign, from a file handle say: no row has it.
            return None
        return row

    def rows(self, text: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows of a query."""
        try:
            return self._tables.execute(text, parameters).fetchall()
        except sqlite3.Error as error:
            self._rescue(error, text, parameters)
            return self._tables.execute(text, parameters).fetchall()

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
            MetadataError: Earlier changes of this batch were undone, or the engine has failed, or
                takes no changes (`refusal`).
        """
        if self._failure is not None or self._lost is not None or self.refusal is not None:
            raise again(self._failure or self._lost or self.refusal)  # type: ignore[arg-type]
        if grows and not self._tables.regain_reserve():
            raise NoSpaceError(f"the disk under {self._path.parent} is full: {FULL_REMEDY}")
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
            count = self._tables.execute(TEXTS[statement], parameters).rowcount
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
            self._tables.execute(TEXTS[statement], parameters)
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
            self._journals.append(payload)
        except OSError as error:
            self._change_begin = 0
            self.undo(error)
        if self._follower is not None:
            self._follower.note(self._journals.next_sequence - 1, self._records, payload)
        self._records.clear()
        self._committed_totals = tuple(self.totals)
        size = self._journals.size_bytes
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
            self._journals.size_bytes >= self._due_bytes
            or self._bulk_count >= self._limits.checkpoint_page_count
        )

    def savepoint(self) -> Savepoint:
        """Return the present point, for `take_back`."""
        return Savepoint(len(self._records), tuple(self.totals), self._journals.next_sequence)

    def take_back(self, savepoint: Savepoint) -> None:
        """Undo what was written since a savepoint, and keep what was uncommitted before it.

        Raises:
            MetadataError: The engine cannot go on.
        """
        if len(self._records) <= savepoint.record_count:
            # Nothing was written, or a failure has undone it already.
            return
        assert savepoint.entry == self._journals.next_sequence, "a change was committed half done"
        del self._records[savepoint.record_count :]
        self._change_begin = len(self._records)
        self.totals[:] = savepoint.totals
        self._on_undo()
        try:
            self._restore()
        except sqlite3.Error as error:
            self._failure = MetadataError(f"{self._path} cannot go on: {error}")
            raise again(self._failure) from error

    @property
    def synced(self) -> bool:
        """True if everything that was written survives power loss; see `Engine.synced`."""
        return not self.uncommitted and self._journals.synced

    def sync(self) -> None:
        """Make all committed entries survive power loss. Blocks; any thread may call it."""
        try:
            self._journals.sync()
        except OSError as error:
            self._failure = MetadataError(f"the journal cannot be made durable: {error}")
            raise again(self._failure) from error

    # --- checkpoints -----------------------------------------------------------------------------
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
        self._tables.regain_reserve()
        self._adapt()
        if self._log_may_start_over():
            self._start_log_over()
        if self._is_due():
            self._checkpoint()

    def publish(self) -> bool:
        """Bring all changes so far into tables that other processes can read.

        Returns:
            False if the checkpoint before has not ended: try again in some milliseconds.

        Raises:
            NoSpaceError, MetadataError: That cannot be; as `commit_nowait`.
        """
        self.commit_nowait()
        if self._failure is not None:
            raise again(self._failure)
        if self._checkpointer.running:
            return False
        if self._journals.size_bytes > 0:
            self._checkpoint()
            if self._journals.size_bytes > 0:
                raise NoSpaceError(f"{self._path}: the tables cannot be committed: make room")
        return True

    def _log_is_long(self) -> bool:
        if self.is_read_elsewhere:
            return False
        return self._log_excess > 1

    @property
    def _log_excess(self) -> float:
        """How many times the length is reached at which the log starts over."""
        # Where a reader held it, the next attempt comes after as many pages as the first one.
        beyond = self._checkpointer.frame_count - self._checkpointer.held_count
        return beyond / self._limits.log_page_count

    def _log_may_start_over(self) -> bool:
        """Tell whether the log is long, copied to its end, and little is to be redone for it."""
        if not (self._checkpointer.may_cut and self._log_is_long()):
            return False
        row_count, limit = self._tables.changed_count, self._limits.redo_row_count
        excess = self._log_excess
        return row_count <= limit or (excess > 2 and row_count <= 5 * limit) or excess > 4

    def _start_log_over(self) -> None:
        """Cut the log, and begin the open transaction anew; see step 8 of the module."""
        try:
            is_cut = self._tables.cut_log()
            self._checkpointer.note_begun_anew(is_held=not is_cut)
            try:
                self._restore()
            except sqlite3.Error as error:
                if not self._tables.give_up_reserve(error):
                    raise
                self._restore()
        except sqlite3.Error as error:
            self._failure = MetadataError(f"{self._path} cannot go on: {error}")
            raise again(self._failure) from error

    def _adapt(self) -> None:
        """Let the next journal be as long as the last one's pages say: scattered changes cost most.

        The journal's bytes a page are taken to stay what they were.
        """
        if self._retired_bytes and (pages := self._checkpointer.added_count):
            longest = self._limits.checkpoint_bytes
            due_bytes = self._retired_bytes * self._limits.checkpoint_page_count // pages
            self._due_bytes = min(longest, max(longest // 8, due_bytes))
            self._retired_bytes = 0

    def _checkpoint(self) -> None:
        applied = self._journals.next_sequence - 1
        try:
            try:
                self._commit_tables(applied)
            except sqlite3.Error as error:
                full = self._tables.give_up_reserve(error)
                self._restore()
                if not full:
                    raise
                self._commit_tables(applied)
        except sqlite3.Error as error:
            # Nothing is lost: the journal stays and grows, into its preallocated room.
            log.warning("checkpoint of %s failed, trying again later: %s", self._path, error)
            self._late_offset = self._journals.size_bytes + self._limits.late_bytes
            self._restore()
            return
        self._late_offset = 0
        self._bulk_count = 0
        self._retired_bytes = self._journals.size_bytes
        try:
            self._tables.begin()
            self._journals.take_turns(applied + 1)
        except (sqlite3.Error, OSError) as error:
            self._failure = MetadataError(f"{self._path} cannot go on: {error}")
            raise again(self._failure) from error
        self._checkpointer.begin(self._retire, self._note_copied)

    def _commit_tables(self, applied: int) -> None:
        if self._follower is not None:
            # The journal is about to be overwritten, and nobody waits for another machine here.
            following.keep(self._tables.execute, self._follower)
        self._tables.commit(applied, self._committed_totals)

    def _retire(self) -> None:
        # Runs in the checkpoint thread.
        self._journals.link()
        self._sums.note_log(self._journals.known_sequence, durably=False)
        self._journals.end_turn()

    def _note_copied(self) -> bool:
        # Runs in the checkpoint thread.
        is_long = self._log_is_long()
        if is_long:
            self._sums.note_copied()
        return is_long

    # --- nodes of a shared mount -----------------------------------------------------------------
    @property
    def durable_sequence(self) -> int:
        """All entries up to here survive power loss."""
        return self._journals.durable_sequence

    def begin_following(
        self, number: int = 0, change: Callable[[following.Execute], None] = lambda _execute: None
    ) -> None:
        """Make a node of this state directory, durably; right after it was opened. Idempotent.

        Args:
            number: That of the last entry that the tables have.
            change: Changes the tables before, and the totals, in the same transaction.

        Raises:
            MetadataError: That cannot be.
        """

        def begin(execute: following.Execute) -> None:
            change(execute)
            following.begin(execute, number)

        self._commit_first(begin, "a node's")

    def end_following(self) -> None:
        """Make the state directory of one machine of that of a node; else as `begin_following`."""
        self._commit_first(following.end, "that of one machine")

    def _commit_first(self, change: Callable[[following.Execute], None], what: str) -> None:
        """Change the tables before any entry is in the journal, durably.

        Raises:
            MetadataError: That cannot be.
        """
        assert self._journals.size_bytes == 0, "entries would be redone twice"
        try:
            change(self._tables.execute)
            self._committed_totals = tuple(self.totals)
            self._commit_tables(self._journals.next_sequence - 1)
            self._tables.begin()
            self._checkpointer.sync_log()
        except (sqlite3.Error, OSError) as error:
            self._failure = MetadataError(f"{self._path} cannot become {what}: {error}")
            raise again(self._failure) from error

    def read_followed(self) -> tuple[int | None, list[KeptEntry]]:
        """Return how many entries the tables have (None: this is no node), and those kept."""
        execute = self._tables.execute
        return following.read_number(execute), following.read_unsent(execute)

    def follow(self, follower: Follower) -> None:
        """Have all further entries told; nothing is uncommitted."""
        assert not self._records
        self._follower = follower

    def redo(self, records: Sequence[Record], totals: Sequence[int]) -> None:
        """Do and commit an entry that was made here once, and that the journal has lost.

        Args:
            records: Its statements, of the present vocabulary.
            totals: Those after it.

        Raises:
            NoSpaceError, MetadataError: It cannot be done; nothing of it was.
        """
        self.begin_change()
        try:
            self._tables.redo(records, totals)
        except sqlite3.Error as error:
            self.undo(error)
        self._records += records
        self.commit_nowait()
        # What is kept of rows in memory is of before.
        self._on_undo()

    # --- failing ---------------------------------------------------------------------------------
    def _restore(self) -> None:
        """Bring the tables back to the committed entries and what was written since."""
        self._tables.begin()
        totals = list(self.totals)
        for _sequence, payload in self._journals.entries():
            self._tables.redo(*marshal.loads(payload))
        self._tables.redo(self._records, totals)

    def _rescue(self, error: sqlite3.Error, text: str, parameters: Parameters) -> Row | None:
        """Give up the reserve and run the statement again, or undo the batch and raise."""
        if self._tables.give_up_reserve(error):
            try:
                self._restore()
                row: Row | None = self._tables.execute(text, parameters).fetchone()
            except sqlite3.Error as second:
                error = second
            else:
                return row
        return self.undo(error)

    def undo(self, error: sqlite3.Error | OSError | OverflowError) -> NoReturn:
        """Go back to the last commit and raise; earlier changes of the batch fail at its commit."""
        explained = explain(error, f"{self._path} cannot be used")
        if self._change_begin > 0:
            self._lost = explained
        self._records.clear()
        self.totals[:] = self._committed_totals
        self._on_undo()
        try:
            self._restore()
        except sqlite3.Error as second:
            self._failure = MetadataError(f"{self._path} cannot go on: {second}")
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
                    self._commit_tables(self._journals.next_sequence - 1)
                except sqlite3.Error as error:
                    # All is in the journal, durably; the next opening redoes it.
                    log.warning("%s: closed with its journal not applied: %s", self._path, error)
                else:
                    # SQLite copies the log when it closes.
                    self._checkpointer.sync_log()
                    self._sums.note_log(self._journals.known_sequence)
        except OSError as error:
            self._failure = MetadataError(f"{self._path} cannot be made durable: {error}")
        finally:
            self._checkpointer.close()
            if self._failure is not None:
                # SQLite copies a log when it closes that nobody has covered.
                self._sums.give_up()
            self._tables.close()
            self._sums.close()
            self._journals.close()
        return self._failure is None
