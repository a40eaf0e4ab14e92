"""The watch on programs: once a second, while moves are under way, what they do with the disk.

Invariant: it costs nothing while nothing moves, and a disk that cannot be watched is taken for
idle.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.content.space import measure_cold_space
from memfs.linux.disk_io import find_device, read_disk_io, read_own_io
from memfs.policy.foreign_io import ForeignIo, is_busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.linux.disk_io import DiskIo
    from memfs.placement.context import Context

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks: some 0.2 ms each."""

QUIET_LOOKS = 3
"""So many looks without programs end the giving way: they pause between two bursts. Guess."""


def watch_disk(path: Path) -> Callable[[], tuple[DiskIo, DiskIo] | None]:
    """Return what tells how much the disk of a path has done, and how much of that is our own.

    It tells None if the disk cannot be watched.
    """
    device = find_device(path)

    def read() -> tuple[DiskIo, DiskIo] | None:
        disk = read_disk_io(device) if device is not None else None
        return None if disk is None else (disk, read_own_io())

    return read


class ProgramWatch:
    """Tells the moves when to give way to programs.

    Args:
        context: Of the mount.
        read_io: As `watch_disk`; None: of the disk of the cold tier.
    """

    def __init__(
        self, context: Context, read_io: Callable[[], tuple[DiskIo, DiskIo] | None] | None = None
    ) -> None:
        self._context = context
        self._read_io = read_io or watch_disk(context.state_dir)
        self._foreign = ForeignIo()
        self._looked_s = 0.0
        self._quiet_count = QUIET_LOOKS

    async def look(self, *, moving: bool) -> None:
        """Look once; `moving`: there are moves that could give way."""
        context, throttle = self._context, self._context.parts.throttle
        if not moving or not context.config.policy.give_way:
            self._foreign.forget()
            context.activity.take_served_bytes()
            self._quiet_count = QUIET_LOOKS
            throttle.decide(giving_way=False, urgent=False)
            return
        now_s = trio.current_time()
        elapsed_s, self._looked_s = max(1e-3, now_s - self._looked_s), now_s
        self._quiet_count = 0 if self._programs_are_busy(elapsed_s) else self._quiet_count + 1
        cold = context.config.cold
        space = measure_cold_space(context.state_dir, cold, await context.engine.usage())
        urgent = space.used_bytes > space.capacity_bytes * cold.high_watermark
        giving_way = self._quiet_count < QUIET_LOOKS and not urgent
        if giving_way != throttle.giving_way:
            log.debug(
                "moves %s programs", "give way to" if giving_way else "are done giving way to"
            )
        throttle.decide(giving_way=giving_way, urgent=urgent)

    def _programs_are_busy(self, elapsed_s: float) -> bool:
        served_bytes_s = self._context.activity.take_served_bytes() / elapsed_s
        read_s = written_s = 0.0
        if (io := self._read_io()) is not None:
            read_s, written_s = self._foreign.sample(*io, elapsed_s)
        return is_busy(read_s + served_bytes_s, written_s)
