"""The pool of raw files made ahead of need."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.content.rawpool import (
    CALM_S,
    INODES_KEPT,
    INODES_SHARE_MAX,
    READY_COUNT_FIRST,
    REFILL_COUNT,
    RawPool,
)
from memfs.errors import NoSpaceError
from memfs.filesystem.shared import with_raw_attributes
from memfs.metadata.records import InodeFlags
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE
from tests.killed import Killed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import RawId
    from tests.property.world import World


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    opened = SqliteEngine.open(tmp_path, MetadataConfig())
    yield opened
    opened.close()


@pytest.fixture
def raw_store(tmp_path: Path, engine: SqliteEngine) -> Iterator[RawStore]:
    store = RawStore(tmp_path)
    yield store
    store.close()


def test_taken_files_are_empty_and_never_the_same(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """Two inodes with one raw file would be one file."""
    pool = RawPool(engine, raw_store)
    first, second = pool.take(), pool.take()
    assert len({first.ino, second.ino}) == len({first.raw, second.raw}) == 2
    assert raw_store.stat(first.raw).st_size == 0


async def test_a_filled_pool_makes_no_file_when_one_is_taken(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """And one that is never asked makes no file at all."""
    pool = RawPool(engine, raw_store, ready_count_max=2 * REFILL_COUNT)
    assert list(raw_store.iterate()) == []
    taken = [pool.take()]
    await pool.refill()
    before = len(list(raw_store.iterate()))
    taken += [pool.take() for _ in range(REFILL_COUNT)]
    assert len(list(raw_store.iterate())) == before
    pool.close()
    assert sorted(raw_store.iterate()) == sorted(ready.raw for ready in taken)


def test_what_is_given_back_is_taken_next_and_removed_at_the_end(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """A refused create leaves nothing behind."""
    pool = RawPool(engine, raw_store)
    ready = pool.take()
    pool.give_back(ready)
    assert pool.take() == ready
    pool.give_back(ready)
    pool.close()
    assert list(raw_store.iterate()) == []


async def test_a_crash_forgets_no_file_of_a_pool_that_nobody_drew_from(tmp_path: Path) -> None:
    """Directories and links take numbers too, and the sweep looks at the last ones only."""
    limits = Limits(lease_count=100)
    engine = SqliteEngine.open(tmp_path / "state", MetadataConfig(), limits=limits)
    raw_store = RawStore(tmp_path / "state")
    pool = RawPool(engine, raw_store, ready_count_max=2 * REFILL_COUNT)
    await pool.refill()
    ready = set(raw_store.iterate())
    for _ in range(1000):
        engine.reserve_ids()
    engine.wait_for_checkpoint()
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    after = SqliteEngine.open(tmp_path / "crashed", MetadataConfig(), limits=limits)
    start, end = after.unrecorded_raw_range()
    assert ready
    assert ready <= set(range(start, end))
    after.close()
    pool.close()
    raw_store.close()
    engine.close()


class Registry:
    """The kernel's registry of backing files."""

    available = True

    def __init__(self) -> None:
        self.registered: set[int] = set()
        self.writable: list[int] = []
        self._last = 0

    def register(self, fd: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            self.writable.append(fd)
        self._last += 1
        self.registered.add(self._last)
        return self._last

    def release(self, backing: int) -> None:
        self.registered.remove(backing)


async def test_files_are_registered_as_they_are_made_and_given_back_if_nobody_takes_them(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """A create then needs no call for it; one that can be written to would never be sealed."""
    registry = Registry()
    pool = RawPool(engine, raw_store, registry, ready_count_max=2 * REFILL_COUNT)
    first = pool.take()
    await pool.refill()
    assert {first.backing, pool.take().backing} < registry.registered
    assert registry.writable == []
    pool.close()
    assert len(registry.registered) == 2


async def test_a_kernel_that_refuses_a_file_leaves_it_without_a_backing_id(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """The open table asks again, and tells why."""

    class Refusing(Registry):
        def register(self, fd: int) -> int:
            raise OSError(errno.ELOOP, "stacked too deep")

    pool = RawPool(engine, raw_store, Refusing())
    assert pool.take().backing == 0
    assert len(list(raw_store.iterate())) == 1


async def test_no_file_is_made_while_programs_make_requests(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """A thread that makes them beside requests takes the interpreter from those."""
    requests = itertools.count()
    calm = False
    last = 0

    def request_count() -> int:
        nonlocal last
        if not calm:
            last = 10 * next(requests)
        return last

    pool = RawPool(engine, raw_store, None, request_count, ready_count_max=2 * REFILL_COUNT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        pool.take()
        await trio.sleep(3 * CALM_S)
        assert pool.ready_count == 0
        calm = True
        with trio.fail_after(20):
            while pool.ready_count <= REFILL_COUNT:  # noqa: ASYNC110  a thread makes them
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    pool.close()


async def test_a_pool_that_ran_dry_becomes_larger_up_to_its_limit(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """The first file of a mount is no sign of anything: there was no pool yet."""

    class Nowhere(RawStore):
        def create(self, raw: RawId, access: int = os.O_RDWR, *, provisional: bool = False) -> int:
            return os.open(os.devnull, access)

    nowhere = Nowhere(raw_store.root.parent)
    pool = RawPool(engine, nowhere, ready_count_max=3 * READY_COUNT_FIRST)
    counts = []
    for _ in range(4):
        while pool.ready_count:
            pool.take()
        pool.take()
        await pool.refill()
        counts.append(pool.ready_count)
    least = [READY_COUNT_FIRST, 2 * READY_COUNT_FIRST, *2 * [3 * READY_COUNT_FIRST]]
    assert all(0 <= want - count < REFILL_COUNT for want, count in zip(least, counts, strict=True))
    pool.close()


async def test_a_disk_with_few_inodes_keeps_most_of_them(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """What stands ready here would be missing for every other file of the disk."""

    class Small(RawStore):
        def free_inode_count(self) -> float:
            return 400 - len(list(raw_store.iterate()))

    pool = RawPool(engine, Small(raw_store.root.parent))
    await pool.refill()
    assert 16 <= pool.ready_count <= 400 * INODES_SHARE_MAX
    pool.close()


async def test_a_disk_that_counts_no_inodes_has_room_for_all(
    engine: SqliteEngine, raw_store: RawStore
) -> None:
    """As btrfs, and tmpfs with nr_inodes=0."""

    class Uncounted(RawStore):
        def free_inode_count(self) -> float:
            return math.inf

    pool = RawPool(engine, Uncounted(raw_store.root.parent))
    await pool.refill()
    assert pool.ready_count == READY_COUNT_FIRST
    pool.close()


def test_a_file_that_is_never_written_keeps_the_time_of_its_creation(world: World) -> None:
    """Its raw file is older, and must not be taken for changed, nor give its own time away."""
    world.run(world.raw_pool.refill())
    file = world.create(ROOT_INODE, b"empty", 0o644, os.O_WRONLY)
    made = world.run(world.filesystem.get_attributes(file.ino)).inode
    raw_mtime_ns = world.raw_store.stat(made.raw).st_mtime_ns
    assert raw_mtime_ns < made.mtime_ns == made.btime_ns
    world.release(file)
    world.step()
    sealed = world.run(world.filesystem.get_attributes(file.ino)).inode
    assert not sealed.flags & InodeFlags.UNSEALED
    assert (made.mtime_ns, made.size) == (sealed.mtime_ns, sealed.size)
    assert world.raw_store.stat(sealed.raw).st_mtime_ns == sealed.mtime_ns


def test_a_fsynced_empty_file_is_not_durable_before_its_time_is_on_the_disk(world: World) -> None:
    """Power loss would bring the raw file's own time back, which looks like damage later."""
    world.run(world.raw_pool.refill())
    file = world.create(ROOT_INODE, b"empty", 0o644, os.O_WRONLY)
    world.run(world.filesystem.fsync(world.program, file.ino, data_only=False))
    world.release(file)
    world.run(world.filesystem.finish_requests())
    sealed = world.run(world.engine.get_inode(file.ino))
    assert sealed.flags == 0


def test_a_kill_between_the_time_of_an_unused_raw_file_and_its_seal_changes_no_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seal gives the raw file the time of creation first; both must say the same afterwards."""
    world.run(world.raw_pool.refill())
    file = world.create(ROOT_INODE, b"empty", 0o644, os.O_WRONLY)
    made = world.run(world.filesystem.get_attributes(file.ino)).inode
    world.release(file)

    async def die(seals: object) -> None:
        assert world.raw_store.stat(made.raw).st_mtime_ns == made.mtime_ns
        world.capture()
        raise Killed

    monkeypatch.setattr(world.sqlite, "seal", die)
    with pytest.raises(Killed):
        world.run(world.filesystem.finish_requests())
    world.crash(checked=True)
    world.step()
    after = world.run(world.engine.get_inode(file.ino))
    assert not after.flags & InodeFlags.UNSEALED
    assert (made.mtime_ns, 0) == (after.mtime_ns, after.size)
    assert world.raw_store.stat(after.raw).st_mtime_ns == made.mtime_ns


def test_a_kill_leaves_no_file_of_the_pool(world: World) -> None:
    """They stood ready, registered with a kernel that is told of nothing."""
    world.run(world.raw_pool.refill())
    ready = set(world.raw_store.iterate())
    assert ready
    world.crash(checked=True)
    while not world.recovery.done:
        world.run(world.recovery.look_at_slice())
    assert not ready & set(world.raw_store.iterate())


def test_attributes_of_an_unsealed_file_come_from_its_raw_file_and_all_else_stays(
    world: World,
) -> None:
    """They are put in by position: a field in another one's place would go unseen."""
    file = world.create(ROOT_INODE, b"file", 0o640, os.O_WRONLY)
    inode = world.run(world.engine.get_inode(file.ino))
    raw_path = world.raw_store.path(inode.raw)
    raw_path.write_bytes(bytes(7777))
    status = raw_path.stat()
    assert with_raw_attributes(inode, status) == inode._replace(
        size=7777,
        blocks=status.st_blocks,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=max(inode.ctime_ns, status.st_ctime_ns),
    )
    world.release(file)


def test_new_files_leave_the_last_inodes_to_those_that_leave(
    engine: SqliteEngine, raw_store: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of files takes an inode for as long as it is written, and frees one for each file."""
    pool = RawPool(engine, raw_store)
    monkeypatch.setattr(raw_store, "free_inode_count", lambda: INODES_KEPT)
    with pytest.raises(NoSpaceError, match="no inodes"):
        pool.take()
    monkeypatch.setattr(raw_store, "free_inode_count", lambda: INODES_KEPT + 1)
    assert pool.take().raw
    pool.close()
