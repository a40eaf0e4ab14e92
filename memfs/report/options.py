"""Parts of charts: options of ECharts over time, and points that are few enough to be seen.

Invariant: what is drawn over time has `POINT_COUNT_MAX` points at most, and its table
`ROW_COUNT_MAX` rows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.report.gathering import POINT_COUNT_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metrics.rolling import Period

ROW_COUNT_MAX = 100
"""Rows of a table over time: as many points as are needed to see the shape."""

BYTES, COUNT, PERCENT, SECONDS = "bytes", "count", "percent", "seconds"
"""How `charts.js` writes the values of an axis."""


class Chart(NamedTuple):
    """One chart."""

    name: str
    """Its id in the page."""
    title: str
    description: str
    """What it shows, and how to read it; one or two sentences."""
    option: dict[str, Any] | None
    """As ECharts takes it; None: there is nothing to draw."""
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    unit: str = COUNT
    """How values are written."""
    is_tall: bool = False
    """It has several parts, one below the other."""


def over_time(series: list[dict[str, Any]], most_bytes: int | None = None) -> dict[str, Any]:
    """Return an option over time.

    Args:
        series: What is drawn.
        most_bytes: The highest point, if values are bytes.
    """
    return {
        "tooltip": {"trigger": "axis"},
        "legend": {"bottom": 0},
        "grid": {"left": 78, "right": 24, "top": 12, "bottom": 84},
        "dataZoom": [{"type": "inside"}, {"type": "slider", "bottom": 30, "height": 18}],
        "xAxis": {"type": "time"},
        "yAxis": {"type": "value"} if most_bytes is None else byte_axis(most_bytes),
        "series": series,
    }


def byte_axis(most: int) -> dict[str, Any]:
    """Return an axis whose marks are whole KiB, MiB, ...: 3 to 6 of them."""
    step = 1 << max(0, most.bit_length() - 3)
    return {"type": "value", "interval": step, "max": max(1, -(-most // step)) * step}


def stacked_most(points: Sequence[Period], names: Sequence[str]) -> int:
    """Return the highest point of numbers that are drawn one on the other."""
    return max((sum(each.numbers.get(name, 0) for name in names) for each in points), default=0)


def highest(points: Sequence[tuple[int, dict[str, int]]]) -> int:
    """Return the highest of points that `summed` has made."""
    return max((sum(numbers.values()) for _, numbers in points), default=0)


def area(name: str, points: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return a series that is drawn on those before it; points are seconds and values."""
    return line(name, points) | {"stack": "all", "areaStyle": {"opacity": 0.7}}


def line(name: str, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return a series of points, seconds and values."""
    data = [[at_s * 1000, value] for at_s, value in points]
    return {
        "name": name,
        "type": "line",
        # A single point has no line.
        "symbol": "circle" if len(data) == 1 else "none",
        "lineStyle": {"width": 1.5},
        "data": data,
    }


def bar(name: str, points: Sequence[tuple[int, int]], *, stack: str) -> dict[str, Any]:
    """Return bars of points, seconds and values; those of one stack stand on each other."""
    data = [[at_s * 1000, value] for at_s, value in points]
    return {"name": name, "type": "bar", "stack": stack, "barMaxWidth": 30, "data": data}


def thinned(periods: Sequence[Period]) -> Sequence[Period]:
    """Return at most `POINT_COUNT_MAX` of them, the last one always."""
    step = -(-len(periods) // POINT_COUNT_MAX) or 1
    return periods[::-1][::step][::-1]


def sampled(points: Sequence[Period]) -> Sequence[Period]:
    """Return at most `ROW_COUNT_MAX` of them, the last one always."""
    step = -(-len(points) // ROW_COUNT_MAX) or 1
    return points[::-1][::step][::-1]


def summed(periods: Sequence[Period], names: Sequence[str]) -> list[tuple[int, dict[str, int]]]:
    """Return sums over stretches of the span, a hundred at most: bars that can be seen."""
    step = -(-len(periods) // ROW_COUNT_MAX) or 1
    stretches = [periods[begin : begin + step] for begin in range(0, len(periods), step)]
    return [
        (
            stretch[0].at_s,
            {name: sum(each.numbers.get(name, 0) for each in stretch) for name in names},
        )
        for stretch in stretches
    ]


def instant(time_s: float) -> str:
    """Return a time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
