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
    QuotaReport,
    SnapshotsReport,
    StatusReport,
    StoreReport,
    TierReport,
    WorkReport,
)
from memfs.metrics.latency import BUCKET_COUNT, limit_ns
from memfs.metrics.rolling import Period
from memfs.report.charts import PERCENT, charts
from memfs.report.gathering import Gathered
from memfs.report.health import Level, findings
from memfs.report.latencies import latencies_of, percentile_s
from memfs.report.page import asset, render
from memfs.report.sentences import Sentence, Weight, cost_of_month, sentences
from tests.chromium import browse
from tests.unit.test_status import REPORT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


def told(found: Gathered, weight: Weight | None = None, **prices: float) -> str:
    return "\n".join(
        f"{each.text} {each.remedy}"
        for each in sentences(found, prices)
        if weight in (None, each.weight)
    )


# --- sentences -----------------------------------------------------------------------------------
def test_a_mount_that_is_well_says_so_first() -> None:
    found = sentences(gathered(), {})
    assert found[0] == Sentence(Weight.GOOD, "Nothing needs attention.")
    assert not any(each.weight == Weight.ACT for each in found)


def test_a_store_that_fails_comes_first() -> None:
    status = WELL._replace(store=StoreReport(False, 90.0, "403 Forbidden"))
    first, *_ = sentences(gathered(status=status), {})
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
        PendingReport("/a", "glacier", "waits for the quota quotas.upload_per_day", 0, 9.0, None),
        PendingReport(
            "/b", "cold", "no form of its content is known; run memfs fsck", 3, 9.0, None
        ),
        PendingReport("/c", "cold", "inode 7: the digest differs", 3, 9.0, None),
    ]
    found = gathered(pending=waiting)
    assert "2 moves wait (damage), such as /b" in told(found, Weight.ACT)
    assert "Run `memfs scrub`" in told(found, Weight.ACT)
    assert "1 move waits (quota), such as /a" in told(found, Weight.KNOW)


def test_costs_are_told_in_amounts_and_by_price() -> None:
    numbers = {"store_requests": 2000, "store_received_bytes": 2 * GIB, "remote_bytes": 100 * GIB}
    found = gathered(numbers)
    assert "got 2000 requests" in told(found)
    assert "At the given prices" not in told(found)
    # 720 hours like this one: 1,440,000 requests, 1440 GiB received.
    assert cost_of_month(found, {"stored": 0.02}) == pytest.approx(2.0)
    assert cost_of_month(found, {"requests": 0.01}) == pytest.approx(14.4)
    assert cost_of_month(found, {"received": 0.1, "stored": 0.02}) == pytest.approx(146.0)
    assert "a month like this costs 146.00" in told(found, received=0.1, stored=0.02)


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
    assert sentences(empty, {"stored": 1.0})
    assert [chart.name for chart in charts(empty, {})] == [
        *("use", "fullness", "flows", "opens", "latency", "hottest", "coldest", "compression"),
        *("store", "snapshots", "pending"),
    ]
    assert "<html" in render(empty, sentences(empty, {}), charts(empty, {}))


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
            mountpoint=name, codecs=(CodecReport("lz4", 4, 40 << 20, 20 << 20, 2.0, 0, 0),)
        ),
        heat={
            "files": [{"path": f"{name}{n}", "size": 5, "uses": 9.0, "error": 0.0} for n in "ab"],
            "directories": [],
            "coldest": [{"path": name, "size": 5 << 20, "accessed_ns": 10**18}],
        },
        events=[{"number": 1, "at_ns": 10**18, "kind": "pin", "subject": name, "detail": "warm"}],
        pending=[PendingReport(name, "glacier", "the store is down", 2, 5.0, None)],
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
    )


def test_each_chart_has_a_table_and_its_option_is_json() -> None:
    for chart in charts(full_report(), {"stored": 0.02}):
        assert chart.option is not None, chart.name
        assert chart.rows, chart.name
        assert all(len(row) == len(chart.head) for row in chart.rows), chart.name
        assert json.loads(json.dumps(chart.option)) == chart.option
        assert chart.description.endswith("."), chart.name


def test_shares_of_durations_are_whole() -> None:
    [latency] = [each for each in charts(full_report(), {}) if each.name == "latency"]
    assert latency.option is not None
    assert latency.unit == PERCENT
    columns: Sequence[Any] = [series["data"] for series in latency.option["series"]]
    assert [round(sum(shares)) for shares in zip(*columns, strict=True)] == [100, 100]


def test_charts_and_tables_over_a_long_time_are_bounded() -> None:
    periods = [Period(60 * turn, {"used.cold": turn, "opens.cold": 1}) for turn in range(10_000)]
    found = charts(gathered(periods=periods), {})
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
    return render(found, sentences(found, {}), charts(found, {}))


def test_the_page_forbids_all_but_its_own_scripts() -> None:
    page = page_of(full_report())
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert len(re.findall("'sha256-", policy)) == 3


def test_complaints_and_requests_of_a_page_are_seen(tmp_path: Path) -> None:
    """The next test would pass with a browser that tells nothing."""
    path, work = tmp_path / "page.html", tmp_path / "work"
    work.mkdir()
    path.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("bad")</script>')
    page = browse(path, work)
    assert "bad" in page.complaints
    assert set(page.requests) == {"http://127.0.0.1:9/x.png"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_draws_all_charts_without_a_complaint_or_a_request(
    tmp_path: Path, dark: bool
) -> None:
    """Also where names of files try to be something else."""
    for name in ("/train/set1/shard-1", HOSTILE):
        path, work = tmp_path / "report.html", tmp_path / f"work-{len(name)}"
        work.mkdir()
        path.write_text(page_of(full_report(name)), encoding="utf-8")
        page = browse(path, work, dark=dark)
        assert page.complaints == []
        assert page.requests == []
        assert 'data-drawn="11"' in page.document
        assert len(re.findall(r'<div class="chart"[^>]*>\s*<div[^>]*>\s*<svg', page.document)) == 11
        assert page.document.count("<details>") == 12
        assert "alert(1)</script>" not in page.document
        colour = "rgb(228, 231, 233)" if dark else "rgb(28, 34, 39)"
        assert colour in page.document


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


def test_moves_that_wait_are_wrong_where_it_does_not_end_by_itself() -> None:
    damaged = PendingReport("/a", "cold", "no form is intact; run memfs fsck", 1, 5.0, None)
    stuck = PendingReport("/b", "glacier", "something odd", 25, 5.0, "2026-11-30T10:00:00Z")
    fresh = PendingReport("/c", "glacier", "something odd", 1, 5.0, "2026-11-30T10:00:00Z")
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
