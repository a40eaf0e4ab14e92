"""The errors of path resolution (path_resolution(7)), the same for every call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CALLS: dict[str, Callable[[str], object]] = {
    "open": lambda path: os.open(path, os.O_RDONLY),
    "stat": os.stat,
    "lstat": os.lstat,
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "mkfifo": os.mkfifo,
    "chmod": lambda path: os.chmod(path, 0o600),
    "chown": lambda path: os.chown(path, 0, 0),
    "truncate": lambda path: os.truncate(path, 0),
    "utime": os.utime,
    "listdir": os.listdir,
    "readlink": os.readlink,
    "symlink": lambda path: os.symlink("x", path),
    "rename": lambda path: os.rename(path, path + "2"),
    "listxattr": os.listxattr,
    "setxattr": lambda path: os.setxattr(path, "user.k", b""),
    "statvfs": os.statvfs,
    "access": lambda path: os.stat(path) if not os.access(path, os.F_OK) else None,
}


@pytest.fixture(params=list(CALLS))
def call(request: pytest.FixtureRequest) -> Callable[[str], object]:
    """One system call on a path."""
    return CALLS[request.param]


def test_a_file_is_no_directory_on_the_way(place: Path, call: Callable[[str], object]) -> None:
    (place / "f").touch()
    assert error_of(call, f"{place}/f/x") == "ENOTDIR"


def test_a_missing_directory_on_the_way(place: Path, call: Callable[[str], object]) -> None:
    assert error_of(call, f"{place}/missing/x") == "ENOENT"


def test_a_symlink_loop_on_the_way(place: Path, call: Callable[[str], object]) -> None:
    (place / "loop").symlink_to("loop")
    assert error_of(call, f"{place}/loop/x") == "ELOOP"


def test_a_dangling_symlink_on_the_way(place: Path, call: Callable[[str], object]) -> None:
    (place / "dangling").symlink_to("nowhere")
    assert error_of(call, f"{place}/dangling/x") == "ENOENT"


def test_more_than_forty_symlinks_are_too_many(place: Path) -> None:
    (place / "0").mkdir()
    for number in range(1, 43):
        (place / f"{number}").symlink_to(f"{number - 1}")
    assert error_of(os.stat, place / "40") is None
    assert error_of(os.stat, place / "41") == "ELOOP"


def test_a_trailing_slash_demands_a_directory(place: Path) -> None:
    (place / "f").touch()
    (place / "d").mkdir()
    (place / "link").symlink_to("d")
    assert error_of(os.stat, f"{place}/f/") == "ENOTDIR"
    assert error_of(os.open, f"{place}/f/", os.O_RDONLY) == "ENOTDIR"
    assert error_of(os.open, f"{place}/new/", os.O_CREAT | os.O_WRONLY) == "EISDIR"
    assert error_of(os.stat, f"{place}/link/") is None


def test_a_device_has_no_ioctl_of_a_terminal(place: Path) -> None:
    (place / "f").touch()
    fd = os.open(place / "f", os.O_RDONLY)
    assert error_of(os.tcgetpgrp, fd) == "ENOTTY"
    assert not os.isatty(fd)
    os.close(fd)


def test_a_missing_name_is_looked_up_again_after_it_was_made(place: Path) -> None:
    for _ in range(3):
        assert error_of(os.stat, place / "f") == "ENOENT"
        (place / "f").touch()
        assert error_of(os.stat, place / "f") is None
        (place / "f").unlink()
