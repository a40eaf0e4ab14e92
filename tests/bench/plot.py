"""The outcome as a picture: every place's speed over native, on a logarithmic axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.workloads import METRICS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.bench.outcome import Outcome

NATIVE = "native"
_GROUP_HEIGHT = 0.84
"""Share of a workload's band that its bars fill together."""


def write_plot(outcome: Outcome, path: Path) -> None:
    """Write the bars as an image; the suffix says its format.

    A bar starts at native's speed, so its length is the factor lost, or won, on the way.

    Raises:
        ValueError: Native took no part, so there is nothing to divide by.
    """
    columns = [column for column in outcome.columns if column.name != NATIVE]
    if len(columns) == len(outcome.columns):
        raise ValueError("the plot needs the place `native` to compare with")
    figure = Figure(figsize=(10, 1.6 + 0.24 * len(METRICS) * max(len(columns), 2)), dpi=120)
    axes = figure.subplots()
    palette = mpl.colormaps["tab10"]
    thickness = _GROUP_HEIGHT / max(len(columns), 1)
    for index, column in enumerate(columns):
        positions, widths = [], []
        for row, metric in enumerate(METRICS):
            ratio = outcome.samples.ratio(metric, column.name, NATIVE)
            if ratio is not None:
                positions.append(row + (index - (len(columns) - 1) / 2) * thickness)
                widths.append(ratio)
        label = f"{column.title} {column.version}".strip()
        axes.barh(
            positions,
            [width - 1 for width in widths],
            height=thickness * 0.92,
            left=1,
            color=palette(index),
            label=label,
        )
        for position, width in zip(positions, widths, strict=True):
            _label_bar(axes, position, width)
    _dress(axes, outcome)
    figure.tight_layout()
    figure.savefig(path)


def _label_bar(axes: Axes, position: float, ratio: float) -> None:
    inward = ratio < 1
    axes.annotate(
        f"{ratio:.2g}",
        (ratio, position),
        xytext=(-3 if inward else 3, 0),
        textcoords="offset points",
        ha="right" if inward else "left",
        va="center",
        fontsize=7,
    )


def _dress(axes: Axes, outcome: Outcome) -> None:
    titles = [f"{metric.title}\n({metric.cache})" for metric in METRICS.values()]
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, max(high, 1.6))
    axes.axvline(1, color="black", linewidth=1)
    axes.grid(visible=True, axis="x", which="both", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel("times native speed (1 = native; further left is slower)")
    machine = outcome.machine
    axes.set_title(
        f"memfs {machine.commit}, {machine.date}: Linux {machine.kernel}, "
        f"{machine.cpu_count} CPUs, {machine.filesystem}",
        fontsize=10,
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=3, fontsize=9, frameon=False)
