"""The daemon's heap: bounded for threads, and given back when it is free."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import trio
import trio.testing

from memfs.signals import Signal
from memfs_daemon.heap_keeper import GROWTH_BYTES, IDLE_GROWTH_BYTES, LOOK_S, HeapKeeper

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20

THREADS = """
import ctypes, sys, threading
from memfs.linux.heap import bound_heap, trim_heap
from memfs_daemon.limits import anonymous_bytes

if sys.argv[1] == "bounded":
    assert bound_heap(1 << 20)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = ctypes.c_size_t,
libc.free.argtypes = ctypes.c_void_p,
meet = threading.Barrier(8)

def work():
    # Blocks of the size of a batch's pieces, each larger than the one that was freed before; what
    # is kept keeps the heap below it from shrinking.
    kept = []
    for size in range(256 << 10, 8 << 20, 256 << 10):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        kept.append(libc.malloc(1024))
        libc.free(block)
    meet.wait()
    for block in kept:
        libc.free(block)

begin = anonymous_bytes()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
grown = anonymous_bytes() - begin
trimmed = trim_heap()
print(grown, anonymous_bytes() - begin, trimmed)
"""


def use_threads(how: str) -> tuple[int, int]:
    """Return how much a process has grown after the work of its threads, and after a trim."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS, how], capture_output=True, text=True, check=True
    )
    grown, left, _ = done.stdout.split()
    return int(grown), int(left)


def test_what_threads_have_used_goes_back_to_the_system() -> None:
    """Eight threads with a heap each kept tens of MB."""
    unbounded, _ = use_threads("as it is")
    bounded, left = use_threads("bounded")
    assert bounded < 8 * MIB < unbounded
    assert left < 4 * MIB


ONE_REQUEST = """
import os
from memfs.linux.heap import bound_heap

assert bound_heap(1 << 20)
source, target = os.pipe()
del [bytearray(16 << 20)][0]

def take(count):
    for _ in range(count):
        os.write(target, b"request")
        assert os.read(source, (1 << 20) + 4096) == b"request"

take(10)
os.write(2, b"begin")
take(100)
"""


def test_a_request_changes_no_mapping(tmp_path: Path) -> None:
    """Its buffer is as large as the largest request: the system would be asked thrice for each."""
    log = tmp_path / "log"
    command = ["strace", "-o", str(log), sys.executable, "-c", ONE_REQUEST]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    calls = log.read_text().partition('write(2, "begin"')[2].splitlines()
    names = [line.partition("(")[0] for line in calls]
    assert names.count("read") >= 100
    assert sum(names.count(name) for name in ("mmap", "munmap", "mremap", "brk")) < 20


class Process:
    """A process with so much memory, of which a trim gives a part back."""

    def __init__(self) -> None:
        self.used_bytes = 50 * MIB
        self.free_bytes = 0
        self.request_count = 0
        self.trim_count = 0
        self._trims = False
        self._trimmed = Signal()
        self.keeper = HeapKeeper(lambda: self.request_count, self._measure, self._trim)

    def _measure(self) -> int:
        # A trim counts when the keeper has looked at what it left, and not while it is at work.
        if self._trims:
            self._trims = False
            self.trim_count += 1
            self._trimmed.set()
        return self.used_bytes + self.free_bytes

    def _trim(self) -> None:
        self.free_bytes = 0
        self._trims = True

    async def await_trims(self, count: int) -> None:
        """Return when it was trimmed so often.

        Without a deadline: the clock would jump to that while a thread is at work.
        """
        while self.trim_count < count:
            await self._trimmed.wait(self._trimmed.count)


async def test_an_idle_daemon_gives_back_what_it_has_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    process = Process()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.keeper.run)
        await process.await_trims(1)  # what it needed to start
        process.free_bytes = IDLE_GROWTH_BYTES
        await process.await_trims(2)
        assert process.free_bytes == 0
        await trio.sleep(100 * LOOK_S)
        assert process.trim_count == 2, "nothing was free"
        nursery.cancel_scope.cancel()


async def test_a_busy_daemon_is_trimmed_when_it_has_grown_much() -> None:
    process = Process()
    await process.keeper.give_back()
    for free_bytes, trim_count in ((GROWTH_BYTES - 1, 1), (GROWTH_BYTES, 2)):
        process.request_count += 1
        process.free_bytes = free_bytes
        await process.keeper.give_back()
        assert process.trim_count == trim_count


async def test_memory_that_is_in_use_is_not_asked_for_again_and_again() -> None:
    process = Process()
    await process.keeper.give_back()
    process.used_bytes += 2 * GROWTH_BYTES
    for _ in range(3):
        await process.keeper.give_back()
    assert process.trim_count == 2


async def test_memory_that_went_back_by_itself_counts_when_it_grows_again() -> None:
    process = Process()
    await process.keeper.give_back()
    process.used_bytes -= 20 * MIB
    await process.keeper.give_back()
    process.free_bytes = IDLE_GROWTH_BYTES
    await process.keeper.give_back()
    assert process.trim_count == 2
