"""Trials: what tiers of other sizes would have served, by a recorded trace and memfs's own queues.

Invariant: nothing of the mount is changed, and a share is always one of the same opens, whatever
the size is that it belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError
from memfs.simulation.policies import BUILT_IN, find_policy
from memfs.simulation.replay import Machine, replay
from memfs.traces.reading import read_trace
from memfs.traces.trace import Event, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.control.methods.mount import TraceReport
    from memfs.control.report import StatusReport

ROW_COUNT_MAX = 300_000
"""The latest rows of a trace that are replayed: 1.6 s of processor time for each of at most 13
sizes (5.2 s for a million rows, beside other work on 2 CPUs of a virtual machine, 2026-11-30)."""
OPEN_COUNT_MIN = 50
"""Fewer opens tell nothing."""
DOUBLING_COUNT_MAX = 5
"""Sizes up to 32 times the present one are tried: a larger one is another machine."""
GAIN_MIN = 0.05
"""A larger tier that serves less than so many opens more is not worth its price. Guess."""
LOSS_MAX = 0.01
"""A smaller tier that serves so many opens less would do. Guess."""
ENOUGH = 0.8
"""The size that is advised brings so much of what the largest one would bring."""


class Trial(NamedTuple):
    """What one size would have served."""

    size_bytes: int
    share: float
    """Opens served by RAM, where the size is that of RAM; else by RAM or disk. 0 to 1."""


class Trials(NamedTuple):
    """What came of a trace."""

    path: str
    """The trace."""
    open_count: int
    """Opens that the shares are of: those of the later half, as the first half fills the tiers."""
    sizes: dict[str, int]
    """Present sizes by tier: `warm` and `cold`, where the mount has them with a limit."""
    trials: dict[str, Sequence[Trial]]
    """By tier, in order of size; the present one is among them."""

    def share(self, tier: str) -> float:
        """Return what the present size serves."""
        return next(each.share for each in self.trials[tier] if each.size_bytes == self.sizes[tier])

    def larger(self, tier: str) -> Trial | None:
        """Return the size that is enough; None: more would bring next to nothing."""
        now = self.share(tier)
        above = [each for each in self.trials[tier] if each.size_bytes > self.sizes[tier]]
        most = max((each.share for each in above), default=0.0)
        if most - now < GAIN_MIN:
            return None
        return next(each for each in above if each.share >= now + ENOUGH * (most - now))

    def smaller(self, tier: str) -> Trial | None:
        """Return a smaller size that would serve as much; None: there is no such size."""
        least = self.share(tier) - LOSS_MAX
        below = [each for each in self.trials[tier] if each.size_bytes < self.sizes[tier]]
        return next((each for each in below if each.share >= least), None)


class Tried(NamedTuple):
    """Trials, or why there are no trials."""

    trials: Trials | None
    reason: str
    """Why a trace that there is could not be replayed; empty: it was, or there is no trace."""


UNTRIED = Tried(None, "")


def try_sizes_of(
    status: StatusReport,
    report: TraceReport,
    path: Path | None,
    progress: Callable[[str, int, int], None],
    row_count_max: int = ROW_COUNT_MAX,
) -> Tried:
    """Replay the trace of a mount with other sizes of its tiers.

    Args:
        status: That of the mount.
        report: What the mount records, or has recorded.
        path: Another trace to be taken; None: that of the report, if there is one.
        progress: Called now and then with what is done, rows done and rows in all.
        row_count_max: So many rows are replayed at most, the latest ones.
    """
    chosen = path or (Path(report["path"]) if report["path"] is not None else None)
    if chosen is None:
        return UNTRIED
    if status.policy.name != BUILT_IN:
        return Tried(None, f"the policy {status.policy.name} cannot be replayed")
    try:
        trace = read_trace(chosen, lambda done, total: progress("reading", done, total))
    except MemfsError as error:
        return Tried(None, str(error))
    except OSError as error:
        return Tried(None, f"{chosen}: {error.strerror}")
    sizes = {tier.tier: tier.capacity_bytes for tier in status.tiers}
    warm, cold = sizes.get("warm") or 0, sizes.get("cold")
    made = try_sizes(_latest(trace, row_count_max), warm, cold, progress)
    if made is None:
        return Tried(None, f"{chosen} has too few opens")
    return Tried(Trials(str(chosen), *made), "")


def try_sizes(
    trace: Trace,
    warm_bytes: int,
    cold_bytes: int | None,
    progress: Callable[[str, int, int], None],
) -> tuple[int, dict[str, int], dict[str, Sequence[Trial]]] | None:
    """Return opens, present sizes and trials as `Trials` has them; None: too few opens.

    Args:
        trace: At least one access.
        warm_bytes: Present size of RAM; 0: there is no such tier.
        cold_bytes: Present size of the disk; None: it has room for all.
        progress: As of `try_sizes_of`.
    """
    middle = len(trace) // 2
    halves = _slice(trace, 0, middle), _slice(trace, middle, len(trace))
    open_count = halves[1].events.count(Event.ACCESS)
    if open_count < OPEN_COUNT_MIN:
        return None
    if cold_bytes is not None:
        warm_bytes = min(warm_bytes, cold_bytes)
    footprint_bytes = trace.footprint_bytes()
    wanted: dict[str, list[tuple[int, int | None]]] = {"warm": [], "cold": []}
    if warm_bytes:
        # What is in RAM is on the disk, too.
        wanted["warm"] = [
            (each, cold_bytes)
            for each in _sizes(warm_bytes, footprint_bytes)
            if cold_bytes is None or each <= cold_bytes
        ]
    if cold_bytes is not None:
        wanted["cold"] = [
            (warm_bytes, each) for each in _sizes(cold_bytes, footprint_bytes) if each >= warm_bytes
        ]
    pairs = [*wanted["warm"], *wanted["cold"]]
    served: dict[tuple[int, int | None], tuple[float, float]] = {}
    for done, pair in enumerate(pairs):
        progress("replaying", done, len(pairs))
        if pair not in served:
            served[pair] = _served(halves, *pair)
    progress("replaying", len(pairs), len(pairs))
    sizes: dict[str, int] = {}
    trials: dict[str, Sequence[Trial]] = {}
    if warm_bytes:
        sizes["warm"] = warm_bytes
        trials["warm"] = [Trial(warm, served[warm, cold][0]) for warm, cold in wanted["warm"]]
    if cold_bytes is not None:
        sizes["cold"] = cold_bytes
        trials["cold"] = [
            Trial(cold, served[warm, cold][1]) for warm, cold in wanted["cold"] if cold is not None
        ]
    return open_count, sizes, trials


def _sizes(present_bytes: int, footprint_bytes: int) -> list[int]:
    """Return half of the present size, that, and doubles of it until all files have room."""
    sizes = [present_bytes]
    while sizes[-1] < footprint_bytes and len(sizes) <= DOUBLING_COUNT_MAX:
        sizes.append(2 * sizes[-1])
    return [present_bytes // 2, *sizes]


def _served(
    halves: tuple[Trace, Trace], warm_bytes: int, cold_bytes: int | None
) -> tuple[float, float]:
    """Return the shares of the later opens that RAM serves, and RAM or disk."""
    policy = find_policy(BUILT_IN)
    cold = None if cold_bytes is None else policy.make_cold(cold_bytes)
    machine = Machine(policy.make_warm(warm_bytes), cold)
    counts = []
    for half in halves:
        figures = replay(half, BUILT_IN, machine, lambda _done, _total: None)
        counts.append((figures.accesses.count, figures.warm.hits.count, figures.fetched.count))
    opens, near, far = (after - before for before, after in zip(*counts, strict=True))
    return near / opens, 1 - far / opens


def _latest(trace: Trace, row_count: int) -> Trace:
    return _slice(trace, max(0, len(trace) - row_count), len(trace))


def _slice(trace: Trace, begin: int, end: int) -> Trace:
    """Return rows of a trace, with the keys that the whole has."""
    return Trace(
        trace.events[begin:end], trace.keys[begin:end], trace.sizes_bytes[begin:end], trace.names
    )
