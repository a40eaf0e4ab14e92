"""The checkpointer: a thread that makes committed changes durable in the write-ahead log.

Invariant: `on_durable` is called only after the log, with all that was committed before `begin`,
is on stable storage. Copying the log into the database file comes after that, and after what
`on_durable` keeps of the pages (`sqlite.pages`).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

from memfs.linux.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
        self._wal_fd = open_regular(wal_path, os.O_RDWR)
        self._idle = threading.Event()
        """No run is under way."""
        self._idle.set()
        self.may_cut = False
        """The database file has all of the log, durably, and `on_copied` has agreed."""
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
        return not self._idle.is_set()

    def begin(self, on_durable: Callable[[], None], on_copied: Callable[[], bool]) -> None:
        """Start a run in a thread; the former one must have ended."""
        assert not self.running
        self._idle.clear()
        try:
            # `threading.Thread.start` waits until the thread has had a processor: 14 to 43 ms at
            # the most in a build of an index, beside a load of 15 on 2 vCPU.
            _thread.start_new_thread(self._run, (on_durable, on_copied))
        except RuntimeError:
            self._idle.set()
            raise

    def _run(self, on_durable: Callable[[], None], on_copied: Callable[[], bool]) -> None:
        try:
            self.run(on_durable, on_copied)
        finally:
            self._idle.set()

    def note_begun_anew(self, *, is_held: bool) -> None:
        """A log that `may_cut` starts over, unless a reader holds it; no run is under way."""
        self.may_cut = False
        self.held_count = self.frame_count if is_held else 0
        self.frame_count = self.held_count

    def run(
        self, on_durable: Callable[[], None], on_copied: Callable[[], bool] = lambda: False
    ) -> None:
        """Make the log durable, then copy it into the database file. Blocks.

        Args:
            on_durable: Called in between; an OSError of it is a failure of the whole.
            on_copied: Called once the database file has all of the log; tells whether that may be
                cut.
        """
        self.added_count = 0
        self.may_cut = False
        try:
            self.sync_log()
            on_durable()
        except OSError as error:
            self.failure = error
            return
        try:
            row = self._connection.execute("pragma wal_checkpoint(passive)").fetchone()
        except sqlite3.Error:
            # Mostly a full disk. The log holds everything; the next run copies it.
            return
        is_busy, frame_count, copied_count = row
        if frame_count < self.held_count:
            # It has started over by itself: the reader had gone by the next commit.
            self.held_count = self.frame_count = 0
        self.added_count = max(0, frame_count - self.frame_count)
        self.frame_count = frame_count
        if not is_busy and copied_count == frame_count:
            self.may_cut = on_copied()
        if self.may_cut:
            self._drop_cached()

    def _drop_cached(self) -> None:
        """Have the kernel give the log's memory back here, and not in the event loop that cuts it.

        What is read of the log until then comes from the disk; SQLite's own cache has most of it.
        """
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._wal_fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_log(self) -> None:
        """Make the log durable; OSError if that cannot be. Blocks."""
        os.fdatasync(self._wal_fd)

    def join(self) -> None:
        """Wait until no run is under way."""
        self._idle.wait()

    def close(self) -> None:
        """Wait for the run under way and close."""
        self.join()
        os.close(self._wal_fd)
        self._connection.close()
