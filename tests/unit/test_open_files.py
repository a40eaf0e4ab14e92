"""Files that are open for writing when a snapshot is made: what it has of them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memfs.config import SnapshotsConfig
from memfs.content.past import PastReader, PastState
from memfs.errors import FilesOpenError
from memfs.jobs.snapshot_removal import SnapshotRemoval
from memfs.jobs.snapshots import SnapshotMethods
from memfs.metadata.records import InodeFlags, KeptContent
from memfs.moves import open_files
from memfs.moves.open_files import OpenCopy, OpenFiles, OpenState
from memfs.policy.marks import SNAPSHOT_XATTR
from memfs.types import ROOT_INODE
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.moves.progress import MoveProgress
    from memfs.types import InodeNo, SnapshotId

SMALL = replace(ROOMY, snapshots=SnapshotsConfig(open_copy_bytes_max=5000))
OLD, NEW = b"old content " * 100, b"new"


@pytest.fixture(params=[True, False], ids=["passthrough", "served"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    opened = World(tmp_path, SMALL, passthrough=request.param)
    try:
        yield opened
    finally:
        opened.close()


class Snapping:
    """Makes snapshots of a world, and reads as of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.open_files = OpenFiles(world.move_parts)
        self.methods = SnapshotMethods(
            world.move_parts, SnapshotRemoval(world.engine), self.open_files
        )
        self.past = PastReader(world.engine, world.raw_store, world.sealer, world.form_reader)

    def make(self, name: str = "snapshot") -> tuple[SnapshotId, list[OpenCopy]]:
        async def make() -> tuple[SnapshotId, list[OpenCopy]]:
            made, copies = await self.methods.make(name, "", ())
            await self.open_files.copy_all()
            return made.snap, [*copies]

        return self.world.run(make())

    def content(self, snap: SnapshotId, ino: InodeNo) -> tuple[PastState, bytes]:
        content = self.world.run(self.past.find(snap, ino))
        if content.state is PastState.ABSENT:
            return content.state, b""
        return content.state, self.world.run(self.past.read(snap, ino, 0, 1 << 20))


def test_an_open_file_is_copied_and_goes_on(world: World) -> None:
    snapping = Snapping(world)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, OLD)
    snap, [copy] = snapping.make()
    assert copy.state is OpenState.OPEN
    world.write(file, 0, NEW)
    assert snapping.content(snap, file.ino) == (PastState.OPEN, OLD)
    # Another one while it is open has other bytes.
    second, _ = snapping.make("second")
    world.release(file)
    for _ in range(3):
        world.step()
    assert not world.run(world.engine.get_inode(file.ino)).flags & InodeFlags.UNSEALED
    assert snapping.content(second, file.ino) == (PastState.OPEN, NEW + OLD[3:])
    assert snapping.content(snap, file.ino) == (PastState.OPEN, OLD)
    inode = world.run(world.engine.inode_at(snap, file.ino))
    assert inode.size == len(OLD)
    world.remount()
    snapping = Snapping(world)
    assert snapping.content(snap, file.ino) == (PastState.OPEN, OLD)
    assert snapping.content(second, file.ino) == (PastState.OPEN, NEW + OLD[3:])


def test_a_closed_file_is_exact_and_an_empty_one_needs_no_copy(world: World) -> None:
    snapping = Snapping(world)
    closed = world.create(ROOT_INODE, b"closed", 0o644, os.O_RDWR)
    world.write(closed, 0, OLD)
    world.release(closed)
    empty = world.create(ROOT_INODE, b"empty", 0o644, os.O_RDWR)
    snap, [copy] = snapping.make()
    assert (copy.inode.ino, copy.raw, copy.state) == (empty.ino, None, OpenState.OPEN)
    world.write(empty, 0, NEW)
    assert snapping.content(snap, closed.ino) == (PastState.EXACT, OLD)
    assert snapping.content(snap, empty.ino)[1] == b""


def test_a_large_one_has_no_bytes_where_the_disk_shares_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_files, "share_blocks", lambda *_: False)
    snapping = Snapping(world)
    large = world.create(ROOT_INODE, b"large", 0o644, os.O_RDWR)
    world.write(large, 0, b"x" * 5001)
    small = world.create(ROOT_INODE, b"small", 0o644, os.O_RDWR)
    world.write(small, 0, b"x" * 5000)
    for name in ("first", "second"):
        snap, copies = snapping.make(name)
        states = {copy.inode.ino: copy.state for copy in copies}
        assert states == {large.ino: OpenState.ABSENT, small.ino: OpenState.OPEN}
        assert "snapshots.open_copy_max" in copies[0].reason
        assert snapping.content(snap, large.ino) == (PastState.ABSENT, b"")
        assert world.run(world.engine.inode_at(snap, large.ino)).size == 5001
    world.remount()


def test_what_is_left_out_is_not_copied_but_named(world: World) -> None:
    snapping = Snapping(world)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, OLD)
    world.request(
        world.filesystem.set_xattr(world.program, file.ino, SNAPSHOT_XATTR, b"off", 0, False)
    )
    snap, [copy] = snapping.make()
    assert (copy.state, copy.reason) == (OpenState.ABSENT, "user.memfs.snapshot is off")
    assert snapping.content(snap, file.ino) == (PastState.ABSENT, b"")


def test_a_strict_snapshot_is_not_made_while_a_file_is_open(world: World) -> None:
    snapping = Snapping(world)
    files = [world.create(ROOT_INODE, b"f%d" % number, 0o644, os.O_RDWR) for number in range(5)]
    before = [world.run(world.engine.get_inode(file.ino)).generation for file in files]
    with pytest.raises(FilesOpenError, match=r"/f0, /f1, /f2 and 2 more; close them, or make"):
        world.run(snapping.methods.create("strict", strict=True))
    assert world.run(snapping.methods.list_all()) == []
    after = [world.run(world.engine.get_inode(file.ino)).generation for file in files]
    assert before == after
    for file in files:
        world.release(file)
    assert world.run(snapping.methods.create("strict", strict=True))["open_count"] == 0


def test_a_file_that_goes_before_it_is_copied_has_no_bytes(world: World) -> None:
    snapping = Snapping(world)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, OLD)
    raw = world.run(world.engine.get_inode(file.ino)).raw

    async def make() -> tuple[SnapshotId, list[OpenCopy]]:
        made, copies = await snapping.methods.make("snapshot", "", ())
        world.raw_store.unlink(raw)
        await snapping.open_files.copy_all()
        return made.snap, [*copies]

    snapping.open_files._shares_blocks = False
    snap, [copy] = world.run(make())
    assert copy.state is OpenState.ABSENT
    assert snapping.content(snap, file.ino)[0] is PastState.ABSENT
    assert world.run(world.engine.list_intents()) == []
    os.close(world.raw_store.create(raw))
    world.remount()


def test_an_end_before_the_copy_leaves_no_bytes_and_nothing_over(world: World) -> None:
    snapping = Snapping(world)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.write(file, 0, OLD)

    async def make() -> SnapshotId:
        made, _copies = await snapping.methods.make("snapshot", "", ())
        return made.snap

    snap = world.run(make())
    world.crash(checked=False)
    snapping = Snapping(world)
    assert snapping.content(snap, file.ino) == (PastState.ABSENT, b"")
    assert world.run(world.engine.inode_at(snap, file.ino)).size == len(OLD)
    world.step()


def test_a_defect_in_the_copy_of_one_file_keeps_no_other_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of the snapshot were given up with it."""
    snapping = Snapping(world)
    files = [world.create(ROOT_INODE, b"%d" % number, 0o644, os.O_RDWR) for number in range(3)]
    for file in files:
        world.write(file, 0, OLD)
    write = snapping.open_files._write

    def write_unless_bad(copy: OpenCopy, progress: MoveProgress) -> KeptContent:
        if copy.inode.ino == files[1].ino:
            raise KeyError("a defect")
        return write(copy, progress)

    monkeypatch.setattr(snapping.open_files, "_write", write_unless_bad)
    snap, copies = snapping.make()
    states = {copy.inode.ino: copy for copy in copies}
    assert "is a defect of memfs" in states[files[1].ino].reason
    for file in files:
        bad = file is files[1]
        assert states[file.ino].state is (OpenState.ABSENT if bad else OpenState.OPEN)
        assert states[file.ino].done.is_set()
        if not bad:
            assert snapping.content(snap, file.ino) == (PastState.OPEN, OLD)
        world.release(file)
