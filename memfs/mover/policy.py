"""Policy: which files go where, as a pure function of what is there, the limits and the clock.

Invariant: no I/O, no clock, no randomness: the same view gives the same plan. A plan never names a
file that is being written, and never promotes beyond a budget.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Goal(enum.IntEnum):
    """Where a file is to be; finer than a tier."""

    GLACIER = 1
    """Remote form only."""
    PACKED = 2
    """Compressed on the local disk, or raw where that saves nothing; not in RAM."""
    COLD = 3
    """Not held in RAM; its forms stay as they are."""
    LOCAL = 4
    """With a raw file, wherever its pages are."""
    WARM = 5
    """With a raw file that is held in RAM."""

    @property
    def tier(self) -> Tier:
        """The tier that a user sees when the goal is reached."""
        if self == Goal.GLACIER:
            return Tier.GLACIER
        return Tier.WARM if self == Goal.WARM else Tier.COLD


class Step(enum.Enum):
    """One move on the way to a goal."""

    HYDRATE = "hydrate"
    LOCK = "lock"
    UNLOCK = "unlock"
    PACK = "pack"
    UPLOAD = "upload"
    DROP_RAW = "drop_raw"
    DROP_PACKED = "drop_packed"


class Candidate(NamedTuple):
    """One sealed file as the policy sees it."""

    ino: InodeNo
    accessed_ns: int
    """Last use, wall clock."""
    pin: Tier | None
    """In force: its own or inherited."""
    raw: bool
    packed: bool
    remote: bool
    held: bool
    """Counts to the RAM tier."""
    ram_bytes: int
    """What it takes, or would take, of the RAM budget."""
    local_bytes: int
    """What its raw and packed files take of the disk."""
    packable: bool = True
    """False: known not to shrink."""
    fresh: bool = False
    """Written or used just now, its pages are cached: a candidate for RAM."""
    open: bool = False
    """A program has it open for reading: it leaves neither by age nor by watermark."""
    waiting: bool = False
    """It is being moved, or its move failed and its time has not come again."""


class Budget(NamedTuple):
    """A tier's bytes: `low_bytes <= high_bytes <= size_bytes`."""

    size_bytes: int
    high_bytes: int
    """Beyond it, demotion begins."""
    low_bytes: int
    """At or below it, demotion ends."""

    @classmethod
    def of(cls, size_bytes: int, high_watermark: float, low_watermark: float) -> Budget:
        """Make a budget from a size and watermarks as shares of it."""
        low_bytes = int(size_bytes * min(low_watermark, high_watermark))
        return cls(size_bytes, int(size_bytes * high_watermark), low_bytes)


class Limits(NamedTuple):
    """What the configuration allows."""

    warm: Budget
    cold: Budget
    warm_to_cold_ns: int
    """Not used for so long: out of RAM."""
    pack_after_ns: int
    """Not used for so long: packed."""
    cold_to_glacier_ns: int
    """Not used for so long: to the object store."""
    glacier: bool
    """There is an object store."""
    store_ready: bool = True
    """False: it is down, and only pinned files wait for it."""
    move_count_max: int = 256
    """Of one plan."""


class TierView(NamedTuple):
    """What is there now."""

    now_ns: int
    warm_used_bytes: int
    cold_used_bytes: int
    """Without what moves under way will free."""
    warm_draining: bool
    """The RAM tier was filled beyond high and is not yet down to low; see `is_draining`."""
    cold_draining: bool
    candidates: Sequence[Candidate]
    """Some of the files; the mover shows all of them in turn."""


class Move(NamedTuple):
    """A file, where it is to go, and why."""

    ino: InodeNo
    goal: Goal
    rule: str
    """`pin`, `seal`, `age`, `watermark` or `read`."""
    detail: str
    """One sentence for a user."""
    bytes: int
    """What the move takes from the budget of the goal's tier, or frees in the present one."""


def is_draining(draining: bool, used_bytes: int, budget: Budget) -> bool:
    """Return whether a tier is to be emptied: from above high down to low (hysteresis)."""
    return used_bytes > (budget.low_bytes if draining else budget.high_bytes)


def eviction_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the files in the order in which they leave a tier: the longest unused first."""
    return sorted(candidates, key=lambda candidate: (candidate.accessed_ns, candidate.ino))


def goal_of_pin(pin: Tier, limits: Limits) -> Goal:
    """Return what a pin asks for, as far as the configured tiers reach."""
    if pin >= Tier.WARM:
        return Goal.WARM if limits.warm.size_bytes else Goal.LOCAL
    if pin == Tier.GLACIER and limits.glacier:
        return Goal.GLACIER
    return Goal.PACKED


def next_step(candidate: Candidate, goal: Goal) -> Step | None:
    """Return the next move towards a goal; None if it is reached."""
    local = candidate.raw or candidate.packed
    if goal == Goal.WARM or goal == Goal.LOCAL:
        if not candidate.raw:
            return Step.HYDRATE
        return Step.LOCK if goal == Goal.WARM and not candidate.held else None
    if goal == Goal.GLACIER:
        if not candidate.remote:
            return Step.UPLOAD
        if candidate.raw:
            return Step.DROP_RAW
        return Step.DROP_PACKED if candidate.packed else None
    if candidate.held:
        return Step.UNLOCK
    if goal == Goal.COLD:
        return None
    if not local:
        return Step.HYDRATE
    if not candidate.packed:
        return Step.PACK if candidate.packable else None
    return Step.DROP_RAW if candidate.raw else None


def plan(view: TierView, limits: Limits) -> list[Move]:
    """Return the moves that bring the files of a view nearer to where they belong.

    Pins come first, then the admission of fresh files to RAM, age limits and watermarks. A pinned
    file moves by its pin only.

    Args:
        view: Files, use and clock.
        limits: Budgets and ages.
    """
    moves = {move.ino: move for move in _by_pin(view, limits)}
    free = [c for c in view.candidates if c.pin is None and not c.waiting]
    for move in _by_age(view, limits, free):
        moves[move.ino] = move
    for move in _by_admission(view, limits, [c for c in free if c.ino not in moves]):
        moves[move.ino] = move
    for move in _from_ram(view, limits, [c for c in free if c.ino not in moves]):
        moves[move.ino] = move
    # A file on its way out of RAM may as well leave the disk.
    leaving = {ino for ino, move in moves.items() if move.goal <= Goal.PACKED}
    staying = {ino for ino, move in moves.items() if move.goal >= Goal.LOCAL}
    for move in _from_disk(view, limits, [c for c in free if c.ino not in leaving | staying]):
        moves[move.ino] = move
    return list(moves.values())[: limits.move_count_max]


def make_room(candidates: Iterable[Candidate], needed_bytes: int) -> list[Candidate]:
    """Return the held, unpinned files that leave RAM for one that must be there.

    Returns:
        Files of `needed_bytes` together, the longest unused first; empty if that is not possible.
    """
    victims: list[Candidate] = []
    freed_bytes = 0
    for candidate in eviction_order(c for c in candidates if c.held and c.pin is None):
        if freed_bytes >= needed_bytes:
            break
        victims.append(candidate)
        freed_bytes += candidate.ram_bytes
    return victims if freed_bytes >= needed_bytes else []


def _by_pin(view: TierView, limits: Limits) -> list[Move]:
    moves = []
    for candidate in view.candidates:
        if candidate.pin is None or candidate.waiting:
            continue
        goal = goal_of_pin(candidate.pin, limits)
        if next_step(candidate, goal) is not None:
            size = candidate.ram_bytes if goal == Goal.WARM else candidate.local_bytes
            detail = f"pinned to {candidate.pin.label}"
            moves.append(Move(candidate.ino, goal, "pin", detail, size))
    return moves


def _by_admission(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    moves = []
    used_bytes = view.warm_used_bytes
    for candidate in free:
        if not candidate.fresh or candidate.held or not candidate.raw:
            continue
        if used_bytes + candidate.ram_bytes > limits.warm.size_bytes:
            continue
        used_bytes += candidate.ram_bytes
        detail = "written or used just now, and the RAM tier has room"
        moves.append(Move(candidate.ino, Goal.WARM, "seal", detail, candidate.ram_bytes))
    return moves


def _by_age(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    moves = []
    ages = (
        (
            limits.cold_to_glacier_ns,
            Goal.GLACIER,
            limits.glacier and limits.store_ready,
            "policy.cold_to_glacier",
        ),
        (limits.pack_after_ns, Goal.PACKED, True, "policy.pack_after"),
        (limits.warm_to_cold_ns, Goal.COLD, True, "policy.warm_to_cold"),
    )
    for candidate in free:
        if candidate.open:
            continue
        idle_ns = view.now_ns - candidate.accessed_ns
        local = candidate.raw or candidate.packed
        for age_ns, goal, possible, key in ages:
            if not possible or idle_ns < age_ns or not local:
                continue
            if next_step(candidate, goal) is None:
                break
            detail = f"not used for {idle_ns // 1_000_000_000} s, beyond {key}"
            size = candidate.ram_bytes if goal == Goal.COLD else candidate.local_bytes
            moves.append(Move(candidate.ino, goal, "age", detail, size))
            break
    return moves


def _from_ram(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    if not view.warm_draining:
        return []
    moves = []
    used_bytes = view.warm_used_bytes
    detail = f"the RAM tier was filled beyond {limits.warm.high_bytes} bytes"
    for candidate in eviction_order(c for c in free if c.held):
        if used_bytes <= limits.warm.low_bytes:
            break
        used_bytes -= candidate.ram_bytes
        moves.append(Move(candidate.ino, Goal.COLD, "watermark", detail, candidate.ram_bytes))
    return moves


def _from_disk(view: TierView, limits: Limits, free: list[Candidate]) -> list[Move]:
    if not view.cold_draining:
        return []
    moves = []
    used_bytes = view.cold_used_bytes
    goal = Goal.GLACIER if limits.glacier and limits.store_ready else Goal.PACKED
    detail = f"the disk tier was filled beyond {limits.cold.high_bytes} bytes"
    for candidate in eviction_order(c for c in free if c.local_bytes and not c.open):
        if used_bytes <= limits.cold.low_bytes:
            break
        if next_step(candidate, goal) is None:
            continue
        used_bytes -= candidate.local_bytes
        moves.append(Move(candidate.ino, goal, "watermark", detail, candidate.local_bytes))
    return moves
