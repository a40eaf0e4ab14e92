"""System calls on files, against real ones on a disk file system and on tmpfs."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.linux.files import (
    FallocateMode,
    fallocate,
    seek_span,
    share_blocks,
    spread_subdirectories,
    start_writeback,
    syncfs,
    take_lease,
    try_lease,
)
from tests.processes import killed_by

if TYPE_CHECKING:
    from collections.abc import Iterator
from memfs.linux import memory
from memfs.linux.libc import mmap64, munmap
from memfs.linux.mounts import list_mounts

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A file of one MiB of ones."""
    path = tmp_path / "file"
    path.write_bytes(b"\1" * MIB)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_fallocate_extends_a_file(file: int) -> None:
    fallocate(file, 0, 0, 2 * MIB)
    assert os.fstat(file).st_size == 2 * MIB
    assert os.fstat(file).st_blocks * 512 >= 2 * MIB


def test_fallocate_keeps_the_size_if_told(file: int) -> None:
    fallocate(file, FallocateMode.KEEP_SIZE, 0, 2 * MIB)
    assert os.fstat(file).st_size == MIB


def test_fallocate_punches_a_hole(file: int) -> None:
    fallocate(file, FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE, 0, MIB // 2)
    assert os.pread(file, MIB, 0) == bytes(MIB // 2) + b"\1" * (MIB // 2)


def test_fallocate_takes_offsets_beyond_32_bits(file: int) -> None:
    fallocate(file, 0, 5 << 30, 4096)
    assert os.fstat(file).st_size == (5 << 30) + 4096


def test_fallocate_reports_the_errno(file: int) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        fallocate(file, 0, 0, 0)
    assert caught.value.errno == errno.EINVAL


def test_share_blocks_copies_or_leaves_the_target_alone(file: int, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    fd = os.open(target, os.O_RDWR)
    try:
        cloned = share_blocks(file, fd)
    finally:
        os.close(fd)
    assert target.read_bytes() == (b"\1" * MIB if cloned else b"before")


def test_share_blocks_fails_on_a_descriptor_that_is_not_open(file: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        share_blocks(-1, file)


@pytest.fixture(params=["disk", "tmpfs"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file, once on the disk and once on tmpfs."""
    if request.param == "disk":
        directory = tmp_path
    elif not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    else:
        directory = Path("/dev/shm")
    path = directory / f"memfs-test-lease-{os.getpid()}"
    path.write_bytes(b"x" * 4096)
    yield path
    path.unlink()


def lease_is_granted(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return try_lease(fd)
    finally:
        os.close(fd)


def test_try_lease_succeeds_without_a_writer(path: Path) -> None:
    with path.open("rb"):
        assert lease_is_granted(path)


def test_try_lease_sees_a_descriptor_open_for_writing(path: Path) -> None:
    with path.open("r+b"):
        assert not lease_is_granted(path)


def test_try_lease_sees_a_shared_mapping_that_outlives_its_descriptor(path: Path) -> None:
    # Python's mmap would keep a duplicate of the descriptor.
    with path.open("r+b") as file:
        address = mmap64(
            None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file.fileno(), 0
        )
    assert not lease_is_granted(path)
    munmap(address, 4096)
    assert lease_is_granted(path)


def test_try_lease_gives_the_lease_back(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        assert try_lease(fd)
        # Were the lease still held, this would block until it is broken.
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    finally:
        os.close(fd)


def test_syncfs_takes_any_descriptor_of_the_file_system(file: int) -> None:
    syncfs(file)


def test_syncfs_fails_on_a_descriptor_that_is_not_open() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        syncfs(-1)


def test_started_writeback_leaves_only_pages_outside_of_the_range_dirty(file: int) -> None:
    syncfs(file)
    os.pwrite(file, b"2" * MIB, 0)
    start_writeback(file, MIB // 4, MIB // 2)
    assert memory.cachestat(file, MIB // 4, MIB // 2).dirty_bytes == 0
    start_writeback(file, 0, MIB)
    assert memory.cachestat(file).dirty_bytes == 0


def test_writeback_of_a_pipe_is_refused() -> None:
    read_fd, write_fd = os.pipe()
    with pytest.raises(OSError, match="Illegal seek"):
        start_writeback(write_fd, 0, 1)
    os.close(read_fd)
    os.close(write_fd)


@pytest.mark.parametrize("kind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
def test_one_who_opens_a_leased_file_does_not_kill_the_holder(tmp_path: Path, kind: int) -> None:
    """A thread of the daemon opens what another one asks a lease for: SIGIO would end them all."""
    path = tmp_path / "leased"
    path.touch()

    def hold_and_open() -> None:
        fd = os.open(path, os.O_RDONLY)
        take_lease(fd, kind)
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_RDWR | os.O_NONBLOCK)

    assert killed_by(hold_and_open) == 0


def test_subdirectories_are_spread_where_the_file_system_can(tmp_path: Path) -> None:
    """On ext4 chattr(1) shows the hint, which stays; tmpfs does not take it."""
    for place in (tmp_path, Path("/dev/shm")):
        made = Path(tempfile.mkdtemp(prefix="memfs-spread-", dir=place))
        fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        try:
            can = fstype_of(made) == "ext4"
            assert [spread_subdirectories(fd), spread_subdirectories(fd)] == [can, can]
            if can:
                flags = bytearray(8)
                fcntl.ioctl(fd, 0x80086601, flags)
                assert int.from_bytes(flags, "little") & 0x20000
        finally:
            os.close(fd)
            made.rmdir()


def fstype_of(path: Path) -> str:
    """Return the type of the file system that has a path."""
    device = path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    return next(mount.type for mount in list_mounts() if mount.device == name)


def test_a_hole_behind_the_last_page_of_all_is_the_end_on_tmpfs() -> None:
    """The kernel answers -2**63, which `os.lseek` takes for a failure without an errno."""
    with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file:
        offset = (1 << 63) - 1 - 4096
        os.pwrite(file.fileno(), b"data", offset)
        assert seek_span(file.fileno(), offset, os.SEEK_HOLE) == offset + 4
        assert seek_span(file.fileno(), 0, os.SEEK_DATA) <= offset
        with pytest.raises(OSError, match="No such device or address"):
            seek_span(file.fileno(), offset + 4, os.SEEK_HOLE)
