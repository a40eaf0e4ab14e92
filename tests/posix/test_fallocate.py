"""fallocate(2) and posix_fallocate(3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.calls import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    fallocate,
)
from tests.posix.capabilities import Capability

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.data_path]

BLOCK = 4096


@pytest.fixture
def fd(place: Path) -> Iterator[int]:
    """A handle of a file of 16 blocks of x."""
    handle = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(handle, b"x" * 16 * BLOCK)
    os.fsync(handle)
    yield handle
    os.close(handle)


def test_posix_fallocate_reserves_and_grows(place: Path, fd: int) -> None:
    """Works everywhere: the C library falls back to writing."""
    os.posix_fallocate(fd, 10 * BLOCK, 20 * BLOCK)
    status = (place / "f").stat()
    assert status.st_size == 30 * BLOCK
    assert b"x" * 16 * BLOCK + bytes(14 * BLOCK) == (place / "f").read_bytes()
    os.fsync(fd)
    assert os.fstat(fd).st_blocks * 512 >= 30 * BLOCK


@pytest.mark.needs(Capability.FALLOCATE)
def test_plain_mode_reserves_room_and_keeps_bytes(place: Path, fd: int) -> None:
    fallocate(fd, 0, 8 * BLOCK, 100 * BLOCK)
    status = os.fstat(fd)
    assert status.st_size == 108 * BLOCK
    assert status.st_blocks * 512 >= 108 * BLOCK
    assert b"x" * 16 * BLOCK + bytes(92 * BLOCK) == (place / "f").read_bytes()


@pytest.mark.needs(Capability.FALLOCATE)
def test_keep_size_reserves_room_beyond_the_end(fd: int) -> None:
    fallocate(fd, FALLOC_FL_KEEP_SIZE, 16 * BLOCK, 100 * BLOCK)
    status = os.fstat(fd)
    assert status.st_size == 16 * BLOCK
    assert status.st_blocks * 512 >= 116 * BLOCK


@pytest.mark.needs(Capability.FALLOCATE)
def test_punch_hole_zeroes_and_frees(place: Path, fd: int) -> None:
    before = os.fstat(fd).st_blocks
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * BLOCK, 8 * BLOCK)
    assert os.fstat(fd).st_size == 16 * BLOCK
    assert before - 8 * BLOCK // 512 == os.fstat(fd).st_blocks
    assert b"x" * 4 * BLOCK + bytes(8 * BLOCK) + b"x" * 4 * BLOCK == (place / "f").read_bytes()


@pytest.mark.needs(Capability.FALLOCATE)
def test_punch_hole_inside_a_block_zeroes_only_its_range(place: Path, fd: int) -> None:
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10, 20)
    assert b"x" * 10 + bytes(20) + b"x" * 30 == (place / "f").read_bytes()[:60]


@pytest.mark.needs(Capability.FALLOCATE)
def test_punch_hole_without_keep_size_is_refused(fd: int) -> None:
    assert error_of(fallocate, fd, FALLOC_FL_PUNCH_HOLE, 0, BLOCK) == "ENOTSUP"


@pytest.mark.needs(Capability.FALLOCATE)
def test_zero_range_zeroes_and_may_grow(place: Path, fd: int) -> None:
    fallocate(fd, FALLOC_FL_ZERO_RANGE, 14 * BLOCK, 6 * BLOCK)
    assert os.fstat(fd).st_size == 20 * BLOCK
    assert b"x" * 14 * BLOCK + bytes(6 * BLOCK) == (place / "f").read_bytes()
    fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 18 * BLOCK, 6 * BLOCK)
    assert os.fstat(fd).st_size == 20 * BLOCK


@pytest.mark.needs(Capability.FALLOCATE)
@pytest.mark.parametrize("mode", [FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE])
def test_moving_ranges_works_fully_or_is_refused(place: Path, fd: int, mode: int) -> None:
    failure = error_of(fallocate, fd, mode, 4 * BLOCK, 4 * BLOCK)
    if failure is not None:
        assert failure == "ENOTSUP"
        assert (place / "f").read_bytes() == b"x" * 16 * BLOCK
    elif mode == FALLOC_FL_COLLAPSE_RANGE:
        assert (place / "f").read_bytes() == b"x" * 12 * BLOCK
    else:
        assert b"x" * 4 * BLOCK + bytes(4 * BLOCK) + b"x" * 12 * BLOCK == (place / "f").read_bytes()


@pytest.mark.needs(Capability.FALLOCATE)
def test_other_handles_see_the_change(place: Path, fd: int) -> None:
    other = os.open(place / "f", os.O_RDONLY)
    assert os.pread(other, 1, 0) == b"x"
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK)
    fallocate(fd, 0, 0, 20 * BLOCK)
    assert os.pread(other, 1, 0) == b"\0"
    assert 20 * BLOCK == os.fstat(other).st_size == (place / "f").stat().st_size
    os.close(other)


@pytest.mark.needs(Capability.FALLOCATE)
def test_times_change(place: Path, fd: int) -> None:
    os.utime(place / "f", ns=(0, 0))
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLOCK)
    assert (place / "f").stat().st_mtime_ns > 0


@pytest.mark.needs(Capability.FALLOCATE)
def test_what_is_refused(place: Path, fd: int) -> None:
    reader = os.open(place / "f", os.O_RDONLY)
    directory = os.open(place, os.O_RDONLY)
    assert error_of(fallocate, reader, 0, 0, BLOCK) == "EBADF"
    assert error_of(fallocate, fd, 0, 0, 0) == "EINVAL"
    assert error_of(fallocate, fd, 0, -1, BLOCK) == "EINVAL"
    assert error_of(fallocate, directory, 0, 0, BLOCK) in ("EBADF", "EISDIR")
    os.close(reader)
    os.close(directory)
