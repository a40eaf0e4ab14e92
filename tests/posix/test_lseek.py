"""lseek(2) with SEEK_DATA and SEEK_HOLE."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.capabilities import Capability

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path

MIB = 1 << 20


def test_positions_from_start_current_and_end(place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    fd = os.open(place / "f", os.O_RDONLY)
    assert os.lseek(fd, 4, os.SEEK_SET) == 4
    assert os.lseek(fd, 2, os.SEEK_CUR) == 6
    assert os.lseek(fd, -3, os.SEEK_END) == 7
    assert os.lseek(fd, 1000, os.SEEK_SET) == 1000
    assert error_of(os.lseek, fd, -1, os.SEEK_SET) == "EINVAL"
    os.close(fd)


def test_the_end_moves_with_writes_by_others(place: Path) -> None:
    (place / "f").write_bytes(b"abc")
    reader = os.open(place / "f", os.O_RDONLY)
    assert os.lseek(reader, 0, os.SEEK_END) == 3
    with (place / "f").open("ab") as writer:
        writer.write(b"defg")
    assert os.lseek(reader, 0, os.SEEK_END) == 7
    os.close(reader)


def test_a_dense_file_is_data_up_to_a_hole_at_its_end(place: Path) -> None:
    (place / "f").write_bytes(b"x" * MIB)
    fd = os.open(place / "f", os.O_RDONLY)
    assert os.lseek(fd, 5000, os.SEEK_DATA) == 5000
    assert os.lseek(fd, 5000, os.SEEK_HOLE) == MIB
    os.close(fd)


def test_there_is_neither_data_nor_hole_past_the_end(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 10)
    fd = os.open(place / "f", os.O_RDONLY)
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        assert error_of(os.lseek, fd, 10, whence) == "ENXIO"
    os.close(fd)


@pytest.mark.needs(Capability.SEEK_HOLE)
def test_holes_of_a_sparse_file_are_found(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.pwrite(fd, b"x" * 4096, 4 * MIB)
    os.ftruncate(fd, 8 * MIB)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
    assert os.lseek(fd, 0, os.SEEK_DATA) == 4 * MIB
    assert os.lseek(fd, 4 * MIB, os.SEEK_HOLE) == 4 * MIB + 4096
    assert error_of(os.lseek, fd, 5 * MIB, os.SEEK_DATA) == "ENXIO"
    os.close(fd)


@pytest.mark.needs(Capability.SEEK_HOLE)
def test_data_that_was_just_written_is_not_called_a_hole(place: Path) -> None:
    """Dirty pages count as data: else a sparse copy loses them."""
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.ftruncate(fd, 8 * MIB)
    for number in range(8):
        os.pwrite(fd, b"data", number * MIB + 1000)
        assert os.lseek(fd, number * MIB, os.SEEK_DATA) <= number * MIB + 1000
    os.close(fd)
