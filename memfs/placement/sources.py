"""Sources: where the files come from that a round looks at.

Each source is an async generator that shows files and is told what was decided of them before it
goes on. `resident` shows those in RAM.

Invariant: what a source shows in one round is bounded, whatever there is; and a change of a pin is
acted on by every file that it concerns, also by one that was being moved by the former pin.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict
from memfs.errors import StaleInodeError
from memfs.moves.hydrating import take_hydrated
from memfs.placement.candidate import observe, observe_all, observe_ranked
from memfs.placement.decide import Shown
from memfs.placement.execute import Wait
from memfs.placement.resident import charge
from memfs.placement.surveys import AccessSurvey, PinSurvey, SubtreeWalk
from memfs.placement.uploads import Uploads
from memfs.policy import rules
from memfs.policy.goals import goal_of_pin, next_step
from memfs.policy.view import Goal, Move
from memfs.types import InodeNo, PendingCode, Tier

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from memfs.metadata.records import PendingMove
    from memfs.placement.candidate import Observed
    from memfs.placement.context import Context
    from memfs.placement.execute import Placer

FRESH_A_ROUND = 512
"""Files written or used just now that are looked at in one round: some 20 ms. The rest, an
overload, is left to the kernel's own cache unless it is pinned."""

IDLE_COPY_S = 60.0
"""The raw copy of a file that is pinned to a slower tier goes after so long without use. Guess:
spans the pauses of a program that opens a file again and again."""

_USED = Wait(
    PendingCode.USE, f"it was used; its local copy goes after {IDLE_COPY_S:.0f} s without use"
)

PINNED_A_ROUND = 512

DUE_A_ROUND = 64

FAILED_READS_MAX = 1024
"""Files remembered that could not be fetched for their readers; some 200 kB."""

UNUSED_A_ROUND = 128

DRAIN_PAUSE_NS = 5_000_000_000
"""Between two looks for files that may leave a full disk, once one has found nothing: a third of
the
CPU time of a daemon whose tiers are full for good went there. Files that come meanwhile wait."""


class Sources:
    """The sources of one mount, and what they remember from one round to the next.

    Args:
        placer: Records what waits, and knows what is being restored.
    """

    def __init__(self, context: Context, placer: Placer) -> None:
        self._context = context
        self._placer = placer
        self._sealed_moving: dict[InodeNo, None] = {}
        """Files sealed while they were being moved."""
        self._failed_reads: BoundedDict[InodeNo, PendingMove] = BoundedDict(FAILED_READS_MAX)
        self.uploads = Uploads(context)
        self._walk = SubtreeWalk(context.engine)
        # All pins once: what was pinned warm is not in RAM after a start.
        self._pin_survey = PinSurvey(context.engine)
        self._moved_elsewhere: dict[InodeNo, None] = {}
        """Files whose pin changed while they were being moved by the former one."""
        policy = context.config.policy
        age_s = min(policy.pack_after_s, policy.cold_to_glacier_s)
        self._access_survey = AccessSurvey(context.engine, age_s)
        self._draining = False
        self._drain_again_ns = 0
        self.hurried = False
        """`unused` has found files to move: the next round need not wait."""

    @property
    def pins_done(self) -> bool:
        """True if no pin is left to look at."""
        return self._walk.done and self.surveyed

    @property
    def surveyed(self) -> bool:
        """True if the pins of all files were seen since the start, or since `survey_pins`."""
        return self._pin_survey.done

    def survey_pins(self) -> None:
        """Look for pins at all files: changes were lost."""
        self._pin_survey.begin()

    def survey(self) -> None:
        """Look at all files: events were lost."""
        self.survey_pins()
        self.uploads.survey()

    # --- what programs wrote or used -------------------------------------------------------------
    async def used(self) -> AsyncGenerator[Shown, None]:
        """Show what was written or used since the last round."""
        # First, so that a copy just fetched for a program is not taken away at once.
        await self._put_off_hydrated()
        yield Shown(await self._observe_fresh(await self._take_fresh()))

    async def _put_off_hydrated(self) -> None:
        """Note when the raw copies of files pinned to slower tiers go again."""
        context = self._context
        for file in await observe_all(context, take_hydrated(context.parts)):
            candidate = file.candidate
            ino = candidate.ino
            if candidate.pin is None:
                context.access_stats.take_local(ino, candidate.local_bytes, copied=candidate.remote)
            if candidate.pin is None or candidate.pin >= Tier.WARM:
                continue
            # One that was rewritten is the only form of its content and no copy.
            copied = candidate.packed or candidate.remote
            goal = goal_of_pin(candidate.pin, context.usage.limits)
            there = next_step(candidate, goal) is None
            if copied and not there and ino not in context.queues:
                await self._placer.postpone(ino, candidate.pin, _USED, IDLE_COPY_S)

    async def _take_fresh(self) -> list[InodeNo]:
        """Store the last uses; returns files written or used since the last round."""
        context = self._context
        accesses = context.activity.take_accesses()
        if accesses:
            async with context.engine.change():
                await context.engine.record_access(accesses)
        fresh = dict.fromkeys(self._take_sealed())
        if len(fresh) > FRESH_A_ROUND:
            # Some of the rest may be pinned.
            self.survey_pins()
        for ino, _ in accesses:
            if context.residency.is_held(ino):
                self._use_resident(ino)
            elif len(fresh) < FRESH_A_ROUND:
                fresh[ino] = None
        return list(fresh)[:FRESH_A_ROUND]

    def _take_sealed(self) -> list[InodeNo]:
        """Return the files sealed since the last round that are not being moved.

        A move that began before the file was rewritten ends without a result, and nobody would look
        at the file again: such files come back when their move has ended.
        """
        context = self._context
        taken = context.activity.take_sealed()
        self.uploads.note_sealed(taken)
        sealed = self._sealed_moving | dict.fromkeys(taken)
        self._sealed_moving = {ino: None for ino in sealed if ino in context.queues}
        return [ino for ino in sealed if ino not in self._sealed_moving]

    def _use_resident(self, ino: InodeNo) -> None:
        residency, stats = self._context.residency, self._context.access_stats
        residency.touch(ino)
        size = residency.charged_bytes(ino)
        pool = stats.pools.pool_of(ino)
        if pool is not None:
            pool.queue.access(ino, size)
        stats.use_local(ino, size, copied=False)

    async def _observe_fresh(self, inos: Iterable[InodeNo]) -> list[Observed]:
        """Return files that were written or used just now, with what their queues make of that."""
        room_bytes = {
            pool.name: pool.queue.capacity_bytes - pool.queue.used_bytes
            for pool in self._context.pools.all()
        }
        weighed = []
        for file in await observe_all(self._context, inos, fresh=True):
            file = self._weigh(file, room_bytes.get(file.candidate.pool, 0))
            candidate = file.candidate
            if candidate.admitted and candidate.pool in room_bytes:
                room_bytes[candidate.pool] -= candidate.ram_bytes
            weighed.append(file)
        return weighed

    def _weigh(self, file: Observed, room_bytes: int) -> Observed:
        """Count a use; `room_bytes` are left of the file's pool by those before it."""
        candidate, stats = file.candidate, self._context.access_stats
        ino = candidate.ino
        read_often = False
        if candidate.raw or candidate.packed:
            stats.use_local(ino, candidate.local_bytes, copied=candidate.remote)
        else:
            stats.cold.access(ino, candidate.ram_bytes)
        if not candidate.raw:
            now_ns = self._context.usage.now_ns
            read_often = stats.is_read_often(ino, candidate.ram_bytes, now_ns)
        queue = stats.pools.pool(candidate.pool).queue
        admitted = queue.access(ino, candidate.ram_bytes) or queue.admits(ino, candidate.ram_bytes)
        if queue.frozen and ino not in queue and candidate.ram_bytes > room_bytes:
            admitted = False
        return file._replace(candidate=candidate._replace(admitted=admitted, read_often=read_often))

    # --- what readers want -----------------------------------------------------------------------
    async def take_wanted(self) -> None:
        """Hydrate files that programs were refused, and those of which they read much."""
        context = self._context
        for ino in context.activity.take_archived():
            file = await self._find_unraw(ino)
            if file is not None:
                self._put_read(ino, "a program wanted it while it was archived", file.store)
        for ino in context.activity.take_wanted():
            file = await self._find_unraw(ino)
            if file is None or not context.access_stats.is_worth_raw(ino, file.candidate.ram_bytes):
                continue
            if (failed := self._failed_reads.pop(ino, None)) is not None:
                # So that the pause after another failure is twice as long.
                async with context.engine.change():
                    await context.engine.set_pending(failed)
            self._put_read(ino, "so much of it is read that a local copy is cheaper", file.store)

    async def _find_unraw(self, ino: InodeNo) -> Observed | None:
        """Return a file that has no raw form and does not wait for one."""
        file = await observe(self._context, ino, self._context.usage.now_ns)
        if file is None or file.candidate.raw or file.candidate.waiting:
            return None
        return file

    def _put_read(self, ino: InodeNo, detail: str, store: str) -> None:
        if self._context.queues.has_room_for(store):
            self._context.queues.put(Move(ino, Goal.LOCAL, rules.READ, detail, 0), store)

    # --- what waits for its time -----------------------------------------------------------------
    async def due(self) -> AsyncGenerator[Shown, None]:
        """Show files whose time has come; those wanted nowhere else wait no longer."""
        context, placer = self._context, self._placer
        now_ns = context.usage.now_ns
        for pending in await context.engine.list_pending(now_ns, DUE_A_ROUND):
            ino = pending.ino
            if ino in context.queues:
                continue
            # As it is: what a queue has let go before leaves by the same watermark now.
            file = await observe(context, ino, now_ns)
            if file is not None:
                asks_store = pending.wanted == Tier.GLACIER and not file.candidate.remote
                if asks_store and not context.is_ready(file.store):
                    await placer.wait_for_store(ino, pending.wanted, file.store)
                    continue
                shown = Shown([file])
                yield shown
                if shown.moved:
                    continue
                if pending.wanted == Tier.GLACIER and self.uploads.put(file):
                    # Its record stays: each failure makes the pause longer.
                    continue
            store = "" if file is None else file.store
            if ino in placer.restoring and context.queues.has_room_for(store):
                detail = "a program wanted it while it was archived, and it was restored since"
                self._put_read(ino, detail, store)
                continue
            if file is not None and not file.candidate.raw:
                # Its readers may ask again, and each failure makes the pause longer.
                self._failed_reads[ino] = pending
            async with context.engine.change():
                await context.engine.clear_pending(ino)

    # --- pins, codecs and marks ------------------------------------------------------------------
    async def take_changed(self) -> None:
        """Note what a changed pin, codec or mark concerns."""
        engine = self._context.engine
        for ino in self._context.activity.take_pinned():
            try:
                # The user has spoken: what failed under the former pin is tried at once.
                async with engine.change():
                    await engine.clear_pending(ino)
            except StaleInodeError:
                continue
            self._walk.add(ino)

    async def pinned(self) -> AsyncGenerator[Shown, None]:
        """Show more of the files that changed pins concern, and more of all pinned ones."""
        context = self._context
        shown = Shown(await observe_all(context, await self._next_changed()))
        for candidate in shown.candidates:
            if candidate.held:
                charge(context, candidate)
        yield shown
        yield Shown(await observe_all(context, await self._pin_survey.next_pinned(PINNED_A_ROUND)))

    async def _next_changed(self) -> list[InodeNo]:
        """Return files whose pin, codec or mark may have changed, and end their waiting."""
        context = self._context
        left = [ino for ino in self._moved_elsewhere if ino not in context.queues]
        for ino in left:
            del self._moved_elsewhere[ino]
        found = left + await self._walk.next_files(PINNED_A_ROUND)
        async with context.engine.change():
            for ino in found:
                with contextlib.suppress(StaleInodeError):
                    if ino not in context.queues:
                        await context.engine.clear_pending(ino)
                    elif await self._is_moved_elsewhere(ino):
                        self._moved_elsewhere[ino] = None
        return found

    async def _is_moved_elsewhere(self, ino: InodeNo) -> bool:
        """Return whether a file is in a queue to another goal than its pin asks for."""
        context = self._context
        pin = (await context.engine.effective_pin(ino)).tier
        goal = context.queues.goal(ino)
        return pin is not None and goal != goal_of_pin(pin, context.usage.limits)

    # --- what nobody uses ------------------------------------------------------------------------
    async def unused(self) -> AsyncGenerator[Shown, None]:
        """Show the files on the disk that were not used for longest.

        Nothing is looked for while no file is old enough and the disk has room.
        """
        self.hurried = False
        context, usage = self._context, self._context.usage
        began = usage.cold_draining and not self._draining
        self._draining = usage.cold_draining
        if began:
            self._access_survey.hurry()
            self._drain_again_ns = 0
        if not self._draining:
            limits = usage.limits
            age_ns = min(limits.pack_after_ns, limits.cold_to_glacier_ns)
            marked_ns = context.access_stats.shortest_age_ns
            if marked_ns is not None and marked_ns < age_ns:
                age_ns = marked_ns
            self._access_survey.note_age(age_ns / 1e9)
            inos = await self._access_survey.next_unused(usage.now_ns - age_ns, UNUSED_A_ROUND)
            shown = Shown(await observe_all(context, inos))
        else:
            stats = context.access_stats
            inos = await self._access_survey.next_unused(usage.now_ns, UNUSED_A_ROUND)
            visitors = [InodeNo(ino) for ino in stats.take_visitors(UNUSED_A_ROUND)]
            # Files that nobody used since the start go first, the longest unused first of all.
            first = [*visitors, *(ino for ino in inos if ino not in stats.cold)]
            shown = Shown(await observe_ranked(context, dict.fromkeys(first), Tier.COLD))
        yield shown
        if shown.moved:
            self._access_survey.note_found()
            self.hurried = True
        elif self._draining and context.queues.has_room and usage.now_ns >= self._drain_again_ns:
            shown = await self._next_to_leave_disk()
            yield shown
            self._note_drained(shown)

    async def _next_to_leave_disk(self) -> Shown:
        """Return the files that the queue of the disk lets go."""
        context = self._context
        inos = context.access_stats.next_to_leave_disk(
            context.usage.cold_excess_bytes, UNUSED_A_ROUND
        )
        return Shown(await observe_ranked(context, [InodeNo(ino) for ino in inos], Tier.COLD))

    def _note_drained(self, shown: Shown) -> None:
        for candidate in shown.candidates:
            if candidate.ino not in shown.moved and candidate.local_bytes:
                self._context.access_stats.keep_local(candidate.ino, candidate.local_bytes)
        self.hurried = bool(shown.moved)
        if shown.files and not shown.moved:
            self._drain_again_ns = self._context.usage.now_ns + DRAIN_PAUSE_NS
