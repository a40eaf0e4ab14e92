"""A directory of the mount as the upper layer of an overlayfs: whiteouts, copies up."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_a_whiteout_takes_the_place_of_what_was_renamed(place: Path) -> None:
    (place / "f").write_bytes(b"content")
    renameat2(place / "f", place / "g", RENAME_WHITEOUT)
    assert _is_whiteout(place / "f")
    assert (place / "g").read_bytes() == b"content"
    assert sorted(os.listdir(place)) == ["f", "g"]
    (place / "f").unlink()
    assert os.listdir(place) == ["g"]


def test_a_whiteout_with_a_replaced_target_and_in_another_directory(place: Path) -> None:
    (place / "d").mkdir()
    (place / "f").write_bytes(b"new")
    (place / "d" / "g").write_bytes(b"old")
    renameat2(place / "f", place / "d" / "g", RENAME_WHITEOUT)
    assert _is_whiteout(place / "f")
    assert (place / "d" / "g").read_bytes() == b"new"
    renameat2(place / "d", place / "e", RENAME_WHITEOUT | RENAME_NOREPLACE)
    assert _is_whiteout(place / "d")
    assert (place / "e" / "g").read_bytes() == b"new"
    assert place.stat().st_nlink == 3


def test_a_whiteout_replaces_nothing_and_exchanges_nothing(place: Path) -> None:
    (place / "f").touch()
    (place / "g").touch()
    for flags, failure in ((RENAME_NOREPLACE, "EEXIST"), (RENAME_EXCHANGE, "EINVAL")):
        assert error_of(renameat2, place / "f", place / "g", RENAME_WHITEOUT | flags) == failure
    assert not _is_whiteout(place / "f")


@pytest.fixture
def merged(place: Path, reference: Path) -> Iterator[Path]:
    """An overlayfs with its upper layer on the mount."""
    for path in (reference / "lower" / "d", reference / "merged", place / "upper", place / "work"):
        path.mkdir(parents=True)
    (reference / "lower" / "file").write_bytes(b"lower")
    (reference / "lower" / "d" / "below").write_bytes(b"below")
    layers = f"lowerdir={reference}/lower,upperdir={place}/upper,workdir={place}/work"
    target = reference / "merged"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def test_an_overlay_writes_into_the_mount(merged: Path, place: Path) -> None:
    (merged / "file").write_bytes(b"changed")
    (merged / "new").write_bytes(b"new")
    (merged / "d" / "below").rename(merged / "d" / "moved")
    (merged / "file").rename(merged / "renamed")
    assert sorted(os.listdir(merged)) == ["d", "new", "renamed"]
    assert os.listdir(merged / "d") == ["moved"]
    assert (merged / "renamed").read_bytes() == b"changed"
    assert _is_whiteout(place / "upper" / "file")
    (merged / "d" / "moved").unlink()
    (merged / "d").rmdir()
    assert _is_whiteout(place / "upper" / "d")
