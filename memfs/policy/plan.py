"""Plan: which files go where, as a pure function of what is there, the limits and the clock.

Invariant: no I/O, no clock, no randomness: the same view gives the same plan. A plan never names a
file that is being written, and never promotes beyond a capacity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.policy import rules
from memfs.policy.goals import goal_of_pin, next_step
from memfs.policy.view import Candidate, Capacity, Goal, Limits, Move, PoolView, TierView

if TYPE_CHECKING:
    from collections.abc import Container, Iterable


def is_draining(draining: bool, used_bytes: int, capacity: Capacity) -> bool:
    """Return whether a tier is to be emptied: from above high down to low (hysteresis)."""
    return used_bytes > (capacity.low_bytes if draining else capacity.high_bytes)


def eviction_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the files in the order in which they leave a tier.

    Those of low priority first, then as their queues let them go, then the longest unused.
    """
    return sorted(candidates, key=lambda c: (c.priority, c.rank, c.accessed_ns, c.ino))


def plan(view: TierView, limits: Limits) -> list[Move]:
    """Return the moves that bring the files of a view nearer to where they belong.

    Pins come first, then age limits, the admission of fresh files to RAM, the promotion of files
    that are opened often, and watermarks. A pinned file moves by its pin only.

    Args:
        view: Files, use and clock.
        limits: Capacities and ages.
    """
    moves = {move.ino: move for move in _by_pin(view, limits)}
    free = [c for c in view.candidates if c.pin is None and not c.waiting]
    for move in _by_age(view, limits, free):
        moves[move.ino] = move
    for move in _by_admission(view, limits, [c for c in free if c.ino not in moves]):
        moves[move.ino] = move
    for move in _by_frequency(limits, [c for c in free if c.ino not in moves]):
        moves[move.ino] = move
    for move in _from_ram(view, limits, [c for c in free if c.ino not in moves]):
        moves[move.ino] = move
    # A file on its way out of RAM may as well leave the disk.
    leaving = {ino for ino, move in moves.items() if move.goal <= Goal.PACKED}
    staying = {ino for ino, move in moves.items() if move.goal >= Goal.LOCAL}
    for move in _from_disk(view, limits, [c for c in free if c.ino not in leaving | staying]):
        moves[move.ino] = move
    return list(moves.values())[: limits.move_count_max]


def make_room(
    candidates: Iterable[Candidate], needed_bytes: int, pools: Container[str]
) -> list[Candidate]:
    """Return the held, unpinned files that leave RAM for one that must be there.

    Args:
        candidates: Held files.
        needed_bytes: To be freed.
        pools: Whose files may leave; the empty name stands for what no pool has reserved.

    Returns:
        Files of `needed_bytes` together, in eviction order; empty if that is not possible.
    """
    victims: list[Candidate] = []
    freed_bytes = 0
    free = (c for c in candidates if c.held and c.pin is None and c.pool in pools)
    for candidate in eviction_order(free):
        if freed_bytes >= needed_bytes:
            break
        victims.append(candidate)
        freed_bytes += candidate.ram_bytes
    return victims if freed_bytes >= needed_bytes else []


def _move(candidate: Candidate, goal: Goal, rule: str, detail: str, size: int) -> Move:
    return Move(candidate.ino, goal, rule, detail, size, candidate.priority)


def _by_pin(view: TierView, limits: Limits) -> list[Move]:
    moves = []
    for candidate in view.candidates:
        if candidate.pin is None or candidate.waiting:
            continue
        goal = goal_of_pin(candidate.pin, limits)
        if goal == Goal.GLACIER and candidate.store_waits:
            continue
        if next_step(candidate, goal) is not None:
            size = candidate.ram_bytes if goal == Goal.WARM else candidate.local_bytes
            detail = f"pinned to {candidate.pin.label}"
            moves.append(_move(candidate, goal, rules.PIN, detail, size))
    return moves


def _pool(view: TierView, limits: Limits, pool_name: str) -> PoolView:
    """Return what a pool_name has of the RAM tier; that of no pool_name for an unknown one."""
    rest = PoolView(limits.warm, view.warm_used_bytes, view.warm_draining)
    return view.pools.get(pool_name, rest)


def _by_admission(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    moves = []
    taken_bytes: dict[str, int] = {}
    for candidate in free:
        if not candidate.fresh or candidate.held or not candidate.raw or not candidate.admitted:
            continue
        pool_name = candidate.pool if candidate.pool in view.pools else ""
        pool = _pool(view, limits, pool_name)
        taken = taken_bytes.get(pool_name, 0) + candidate.ram_bytes
        if pool.used_bytes + taken > pool.capacity.size_bytes:
            continue
        taken_bytes[pool_name] = taken
        where = f"pool {pool_name}" if pool_name else "the RAM tier"
        detail = f"written or used just now, and {where} has room"
        moves.append(_move(candidate, Goal.WARM, rules.SEAL, detail, candidate.ram_bytes))
    return moves


def _by_frequency(limits: Limits, free: list[Candidate]) -> list[Move]:
    """Make raw what is opened again and again without a raw file."""
    moves = []
    for candidate in free:
        if not candidate.read_often or candidate.raw:
            continue
        if not candidate.packed and not limits.store_ready:
            continue
        detail = "opened so often within policy.promote_window that a raw copy is cheaper"
        moves.append(_move(candidate, Goal.LOCAL, rules.FREQUENCY, detail, candidate.ram_bytes))
    return moves


def _by_age(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    moves = []
    store = limits.glacier and limits.store_ready
    for candidate in free:
        if candidate.open:
            continue
        idle_ns = view.now_ns - candidate.accessed_ns
        local = candidate.raw or candidate.packed
        ages = limits.ages_of(candidate.ages)
        for (age_ns, key), goal, possible in (
            (ages.cold_to_glacier, Goal.GLACIER, store and not candidate.store_waits),
            (ages.pack_after, Goal.PACKED, True),
            (ages.warm_to_cold, Goal.COLD, True),
        ):
            if not possible or idle_ns < age_ns or not local:
                continue
            if next_step(candidate, goal) is None:
                break
            detail = f"not used for {idle_ns // 1_000_000_000} s, beyond {key}"
            size = candidate.ram_bytes if goal == Goal.COLD else candidate.local_bytes
            moves.append(_move(candidate, goal, rules.AGE, detail, size))
            break
    return moves


def _from_ram(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    moves = []
    freed_bytes: dict[str, int] = {}
    for candidate in eviction_order(c for c in free if c.held and c.leaves_ram):
        pool_name = candidate.pool if candidate.pool in view.pools else ""
        pool = _pool(view, limits, pool_name)
        freed = freed_bytes.get(pool_name, 0)
        if not pool.draining or pool.used_bytes - freed <= pool.capacity.low_bytes:
            continue
        freed_bytes[pool_name] = freed + candidate.ram_bytes
        where = f"pool {pool_name}" if pool_name else "the RAM tier"
        detail = (
            f"{where} was filled beyond {pool.capacity.high_bytes} bytes, and this file is the "
            f"next to leave: priority {candidate.priority}, {candidate.uses} uses on record"
        )
        moves.append(_move(candidate, Goal.COLD, rules.WATERMARK, detail, candidate.ram_bytes))
    return moves


def _from_disk(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    if not view.cold_draining:
        return []
    moves = []
    used_bytes = view.cold_used_bytes
    store = limits.glacier and limits.store_ready and limits.store_frees
    detail = f"the disk tier was filled beyond {limits.cold.high_bytes} bytes"
    if limits.glacier and not limits.store_frees:
        detail += "; the object store lies on the same disk, and moving there would free nothing"
    for candidate in eviction_order(
        c for c in free if c.local_bytes and not c.open and c.leaves_disk
    ):
        if used_bytes <= limits.cold.low_bytes:
            break
        goal = Goal.GLACIER if store and not candidate.store_waits else Goal.PACKED
        if next_step(candidate, goal) is None:
            continue
        used_bytes -= candidate.local_bytes
        moves.append(_move(candidate, goal, rules.WATERMARK, detail, candidate.local_bytes))
    return moves
