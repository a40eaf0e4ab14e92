"""`user.memfs.snapshot`: whose bytes snapshots leave out, by what is set where a file is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from memfs.errors import NotKeptError
from memfs.metadata.records import AttributeChanges
from memfs.moves.keeping import keep_copy
from memfs.policy.marks import SNAPSHOT_XATTR
from memfs.types import ROOT_INODE
from tests.contract.engine.making import make_directory
from tests.moving import State, compressible
from tests.past import past

if TYPE_CHECKING:
    from memfs.types import InodeNo, SnapshotId

OLD, NEW = compressible(9000, 1), compressible(7000, 2)


async def mark(state: State, ino: InodeNo, value: bytes) -> None:
    async with state.engine.change():
        await state.engine.set_xattr(ino, SNAPSHOT_XATTR, value, 0, time.time_ns())


async def directory(
    state: State, name: bytes, value: bytes, parent: InodeNo = ROOT_INODE
) -> InodeNo:
    """Make a directory with a mark."""
    made = await make_directory(state.engine, name, parent)
    await state.engine.set_attributes(made.ino, AttributeChanges(uid=0))
    await mark(state, made.ino, value)
    return made.ino


async def place(state: State, parent: InodeNo, name: bytes) -> InodeNo:
    """Make a file below a directory."""
    ino = await state.create("new", OLD)
    await move(state, (ROOT_INODE, b"new"), (parent, name))
    return ino


async def move(state: State, source: tuple[InodeNo, bytes], target: tuple[InodeNo, bytes]) -> None:
    async with state.engine.change():
        await state.engine.rename(*source, *target, 0, time.time_ns())


async def snapshot(state: State, name: str) -> SnapshotId:
    async with state.engine.change():
        return (await state.engine.create_snapshot(name, 1)).snap


async def write(state: State, ino: InodeNo) -> None:
    """Write a file in place, as a program does."""
    await keep_copy(state.parts, ino)
    await state.rewrite(ino, NEW)


async def remove(state: State, parent: InodeNo, name: bytes) -> None:
    async with state.engine.change():
        inode = await state.engine.unlink(parent, name, time.time_ns())
        await state.engine.reap([inode.ino])


async def is_kept(state: State, snap: SnapshotId, ino: InodeNo) -> bool:
    """Return whether a snapshot has a file's bytes; it has its size and name in any case."""
    assert (await state.engine.inode_at(snap, ino)).size == len(OLD)
    assert await state.engine.list_paths_at(snap, ino)
    try:
        assert await past(state, snap, ino) == OLD
    except NotKeptError:
        return False
    return True


@pytest.mark.parametrize("how", ["written", "removed"])
async def test_the_nearest_mark_counts(state: State, how: str) -> None:
    """A file's own before its directory's, and that before one further above."""
    off = await directory(state, b"off", b"off")
    on = await directory(state, b"on", b"on", off)
    files = {
        (off, b"plain"): False,
        (off, b"own"): True,
        (on, b"plain"): True,
        (on, b"own"): False,
    }
    inos = {where: await place(state, *where) for where in files}
    await mark(state, inos[off, b"own"], b"on")
    await mark(state, inos[on, b"own"], b"off")
    snap = await snapshot(state, "before")
    for where, ino in inos.items():
        await (write(state, ino) if how == "written" else remove(state, *where))
    assert files == {where: await is_kept(state, snap, ino) for where, ino in inos.items()}


async def test_what_is_moved_in_is_left_out_once_it_is_written(state: State) -> None:
    """Removed, it is kept as the snapshot shows it: outside."""
    off = await directory(state, b"off", b"off")
    written, removed = [await place(state, ROOT_INODE, name) for name in (b"a", b"b")]
    snap = await snapshot(state, "before")
    for name in (b"a", b"b"):
        await move(state, (ROOT_INODE, name), (off, name))
    await write(state, written)
    await remove(state, off, b"b")
    assert [await is_kept(state, snap, ino) for ino in (written, removed)] == [False, True]


async def test_what_is_moved_out_is_kept_from_then_on(state: State) -> None:
    """For a snapshot of before it is outside too, if it is written; removed, it was inside."""
    off = await directory(state, b"off", b"off")
    written, removed = [await place(state, off, name) for name in (b"a", b"b")]
    before = await snapshot(state, "before")
    for name in (b"a", b"b"):
        await move(state, (off, name), (ROOT_INODE, name))
    later = await place(state, off, b"c")
    await move(state, (off, b"c"), (ROOT_INODE, b"c"))
    after = await snapshot(state, "after")
    await write(state, written)
    for name in (b"b", b"c"):
        await remove(state, ROOT_INODE, name)
    assert [await is_kept(state, after, ino) for ino in (written, removed, later)] == [True] * 3
    assert await is_kept(state, before, written)


async def test_a_directory_takes_its_files_in_and_out(state: State) -> None:
    """What was known of a directory's files does not outlive its move, nor a new mark."""
    off = await directory(state, b"off", b"off")
    inner = await make_directory(state.engine, b"inner")
    inos = [await place(state, inner.ino, b"%d" % number) for number in range(4)]
    snap = await snapshot(state, "before")
    await write(state, inos[0])
    await move(state, (ROOT_INODE, b"inner"), (off, b"inner"))
    await write(state, inos[1])
    await mark(state, off, b"on")
    await write(state, inos[2])
    await mark(state, off, b"off")
    await move(state, (off, b"inner"), (ROOT_INODE, b"inner"))
    await write(state, inos[3])
    assert [await is_kept(state, snap, ino) for ino in inos] == [True, False, True, True]


async def test_a_mark_that_changes_after_the_snapshot_counts_when_bytes_change(
    state: State,
) -> None:
    """Switched off, an earlier snapshot gets no copy either; switched on, it gets one."""
    first, second = [await place(state, ROOT_INODE, name) for name in (b"a", b"b")]
    await mark(state, second, b"off")
    snap = await snapshot(state, "before")
    assert await is_kept(state, snap, first)
    await mark(state, first, b"off")
    await mark(state, second, b"on")
    for ino in (first, second):
        await write(state, ino)
    assert [await is_kept(state, snap, ino) for ino in (first, second)] == [False, True]


async def test_bytes_that_are_kept_stay_kept_when_it_is_switched_off(state: State) -> None:
    ino = await place(state, ROOT_INODE, b"a")
    snap = await snapshot(state, "before")
    await write(state, ino)
    await mark(state, ino, b"off")
    await state.rewrite(ino, OLD + NEW)
    await remove(state, ROOT_INODE, b"a")
    while await state.garbage.collect(10):
        pass
    assert await is_kept(state, snap, ino)
    assert await state.leaks() == []
