"""Charts of durations: how long requests of each kind took, in all and over time.

Invariant: a percentile is the upper limit of its bucket, as in `latencies`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from memfs.metrics.latency import BUCKET_COUNT
from memfs.metrics.numbers import KINDS
from memfs.report.latencies import BANDS, latencies_of, percentile_s
from memfs.report.options import PERCENT, SECONDS, Chart, instant, summed
from memfs.sizes import format_duration

if TYPE_CHECKING:
    from memfs.report.gathering import Gathered

_KINDS_TOLD = (
    "Names are looked up and listed, with their attributes; changes make, rename and remove them, "
    "and set attributes."
)


def durations(gathered: Gathered) -> Chart:
    """Return shares of the requests of each kind by how long they took."""
    found = latencies_of(gathered)
    series = [
        {
            "name": name,
            "type": "bar",
            "stack": "l",
            "data": [round(100 * each.bands[index] / each.request_count, 3) for each in found],
        }
        for index, (name, _) in enumerate(BANDS)
    ]
    option = {
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "legend": {"bottom": 0},
        "grid": {"left": 70, "right": 24, "top": 12, "bottom": 64},
        "xAxis": {"type": "value", "max": 100},
        "yAxis": {"type": "category", "inverse": True, "data": [each.kind for each in found]},
        "series": series,
    }
    rows = [
        (
            each.kind,
            str(each.request_count),
            f"< {format_duration(each.p50_s)}",
            f"< {format_duration(each.p99_s)}",
            *(str(count) for count in each.bands),
        )
        for each in found
    ]
    return Chart(
        "latency",
        "Durations of requests",
        f"Shares of the requests of each kind by how long the daemon took. {_KINDS_TOLD} Reads and "
        "writes that the kernel passes to the local file do not come to the daemon.",
        option if found else None,
        ("kind", "requests", "half of them", "99 of 100", *(name for name, _ in BANDS)),
        rows,
        PERCENT,
    )


def durations_over_time(gathered: Gathered) -> Chart:
    """Return bands of half and of 99 of 100 requests, a part for each kind."""
    names = [f"took.{kind}.{bucket}" for kind in KINDS for bucket in range(BUCKET_COUNT)]
    points = summed(gathered.periods, names)
    found: dict[str, list[tuple[int, float | None, float | None]]] = {}
    for kind in KINDS:
        buckets = [f"took.{kind}.{bucket}" for bucket in range(BUCKET_COUNT)]
        rows = [[numbers[name] for name in buckets] for _, numbers in points]

        if any(map(any, rows)):
            found[kind] = [
                (at_s, percentile_s(row, 0.5), percentile_s(row, 0.99))
                if any(row)
                else (at_s, None, None)
                for (at_s, _), row in zip(points, rows, strict=True)
            ]
    table = [
        (
            instant(at_s),
            *(
                "" if limit_s is None else f"< {format_duration(limit_s)}"
                for kind in found
                for limit_s in found[kind][turn][1:]
            ),
        )
        for turn, (at_s, _) in enumerate(points)
        if any(each[turn][1] is not None for each in found.values())
    ]
    return Chart(
        "latency-time",
        "Durations of requests over time",
        "What half of the requests of a kind took at most (dark) and 99 of 100 (light), on a "
        f"scale of powers of ten. {_KINDS_TOLD}",
        _bands(found) if found else None,
        ("time", *(f"{kind}, {share}" for kind in found for share in ("half", "99 of 100"))),
        table,
        SECONDS,
        is_tall=len(found) > 2,
    )


def _bands(found: dict[str, list[tuple[int, float | None, float | None]]]) -> dict[str, Any]:
    limits = [limit for rows in found.values() for row in rows for limit in row[1:] if limit]
    lowest = math.floor(math.log10(min(limits)))
    # Marks at each third power of ten, and the last of them is the end.
    thirds = max(1, math.ceil((math.log10(max(limits)) - lowest) / 3))
    low, high = 10.0**lowest, 10.0 ** (lowest + 3 * thirds)
    share = 90 / len(found)
    series = [
        {
            "name": name,
            "type": "line",
            "xAxisIndex": at,
            "yAxisIndex": at,
            "symbolSize": 2,
            "lineStyle": {"width": 1},
            "areaStyle": {"opacity": opacity, "origin": "start"},
            "color": colour,
            "data": [[row[0] * 1000, row[place]] for row in rows],
        }
        for at, rows in enumerate(found.values())
        for name, place, opacity, colour in (
            ("99 of 100", 2, 0.25, "#3f7cac"),
            ("half", 1, 0.6, "#2b5876"),
        )
    ]
    return {
        "tooltip": {"trigger": "axis"},
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "legend": {"bottom": 0},
        "grid": [
            {
                "left": 70,
                "right": 24,
                "top": f"{share * at + 6:.1f}%",
                "height": f"{share - 7:.1f}%",
            }
            for at in range(len(found))
        ],
        "xAxis": [
            {"type": "time", "gridIndex": at, "axisLabel": {"show": at == len(found) - 1}}
            for at in range(len(found))
        ],
        "yAxis": [
            {
                "type": "log",
                "gridIndex": at,
                "min": low,
                "max": high,
                "name": kind,
                "interval": 3,
                # The name of the kind is at the end.
                "isEndNamed": True,
                "nameGap": 4,
                "nameTextStyle": {"align": "right"},
            }
            for at, kind in enumerate(found)
        ],
        "series": series,
    }
