"""Unit tests of the benchmark of what a snapshot costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench import mounted_snapshots
from tests.bench.comparison import Row, Sample
from tests.bench.mounted_snapshots import WORKS, Files, measure, render
from tests.bench.places import NativePlace, opened_places
from tests.bench.snapshots_plot import write_plot

if TYPE_CHECKING:
    from pathlib import Path

ROW: Row = {
    "kernel": [Sample(10_000.0, 50.0), Sample(5000.0, 40.0), Sample(10_000.0, 30.0)],
    "snapshot": [Sample(5000.0, 60.0)],
}


def test_each_row_has_a_sample_a_round(tmp_path: Path) -> None:
    """The calls of a round meet the files that the round before has left nowhere."""
    with opened_places(tmp_path, [NativePlace]) as places:
        rows, restores = measure(places, 2, 3)
    assert list(rows) == [work.title for work in WORKS]
    assert all(len(row["native"]) == 2 for row in rows.values())
    assert restores == []


def test_each_group_of_files_is_first_touched_by_one_row(tmp_path: Path) -> None:
    """A row named first touch whose files another row has touched would measure nothing."""
    place = NativePlace(tmp_path)
    files = Files(place, 2)
    files.prepare()
    before = {path: path.stat() for path in tmp_path.rglob("00*")}
    assert len(before) == 2 * len({work.group for work in WORKS} - {mounted_snapshots.NEW})
    firsts = [work for work in WORKS if work.title.endswith(mounted_snapshots.FIRST)]
    for work in firsts:
        assert {
            path.stat().st_ctime_ns
            for path in (tmp_path / "files" / work.group).rglob("00*")
        } == {
            each.st_ctime_ns for path, each in before.items() if work.group in path.parts
        }  # fmt: skip
        files.take(work)
    assert len({work.group for work in firsts}) == len(firsts)


def test_the_table_divides_medians() -> None:
    """A ratio of means would follow one sample that was disturbed."""
    assert (
        "| row | 100 (100..200) | 200 (200..200) | 2.00 | 40 (30..50) | 60 (60..60) | 1.50 |"
        in (render({"row": ROW}))
    )


@pytest.mark.parametrize("engine", [{}, {"rename": {"no snapshot": 40.0, "a snapshot": 50.0}}])
def test_the_picture_is_drawn(tmp_path: Path, engine: dict[str, dict[str, float]]) -> None:
    """The rows of the engine may be left out."""
    machine = {"commit": "0", "date": "today", "kernel": "6", "cpu_count": 2, "filesystem": "ext4"}
    result = {
        "machine": machine,
        "rows": {"unlink, first touch": ROW},
        "restore of one file, ms": [12.0],
        "engine": engine,
        "engine files": 1000,
        "figures": {"create the first snapshot": 0.1},
    }
    write_plot(result, tmp_path / "plot.svg")
    picture = (tmp_path / "plot.svg").read_text()
    assert "<!-- unlink, first touch -->" in picture
    assert "<!-- create the first snapshot -->" in picture
