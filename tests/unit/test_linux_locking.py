"""Locking pages of real files: all of them, however the kernel helps."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import TYPE_CHECKING

import pytest

from memfs.linux import locking
from memfs.linux.libc import mmap64, munmap
from memfs.linux.locking import FAULT_AROUND_BYTES, lock_pages
from memfs.linux.memory import cachestat, map_count
from tests.unit.test_linux_memory import locked_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
SIZE = 5 * MIB + 123
PAGES_BYTES = 5 * MIB + 4096


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file on the disk, with every other MiB in the page cache."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"\1" * SIZE)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for start in range(0, SIZE, 2 * MIB):
        os.pread(fd, MIB, start)
    yield fd
    os.close(fd)


@pytest.fixture
def address(fd: int) -> Iterator[int]:
    address = mmap64(None, SIZE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    yield address
    munmap(address, SIZE)


def unmapped_bytes(address: int) -> int:
    """Pages that the kernel says are not mapped."""
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        entries = memoryview(pagemap.read(PAGES_BYTES // mmap.PAGESIZE * 8)).cast("Q")
    return sum(not entry >> 63 for entry in entries) * mmap.PAGESIZE


def refuse(code: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    return call


def check_all_locked(fd: int, address: int, before_bytes: int) -> None:
    assert unmapped_bytes(address) == 0
    assert locked_bytes() == before_bytes + PAGES_BYTES
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert cachestat(fd).resident_bytes == PAGES_BYTES


def test_all_pages_are_locked_cached_or_not(fd: int, address: int) -> None:
    """And it stays one mapping."""
    before_bytes, before_count = locked_bytes(), map_count()
    lock_pages(address, SIZE)
    assert map_count() == before_count
    check_all_locked(fd, address, before_bytes)


@pytest.mark.parametrize(
    ("name", "code"), [("_mlock2", errno.ENOSYS), ("_madvise", errno.EINVAL), ("_pwritev", 14)]
)
def test_what_a_kernel_does_not_have_is_done_without(
    fd: int, address: int, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    """Slower, and as complete."""
    monkeypatch.setattr(locking, name, refuse(code))
    before_bytes = locked_bytes()
    lock_pages(address, SIZE)
    check_all_locked(fd, address, before_bytes)


def test_a_kernel_that_tells_nothing_of_pages_brings_all_of_them_in(
    fd: int, address: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.7."""
    monkeypatch.setattr(locking, "_PAGEMAP_SCAN", 0xC0606699)
    assert locking._find_unmapped(address, SIZE) == [(address, address + PAGES_BYTES)]
    before_bytes = locked_bytes()
    lock_pages(address, SIZE)
    check_all_locked(fd, address, before_bytes)


def test_a_touch_maps_what_is_cached_around_it(fd: int, address: int) -> None:
    """That is what makes it fast."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)
    os.pread(fd, SIZE, 0)
    assert unmapped_bytes(address) == PAGES_BYTES
    locking._touch(address, SIZE)
    assert unmapped_bytes(address) <= 16 * FAULT_AROUND_BYTES


def test_a_refusal_is_that_of_mlock(address: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_mlock2", "_mlock"):
        monkeypatch.setattr(locking, name, refuse(errno.EPERM))
    with pytest.raises(PermissionError):
        lock_pages(address, SIZE)


def test_a_file_that_has_shrunk_ends_no_process(fd: int, address: int) -> None:
    """A touch beyond its end would be SIGBUS."""
    os.ftruncate(fd, MIB)
    with pytest.raises(OSError, match=r"Cannot allocate memory|Bad address|Resource temporarily"):
        lock_pages(address, SIZE)
