"""The RAM tier: what is locked, up to which capacity, and where locking is refused."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import WarmConfig
from memfs.content.residency import LockOutcome, LockRequest, Residency, default_capacity_bytes
from memfs.linux.locking import lock_pages
from memfs.linux.memory import (
    PageLock,
    PageLockError,
    map_count,
    max_map_count,
    memlock_limit,
)
from memfs.stores.raw import RawStore
from memfs.types import InodeNo, RawId
from tests.waiting import wait_until_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.scratch import Scratch

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def raw_store(disk_area: Scratch) -> Iterator[RawStore]:
    """On a disk: pages of files in memory are never dropped."""
    raw_store = RawStore(disk_area.directory("residency"))
    yield raw_store
    raw_store.close()


@contextlib.contextmanager
def opened(
    raw_store: RawStore,
    *,
    page_lock: Callable[[int, int, Callable[[], None]], PageLock] = PageLock,
    lock_limit: Callable[[], int | None] = memlock_limit,
    map_limit: Callable[[], int] = max_map_count,
) -> Iterator[Residency]:
    residency = Residency(
        raw_store,
        WarmConfig(size_bytes=10 * PAGE),
        page_lock=page_lock,
        lock_limit=lock_limit,
        map_limit=map_limit,
    )
    try:
        yield residency
    finally:
        residency.close()


@pytest.fixture
def residency(raw_store: RawStore) -> Iterator[Residency]:
    with opened(raw_store) as residency:
        yield residency


def refuse(_fd: int, _length: int, _pause: Callable[[], None]) -> PageLock:
    raise PageLockError("RLIMIT_MEMLOCK is 0; raise it", errno.EPERM, permanent=True)


def create(raw_store: RawStore, raw: int, size: int) -> LockRequest:
    fd = raw_store.create(RawId(raw))
    os.write(fd, b"x" * size)
    os.close(fd)
    return LockRequest(InodeNo(raw), RawId(raw), size)


def locked_kilobytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmLck:"))


async def test_a_locked_file_stays_in_ram(residency: Residency, raw_store: RawStore) -> None:
    """Its pages cannot be dropped from the cache."""
    request = create(raw_store, 1, 3 * PAGE)
    assert await residency.lock(*request) == LockOutcome.LOCKED
    path = raw_store.path(request.raw)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert residency.ram_bytes(path) == 3 * PAGE
    assert residency.is_locked(request.ino)
    assert (residency.used_bytes, residency.locked_bytes) == (3 * PAGE, 3 * PAGE)


async def test_releasing_with_pages_empties_the_cache(
    residency: Residency, raw_store: RawStore
) -> None:
    """Out of RAM means out of RAM."""
    request = create(raw_store, 1, 3 * PAGE)
    fd = raw_store.open(request.raw)
    os.fsync(fd)
    os.close(fd)
    await residency.lock(*request)
    assert await residency.unlock(request.ino, drop_pages=True) == 3 * PAGE
    assert residency.ram_bytes(raw_store.path(request.raw)) == 0
    assert residency.used_bytes == 0


async def test_the_capacity_is_never_exceeded(residency: Residency, raw_store: RawStore) -> None:
    """In whole pages, files that are being locked included."""
    requests = [create(raw_store, raw, 3 * PAGE + 1) for raw in range(1, 5)]
    outcomes = await residency.lock_many(requests)
    assert outcomes == [LockOutcome.LOCKED] * 2 + [LockOutcome.NO_ROOM] * 2
    assert residency.used_bytes == 8 * PAGE
    assert residency.held_count == 2


async def test_an_empty_file_takes_no_room(residency: Residency, raw_store: RawStore) -> None:
    """It has no pages, and is where it belongs."""
    assert await residency.lock(*create(raw_store, 1, 0)) == LockOutcome.LOCKED
    assert residency.used_bytes == 0


async def test_a_grown_file_is_locked_anew(residency: Residency, raw_store: RawStore) -> None:
    """The account follows."""
    request = create(raw_store, 1, PAGE)
    await residency.lock(*request)
    os.truncate(raw_store.path(request.raw), 4 * PAGE)
    await residency.lock(request.ino, request.raw, 4 * PAGE)
    assert residency.used_bytes == 4 * PAGE
    assert residency.holds(request.ino, request.raw, 4 * PAGE)
    assert residency.locked_count == 1


async def test_locking_twice_counts_once(residency: Residency, raw_store: RawStore) -> None:
    """A file is held at most once, also within one call."""
    request = create(raw_store, 1, PAGE)
    await residency.lock_many([request, request])
    await residency.lock(*request)
    assert (residency.used_bytes, residency.locked_count) == (PAGE, 1)


async def test_a_file_that_is_gone_is_not_counted(residency: Residency) -> None:
    """Deleted between the decision and the lock."""
    assert await residency.lock(InodeNo(7), RawId(7), PAGE) == LockOutcome.GONE
    assert residency.used_bytes == 0


async def test_a_file_released_while_it_is_locked_is_not_counted(raw_store: RawStore) -> None:
    """Deleted while the thread is at it."""
    released = threading.Event()
    request = create(raw_store, 1, PAGE)
    outcomes = []

    def lock_late(fd: int, length: int, pause: Callable[[], None]) -> PageLock:
        wait_until_set(released)
        return PageLock(fd, length, pause)

    async def lock(residency: Residency) -> None:
        outcomes.append(await residency.lock(*request))

    with opened(raw_store, page_lock=lock_late) as residency:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock, residency)
            await trio.testing.wait_all_tasks_blocked()
            residency.release(request.ino, drop_pages=False)
            released.set()
        assert outcomes == [LockOutcome.GONE]
        assert (residency.used_bytes, residency.locked_count) == (0, 0)


async def test_where_locking_is_refused_files_are_cached(raw_store: RawStore) -> None:
    """The stated fallback, with its reason; the capacity holds all the same."""
    request = create(raw_store, 1, PAGE)
    with opened(raw_store, page_lock=refuse) as residency:
        assert await residency.lock(*request) == LockOutcome.CACHED
        assert residency.refusal == "RLIMIT_MEMLOCK is 0; raise it"
        assert residency.is_held(request.ino)
        assert not residency.is_locked(request.ino)
        assert (residency.used_bytes, residency.locked_bytes) == (PAGE, 0)


async def test_a_file_that_is_cut_or_removed_while_it_is_locked_is_no_refusal(
    raw_store: RawStore,
) -> None:
    """Nothing is wrong with the tier: `status` has nothing to tell."""
    cut, removed = create(raw_store, 1, PAGE), create(raw_store, 2, PAGE)

    def lose(_fd: int, _length: int, _pause: Callable[[], None]) -> PageLock:
        os.truncate(raw_store.path(cut.raw), 0)
        raw_store.unlink(removed.raw)
        raise PageLockError("the kernel could not bring it in", errno.EAGAIN, permanent=False)

    with opened(raw_store, page_lock=lose) as residency:
        for request in (removed, cut):
            assert await residency.lock(*request) == LockOutcome.GONE
            raw_store.path(removed.raw).touch()
        assert residency.refusal is None
        assert residency.held_count == 0


async def test_a_refusal_is_told_while_a_file_suffers_from_it(raw_store: RawStore) -> None:
    """Once that file has left, or is locked after all, nothing is wrong any more."""
    request = create(raw_store, 1, PAGE)
    with opened(raw_store, page_lock=refuse) as residency:
        await residency.lock(*request)
        assert residency.refusal is not None
        assert residency.is_resident(request.ino)
        residency.release(request.ino, drop_pages=False)
        assert residency.refusal is None


async def test_a_file_is_resident_once_its_pages_are_locked(raw_store: RawStore) -> None:
    """Until then it counts to the capacity, and its pages may be anywhere."""
    request = create(raw_store, 1, PAGE)
    seen: list[tuple[bool, bool]] = []
    residency: Residency

    def lock(fd: int, length: int, pause: Callable[[], None]) -> PageLock:
        seen.append((residency.is_held(request.ino), residency.is_resident(request.ino)))
        return PageLock(fd, length, pause)

    with opened(raw_store, page_lock=lock) as residency:
        assert await residency.lock(*request) == LockOutcome.LOCKED
        assert seen == [(True, False)]
        assert residency.is_resident(request.ino)


@pytest.mark.parametrize(("limit", "told"), [(None, False), (10 * PAGE, False), (PAGE, True)])
def test_a_limit_of_locked_memory_below_the_capacity_is_told_before_it_hurts(
    raw_store: RawStore, limit: int | None, told: bool
) -> None:
    """An ordinary user who pins a file to warm learns that at once."""
    with opened(raw_store, lock_limit=lambda: limit) as residency:
        assert (residency.note is not None) == told
        assert residency.refusal is None


async def test_near_the_map_limit_files_are_cached(raw_store: RawStore) -> None:
    """`vm.max_map_count` is the whole process's."""
    with opened(raw_store, map_limit=lambda: 2 * (map_count() + 2)) as residency:
        requests = [create(raw_store, raw, PAGE) for raw in range(1, 7)]
        outcomes = await residency.lock_many(requests)
        assert LockOutcome.CACHED in outcomes
        assert residency.refusal is not None
        assert "max_map_count" in residency.refusal


async def test_the_coldest_come_first(residency: Residency, raw_store: RawStore) -> None:
    """By lock and touch."""
    for raw in range(1, 4):
        await residency.lock(*create(raw_store, raw, PAGE))
    residency.touch(InodeNo(1))
    assert residency.coldest(2) == [2, 3]


def place_nowhere(_fd: int, length: int, _pause: Callable[[], None]) -> PageLock:
    """A lock of no pages, so that many cost no mappings."""
    lock = PageLock(-1, 0)
    lock.length = length
    return lock


async def test_thousands_of_held_files_take_little_memory(raw_store: RawStore) -> None:
    """Each took 330 once; the daemon holds up to 65,536."""
    count = 3000
    name = create(raw_store, 1, 1)
    for raw in range(2, count + 1):
        os.link(raw_store.path(name.raw), raw_store.path(RawId(raw)))
    requests = [LockRequest(InodeNo(raw), RawId(raw), 1) for raw in range(1, count + 1)]
    residency = Residency(raw_store, WarmConfig(size_bytes=1 << 30), page_lock=place_nowhere)
    tracemalloc.start()
    try:
        assert await residency.lock_many(requests) == [LockOutcome.LOCKED] * count
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        residency.close()
    assert held_bytes < 250 * count


async def test_a_tier_of_no_bytes_is_off(raw_store: RawStore) -> None:
    """`warm.size = 0`."""
    residency = Residency(raw_store, WarmConfig(size_bytes=0))
    assert await residency.lock(*create(raw_store, 1, PAGE)) == LockOutcome.OFF
    residency.close()


async def test_closing_gives_all_back(raw_store: RawStore) -> None:
    """At shutdown; twice is once."""
    residency = Residency(raw_store, WarmConfig())
    assert residency.capacity_bytes == default_capacity_bytes()
    before = map_count()
    await residency.lock(*create(raw_store, 1, PAGE))
    residency.close()
    residency.close()
    assert residency.used_bytes == 0
    assert map_count() <= before + 2


async def test_locking_a_huge_file_can_be_cancelled_between_pieces(raw_store: RawStore) -> None:
    """A drain does not wait until all of it was read from the disk; nothing stays locked."""
    requests = [create(raw_store, 1, PAGE), create(raw_store, 2, 4 * PAGE)]
    locked: list[int] = []
    scope = trio.CancelScope()

    def lock(address: int, length: int) -> None:
        locked.append(length)
        if len(locked) == 3:
            trio.from_thread.run_sync(scope.cancel)
        lock_pages(address, length)

    in_pieces = functools.partial(PageLock, piece_bytes=PAGE, lock=lock)
    with opened(raw_store, page_lock=in_pieces) as residency:
        with scope:
            await residency.lock_many(requests)
        assert scope.cancelled_caught
        assert locked == [PAGE] * 3
        assert (residency.used_bytes, residency.held_count) == (0, 0)
        assert locked_kilobytes() == 0
