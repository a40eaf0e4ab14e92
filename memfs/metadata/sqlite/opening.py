"""The opening of a database: what its files are is checked, and what the journals have is redone.

Pages are compared with their sums before SQLite sees them; the journals must continue the tables
(`chain`). Their entries are redone and committed, the tables made durable, and only then both
journals are started afresh, one after the other, with new salts: an entry of an abandoned future
can never be taken for a new one. What a kill or a power cut cannot explain is damage. Tables of an
older format are changed in the transaction that redoes the entries (`migration`).

Invariant: where an opening is refused, nothing was changed.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import NoSpaceError, StateDamagedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.sqlite import following, format2
from memfs.metadata.sqlite.chain import join
from memfs.metadata.sqlite.checkpointer import Checkpointer
from memfs.metadata.sqlite.element_index import empty_elements
from memfs.metadata.sqlite.format import (
    FOREIGN_NUMBER,
    FORMAT_NUMBER,
    OLDEST_FORMAT,
    write_format,
)
from memfs.metadata.sqlite.journal import Journal
from memfs.metadata.sqlite.journals import JOURNAL_NAMES, Identity, Journals
from memfs.metadata.sqlite.pages import PageSums
from memfs.metadata.sqlite.reserve import Reserve
from memfs.metadata.sqlite.schema import ADDITIONS, match_triggers, stored_totals, totals_of
from memfs.metadata.sqlite.statements import KEEPS_ELEMENTS, KEEPS_TEXTS, UNDERSTOOD
from memfs.metadata.sqlite.tables import Tables, explain
from memfs.metadata.sqlite.text_index import empty_foreign_texts, empty_texts
from memfs.metadata.sqlite.undo_triggers import drop_undo_triggers, make_undo_triggers
from memfs.types import StateId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.chain import Joined
    from memfs.metadata.sqlite.limits import Limits
    from memfs.metadata.sqlite.migration import Migration

FILE_NAME = "metadata.db"

_HIGHEST_NUMBER = """
    select max(
        (select coalesce(max(ino), 0) from inode), (select coalesce(max(blob), 0) from blob),
        (select coalesce(max(item), 0) from garbage), (select coalesce(max(intent), 0) from intent),
        (select coalesce(max(snap), 0) from snapshot),
        (select coalesce(max(ino), 0) from inode_was),
        (select coalesce(max(cookie), 0) from dentry_was)
    )
"""
_DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""SQLITE_ERROR: a table is missing."""


Empty = Callable[[sqlite3.Connection], None]
"""Removes what is derived, in the open transaction; it is made anew later."""


class Opened(NamedTuple):
    """The parts of an open database."""

    tables: Tables
    """In a transaction, with all that was committed."""
    journals: Journals
    """Begun afresh."""
    sums: PageSums
    checkpointer: Checkpointer


def open_database(
    state_dir: Path,
    cache_bytes: int,
    limits: Limits,
    identity: Identity,
    complain: Callable[[str], None] | None = None,
    migration: Migration | None = None,
) -> Opened:
    """Open the tables of a state directory and redo what the journals have beyond them.

    Args:
        state_dir: Has a database made by `creation.create`.
        cache_bytes: SQLite's page cache.
        limits: Sizes on disk.
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
    path = state_dir / FILE_NAME
    opening = _Opening(path, limits, identity, complain or _Refusal(state_dir), migration)
    with contextlib.ExitStack() as begun:
        try:
            opened = opening.run(begun, cache_bytes)
        except (sqlite3.Error, OSError) as error:
            disk = os.statvfs(state_dir)
            if disk.f_files and not disk.f_favail:
                # SQLite says only that it cannot make its log.
                raise NoSpaceError(
                    f"{path} cannot be opened: the disk has no inodes left; remove files from it"
                ) from error
            raise explain(error, f"{path} cannot be opened") from error
        begun.pop_all()
    return opened


class _Refusal:
    """Refuses a state directory at the first complaint."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __call__(self, damage: str) -> None:
        raise StateDamagedError(damage, str(self._state_dir))


class _Opening:
    """One opening."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        identity: Identity,
        complain: Callable[[str], None],
        migration: Migration | None,
    ) -> None:
        self._path = path
        self._limits = limits
        self._identity = identity
        self._complain = complain
        self._migration = migration
        self._format = FORMAT_NUMBER
        self._applied = 0
        self._is_trimmed = False
        """The journals have given their room up, since the disk is full."""

    def run(self, begun: contextlib.ExitStack, cache_bytes: int) -> Opened:
        """Open everything; what is begun is undone by the stack if this raises."""
        files = [self._open_journal(self._path.with_name(name)) for name in JOURNAL_NAMES]
        for journal in files:
            begun.callback(journal.close)
        self._sums = PageSums(self._path, self._identity.state_id)
        begun.callback(self._sums.release)
        self._check_pages(files)
        # SQLite moves the log into the database when the last connection closes. It must not where
        # the state is refused: this one closes last, and may not write.
        reader = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
        )
        begun.callback(reader.close)
        reserve = Reserve(self._path.with_name("reserve"), self._limits.reserve_bytes)
        self._tables = Tables(self._path, reserve)
        begun.callback(self._tables.abandon)
        try:
            self._configure(cache_bytes, files)
            reader.execute("select count(*) from state").fetchone()
            self._tables.begin()
            self._read_format()
            joined = self._read_state(files)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE_CODES:
                raise
            raise StateDamagedError(f"{self._path}: {error}", str(self._path.parent)) from error
        self._check_lease(files)
        reserve.acquire()
        self._journals = Journals(files, self._sums, self._identity)
        self._journals.allocate(self._limits.journal_bytes)
        ((page_bytes,),) = self._tables.execute("pragma page_size").fetchall()
        self._sums.begin(page_bytes)
        self._checkpointer = Checkpointer(self._path)
        begun.callback(self._checkpointer.close)
        self._recover(joined, _outdated(files))
        reader.close()
        return Opened(self._tables, self._journals, self._sums, self._checkpointer)

    def _configure(self, cache_bytes: int, journals: Sequence[Journal]) -> None:
        try:
            self._tables.configure(cache_bytes)
        except sqlite3.Error as error:
            # On a full disk SQLite has no room for its index of the log.
            if not self._tables.hold_pages(error):
                raise
            for journal in journals:
                journal.trim()
            self._tables.configure(cache_bytes)

    # --- checking --------------------------------------------------------------------------------
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
        ((highest,),) = self._tables.execute(_HIGHEST_NUMBER).fetchall()
        if highest >= self._identity.lease.found.next_id:
            self._complain(
                f"{self._path.with_name('ids')} is damaged, or an older copy: it says "
                f"{self._identity.lease.found.next_id}, and {highest} is in use"
            )

    def _read_format(self) -> None:
        """See of what format the tables are: a migration that was cut short has marked the file."""
        ((number,),) = self._tables.execute("pragma user_version").fetchall()
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
        row = self._tables.execute("select * from state").fetchone()
        if row is None:
            raise StateDamagedError(f"{self._path} has no state row", str(self._path.parent))
        self._applied = row[0]
        self._tables.totals[:] = totals_of(row[1:])
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

    # --- redoing ---------------------------------------------------------------------------------
    def _recover(self, joined: Joined, outdated: Sequence[Empty]) -> None:
        while True:
            try:
                self._redo_journals(joined, outdated)
                break
            except sqlite3.Error as error:
                if not self._make_room(error):
                    self._unmark()
                    raise
            self._tables.begin()
            self._read_totals()
        # Durable before the journals that hold the same are overwritten.
        self._checkpointer.run(lambda: self._sums.note_log(self._sums.covered.journal_sequence))
        if self._checkpointer.failure is not None:
            raise self._checkpointer.failure
        self._reach("migrate.durable")
        self._journals.begin(joined.last_sequence + 1, lambda: self._reach("migrate.first_journal"))
        if self._is_trimmed:
            # Removing needs it, while the disk is full.
            self._journals.allocate(self._limits.journal_bytes)
        self._end_migration()
        self._tables.begin()

    def _make_room(self, error: sqlite3.Error) -> bool:
        """Make room if the disk is full: the reserve, then what journals have beyond their ends."""
        if self._tables.give_up_reserve(error):
            return True
        if self._is_trimmed or not self._tables.hold_pages(error):
            return False
        self._is_trimmed = True
        self._journals.trim()
        return True

    def _read_totals(self) -> None:
        row = self._tables.execute("select * from state").fetchone()
        self._tables.totals[:] = totals_of(row[1:])

    def _redo_journals(self, joined: Joined, outdated: Sequence[Empty]) -> None:
        """Redo and COMMIT all entries that the tables lack, and empty what is outdated."""
        for text in ADDITIONS if self._format == FORMAT_NUMBER else format2.ADDITIONS:
            self._tables.execute(text)
        if self._format == FORMAT_NUMBER:
            match_triggers(self._tables.connection)
        # Tables that a version with triggers has closed have them.
        drop_undo_triggers(self._tables.connection)
        is_followed = (
            self._format == FORMAT_NUMBER
            and following.read_number(self._tables.execute) is not None
        )
        for journal in joined.usable:
            known = UNDERSTOOD.get(journal.fingerprint)
            if known is not None and known.has_triggers and known.format == self._format:
                make_undo_triggers(self._tables.connection)
            for sequence, payload in journal.entries():
                if sequence > self._applied:
                    assert known is not None, "read_state has seen to it"
                    records, totals = marshal.loads(payload)
                    try:
                        self._tables.redo(records, totals, known.texts)
                    except sqlite3.IntegrityError as error:
                        self._complain(
                            f"change {sequence} of {journal.path} contradicts the tables "
                            f"({error}): {self._path} is damaged, or older in part"
                        )
                        self._tables.redo_forcibly(records, totals, known.texts)
                    if is_followed:
                        following.keep_redone(self._tables.execute, journal.fingerprint, payload)
            drop_undo_triggers(self._tables.connection)
        if self._format == FORMAT_NUMBER:
            for empty in outdated:
                empty(self._tables.connection)
        if self._format < FORMAT_NUMBER:
            self._migrate()
        self._check_numbers()
        # One more, for the header of the file that is not in use: no other one has its number.
        self._tables.commit(joined.last_sequence + 1, self._tables.totals)
        self._reach("migrate.committed")

    def _migrate(self) -> None:
        """Change the tables into those of this format, in the open transaction; see `migration`."""
        assert self._migration is not None, "read_format has seen to it"
        described = self._tables.execute("pragma table_info(state)").fetchall()
        columns = [name for _, name, *_ in described]
        counted = ", ".join(f"{name} = ?" for name in columns[1:])
        self._tables.execute(f"update state set {counted}", stored_totals(self._tables.totals))
        self._migration.run(self._tables.connection, self._format)
        self._read_totals()
        # From here on an older memfs refuses the directory. It would take the tables for its own,
        # since the journals, once they are applied, tell nothing of their format.
        write_format(self._path.parent, StateId(self._identity.state_id))
        self._reach("migrate.marked")

    def _unmark(self) -> None:
        """Let an older memfs use tables that a failed commit has left to it."""
        if self._format < FORMAT_NUMBER:
            with contextlib.suppress(sqlite3.Error, OSError):
                self._tables.begin()
                write_format(self._path.parent, StateId(self._identity.state_id), self._format)

    def _end_migration(self) -> None:
        if self._format < FORMAT_NUMBER:
            assert self._migration is not None
            self._migration.end()
            self._format = FORMAT_NUMBER

    def _reach(self, point: str) -> None:
        """Tell of a fault point, while tables are being migrated."""
        if self._format < FORMAT_NUMBER and self._migration is not None:
            self._migration.reach(point)


def _outdated(files: Sequence[Journal]) -> list[Empty]:
    """Return what empties the indexes that the versions which wrote the journals left behind."""
    # One of them is the newest.
    outdated: list[Empty] = []
    if not all(journal.fingerprint in KEEPS_ELEMENTS for journal in files):
        outdated.append(empty_elements)
    is_kept = all(journal.fingerprint in KEEPS_TEXTS for journal in files)
    outdated.append(empty_foreign_texts if is_kept else empty_texts)
    return outdated
