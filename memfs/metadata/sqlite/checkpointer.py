"""The checkpointer: a thread that makes committed changes durable in the write-ahead log.

Invariant: `on_durable` is called only after the log, with all that was committed before `begin`,
is on stable storage. Copying the log into the database file comes after that, and after what
`on_durable` keeps of the pages (`sqlite.pages`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SALT_OFFSET, _SALT_BYTES = 16, 8


class Checkpointer:
    """Works on a connection of its own, so that the event loop's connection is not held up."""

    def __init__(self, database_path: Path) -> None:
        self._connection = sqlite3.connect(
            database_path, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("pragma synchronous = normal")
        self._connection.execute("pragma wal_autocheckpoint = 0")
        # The first read opens the log, which has to exist before it can be opened here.
        self._connection.execute("select count(*) from state").fetchone()
        wal_path = database_path.with_name(database_path.name + "-wal")
        self._wal_fd = os.open(wal_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._thread: threading.Thread | None = None
        self._is_new = False
        self._copied_name: bytes | None = None
        """What the log was called when it was copied to its end, until it is looked at again."""
        self.frame_count = 0
        """Pages in the log after the last run: it starts over only when asked to."""
        self.held_count = 0
        """Pages in the log when a reader kept it from starting over; 0: no reader did."""
        self.added_count = 0
        """Those of them that came since the run before; 0: not known."""
        self.failure: OSError | None = None
        """Why the log could not be made durable, if ever; nothing more can be promised then."""

    @property
    def running(self) -> bool:
        """True from `begin` until the thread is done."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, on_durable: Callable[[], None]) -> None:
        """Start a run in a thread; the former one must have ended."""
        assert not self.running
        self._thread = threading.Thread(
            target=self.run, args=(on_durable,), name="memfs-checkpoint", daemon=True
        )
        self._thread.start()

    def note_copied(self, frame_count: int, copied_count: int) -> None:
        """Take what SQLite answered to a copy of the log in the event loop; no run is under way.

        A log that was copied to its end begins anew with the next commit, unless somebody reads it
        then. SQLite goes on to tell the old length until that commit.

        Args:
            frame_count: Pages in the log.
            copied_count: Those of them that are in the database; fewer where a reader needs them.
        """
        if copied_count < frame_count:
            self.held_count = frame_count
            return
        self._copied_name = self._name_of_log()
        self._is_new = True
        self.frame_count = 0

    def _name_of_log(self) -> bytes:
        """Return the salts of the log, new whenever it begins anew (fileformat2.html, 4.1)."""
        return os.pread(self._wal_fd, _SALT_BYTES, _SALT_OFFSET)

    def run(self, on_durable: Callable[[], None]) -> None:
        """Make the log durable, then copy it into the database file. Blocks.

        Args:
            on_durable: Called in between; an OSError of it is a failure of the whole.
        """
        self.added_count = 0
        try:
            self.sync_log()
            on_durable()
        except OSError as error:
            self.failure = error
            return
        if self._is_new:
            self._is_new = False
            return
        try:
            row = self._connection.execute("pragma wal_checkpoint(passive)").fetchone()
            self.added_count = max(0, row[1] - self.frame_count)
            self.frame_count = max(0, row[1])
            if self._copied_name is not None:
                begun_anew = self._name_of_log() != self._copied_name
                self.held_count = 0 if begun_anew else self.frame_count
                self._copied_name = None
        except sqlite3.Error:
            # Mostly a full disk. The log holds everything; the next run copies it.
            return

    def sync_log(self) -> None:
        """Make the log durable; OSError if that cannot be. Blocks."""
        os.fdatasync(self._wal_fd)

    def join(self) -> None:
        """Wait until no run is under way."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Wait for the run under way and close."""
        self.join()
        os.close(self._wal_fd)
        self._connection.close()
