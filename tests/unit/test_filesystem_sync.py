"""fsync: what it has promised, when that is told, and that no failure is forgotten."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.content.activity import FREED_BYTES_MIN
from memfs.content.syncer import Syncer
from memfs.errors import StoreError
from memfs.filesystem.operations import AttributeRequest
from memfs.filesystem.writing import CUT_INLINE_BYTES_MAX
from memfs.jobs.barriers import LocalBarrier
from memfs.jobs.file_work import run_work
from memfs.linux.files import start_writeback
from memfs.metadata.records import InodeFlags, NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.placement import upkeep
from memfs.placement.upkeep import SETTLING_NS
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE
from tests.disk_calls import intercept, name_of
from tests.property.world import ROOMY, Program, ToldSyncs, World
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.types import InodeNo
    from tests.property.world import OpenFile
    from tests.scratch import Scratch


@pytest.fixture
def quick_syncs() -> ToldSyncs:
    return ToldSyncs(clock=itertools.count(step=1e-6).__next__)


@pytest.fixture
def tmp_path(disk_area: Scratch) -> Path:
    """On a disk: what is written to it and not synced is there for a while."""
    return disk_area.directory("sync")


@pytest.fixture(params=[True, False], ids=["passthrough", "served"])
def world(
    tmp_path: Path, request: pytest.FixtureRequest, quick_syncs: ToldSyncs
) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=request.param, quick=quick_syncs)
    try:
        yield opened
    finally:
        opened.close()


def fsync(world: World, ino: InodeNo, *, data_only: bool = False) -> None:
    world.run(world.filesystem.fsync(world.program, ino, data_only=data_only))
    world.run(world.filesystem.commit())


def state(world: World, ino: InodeNo) -> str:
    request = world.filesystem.get_xattr(world.program, ino, b"user.memfs.state")
    return world.run(request).decode()


def written(world: World, name: bytes) -> OpenFile:
    file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
    world.write(file, 0, b"content" * 1000)
    return file


def test_a_file_that_was_synced_and_closed_is_local_at_once(world: World) -> None:
    file = written(world, b"file")
    fsync(world, file.ino)
    assert state(world, file.ino) == "dirty"
    world.release(file)
    assert state(world, file.ino) == "local"


@pytest.mark.parametrize("late", ["write", "same_time", "data_only", "reopened"])
def test_a_file_that_was_written_after_its_sync_is_dirty(world: World, late: str) -> None:
    file = written(world, b"file")
    fsync(world, file.ino, data_only=late == "data_only")
    if late == "write":
        world.write(file, 3, b"later")
    if late == "same_time":
        hide_times(world, file.ino)
        world.write(file, 3, b"later")
        hide_times(world, file.ino)
    world.release(file)
    if late == "reopened":
        assert state(world, file.ino) == "local"
        again = world.open(file.ino, os.O_RDWR)
        world.release(again)
    assert state(world, file.ino) == "dirty"


def hide_times(world: World, ino: InodeNo) -> None:
    """Have the sealer believe that the times of the last sync are those of now."""
    raw = world.run(world.engine.get_inode(ino)).raw
    inode = world.run(world.engine.get_inode(ino))
    world.sealer.note_synced(inode, world.raw_store.stat(raw))


def test_a_sealed_file_that_is_synced_is_local(world: World) -> None:
    """A reader may fsync; nobody writes to the file meanwhile."""
    file = written(world, b"file")
    world.release(file)
    assert state(world, file.ino) == "dirty"
    reader = world.open(file.ino, os.O_RDONLY)
    fsync(world, file.ino)
    assert world.run(world.engine.get_inode(file.ino)).flags & InodeFlags.DURABLE
    world.release(reader)


@pytest.mark.parametrize("data_only", [True, False], ids=["data", "all"])
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "slow"])
def test_a_failed_sync_fails_again_until_the_file_is_closed(
    world: World,
    quick_syncs: ToldSyncs,
    monkeypatch: pytest.MonkeyPatch,
    quick: bool,
    data_only: bool,
) -> None:
    """The kernel tells of a lost page once, to the one who asks first."""
    file = written(world, b"file")
    sync = functools.partial(fsync, world, file.ino, data_only=data_only)

    def fail(_call: str, _fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if quick:
        sync()
    with monkeypatch.context() as patch:
        intercept(patch, "fdatasync" if data_only else "fsync", before=fail)
        quick_syncs.expected = quick
        with pytest.raises(OSError, match="Input/output"):
            sync()
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            sync()
    world.release(file)
    again = world.open(file.ino, os.O_RDWR)
    fsync(world, file.ino)
    world.release(again)


class SyncSpy:
    """Counts syncs of the disk, and how many threads were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs: list[str] = []
        self.thread_count = 0
        run_sync = trio.to_thread.run_sync

        async def count(
            work: Callable[..., object], *arguments: object, limiter: trio.CapacityLimiter
        ) -> object:
            self.thread_count += 1
            return await run_sync(work, *arguments, limiter=limiter)

        intercept(
            monkeypatch, "fsync", "fdatasync", before=lambda call, _fd: self.syncs.append(call)
        )
        monkeypatch.setattr(trio.to_thread, "run_sync", count)


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "slow"])
def test_a_sync_of_a_file_whose_name_is_durable_is_one_of_its_bytes(
    world: World, quick_syncs: ToldSyncs, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """As a database does it all the time: nothing else is to be written, and no thread needed."""
    file = written(world, b"file")
    fsync(world, file.ino)
    quick_syncs.expected = quick
    spy = SyncSpy(monkeypatch)
    for count in (1, 2):
        world.write(file, 0, b"other")
        fsync(world, file.ino, data_only=True)
        assert spy.syncs == ["fdatasync"] * count
    assert spy.thread_count == (0 if quick else 2)


def test_further_syncs_of_bytes_open_the_raw_file_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening and asking the engine took half of the time of what a database does all the time."""
    synced: list[int] = []
    intercept(monkeypatch, "fdatasync", before=lambda _, fd: synced.append(fd))
    file = written(world, b"file")
    fsync(world, file.ino)
    kept = world.open_table.kept(file.ino)
    assert kept is not None
    synced.clear()
    for _ in range(3):
        world.write(file, 0, b"other")
        fsync(world, file.ino, data_only=True)
    assert synced == [kept.fd] * 3
    assert world.open_table.kept(file.ino) is kept
    world.release(file)
    file = world.open(file.ino, os.O_RDWR)
    assert world.open_table.kept(file.ino) is None, "nothing is kept of a file that was closed"
    world.release(file)


def test_a_kept_descriptor_is_not_taken_for_that_of_another_raw_file(world: World) -> None:
    """A sync that began before the file was closed may end after it was opened anew."""
    file, other = written(world, b"file"), written(world, b"other")
    fsync(world, file.ino)
    fsync(world, other.ino)
    mine, theirs = (world.run(world.engine.get_inode(each.ino)) for each in (file, other))
    assert world.file_syncs.find_bytes(mine) is not None
    assert world.file_syncs.find_bytes(mine._replace(raw=theirs.raw)) is None


def test_a_kept_descriptor_is_not_used_while_names_wait_for_their_sync(world: World) -> None:
    file = written(world, b"file")
    fsync(world, file.ino)
    inode = world.run(world.engine.get_inode(file.ino))
    assert world.file_syncs.find_bytes(inode) is not None
    world.file_syncs.syncer.add(inode.raw)
    assert world.file_syncs.find_bytes(inode) is None
    world.file_syncs.syncer.sync()
    assert world.file_syncs.find_bytes(inode) is not None
    world.request(world.filesystem.make_directory(world.program, ROOT_INODE, b"new", 0o755))
    assert world.file_syncs.find_bytes(inode) is None


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "slow"])
@pytest.mark.parametrize("request_name", ["file", "directory", "open"])
def test_a_sync_of_bytes_and_names_takes_one_turn_of_a_thread_at_most(
    world: World,
    quick_syncs: ToldSyncs,
    monkeypatch: pytest.MonkeyPatch,
    request_name: str,
    quick: bool,
) -> None:
    file = written(world, b"file")
    quick_syncs.expected = quick
    spy = SyncSpy(monkeypatch)
    if request_name == "file":
        fsync(world, file.ino)
        assert spy.syncs[0] == "fsync", "the bytes come before the name"
    elif request_name == "directory":
        world.request(world.filesystem.fsync_directory(world.program, ROOT_INODE))
    else:
        world.release(world.open(file.ino, os.O_RDWR | os.O_DSYNC))
    assert spy.thread_count == (0 if quick else 1)
    assert world.engine.synced


def test_files_that_replaced_others_are_left_to_a_thread(
    world: World, quick_syncs: ToldSyncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes come first, and nobody has learned how long that takes."""
    for name in (b"old", b"new"):
        world.release(written(world, name))
    world.request(world.filesystem.rename(ROOT_INODE, b"new", ROOT_INODE, b"old", 0))
    quick_syncs.expected = True
    spy = SyncSpy(monkeypatch)
    for thread_count in (1, 1):
        world.request(world.filesystem.fsync_directory(world.program, ROOT_INODE))
        assert spy.thread_count == thread_count


@pytest.mark.parametrize("change", ["rename", "link", "mode", "other"])
def test_a_sync_after_a_change_of_names_is_one_of_the_journal_too(
    world: World, quick_syncs: ToldSyncs, change: str
) -> None:
    file = written(world, b"file")
    fsync(world, file.ino)
    quick_syncs.expected = True
    filesystem = world.filesystem
    if change == "rename":
        world.request(filesystem.rename(ROOT_INODE, b"file", ROOT_INODE, b"new", 0))
    elif change == "link":
        world.request(filesystem.link(file.ino, ROOT_INODE, b"new"))
    elif change == "mode":
        request = AttributeRequest(mode=0o600)
        world.request(filesystem.set_attributes(world.program, file.ino, request))
    else:
        world.request(filesystem.make_directory(world.program, ROOT_INODE, b"new", 0o755))
    assert not world.engine.synced
    fsync(world, file.ino, data_only=True)
    assert world.engine.synced


def test_others_that_come_during_a_sync_by_the_loop_have_threads_do_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(world, b"file")
    fsync(world, file.ino)
    answers = iter([True, False])

    class Crowded(Program):
        def is_alone(self) -> bool:
            return next(answers)

    spy = SyncSpy(monkeypatch)
    for thread_count in (0, 1, 2):
        world.run(world.filesystem.fsync(Crowded(), file.ino, data_only=True))
        world.run(world.filesystem.commit())
        assert spy.thread_count == thread_count


async def test_syncs_that_wait_together_share_one_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group commit: the first syncs for itself, the second for all that came meanwhile."""
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    engine.sync()
    syncer = Syncer(engine, RawStore(tmp_path))
    begun, gate = threading.Event(), threading.Event()
    sync_count = 0

    def wait(_call: str, _fd: int) -> None:
        nonlocal sync_count
        sync_count += 1
        begun.set()
        assert gate.wait(WAIT_S)

    async def change_and_sync(nursery: trio.Nursery) -> None:
        ino, _ = engine.reserve_ids()
        await engine.create(ROOT_INODE, b"%d" % ino, NewInode(ino, 0o40755, 0, 0, 1))
        engine.commit_nowait()
        nursery.start_soon(trio.to_thread.run_sync, syncer.sync)

    intercept(monkeypatch, "fdatasync", before=wait)
    async with trio.open_nursery() as nursery:
        await change_and_sync(nursery)
        assert await trio.to_thread.run_sync(begun.wait, WAIT_S)
        for _ in range(8):
            await change_and_sync(nursery)
        gate.set()
    assert sync_count == 2
    assert engine.synced
    engine.close()


def test_what_the_background_could_not_sync_fails_the_next_sync(world: World) -> None:
    """It has taken the kernel's only report."""
    file = written(world, b"file")
    world.release(file)
    reader = world.open(file.ino, os.O_RDONLY)
    raw = world.run(world.engine.get_inode(file.ino)).raw
    world.filesystem._syncer.note_failure(raw, StoreError("input/output error"))
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            fsync(world, file.ino)
    world.release(reader)
    reader = world.open(file.ino, os.O_RDONLY)
    fsync(world, file.ino)
    world.release(reader)


class FailingOnce:
    """A disk that refuses the bytes of one raw file the first time, and then calls them clean."""

    def __init__(self, world: World, file: OpenFile, monkeypatch: pytest.MonkeyPatch) -> None:
        inode = world.run(world.engine.get_inode(file.ino))
        self._path = world.raw_store.path(inode.raw)
        self.refused = False
        intercept(monkeypatch, "fsync", "fdatasync", before=self._refuse)

    def _refuse(self, _call: str, fd: int) -> None:
        if not self.refused and os.path.samestat(os.fstat(fd), self._path.stat()):
            self.refused = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("found_by", ["program", "rename", "background", "barrier"])
def test_a_file_that_the_disk_refused_is_not_called_durable_before_it_is_written_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, found_by: str
) -> None:
    """Whatever finds it out: all later syncs succeed, and the page is lost (fsync(2), NOTES)."""
    world.release(written(world, b"old"))
    file = written(world, b"file")
    disk = FailingOnce(world, file, monkeypatch)
    world.later_ns = SETTLING_NS + 10**9
    if found_by == "program":
        with pytest.raises(OSError, match="Input/output"):
            fsync(world, file.ino)
    elif found_by == "rename":
        world.request(world.filesystem.rename(ROOT_INODE, b"file", ROOT_INODE, b"old", 0))
        world.request(world.filesystem.fsync_directory(world.program, ROOT_INODE))
    elif found_by == "barrier":
        assert barrier(world, file.ino) == {"failed": 1}
    world.release(file)
    for _ in range(3):
        world.step()
    assert disk.refused
    reader = world.open(file.ino, os.O_RDONLY)
    if found_by != "program":
        with pytest.raises(OSError, match="Input/output"):
            fsync(world, file.ino)
    world.release(reader)
    reader = world.open(file.ino, os.O_RDONLY)
    fsync(world, file.ino)
    world.release(reader)
    world.step()
    for _ in range(2):
        assert barrier(world, file.ino) == {"failed": 1}
    assert state(world, file.ino) == "dirty"
    again = world.open(file.ino, os.O_RDWR | os.O_TRUNC)
    world.write(again, 0, b"anew")
    fsync(world, file.ino)
    world.release(again)
    world.step()
    assert barrier(world, file.ino) == {"unneeded": 1}
    assert state(world, file.ino) == "local"


def barrier(world: World, ino: InodeNo) -> dict[str, int]:
    """Return the outcomes of a local barrier for one file."""

    async def run() -> dict[str, int]:
        return (await run_work([ino], LocalBarrier(world.move_parts)))["outcomes"]

    return world.run(run())


@pytest.mark.parametrize("end", ["remount", "killed", "drained"])
def test_the_next_mount_knows_what_the_disk_has_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The pages are still clean in the cache of the kernel, and lost."""
    file = written(world, b"file")
    if end == "drained":
        # Nobody has synced it before.
        world.release(file)
        FailingOnce(world, file, monkeypatch)
    else:
        FailingOnce(world, file, monkeypatch)
        with pytest.raises(OSError, match="Input/output"):
            fsync(world, file.ino)
        world.release(file)
        world.step()
    if end == "killed":
        world.crash(checked=False)
    else:
        world.remount()
    assert barrier(world, file.ino) == {"failed": 1}
    assert state(world, file.ino) == "dirty"
    reader = world.open(file.ino, os.O_RDONLY)
    if end == "drained":
        with pytest.raises(OSError, match="Input/output"):
            fsync(world, file.ino)
    else:
        fsync(world, file.ino)
    world.release(reader)
    again = world.open(file.ino, os.O_RDWR | os.O_TRUNC)
    world.write(again, 0, b"anew")
    fsync(world, file.ino)
    world.release(again)
    world.remount()
    assert state(world, file.ino) == "local"


def test_a_program_that_writes_anew_after_a_failure_has_a_durable_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closes the file and opens it again, as it was told to, before anybody has sealed it."""
    file = written(world, b"file")
    FailingOnce(world, file, monkeypatch)
    with pytest.raises(OSError, match="Input/output"):
        fsync(world, file.ino)
    world.release(file)
    again = world.open(file.ino, os.O_RDWR)
    world.write(again, 0, b"content" * 1000)
    fsync(world, file.ino)
    world.release(again)
    assert state(world, file.ino) == "local"


@pytest.mark.parametrize("by", ["truncate", "open"])
def test_nobody_seals_a_file_while_it_is_cut(
    world: World, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Freeing gigabytes takes the disk long, and the event loop goes on."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, b"x" * (CUT_INLINE_BYTES_MAX + 8192))
    world.release(file)
    flags: list[int] = []

    async def look() -> None:
        world.sealer.add(file.ino)
        await world.sealer.seal_all()
        flags.append((await world.engine.get_inode(file.ino)).flags)

    intercept(monkeypatch, "truncate", before=lambda *_: trio.from_thread.run(look))
    if by == "truncate":
        request = AttributeRequest(size=0)
        world.run(world.filesystem.set_attributes(world.program, file.ino, request))
    else:
        world.release(world.open(file.ino, os.O_RDWR | os.O_TRUNC))
    assert flags == [InodeFlags.UNSEALED]
    world.run(world.sealer.seal_all())
    inode = world.run(world.engine.get_inode(file.ino))
    assert (inode.size, inode.flags) == (0, 0)


def test_a_drain_can_be_cancelled_while_it_writes_a_huge_file(world: World) -> None:
    """The daemon ends within a bounded time whatever there is to write."""
    files = [written(world, b"one"), written(world, b"two")]
    inodes = [world.run(world.engine.get_inode(file.ino)) for file in files]
    offsets: list[int] = []

    async def write_out() -> bool:
        with trio.CancelScope() as scope:

            def start(fd: int, offset: int, length: int) -> None:
                offsets.append(offset)
                start_writeback(fd, offset, length)
                if len(offsets) == 9:
                    trio.from_thread.run_sync(scope.cancel)

            await world.filesystem.write_out(inodes, piece_bytes=1000, start=start)
        return scope.cancelled_caught

    assert world.run(write_out())
    assert offsets == [*range(0, 7000, 1000), 0, 1000]
    for file in files:
        world.release(file)


@pytest.mark.parametrize(
    ("size", "free_bytes", "waits"),
    [
        (FREED_BYTES_MIN, 1 << 40, False),
        (FREED_BYTES_MIN, FREED_BYTES_MIN, True),
        (1, 1 << 40, True),
    ],
    ids=["large", "on a full disk", "small"],
)
def test_who_replaces_a_large_file_by_another_one_does_not_wait_for_its_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, size: int, free_bytes: int, waits: bool
) -> None:
    """The bytes of the new one come to the disk before those of the former one may go."""
    raws, inos = [], []
    for name, length in ((b"a", FREED_BYTES_MIN), (b"b", size)):
        file = world.create(ROOT_INODE, name, 0o644, os.O_WRONLY)
        world.write(file, 0, b"x" * length)
        world.release(file)
        inos.append(file.ino)
        raws.append(world.run(world.engine.get_inode(file.ino)).raw)
    synced: list[str] = []
    intercept(monkeypatch, "fdatasync", before=lambda _call, fd: synced.append(name_of(fd)))
    monkeypatch.setattr(RawStore, "free_bytes", lambda _: free_bytes)
    world.request(world.filesystem.rename(ROOT_INODE, b"b", ROOT_INODE, b"a", 0))
    world.run(world.filesystem.give_back())
    assert world.raw_store.exists(raws[0]) is not waits
    assert (f"{raws[1]:x}" in synced) is waits
    # As soon as the kernel has forgotten it, the mover gives its room back.
    world.filesystem.forget([inos[0]])
    world.step()
    assert not world.raw_store.exists(raws[0])
    assert world.raw_store.exists(raws[1])


def test_many_young_files_are_not_listed_in_each_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of thousands stops the loop; the rounds follow each other while there is work."""
    monkeypatch.setattr(upkeep, "LONG_LIST_COUNT", 3)
    files = [written(world, b"f%d" % number) for number in range(3)]
    for file in files:
        world.release(file)
    listing, looks = world.engine.list_not_durable, list[int]()

    async def look(limit: int) -> list[Inode]:
        looks.append(limit)
        return await listing(limit)

    monkeypatch.setattr(world.engine, "list_not_durable", look)
    for _ in range(3):
        world.step()
    assert len(looks) == 1
    world.later_ns = upkeep.LONG_LIST_PAUSE_NS
    world.step()
    assert len(looks) == 2
    # Where all of them are old enough, the rest is looked at without a pause.
    world.later_ns = SETTLING_NS + upkeep.LONG_LIST_PAUSE_NS
    world.step()
    assert len(looks) == 3
    assert [state(world, file.ino) for file in files] == ["local"] * 3
    world.step()
    assert len(looks) == 4
