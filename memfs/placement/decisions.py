"""Decisions: files that are looked at become moves, by the policy.

Invariant: whoever shows files shows all of them: a plan for a slice has room for all its moves, so
that none is left out that nobody would look at again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memfs.content.residency import LockOutcome, LockRequest
from memfs.errors import StaleInodeError
from memfs.hot.board import Want
from memfs.metadata.records import Decision
from memfs.policy import rules
from memfs.policy.view import Goal
from memfs.types import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memfs.moves.attempt import MoveParts
    from memfs.placement.observation import Observer
    from memfs.placement.queues import MoveQueues
    from memfs.placement.usage import TierUsage
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.plugins import GuardedPlanner
    from memfs.policy.view import Candidate, Move, PoolView
    from memfs.types import InodeNo


class Decider:
    """Asks the policy, and has done what it answers.

    Args:
        parts: The engine and the RAM tier among them.
        usage: How full the tiers are.
        queues: Take the decided moves.
        observer: Looks at files.
        access_stats: Is told what comes into RAM.
        planner: The policy in charge.
    """

    def __init__(
        self,
        parts: MoveParts,
        usage: TierUsage,
        queues: MoveQueues,
        observer: Observer,
        access_stats: AccessStats,
        planner: GuardedPlanner,
    ) -> None:
        self._engine = parts.engine
        self._residency = parts.residency
        self._hot = parts.hot
        self._usage = usage
        self._queues = queues
        self._observer = observer
        self._access_stats = access_stats
        self._planner = planner

    async def observe(self, inos: Iterable[InodeNo], *, fresh: bool = False) -> list[Candidate]:
        """Return the files that can move; no watermark makes them leave a tier.

        Args:
            inos: Files.
            fresh: They were written or used just now.
        """
        now_ns = self._usage.now_ns
        found = [await self._observer.observe(ino, now_ns, fresh) for ino in inos]
        # Only what the queues offer leaves by a watermark; see `observe_ranked`.
        return [
            candidate._replace(leaves_ram=False, leaves_disk=False)
            for candidate in found
            if candidate is not None
        ]

    async def observe_ranked(self, inos: Iterable[InodeNo], tier: Tier) -> list[Candidate]:
        """Return files in the order in which a queue lets them go.

        Args:
            inos: Files, the first to leave first.
            tier: Which they are to leave: warm or cold.
        """
        found = await self.observe(inos)
        return [
            candidate._replace(
                rank=rank, leaves_ram=tier == Tier.WARM, leaves_disk=tier == Tier.COLD
            )
            for rank, candidate in enumerate(found)
        ]

    async def decide(
        self, candidates: Sequence[Candidate], pools: Mapping[str, PoolView] | None = None
    ) -> list[Move]:
        """Plan for some files, lock the fresh ones, and put the other moves into their queues.

        Args:
            candidates: The files.
            pools: Pools of the RAM tier that are to be seen otherwise than they are now.
        """
        moves: list[Move] = []
        slice_count = self._usage.limits.move_count_max
        for at in range(0, len(candidates), slice_count):
            moves += await self._decide_slice(candidates[at : at + slice_count], pools or {})
        return moves

    async def _decide_slice(
        self, candidates: Sequence[Candidate], pools: Mapping[str, PoolView]
    ) -> list[Move]:
        moves = self._planner.plan(self._usage.view(candidates, pools), self._usage.limits)
        shown = {candidate.ino: candidate for candidate in candidates}
        self._tell_hot_tier(candidates)
        admitted = []
        for move in moves:
            candidate = shown[move.ino]
            if move.goal == Goal.WARM and candidate.fresh and candidate.pin is None:
                admitted.append(move)
                continue
            self._queues.put(move)
            if move.rule == rules.WATERMARK and move.goal <= Goal.PACKED:
                self._usage.note_leaving(move.bytes)
        await self._admit(admitted, shown)
        return moves

    def _tell_hot_tier(self, candidates: Sequence[Candidate]) -> None:
        """Have the files that are pinned to it looked at by the hot tier, which moves no forms."""
        if self._hot is not None:
            for candidate in candidates:
                if candidate.pin == Tier.HOT:
                    self._hot.want(Want(candidate.ino))

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
        outcomes = await self._residency.lock_many(requests)
        now_ns = time.time_ns()
        by_ino = {move.ino: move for move in moves}
        async with self._engine.change():
            for request, outcome in zip(requests, outcomes, strict=True):
                if outcome in (LockOutcome.LOCKED, LockOutcome.CACHED):
                    await self._record_admission(by_ino[request.ino], shown[request.ino], now_ns)

    async def _record_admission(self, move: Move, candidate: Candidate, now_ns: int) -> None:
        pools, ino = self._access_stats.pools, move.ino
        pools.hold(ino, candidate.ram_bytes, candidate.priority, candidate.pool, pinned=False)
        try:
            await self._engine.record_decision(
                ino, Decision(move.rule, move.detail, move.bytes, now_ns)
            )
        except StaleInodeError:
            # Deleted while it was locked, after its own release: nobody else would.
            self._residency.release(ino, drop_pages=False)
            pools.leave(ino)
