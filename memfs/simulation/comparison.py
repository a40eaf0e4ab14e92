"""A comparison: one trace, one set of capacities, several policies, and what is possible at all.

Invariant: a comparison is plain data, and a function of its arguments alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.simulation.belady import Belady, Future
from memfs.simulation.bounds import Bound, bound_hits
from memfs.simulation.policies import find_policy
from memfs.simulation.replay import Machine, replay
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.simulation.replay import Figures
    from memfs.traces.trace import Trace

BELADY = "belady"
"""Name of the policy that knows the future."""


class Capacities(NamedTuple):
    """What the tiers hold."""

    warm_bytes: int
    cold_bytes: int | None
    """None: all files have room on the disk."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome."""

    row_count: int
    file_count: int
    footprint_bytes: int
    """Bytes of all files, each once."""
    capacities: Capacities
    figures: tuple[Figures, ...]
    """By policy, in the order asked for."""
    belady: Figures
    """That of the queue that knows the future."""
    bound: Bound
    """Upper bound on what the RAM tier can serve."""

    @property
    def bound_hit_ratio(self) -> float:
        """Share of the accesses that no policy can exceed, unless it fetches ahead."""
        return self.bound.hit_count / self.belady.accesses.count

    @property
    def bound_byte_hit_ratio(self) -> float:
        """The same of the bytes."""
        return self.bound.hit_bytes / max(1, self.belady.accesses.size_bytes)

    @property
    def conclusion(self) -> str:
        """What a user may take from it, as one sentence."""
        first = self.figures[0]
        share = first.byte_hit_ratio()
        parts = [
            f"With {format_size(self.capacities.warm_bytes)} of RAM, {first.policy} serves "
            f"{share * 100:.1f} % of the bytes from RAM"
        ]
        if len(self.figures) > 1:
            best = max(self.figures[1:], key=lambda figures: figures.byte_hit_ratio())
            points = (share - best.byte_hit_ratio()) * 100
            word = "more" if points >= 0 else "less"
            parts.append(f"{abs(points):.1f} points {word} than {best.policy}")
        possible = self.belady.byte_hit_ratio()
        if possible > 0:
            reached = f"{share / possible * 100:.0f} %"
            parts.append(f"{reached} of what Belady reaches, who knows the future")
        return ", ".join(parts) + "."

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values, ratios included."""
        return {
            "row_count": self.row_count,
            "file_count": self.file_count,
            "footprint_bytes": self.footprint_bytes,
            "warm_bytes": self.capacities.warm_bytes,
            "cold_bytes": self.capacities.cold_bytes,
            "policies": [_figures_json(figures) for figures in (*self.figures, self.belady)],
            "bound": {
                "hit_ratio": self.bound_hit_ratio,
                "byte_hit_ratio": self.bound_byte_hit_ratio,
            },
            "conclusion": self.conclusion,
        }


def compare(
    trace: Trace,
    capacities: Capacities,
    policy_names: Sequence[str],
    progress: Callable[[str, int, int], None],
) -> Comparison:
    """Replay a trace with each policy, and with the future known.

    Args:
        trace: At least one access.
        capacities: Those of the tiers; the disk's not below the RAM's.
        policy_names: Known ones, at least one.
        progress: Called now and then with what is done, rows done and rows in all.

    Raises:
        InvalidValueError: There is no such policy.
    """
    policies = [find_policy(name) for name in dict.fromkeys(policy_names)]
    warm_bytes, cold_bytes = capacities
    found = []
    for policy in policies:
        cold = None if cold_bytes is None else policy.make_cold(cold_bytes)
        machine = Machine(policy.make_warm(warm_bytes), cold)
        found.append(replay(trace, policy.name, machine, _shown(progress, policy.name)))
    progress(BELADY, 0, len(trace))
    future = Future(trace)
    warm_queue = Belady(warm_bytes, future)
    cold_queue = None if cold_bytes is None else Belady(cold_bytes, future)
    machine = Machine(warm_queue, cold_queue)
    belady = replay(trace, BELADY, machine, _shown(progress, BELADY))
    return Comparison(
        row_count=len(trace),
        file_count=len(trace.names),
        footprint_bytes=trace.footprint_bytes(),
        capacities=capacities,
        figures=tuple(found),
        belady=belady,
        bound=bound_hits(trace, warm_bytes),
    )


def _shown(progress: Callable[[str, int, int], None], stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)


def _figures_json(figures: Figures) -> dict[str, Any]:
    return dataclasses.asdict(figures) | {
        "hit_ratio": figures.hit_ratio(),
        "byte_hit_ratio": figures.byte_hit_ratio(),
    }
