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
    from pathlib import Path

    from memfs.content.activity import Activity
    from memfs.moves.attempt import MoveParts

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks: some 0.2 ms each."""

QUIET_LOOKS = 3
"""So many looks without programs end the giving way: they pause between two bursts. Guess."""


class ProgramWatch:
    """Tells the moves when to give way to programs.

    Args:
        parts: The engine and the throttle of the moves.
        activity: Counts what programs read and write through the daemon.
        state_dir: On the disk of the cold tier.
    """

    def __init__(self, parts: MoveParts, activity: Activity, state_dir: Path) -> None:
        self._parts = parts
        self._activity = activity
        self._state_dir = state_dir
        self._device = find_device(state_dir)
        self._foreign = ForeignIo()
        self._looked_s = 0.0
        self._quiet_count = QUIET_LOOKS

    async def look(self, *, moving: bool) -> None:
        """Look once; `moving`: there are moves that could give way."""
        throttle = self._parts.throttle
        if not moving or not self._parts.config.policy.give_way:
            self._foreign.forget()
            self._activity.take_served_bytes()
            self._quiet_count = QUIET_LOOKS
            throttle.decide(giving_way=False, urgent=False)
            return
        now_s = trio.current_time()
        elapsed_s, self._looked_s = max(1e-3, now_s - self._looked_s), now_s
        self._quiet_count = 0 if self._programs_are_busy(elapsed_s) else self._quiet_count + 1
        config = self._parts.config.cold
        space = measure_cold_space(self._state_dir, config, await self._parts.engine.usage())
        urgent = space.used_bytes > space.capacity_bytes * config.high_watermark
        giving_way = self._quiet_count < QUIET_LOOKS and not urgent
        if giving_way != throttle.giving_way:
            log.debug(
                "moves %s programs", "give way to" if giving_way else "are done giving way to"
            )
        throttle.decide(giving_way=giving_way, urgent=urgent)

    def _programs_are_busy(self, elapsed_s: float) -> bool:
        served_bytes_s = self._activity.take_served_bytes() / elapsed_s
        disk = read_disk_io(self._device) if self._device is not None else None
        read_s = written_s = 0.0
        if disk is not None:
            read_s, written_s = self._foreign.sample(disk, read_own_io(), elapsed_s)
        return is_busy(read_s + served_bytes_s, written_s)
