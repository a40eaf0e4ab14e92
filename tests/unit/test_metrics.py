"""Metrics: the table, the text that is made of it, and who counts what."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from memfs.control.report import DatabaseReport, ExportReport, StatusReport
from memfs.metadata.foreign import Conflict
from memfs.metrics import table
from memfs.metrics.latency import BUCKET_COUNT, UNIT_BITS, Latencies, limit_ns
from memfs.metrics.numbers import PLACES
from memfs.metrics.sources import SourceCounts
from memfs.metrics.table import METRICS, Kind
from memfs.metrics.text import Histogram, Sample, render
from memfs.metrics.traffic import Edge, Level, Total, Traffic
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.stores.counts import Call, StoreCounts
from memfs.types import READER, PendingCode
from memfs_daemon.metrics import MetricsMethods
from memfs_daemon.stalls import Stalls
from memfs_daemon.status import Status
from tests.moving import State, compressible
from tests.unit.test_status import REPORT, status_parts

if TYPE_CHECKING:
    from pathlib import Path


def values(text: str) -> dict[str, float]:
    """Return each line's value by its name with its labels, as a scraper reads it."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [f" {name}={value}" for name, value in sorted(sample.labels.items())]
            found[sample.name + "".join(labels)] = sample.value
    return found


# --- the table -----------------------------------------------------------------------------------
def test_the_names_are_as_prometheus_wants_them() -> None:
    """A prefix, the unit at the end in its base form, and `_total` for what only grows."""
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 30
    for metric in METRICS:
        assert re.fullmatch(r"memfs_[a-z_]+", metric.name), metric
        assert (metric.kind == Kind.COUNTER) == metric.name.endswith("_total"), metric
        if metric.unit in ("bytes", "seconds", "ratio"):
            assert metric.name.removesuffix("_total").endswith("_" + metric.unit), metric
        assert metric.help.endswith("."), metric


def test_the_table_has_every_metric_of_its_module() -> None:
    rows = [each for each in vars(table).values() if isinstance(each, table.Metric)]
    assert rows == list(METRICS)


# --- the text ------------------------------------------------------------------------------------
def test_the_text_is_this() -> None:
    """By hand, so that writer and parser cannot be wrong together."""
    text = render(
        [
            Sample(table.TIER_USED, 5.0, ("warm",)),
            Sample(table.UPTIME, 1.5),
            Sample(table.TIER_USED, 7, ("cold",)),
        ]
    )
    assert text == (
        "# HELP memfs_uptime_seconds Since the daemon started.\n"
        "# TYPE memfs_uptime_seconds gauge\n"
        "memfs_uptime_seconds 1.5\n"
        "# HELP memfs_tier_used_bytes Bytes in a tier.\n"
        "# TYPE memfs_tier_used_bytes gauge\n"
        'memfs_tier_used_bytes{tier="cold"} 7\n'
        'memfs_tier_used_bytes{tier="warm"} 5\n'
    )


def test_every_line_names_its_mount() -> None:
    """One machine has several mounts, whose lines may come to one file (node_exporter)."""
    samples = [Sample(table.UPTIME, 1), Sample(table.TIER_USED, 2, ("warm",))]
    assert values(render(samples, "/mnt/a")) == {
        "memfs_uptime_seconds mount=/mnt/a": 1,
        "memfs_tier_used_bytes mount=/mnt/a tier=warm": 2,
    }
    assert 'mount="/\\\\udcff"' in render(samples, "/\udcff")


LABELS = st.text(st.characters(exclude_characters="\r", codec="utf-8"))


@settings(deadline=None)
@given(st.dictionaries(LABELS, st.integers(0, 1 << 53)))
def test_any_label_comes_back_from_the_text(stored: dict[str, int]) -> None:
    text = render(Sample(table.CODEC_STORED, value, (label,)) for label, value in stored.items())
    found = {
        sample.labels["codec"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found == stored


def test_a_histogram_adds_up_to_its_count() -> None:
    latencies = Latencies()
    for elapsed_ns in (10, 3000, 3000, 1 << 40):
        latencies.note("open", elapsed_ns)
    histogram = Histogram(latencies.counts()["open"], latencies.sums_ns()["open"])
    found = values(render([Sample(table.REQUEST_DURATION, histogram, ("open",))]))
    name = "memfs_request_duration_seconds"
    assert found[f"{name}_count operation=open"] == 4
    assert found[f"{name}_bucket le=+Inf operation=open"] == 4
    assert found[f"{name}_bucket le=1.024e-06 operation=open"] == 1
    assert found[f"{name}_bucket le=4.096e-06 operation=open"] == 3
    assert found[f"{name}_sum operation=open"] == pytest.approx(1099.511634, rel=1e-6)


# --- what is counted -----------------------------------------------------------------------------
@settings(deadline=None)
@given(st.integers(0, (1 << 63) - 1))
def test_a_duration_is_in_the_bucket_whose_limits_it_is_within(elapsed_ns: int) -> None:
    latencies = Latencies()
    latencies.note("read", elapsed_ns)
    [bucket] = [index for index, count in enumerate(latencies.counts()["read"]) if count]
    assert bucket == BUCKET_COUNT - 1 or elapsed_ns < limit_ns(bucket)
    assert bucket == 0 or elapsed_ns >= limit_ns(bucket - 1)
    assert limit_ns(0) == 1 << UNIT_BITS


def test_a_level_that_nobody_used_is_counted_with_zero() -> None:
    """A rate needs a line before the first event."""
    traffic = Traffic()
    traffic.note_open(Level.WARM, 10)
    assert traffic.opens() == {level: Total(0, 0) for level in Level} | {Level.WARM: Total(1, 10)}
    assert traffic.moves() == {}


async def test_every_kind_of_move_is_counted_once(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    size = 100_000
    first = await state.create("first", compressible(size))
    await upload(state.parts, first)
    await pack(state.parts, first)
    await drop_raw(state.parts, first)
    await hydrate(state.parts, first)
    others = [await state.create(f"small-{number}", compressible(5000)) for number in range(3)]
    await upload_batch(state.parts, others)
    await drop_raw(state.parts, others[0])
    await hydrate(state.parts, others[0])
    moves = state.parts.traffic.moves()
    state.close()
    assert moves == {
        Edge(Level.COLD, Level.GLACIER): Total(4, size + 15_000),
        Edge(Level.COLD, Level.PACKED): Total(1, size),
        Edge(Level.PACKED, Level.COLD): Total(1, size),
        Edge(Level.GLACIER, Level.COLD): Total(1, 5000),
    }


def test_a_code_keeps_its_number() -> None:
    """Rows of the rings live for years."""
    codes = [f"pending.{code}" for code in PendingCode]
    assert [PLACES[code][0] for code in codes] == [*range(80, 80 + len(codes))]
    assert codes[:11] == [
        *("pending.quota", "pending.open", "pending.use", "pending.shared", "pending.archived"),
        *("pending.ram", "pending.disk", "pending.key", "pending.damage", "pending.store"),
        "pending.other",
    ]


async def test_all_numbers_of_a_mount_are_in_its_text(tmp_path: Path) -> None:
    """What the status tells, and what was counted; each metric but for those with a condition."""
    state = State(tmp_path / "state")
    await upload(state.parts, await state.create("file", compressible(50_000)))
    latencies, store = Latencies(), StoreCounts()
    latencies.note("lookup", 5000)
    store.requests[Call.PUT] += 3
    store.errors[Call.GET] += 1
    sources = SourceCounts()
    sources.conflicts[Conflict.GONE] += 2

    status = Status(status_parts(state))

    methods = MetricsMethods(
        state.engine,
        status.status,
        state.parts.progress,
        state.parts.traffic,
        store,
        latencies,
        Stalls(),
        sources,
        Latencies(),
    )
    found = values(
        (await methods.metrics())["text"]
        .replace('mount="/mount",', "")
        .replace('{mount="/mount"}', "")
    )
    state.close()
    assert found["memfs_inodes"] == 2
    assert found["memfs_form_files form=remote"] == 1
    assert found["memfs_moved_bytes_total source=cold target=glacier"] == 50_000
    assert found["memfs_store_requests_total call=put"] == 3
    assert found["memfs_store_errors_total call=get"] == 1
    assert found["memfs_source_conflicts_total conflict=gone"] == 2
    assert found["memfs_source_conflicts_total conflict=taken"] == 0
    assert found["memfs_pending_moves reason=quota"] == 0
    assert found["memfs_request_duration_seconds_count operation=lookup"] == 1
    assert not any(math.isnan(value) for value in found.values())


async def test_no_row_of_the_table_is_without_a_source(tmp_path: Path) -> None:
    """With a report that has all parts, each metric has a line."""
    state = State(tmp_path / "state")
    latencies, traffic = Latencies(), Traffic()
    latencies.note("open", 1)
    traffic.note_move(Level.COLD, Level.WARM, 1)

    database = DatabaseReport(
        "a", "postgresql://db", True, None, None, 1, 9, 0.5, 3, 4, {"lost": 1}
    )
    writer = REPORT._replace(
        export=ExportReport(3600.0, 60.0, 9, 0, 0, False, None, None), database=database
    )
    reader = REPORT._replace(database=database._replace(role=READER, writer="b", lag_count=2))

    async def status() -> StatusReport:
        return writer

    methods = MetricsMethods(
        state.engine,
        status,
        state.parts.progress,
        traffic,
        StoreCounts(),
        latencies,
        Stalls(),
        SourceCounts(),
        latencies,
    )
    samples = [*await methods.samples(writer), *await methods.samples(reader)]
    state.close()
    assert {sample.metric for sample in samples} == set(METRICS)
