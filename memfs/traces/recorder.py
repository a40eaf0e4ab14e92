"""The recorder: starts and ends a trace, and brings the access log's rows to the disk.

Invariant: the event loop neither waits for the disk nor is ended by it: rows are written in a
thread, and a trace that cannot be written ends with a reason.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from memfs.errors import AlreadyExistsError, MemfsError, NotFoundError, NotSupportedError
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memfs.traces.access_log import AccessLog, Rows
    from memfs.traces.parquet import PartWriter

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 5.0
"""Rows reach the disk within this time: what a killed daemon loses. Guess."""

PATHS_A_STEP = 64
"""Paths looked up before others get the event loop: about 10 us each."""


@dataclass(frozen=True, slots=True)
class RecorderReport:
    """What is recorded, for people; plain data."""

    recording: bool
    path: str | None
    """Directory of the trace, the last one while no trace is recorded."""
    paths: bool
    """Rows carry paths."""
    duration_s: float
    row_count: int
    """On the disk."""
    size_bytes: int
    """Bytes of the trace's parts."""
    dropped_count: int
    """Rows lost because they came faster than the disk took them."""
    removed_count: int
    """Parts removed to stay within the limit."""
    reason: str | None
    """Why it ended by itself."""


class _Recording:
    """One trace."""

    def __init__(self, directory: Path, writer: PartWriter, paths: bool) -> None:
        self.directory = directory
        self.writer = writer
        self.paths = paths
        self.started_s = time.monotonic()
        self.ended_s: float | None = None
        self.row_count = 0
        self.reason: str | None = None


class Recorder:
    """Records one trace at a time.

    Args:
        access_log: Where requests take notes.
        get_path: Returns an inode's path in the mount; raises `MemfsError` if it is gone.
        size_bytes_max: That of a trace on the disk; above it the oldest parts are removed.
    """

    def __init__(
        self,
        access_log: AccessLog,
        get_path: Callable[[InodeNo], Awaitable[bytes]],
        size_bytes_max: int,
    ) -> None:
        self._log = access_log
        self._get_path = get_path
        self._size_bytes_max = size_bytes_max
        self._recording: _Recording | None = None
        self._changing = trio.Lock()

    async def start(self, directory: Path, *, paths: bool) -> None:
        """Begin a trace.

        Args:
            directory: Made if needed; a trace that it holds is continued. Absolute.
            paths: Look up the path of each file, too.

        Raises:
            AlreadyExistsError: One is being recorded.
            NotSupportedError: pyarrow is not installed.
            InvalidValueError: There is something else in the directory.
            OSError: The directory cannot be made.
        """
        async with self._changing:
            if self._log.active:
                assert self._recording is not None
                raise AlreadyExistsError(
                    f"a trace is being recorded into {self._recording.directory}; stop it first"
                )
            writer = await trio.to_thread.run_sync(_open_writer, directory, self._size_bytes_max)
            self._recording = _Recording(directory, writer, paths)
            self._log.clear()
            self._log.active = True

    async def stop(self) -> RecorderReport:
        """End the trace with all of its rows on the disk.

        Raises:
            NotFoundError: No trace is being recorded.
        """
        async with self._changing:
            if not self._log.active:
                raise NotFoundError("no trace is being recorded")
            self._log.active = False
            await self._flush()
            self._end(None)
            return self.report()

    async def run(self) -> None:
        """Write what requests note, until cancelled."""
        while True:
            await self._log.wait(FLUSH_INTERVAL_S)
            await self.write_gathered()

    async def write_gathered(self) -> None:
        """Write what is there."""
        async with self._changing:
            if self._log.active:
                await self._flush()

    def report(self) -> RecorderReport:
        """Return what is, or was last, recorded."""
        recording = self._recording
        if recording is None:
            return RecorderReport(False, None, False, 0.0, 0, 0, 0, 0, None)
        return RecorderReport(
            recording=self._log.active,
            path=os.fspath(recording.directory),
            paths=recording.paths,
            duration_s=(recording.ended_s or time.monotonic()) - recording.started_s,
            row_count=recording.row_count,
            size_bytes=recording.writer.size_bytes,
            dropped_count=self._log.dropped_count,
            removed_count=recording.writer.removed_count,
            reason=recording.reason,
        )

    async def _flush(self) -> None:
        recording = self._recording
        assert recording is not None
        rows = self._log.take()
        if not rows:
            return
        paths = await self._find_paths(rows) if recording.paths else {}
        try:
            # The writer's state must not be left half changed, so it is not abandoned.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(recording.writer.append, rows, paths)
        except OSError as error:
            self._end(f"{recording.directory} cannot be written: {error.strerror or error}")
            log.warning("the trace ended: %s", recording.reason)
        else:
            recording.row_count += len(rows)

    async def _find_paths(self, rows: Rows) -> dict[int, str]:
        """Return the paths that the rows' inodes have now."""
        found: dict[int, str] = {}
        for count, ino in enumerate(dict.fromkeys(rows.inodes), 1):
            try:
                path = await self._get_path(InodeNo(ino))
            except MemfsError:
                continue
            if path.startswith(b"/"):
                found[ino] = path.decode("utf-8", "backslashreplace")
            if count % PATHS_A_STEP == 0:
                await trio.lowlevel.checkpoint()
        return found

    def _end(self, reason: str | None) -> None:
        assert self._recording is not None
        self._log.active = False
        self._recording.ended_s = time.monotonic()
        self._recording.reason = reason


def _open_writer(directory: Path, size_bytes_max: int) -> PartWriter:
    try:
        # Imported here: it takes 0.2 s and 40 MB, and most mounts record nothing.
        from memfs.traces.parquet import PartWriter
    except ImportError as error:
        raise NotSupportedError(
            f"recording traces needs pyarrow ({error}); pip install 'memfs-tiers[traces]'"
        ) from None
    return PartWriter(directory, size_bytes_max)
