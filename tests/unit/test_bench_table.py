"""Unit tests of the benchmark's report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.bench.aims import BOUND_AIMS, RATIO_AIMS
from tests.bench.machine import Machine
from tests.bench.outcome import Column, Outcome
from tests.bench.places import PLACES
from tests.bench.table import rate_text, render
from tests.bench.workloads import METRICS, WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def outcome() -> Outcome:
    """A run of native, memfs and pyfuse3's example with two metrics."""
    result = Outcome(
        command="tools/bench.sh --quick",
        machine=Machine(
            cpu="Some CPU",
            cpu_count=2,
            memory_bytes=8 << 30,
            kernel="6.12.1",
            python="3.11.2",
            filesystem="ext4",
            commit="0123456789ab",
            date="2026-01-02",
        ),
        settings={
            "round_count": 3,
            "duration_s": 0.5,
            "data_bytes": 64 << 20,
            "small_count": 1000,
        },
        columns=[
            Column("native", "native", ""),
            Column("kernel", "memfs kernel", ""),
            Column("passthroughfs", "pyfuse3 passthroughfs.py", "3.5.0"),
        ],
        skipped={"juicefs": "juicefs is not installed"},
    )
    for place, rates in {
        "native": [100_000.0, 120_000.0, 80_000.0],
        "kernel": [20_000.0, 21_000.0, 19_500.0],
        "passthroughfs": [4_000.0, 5_000.0, 3_000.0],
    }.items():
        for rate in rates:
            result.samples.add("open_read_close", place, rate)
    return result


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (691_284.9, "/s", "691 k"),
        (12_345.0, "/s", "12.3 k"),
        (9_996.0, "/s", "10.0 k"),
        (1_000.0, "/s", "1.00 k"),
        (999.4, "/s", "999"),
        (999.6, "/s", "1.00 k"),
        (6457.2, "MiB/s", "6457"),
        (12.34, "ms", "12.3"),
        (0.98, "s", "0.98"),
        (0.0021, "/s", "0.0021"),
        (0.0, "/s", "0"),
    ],
)
def test_numbers_keep_three_digits_at_every_magnitude(
    value: float, unit: str, expected: str
) -> None:
    """A cell must be comparable at a glance, without exponents or false precision."""
    assert expected == rate_text(value, unit)


def test_report_says_command_machine_commit_and_date(outcome: Outcome) -> None:
    """A number without its origin cannot be checked by anyone."""
    head = render(outcome).partition("\n\n")[0]
    for fact in [
        *("`tools/bench.sh --quick`", "Some CPU", "2 CPUs", "8 GiB", "6.12.1", "ext4"),
        *("0123456789ab", "2026-01-02", "3 rounds"),
    ]:
        assert fact in head


def test_report_shows_medians_with_their_extent(outcome: Outcome) -> None:
    """The spread stands beside each median."""
    assert (
        "| open + read 4 KiB + close, /s | warm | 100 k (80.0 k..120 k) "
        "| 20.0 k (19.5 k..21.0 k) | 4.00 k (3.00 k..5.00 k) |"
    ) in render(outcome)


def test_report_divides_by_native_and_by_the_example(outcome: Outcome) -> None:
    """Both ratios of a place stand in one cell, native's first."""
    assert "| open + read 4 KiB + close | 0.20 / 5.00 | 0.04 / 1.00 |" in render(outcome)


def test_missed_and_met_aims_are_told_apart(outcome: Outcome) -> None:
    """The bound itself is met; 5 times is not 6 times."""
    outcome.figures["ready"] = [0.4, 1.0, 2.0]
    outcome.figures["promotion"] = [20.1]
    report = render(outcome)
    assert "memfs kernel to pyfuse3 passthroughfs.py | >= 6 | 5.00 | no |" in report
    assert "returns | <= 1 s | 1.00 (0.40..2.00) s | yes |" in report
    assert "warm | <= 20 ms | 20.1 ms | no |" in report


def test_failed_and_left_out_places_are_explained(outcome: Outcome) -> None:
    """A gap in the table always has its reason below."""
    outcome.samples.fail("unlink", "kernel", "[Errno 5] Input/output error")
    outcome.samples.fail("mmap_read", "kernel", "[Errno 5] Input/output error")
    outcome.figure_failures["memory"] = "no process serves it"
    report = render(outcome)
    assert "| unlink, /s | just written | - | failed | - |" in report
    assert "- unlink, mmap_read on kernel failed: [Errno 5] Input/output error" in report
    assert "- juicefs left out: juicefs is not installed" in report
    assert "- memory not measured: no process serves it" in report
    assert outcome.failed


def test_every_row_has_as_many_cells_as_its_head(outcome: Outcome) -> None:
    """A row of another width breaks the table of the document."""
    for block in render(outcome).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_report_of_a_run_without_any_place_is_still_a_report(outcome: Outcome) -> None:
    """When every place is left out, the reasons are all there is to print."""
    outcome.columns.clear()
    outcome.samples.values.clear()
    assert "juicefs left out" in render(outcome)


def test_json_keeps_every_sample(outcome: Outcome, tmp_path: Path) -> None:
    """A reader who doubts a median can recompute it."""
    outcome.write_json(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["format"] == 1
    assert document["machine"]["commit"] == "0123456789ab"
    assert document["samples"]["values"]["open_read_close"]["kernel"] == [
        20_000.0,
        21_000.0,
        19_500.0,
    ]


def test_every_metric_is_yielded_by_one_workload() -> None:
    """A metric that no workload yields would be an empty row for ever."""
    yielded = [metric for _, metrics in WORKLOADS.values() for metric in metrics]
    assert sorted(METRICS) == sorted(yielded)


def test_aims_name_metrics_places_and_units_that_exist() -> None:
    """A misspelt aim would silently never be shown."""
    places = {place.name for place in PLACES}
    for aim in RATIO_AIMS:
        assert aim.metric in METRICS
        assert {aim.place, aim.baseline} <= places
    assert {"ready", "promotion", "memory"} == {aim.figure for aim in BOUND_AIMS}
