"""Unit tests of the benchmark's command line."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.bench.disk import BYTES_PER_INODE
from tests.bench.options import FULL, QUICK, parse
from tests.bench.places import PLACES

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults_are_a_full_run_of_all_places() -> None:
    """Five rounds at least: the spread of fewer says little."""
    options = parse([])
    assert options.shape == FULL
    assert options.round_count >= 5
    assert tuple(place.name for place in PLACES) == options.place_names


def test_an_image_has_room_for_a_million_files() -> None:
    """The quickest run of one place, and the raw files that are made ahead of need."""
    options = parse(["--quick", "--places", "kernel", "--million"])
    assert options.disk_bytes // BYTES_PER_INODE >= 1_100_000


def test_quick_keeps_an_explicit_number_of_rounds() -> None:
    """`--quick` fills in what was left open, and nothing else."""
    assert parse(["--quick", "--repeat", "7"]).round_count == 7
    assert parse(["--quick"]).shape == QUICK


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--places", "native,nowhere"], "unknown place nowhere"),
        (["--repeat", "0"], "at least 1"),
        (["--plot", "x.png", "--places", "kernel"], "needs the place `native`"),
    ],
)
def test_mistakes_end_with_status_2_and_a_sentence(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They must be found before minutes of measuring, not after."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_too_small_a_disk_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of a run would fail every place at once."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pathlib.Path.exists", lambda _path: True)
    options = dataclasses.replace(
        parse(["--directory", str(tmp_path)]),
        shape=dataclasses.replace(FULL, data_bytes=1 << 60),
    )
    assert "--directory" in (options.refusal() or "")
