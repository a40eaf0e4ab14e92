"""Rounds: what programs did and what lies around, turned into decided moves.

Invariant: every part of a round is bounded, and a round with nothing to do costs next to nothing.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from memfs.content.residency import LockOutcome, LockRequest
from memfs.content.space import measure_cold_space
from memfs.errors import StaleInodeError
from memfs.metadata.records import Decision
from memfs.mover.limits import limits_of
from memfs.mover.subtrees import SubtreeWalk
from memfs.mover.surveys import AccessSurvey, PinSurvey
from memfs.policy.goals import goal_of_pin, next_step
from memfs.policy.plan import is_draining
from memfs.policy.view import Budget, Goal, Move, TierView
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from memfs.content.activity import Activity
    from memfs.metadata.records import PendingMove
    from memfs.mover.lanes import Lanes
    from memfs.mover.observation import Observer
    from memfs.mover.placement import Placer
    from memfs.moves.attempt import MoveParts
    from memfs.moves.moves import Moves
    from memfs.policy.heat import Heat
    from memfs.policy.plugins import GuardedPlanner
    from memfs.policy.shares import Share
    from memfs.policy.view import Candidate, ShareView

FRESH_A_ROUND = 512
"""Files written or used just now that are looked at in one round: some 20 ms. The rest, an
overload, is left to the kernel's own cache unless it is pinned."""

PINS_A_ROUND = 512
ACCESSES_A_ROUND = 128
DUE_A_ROUND = 64
HELD_A_ROUND = 32
"""Held files, the coldest first, looked at for their age in every round."""

HELD_A_DRAINING_ROUND = 512

IDLE_COPY_S = 60.0
"""The raw copy of a file that is pinned to a slower tier goes after so long without use. Guess:
spans the pauses of a program that opens a file again and again."""

FAILED_READS_MAX = 1024
"""Files remembered that could not be fetched for their readers; some 200 kB."""


class Rounds:
    """Decides, round after round.

    Args:
        parts: The engine and the owners of state.
        moves: Knows which files were hydrated.
        activity: What programs did.
        lanes: Take the decided moves.
        observer: Looks at files.
        placer: Records what waits.
        heat: What is known of the use of files.
        planner: The policy in charge.
        state_dir: On the disk of the cold tier.
    """

    def __init__(
        self,
        parts: MoveParts,
        moves: Moves,
        activity: Activity,
        lanes: Lanes,
        observer: Observer,
        placer: Placer,
        heat: Heat,
        planner: GuardedPlanner,
        state_dir: Path,
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._moves = moves
        self._activity = activity
        self._lanes = lanes
        self._observer = observer
        self._placer = placer
        self._heat = heat
        self._planner = planner
        self._state_dir = state_dir
        self._walk = SubtreeWalk(parts.engine)
        self._repinned: dict[InodeNo, None] = {}
        """Files whose pin changed while they were being moved by the former one."""
        self._failed_reads: dict[InodeNo, PendingMove] = {}
        # All pins once: what was pinned warm is not in RAM after a start.
        self._pin_survey = PinSurvey(parts.engine)
        self._access_survey = AccessSurvey(parts.engine)
        self._limits = limits_of(parts.config, 0, 0, glacier=False)
        self._cold_used_bytes = 0
        self._cold_draining = False
        self._now_ns = 0

    async def step(self) -> bool:
        """Look at what has happened and decide; returns True if there is more to look at."""
        self._now_ns = time.time_ns()
        await self._measure()
        if self._activity.rescan:
            self._activity.rescan = False
            self._pin_survey.begin()
        # First, so that a copy just fetched for a program is not taken away at once.
        await self._put_off_hydrated()
        await self._decide(await self._observe_fresh(await self._take_fresh()))
        await self._decide_wanted()
        await self._take_pinned()
        if self._lanes.has_room:
            await self._decide_repinned()
            await self._decide(await self._observe(await self._pin_survey.step(PINS_A_ROUND)))
            await self._decide_due()
            await self._decide_held()
            await self._decide_unused()
        return not (self._walk.done and self._pin_survey.done)

    def status(self) -> dict[str, object]:
        """Return budgets and what is under way, for `memfs status`."""
        return {
            "warm": self._parts.residency.status() | {"draining": self._heat.shares.rest.draining},
            "cold": {
                "budget_bytes": self._limits.cold.size_bytes,
                "used_bytes": self._cold_used_bytes,
                "draining": self._cold_draining,
            },
            "store_refusal": self._placer.gate.reason,
            "surveying_pins": not self._pin_survey.done,
        }

    # --- what there is to look at ----------------------------------------------------------------
    async def _measure(self) -> None:
        """Bring budgets, use and draining up to now."""
        parts = self._parts
        space = measure_cold_space(self._state_dir, parts.config.cold, await self._engine.usage())
        shares = self._heat.shares
        self._limits = limits_of(
            parts.config,
            max(0, parts.residency.budget_bytes - sum(shares.sizes.values())),
            space.budget_bytes,
            glacier=parts.remote is not None,
        )._replace(store_ready=self._placer.store_ready)
        self._cold_used_bytes = max(0, space.used_bytes - self._lanes.freeing_bytes)
        self._heat.limits = self._limits
        self._heat.cold.resize(self._limits.cold.high_bytes)
        self._measure_shares()
        draining = is_draining(self._cold_draining, self._cold_used_bytes, self._limits.cold)
        if draining and not self._cold_draining:
            self._access_survey.hurry()
        self._cold_draining = draining

    def _measure_shares(self) -> None:
        shares, warm = self._heat.shares, self._parts.config.warm
        if len(shares) > self._parts.residency.held_count:
            shares.retain(lambda ino: self._parts.residency.is_held(InodeNo(ino)))
        shares.rest.resize(self._limits.warm)
        for name, size_bytes in shares.sizes.items():
            shares.pools[name].resize(
                Budget.of(size_bytes, warm.high_watermark, warm.low_watermark)
            )
        for share in (shares.rest, *shares.pools.values()):
            share.draining = is_draining(share.draining, share.used_bytes, share.budget)

    async def _put_off_hydrated(self) -> None:
        """Note when the raw copies of files pinned to slower tiers go again."""
        for ino in self._moves.take_hydrated():
            candidate = await self._observer.observe(ino, self._now_ns)
            if candidate is None:
                continue
            if candidate.pin is None:
                self._heat.take_local(ino, candidate.local_bytes, copied=candidate.remote)
            if candidate.pin is None or candidate.pin >= Tier.WARM:
                continue
            # One that was rewritten is the only form of its content and no copy.
            copied = candidate.packed or candidate.remote
            settled = next_step(candidate, goal_of_pin(candidate.pin, self._limits)) is None
            if copied and not settled and ino not in self._lanes:
                reason = f"it was used; its local copy goes after {IDLE_COPY_S:.0f} s without use"
                await self._placer.postpone(ino, candidate.pin, reason, IDLE_COPY_S)

    async def _take_fresh(self) -> list[InodeNo]:
        """Store the last uses; returns files written or used since the last round."""
        accesses = self._activity.take_accesses()
        if accesses:
            await self._engine.record_access(accesses)
            self._engine.commit_nowait()
        fresh = dict.fromkeys(self._activity.take_sealed())
        if len(fresh) > FRESH_A_ROUND:
            # Some of the rest may be pinned; that is what the survey is for.
            self._pin_survey.begin()
        for ino, _ in accesses:
            if self._parts.residency.is_held(ino):
                self._use_held(ino)
            elif len(fresh) < FRESH_A_ROUND:
                fresh[ino] = None
        return list(fresh)[:FRESH_A_ROUND]

    def _use_held(self, ino: InodeNo) -> None:
        residency = self._parts.residency
        residency.touch(ino)
        size = residency.charged_bytes(ino)
        share = self._heat.shares.share_of(ino)
        if share is not None:
            share.queue.access(ino, size)
        self._heat.use_local(ino, size, copied=False)

    async def _observe_fresh(self, inos: Iterable[InodeNo]) -> list[Candidate]:
        """Return files that were written or used just now, with what their queues make of that."""
        room_bytes = {
            share.name: share.queue.capacity_bytes - share.queue.used_bytes
            for share in (self._heat.shares.rest, *self._heat.shares.pools.values())
        }
        weighed = []
        for candidate in await self._observe(inos, fresh=True):
            candidate = self._weigh(candidate, room_bytes.get(candidate.pool, 0))
            if candidate.admitted and candidate.pool in room_bytes:
                room_bytes[candidate.pool] -= candidate.ram_bytes
            weighed.append(candidate)
        return weighed

    def _weigh(self, candidate: Candidate, room_bytes: int) -> Candidate:
        """Count a use; `room_bytes` are left of the file's share of RAM by those before it."""
        heat, ino = self._heat, candidate.ino
        read_often = False
        if candidate.raw or candidate.packed:
            heat.use_local(ino, candidate.local_bytes, copied=candidate.remote)
        else:
            heat.cold.access(ino, candidate.ram_bytes)
        if not candidate.raw:
            read_often = heat.is_read_often(ino, candidate.ram_bytes, self._now_ns)
        queue = heat.shares.share(candidate.pool).queue
        admitted = queue.access(ino, candidate.ram_bytes) or queue.admits(ino, candidate.ram_bytes)
        if queue.frozen and ino not in queue and candidate.ram_bytes > room_bytes:
            admitted = False
        return candidate._replace(admitted=admitted, read_often=read_often)

    async def _take_pinned(self) -> None:
        """Start the walk through what a changed pin or codec concerns."""
        for ino in self._activity.take_pinned():
            try:
                # The user has spoken: what failed under the former pin is tried at once.
                await self._engine.clear_pending(ino)
                self._engine.commit_nowait()
            except StaleInodeError:
                continue
            self._walk.add(ino)

    async def _decide_repinned(self) -> None:
        """Look at files whose pin may have changed."""
        left = [ino for ino in self._repinned if ino not in self._lanes]
        for ino in left:
            del self._repinned[ino]
        found = left + await self._walk.step(PINS_A_ROUND)
        for ino in found:
            with contextlib.suppress(StaleInodeError):
                if ino not in self._lanes:
                    await self._engine.clear_pending(ino)
                elif await self._is_moved_elsewhere(ino):
                    self._repinned[ino] = None
        self._engine.commit_nowait()
        candidates = await self._observe(found)
        for candidate in candidates:
            if candidate.held:
                self._account_held(candidate)
        await self._decide(candidates)

    async def _is_moved_elsewhere(self, ino: InodeNo) -> bool:
        """Return whether a file is in a lane to another goal than its pin asks for."""
        pin = (await self._engine.effective_pin(ino)).tier
        return pin is not None and self._lanes.goal(ino) != goal_of_pin(pin, self._limits)

    async def _decide_wanted(self) -> None:
        """Hydrate files of which programs read much from their frames."""
        for ino in self._activity.take_wanted():
            candidate = await self._observer.observe(ino, self._now_ns)
            if candidate is None or candidate.raw or candidate.waiting:
                continue
            if (failed := self._failed_reads.pop(ino, None)) is not None:
                # So that the pause after another failure is twice as long.
                await self._engine.set_pending(failed)
                self._engine.commit_nowait()
            if self._lanes.has_room:
                detail = "so much of it is read that a local copy is cheaper"
                self._lanes.put(Move(ino, Goal.LOCAL, "read", detail, 0))

    async def _decide_due(self) -> None:
        """Look again at files whose time has come; those that are wanted elsewhere no more go."""
        for pending in await self._engine.list_pending(self._now_ns, DUE_A_ROUND):
            if pending.ino in self._lanes:
                continue
            if pending.wanted == Tier.GLACIER and not self._placer.store_ready:
                await self._placer.wait_for_store(pending.ino, pending.wanted)
                continue
            candidate = await self._observer.observe(pending.ino, self._now_ns)
            moves = await self._decide([candidate] if candidate is not None else [])
            if not moves:
                if pending.ino in self._placer.restoring and self._lanes.has_room:
                    detail = "a program wanted it while it was archived, and it was restored since"
                    self._lanes.put(Move(pending.ino, Goal.LOCAL, "read", detail, 0))
                    continue
                if candidate is not None and not candidate.raw:
                    self._note_failed_read(pending)
                await self._engine.clear_pending(pending.ino)
                self._engine.commit_nowait()

    def _note_failed_read(self, pending: PendingMove) -> None:
        """Remember how often a file could not be fetched for its readers, who may ask again."""
        if len(self._failed_reads) >= FAILED_READS_MAX:
            del self._failed_reads[next(iter(self._failed_reads))]
        self._failed_reads[pending.ino] = pending

    async def _decide_held(self) -> None:
        """Look at the files in RAM that were not used for longest, and at those that must leave."""
        shares = self._heat.shares
        residency = self._parts.residency
        if residency.held_count > len(shares):
            # Files that were fetched ahead, say.
            held = residency.coldest(residency.held_count)
            unknown = [ino for ino in held if ino not in shares]
            for candidate in await self._observe(unknown[:HELD_A_DRAINING_ROUND]):
                self._account_held(candidate)
        candidates = await self._observe(residency.coldest(HELD_A_ROUND))
        for candidate in candidates:
            self._account_held(candidate)
        await self._decide(candidates)
        for share in (shares.rest, *shares.pools.values()):
            if share.draining:
                await self._drain(share)

    def _account_held(self, candidate: Candidate) -> None:
        """Have a file in RAM be charged as it is now."""
        residency, shares, ino = self._parts.residency, self._heat.shares, candidate.ino
        if not candidate.held:
            # It was rewritten, and its end of writing was among events that were lost.
            residency.release(ino, drop_pages=False)
            shares.leave(ino)
            return
        pinned = candidate.pin is not None
        if pinned:
            # It stays whatever its age; out of the way of those that may go.
            residency.touch(ino)
        if ino not in self._lanes:
            shares.hold(ino, candidate.ram_bytes, candidate.priority, candidate.pool, pinned=pinned)

    async def _drain(self, share: Share) -> None:
        """Have the files of a share leave RAM that its queue lets go."""
        shares, used = self._heat.shares, share.view()
        needed_bytes = share.used_bytes - share.budget.low_bytes
        inos = shares.next_to_leave(share, needed_bytes, HELD_A_DRAINING_ROUND)
        candidates = await self._observe_ranked([InodeNo(ino) for ino in inos], Tier.WARM)
        for gone in set(inos).difference(candidate.ino for candidate in candidates):
            shares.leave(gone)
        moved = {move.ino for move in await self._decide(candidates, {share.name: used})}
        for candidate in candidates:
            if candidate.ino not in moved:
                self._account_held(candidate)

    async def _decide_unused(self) -> None:
        """Look at the files on the disk that were not used for longest."""
        age_ns = 0 if self._cold_draining else self._age_ns_min()
        inos = await self._access_survey.step(self._now_ns - age_ns, ACCESSES_A_ROUND)
        if not self._cold_draining:
            if await self._decide(await self._observe(inos)):
                self._access_survey.note_found()
            return
        visitors = [InodeNo(ino) for ino in self._heat.take_visitors(ACCESSES_A_ROUND)]
        # Files that nobody used since the start go first, the longest unused first of all.
        first = [*visitors, *(ino for ino in inos if ino not in self._heat.cold)]
        if await self._decide(await self._observe_ranked(dict.fromkeys(first), Tier.COLD)):
            self._access_survey.note_found()
        elif self._lanes.has_room:
            await self._drain_disk()

    async def _drain_disk(self) -> None:
        """Have the files leave the disk that its queue lets go."""
        needed_bytes = self._cold_used_bytes - self._limits.cold.low_bytes
        inos = self._heat.next_to_leave_disk(needed_bytes, ACCESSES_A_ROUND)
        candidates = await self._observe_ranked([InodeNo(ino) for ino in inos], Tier.COLD)
        moved = {move.ino for move in await self._decide(candidates)}
        for candidate in candidates:
            if candidate.ino not in moved and candidate.local_bytes:
                self._heat.keep_local(candidate.ino, candidate.local_bytes)

    async def _observe_ranked(self, inos: Iterable[InodeNo], tier: Tier) -> list[Candidate]:
        """Return files in the order in which they are to leave a tier."""
        found = await self._observe(inos)
        return [
            candidate._replace(
                rank=rank, leaves_ram=tier == Tier.WARM, leaves_disk=tier == Tier.COLD
            )
            for rank, candidate in enumerate(found)
        ]

    def _age_ns_min(self) -> int:
        return min(self._limits.pack_after_ns, self._limits.cold_to_glacier_ns)

    # --- deciding --------------------------------------------------------------------------------
    async def _observe(self, inos: Iterable[InodeNo], *, fresh: bool = False) -> list[Candidate]:
        found = [await self._observer.observe(ino, self._now_ns, fresh) for ino in inos]
        # Only what the queues offer leaves by a watermark; see `_observe_ranked`.
        return [
            candidate._replace(leaves_ram=False, leaves_disk=False)
            for candidate in found
            if candidate is not None
        ]

    async def _decide(
        self, candidates: Sequence[Candidate], shares: Mapping[str, ShareView] | None = None
    ) -> list[Move]:
        """Plan for some files, lock the fresh ones, and put the other moves into their lanes.

        Args:
            candidates: The files.
            shares: Shares of the RAM tier that are to be seen otherwise than they are now.
        """
        moves: list[Move] = []
        # A plan for no more files than it has moves leaves none out: nobody would look again.
        slice_count = self._limits.move_count_max
        for at in range(0, len(candidates), slice_count):
            moves += await self._decide_slice(candidates[at : at + slice_count], shares or {})
        return moves

    async def _decide_slice(
        self, candidates: Sequence[Candidate], shares: Mapping[str, ShareView]
    ) -> list[Move]:
        heat = self._heat.shares
        rest = shares.get("") or heat.rest.view()
        view = TierView(
            self._now_ns,
            rest.used_bytes,
            self._cold_used_bytes,
            rest.draining,
            self._cold_draining,
            candidates,
            {name: shares.get(name) or share.view() for name, share in heat.pools.items()},
        )
        moves = self._planner.plan(view, self._limits)
        shown = {candidate.ino: candidate for candidate in candidates}
        admitted = []
        for move in moves:
            candidate = shown[move.ino]
            if move.goal == Goal.WARM and candidate.fresh and candidate.pin is None:
                admitted.append(move)
                continue
            self._lanes.put(move)
            if move.rule == "watermark" and move.goal <= Goal.PACKED:
                self._cold_used_bytes = max(0, self._cold_used_bytes - move.bytes)
        await self._admit(admitted, shown)
        return moves

    async def _admit(self, moves: Sequence[Move], shown: Mapping[InodeNo, Candidate]) -> None:
        """Lock fresh files: they are cached, so this takes microseconds, in one thread for all."""
        requests = []
        for move in moves:
            try:
                inode = await self._engine.get_inode(move.ino)
            except StaleInodeError:
                continue
            if inode.raw:
                requests.append(LockRequest(inode.ino, inode.raw, inode.size))
        if not requests:
            return
        outcomes = await self._parts.residency.lock_many(requests)
        now_ns = time.time_ns()
        details = {move.ino: move for move in moves}
        for request, outcome in zip(requests, outcomes, strict=True):
            if outcome in (LockOutcome.LOCKED, LockOutcome.CACHED):
                move, candidate = details[request.ino], shown[request.ino]
                self._heat.shares.hold(
                    request.ino,
                    candidate.ram_bytes,
                    candidate.priority,
                    candidate.pool,
                    pinned=False,
                )
                decision = Decision(move.rule, move.detail, move.bytes, now_ns)
                try:
                    await self._engine.record_decision(request.ino, decision)
                except StaleInodeError:
                    # Deleted while it was locked, after its own release: nobody else would.
                    self._parts.residency.release(request.ino, drop_pages=False)
                    self._heat.shares.leave(request.ino)
        self._engine.commit_nowait()
