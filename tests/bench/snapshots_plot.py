"""What snapshots cost, as a picture: at a mount, in the engine alone, and in other work."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from tests.bench.mounted_snapshots import RATIO_MAX, longer, server_us, time_us

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

    from tests.bench.comparison import Row

GATES_MS = {
    "create the first snapshot": 5.0,
    "diff of": 20.0,
    "export: read and encode": 15_000.0,
    "import: all": 15_000.0,
}
"""By the beginning of a figure's name; those of exports are for a million files."""
_BAR = 0.4


def write_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the suffix says its format.

    Args:
        result: As `mounted_snapshots` writes it with `--json`.
        path: The file.
    """
    rows: Mapping[str, Row] = result["rows"]
    figures = dict(result["figures"])
    figures["restore of one file, at the mount"] = statistics.median(
        result["restore of one file, ms"]
    )
    parts = [len(rows), len(result["engine"]), len(figures)]
    figure = Figure(figsize=(10, 3 + 0.34 * sum(parts)), dpi=120, layout="constrained")
    axes = figure.subplots(3, 1, height_ratios=[max(2, part) for part in parts])
    _draw_ratios(axes[0], rows)
    _draw_engine(axes[1], result["engine"])
    _draw_figures(axes[2], figures, result["engine files"])
    machine = result["machine"]
    figure.suptitle(
        f"memfs {machine['commit']}, {machine['date']}: Linux {machine['kernel']}, "
        f"{machine['cpu_count']} CPUs, {machine['filesystem']}",
        fontsize=10,
    )
    figure.savefig(path)


def _draw_ratios(axes: Axes, rows: Mapping[str, Row]) -> None:
    for index, (of, label) in enumerate(((time_us, "time"), (server_us, "daemon's CPU"))):
        ratios = [longer(row, of) for row in rows.values()]
        at = [row + (index - 0.5) * _BAR for row in range(len(ratios))]
        _label(axes, axes.barh(at, ratios, height=_BAR * 0.92, label=label), "%.2f")
    axes.axvline(RATIO_MAX, color="black", linestyle="--", label=f"gate: {RATIO_MAX:g}")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times as much as without a snapshot, at a mount")
    _dress(axes, [*rows])


def _draw_engine(axes: Axes, calls: Mapping[str, Mapping[str, float]]) -> None:
    kinds = [*next(iter(calls.values()), {})]
    for index, kind in enumerate(kinds):
        at = [row + (index - (len(kinds) - 1) / 2) * _BAR for row in range(len(calls))]
        values = [row[kind] for row in calls.values()]
        _label(axes, axes.barh(at, values, height=_BAR * 0.92, label=kind), "%.0f")
    axes.set_xlabel("us of CPU a call, the engine alone; the first touch of each file but create")
    _dress(axes, [*calls])


def _draw_figures(axes: Axes, figures: Mapping[str, float], count: int) -> None:
    bars = axes.barh(range(len(figures)), [*figures.values()], height=0.7, color="tab:green")
    _label(axes, bars, "%.3g")
    for row, name in enumerate(figures):
        for begin, gate_ms in GATES_MS.items():
            if name.startswith(begin):
                axes.plot([gate_ms], [row], marker="|", markersize=16, color="black")
    axes.set_xscale("log")
    axes.set_xlabel(f"ms; with {count:,} files where the engine is alone; the line is the gate")
    _dress(axes, [*figures])


def _label(axes: Axes, bars: BarContainer, form: str) -> None:
    axes.bar_label(bars, fmt=form, padding=2, fontsize=7)


def _dress(axes: Axes, titles: list[str]) -> None:
    axes.set_yticks(range(len(titles)), titles, fontsize=8)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best")
