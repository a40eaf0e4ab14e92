"""mkdir(2) and rmdir(2)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.processes import ALICE, BOB, run_as

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_directory_is_empty_with_the_umask_applied(place: Path) -> None:
    old = os.umask(0o026)
    try:
        (place / "d").mkdir(0o777)
    finally:
        os.umask(old)
    assert ((place / "d").stat().st_mode, os.listdir(place / "d")) == (stat.S_IFDIR | 0o751, [])


def test_link_counts_count_subdirectories_or_stay_one(place: Path) -> None:
    """find(1) trusts a count of 2 or more to be 2 + subdirectories; 1 means "not counted"."""
    (place / "d").mkdir()
    empty = (place / "d").stat().st_nlink
    for name in "abc":
        (place / "d" / name).mkdir()
    (place / "d" / "file").touch()
    full = (place / "d").stat().st_nlink
    (place / "d" / "a").rmdir()
    assert (empty, full, (place / "d").stat().st_nlink) in [(2, 5, 4), (1, 1, 1)]


def test_parents_change_times(place: Path) -> None:
    os.utime(place, ns=(0, 0))
    (place / "d").mkdir()
    assert place.stat().st_mtime_ns > 0
    os.utime(place, ns=(0, 0))
    (place / "d").rmdir()
    assert place.stat().st_mtime_ns > 0


def test_an_existing_name_is_refused_whatever_it_is(place: Path) -> None:
    (place / "f").touch()
    (place / "d").mkdir()
    (place / "dangling").symlink_to("nowhere")
    for name in ("f", "d", "dangling"):
        assert error_of((place / name).mkdir) == "EEXIST"


def test_a_full_directory_is_not_removed(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d" / ".hidden").touch()
    assert error_of((place / "d").rmdir) in ("ENOTEMPTY", "EEXIST")
    assert (place / "d" / ".hidden").exists()


def test_what_cannot_be_removed(place: Path) -> None:
    (place / "f").touch()
    (place / "d").mkdir()
    (place / "link").symlink_to("d")
    assert error_of(os.rmdir, place / "f") == "ENOTDIR"
    assert error_of(os.rmdir, place / "link") == "ENOTDIR"
    assert error_of(os.rmdir, place / "missing") == "ENOENT"
    assert error_of(os.rmdir, f"{place}/d/.") == "EINVAL"
    assert error_of(os.rmdir, f"{place}/d/..") in ("ENOTEMPTY", "EEXIST")


def test_a_removed_working_directory_is_empty_and_takes_no_names(place: Path) -> None:
    (place / "d").mkdir()
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(place / "d")
        (place / "d").rmdir()
        assert os.listdir(".") == []
        assert error_of(os.mkdir, "x") == "ENOENT"
        assert error_of(os.open, "f", os.O_CREAT | os.O_WRONLY) == "ENOENT"
        assert error_of(os.getcwd) == "ENOENT"
        assert stat.S_ISDIR(os.stat(".").st_mode)
    finally:
        os.fchdir(here)
        os.close(here)


def test_an_open_removed_directory_can_still_be_read(place: Path) -> None:
    (place / "d").mkdir()
    fd = os.open(place / "d", os.O_RDONLY)
    (place / "d").rmdir()
    assert os.listdir(fd) == []
    assert error_of(os.open, "f", os.O_CREAT | os.O_WRONLY, dir_fd=fd) == "ENOENT"
    os.close(fd)


def test_a_removed_name_can_be_made_again_with_another_inode(place: Path) -> None:
    (place / "d").mkdir()
    fd = os.open(place / "d", os.O_RDONLY)
    (place / "d").rmdir()
    (place / "d").mkdir()
    (place / "d" / "f").touch()
    assert os.listdir(fd) == []
    assert os.listdir(place / "d") == ["f"]
    os.close(fd)


def test_depth_is_bounded_by_path_max_alone(place: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    depth = 300
    try:
        os.chdir(place)
        for _ in range(depth):
            os.mkdir("deeper-and-deeper")
            os.chdir("deeper-and-deeper")
        os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY))
        assert os.path.exists("bottom")
        os.unlink("bottom")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("deeper-and-deeper")
        assert os.listdir(".") == []
    finally:
        os.fchdir(here)
        os.close(here)


def test_a_sticky_directory_protects_directories_of_others(place: Path) -> None:
    place.chmod(0o1777)
    (place / "d").mkdir()
    os.chown(place / "d", BOB.uid, BOB.gid)
    assert run_as(ALICE, error_of, os.rmdir, place / "d") == "EPERM"


@pytest.mark.parametrize("name", ["d/", "d//"])
def test_trailing_slashes_are_allowed(place: Path, name: str) -> None:
    os.mkdir(f"{place}/{name}")
    os.rmdir(f"{place}/{name}")
