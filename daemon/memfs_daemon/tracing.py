"""The answers of the control socket about traces, and the trace that the configuration asks for.

Invariant: no trace is written into the mount that it records.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError, MemfsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.config import TraceConfig
    from memfs.control.protocol import JsonValue
    from memfs.control.server import Handler
    from memfs.traces.recorder import Recorder


class Tracing:
    """Answers `trace_start`, `trace_stop` and `trace_status`.

    Args:
        recorder: Records one trace at a time.
        mountpoint: Absolute.
        config: Says whether a trace begins with the mount.
    """

    def __init__(self, recorder: Recorder, mountpoint: Path, config: TraceConfig) -> None:
        self._recorder = recorder
        self._mountpoint = mountpoint
        self._config = config

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "trace_start": self.start,
            "trace_stop": self.stop,
            "trace_status": self.status,
        }

    async def begin(self) -> None:
        """Begin the trace that the configuration asks for.

        Raises:
            UsageError: It cannot be written there.
        """
        if self._config.path is None:
            return
        try:
            await self.start(self._config.path)
        except (MemfsError, OSError) as error:
            raise UsageError(f"trace.path = {self._config.path}: {error}") from error

    async def run(self) -> None:
        """Bring rows to the disk until cancelled."""
        await self._recorder.run()

    async def end(self) -> None:
        """Bring the last rows to the disk."""
        if self._recorder.report().recording:
            await self._recorder.stop()

    async def start(self, path: str, paths: bool = True) -> JsonValue:
        """Begin a trace; returns its report.

        Args:
            path: Directory, absolute; a trace that it holds is continued.
            paths: Record the path of each file, too.

        Raises:
            InvalidValueError: Not a place for a trace.
            MemfsError: As of `Recorder.start`.
        """
        if not path.startswith("/"):
            raise InvalidValueError(f"{path!r} is no absolute path")
        directory = Path(path)
        if directory.is_relative_to(self._mountpoint):
            raise InvalidValueError(
                f"{path} lies in the mount that is to be recorded; name a place outside"
            )
        await self._recorder.start(directory, paths=paths)
        return asdict(self._recorder.report())

    async def stop(self) -> JsonValue:
        """End the trace; returns its report."""
        return asdict(await self._recorder.stop())

    async def status(self) -> JsonValue:
        """Return the report of the trace that is, or was last, recorded."""
        return asdict(self._recorder.report())
