"""Resident: the files in RAM, charged to their pools, and let go by age and as pools fill.

Invariant: a file is charged before it is locked, and no file is locked beyond its pool: neither a
pin nor a policy takes what another pool has reserved. After a round every resident file that was
looked at is charged to one pool as it is now.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memfs.content.residency import LockOutcome
from memfs.errors import InvalidValueError, RamFullError
from memfs.placement.candidate import observe, observe_all, observe_ranked
from memfs.placement.decide import Shown
from memfs.policy.ages import AGE_SETTING
from memfs.policy.marks import MARKED_SETTING
from memfs.policy.plan import make_room
from memfs.sizes import format_size
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Container

    from memfs.metadata.local import Local
    from memfs.placement.candidate import Observed
    from memfs.placement.context import Context
    from memfs.policy.access_stats import AccessStats
    from memfs.policy.pools import Pool
    from memfs.policy.view import Candidate

log = logging.getLogger(__name__)

POOLS_SETTING = "policy.pools"

FILES_A_STEP = 32
"""The coldest ones, looked at for their age in every round."""

FILES_A_DRAINING_STEP = 512

VICTIMS_LOOKED_AT_MAX = 4096
"""Resident files among which room is looked for."""


# --- pools of an earlier run ---------------------------------------------------------------------
async def load_pools(engine: Local, access_stats: AccessStats, warm_bytes: int) -> None:
    """Take the pools of an earlier run, and whether any file has a mark at all.

    Args:
        engine: Where settings are.
        access_stats: Gets them.
        warm_bytes: Capacity of the RAM tier, of which pools reserve parts.
    """
    access_stats.marked = (
        access_stats.marked or await engine.get_setting(MARKED_SETTING) is not None
    )
    age = await engine.get_setting(AGE_SETTING)
    if age is not None:
        access_stats.note_age(int(age))
    stored = await engine.get_setting(POOLS_SETTING)
    if stored is None:
        return
    try:
        refusals = access_stats.pools.decode(stored, warm_bytes)
    except (ValueError, TypeError, AttributeError, InvalidValueError) as error:
        refusals = [f"the stored pools cannot be read: {error}"]
    for refusal in refusals:
        log.warning("a pool is left out: %s", refusal)


# --- a source ------------------------------------------------------------------------------------
async def resident(context: Context) -> AsyncGenerator[Shown, None]:
    """Show the files that were not used for longest, and those that must leave."""
    residency, pools = context.residency, context.pools
    if residency.held_count > len(pools):
        # Files that were fetched ahead, say.
        held = residency.coldest(residency.held_count)
        unknown = [ino for ino in held if ino not in pools]
        for file in await observe_all(context, unknown[:FILES_A_DRAINING_STEP]):
            charge(context, file.candidate)
    coldest = residency.coldest(FILES_A_STEP)
    stats = context.access_stats
    if stats.shortest_age_ns is not None:
        # By their marks, others than the coldest may leave.
        held = residency.coldest(residency.held_count)
        coldest = list(dict.fromkeys([*coldest, *held[stats.next_held(len(held), FILES_A_STEP)]]))
    shown = Shown(await observe_all(context, coldest))
    for candidate in shown.candidates:
        charge(context, candidate)
    yield shown
    for pool in pools.all():
        yield await _let_pinned_go(context, pool)
        if not pool.draining:
            continue
        used = pool.view()
        needed_bytes = pool.used_bytes - pool.capacity.low_bytes
        inos = [
            InodeNo(ino) for ino in pools.next_to_leave(pool, needed_bytes, FILES_A_DRAINING_STEP)
        ]
        shown = Shown(await observe_ranked(context, inos, Tier.WARM), {pool.name: used})
        for gone in set(inos).difference(candidate.ino for candidate in shown.candidates):
            pools.leave(gone)
        yield shown
        for candidate in shown.candidates:
            if candidate.ino not in shown.moved:
                charge(context, candidate)


async def _let_pinned_go(context: Context, pool: Pool) -> Shown:
    """Bring the pinned files of a pool down to its size, which a new pool may have cut.

    Those that were charged to it last go, and come again as long as there is room by then.
    """
    excess_bytes = pool.pinned_bytes - pool.capacity.size_bytes
    gone = []
    for ino, size_bytes in reversed(pool.pinned.items()):
        if excess_bytes <= 0:
            break
        excess_bytes -= size_bytes
        gone.append(InodeNo(ino))
    for ino in gone:
        await unlock(context, ino, drop_pages=False)
    return Shown(await observe_all(context, gone))


# --- charging and locking ------------------------------------------------------------------------
def charge(context: Context, candidate: Candidate) -> None:
    """Charge a file in RAM to its pool, as it is now."""
    residency, pools, ino = context.residency, context.pools, candidate.ino
    if not candidate.held:
        # It was rewritten, and its end of writing was among events that were lost.
        residency.release(ino, drop_pages=False)
        pools.leave(ino)
        return
    pinned = candidate.pin is not None
    if pinned:
        # It stays whatever its age; out of the way of those that may go.
        residency.touch(ino)
    if ino not in context.queues:
        pools.charge(ino, candidate.ram_bytes, candidate.priority, candidate.pool, pinned=pinned)


async def lock(context: Context, file: Observed) -> bool:
    """Hold a file in RAM; a pinned one may push unpinned ones out.

    Returns:
        False if it is not held: it has changed, or it is not pinned and has no room.

    Raises:
        RamFullError: It is pinned, and has no room beside other pinned ones.
    """
    inode, candidate = file.inode, file.candidate
    residency, pools = context.residency, context.pools
    if not residency.holds(inode.ino, inode.raw, inode.size):
        # What it was before it was rewritten no longer takes room.
        residency.release(inode.ino, drop_pages=False)
        pools.leave(inode.ino)
    outcome = await _try_to_lock(context, file)
    if outcome == LockOutcome.NO_ROOM and candidate.pin is not None:
        await _make_room(context, candidate)
        outcome = await _try_to_lock(context, file)
        if outcome == LockOutcome.NO_ROOM:
            raise RamFullError(_refusal(pools.pool(candidate.pool)))
    return outcome in (LockOutcome.LOCKED, LockOutcome.CACHED)


async def unlock(context: Context, ino: InodeNo, *, drop_pages: bool) -> int:
    """Give a file's pages back; returns their bytes. See `Residency.unlock`."""
    freed_bytes = await context.residency.unlock(ino, drop_pages=drop_pages)
    context.pools.leave(ino)
    return freed_bytes


async def _try_to_lock(context: Context, file: Observed) -> LockOutcome:
    inode, candidate = file.inode, file.candidate
    if _excess_bytes(context, candidate) > 0:
        return LockOutcome.NO_ROOM
    # Before the pages are read in, so that two files do not take the same room.
    context.pools.charge(
        candidate.ino,
        candidate.ram_bytes,
        candidate.priority,
        candidate.pool,
        pinned=candidate.pin is not None,
    )
    outcome = await context.residency.lock(inode.ino, inode.raw, inode.size)
    if outcome not in (LockOutcome.LOCKED, LockOutcome.CACHED):
        context.pools.leave(candidate.ino)
    return outcome


async def _make_room(context: Context, candidate: Candidate) -> None:
    """Have unpinned files leave: those of its pool, then those that no pool protects."""
    name = context.pools.pool(candidate.pool).name
    await _push_out(context, _excess_bytes(context, candidate), {name})
    if _excess_bytes(context, candidate) > 0:
        return
    residency = context.residency
    needed_bytes = residency.used_bytes + candidate.ram_bytes - residency.capacity_bytes
    await _push_out(context, needed_bytes, {name, ""})


async def _push_out(context: Context, needed_bytes: int, pools: Container[str]) -> None:
    if needed_bytes <= 0:
        return
    now_ns = context.clock()
    held = []
    for ino in context.residency.coldest(VICTIMS_LOOKED_AT_MAX):
        file = await observe(context, ino, now_ns)
        if file is not None:
            held.append(file.candidate)
    for victim in make_room(held, needed_bytes, pools):
        await unlock(context, victim.ino, drop_pages=False)


def _excess_bytes(context: Context, candidate: Candidate) -> int:
    """Return by how much a file would make its pool too large."""
    pool = context.pools.pool(candidate.pool)
    return pool.used_bytes + candidate.ram_bytes - pool.capacity.size_bytes


def _refusal(pool: Pool) -> str:
    size = format_size(pool.capacity.size_bytes)
    if pool.name:
        return (
            f"pool {pool.name} ({size}) is full of pinned files, or smaller than this one; unpin "
            f"others, or give it more by `memfs pool create {pool.name} --size`"
        )
    return (
        f"the RAM tier ({size} without pools) is full of pinned files, or smaller than this one; "
        "unpin others or raise warm.size"
    )
