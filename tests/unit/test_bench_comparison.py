"""Unit tests of the benchmarks of clients and of whole programs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.bench import clients, comparison, programs
from tests.bench.comparison import Sample
from tests.bench.places import JuicefsPlace, NativePlace, opened_places

if TYPE_CHECKING:
    from pathlib import Path


def test_clients_make_and_remove_their_files(tmp_path: Path) -> None:
    """What one sample leaves would be in the next one's way."""
    found = clients.sample(tmp_path, 2, 10, [os.getpid()])
    assert set(found) == {"create", "unlink"}
    assert all(each.value > 0 and each.server_us is not None for each in found.values())
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_fails_fails_the_sample() -> None:
    """A rate over less work than was asked for would look fast."""

    def fail() -> None:
        sys.exit(1)

    with pytest.raises(ChildProcessError, match="1 of 2 clients failed"):
        clients.run_at_once([fail, lambda: None])


def test_clients_begin_together(tmp_path: Path) -> None:
    """One that runs alone at first meets a server that the others leave in peace."""
    (tmp_path / "ready").mkdir()

    def work() -> None:
        (tmp_path / "ready" / str(os.getpid())).touch()

    assert clients.run_at_once([work] * 3) < 30
    assert len(list((tmp_path / "ready").iterdir())) == 3


def test_rows_of_all_client_counts_have_a_sample_a_round(tmp_path: Path) -> None:
    """The first round is thrown away."""
    with opened_places(tmp_path, [NativePlace]) as places:
        rows = clients.measure(places, 2, [1, 2], 4)
    assert list(rows) == [
        "create + write 4 KiB + close, 1 client",
        "create + write 4 KiB + close, 2 clients",
        "unlink, 1 client",
        "unlink, 2 clients",
    ]
    assert all(len(row["native"]) == 2 for row in rows.values())


def test_a_place_without_its_program_is_left_out_and_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are worth measuring without it."""

    class MissingPlace(JuicefsPlace):
        program = "no-such-program"

    with opened_places(tmp_path, [NativePlace, MissingPlace]) as places:
        assert [place.name for place in places] == ["native"]
    assert "no-such-program is not installed" in capsys.readouterr().err


def test_programs_run_in_the_place_and_fail_loudly(tmp_path: Path) -> None:
    """A clone that did not work takes no time at all."""
    program = programs.Program("touch", ("touch", "made"))
    assert programs.take(program, tmp_path).value > 0
    assert (tmp_path / "made").exists()
    with pytest.raises(subprocess.CalledProcessError):
        programs.take(programs.Program("false", ("false",)), tmp_path)


def test_the_last_program_removes_what_the_others_made(tmp_path: Path) -> None:
    """Else each round would begin with more than the one before."""
    rows = programs.programs(tmp_path, [tmp_path / "pandas.whl"])
    assert [row.title for row in rows] == [
        "git clone", "pip install", "import pandas", "cp -a", "rm -rf",
    ]  # fmt: skip
    assert set(rows[-1].command[2:]) == {"clone", "site", "copy"}


def test_the_table_tells_how_fast_memfs_is() -> None:
    """More files a second and fewer seconds are both faster."""
    row = {"native": [Sample(4.0), Sample(2.0), Sample(3.0)], "kernel": [Sample(6.0, 12.0)]}
    faster = comparison.render({"row": row}, "a second", more_is_better=True)
    slower = comparison.render({"row": row}, "seconds", more_is_better=False)
    assert "| row | 3.00 (2.00..4.00) | 6.00 (6.00..6.00) | 2.00 | 12 |" in faster
    assert "| 0.50 | 12 |" in slower
