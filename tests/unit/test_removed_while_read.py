"""What was freed is free when `unlink` returns: threads that read a raw file let go of it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import WarmConfig
from memfs.content import syncer as syncing
from memfs.content.activity import FREED_BYTES_MIN
from memfs.content.residency import RELEASE_INLINE_BYTES_MAX, LockOutcome, Residency
from memfs.errors import StaleInodeError
from memfs.linux.files import write_back
from memfs.linux.memory import PageLock
from memfs.moves import containers, packing
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.stores import packing as stored_packing
from memfs.stores.raw import RawRemovedError, RawStore
from memfs.types import ROOT_INODE, InodeNo, RawId
from tests.moving import State, compressible
from tests.property.world import ROOMY, World
from tests.waiting import join, wait_until_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RAW = RawId(7)


@pytest.fixture
def raw_store(tmp_path: Path) -> Iterator[RawStore]:
    store = RawStore(tmp_path)
    os.close(store.create(RAW))
    yield store
    store.close()


def test_who_reads_a_raw_file_hears_of_its_removal(raw_store: RawStore) -> None:
    with raw_store.reading(RAW) as check, raw_store.reading(RAW) as other:
        check()
        assert raw_store.is_read(RAW)
        assert not raw_store.wait_unread(RAW, 0.0)
        raw_store.unlink(RAW)
        for each in (check, other):
            with pytest.raises(RawRemovedError, match="was removed while it was read"):
                each()
    assert not raw_store.is_read(RAW)
    assert raw_store.wait_unread(RAW, 0.0)


class Removal:
    """Removes a raw file at the first piece that is read of it, and counts the pieces."""

    def __init__(self, raw_store: RawStore, raw: RawId) -> None:
        self._raw_store = raw_store
        self._raw = raw
        self.piece_count = 0

    def note_piece(self) -> None:
        self.piece_count += 1
        self._raw_store.unlink(self._raw)


@pytest.mark.parametrize(
    ("module", "move"), [(packing, pack), (containers, upload)], ids=["pack", "upload"]
)
async def test_a_move_of_a_removed_file_stops(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    move: Callable[[Any, InodeNo], Any],
) -> None:
    """It held three gigabytes for 18 s, till all of them were compressed."""
    state = State(tmp_path / "state")
    ino = await state.create("f", compressible(1 << 20))
    inode = await state.engine.get_inode(ino)
    removal = Removal(state.raw_store, inode.raw)
    pack_file = stored_packing.pack_file

    def watched(source: Path, fd: int, codec: Any, size: int, advance: Any, **more: Any) -> Any:  # noqa: ANN401 - as pack_file
        def note(done_bytes: int, stored_bytes: int) -> None:
            removal.note_piece()
            advance(done_bytes, stored_bytes)

        return pack_file(source, fd, codec, size, note, **more)

    monkeypatch.setattr(module, "pack_file", watched)
    with pytest.raises(StaleInodeError, match="removed while it was read"):
        await move(state.parts, ino)
    assert removal.piece_count == 1
    assert not state.raw_store.is_read(inode.raw)
    state.close()


async def test_pages_of_a_removed_file_are_not_locked_to_the_end(raw_store: RawStore) -> None:
    os.truncate(raw_store.path(RAW), 1 << 20)
    removal = Removal(raw_store, RAW)

    def lock(fd: int, length: int, pause: Callable[[], None]) -> PageLock:
        def noted() -> None:
            removal.note_piece()
            pause()

        return PageLock(fd, length, noted, piece_bytes=64 << 10, lock=lambda *_: None)

    residency = Residency(raw_store, WarmConfig(size_bytes=1 << 30), page_lock=lock)
    assert await residency.lock(InodeNo(2), RAW, 1 << 20) is LockOutcome.GONE
    assert (removal.piece_count, residency.used_bytes) == (1, 0)
    residency.close()


def test_a_removed_file_is_not_written_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync of gigabytes takes as long as the disk needs, and keeps them there meanwhile."""
    world = World(tmp_path, ROOMY, passthrough=True)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, bytes(1 << 20))
    world.release(file)
    inode = world.run(world.engine.get_inode(file.ino))
    removal, written = Removal(world.raw_store, inode.raw), list[int]()

    def write(fd: int, offset: int, length: int) -> None:
        write_back(fd, offset, length)
        written.append(offset)
        if len(written) == 3:
            removal.note_piece()

    monkeypatch.setattr(syncing, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(syncing, "write_back", write)
    refused = world.file_syncs.syncer.sync_files([inode.raw])
    assert isinstance(refused[inode.raw], RawRemovedError)
    assert written == [0, 64 << 10, 128 << 10]
    world.close()


def test_holes_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest file has 2^37 pieces, and anybody can make one."""
    world = World(tmp_path, ROOMY, passthrough=True)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 1 << 40, b"end")
    world.release(file)
    inode = world.run(world.engine.get_inode(file.ino))
    written = list[int]()

    def write(fd: int, offset: int, length: int) -> None:
        write_back(fd, offset, length)
        written.append(offset)

    monkeypatch.setattr(syncing, "write_back", write)
    assert not world.file_syncs.syncer.sync_files([inode.raw])
    assert written == [1 << 40]
    world.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    config = replace(ROOMY, warm=WarmConfig(size_bytes=1 << 30))
    opened = World(tmp_path, config, passthrough=True)
    yield opened
    opened.close()


def large_file(world: World, size: int) -> tuple[InodeNo, RawId]:
    file = world.create(ROOT_INODE, b"large", 0o644, os.O_RDWR)
    os.posix_fallocate(file.kernel_fd, 0, size)
    world.release(file)
    world.step()
    return file.ino, world.run(world.engine.get_inode(file.ino)).raw


def remove(world: World) -> None:
    world.request(world.filesystem.unlink(ROOT_INODE, b"large"))
    world.run(world.filesystem.give_back())


def test_a_removal_waits_for_those_who_read_the_file(world: World) -> None:
    _, raw = large_file(world, FREED_BYTES_MIN)
    begun, ended = threading.Event(), threading.Event()

    def read() -> None:
        with world.raw_store.reading(raw) as check:
            begun.set()
            try:
                while not ended.wait(0.01):
                    check()
            except RawRemovedError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_until_set(begun)
        remove(world)
        assert not world.raw_store.is_read(raw)
    finally:
        ended.set()
        join(reader)


def test_a_removal_does_not_wait_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memfs.filesystem.names.READERS_S_MAX", 0.01)
    _, raw = large_file(world, FREED_BYTES_MIN)
    with world.raw_store.reading(raw):
        remove(world)
        assert not world.raw_store.exists(raw)


def test_a_removal_waits_for_locked_pages(world: World) -> None:
    """A thread unmaps large files, one after the other."""
    size = 2 * RELEASE_INLINE_BYTES_MAX
    ino, raw = large_file(world, size)
    path = world.raw_store.path(raw)
    begun, ended = threading.Event(), threading.Event()

    async def lock() -> None:
        assert await world.residency.lock(ino, raw, size) in (
            LockOutcome.LOCKED,
            LockOutcome.CACHED,
        )

    world.run(lock())

    # It is at another file until the removal waits for it.
    def hold_up() -> None:
        begun.set()
        ended.wait(1.0)

    world.residency._releaser.submit(hold_up)
    wait_until_set(begun)
    remove(world)
    assert str(path) not in Path("/proc/self/maps").read_text()
    ended.set()


async def test_a_release_is_waited_for_once(raw_store: RawStore) -> None:
    residency = Residency(raw_store, WarmConfig(size_bytes=1 << 30))
    with trio.fail_after(5):
        await residency.wait_released()
    residency.close()
