"""fsync(2) and its kin: that they are accepted wherever Linux accepts them, and lose nothing.

That bytes are on the disk afterwards is what the crash tests show.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.calls import (
    SYNC_FILE_RANGE_WAIT_AFTER,
    SYNC_FILE_RANGE_WAIT_BEFORE,
    SYNC_FILE_RANGE_WRITE,
    sync_file_range,
    syncfs,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync, syncfs])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_file_is_synced_through_any_handle(place: Path, sync: object, flags: int) -> None:
    assert callable(sync)
    writer = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(writer, b"bytes")
    other = os.open(place / "f", flags)
    sync(other)
    sync(writer)
    os.close(other)
    os.close(writer)
    assert (place / "f").read_bytes() == b"bytes"


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync, syncfs])
def test_a_directory_is_synced(place: Path, sync: object) -> None:
    assert callable(sync)
    (place / "f").touch()
    fd = os.open(place, os.O_RDONLY)
    sync(fd)
    os.close(fd)


def test_an_unlinked_file_is_synced(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    (place / "f").unlink()
    os.write(fd, b"nameless")
    os.fsync(fd)
    assert os.pread(fd, 100, 0) == b"nameless"
    os.close(fd)


def test_a_removed_directory_is_synced(place: Path) -> None:
    (place / "d").mkdir()
    fd = os.open(place / "d", os.O_RDONLY)
    (place / "d").rmdir()
    assert error_of(os.fsync, fd) is None
    os.close(fd)


def test_a_range_is_written_back(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"x" * 100_000)
    flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER
    sync_file_range(fd, 0, 50_000, flags)
    sync_file_range(fd, 0, 0, flags)
    os.close(fd)
    assert (place / "f").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_handles_write_right(place: Path, flag: int) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR | flag, 0o600)
    for number in range(10):
        os.write(fd, b"%d" % number)
    os.close(fd)
    assert (place / "f").read_bytes() == b"0123456789"


def test_fifos_refuse(place: Path) -> None:
    os.mkfifo(place / "p")
    fd = os.open(place / "p", os.O_RDWR)
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    assert error_of(os.fsync, fd) == "EINVAL"
    os.close(fd)
