"""Whatever programs do to a file after a snapshot, that shows the bytes of its instant."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from memfs.errors import NoSpaceError
from memfs.filesystem.operations import AttributeRequest
from memfs.metadata.records import InodeFlags
from memfs.moves.keeping import Keeper, keep_copy
from memfs.types import ROOT_INODE
from tests.disk_calls import intercept, name_of
from tests.moving import State
from tests.property.world import ROOMY, ToldSyncs, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.types import InodeNo, SnapshotId

OLD, NEW = b"old content " * 1000, b"new"


@pytest.fixture(params=[True, False], ids=["passthrough", "served"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=request.param)
    try:
        yield opened
    finally:
        opened.close()


def sealed(world: World, name: bytes) -> InodeNo:
    file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
    world.write(file, 0, OLD)
    world.release(file)
    for _ in range(5):
        world.step()
        inode = world.run(world.engine.get_inode(file.ino))
        if not inode.flags & InodeFlags.UNSEALED:
            return file.ino
    raise AssertionError("the file was not sealed")


def snapshot(world: World) -> SnapshotId:
    made = world.run(world.engine.create_snapshot("snapshot", time.time_ns()))
    world.engine.commit_nowait()
    return made.snap


async def content_at(world: World, snap: SnapshotId, ino: InodeNo) -> bytes:
    inode = await world.engine.inode_at(snap, ino)
    if inode.raw:
        return world.raw_store.path(inode.raw).read_bytes()
    return await world.form_reader.read(inode, 0, inode.size)


def write_in_place(world: World, ino: InodeNo) -> None:
    file = world.open(ino, os.O_RDWR)
    world.write(file, 0, NEW)
    world.release(file)


def write_anew(world: World, ino: InodeNo) -> None:
    file = world.open(ino, os.O_WRONLY | os.O_TRUNC)
    world.write(file, 0, NEW)
    world.release(file)


def write_anew_beside_a_reader(world: World, ino: InodeNo) -> None:
    """Two that are passed through must share one raw file, which is cut in place."""
    reader = world.open(ino, os.O_RDONLY)
    write_anew(world, ino)
    assert world.read(reader, 0, 100) == NEW
    world.release(reader)


def write_twice(world: World, ino: InodeNo) -> None:
    write_in_place(world, ino)
    world.step()
    write_anew(world, ino)


def cut(world: World, ino: InodeNo) -> None:
    world.request(world.filesystem.set_attributes(world.program, ino, AttributeRequest(size=5)))


def cut_to_nothing(world: World, ino: InodeNo) -> None:
    world.request(world.filesystem.set_attributes(world.program, ino, AttributeRequest(size=0)))


def remove(world: World, ino: InodeNo) -> None:
    world.request(world.filesystem.unlink(ROOT_INODE, b"file"))
    world.filesystem.forget([ino])


CHANGES = (
    write_in_place,
    write_anew,
    write_anew_beside_a_reader,
    write_twice,
    cut,
    cut_to_nothing,
    remove,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_snapshot_shows_the_bytes_of_its_instant(
    world: World, change: Callable[[World, InodeNo], None]
) -> None:
    ino = sealed(world, b"file")
    snap = snapshot(world)
    change(world, ino)
    for _ in range(3):
        world.step()
    assert world.run(content_at(world, snap, ino)) == OLD
    world.remount()
    assert world.run(content_at(world, snap, ino)) == OLD


def test_a_file_is_cut_without_a_copy_if_nobody_has_it_open(world: World) -> None:
    ino = sealed(world, b"file")
    raw = world.run(world.engine.get_inode(ino)).raw
    snap = snapshot(world)
    write_anew(world, ino)
    assert world.run(world.engine.inode_at(snap, ino)).raw == raw
    assert world.run(world.engine.get_inode(ino)).raw != raw


def test_a_file_that_no_snapshot_shows_is_written_in_its_raw_file(world: World) -> None:
    snapshot(world)
    ino = sealed(world, b"file")
    raw = world.run(world.engine.get_inode(ino)).raw
    write_anew(world, ino)
    assert world.run(world.engine.get_inode(ino)).raw == raw
    assert world.run(world.engine.usage()).raw_count == 1


@pytest.mark.parametrize("soon", [True, False])
def test_a_small_copy_needs_no_thread_where_the_disk_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, soon: bool
) -> None:
    """The way to a thread and back costs as much as a flush of such a disk, and there are two."""
    quick = ToldSyncs()
    world = World(tmp_path, ROOMY, passthrough=True, quick=quick)
    try:
        ino = sealed(world, b"file")
        snap = snapshot(world)
        quick.expected = soon
        syncing: dict[str, bool] = {}

        def note(_call: str, fd: int) -> None:
            syncing[name_of(fd)] = threading.current_thread() is threading.main_thread()

        with monkeypatch.context() as patch:
            intercept(patch, "fsync", "fdatasync", before=note)
            file = world.open(ino, os.O_RDWR)
            journal = {name for name in syncing if name.startswith("journal.")}
            raws = syncing.keys() - {"ids", "metadata.sums", *journal}
            assert journal
            assert len(raws) >= 2, "the copy and its name"
            assert {*syncing.values()} == {soon}
        world.write(file, 0, NEW)
        world.release(file)
        assert world.run(content_at(world, snap, ino)) == OLD
    finally:
        world.close()


def test_copies_take_raw_files_that_stand_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flush makes the names of all of them durable, which each new name would need."""
    world = World(tmp_path, ROOMY, passthrough=True)
    try:
        inos = [sealed(world, b"%d" % number) for number in range(3)]
        snap = snapshot(world)
        world.run(world.raw_pool.refill())
        ready_count = world.raw_pool.ready_count
        assert ready_count > len(inos)
        flushed: list[str] = []
        with monkeypatch.context() as patch:
            intercept(patch, "fsync", before=lambda _call, fd: flushed.append(name_of(fd)))
            for ino in inos:
                write_in_place(world, ino)
        assert world.raw_pool.ready_count == ready_count - len(inos)
        assert len(flushed) <= len(inos) + 2, "each copy; once the directory, and the one above"
        for ino in inos:
            assert world.run(content_at(world, snap, ino)) == OLD
    finally:
        world.close()


async def test_a_ready_raw_file_goes_with_an_intent_that_is_refused(tmp_path: Path) -> None:
    """On a full disk the copy is not begun, and nothing would tell of the file."""
    state = State(tmp_path / "state")
    try:
        ino = await state.create("file", OLD)
        await state.engine.create_snapshot("snapshot", time.time_ns())
        state.engine.commit_nowait()
        ready = state.engine.reserve_ids()[1]
        os.close(state.raw_store.create(ready))

        async def refuse(*_arguments: object) -> None:
            raise NoSpaceError("the disk is full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state.engine, "begin_intent", refuse)
            with pytest.raises(NoSpaceError):
                await keep_copy(state.parts, ino, Keeper(take_raw=lambda: ready))
        assert not state.raw_store.exists(ready)
        await keep_copy(state.parts, ino)
        assert not await state.engine.needs_copy(ino)
    finally:
        state.close()
