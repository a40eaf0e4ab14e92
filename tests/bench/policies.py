"""The policies' benchmark: hits on generated traces, next to LRU, Belady and a bound.

`python -m tests.bench.policies --json docs/policies.json --plot docs/policies.png`

Invariant: the figures depend on the code alone, not on the machine: there is nothing to repeat.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TaskID

from memfs.simulation.comparison import Capacities, compare
from memfs.simulation.foresight import foresee
from tests.access_traces import mixed, model_zoo, sequential_epochs, shuffled_epochs
from tests.bench.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.simulation.comparison import Comparison
    from memfs.simulation.foresight import Foresight
    from memfs.traces.trace import Trace

SHARES = (0.1, 0.3)
"""Sizes of the tier, of all files."""

POLICIES = ("s3fifo", "lru", "fifo", "no-evict")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is replayed."""

    file_count: int
    epoch_count: int
    model_count: int
    zoo_access_count: int


FULL = Scale(file_count=20_000, epoch_count=8, model_count=2000, zoo_access_count=60_000)
QUICK = Scale(file_count=3000, epoch_count=8, model_count=2000, zoo_access_count=20_000)


@dataclass(frozen=True, slots=True)
class TraceOutcome:
    """What came of one trace."""

    title: str
    comparisons: dict[float, Comparison]
    """By the tier's share of all files."""
    foresight: Foresight

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "title": self.title,
            "sizes": {f"{share:g}": each.to_json() for share, each in self.comparisons.items()},
            "prediction": self.foresight.to_json(),
        }


def traces(scale: Scale) -> dict[str, Callable[[], Trace]]:
    """Return what makes each trace, by its title."""
    count, epochs = scale.file_count, scale.epoch_count
    return {
        "sequential epochs": partial(sequential_epochs, count, epochs),
        "shuffled epochs": partial(shuffled_epochs, count, epochs),
        "mix: epochs, popular, once": partial(mixed, count, epochs),
        "model zoo with drift": partial(model_zoo, scale.model_count, scale.zoo_access_count),
    }


def measure(title: str, trace: Trace, progress: Callable[[str, int, int], None]) -> TraceOutcome:
    """Replay one trace at all sizes, with all policies."""
    footprint_bytes = trace.footprint_bytes()
    comparisons = {}
    for share in SHARES:
        capacities = Capacities(int(footprint_bytes * share), None)
        comparisons[share] = compare(trace, capacities, POLICIES, progress)
    foresight = foresee(trace, partial(progress, "prediction"))
    return TraceOutcome(title, comparisons, foresight)


def render(outcomes: Sequence[TraceOutcome]) -> str:
    """Return the tables, as Markdown."""
    names = (*POLICIES, "belady")
    lines = [
        "| trace | RAM | " + " | ".join(names) + " | bound |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for outcome in outcomes:
        for share, comparison in outcome.comparisons.items():
            cells = [
                f"{figures.hit_ratio() * 100:.1f} / {figures.byte_hit_ratio() * 100:.1f}"
                for figures in (*comparison.figures, comparison.belady)
            ]
            bound = (comparison.bound_hit_ratio, comparison.bound_byte_hit_ratio)
            cells.append(" / ".join(f"{ratio * 100:.1f}" for ratio in bound))
            lines.append(f"| {outcome.title} | {share:.0%} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| trace | guesses right | accesses foreseen | wasted per 100 accesses |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        foresight = outcome.foresight
        lines.append(
            f"| {outcome.title} | {foresight.precision * 100:.1f} % "
            f"| {foresight.foreseen_ratio * 100:.1f} % | {foresight.wasted_per_100:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.policies",
        description="Hit ratios in %, by files / by bytes, on generated traces.",
    )
    parser.add_argument("--quick", action="store_true", help="shorter traces")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the hit ratios by bytes")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else FULL
    outcomes = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for title, make in traces(scale).items():
            task = bar.add_task(title, total=None)
            outcomes.append(measure(title, make(), partial(_show, bar, task, title)))
            bar.remove_task(task)
    print(render(outcomes), end="")
    machine = Machine.here(Path(__file__).parent)
    if options.json is not None:
        document = {
            "command": " ".join(["python -m tests.bench.policies", *(arguments or sys.argv[1:])]),
            "commit": machine.commit,
            "date": machine.date,
            "scale": asdict(scale),
            "traces": [outcome.to_json() for outcome in outcomes],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot is not None:
        # Imported late: matplotlib is wanted for the picture alone.
        from tests.bench.policies_plot import write_plot

        write_plot(outcomes, machine, options.plot)
    return 0


def _show(bar: Progress, task: TaskID, title: str, stage: str, done: int, total: int) -> None:
    bar.update(task, description=f"{title}: {stage}", completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
