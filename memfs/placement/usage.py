"""Usage: how full the tiers are, and how busy programs keep the disk.

Invariant: all that is decided in one round rests on one measurement and one time. To watch programs
costs nothing while nothing moves, and a disk that cannot be watched is taken for idle.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.content.space import measure_cold_space
from memfs.linux.disk_io import find_device, read_disk_io, read_own_io
from memfs.policy.foreign_io import ForeignIo, is_busy
from memfs.policy.plan import is_draining
from memfs.policy.view import Capacity, Limits
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.config import Config
    from memfs.content.space import ColdSpace
    from memfs.linux.disk_io import DiskIo
    from memfs.placement.context import Context

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks: some 0.2 ms each."""

QUIET_LOOKS = 3
"""So many looks without programs end the giving way: they pause between two bursts. Guess."""

_NS = 1_000_000_000


class TierUsage:
    """How full the tiers of one mount are, as they were measured last."""

    def __init__(self, config: Config) -> None:
        self.now_ns = 0
        """Wall clock of the measurement."""
        self.limits = limits_of(config, 0, 0, glacier=False)
        self.cold_used_bytes = 0
        """Bytes of the disk tier, without what moves under way will free."""
        self.cold_draining = False

    @property
    def cold_excess_bytes(self) -> int:
        """What is to leave the disk until it is down to its low watermark."""
        return self.cold_used_bytes - self.limits.cold.low_bytes

    def note_leaving(self, size_bytes: int) -> None:
        """Count what a move that was just decided will free on the disk."""
        self.cold_used_bytes = max(0, self.cold_used_bytes - size_bytes)


def limits_of(config: Config, warm_bytes: int, cold_bytes: int, *, glacier: bool) -> Limits:
    """Return the policy's limits from the configuration and from capacities as measured now."""
    warm, cold, policy = config.warm, config.cold, config.policy
    return Limits(
        warm=Capacity.of(warm_bytes, warm.high_watermark, warm.low_watermark),
        cold=Capacity.of(cold_bytes, cold.high_watermark, cold.low_watermark),
        warm_to_cold_ns=int(policy.warm_to_cold_s * _NS),
        pack_after_ns=int(policy.pack_after_s * _NS),
        cold_to_glacier_ns=int(policy.cold_to_glacier_s * _NS),
        glacier=glacier,
    )


async def measure(context: Context) -> None:
    """Bring capacities, use and draining up to now."""
    usage, parts, stats = context.usage, context.parts, context.access_stats
    usage.now_ns = context.clock()
    cold = parts.config.cold
    space = measure_cold_space(context.state_dir, cold, await parts.engine.usage())
    limits = limits_of(
        parts.config,
        max(0, parts.residency.capacity_bytes - sum(context.pools.sizes.values())),
        space.capacity_bytes,
        glacier=parts.remote is not None,
    )._replace(ram=parts.residency.capacity_bytes > 0, store_ready=context.store_ready)
    # A capacity that the user has set is relieved wherever the store lies, a disk is not.
    if cold.size_bytes is None or space.capacity_bytes < cold.size_bytes:
        limits = limits._replace(store_frees=parts.store_elsewhere)
    usage.limits = stats.limits = limits
    _measure_room(context, space)
    usage.cold_used_bytes = max(0, space.used_bytes - context.queues.freeing_bytes)
    stats.cold.resize(limits.cold.high_bytes)
    _measure_pools(context)
    usage.cold_draining = is_draining(usage.cold_draining, usage.cold_used_bytes, limits.cold)


def describe_usage(context: Context) -> dict[str, object]:
    """Return capacities and use, for `memfs status`."""
    usage = context.usage
    return {
        "warm": context.residency.status() | {"draining": context.pools.rest.draining},
        "cold": {
            "capacity_bytes": usage.limits.cold.size_bytes,
            "used_bytes": usage.cold_used_bytes,
            "draining": usage.cold_draining,
        },
    }


def _measure_room(context: Context, space: ColdSpace) -> None:
    """Tell what holds writers back when to, and whether that helps."""
    parts, limits = context.parts, context.usage.limits
    if parts.room is None:
        return
    parts.room.relief = limits.glacier and limits.store_ready and parts.store_elsewhere
    # Space of the disk, not of a capacity: beyond `cold.size` there is still room to write to.
    unfilled = 1.0 - parts.config.cold.high_watermark
    parts.room.floor_bytes = space.reserve_bytes + int(space.available_bytes * unfilled)


def _measure_pools(context: Context) -> None:
    pools, warm, residency = context.pools, context.config.warm, context.residency
    if len(pools) > residency.held_count:
        pools.retain(lambda ino: residency.is_held(InodeNo(ino)))
    pools.rest.resize(context.usage.limits.warm)
    for name, size_bytes in pools.sizes.items():
        pools.named[name].resize(Capacity.of(size_bytes, warm.high_watermark, warm.low_watermark))
    for pool in pools.all():
        pool.draining = is_draining(pool.draining, pool.used_bytes, pool.capacity)


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
        gives_way = context.config.policy.give_way
        if not moving or not gives_way:
            self._foreign.forget()
            context.activity.take_served_bytes()
            self._quiet_count = QUIET_LOOKS
            throttle.decide(giving_way=False, urgent=not gives_way)
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
