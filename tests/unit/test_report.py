"""The report: its sentences, its charts with their tables, and the page in a browser."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.control.report import (
    CodecReport,
    ExportReport,
    PendingReport,
    PricesReport,
    QuotaReport,
    SnapshotsReport,
    StatusReport,
    StoreReport,
    TierReport,
    WorkReport,
)
from memfs.metrics.latency import BUCKET_COUNT, limit_ns
from memfs.metrics.numbers import KINDS, PLACES
from memfs.metrics.rolling import Period
from memfs.report.charts import charts
from memfs.report.costs import cost_by_tier, costs_of
from memfs.report.files import treemap
from memfs.report.gathering import Gathered
from memfs.report.health import Level, findings
from memfs.report.latencies import latencies_of, percentile_s
from memfs.report.options import PERCENT
from memfs.report.page import asset, render
from memfs.report.sentences import Sentence, Weight, sentences
from memfs.report.trials import Trial, Trials, Tried, try_sizes, try_sizes_of
from memfs.simulation.policies import find_policy
from memfs.simulation.replay import Machine
from memfs.traces.trace import Event, Trace
from memfs.types import PendingCode
from tests.unit.test_status import REPORT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.control.methods.mount import TraceReport
    from tests.browser import Browser

GIB = 1 << 30
NOW_S = 1_796_050_000
WELL = REPORT._replace(
    store=StoreReport(True, 60.0, None),
    tiers=(
        TierReport("warm", 4 * GIB, GIB, 7, None),
        TierReport("cold", 100 * GIB, 10 * GIB, 100, None),
        TierReport("glacier", None, 50 * GIB, 900, None),
    ),
    work=WorkReport(0, 0, 0, 0, 0, ()),
    policy=REPORT.policy._replace(name="s3fifo"),
    quotas=(),
    codecs=(),
    snapshots=SnapshotsReport(0, None, 0, 0, 0),
)


def gathered(
    numbers: dict[str, int] | None = None, status: StatusReport = WELL, **changes: object
) -> Gathered:
    """A mount of which the last hour had these numbers in its last minute."""
    periods = [Period(NOW_S - 3600 + 60 * turn, {"inodes": 5}) for turn in range(59)]
    periods.append(Period(NOW_S - 60, numbers or {"inodes": 5}))
    found = Gathered(
        status,
        "day",
        float(NOW_S),
        periods,
        {"files": [], "directories": [], "coldest": []},
        [],
        [],
        [],
    )
    return found._replace(**changes)  # type: ignore[arg-type]  # of any field


def priced(found: Gathered, unit: str = "", /, **prices: float) -> Gathered:
    known = PricesReport(unit)._replace(**prices)  # type: ignore[arg-type]  # of any price
    status = found.status._replace(prices=known)
    return found._replace(status=status)


def told(found: Gathered, weight: Weight | None = None, **prices: float) -> str:
    if prices:
        found = priced(found, **prices)
    return "\n".join(
        f"{each.text} {each.remedy}" for each in sentences(found) if weight in (None, each.weight)
    )


# --- sentences -----------------------------------------------------------------------------------
def test_a_mount_that_is_well_says_so_first() -> None:
    found = sentences(gathered())
    assert found[0] == Sentence(Weight.GOOD, "Nothing needs attention.")
    assert not any(each.weight == Weight.ACT for each in found)


def test_a_store_that_fails_comes_first() -> None:
    status = WELL._replace(store=StoreReport(False, 90.0, "403 Forbidden"))
    first, *_ = sentences(gathered(status=status))
    assert first.weight == Weight.ACT
    assert first.text == "The object store fails for 1 min 30 s: 403 Forbidden."


def test_a_disk_tier_is_too_small_if_it_is_full_and_opens_wait_for_the_store() -> None:
    opens = {"opens.cold": 60, "opens.glacier": 40, "opened_bytes.glacier": 5 * GIB}
    roomy = told(gathered(opens))
    assert "40% of the opens waited for the object store (40 files, 5.0 GiB)" in roomy
    assert "too small" not in roomy
    assert "memfs prefetch" in roomy
    full = WELL._replace(tiers=(TierReport("cold", 10 * GIB, 10 * GIB, 100, None),))
    text = told(gathered(opens, status=full), Weight.ACT)
    assert "The disk tier is too small." in text
    assert "Raise cold.size" in text


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_a_tier_between_its_watermarks_counts_as_full(share: float) -> None:
    """What had to leave is fetched again, although there seems to be room."""
    opens = {"opens.cold": 60, "opens.glacier": 40}
    use = {"used.cold": int(share * GIB), "capacity.cold": GIB}
    periods = [Period(NOW_S - 60 * turn, use | opens) for turn in range(9, 0, -1)]
    text = told(gathered(periods=periods))
    assert ("The disk tier is too small." in text) is (share > 0.8)
    assert ("The disk has room" in text) is (share < 0.8)


def test_a_ram_tier_is_too_small_if_it_is_full_and_serves_little() -> None:
    full = WELL._replace(tiers=(TierReport("warm", GIB, GIB, 9, None),))
    text = told(gathered({"opens.warm": 10, "opens.cold": 90}, status=full), Weight.ACT)
    assert "it is full, and served 10% of the opens" in text
    assert "too small" not in told(gathered({"opens.warm": 90, "opens.cold": 10}, status=full))
    assert "RAM served 90% of the opens" in told(gathered({"opens.warm": 90, "opens.cold": 10}))


def test_few_opens_tell_nothing() -> None:
    text = told(gathered({"opens.glacier": 10}))
    assert "opened 10 times for reading: too few" in text
    assert "waited for the object store" not in text


def test_what_waits_is_told_by_what_for_with_what_to_do() -> None:
    waiting = [
        PendingReport("/a", "glacier", "no room until noon", 0, 9.0, None, PendingCode.QUOTA),
        PendingReport("/b", "cold", "nothing knows its content", 3, 9.0, None, PendingCode.DAMAGE),
        PendingReport("/c", "cold", "the digest differs", 3, 9.0, None, PendingCode.DAMAGE),
    ]
    found = gathered(pending=waiting)
    assert "2 moves wait (damage), such as that of /b" in told(found, Weight.ACT)
    assert "Run `memfs scrub`" in told(found, Weight.ACT)
    assert "1 move waits (quota), that of /a" in told(found, Weight.KNOW)


def test_costs_are_told_in_amounts_and_by_price() -> None:
    numbers = {"store_requests": 2000, "store_received_bytes": 2 * GIB, "remote_bytes": 100 * GIB}
    found = gathered(numbers)
    assert "got 2000 requests" in told(found)
    assert "At the given prices" not in told(found)
    # 720 hours like this one: 1,440,000 requests, 1440 GiB received.
    for prices, cost in (
        ({"stored": 0.02}, {"glacier": 2.0}),
        ({"requests": 0.01}, {"glacier": 14.4}),
        ({"received": 0.1, "stored": 0.02}, {"glacier": 146.0}),
        # RAM of 4 GiB and a disk of 100 GiB, whatever is in them.
        ({"warm": 2.0, "cold": 0.05, "stored": 0.02}, {"warm": 8.0, "cold": 5.0, "glacier": 2.0}),
    ):
        assert cost_by_tier(costs_of(priced(found, **prices))) == pytest.approx(cost)
    assert "a month like the last 1 h costs 146.00." in told(found, received=0.1, stored=0.02)
    text = told(priced(found, "EUR", warm=2.0, stored=0.02))
    assert "costs 10.00 EUR (warm 8.00 EUR, glacier 2.00 EUR)." in text
    assert "less than 0.01" in told(found, warm=0.001)
    [chart] = [each for each in charts(priced(found, "EUR", warm=2)) if each.name == "cost"]
    assert ("warm", "a GiB of RAM for a month", "4", "2 EUR", "8.00 EUR") in chart.rows
    assert ("cold", "a GiB of the disk for a month", "100", "not known", "") in chart.rows


# --- what a trace tells --------------------------------------------------------------------------
def looping(file_count: int, turns: int) -> Trace:
    """A program that reads all files of 1 GiB in turns, half of them twice as often."""
    trace = Trace(names=[f"f{number}" for number in range(file_count)])
    for turn in range(turns):
        for key in range(file_count if turn % 2 else file_count // 2):
            trace.add(Event.ACCESS, key, GIB)
    return trace


def tried(trace: Trace, warm: int, cold: int | None) -> Trials:
    made = try_sizes(trace, warm, cold, lambda *_: None)
    assert made is not None
    return Trials("/traces/monday", *made)


def test_a_size_that_is_enough_is_the_smallest_that_brings_most() -> None:
    found = tried(looping(64, 40), 8 * GIB, 32 * GIB)
    assert [each.size_bytes // GIB for each in found.trials["warm"]] == [4, 8, 16, 32]
    assert [each.size_bytes // GIB for each in found.trials["cold"]] == [16, 32, 64]
    for trials in found.trials.values():
        shares = [each.share for each in trials]
        assert shares == sorted(shares)
        assert shares[0] >= 0
        assert shares[-1] <= 1
    larger = found.larger("cold")
    assert larger is not None
    assert (larger.size_bytes, larger.share) == (64 * GIB, 1.0)
    assert found.smaller("warm") is None


def test_shares_are_those_of_the_real_queues_after_they_were_filled() -> None:
    trace = looping(64, 40)
    queue = find_policy("s3fifo").make_warm(8 * GIB)
    machine = Machine(queue, None)
    hits = []
    for row, key in enumerate(trace.keys):
        before = machine.warm_figures.hits.count
        machine.access(key, GIB)
        if row >= len(trace) // 2:
            hits.append(machine.warm_figures.hits.count - before)
    found = tried(trace, 8 * GIB, None)
    assert found.open_count == len(hits)
    assert found.share("warm") == pytest.approx(sum(hits) / len(hits))
    assert "cold" not in found.trials


def test_a_trace_tells_which_size_would_do_instead_of_rules() -> None:
    full = WELL._replace(
        tiers=(
            TierReport("warm", 8 * GIB, 8 * GIB, 8, None),
            TierReport("cold", 32 * GIB, 32 * GIB, 100, None),
        )
    )
    mount = gathered({"opens.warm": 10, "opens.cold": 50, "opens.glacier": 40}, status=full)
    by_rule = told(mount, Weight.ACT)
    assert by_rule.count("This is a rule of thumb; with a trace (`memfs trace start") == 2
    trials = Trials(
        "/traces/monday",
        1000,
        {"warm": 8 * GIB, "cold": 32 * GIB},
        {
            "warm": [Trial(4 * GIB, 0.5), Trial(8 * GIB, 0.72), Trial(16 * GIB, 0.91)],
            "cold": [Trial(16 * GIB, 0.799), Trial(32 * GIB, 0.8), Trial(64 * GIB, 0.8)],
        },
    )
    by_trace = told(mount._replace(tried=Tried(trials, "")))
    assert (
        "With 16.0 GiB of RAM instead of 8.0 GiB, 91% instead of 72% of the opens would be served "
        "from RAM. Raise warm.size. By a replay of the trace /traces/monday, of which 1000 opens "
        "count." in by_trace
    )
    assert "16.0 GiB of disk instead of 32.0 GiB would do: 80% instead of 80%" in by_trace
    assert "too small" not in by_trace
    assert "rule of thumb" not in by_trace
    enough = trials._replace(sizes={"warm": 16 * GIB}, trials={"warm": trials.trials["warm"]})
    assert "More RAM than 16.0 GiB would bring next to nothing: 91%" in told(
        mount._replace(tried=Tried(enough, ""))
    )
    failed = mount._replace(tried=Tried(None, "it was removed"))
    assert "the trace cannot be replayed (it was removed)" in told(failed, Weight.ACT)


def test_a_trace_that_tells_nothing_says_why(tmp_path: Path) -> None:
    recorded: TraceReport = {
        "recording": False,
        "path": None,
        "paths": True,
        "duration_s": 0.0,
        "row_count": 0,
        "size_bytes": 0,
        "dropped_count": 0,
        "removed_count": 0,
        "reason": None,
    }

    def reason(path: Path | None, status: StatusReport = WELL) -> str:
        return try_sizes_of(status, recorded, path, lambda *_: None).reason

    few = tmp_path / "few.csv"
    few.write_text("key,size\na,1\n")
    assert reason(None) == ""
    assert "too few opens" in reason(few)
    assert "No such file" in reason(tmp_path / "gone")
    other = WELL._replace(policy=REPORT.policy._replace(name="mine"))
    assert "mine cannot be replayed" in reason(few, other)
    many = tmp_path / "many.csv"
    rows = [f"{number % 7},{GIB}" for number in range(500)]
    many.write_text("\n".join(["key,size", *rows]))
    found = try_sizes_of(WELL, recorded | {"path": str(many)}, None, lambda *_: None, 400)
    assert found.trials is not None
    assert (found.trials.open_count, found.trials.path) == (200, str(many))


def test_what_would_be_lost_with_the_disk_is_told() -> None:
    export = ExportReport(3600.0, 60.0, 10, 3, 5 * GIB, False, None, None)
    assert "3 files would be lost: their 5.0 GiB" in told(
        gathered(status=WELL._replace(export=export))
    )
    failed = export._replace(error="the store refuses")
    assert "not exported: the store refuses" in told(
        gathered(status=WELL._replace(export=failed)), Weight.ACT
    )


def test_commands_are_set_apart_on_the_page() -> None:
    export = ExportReport(3600.0, 60.0, 10, 3, 5 * GIB, False, None, None)
    page = page_of(gathered(status=WELL._replace(export=export)))
    assert "Bring them there: <code>memfs barrier --level remote PATH</code>." in page


def test_other_sentences_need_their_numbers() -> None:
    status = WELL._replace(
        codecs=(CodecReport("zstd:3", 4, 40 * GIB, 10 * GIB, 2.0, 0, 0),),
        quotas=(QuotaReport("egress_per_day", 100, 95, 0, 60.0),),
        snapshots=SnapshotsReport(3, 7200.0, 0, 12, 5 * GIB),
    )
    slow = {"took.open.5": 970, "took.open.20": 30, "prefetch_hits": 80, "prefetch_wasted": 20}
    slow |= {"stalls": 90, "stalled_ms": 60_000}
    text = told(gathered(slow, status=status))
    for expected in (
        "compression made 10.0 GiB of 40.0 GiB",
        "The quota egress_per_day is used to 95%",
        "3 snapshots keep 5.0 GiB",
        "One open in a hundred took 537 ms or more",
        "Prefetch was right for 80% of 100 files",
        "busy with one thing for more than 50 ms 90 times, 1 min in all",
    ):
        assert expected in text
        assert expected not in told(gathered())


def test_a_mount_that_measured_nothing_yet_has_a_report() -> None:
    empty = gathered(periods=[])
    assert sentences(empty)
    assert [chart.name for chart in charts(empty)] == [
        *("use", "fullness", "flows", "opens", "sizes", "latency-time", "latency", "hottest"),
        *("coldest", "compression", "store", "cost", "snapshots", "pending"),
    ]
    assert "<html" in render(empty, sentences(empty), charts(empty))


# --- latencies -----------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=BUCKET_COUNT, max_size=BUCKET_COUNT).filter(any))
def test_a_percentile_is_a_limit_that_so_many_are_below(counts: list[int]) -> None:
    for share in (0.5, 0.99, 1.0):
        limit_s = percentile_s(counts, share)
        below = sum(n for bucket, n in enumerate(counts) if limit_ns(bucket) / 1e9 <= limit_s)
        assert below >= share * sum(counts)


def test_bands_add_up_to_all_requests() -> None:
    numbers = {f"took.open.{bucket}": bucket + 1 for bucket in range(BUCKET_COUNT)}
    [found] = latencies_of(gathered(numbers))
    assert sum(found.bands) == found.request_count == sum(range(BUCKET_COUNT + 1))


# --- charts --------------------------------------------------------------------------------------
HOSTILE = '/</script><script>alert(1)</script>"&\udcff'


def full_report(name: str = "/train/set1/shard-1") -> Gathered:
    """A mount with something in each chart."""
    numbers = {
        "inodes": 9,
        "used.warm": GIB,
        "used.cold": 5 * GIB,
        "capacity.warm": 2 * GIB,
        "capacity.cold": 9 * GIB,
        "opens.warm": 30,
        "opens.glacier": 60,
        "moved_bytes.cold.warm": GIB,
        "moved_bytes.glacier.cold": 3 * GIB,
        "moves.cold.warm": 1,
        "took.open.7": 90,
        "took.read.12": 5,
        "store_requests": 50,
        "store_sent_bytes": 7 << 20,
        "remote_bytes": 50 * GIB,
        "kept_bytes": GIB,
    }
    return gathered(
        numbers,
        WELL._replace(
            mountpoint=name,
            prices=PricesReport("EUR", warm=2.0, stored=0.02),
            codecs=(CodecReport("lz4", 4, 40 << 20, 20 << 20, 2.0, 0, 0),),
        ),
        heat={
            "files": [{"path": f"{name}{n}", "size": 5, "uses": 9.0, "error": 0.0} for n in "ab"],
            "directories": [],
            "coldest": [{"path": name, "size": 5 << 20, "accessed_ns": 10**18}],
        },
        events=[{"number": 1, "at_ns": 10**18, "kind": "pin", "subject": name, "detail": "warm"}],
        pending=[
            PendingReport(name, "glacier", "the store is down", 2, 5.0, None, PendingCode.STORE)
        ],
        snapshots=[
            {
                "name": "monday",
                "number": 1,
                "created_ns": 10**18,
                "description": name,
                "labels": {},
                "kept_until_ns": None,
            }
        ],
        held={
            "alone": {"monday": {"local_bytes": GIB, "remote_bytes": 0}},
            "shared": {"local_bytes": 0, "remote_bytes": 0},
        },
        tried=Tried(
            Trials(
                "/traces/monday",
                1000,
                {"warm": 2 * GIB},
                {"warm": [Trial(GIB, 0.3), Trial(2 * GIB, 0.5), Trial(4 * GIB, 0.9)]},
            ),
            "",
        ),
    )


def busy_report() -> Gathered:
    """An hour with much in each chart: six kinds of requests, all levels, some hundred files."""
    levels = ("hot", "warm", "cold", "packed", "glacier")
    periods = []
    for turn in range(360):
        numbers = {"inodes": 9, "remote_bytes": 50 * GIB, "kept_bytes": turn * GIB // 99}
        for at, level in enumerate(levels):
            numbers |= {
                f"used.{level}": min(turn, 90 * at + 9) * GIB // 30,
                f"capacity.{level}": (4 << at) * GIB,
                f"opens.{level}": turn * 7919 % (19 * at + 5),
                f"moved_bytes.cold.{level}": (at + 1) * GIB,
            }
        for at, kind in enumerate(KINDS):
            if kind != "sync" or turn % 90 < 30:
                numbers |= {f"took.{kind}.{at + 2}": 90, f"took.{kind}.{at + turn % 9 + 3}": 3}
        numbers |= {"store_sent_bytes": turn * 7919 % 99_999_999, "store_requests": 3}
        known = {name: value for name, value in numbers.items() if name in PLACES}
        periods.append(Period(NOW_S - 3600 + 10 * turn, known))
    places = (
        "/datasets/imagenet/train",
        "/datasets/laion/part-0001",
        "/checkpoints/step-100",
        "/m",
    )
    files = [
        {
            "path": f"{place}/shard-{n:05d}.tar",
            "size": n << 20,
            "uses": 99.0 / (n + 1),
            "error": 0.0,
        }
        for n in range(40)
        for place in places
    ]
    coldest = [each | {"accessed_ns": 10**18} for each in files]
    codecs = [
        CodecReport(name, 4, 40 * GIB, 20 * GIB, 2.0, 0, 0)
        for name in ("zstd:3", "byteshuffle+zstd:19", "lz4")
    ]
    waits = [
        PendingReport(f"{places[0]}/{n}", "glacier", f"because of {code}", 0, 9.0, None, code)
        for n, code in enumerate((PendingCode.QUOTA, PendingCode.OPEN, PendingCode.STORE) * 9)
    ]
    found = full_report(f"{places[0]}/{'long' * 30}")
    return found._replace(
        periods=periods,
        heat={"files": files, "directories": [], "coldest": coldest},  # type: ignore[typeddict-item]  # as a daemon tells
        pending=waits,
        status=found.status._replace(codecs=tuple(codecs)),
    )


def test_each_chart_has_a_table_and_its_option_is_json() -> None:
    for chart in charts(full_report()):
        assert chart.option is not None, chart.name
        assert chart.rows, chart.name
        assert all(len(row) == len(chart.head) for row in chart.rows), chart.name
        assert json.loads(json.dumps(chart.option)) == chart.option
        assert chart.description.endswith("."), chart.name


def test_shares_of_durations_are_whole() -> None:
    [latency] = [each for each in charts(full_report()) if each.name == "latency"]
    assert latency.option is not None
    assert latency.unit == PERCENT
    columns: Sequence[Any] = [series["data"] for series in latency.option["series"]]
    assert [round(sum(shares)) for shares in zip(*columns, strict=True)] == [100, 100]


def test_charts_and_tables_over_a_long_time_are_bounded() -> None:
    periods = [Period(60 * turn, {"used.cold": turn, "opens.cold": 1}) for turn in range(10_000)]
    found = charts(gathered(periods=periods))
    page = render(gathered(periods=periods), [], found)
    assert len(page) < len(asset("echarts.min.js")) + 400_000
    [opens] = [each for each in found if each.name == "opens"]
    assert opens.option is not None
    drawn = sum(value for series in opens.option["series"] for _, value in series["data"])
    assert drawn == 10_000


# --- the page ------------------------------------------------------------------------------------
def test_the_charts_are_drawn_by_the_library_as_it_was_published() -> None:
    """Apache ECharts 6.1.0: `dist/echarts.min.js` of the npm package, with licence and notice."""
    digest = hashlib.sha256(asset("echarts.min.js").encode()).hexdigest()
    assert digest == "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
    assert "Apache License" in asset("echarts.LICENSE")
    assert "Apache ECharts" in asset("echarts.NOTICE")


def page_of(found: Gathered) -> str:
    return render(found, sentences(found), charts(found))


def test_the_page_forbids_all_but_its_own_scripts() -> None:
    page = page_of(full_report())
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert len(re.findall("'sha256-", policy)) == 3


def test_complaints_requests_and_faults_of_a_page_are_seen(
    browser: Browser, tmp_path: Path
) -> None:
    """The next tests would pass with a browser that tells nothing."""
    path = tmp_path / "page.html"
    path.write_text(
        '<style>text { font: 16px sans-serif }</style><img src="http://127.0.0.1:9/x.png">'
        '<script>console.error("bad")</script><div style="width: 9999px">wide</div>'
        '<div class="chart" id="c" style="width: 200px"><svg width="200" height="50">'
        '<text x="10" y="20">one</text><text x="15" y="22">two</text><text x="190" y="20">three'
        "</text></svg></div>"
    )
    browser.driver.get(path.as_uri())
    errors: list[str] = []
    requests: list[str] = []

    def has_told() -> bool:
        errors.extend(browser.take_errors())
        requests.extend(browser.take_requests())
        return any("bad" in each for each in errors) and len(requests) > 1

    wait_for(has_told, lambda: (errors, requests))
    assert requests == [path.as_uri(), "http://127.0.0.1:9/x.png"]
    assert browser.misplaced() == [
        "the page is wider than the window",
        "c: one and two overlap",
        "c: three stands out",
    ]
    assert {each.partition(":")[0] for each in browser.violations()} >= {
        *("image-alt", "document-title", "html-has-lang")
    }


_DRAWN = "return document.documentElement.dataset.drawn"
"""JavaScript: how many charts are drawn; null: not all yet."""
WIDTHS = (390, 900, 1600)
"""CSS pixels of a telephone, a small window and a wide one."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_draws_all_charts_for_everybody_without_a_complaint_or_a_request(
    browser: Browser, tmp_path: Path, dark: bool
) -> None:
    """Also where names of files try to be something else."""
    browser.set_colours("dark" if dark else "light")
    for name in ("/train/set1/shard-1", HOSTILE):
        path = tmp_path / "report.html"
        path.write_text(page_of(full_report(name)), encoding="utf-8")
        browser.driver.get(path.as_uri())
        # Beside other work, chromium's driver may return before the last script has ended.
        wait_for(lambda: browser.run(_DRAWN), browser.take_errors)
        document = browser.run("return document.documentElement.outerHTML")
        assert 'data-drawn="14"' in document
        assert len(re.findall(r'<div class="chart[^>]*>\s*<div[^>]*>\s*<svg', document)) == 14
        assert document.count("<details>") == 15
        assert "alert(1)</script>" not in document
        assert browser.run("return getComputedStyle(document.body).color") == (
            "rgb(228, 231, 233)" if dark else "rgb(28, 34, 39)"
        )
        assert browser.take_errors() == []
        assert browser.take_requests() == [path.as_uri()]
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.violations() == []


def test_labels_have_room_at_any_width(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_of(busy_report()), encoding="utf-8")
    for width in WIDTHS:
        browser.set_width(width)
        browser.driver.get(path.as_uri())
        wait_for(lambda: browser.run(_DRAWN), browser.take_errors)
        assert browser.misplaced() == [], width


_TREE_LABELS = """
const place = document.getElementById("chart-hottest");
// A change of the size is told after a while.
if (Number(place.querySelector("svg").getAttribute("width")) !== place.clientWidth) return [];
return [...place.querySelectorAll("svg text")]
  .map((each) => each.textContent).filter((each) => each.trim());
"""


def test_names_of_files_can_be_read_or_are_left_out(browser: Browser, tmp_path: Path) -> None:
    """Areas of a few pixels had one or two letters of a name; the tooltip has all of it."""
    path = tmp_path / "report.html"
    path.write_text(page_of(busy_report()), encoding="utf-8")
    tree = treemap((each["path"], each["uses"]) for each in busy_report().heat["files"])
    names = set()
    for directory in tree["series"][0]["data"]:
        names |= {directory["name"], *(each["name"] for each in directory["children"])}
    browser.driver.get(path.as_uri())
    wait_for(lambda: browser.run(_DRAWN), browser.take_errors)
    for width in (*WIDTHS, WIDTHS[0]):
        browser.set_width(width)
        wait_for(lambda: browser.run(_TREE_LABELS), browser.take_errors)
        cut = [label for label in browser.run(_TREE_LABELS) if label not in names]
        assert all(label.endswith("...") and len(label) > 12 for label in cut), (width, cut)


# --- health --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "level", "name"),
    [
        ({"store": StoreReport(False, 5.0, "timed out")}, Level.BAD, "store"),
        (
            {"tiers": (TierReport("cold", GIB, GIB, 9, "beyond its high watermark"),)},
            Level.BAD,
            "disk",
        ),
        ({"tiers": (TierReport("cold", GIB, 1, 9, "held back"),)}, Level.DOUBTFUL, "disk"),
        ({"tiers": (TierReport("warm", GIB, 1, 9, "not locked"),)}, Level.DOUBTFUL, "ram"),
        ({"work": WorkReport(0, 0, 0, 0, 0, (), lost_count=2)}, Level.DOUBTFUL, "lost"),
        (
            {"export": ExportReport(3600.0, 1e6, 9, 0, 0, False, None, None)},
            Level.DOUBTFUL,
            "export",
        ),
        (
            {"export": ExportReport(3600.0, 1.0, 9, 4, 0, False, None, None)},
            Level.DOUBTFUL,
            "export",
        ),
        (
            {"export": ExportReport(3600.0, 1.0, 9, 0, 0, False, "it fails", None)},
            Level.DOUBTFUL,
            "export",
        ),
    ],
)
def test_what_is_wrong_is_found(changes: dict[str, Any], level: Level, name: str) -> None:
    [found] = findings(WELL._replace(**changes), [], 86_400.0)
    assert (found.level, found.name) == (level, name)


AT = "2026-11-30T10:00:00Z"


def test_moves_that_wait_are_wrong_where_it_does_not_end_by_itself() -> None:
    damaged = PendingReport("/a", "cold", "nothing is intact", 1, 5.0, None, PendingCode.DAMAGE)
    stuck = PendingReport("/b", "glacier", "something odd", 25, 5.0, AT, PendingCode.OTHER)
    fresh = PendingReport("/c", "glacier", "something odd", 1, 5.0, AT, PendingCode.OTHER)
    found = findings(WELL, [stuck, fresh, damaged], 86_400.0)
    assert [(each.level, each.name) for each in found] == [
        (Level.BAD, "damage"),
        (Level.DOUBTFUL, "waiting"),
    ]


def test_a_sound_mount_has_no_findings() -> None:
    export = ExportReport(None, 1e9, 9, 0, 0, False, None, None)
    assert findings(WELL, [], 86_400.0) == []
    assert findings(WELL._replace(export=export, store=None), [], 86_400.0) == []


def test_the_clock_of_a_report_is_that_of_its_mount() -> None:
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(NOW_S))
    assert made in page_of(gathered())
