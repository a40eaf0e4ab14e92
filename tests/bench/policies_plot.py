"""The policies' hits as a picture: bars for each trace and size, between LRU and the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.bench.machine import Machine
    from tests.bench.policies import TraceOutcome

_TITLES = {
    "s3fifo": "memfs: S3-FIFO by bytes, frozen during loops",
    "lru": "LRU",
    "fifo": "FIFO",
    "no-evict": "never evict",
    "belady": "Belady (knows the future)",
}
_COLOURS = {"s3fifo": 0, "lru": 1, "fifo": 5, "no-evict": 7, "belady": 2}
"""Places in the palette `tab10`."""
_GROUP_HEIGHT = 0.82
"""Share of a trace's band that its bars fill together."""


def write_plot(outcomes: Sequence[TraceOutcome], machine: Machine, path: Path) -> None:
    """Write the bars as an image; the suffix says its format."""
    rows = [(outcome, share) for outcome in outcomes for share in outcome.comparisons]
    figure = Figure(figsize=(10, 1.8 + 0.14 * len(rows) * len(_TITLES)), dpi=120)
    axes = figure.subplots()
    palette = mpl.colormaps["tab10"]
    thickness = _GROUP_HEIGHT / len(_TITLES)
    for index, (policy, title) in enumerate(_TITLES.items()):
        positions = [row + (index - (len(_TITLES) - 1) / 2) * thickness for row in range(len(rows))]
        ratios = [_percent(outcome, share, policy) for outcome, share in rows]
        axes.barh(
            positions, ratios, height=thickness * 0.92, color=palette(_COLOURS[policy]), label=title
        )
        for position, ratio in zip(positions, ratios, strict=True):
            axes.annotate(
                f"{ratio:.1f}",
                (ratio, position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    _dress(axes, rows, machine)
    figure.tight_layout()
    figure.savefig(path)


def _percent(outcome: TraceOutcome, share: float, policy: str) -> float:
    comparison = outcome.comparisons[share]
    [found] = [
        figures for figures in (*comparison.figures, comparison.belady) if figures.policy == policy
    ]
    return 100 * found.byte_hit_ratio()


def _dress(axes: Axes, rows: Sequence[tuple[TraceOutcome, float]], machine: Machine) -> None:
    titles = [f"{outcome.title}\nRAM for {share:.0%} of all files" for outcome, share in rows]
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.45, -0.55)
    axes.set_xlim(0, 100)
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel("bytes served from RAM, %")
    axes.set_title(
        f"memfs {machine.commit}, {machine.date}: replay of generated traces", fontsize=10
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.06), ncols=3, fontsize=9, frameon=False)
