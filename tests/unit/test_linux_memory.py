"""Page locks and page cache counts, on real files."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.linux import memory
from memfs.linux.libc import MAP_FAILED
from memfs.linux.memory import (
    PageLock,
    PageLockError,
    cachestat,
    map_count,
    max_map_count,
    memlock_limit,
    resident_bytes_by_mincore,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scratch import Scratch

MIB = 1 << 20


@pytest.fixture
def tmp_path(disk_area: Scratch) -> Path:
    """On a disk: pages of a file in memory are never dropped, and never clean."""
    return disk_area.directory("memory")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A file of four MiB, written to disk and dropped from the page cache."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"\1" * 4 * MIB)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    yield fd
    os.close(fd)


def locked_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmLck")


def test_a_lock_brings_all_pages_in_and_keeps_them(file: int) -> None:
    assert cachestat(file).resident_bytes < 4 * MIB
    before = locked_bytes()
    lock = PageLock(file, 4 * MIB)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        assert cachestat(file).resident_bytes == 4 * MIB
        assert locked_bytes() == before + 4 * MIB
    finally:
        lock.release()
    assert locked_bytes() == before
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    assert cachestat(file).resident_bytes < 4 * MIB


def test_a_lock_outlives_the_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * MIB)
    with path.open("rb") as opened:
        lock = PageLock(opened.fileno(), MIB)
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert cachestat(opened.fileno()).resident_bytes == MIB
    lock.release()


def test_a_lock_is_released_once(file: int) -> None:
    lock = PageLock(file, MIB)
    lock.release()
    maps = map_count()
    lock.release()
    assert map_count() == maps


def test_a_lock_of_nothing_maps_nothing(file: int) -> None:
    maps = map_count()
    lock = PageLock(file, 0)
    assert map_count() == maps
    lock.release()


def test_a_lock_needs_a_readable_descriptor(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(PermissionError):
            PageLock(fd, MIB)
    finally:
        os.close(fd)


REFUSED = """
import os, resource, sys
from memfs.linux.memory import PageLock, PageLockError, memlock_limit
fd = os.open(sys.argv[1], os.O_RDONLY)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
assert memlock_limit() == limit, memlock_limit()
try:
    PageLock(fd, 1 << 20)
except PageLockError as error:
    print(error.code, error.permanent, error)
"""


@pytest.mark.parametrize(
    ("limit", "code", "permanent", "word"),
    [(0, errno.EPERM, True, "not allowed"), (65536, errno.ENOMEM, False, "RLIMIT_MEMLOCK")],
)
def test_a_refused_lock_says_which_limit(
    tmp_path: Path, limit: int, code: int, permanent: bool, word: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\1" * MIB)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(path), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{code} {permanent} ")
    assert word in done.stdout


def test_a_full_mapping_table_is_named(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 65530 real mappings would take the time limit of a unit test many times over.
    def refuse(*_: object) -> int:
        ctypes.set_errno(errno.ENOMEM)
        return int(MAP_FAILED or 0)

    monkeypatch.setattr(memory, "mmap64", refuse)
    with pytest.raises(PageLockError, match=r"raise vm\.max_map_count") as caught:
        PageLock(file, MIB)
    assert caught.value.permanent


def test_cachestat_counts_dirty_pages(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, b"\1" * MIB)
        stat = cachestat(fd)
        assert stat.resident_bytes == MIB
        assert stat.dirty_bytes is not None
        assert stat.writeback_bytes is not None
        os.fsync(fd)
        assert cachestat(fd).dirty_bytes == 0
    finally:
        os.close(fd)


def test_cachestat_looks_at_the_range_only(file: int) -> None:
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(file, MIB, MIB)
    assert cachestat(file, MIB, MIB).resident_bytes == MIB
    assert cachestat(file, 3 * MIB, MIB).resident_bytes == 0


def test_cachestat_falls_back_to_mincore(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> int:
        ctypes.set_errno(errno.ENOSYS)
        return -1

    os.pread(file, 4 * MIB, 0)
    monkeypatch.setattr(memory, "_syscall", lacking)
    assert cachestat(file) == (4 * MIB, None, None)


def test_cachestat_reports_other_errors() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        cachestat(-1)


def test_mincore_agrees_with_cachestat_on_odd_ranges(file: int) -> None:
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(file, MIB, MIB)
    for offset, length in [(0, 0), (MIB + 5, 10), (2 * MIB - 1, 2), (5 * MIB, 0), (MIB, 100 * MIB)]:
        expected = cachestat(file, offset, length).resident_bytes
        assert resident_bytes_by_mincore(file, offset, length) == expected


def test_mincore_leaves_the_file_position_alone(file: int) -> None:
    os.lseek(file, 7, os.SEEK_SET)
    resident_bytes_by_mincore(file)
    assert os.lseek(file, 0, os.SEEK_CUR) == 7


def test_map_count_counts_mappings() -> None:
    before = map_count()
    # Unlike anonymous mappings, two shared ones are never merged.
    mappings = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(5)]
    assert map_count() == before + 5
    for mapping in mappings:
        mapping.close()
    assert map_count() < max_map_count()


def test_memlock_limit_is_none_for_the_privileged() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    expected = None if os.getuid() == 0 or soft == resource.RLIM_INFINITY else soft
    assert memlock_limit() == expected
