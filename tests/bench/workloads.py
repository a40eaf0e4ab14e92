"""The timed loops, one sample a process: `python -m tests.bench.workloads NAME DIRECTORY`.

Invariant: a loop sees only a directory and does the same system calls in every place; what it needs
beforehand (files, warm or dropped caches) is made outside the timed part.

The loops are plain Python: `os.preadv` on /dev/null costs 0.5 us, and on ext4 in the page cache a
loop of `os.pread` and `fio --ioengine=psync` agree within their noise (740-780 k against 730-745 k
reads per second; 2 vCPU, kernel 6.18), so a second program would add a dependency and no accuracy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import random
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BLOCK_BYTES = 4096
CHUNK_BYTES = 1 << 20
NEW_FILE_COUNT_MAX = 20_000
"""Bound on the files that one sample of `create_unlink` makes (80 MiB)."""
OPENED_COUNT_MAX = 1000
"""Files that one sample of `open_read_close` warms and opens; the slowest place warms 1,400 a s."""
FREED_SHARE_MIN = 15 / 16
"""Share of a removed file's space that is to be free again before the next is written; the rest is
left to what others write meanwhile."""
FREED_S_MAX = 3.0
"""Longest wait for that; memfs took 0.05-0.1 s for 128 MiB, and a place may not tell its space."""
_BATCH_S = 0.005
"""The clock is read about this often; measured: reading it for each call costs up to 10 %."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    title: str
    unit: str
    """`/s` (calls or files per second) or `MiB/s`; more is better in both."""
    cache: str
    """State of the caches when the clock starts, the same in every place."""


METRICS: dict[str, Metric] = {
    "random_read": Metric("random read 4 KiB", "/s", "warm"),
    "random_write": Metric("random write 4 KiB", "/s", "warm"),
    "sequential_read": Metric("sequential read 1 MiB", "MiB/s", "warm"),
    "sequential_write": Metric("sequential write 1 MiB", "MiB/s", "new file"),
    "mmap_read": Metric("mmap read", "MiB/s", "warm"),
    "open_read_close": Metric("open + read 4 KiB + close", "/s", "warm"),
    "stat_missing": Metric("stat, missing names", "/s", "new names"),
    "stat_uncached": Metric("stat, not cached", "/s", "dropped"),
    "create_write_close": Metric("create + write 4 KiB + close", "/s", "new names"),
    "unlink": Metric("unlink", "/s", "just written"),
}
"""By name, in the order of the table."""

CACHE_LEGEND = (
    "warm: the file was read to its end through the same place, closed, and opened again; "
    "dropped: dentries and inodes dropped (`/proc/sys/vm/drop_caches` 2) before each pass; "
    "new: names or files that no earlier sample used. "
    "Writes are to the page cache, without fsync; each sequential one begins when the space of the "
    "file before, which was removed, is free again. "
    "A sample begins when the disk is synced and all servers rest."
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How much one sample works on."""

    duration_s: float
    """Timed part of a sample, > 0; a pass that has begun is finished."""
    data_bytes: int
    """Size of the large file, a multiple of 1 MiB."""
    small_count: int
    """4 KiB files in the small-file directory."""


class Rate:
    """Counts work against the clock until the time of a sample is spent."""

    def __init__(self, duration_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._left_s = duration_s
        self._spent_s = 0.0
        self._done = 0

    @property
    def open(self) -> bool:
        """Whether time is left."""
        return self._left_s > self._spent_s

    @property
    def per_second(self) -> float:
        """Work done a second, over the timed parts alone."""
        return self._done / self._spent_s

    def time(self, work: Callable[[], int]) -> int:
        """Run one timed part, which returns how much it did."""
        begin_s = self._clock()
        done = work()
        self._spent_s += self._clock() - begin_s
        self._done += done
        return done

    def batches(self, batch: Callable[[int], None]) -> float:
        """Repeat `batch(count)` until the time is spent; return calls per second."""
        count = 8
        while self.open:
            spent_before_s = self._spent_s

            def work(count: int = count) -> int:
                batch(count)
                return count

            self.time(work)
            if self._spent_s - spent_before_s < _BATCH_S:
                count *= 2
        return self.per_second


def prepare(directory: Path, shape: Shape) -> None:
    """Make the files that the samples of a place share: `data` and `small/`."""
    with (directory / "data").open("wb") as file:
        # Incompressible, so that a file system that packs its files has to keep every byte.
        for _ in range(shape.data_bytes // CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))
        file.flush()
        os.fsync(file.fileno())
    small = directory / "small"
    small.mkdir()
    block = os.urandom(BLOCK_BYTES)
    for name in _small_names(shape):
        (small / name).write_bytes(block)


def random_read(directory: Path, shape: Shape) -> dict[str, float]:
    """Read 4 KiB at random offsets of the large file."""
    offsets = _block_offsets(shape)
    fd = _open_warm(directory / "data", os.O_RDONLY)
    buffers = [bytearray(BLOCK_BYTES)]

    def batch(count: int) -> None:
        for offset in itertools.islice(offsets, count):
            os.preadv(fd, buffers, offset)

    try:
        return {"random_read": Rate(shape.duration_s).batches(batch)}
    finally:
        os.close(fd)


def random_write(directory: Path, shape: Shape) -> dict[str, float]:
    """Write 4 KiB at random offsets of the large file."""
    offsets = _block_offsets(shape)
    fd = _open_warm(directory / "data", os.O_RDWR)
    block = os.urandom(BLOCK_BYTES)

    def batch(count: int) -> None:
        for offset in itertools.islice(offsets, count):
            os.pwrite(fd, block, offset)

    try:
        rate = Rate(shape.duration_s).batches(batch)
        # The next place must not pay for the write-back of this one.
        os.fsync(fd)
    finally:
        os.close(fd)
    return {"random_write": rate}


def sequential_read(directory: Path, shape: Shape) -> dict[str, float]:
    """Read the large file from begin to end, 1 MiB a call, opened anew for each pass."""
    rate = Rate(shape.duration_s)
    buffers = [bytearray(CHUNK_BYTES)]
    while rate.open:
        fd = _open_warm(directory / "data", os.O_RDONLY)

        def work(fd: int = fd) -> int:
            total_bytes = 0
            while read_bytes := os.readv(fd, buffers):
                total_bytes += read_bytes
            return total_bytes

        try:
            rate.time(work)
        finally:
            os.close(fd)
    return {"sequential_read": rate.per_second / CHUNK_BYTES}


def sequential_write(directory: Path, shape: Shape) -> dict[str, float]:
    """Write a new file of the large size from begin to end, 1 MiB a call.

    Each pass begins when the space of the file before is free again. A local file system frees it
    inside of unlink(2), which is not timed; another may go on behind the next pass, where it
    would be timed and slow it down.
    """
    rate = Rate(shape.duration_s)
    chunk = os.urandom(CHUNK_BYTES)
    path = directory / "sequential-write"

    def work() -> int:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            for _ in range(shape.data_bytes // CHUNK_BYTES):
                os.write(fd, chunk)
        finally:
            os.close(fd)
        return shape.data_bytes

    while rate.open:
        free_bytes = _free_bytes(directory)
        try:
            rate.time(work)
        finally:
            path.unlink(missing_ok=True)
        _await_space(directory, free_bytes - int((1 - FREED_SHARE_MIN) * shape.data_bytes))
    return {"sequential_write": rate.per_second / CHUNK_BYTES}


def mmap_read(directory: Path, shape: Shape) -> dict[str, float]:
    """Copy the large file out of a fresh mapping, so that every page is faulted in."""
    rate = Rate(shape.duration_s)
    target = memoryview(bytearray(CHUNK_BYTES))
    while rate.open:
        fd = _open_warm(directory / "data", os.O_RDONLY)

        def work(fd: int = fd) -> int:
            with (
                mmap.mmap(fd, shape.data_bytes, prot=mmap.PROT_READ) as mapping,
                memoryview(mapping) as source,
            ):
                for offset in range(0, shape.data_bytes, CHUNK_BYTES):
                    target[:] = source[offset : offset + CHUNK_BYTES]
            return shape.data_bytes

        try:
            rate.time(work)
        finally:
            os.close(fd)
    return {"mmap_read": rate.per_second / CHUNK_BYTES}


def open_read_close(directory: Path, shape: Shape) -> dict[str, float]:
    """Open, read whole and close 4 KiB files in random order."""
    names = _small_names(shape)[:OPENED_COUNT_MAX]
    random.shuffle(names)
    os.chdir(directory / "small")
    for name in names:
        Path(name).read_bytes()
    endless = itertools.cycle(names)

    def batch(count: int) -> None:
        for name in itertools.islice(endless, count):
            fd = os.open(name, os.O_RDONLY)
            os.read(fd, BLOCK_BYTES)
            os.close(fd)

    return {"open_read_close": Rate(shape.duration_s).batches(batch)}


def stat_missing(directory: Path, shape: Shape) -> dict[str, float]:
    """Stat names that do not exist, each a single time."""
    os.chdir(directory / "small")
    token = secrets.token_hex(4)
    numbers = itertools.count()

    def batch(count: int) -> None:
        for number in itertools.islice(numbers, count):
            try:
                os.stat(f"missing-{token}-{number}")
            except FileNotFoundError:
                continue

    return {"stat_missing": Rate(shape.duration_s).batches(batch)}


def stat_uncached(directory: Path, shape: Shape) -> dict[str, float]:
    """Stat existing names that the kernel has forgotten, in random order."""
    names = _small_names(shape)
    os.chdir(directory / "small")
    rate = Rate(shape.duration_s)

    def work() -> int:
        for name in names:
            os.stat(name)
        return len(names)

    while rate.open:
        random.shuffle(names)
        Path("/proc/sys/vm/drop_caches").write_text("2")
        rate.time(work)
    return {"stat_uncached": rate.per_second}


def create_unlink(directory: Path, shape: Shape) -> dict[str, float]:
    """Create, write and close new 4 KiB files in a new directory; then unlink each."""
    fresh = directory / f"new-{secrets.token_hex(4)}"
    fresh.mkdir()
    os.chdir(fresh)
    block = os.urandom(BLOCK_BYTES)
    created = Rate(shape.duration_s)
    total = 0
    while created.open and total < NEW_FILE_COUNT_MAX:

        def create(begin: int = total) -> int:
            for number in range(begin, begin + 16):
                fd = os.open(f"{number:06}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                os.write(fd, block)
                os.close(fd)
            return 16

        total += created.time(create)

    def unlink() -> int:
        for number in range(total):
            os.unlink(f"{number:06}")
        return total

    unlinked = Rate(shape.duration_s)
    unlinked.time(unlink)
    os.chdir(directory)
    fresh.rmdir()
    return {"create_write_close": created.per_second, "unlink": unlinked.per_second}


WORKLOADS: dict[str, tuple[Callable[[Path, Shape], dict[str, float]], tuple[str, ...]]] = {
    "random_read": (random_read, ("random_read",)),
    "random_write": (random_write, ("random_write",)),
    "sequential_read": (sequential_read, ("sequential_read",)),
    "sequential_write": (sequential_write, ("sequential_write",)),
    "mmap_read": (mmap_read, ("mmap_read",)),
    "open_read_close": (open_read_close, ("open_read_close",)),
    "stat_missing": (stat_missing, ("stat_missing",)),
    "stat_uncached": (stat_uncached, ("stat_uncached",)),
    "create_unlink": (create_unlink, ("create_write_close", "unlink")),
}
"""name -> (the loop, the metrics that it yields)."""


def _small_names(shape: Shape) -> list[str]:
    return [f"{number:06}" for number in range(shape.small_count)]


def _block_offsets(shape: Shape) -> Iterator[int]:
    offsets = list(range(0, shape.data_bytes, BLOCK_BYTES))
    random.shuffle(offsets)
    return itertools.cycle(offsets)


def _free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bfree * status.f_frsize


def _await_space(directory: Path, free_bytes: int) -> None:
    """Return when so much space is free, or after `FREED_S_MAX`."""
    deadline_s = time.monotonic() + FREED_S_MAX
    while _free_bytes(directory) < free_bytes and time.monotonic() < deadline_s:
        time.sleep(0.005)


def _open_warm(path: Path, flags: int) -> int:
    """Open a file after it has been read to its end and closed; the caller closes the fd."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK_BYTES)
        while file.readinto(buffer):
            pass
    return os.open(path, flags)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a directory (`prepare`), or take one sample there and print it as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=["prepare", *WORKLOADS])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--duration-s", type=float, default=1.0)
    parser.add_argument("--data-bytes", type=int, default=256 << 20)
    parser.add_argument("--small-count", type=int, default=2000)
    options = parser.parse_args(arguments)
    shape = Shape(options.duration_s, options.data_bytes, options.small_count)
    if options.name == "prepare":
        prepare(options.directory, shape)
        values: dict[str, float] = {}
    else:
        # The write-back of the sample before, of another place, must not slow this one.
        os.sync()
        values = WORKLOADS[options.name][0](options.directory, shape)
    print(json.dumps(values))


if __name__ == "__main__":
    main()
