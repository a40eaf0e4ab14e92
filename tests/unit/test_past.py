"""Bytes as of a snapshot are those of the instant, whatever happens while they are read."""

from __future__ import annotations

import errno
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from memfs.content.past import PastReader, PastState
from memfs.errors import CorruptDataError, IsADirectoryInodeError, NotKeptError
from memfs.filesystem.operations import AttributeRequest
from memfs.metadata.records import InodeFlags
from memfs.types import NO_RAW, ROOT_INODE, Tier
from tests.property.world import HYDRATE_BYTES_MAX, ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.content.past import PastFile
    from memfs.types import InodeNo, SnapshotId

OLD = random.Random(1).randbytes(3 * HYDRATE_BYTES_MAX)
NEW = random.Random(2).randbytes(2 * HYDRATE_BYTES_MAX)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    try:
        yield opened
    finally:
        opened.close()


def reader_of(world: World) -> PastReader:
    return PastReader(world.engine, world.raw_store, world.sealer, world.form_reader)


def write(world: World, name: bytes, content: bytes) -> InodeNo:
    file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
    world.write(file, 0, content)
    world.release(file)
    settle(world, file.ino)
    return file.ino


def settle(world: World, ino: InodeNo) -> None:
    for _ in range(5):
        world.step()
        if not world.run(world.engine.get_inode(ino)).flags & InodeFlags.UNSEALED:
            return
    raise AssertionError("the file was not sealed")


def snapshot(world: World, name: str = "snapshot") -> SnapshotId:
    made = world.run(world.engine.create_snapshot(name, time.time_ns()))
    world.engine.commit_nowait()
    return made.snap


def overwrite(world: World, ino: InodeNo, flags: int = 0) -> None:
    file = world.open(ino, os.O_RDWR | flags)
    world.write(file, 0, NEW)
    world.release(file)


def demote(world: World, ino: InodeNo) -> None:
    """Have a file lose its raw file."""
    world.run(world.engine.set_pin(ino, Tier.GLACIER))
    world.engine.commit_nowait()
    world.activity.note_pin(ino)
    for _ in range(20):
        world.step()
        if not world.run(world.engine.get_inode(ino)).raw:
            return
    pending = world.run(world.engine.get_pending(ino))
    raise AssertionError(f"the file was not demoted: {pending}")


def remove(world: World, ino: InodeNo) -> None:
    world.request(world.filesystem.unlink(ROOT_INODE, b"file"))
    world.filesystem.forget([ino])
    world.step()


def cut(world: World, ino: InodeNo) -> None:
    world.request(world.filesystem.set_attributes(world.program, ino, AttributeRequest(size=5)))


def touch(world: World, ino: InodeNo) -> None:
    request = AttributeRequest(mtime_ns=5)
    world.request(world.filesystem.set_attributes(world.program, ino, request))


def write_anew(world: World, ino: InodeNo) -> None:
    overwrite(world, ino, os.O_TRUNC)


CHANGES = (overwrite, write_anew, remove, cut, touch)


@pytest.mark.parametrize("first", [None, demote], ids=["raw", "remote"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_is_open_in_the_past_goes_on_with_its_bytes(
    world: World,
    first: Callable[[World, InodeNo], None] | None,
    change: Callable[[World, InodeNo], None],
) -> None:
    ino = write(world, b"file", OLD)
    if first is not None:
        first(world, ino)
    snap, reader = snapshot(world), reader_of(world)

    async def begin() -> PastFile:
        file = await reader.open(snap, ino)
        assert await file.read(0, 10) == OLD[:10]
        return file

    file = world.run(begin())
    change(world, ino)
    try:
        assert bytes(world.run(file.read(5, 1 << 20))) == OLD[5:]
        assert world.run(file.read(len(OLD), 10)) == b""
        assert world.run(file.seek(7, os.SEEK_DATA)) == 7
        assert world.run(file.seek(7, os.SEEK_HOLE)) == len(OLD)
        with pytest.raises(OSError, match=r"not below|No such device") as refusal:
            world.run(file.seek(len(OLD), os.SEEK_DATA))
        assert refusal.value.errno == errno.ENXIO
    finally:
        file.close()
    found = world.run(reader.find(snap, ino))
    assert (found.state, found.inode.size) == (PastState.EXACT, len(OLD))
    assert world.run(reader.read(snap, ino, 1, 1 << 20)) == OLD[1:]


def test_bytes_are_found_wherever_the_mover_has_put_them(world: World) -> None:
    ino = write(world, b"file", OLD)
    snap, reader = snapshot(world), reader_of(world)
    file = world.run(reader.open(snap, ino))
    file.close()
    demote(world, ino)
    # The raw file that it was opened by is gone.
    assert world.run(file.read(3, 1 << 20)) == OLD[3:]
    assert not world.run(reader.find(snap, ino)).inode.raw
    overwrite(world, ino)
    settle(world, ino)
    demote(world, ino)
    assert world.run(file.read(3, 1 << 20)) == OLD[3:]
    remove(world, ino)
    assert world.run(reader.read(snap, ino, 3, 1 << 20)) == OLD[3:]
    file.close()


def test_a_read_beside_a_writer_never_has_its_bytes(world: World) -> None:
    """The file is opened for writing, and written, while its raw file is read."""
    ino = write(world, b"file", OLD)
    snap = snapshot(world)
    turns: list[int] = []

    class LateReader(PastReader):
        async def read_raw(self, fd: int, offset: int, size: int) -> bytes | bytearray:
            if not turns:
                turns.append(size)
                file = await world.open_meanwhile(ino, os.O_RDWR)
                await world.write_meanwhile(file, 0, NEW)
                world.release(file)
            return await super().read_raw(fd, offset, size)

    reader = LateReader(world.engine, world.raw_store, world.sealer, world.form_reader)
    assert world.run(reader.read(snap, ino, 0, len(OLD))) == OLD
    assert turns
    assert not world.run(reader.find(snap, ino)).is_shared


def test_what_is_found_says_whether_it_still_holds(world: World) -> None:
    """One who copies the raw file by itself asks afterwards."""
    ino = write(world, b"file", OLD)
    snap, reader = snapshot(world), reader_of(world)
    found = world.run(reader.find(snap, ino))
    assert found.is_shared
    assert world.run(reader.holds(found))
    overwrite(world, ino)
    assert not world.run(reader.holds(found))
    found = world.run(reader.find(snap, ino))
    assert not found.is_shared
    assert world.raw_store.path(found.inode.raw).read_bytes() == OLD
    remove(world, ino)
    assert world.run(reader.holds(found))


def test_bytes_that_were_not_kept_are_an_error(world: World) -> None:
    ino = write(world, b"file", OLD)
    snap, reader = snapshot(world), reader_of(world)
    inode = world.run(world.engine.get_inode(ino))
    world.run(world.engine.unseal(ino, inode.raw, inode.generation, overwritten=True))
    world.engine.commit_nowait()
    assert world.run(reader.find(snap, ino)).state is PastState.ABSENT
    with pytest.raises(NotKeptError) as refusal:
        world.run(reader.read(snap, ino, 0, 10))
    assert refusal.value.errno == errno.ENODATA
    with pytest.raises(IsADirectoryInodeError):
        world.run(reader.read(snap, ROOT_INODE, 0, 10))


def test_a_file_that_a_writer_has_open_is_marked(world: World) -> None:
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, OLD)
    snap, reader = snapshot(world), reader_of(world)
    found = world.run(reader.find(snap, file.ino))
    assert (found.state, found.inode.size) == (PastState.OPEN, len(OLD))
    assert world.run(reader.read(snap, file.ino, 0, 1 << 20)) == OLD
    past = world.run(reader.open(snap, file.ino))
    world.write(file, len(OLD), NEW)
    assert world.run(past.read(0, 1 << 20)) == OLD + NEW
    past.close()
    world.release(file)
    settle(world, file.ino)
    for _ in range(2):
        found = world.run(reader.find(snap, file.ino))
        assert (found.state, found.inode.size) == (PastState.OPEN, len(OLD + NEW))
        assert world.run(reader.read(snap, file.ino, 0, 1 << 20)) == OLD + NEW
        overwrite(world, file.ino, os.O_TRUNC)
        settle(world, file.ino)


def test_an_empty_file_needs_no_bytes(world: World) -> None:
    ino = write(world, b"file", b"")
    snap, reader = snapshot(world), reader_of(world)
    remove(world, ino)
    found = world.run(reader.find(snap, ino))
    assert (found.state, found.inode.raw) == (PastState.EXACT, NO_RAW)
    assert world.run(reader.read(snap, ino, 0, 10)) == b""


def test_a_kept_raw_file_of_another_length_is_damage(world: World) -> None:
    ino = write(world, b"file", OLD)
    snap, reader = snapshot(world), reader_of(world)
    overwrite(world, ino)
    path = world.raw_store.path(world.run(reader.find(snap, ino)).inode.raw)
    os.truncate(path, 10)
    with pytest.raises(CorruptDataError, match="has 10 bytes instead of"):
        world.run(reader.read(snap, ino, 0, 10))
    os.truncate(path, 0)
    path.write_bytes(OLD)
