"""Decisions: files that a source shows become moves, by the policy.

Invariant: who shows files shows all of them: a plan for a slice has room for all its moves, so
that no file is left out that nobody would look at again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memfs.content.residency import LockOutcome, LockRequest
from memfs.errors import StaleInodeError
from memfs.hot.board import Want
from memfs.metadata.records import Decision, PendingMove
from memfs.placement.queues import WAITING_COUNT_MAX
from memfs.policy import rules
from memfs.policy.view import Goal, TierView
from memfs.types import PendingCode, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.placement.candidate import Observed
    from memfs.placement.context import Context
    from memfs.policy.view import Candidate, Move, PoolView
    from memfs.types import InodeNo


@dataclass(slots=True)
class Shown:
    """Files that a source shows; when it goes on, it knows what came of them."""

    files: Sequence[Observed]
    pools: Mapping[str, PoolView] = field(default_factory=dict)
    """Pools of the RAM tier that are to be seen otherwise than they are now."""
    moved: frozenset[InodeNo] = frozenset()
    """Those that are to be moved, once that is decided; some of them wait for their queue."""

    @property
    def candidates(self) -> list[Candidate]:
        """What the policy sees of the files."""
        return [file.candidate for file in self.files]


async def decide(context: Context, shown: Shown) -> None:
    """Plan for some files, lock the fresh ones, and put the other moves into their queues."""
    slice_count = context.usage.limits.move_count_max
    for at in range(0, len(shown.files), slice_count):
        files = shown.files[at : at + slice_count]
        shown.moved |= await _decide_slice(context, files, shown.pools)


async def _decide_slice(
    context: Context, files: Sequence[Observed], pools: Mapping[str, PoolView]
) -> frozenset[InodeNo]:
    usage = context.usage
    candidates = [file.candidate for file in files]
    by_ino = {file.inode.ino: file for file in files}
    moves = [
        move
        for move in context.planner.plan(_view(context, candidates, pools), usage.limits)
        # A policy of a user's need not know.
        if move.goal != Goal.GLACIER or not by_ino[move.ino].candidate.store_waits
    ]
    _tell_hot_tier(context, candidates)
    admitted = []
    passed_over = []
    for move in moves:
        file = by_ino[move.ino]
        if move.goal == Goal.WARM and file.candidate.fresh and file.candidate.pin is None:
            admitted.append((move, file))
            continue
        if context.queues.passes_over(move, file.store):
            passed_over.append((move, file))
            continue
        context.queues.put(move, file.store)
        if move.rule == rules.WATERMARK and move.goal <= Goal.PACKED:
            usage.note_leaving(move.bytes)
    await _admit(context, admitted)
    await _put_off(context, passed_over)
    return frozenset(move.ino for move in moves)


async def _put_off(context: Context, passed_over: Sequence[tuple[Move, Observed]]) -> None:
    """Have files wait that their store's queue has no room for, beside files of other stores."""
    if not passed_over:
        return
    now_ns = context.clock()
    retry_ns = now_ns + int(context.config.policy.retry_s_min * 1e9)
    async with context.engine.change():
        for move, file in passed_over:
            named = f"the store {file.store}" if file.store else "the object store"
            reason = (
                f"{WAITING_COUNT_MAX} moves of files of {named} wait already: it is slower than "
                "files come, or does not answer"
            )
            pending = PendingMove(
                move.ino, move.goal.tier, reason, 0, retry_ns, now_ns, PendingCode.STORE
            )
            with contextlib.suppress(StaleInodeError):
                await context.engine.set_pending(pending)


def _view(
    context: Context, candidates: Sequence[Candidate], pools: Mapping[str, PoolView]
) -> TierView:
    """Return what the policy sees."""
    usage = context.usage
    rest = pools.get("") or context.pools.rest.view()
    return TierView(
        usage.now_ns,
        rest.used_bytes,
        usage.cold_used_bytes,
        rest.draining,
        usage.cold_draining,
        candidates,
        {name: pools.get(name) or pool.view() for name, pool in context.pools.named.items()},
    )


def _tell_hot_tier(context: Context, candidates: Sequence[Candidate]) -> None:
    """Have the files that are pinned to it looked at by the hot tier, which moves no forms."""
    if context.parts.hot is not None:
        for candidate in candidates:
            if candidate.pin == Tier.HOT:
                context.parts.hot.want(Want(candidate.ino))


async def _admit(context: Context, admitted: Sequence[tuple[Move, Observed]]) -> None:
    """Lock fresh files: they are cached, so this takes microseconds, in one thread for all."""
    chosen = [(move, file) for move, file in admitted if file.inode.raw]
    if not chosen:
        return
    outcomes = await context.residency.lock_many(
        [LockRequest(file.inode.ino, file.inode.raw, file.inode.size) for _, file in chosen]
    )
    now_ns = context.clock()
    async with context.engine.change():
        for (move, file), outcome in zip(chosen, outcomes, strict=True):
            if outcome in (LockOutcome.LOCKED, LockOutcome.CACHED):
                await _record_admission(context, move, file.candidate, now_ns)


async def _record_admission(
    context: Context, move: Move, candidate: Candidate, now_ns: int
) -> None:
    pools, ino = context.pools, move.ino
    pools.charge(ino, candidate.ram_bytes, candidate.priority, candidate.pool, pinned=False)
    try:
        await context.engine.record_decision(
            ino, Decision(move.rule, move.detail, move.bytes, now_ns)
        )
    except StaleInodeError:
        # Deleted while it was locked, after its own release: nobody else would.
        context.residency.release(ino, drop_pages=False)
        pools.leave(ino)
