"""The charts of a report: for each what is drawn, and the table that says the same.

Invariant: a chart is data: an option of ECharts in JSON, and rows of text. Everything that a chart
shows is in its table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metrics.numbers import TIERS
from memfs.metrics.traffic import Level
from memfs.report.costs import PRICES, costs_of, money
from memfs.report.durations import durations, durations_over_time
from memfs.report.files import coldest, hottest
from memfs.report.options import (
    BYTES,
    PERCENT,
    ROW_COUNT_MAX,
    Chart,
    area,
    bar,
    byte_axis,
    highest,
    instant,
    line,
    over_time,
    sampled,
    stacked_most,
    summed,
    thinned,
)
from memfs.sizes import format_count, format_size

if TYPE_CHECKING:
    from memfs.metrics.rolling import Period
    from memfs.report.gathering import Gathered


def charts(gathered: Gathered) -> list[Chart]:
    """Return all charts, in the order of the page."""
    return [
        _use(gathered),
        _fullness(gathered),
        _flows(gathered),
        _opens(gathered),
        _sizes(gathered),
        durations_over_time(gathered),
        durations(gathered),
        hottest(gathered),
        coldest(gathered),
        _compression(gathered),
        _store(gathered),
        _costs(gathered),
        _snapshots(gathered),
        _pending(gathered),
    ]


# --- over time -----------------------------------------------------------------------------------
def _use(gathered: Gathered) -> Chart:
    points = thinned(gathered.periods)
    names = [tier for tier in TIERS if any(f"used.{tier}" in each.numbers for each in points)]
    series = [
        area(tier, [(each.at_s, each.numbers.get(f"used.{tier}", 0)) for each in points])
        for tier in names
    ]
    rows = [
        (instant(each.at_s), *(format_size(each.numbers.get(f"used.{tier}", 0)) for tier in names))
        for each in sampled(points)
    ]
    return Chart(
        "use",
        "Use by tier",
        "Bytes in each tier over time, one on the other.",
        over_time(series, stacked_most(points, [f"used.{tier}" for tier in names]))
        if names
        else None,
        ("time", *names),
        rows,
        BYTES,
    )


def _fullness(gathered: Gathered) -> Chart:
    points = thinned(gathered.periods)
    names = [tier for tier in TIERS if any(f"capacity.{tier}" in each.numbers for each in points)]
    series = [line(tier, [(each.at_s, _percent(each, tier)) for each in points]) for tier in names]
    rows = [
        (instant(each.at_s), *(f"{_percent(each, tier)} %" for tier in names))
        for each in sampled(points)
    ]
    return Chart(
        "fullness",
        "How full the tiers are",
        "Use of each tier in percent of what it may hold. A tier that is always full is too small, "
        "if files that were used lately are not in it.",
        over_time(series) if names else None,
        ("time", *names),
        rows,
        PERCENT,
    )


def _percent(period: Period, tier: str) -> float:
    capacity = period.numbers.get(f"capacity.{tier}", 0)
    return round(100 * period.numbers.get(f"used.{tier}", 0) / capacity, 1) if capacity else 0.0


def _opens(gathered: Gathered) -> Chart:
    points = summed(gathered.periods, [f"opens.{level}" for level in Level])
    totals = {level: gathered.total(f"opens.{level}") for level in Level}
    names = [level for level in Level if totals[level]]
    series = [
        bar(str(level), [(at_s, numbers[f"opens.{level}"]) for at_s, numbers in points], stack="o")
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
        "Where files were when programs opened them for reading: warm is in RAM, cold is a plain "
        "file, packed has to be unpacked, glacier has to be fetched. Hot are attaches to tensors "
        "in GPU memory; each goes through an open, which counts as well. With passthrough the "
        "daemon sees opens and no reads.",
        over_time(series) if names else None,
        ("level", "opens", "share", "size of the files"),
        rows,
    )


def _store(gathered: Gathered) -> Chart:
    names = ("store_sent_bytes", "store_received_bytes")
    points = summed(gathered.periods, names)
    totals = {name: gathered.total(name) for name in names}
    series = [
        bar(title, [(at_s, numbers[name]) for at_s, numbers in points], stack="s")
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
    return Chart(
        "store",
        "Object store",
        "Bytes to and from the object store over time; the table has the requests as well.",
        over_time(series, highest(points)) if any(totals.values()) else None,
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


# --- what else would be --------------------------------------------------------------------------
_NAMES = {"warm": "RAM", "cold": "disk"}


def _sizes(gathered: Gathered) -> Chart:
    trials = gathered.tried.trials
    tried = {} if trials is None else trials.trials
    sizes = {} if trials is None else trials.sizes
    series = [
        {
            "name": _NAMES[tier],
            "tier": tier,
            "type": "line",
            "data": [
                {
                    "value": [each.size_bytes, round(100 * each.share, 1)],
                    "symbolSize": 14 if each.size_bytes == sizes[tier] else 7,
                }
                for each in found
            ],
        }
        for tier, found in tried.items()
    ]
    option = {
        "tooltip": {"trigger": "item"},
        "legend": {"bottom": 0},
        "grid": {"left": 60, "right": 40, "top": 16, "bottom": 64},
        "xAxis": {"type": "log", "logBase": 2, "unit": BYTES},
        "yAxis": {"type": "value", "max": 100, "min": 0},
        "series": series,
    }
    rows = [
        (
            tier,
            format_size(each.size_bytes),
            f"{each.share:.1%}",
            "now" if each.size_bytes == sizes[tier] else "",
        )
        for tier, found in tried.items()
        for each in found
    ]
    how = (
        "There is no trace: `memfs trace start` records one."
        if trials is None
        else f"By a replay of {trials.path}; the large marks are the present sizes."
    )
    return Chart(
        "sizes",
        "What tiers of other sizes would serve",
        f"Opens that RAM, and RAM or the disk, would have served if they had other sizes. {how}",
        option if series else None,
        ("tier", "size", "opens served", ""),
        rows,
        PERCENT,
    )


def _costs(gathered: Gathered) -> Chart:
    costs = costs_of(gathered)
    currency = gathered.status.prices.currency
    priced = [each for each in costs if each.cost is not None]
    names = list(dict.fromkeys(each.tier for each in priced))
    option = {
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "legend": {"bottom": 0},
        "grid": {"left": 70, "right": 24, "top": 12, "bottom": 64},
        "xAxis": {"type": "value"},
        "yAxis": {"type": "category", "inverse": True, "data": names},
        "series": [
            {
                "name": part.name,
                "type": "bar",
                "stack": "c",
                "barMaxWidth": 40,
                "data": [round(part.cost or 0.0, 4) if part.tier == name else 0 for name in names],
            }
            for part in priced
        ],
    }
    rows = [
        (
            each.tier,
            PRICES[each.name],
            f"{each.amount:.3g}",
            "not known" if each.price is None else f"{each.price:g} {currency}".rstrip(),
            "" if each.cost is None else money(each.cost, currency),
        )
        for each in costs
    ]
    return Chart(
        "cost",
        f"What a month costs, in {currency}" if currency else "What a month costs",
        "Cost of a month like this one by tier, of what has a price: in [prices] of the "
        "configuration, or by --price. Tiers with a limit cost their size.",
        option if priced else None,
        ("tier", "priced by", "amount", "price", "cost"),
        rows,
    )


# --- states --------------------------------------------------------------------------------------
def _compression(gathered: Gathered) -> Chart:
    codecs = [each for each in gathered.status.codecs if each.content_bytes]
    option = {
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "legend": {"bottom": 0},
        "grid": {"left": 140, "right": 24, "top": 12, "bottom": 64},
        "xAxis": byte_axis(max((each.content_bytes for each in codecs), default=0)),
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
    points = thinned(gathered.periods)
    series = [area("kept", [(each.at_s, each.numbers.get("kept_bytes", 0)) for each in points])]
    alone = {} if gathered.held is None else gathered.held["alone"]
    rows = [
        (
            each["name"],
            instant(each["created_ns"] / 1e9),
            each["description"],
            *(
                format_size(alone[each["name"]][place]) if each["name"] in alone else "?"
                for place in ("local_bytes", "remote_bytes")
            ),
        )
        for each in reversed(gathered.snapshots)
    ]
    return Chart(
        "snapshots",
        "Snapshots",
        "Bytes on the disk that only snapshots show, over time; the table has the snapshots, the "
        "newest first, with what the deletion of each one frees.",
        over_time(series, stacked_most(points, ["kept_bytes"]))
        if any("kept_bytes" in each.numbers for each in points)
        else None,
        ("name", "made", "description", "frees on the disk", "frees in the store"),
        rows[:ROW_COUNT_MAX],
        BYTES,
    )


def _pending(gathered: Gathered) -> Chart:
    groups = gathered.pending_by_code()
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
        (code, move.path, move.wanted, move.reason, move.since or "")
        for code, moves in groups.items()
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
