"""`memfs what-if`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from memfs_tools.main import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Five files of 10 bytes, read three times in one order."""
    path = tmp_path / "trace.csv"
    rows = [f"{time},file-{time % 5},10" for time in range(15)]
    path.write_text("\n".join(["time,key,size", *rows]))
    return str(path)


def test_the_table_has_each_policy_the_bounds_and_a_conclusion(
    capfd: pytest.CaptureFixture[str], trace: str
) -> None:
    arguments = ["what-if", "--trace", trace, "--warm", "40%", "--cold", "40"]
    assert run([*arguments, "--policy", "no-evict", "--policy", "lru"]) == 0
    output = capfd.readouterr()
    assert output.err == ""
    lines = [" ".join(line.split()) for line in output.out.splitlines()]
    assert lines == [
        "15 accesses to 5 files of 50 B; 20 B of RAM, 40 B of disk",
        "policy hits bytes hit into RAM from disk onto disk from store",
        "no-evict 26.7 % 26.7 % 20 B 40 B 40 B 70 B",
        "lru 0.0 % 0.0 % 150 B 0 B 150 B 150 B",
        "belady 26.7 % 26.7 % 20 B 40 B 40 B 70 B",
        "upper bound 40.0 % 40.0 %",
        "With 20 B of RAM, no-evict serves 26.7 % of the bytes from RAM, 26.7 points more than "
        "lru, 100 % of what Belady reaches, who knows the future.",
    ]


def test_programs_get_the_same_as_json(capfd: pytest.CaptureFixture[str], trace: str) -> None:
    assert run(["what-if", "--trace", trace, "--warm", "20", "--predict", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert [each["policy"] for each in answer["policies"]] == ["s3fifo", "lru", "belady"]
    assert (answer["warm_bytes"], answer["cold_bytes"]) == (20, None)
    assert answer["footprint_bytes"] == 50
    assert answer["policies"][1]["warm"]["moved_in"] == {"count": 15, "size_bytes": 150}
    assert 0 <= answer["prediction"]["foreseen_ratio"] <= 1


def test_prediction_is_told_when_it_is_asked_for(
    capfd: pytest.CaptureFixture[str], trace: str
) -> None:
    assert run(["what-if", "--trace", trace, "--warm", "20", "--predict"]) == 0
    assert "Prediction foresees " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--warm", "much"], "--warm: 'much' is no size"),
        (["--warm", "101%"], "--warm 101%: a share lies above 0% and up to 100%"),
        (["--warm", "x%"], "--warm x%: a share lies"),
        (["--warm", "0"], "--warm 0: a tier without room needs no replay"),
        (["--warm", "30", "--cold", "20"], "--cold is 20 B, less than --warm with 30 B"),
        (["--warm", "30", "--policy", "lry"], "no policy 'lry'; did you mean 'lru'?"),
        (["--warm", "30", "--trace", "/none"], "/none: No such file or directory"),
        (["--warm", "30", "--trace", "/proc/self/environ"], "has no column 'key'"),
        ([], "Missing option '--warm'"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    capfd: pytest.CaptureFixture[str], trace: str, arguments: list[str], complaint: str
) -> None:
    code = run(["what-if", "--trace", trace, *arguments])
    output = capfd.readouterr()
    assert code in (ExitCode.USAGE, ExitCode.PROBLEMS)
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert complaint in output.err
