"""View: what a policy sees, what limits it, and what it answers.

Invariant: plain values; a view holds all that a plan depends on, so that the same view gives the
same plan.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from memfs.policy.ages import NO_AGES, Ages
from memfs.types import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memfs.types import InodeNo

PRIORITY_DEFAULT = 50
"""That of files for which no priority is set."""

PRIORITY_MAX = 100
"""The highest; 0 is the lowest."""


class Goal(enum.IntEnum):
    """Where a file is to be; finer than a tier."""

    GLACIER = 1
    """Remote form only."""
    PACKED = 2
    """Compressed on the local disk, or raw where that saves nothing; not in RAM."""
    STORED = 3
    """With an object in the store; its local forms stay as they are."""
    COLD = 4
    """Not held in RAM; its forms stay as they are."""
    LOCAL = 5
    """With a raw file, wherever its pages are."""
    WARM = 6
    """With a raw file that is held in RAM."""

    @property
    def tier(self) -> Tier:
        """The tier that has what the goal asks for, once it is reached."""
        if self in (Goal.GLACIER, Goal.STORED):
            return Tier.GLACIER
        return Tier.WARM if self == Goal.WARM else Tier.COLD


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
    """What it takes, or would take, of the RAM capacity."""
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
    store_waits: bool = False
    """Its upload failed, and its time has not come again: its local forms may move meanwhile."""
    priority: int = PRIORITY_DEFAULT
    """In force: 0 to `PRIORITY_MAX`; the lower ones leave a tier first, the higher move first."""
    pool: str = ""
    """Whose share of RAM it is charged to; empty: what no pool has reserved."""
    uses: int = 0
    """0 to 3: how often it was used since its queue last passed over it."""
    rank: int = 0
    """Its place in the order in which the queues let files go; the lower leave first."""
    leaves_ram: bool = True
    """The RAM tier's queue lets it go, should a watermark ask for that."""
    leaves_disk: bool = True
    """The disk tier's queue does."""
    admitted: bool = True
    """False: its queue does not let it into RAM now; see `EvictionQueue.admits`."""
    ages: Ages = NO_AGES
    """In force for it, instead of those of the limits."""
    read_often: bool = False
    """It was opened so often without a raw file that one is cheaper."""


class Capacity(NamedTuple):
    """A tier's bytes: `low_bytes <= high_bytes <= size_bytes`."""

    size_bytes: int
    high_bytes: int
    """Beyond it, demotion begins."""
    low_bytes: int
    """At or below it, demotion ends."""

    @classmethod
    def of(cls, size_bytes: int, high_watermark: float, low_watermark: float) -> Capacity:
        """Make a capacity from a size and watermarks as shares of it."""
        low_bytes = int(size_bytes * min(low_watermark, high_watermark))
        return cls(size_bytes, int(size_bytes * high_watermark), low_bytes)


class AgesInForce(NamedTuple):
    """Times without use in ns, each with the name of what sets it."""

    warm_to_cold: tuple[int, str]
    pack_after: tuple[int, str]
    cold_to_glacier: tuple[int, str]


class Limits(NamedTuple):
    """What the configuration allows."""

    warm: Capacity
    """What no pool has reserved of the RAM tier."""
    cold: Capacity
    warm_to_cold_ns: int
    """Not used for so long: out of RAM."""
    pack_after_ns: int
    """Not used for so long: packed."""
    cold_to_glacier_ns: int
    """Not used for so long: to the object store."""
    glacier: bool
    """There is an object store."""
    ram: bool = True
    """There is a RAM tier; pools may have reserved all of it, and `warm` is 0 then."""
    store_ready: bool = True
    """False: it is down, and only pinned files wait for it."""
    store_frees: bool = True
    """False: it lies on the disk that is to be relieved."""
    move_count_max: int = 256
    """That of one plan."""

    def ages_of(self, marked: Ages) -> AgesInForce:
        """Return the ages of files that have a mark."""

        def in_force(name: str) -> tuple[int, str]:
            other = getattr(marked, f"{name}_ns")
            if other is not None:
                return other, f"user.memfs.policy {name}"
            return getattr(self, f"{name}_ns"), f"policy.{name}"

        return AgesInForce(*map(in_force, AgesInForce._fields))


class PoolView(NamedTuple):
    """A pool's share of the RAM tier."""

    capacity: Capacity
    used_bytes: int
    draining: bool


class TierView(NamedTuple):
    """What is there now."""

    now_ns: int
    warm_used_bytes: int
    """Bytes of the RAM tier without the pools; `Limits.warm` is without them too."""
    cold_used_bytes: int
    """Without what moves under way will free."""
    warm_draining: bool
    """The RAM tier was filled beyond high and is not yet down to low; see `is_draining`."""
    cold_draining: bool
    candidates: Sequence[Candidate]
    """Some of the files; the mover shows all of them in turn."""
    pools: Mapping[str, PoolView] = {}
    """By name."""


class Move(NamedTuple):
    """A file, where it is to go, and why."""

    ino: InodeNo
    goal: Goal
    rule: str
    """`pin`, `seal`, `age`, `watermark`, `frequency` or `read`; a policy of yours may name more."""
    detail: str
    """One sentence for a user."""
    bytes: int
    """What the move takes from the capacity of the goal's tier, or frees in the present one."""
    priority: int = PRIORITY_DEFAULT
    """Moves of higher priority are made first."""
