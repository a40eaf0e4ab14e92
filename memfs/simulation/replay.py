"""Replay: the rows of a trace through the queues of a machine's tiers.

Invariant: what is held in RAM is on the local disk, too, as in a mount; and every access of a file
is told to both queues, as the daemon hears of every open and of no read that the page cache saves.

Capacities and queues decide here; ages do not: files that nobody uses for days cost no hits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memfs.traces.trace import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.policy.queues import EvictionQueue
    from memfs.traces.trace import Trace

PROGRESS_ROW_COUNT = 1 << 15


@dataclass(slots=True)
class Traffic:
    """What came and went."""

    count: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """Count one file."""
        self.count += 1
        self.size_bytes += size_bytes


@dataclass(slots=True)
class TierFigures:
    """One tier in a replay."""

    capacity_bytes: int | None
    """None: without limit."""
    hits: Traffic = field(default_factory=Traffic)
    """Accesses served by this tier and no faster one."""
    moved_in: Traffic = field(default_factory=Traffic)
    """Copied into it from a slower tier."""
    moved_out: Traffic = field(default_factory=Traffic)
    """Evicted from it."""


@dataclass(slots=True)
class Figures:
    """The outcome of a replay."""

    policy: str
    accesses: Traffic
    warm: TierFigures
    cold: TierFigures
    fetched: Traffic
    """Accesses that neither tier could serve: from the object store."""

    def hit_ratio(self) -> float:
        """Return the share of accesses that RAM served."""
        return self.warm.hits.count / max(1, self.accesses.count)

    def byte_hit_ratio(self) -> float:
        """Return the share of the accesses' bytes that RAM served."""
        return self.warm.hits.size_bytes / max(1, self.accesses.size_bytes)


class Machine:
    """The local tiers: RAM, and the disk that holds all of RAM's files, too.

    Args:
        warm: Queue of the RAM tier.
        cold: Queue of the disk, of at least the capacity of `warm`; None: it has room for all.
    """

    def __init__(self, warm: EvictionQueue, cold: EvictionQueue | None) -> None:
        self._warm = warm
        self._cold = cold
        self._sizes: dict[int, int] = {}
        """Bytes by key, of all keys seen."""
        self.accesses = Traffic()
        self.fetched = Traffic()
        self.warm_figures = TierFigures(warm.capacity_bytes)
        self.cold_figures = TierFigures(None if cold is None else cold.capacity_bytes)

    def access(self, key: int, size_bytes: int) -> None:
        """A program uses a file."""
        self.accesses.add(size_bytes)
        in_warm = self._warm.access(key, size_bytes)
        in_cold = self._cold is None or self._cold.access(key, size_bytes)
        if self._sizes.get(key) != size_bytes:
            self._resize(key, size_bytes)
        if in_warm:
            self.warm_figures.hits.add(size_bytes)
            return
        if in_cold:
            self.cold_figures.hits.add(size_bytes)
        else:
            assert self._cold is not None
            self.fetched.add(size_bytes)
            if not self._cold.admits(key, size_bytes):
                return
            self._insert_cold(self._cold, key, size_bytes)
            self.cold_figures.moved_in.add(size_bytes)
        self._offer_warm(key, size_bytes)

    def write(self, key: int, size_bytes: int) -> None:
        """A program has written a file anew: its bytes are on the disk, whatever they replace."""
        self._resize(key, size_bytes)
        if self._cold is not None and key not in self._cold:
            self._insert_cold(self._cold, key, size_bytes)
        if key not in self._warm:
            self._offer_warm(key, size_bytes)

    def remove(self, key: int) -> None:
        """A program has removed a file."""
        self._warm.remove(key)
        if self._cold is not None:
            self._cold.remove(key)

    def _offer_warm(self, key: int, size_bytes: int) -> None:
        if not self._warm.admits(key, size_bytes):
            return
        self._make_warm_room(size_bytes)
        self._warm.insert(key, size_bytes)
        self.warm_figures.moved_in.add(size_bytes)

    def _insert_cold(self, cold: EvictionQueue, key: int, size_bytes: int) -> None:
        self._make_cold_room(cold, size_bytes)
        cold.insert(key, size_bytes)

    def _resize(self, key: int, size_bytes: int) -> None:
        """A key that may be held has another size than before: others make room, if they can."""
        self._sizes[key] = size_bytes
        warm, cold = self._warm, self._cold
        if key in warm:
            warm.insert(key, size_bytes)
            for other in warm.evict(_excess_bytes(warm), lambda other: other != key):
                self.warm_figures.moved_out.add(self._sizes[other])
            self._make_warm_room(0)
        if cold is not None and key in cold:
            cold.insert(key, size_bytes)
            self._make_cold_room(cold, 0)

    def _make_warm_room(self, size_bytes: int) -> None:
        warm = self._warm
        for key in warm.evict(_excess_bytes(warm) + size_bytes):
            self.warm_figures.moved_out.add(self._sizes[key])

    def _make_cold_room(self, cold: EvictionQueue, size_bytes: int) -> None:
        """Evict what is not in RAM, and only if that is not enough, what is."""
        for key in cold.evict(_excess_bytes(cold) + size_bytes, lambda key: key not in self._warm):
            self.cold_figures.moved_out.add(self._sizes[key])
        for key in cold.evict(_excess_bytes(cold) + size_bytes):
            self.cold_figures.moved_out.add(self._sizes[key])
            if key in self._warm:
                self._warm.remove(key)
                self.warm_figures.moved_out.add(self._sizes[key])


def _excess_bytes(queue: EvictionQueue) -> int:
    """Return what a queue holds beyond its capacity; negative: what there is room for."""
    return queue.used_bytes - queue.capacity_bytes


def replay(
    trace: Trace, policy: str, machine: Machine, progress: Callable[[int, int], None]
) -> Figures:
    """Replay a trace and return what came of it.

    Args:
        trace: At least one access.
        policy: Name of what decides, for the figures.
        machine: As it is before the first row.
        progress: Called now and then with rows done and rows in all.
    """
    rows = zip(trace.events, trace.keys, trace.sizes_bytes, strict=True)
    for row, (event, key, size_bytes) in enumerate(rows):
        if event == Event.ACCESS:
            machine.access(key, size_bytes)
        elif event == Event.WRITE:
            machine.write(key, size_bytes)
        else:
            machine.remove(key)
        if row % PROGRESS_ROW_COUNT == 0:
            progress(row, len(trace))
    progress(len(trace), len(trace))
    return Figures(
        policy, machine.accesses, machine.warm_figures, machine.cold_figures, machine.fetched
    )
