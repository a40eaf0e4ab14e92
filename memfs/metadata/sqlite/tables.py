"""The tables: SQLite's connection in one long transaction, and the totals of what it has.

Invariant: what `redo` and `execute` did is in the open transaction, and `totals` counts it; nothing
of it outlives this process before `commit`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import sqlite3
from typing import TYPE_CHECKING

from memfs.config import KIB
from memfs.errors import MetadataError, NoSpaceError
from memfs.metadata.records import Usage
from memfs.metadata.sqlite.field_schema import fold_name
from memfs.metadata.sqlite.schema import stored_totals
from memfs.metadata.sqlite.statements import TEXTS, Parameters
from memfs.metadata.sqlite.text_index import fold_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.reserve import Reserve

log = logging.getLogger(__name__)

_SET_STATE = "update state set applied_sequence = ?, " + ", ".join(
    f"{name} = ?" for name in Usage._fields
)
_FULL_CODES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
_PLAIN = re.compile(r"^(insert|update)(?: or fail)?(?! or)\b")
"""How a statement begins that a row in its way makes fail."""

FULL_REMEDY = "remove files from it, and snapshots that keep removed ones"

BUSY_MS = 5000
"""So long SQLite waits for a lock; as `sqlite3.connect` has it."""

Record = tuple[int, Parameters]
"""One of `statements`, and what it was run with."""


class Tables:
    """SQLite's side of a database; one thread calls it."""

    def __init__(self, path: Path, reserve: Reserve) -> None:
        """Connect to a database file; reads nothing.

        Args:
            path: That of the file.
            reserve: Given up where the disk is full.

        Raises:
            sqlite3.Error: It cannot be opened.
        """
        self.path = path
        self.connection = sqlite3.connect(
            path, isolation_level=None, cached_statements=256, check_same_thread=False
        )
        # Statements and triggers of indexes call them, when a journal is redone as well.
        self.connection.create_function("fold_name", 1, fold_name, deterministic=True)
        self.connection.create_function("fold_text", 1, fold_text, deterministic=True)
        self._cursor = self.connection.cursor()
        self.execute = self._cursor.execute
        self.totals: list[int] = []
        """Those of `Usage`, in order; changed in place."""
        self._reserve = reserve
        self._begun_count = 0
        """Rows that were changed before the open transaction."""
        self._is_log_cut = False
        """The log is empty, and SQLite is told not to fsync the header that it writes next."""

    def abandon(self) -> None:
        """Close SQLite's connection at once, whatever a traceback still refers to."""
        # A statement that is left would keep it open, and the lock of its transaction with it.
        self._cursor.close()
        if self.connection.in_transaction:
            self.connection.rollback()
        self.connection.close()

    def configure(self, cache_bytes: int) -> None:
        """Have SQLite write and cache as the engine needs it.

        Args:
            cache_bytes: Its page cache.
        """
        for pragma in (
            "journal_mode = wal",
            "synchronous = normal",
            "wal_autocheckpoint = 0",
            f"cache_size = -{max(1, cache_bytes // KIB)}",
            "secure_delete = off",
            "temp_store = memory",
        ):
            self.execute("pragma " + pragma).fetchone()

    # --- changing --------------------------------------------------------------------------------
    def begin(self) -> None:
        """Begin the next transaction; what the one before has is lost, if it is still open."""
        self._roll_back()
        self.execute("begin immediate")
        self._begun_count = self.connection.total_changes

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.execute("rollback")

    @property
    def changed_count(self) -> int:
        """Rows that the open transaction has changed."""
        return self.connection.total_changes - self._begun_count

    def redo(
        self,
        records: Iterable[Record],
        totals: Sequence[int],
        texts: tuple[str, ...] = TEXTS,
    ) -> None:
        """Do one change of a journal.

        Args:
            records: Its statements, in order.
            totals: Those after it.
            texts: The statements of the version that wrote it.
        """
        for statement, parameters in records:
            self.execute(texts[statement], parameters)
        self.totals[:] = totals

    def redo_forcibly(
        self, records: Iterable[Record], totals: Sequence[int], texts: tuple[str, ...]
    ) -> None:
        """Redo a change of which a part may be done; rows that it contradicts give way (repair)."""
        for statement, parameters in records:
            text = _PLAIN.sub(r"\1 or replace", texts[statement])
            self.execute(text, parameters)
        self.totals[:] = totals

    def commit(self, applied: int, totals: Sequence[int]) -> None:
        """Commit the open transaction to SQLite's log.

        Args:
            applied: Sequence up to which the tables have all changes.
            totals: Those as of then.
        """
        self.execute(_SET_STATE, (applied, *stored_totals(totals)))
        self.execute("commit")
        if self._is_log_cut:
            self._heed_syncs()

    def cut_log(self) -> bool:
        """Cut a log that is copied to its end to nothing; the open transaction is lost.

        There is nothing to be copied or made durable, and a reader is not waited for.

        Returns:
            False if somebody reads the log, or could not give it its room back on a full disk.
        """
        self._roll_back()
        if not self._reserve.held:
            return False
        self.execute("pragma busy_timeout = 0").fetchone()
        self.execute("pragma synchronous = off").fetchone()
        self._is_log_cut = True
        try:
            is_busy = self.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
        except sqlite3.OperationalError:
            is_busy = True
        finally:
            self.execute(f"pragma busy_timeout = {BUSY_MS}").fetchone()
        if is_busy:
            self._heed_syncs()
        return not is_busy

    def _heed_syncs(self) -> None:
        """Have SQLite fsync as ever; no transaction is open."""
        self.execute("pragma synchronous = normal").fetchone()
        self._is_log_cut = False

    def close(self) -> None:
        """Close the connection; what is not committed is lost."""
        if self._is_log_cut:
            # SQLite removes the log that it copies now: the copy has to be durable by then.
            with contextlib.suppress(sqlite3.Error):
                self._roll_back()
            self._heed_syncs()
        self.connection.close()

    # --- room ------------------------------------------------------------------------------------
    def give_up_reserve(self, error: sqlite3.Error) -> bool:
        """Make room if the disk is full and there is a reserve; return whether that was so."""
        if not is_full(error) or not self._reserve.held:
            return False
        self._reserve.release()
        return self.hold_pages(error)

    def hold_pages(self, error: sqlite3.Error) -> bool:
        """Keep changed pages in memory until the commit if the disk is full; return whether it is.

        No read can need disk space then.
        """
        if not is_full(error):
            return False
        log.warning("the disk under %s is full: only removing works", self.path.parent)
        self.execute("pragma cache_spill = off").fetchone()
        return True

    def regain_reserve(self) -> bool:
        """Take the reserve back as soon as the disk has room again; return whether it is held."""
        if not self._reserve.held and self._reserve.acquire():
            self.execute("pragma cache_spill = on").fetchone()
        return self._reserve.held


# --- how it fails --------------------------------------------------------------------------------
def is_full(error: Exception) -> bool:
    """Tell whether an error of SQLite, or of the system, says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", 0) in _FULL_CODES


def explain(error: Exception, what: str) -> NoSpaceError | MetadataError:
    """Return what callers of the engine are told of an error.

    Args:
        error: Of SQLite, or of the system.
        what: What could not be done.
    """
    if is_full(error):
        return NoSpaceError(f"{what}: the disk is full; {FULL_REMEDY}")
    return MetadataError(f"{what}: {error}")


def again(error: NoSpaceError | MetadataError) -> NoSpaceError | MetadataError:
    """Return a fresh copy: raising one exception twice piles its tracebacks up."""
    return type(error)(*error.args)
