"""truncate(2) and ftruncate(2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.processes import ALICE, run_as

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path


def test_shrinking_cuts_and_growing_adds_zeros(place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    os.truncate(place / "f", 4)
    assert (place / "f").read_bytes() == b"0123"
    os.truncate(place / "f", 8)
    assert b"0123" + bytes(4) == (place / "f").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131_072])
def test_cut_bytes_never_come_back(place: Path, size: int) -> None:
    full = 200_000
    (place / "f").write_bytes(b"x" * full)
    os.truncate(place / "f", size)
    os.truncate(place / "f", full)
    assert b"x" * size + bytes(full - size) == (place / "f").read_bytes()


def test_ftruncate_shows_through_every_handle(place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    writer = os.open(place / "f", os.O_WRONLY)
    reader = os.open(place / "f", os.O_RDONLY)
    os.ftruncate(writer, 3)
    assert (os.pread(reader, 10, 0), os.fstat(reader).st_size) == (b"012", 3)
    os.close(writer)
    os.close(reader)


def test_truncate_without_a_handle_shows_through_open_ones(place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    fd = os.open(place / "f", os.O_RDWR)
    os.pwrite(fd, b"AB", 0)
    os.truncate(place / "f", 5)
    assert os.pread(fd, 10, 0) == b"AB234"
    os.pwrite(fd, b"Z", 7)
    os.close(fd)
    assert (place / "f").read_bytes() == b"AB234\0\0Z"


def test_the_position_stays_where_it_was(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"0123456789")
    os.ftruncate(fd, 2)
    os.write(fd, b"x")
    os.close(fd)
    assert b"01" + bytes(8) + b"x" == (place / "f").read_bytes()


def test_a_huge_size_is_sparse(place: Path) -> None:
    (place / "f").touch()
    os.truncate(place / "f", 1 << 40)
    status = (place / "f").stat()
    assert status.st_size == 1 << 40
    assert status.st_blocks * 512 < 1 << 20


def test_times_change_also_when_the_size_does_not(place: Path) -> None:
    """ftruncate(2) to the same size counts as a change (POSIX: "upon successful completion")."""
    (place / "f").write_bytes(b"abc")
    os.utime(place / "f", ns=(0, 0))
    fd = os.open(place / "f", os.O_WRONLY)
    os.ftruncate(fd, 3)
    os.close(fd)
    assert (place / "f").stat().st_mtime_ns > 0


def test_what_cannot_be_truncated(place: Path) -> None:
    (place / "d").mkdir()
    (place / "f").touch()
    reader = os.open(place / "f", os.O_RDONLY)
    assert error_of(os.truncate, place / "d", 0) == "EISDIR"
    assert error_of(os.truncate, place / "missing", 0) == "ENOENT"
    assert error_of(os.truncate, place / "f", -1) == "EINVAL"
    assert error_of(os.ftruncate, reader, 0) == "EINVAL"
    os.close(reader)


def test_truncate_needs_write_permission(place: Path) -> None:
    (place / "f").write_bytes(b"keep")
    (place / "f").chmod(0o644)
    assert run_as(ALICE, error_of, os.truncate, place / "f", 0) == "EACCES"
    assert (place / "f").read_bytes() == b"keep"


def test_ftruncate_by_a_handle_opened_before_chmod(place: Path) -> None:
    """Permission was checked at open: the handle keeps it."""
    (place / "f").write_bytes(b"0123456789")
    os.chown(place / "f", ALICE.uid, ALICE.gid)

    def truncate() -> None:
        fd = os.open(place / "f", os.O_RDWR)
        os.chmod(place / "f", 0)
        os.ftruncate(fd, 5)

    run_as(ALICE, truncate)
    assert (place / "f").stat().st_size == 5
