"""`memfs compress` on a mount: files are packed now, read back equal, and say why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memfs.exit_codes import ExitCode
from tests.posix.capabilities import Capability
from tests.tiers.tiering import compressible, incompressible, pin, residence, told, why
from tests.warm import run_warm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]


def compress(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `memfs compress`; returns its exit status and what it printed."""
    done = run_warm("compress", *arguments)
    return done.returncode, done.stdout, done.stderr


def compress_json(*arguments: str | Path) -> dict[str, Any]:
    code, out, err = compress("--json", *arguments)
    answer: dict[str, Any] = json.loads(out)
    assert code == (ExitCode.OK if answer["complete"] else ExitCode.PROBLEMS), err
    return answer


def plant(place: Path) -> dict[Path, bytes]:
    contents = {place / f"{number}": compressible(100_000, number) for number in range(5)}
    contents[place / "noise"] = incompressible(100_000)
    for path, content in contents.items():
        path.write_bytes(content)
    return contents


@pytest.mark.any_driver
def test_a_tree_is_compressed_as_a_dry_run_told(place: Path) -> None:
    """Room is given back, content stays, and what would not shrink is left alone."""
    contents = plant(place)
    told_before = compress_json("--dry-run", place)
    assert told_before["outcomes"] == {"due": 5, "incompressible": 1}
    assert all(residence(path).forms == ["raw"] for path in contents)
    answer = compress_json(place)
    assert answer["outcomes"] == {"done": 5, "incompressible": 1}
    assert answer["before_bytes"] == told_before["before_bytes"]
    assert answer["ratio"] == pytest.approx(told_before["ratio"], rel=0.2)
    assert answer["ratio"] > 1.5
    assert residence(place / "0").forms == ["packed"]
    assert why(place / "0")["rule"] == "compress"
    for path, content in contents.items():
        assert path.read_bytes() == content


@pytest.mark.any_driver
def test_raw_files_are_kept_on_request(place: Path) -> None:
    plant(place)
    compress_json("--keep-raw", place)
    assert residence(place / "0").forms == ["raw", "packed"]
    assert "5 as they should be" in compress("--keep-raw", place)[1]
    assert compress_json(place)["outcomes"]["done"] == 5
    assert residence(place / "0").forms == ["packed"]


@pytest.mark.any_driver
def test_a_codec_is_for_this_once(place: Path) -> None:
    """What is in force for later is told by the xattr, as before."""
    contents = plant(place)
    before = told(place / "0", "codec")
    assert compress_json("--codec", "lz4", place)["outcomes"]["done"] == 5
    smaller = compress_json("--codec", "zstd:9", place)
    assert smaller["outcomes"]["done"] == 5
    assert smaller["after_bytes"] < smaller["before_bytes"]
    assert told(place / "0", "codec") == before
    for path, content in contents.items():
        assert path.read_bytes() == content


@pytest.mark.any_driver
def test_a_codec_that_does_not_exist_is_refused(place: Path) -> None:
    plant(place)
    code, _, err = compress("--codec", "zip", place)
    assert code != ExitCode.OK
    assert "zip" in err
    assert "compresses nothing" in compress("--codec", "none", place)[2]


def test_open_and_pinned_files_are_left_alone(place: Path) -> None:
    """The first are reported and make the exit status 1."""
    plant(place)
    pin(place / "1", "warm")
    with (place / "0").open("r+b"):
        answer = compress_json(place)
        assert answer["outcomes"] == {"busy": 1, "pinned": 1, "done": 3, "incompressible": 1}
        assert answer["failures"][0].startswith(f"{place / '0'}: busy")
    assert compress_json(place)["outcomes"]["done"] == 1
