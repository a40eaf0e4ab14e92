"""The mover: rounds that decide, queues that move, upkeep that keeps all sound.

Invariant: moves run beside the rounds, so that no round is late because of a slow store; what
fails is tried again at its own pace and never at once.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from memfs.defects import as_failure
from memfs.errors import MemfsError
from memfs.placement.batcher import BATCH_WORKERS
from memfs.placement.decide import Shown, decide
from memfs.placement.execute import Placer
from memfs.placement.resident import resident
from memfs.placement.sources import Sources
from memfs.placement.upkeep import GARBAGE_A_ROUND, Upkeep
from memfs.placement.usage import LOOK_S, ProgramWatch, describe_usage, measure
from memfs.stores.paced import unhurried

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from memfs.metadata.local import Local
    from memfs.placement.context import Context
    from memfs.placement.upkeep import Compaction
    from memfs.policy.access_stats import AccessStats

log = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_PAUSE_S = 0.05
"""Pause between two rounds while there is a backlog: leaves programs the most of a core. Guess."""

WOKEN_SHARE = 4
"""After a round, what wakes the mover waits so many times as long as that took, and `BUSY_PAUSE_S`
at most. `cp -a` tells of each owner that it sets: with a round for each it took the daemon 1.2 to
1.7 times as long (2 vCPU, tmpfs)."""

BUSY_REQUESTS_PER_S = 1000
"""Above this rate programs keep the daemon busy, and rounds give way. Without, the rounds took 24 %
of the interpreter while files were created one after the other (py-spy, 2 vCPU)."""

GIVE_WAY_S_MAX = 5.0
"""How long rounds give way at most."""

PROMOTION_WORKERS = 2

_WARM_SETTING = "policy.heat.warm"
_COLD_SETTING = "policy.heat.cold"

SAVE_INTERVAL_S = 300.0
"""A daemon that is killed forgets the use of so long. Guess."""


class Mover:
    """The background of one mount.

    Args:
        finish_requests: Ends what requests began (`Filesystem.finish_requests`); called first in
            every round; True if more is left for the next one.
    """

    def __init__(self, context: Context, finish_requests: Callable[[], Awaitable[bool]]) -> None:
        self._context = context
        self._finish_requests = finish_requests
        self._giving_way = False
        self._stored_stats = _StoredStats(context.engine, context.access_stats)
        self._placer = Placer(context)
        self._sources = Sources(context, self._placer)
        self._watch = ProgramWatch(context)
        self._upkeep = Upkeep(context)

    async def run_round(self) -> None:
        """Do one bounded round, all moves that it decides, one after the other, and upkeep."""
        await self._round()
        await self._context.queues.begin_all(self._placer.place)
        async with trio.open_nursery() as nursery:
            for batcher in self._placer.batchers.values():
                await batcher.flush(nursery)
        await self._upkeep.tidy()
        if self._context.parts.writes:
            await self._upkeep.tidy_store()

    async def run(self) -> None:
        """Do rounds, moves and upkeep until cancelled."""
        try:
            with unhurried():
                await self._run()
        finally:
            # The engine answers at once; nothing waits here for a store or a disk.
            with trio.CancelScope(shield=True):
                await self._guarded(self._stored_stats.save)
                await self._guarded(self._context.quotas.save)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            queues, place = self._context.queues, self._placer.place
            # Those after the first one wait for it while programs use the disk.
            throttle = self._context.parts.throttle
            for name, lane in queues.lanes.items():
                turn = partial(throttle.turn, name)
                for _ in range(PROMOTION_WORKERS):
                    nursery.start_soon(lane.promotions.run, place)
                for _ in range(self._context.config.store(name).transfer_count_max):
                    nursery.start_soon(lane.demotions.run, place, turn)
                for _ in range(BATCH_WORKERS):
                    nursery.start_soon(self._placer.batchers[name].run, nursery)
            nursery.start_soon(self._run_upkeep, self._upkeep.tidy)
            if self._context.parts.writes:
                # Apart: a store that does not answer must not keep files from becoming durable.
                nursery.start_soon(self._run_upkeep, self._upkeep.tidy_store)
            nursery.start_soon(self._run_watch)
            while True:
                begun_s = trio.current_time()
                busy = await self._guarded(self._round)
                took_s = trio.current_time() - begun_s
                await trio.sleep(min(WOKEN_SHARE * took_s, BUSY_PAUSE_S))
                await self._pause(BUSY_PAUSE_S if busy else self._context.config.policy.interval_s)

    @property
    def compaction(self) -> Compaction:
        """What compacts sparse batches in the background."""
        return self._upkeep.compaction

    def count_queued(self) -> int:
        """Return how many moves are decided and not begun."""
        return self._context.queues.queued_count

    def status(self) -> dict[str, object]:
        """Return what the mover is at, for `memfs status`."""
        return {
            "giving_way": self._context.parts.throttle.giving_way,
            "queues": self._context.queues.status(),
            "moves": {
                "in_progress": self._context.parts.progress.describe(),
                "swept": self._context.recovery.done,
            },
            "store_refusal": self._context.breakers.of("").reason,
            "surveying_pins": not self._sources.surveyed,
        } | describe_usage(self._context)

    async def _pause(self, pause_s: float) -> None:
        """Wait before the next round: longer while programs are busy, not at all for a pin."""
        deadline = trio.current_time() + GIVE_WAY_S_MAX
        while True:
            with trio.move_on_after(pause_s) as pause:
                await self._context.activity.wait()
            requests_per_s = self._context.activity.take_request_count() / pause_s
            self._giving_way = pause.cancelled_caught and requests_per_s > BUSY_REQUESTS_PER_S
            if not self._giving_way or trio.current_time() >= deadline:
                return
            pause_s = self._context.config.policy.interval_s

    async def _round(self) -> bool:
        await self._stored_stats.load()
        try:
            more = await self._finish_requests()
        finally:
            # On a full disk the rest may fail until this has made room.
            if self._context.activity.take_freed():
                await self._context.garbage.collect_local(GARBAGE_A_ROUND)
        more = await self._decide() or more
        await self._stored_stats.save_if_due()
        await self._context.quotas.save_if_due()
        return more

    async def _decide(self) -> bool:
        """Look at what has happened and decide; returns True if there is more to look at."""
        context, sources = self._context, self._sources
        await measure(context)
        if context.activity.rescan:
            context.activity.rescan = False
            sources.survey()
        await self._decide_each(sources.used())
        await sources.take_wanted()
        await sources.take_changed()
        await sources.uploads.take_due()
        if not context.queues.has_room:
            # What leaves the queues makes room for more.
            return not sources.pins_done
        await self._decide_each(sources.pinned())
        await self._decide_each(sources.due())
        await self._decide_each(resident(context))
        await self._decide_each(sources.unused())
        return not sources.pins_done or sources.hurried or sources.uploads.hurried

    async def _decide_each(self, source: AsyncGenerator[Shown, None]) -> None:
        async with contextlib.aclosing(source):
            async for shown in source:
                await decide(self._context, shown)

    async def _run_watch(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            await self._guarded(self._look_at_programs)

    async def _look_at_programs(self) -> None:
        await self._watch.look(moving=self._context.queues.demoting)

    async def _run_upkeep(self, step: Callable[[], Awaitable[int]]) -> None:
        while True:
            done_count = await self._guarded(step)
            hurried = done_count and not self._giving_way
            await trio.sleep(BUSY_PAUSE_S if hurried else self._context.config.policy.interval_s)

    async def _guarded(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """Run one step; what fails is logged and comes again with the next one, after a pause."""
        if self._context.engine.refusal is not None:
            # It would change nothing, and say so each time.
            return None
        try:
            return await step()
        except Exception as error:
            reason = as_failure(error, "a round of the mover")
            log.warning("a round of the mover could not be finished: %s", reason)
            await trio.sleep(self._context.config.policy.retry_s_min)
            return None


class _StoredStats:
    """Keeps `AccessStats` in the engine's settings, from one run of the daemon to the next.

    Args:
        engine: Where settings are.
        access_stats: What is kept.
    """

    def __init__(self, engine: Local, access_stats: AccessStats) -> None:
        self._engine = engine
        self._access_stats = access_stats
        self._loaded = False
        self._saved_s = 0.0

    async def load(self) -> None:
        """Load, once."""
        if not self._loaded:
            self._loaded = True
            self._saved_s = trio.current_time()
            await self._load()

    async def save_if_due(self) -> None:
        """Save now and then."""
        if trio.current_time() - self._saved_s >= SAVE_INTERVAL_S:
            await self.save()

    async def save(self) -> None:
        """Store the statistics as they are now."""
        if not self._loaded:
            return
        self._saved_s = trio.current_time()
        async with self._engine.change():
            await self._engine.put_setting(_WARM_SETTING, self._access_stats.encode_warm())
            await self._engine.put_setting(_COLD_SETTING, self._access_stats.encode_cold())

    async def _load(self) -> None:
        access_stats = self._access_stats
        decoders = (
            (_WARM_SETTING, access_stats.decode_warm),
            (_COLD_SETTING, access_stats.decode_cold),
        )
        for name, decode in decoders:
            try:
                stored = await self._engine.get_setting(name)
                if stored is not None:
                    decode(stored)
            except MemfsError as error:
                log.warning("%s: %s; files count as not used so far", name, error)
