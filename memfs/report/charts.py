"""The charts of a report: for each what is drawn, and the table that says the same.

Invariant: a chart is data: an option of ECharts in JSON, and rows of text. Everything that a chart
shows is in its table.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.metrics.numbers import TIERS
from memfs.metrics.traffic import Level
from memfs.report.gathering import POINT_COUNT_MAX
from memfs.report.latencies import BANDS, latencies_of
from memfs.report.sentences import PRICES, cost_of_month
from memfs.sizes import format_count, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memfs.metrics.rolling import Period
    from memfs.report.gathering import Gathered

TREE_COUNT_MAX = 150
"""Files in a treemap: smaller ones cannot be told apart."""
GROUP_COUNT_MAX = 12
"""Directories in a treemap, if files have some in common."""
ROW_COUNT_MAX = 100
"""Rows of a table over time: as many points as are needed to see the shape."""

BYTES, COUNT, PERCENT = "bytes", "count", "percent"
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


def charts(gathered: Gathered, prices: Mapping[str, float]) -> list[Chart]:
    """Return all charts, in the order of the page."""
    return [
        _use(gathered),
        _fullness(gathered),
        _flows(gathered),
        _opens(gathered),
        _latency(gathered),
        _hottest(gathered),
        _coldest(gathered),
        _compression(gathered),
        _store(gathered, prices),
        _snapshots(gathered),
        _pending(gathered),
    ]


# --- over time -----------------------------------------------------------------------------------
def _use(gathered: Gathered) -> Chart:
    points = _thinned(gathered.periods)
    names = [tier for tier in TIERS if any(f"used.{tier}" in each.numbers for each in points)]
    series = [
        _area(tier, [(each.at_s, each.numbers.get(f"used.{tier}", 0)) for each in points])
        for tier in names
    ]
    rows = [
        (_instant(each.at_s), *(format_size(each.numbers.get(f"used.{tier}", 0)) for tier in names))
        for each in _sampled(points)
    ]
    return Chart(
        "use",
        "Use by tier",
        "Bytes in each tier over time, one on the other.",
        _over_time(series, _stacked_most(points, [f"used.{tier}" for tier in names]))
        if names
        else None,
        ("time", *names),
        rows,
        BYTES,
    )


def _fullness(gathered: Gathered) -> Chart:
    points = _thinned(gathered.periods)
    names = [tier for tier in TIERS if any(f"capacity.{tier}" in each.numbers for each in points)]
    series = [_line(tier, [(each.at_s, _percent(each, tier)) for each in points]) for tier in names]
    rows = [
        (_instant(each.at_s), *(f"{_percent(each, tier)} %" for tier in names))
        for each in _sampled(points)
    ]
    return Chart(
        "fullness",
        "How full the tiers are",
        "Use of each tier in percent of what it may hold. A tier that is always full is too small, "
        "if files that were used lately are not in it.",
        _over_time(series) if names else None,
        ("time", *names),
        rows,
        PERCENT,
    )


def _percent(period: Period, tier: str) -> float:
    capacity = period.numbers.get(f"capacity.{tier}", 0)
    return round(100 * period.numbers.get(f"used.{tier}", 0) / capacity, 1) if capacity else 0.0


def _opens(gathered: Gathered) -> Chart:
    points = _summed(gathered.periods, [f"opens.{level}" for level in Level])
    totals = {level: gathered.total(f"opens.{level}") for level in Level}
    names = [level for level in Level if totals[level]]
    series = [
        _bar(str(level), [(at_s, numbers[f"opens.{level}"]) for at_s, numbers in points], stack="o")
        for level in names
    ]
    everything = sum(totals.values())
    rows = [
        (
            str(level),
            str(totals[level]),
            f"{totals[level] / everything:.1%}",
            format_size(gathered.total(f"opened_bytes.{level}")),
        )
        for level in names
    ]
    return Chart(
        "opens",
        "Opens by level",
        "Where files were when programs opened them for reading: hot and warm are in memory, cold "
        "is a plain file, packed has to be unpacked, glacier has to be fetched. With passthrough "
        "the daemon sees opens and no reads.",
        _over_time(series) if names else None,
        ("level", "opens", "share", "size of the files"),
        rows,
    )


def _store(gathered: Gathered, prices: Mapping[str, float]) -> Chart:
    names = ("store_sent_bytes", "store_received_bytes")
    points = _summed(gathered.periods, names)
    totals = {name: gathered.total(name) for name in names}
    series = [
        _bar(title, [(at_s, numbers[name]) for at_s, numbers in points], stack="s")
        for name, title in zip(names, ("sent", "received"), strict=True)
    ]
    rows = [
        ("requests", str(gathered.total("store_requests"))),
        ("failed calls", str(gathered.total("store_errors"))),
        ("sent", format_size(totals["store_sent_bytes"])),
        ("received", format_size(totals["store_received_bytes"])),
    ]
    if gathered.periods:
        held = gathered.periods[-1].numbers.get("remote_bytes", 0)
        rows.append(("held now", format_size(held)))
    rows += [(f"price of {PRICES[name]}", f"{price:g}") for name, price in prices.items()]
    if (cost := cost_of_month(gathered, prices)) is not None:
        rows.append(("cost of a month like this", f"{cost:.2f}"))
    return Chart(
        "store",
        "Object store and what it costs",
        "Bytes to and from the object store over time; the table has the requests as well, and the "
        "cost where prices were given.",
        _over_time(series, _most(points)) if any(totals.values()) else None,
        ("what", "amount"),
        rows if gathered.status.store is not None else [],
        BYTES,
    )


# --- flows ---------------------------------------------------------------------------------------
def _flows(gathered: Gathered) -> Chart:
    flows = [
        (source, target, gathered.total(f"moved_bytes.{source}.{target}"))
        for source in Level
        for target in Level
        if source != target
    ]
    flows = [flow for flow in flows if flow[2]]
    option = {
        "tooltip": {"trigger": "item"},
        "series": [
            {
                "type": "sankey",
                "left": 16,
                "right": 110,
                "top": 12,
                "bottom": 12,
                "nodeGap": 14,
                "draggable": False,
                "emphasis": {"focus": "adjacency"},
                "lineStyle": {"color": "source", "opacity": 0.4},
                # No node is both: what leaves a level is on the left, what arrives on the right.
                "data": [
                    {"name": f"{way} {level}", "level": str(level)}
                    for way, place in (("from", 0), ("to", 1))
                    for level in Level
                    if any(flow[place] == level for flow in flows)
                ],
                "links": [
                    {"source": f"from {source}", "target": f"to {target}", "value": size}
                    for source, target, size in flows
                ],
            }
        ],
    }
    rows = [
        (
            str(source),
            str(target),
            format_size(size),
            format_count(gathered.total(f"moves.{source}.{target}"), "move"),
        )
        for source, target, size in sorted(flows, key=lambda flow: -flow[2])
    ]
    return Chart(
        "flows",
        "Flows between tiers",
        "Bytes that were copied from one level to another one, uncompressed.",
        option if flows else None,
        ("from", "to", "bytes", "files"),
        rows,
        BYTES,
    )


# --- durations -----------------------------------------------------------------------------------
def _latency(gathered: Gathered) -> Chart:
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
        "Shares of the requests of each kind by how long the daemon took. Reads and writes that "
        "the kernel passes to the local file do not come to the daemon.",
        option if found else None,
        ("kind", "requests", "half of them", "99 of 100", *(name for name, _ in BANDS)),
        rows,
        PERCENT,
    )


# --- files ---------------------------------------------------------------------------------------
def _hottest(gathered: Gathered) -> Chart:
    files = gathered.heat["files"]
    rows = [
        (each["path"], f"{each['uses']:.1f}", format_size(each["size"]))
        for each in files[:ROW_COUNT_MAX]
    ]
    return Chart(
        "hottest",
        "Hottest files",
        "Files by how often they were opened, by directory; an open counts half after a day. Click "
        "on a directory to see it alone.",
        _treemap([(each["path"], each["uses"]) for each in files]) if files else None,
        ("file", "opens", "size"),
        rows,
    )


def _coldest(gathered: Gathered) -> Chart:
    files = [each for each in gathered.heat["coldest"] if each["size"]]
    rows = [
        (each["path"], _instant(each["accessed_ns"] / 1e9), format_size(each["size"]))
        for each in files[:ROW_COUNT_MAX]
    ]
    return Chart(
        "coldest",
        "Coldest files on the disk",
        "Files on the disk that were not used for the longest time, by size and directory: these "
        "leave first when room is needed.",
        _treemap([(each["path"], each["size"]) for each in files]) if files else None,
        ("file", "last used", "size"),
        rows,
        BYTES,
    )


def _treemap(files: Iterable[tuple[str, float]]) -> dict[str, Any]:
    shown = sorted(files, key=lambda each: -each[1])[:TREE_COUNT_MAX]
    tree: dict[str, list[dict[str, Any]]] = {}
    depth = _depth(path for path, _ in shown)
    for path, value in shown:
        parts = path.split("/")
        cut = min(depth, len(parts) - 1)
        directory, name = "/".join(parts[:cut]), "/".join(parts[cut:])
        tree.setdefault(directory or "/", []).append({"name": name, "value": round(value, 3)})
    return {
        "tooltip": {"trigger": "item"},
        "series": [
            {
                "type": "treemap",
                "name": "all",
                "left": 0,
                "right": 0,
                "top": 0,
                "bottom": 30,
                "roam": False,
                "nodeClick": "zoomToNode",
                "label": {"overflow": "truncate", "fontSize": 11},
                "upperLabel": {"show": True, "height": 20, "overflow": "truncate"},
                "data": [{"name": name, "children": files} for name, files in tree.items()],
            }
        ],
    }


def _depth(paths: Iterable[str]) -> int:
    """Return how many parts of paths make groups that are few enough to be seen."""
    parts = [path.split("/")[:-1] for path in paths]
    for depth in range(max(map(len, parts), default=1), 1, -1):
        if len({tuple(each[:depth]) for each in parts}) <= GROUP_COUNT_MAX:
            return depth
    return 1


# --- states --------------------------------------------------------------------------------------
def _compression(gathered: Gathered) -> Chart:
    codecs = [each for each in gathered.status.codecs if each.content_bytes]
    option = {
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "legend": {"bottom": 0},
        "grid": {"left": 140, "right": 24, "top": 12, "bottom": 64},
        "xAxis": _byte_axis(max((each.content_bytes for each in codecs), default=0)),
        "yAxis": {"type": "category", "inverse": True, "data": [each.codec for each in codecs]},
        "series": [
            {
                "name": "content",
                "type": "bar",
                "barMaxWidth": 40,
                "data": [each.content_bytes for each in codecs],
            },
            {
                "name": "stored",
                "type": "bar",
                "barMaxWidth": 40,
                "data": [each.stored_bytes for each in codecs],
            },
        ],
    }
    rows = [
        (
            each.codec,
            format_count(each.file_count, "file"),
            format_size(each.content_bytes),
            format_size(each.stored_bytes),
            f"{each.content_bytes / each.stored_bytes:.2f}" if each.stored_bytes else "",
        )
        for each in codecs
    ]
    return Chart(
        "compression",
        "Compression",
        "What each codec made of the files that it packed, since the daemon started.",
        option if codecs else None,
        ("codec", "files", "content", "stored", "ratio"),
        rows,
        BYTES,
    )


def _snapshots(gathered: Gathered) -> Chart:
    points = _thinned(gathered.periods)
    series = [_area("kept", [(each.at_s, each.numbers.get("kept_bytes", 0)) for each in points])]
    rows = [
        (each["name"], _instant(each["created_ns"] / 1e9), each["description"])
        for each in reversed(gathered.snapshots)
    ]
    return Chart(
        "snapshots",
        "Snapshots",
        "Bytes on the disk that only snapshots show, over time; the table has the snapshots, the "
        "newest first.",
        _over_time(series, _stacked_most(points, ["kept_bytes"]))
        if any("kept_bytes" in each.numbers for each in points)
        else None,
        ("name", "made", "description"),
        rows[:ROW_COUNT_MAX],
        BYTES,
    )


def _pending(gathered: Gathered) -> Chart:
    groups = gathered.pending_by_word()
    option = {
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "grid": {"left": 90, "right": 24, "top": 12, "bottom": 32},
        "xAxis": {"type": "value", "minInterval": 1},
        "yAxis": {"type": "category", "inverse": True, "data": list(groups)},
        "series": [
            {
                "name": "moves",
                "type": "bar",
                "barMaxWidth": 40,
                "data": [len(moves) for moves in groups.values()],
            }
        ],
    }
    rows = [
        (word, move.path, move.wanted, move.reason, move.since or "")
        for word, moves in groups.items()
        for move in moves[: max(3, ROW_COUNT_MAX // len(groups))]
    ]
    return Chart(
        "pending",
        "Moves that wait, and why",
        "Moves that cannot be made now, by what they wait for.",
        option if groups else None,
        ("waits for", "file", "wanted", "reason", "since"),
        rows,
    )


# --- parts of options ----------------------------------------------------------------------------
def _over_time(series: list[dict[str, Any]], most_bytes: int | None = None) -> dict[str, Any]:
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
        "yAxis": {"type": "value"} if most_bytes is None else _byte_axis(most_bytes),
        "series": series,
    }


def _byte_axis(most: int) -> dict[str, Any]:
    """Return an axis whose marks are whole KiB, MiB, ...: 3 to 6 of them."""
    step = 1 << max(0, most.bit_length() - 3)
    return {"type": "value", "interval": step, "max": max(1, -(-most // step)) * step}


def _stacked_most(points: Sequence[Period], names: Sequence[str]) -> int:
    return max((sum(each.numbers.get(name, 0) for name in names) for each in points), default=0)


def _most(points: Sequence[tuple[int, dict[str, int]]]) -> int:
    return max((sum(numbers.values()) for _, numbers in points), default=0)


def _area(name: str, points: Sequence[tuple[int, int]]) -> dict[str, Any]:
    return _line(name, points) | {"stack": "all", "areaStyle": {"opacity": 0.7}}


def _line(name: str, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    data = [[at_s * 1000, value] for at_s, value in points]
    return {
        "name": name,
        "type": "line",
        "symbol": "none",
        "lineStyle": {"width": 1.5},
        "data": data,
    }


def _bar(name: str, points: Sequence[tuple[int, int]], *, stack: str) -> dict[str, Any]:
    data = [[at_s * 1000, value] for at_s, value in points]
    return {"name": name, "type": "bar", "stack": stack, "barMaxWidth": 30, "data": data}


def _thinned(periods: Sequence[Period]) -> Sequence[Period]:
    """Return at most `POINT_COUNT_MAX` of them, the last one always."""
    step = -(-len(periods) // POINT_COUNT_MAX) or 1
    return periods[::-1][::step][::-1]


def _sampled(points: Sequence[Period]) -> Sequence[Period]:
    step = -(-len(points) // ROW_COUNT_MAX) or 1
    return points[::-1][::step][::-1]


def _summed(periods: Sequence[Period], names: Sequence[str]) -> list[tuple[int, dict[str, int]]]:
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


def _instant(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
