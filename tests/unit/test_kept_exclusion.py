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


async def test_what_is_moved_in_is_kept_for_snapshots_of_before(state: State) -> None:
    """It was outside at the instant, and a later snapshot shows it inside."""
    off = await directory(state, b"off", b"off")
    names = (b"a", b"b", b"c", b"d")
    inos = [await place(state, ROOT_INODE, name) for name in names]
    before = await snapshot(state, "before")
    for name in names:
        await move(state, (ROOT_INODE, name), (off, name))
    await write(state, inos[0])
    await remove(state, off, b"b")
    after = await snapshot(state, "after")
    await write(state, inos[2])
    await remove(state, off, b"d")
    assert [await is_kept(state, before, ino) for ino in inos] == [True] * 4
    # What is kept for one snapshot is there for the other.
    assert [await is_kept(state, after, ino) for ino in inos[2:]] == [True] * 2


async def test_what_is_moved_out_is_kept_for_snapshots_from_then_on(state: State) -> None:
    """A snapshot of before has it inside, and gets what another one needs."""
    off = await directory(state, b"off", b"off")
    inos = [await place(state, off, name) for name in (b"a", b"b", b"c", b"d")]
    before = await snapshot(state, "before")
    for name in (b"a", b"b", b"c", b"d"):
        await move(state, (off, name), (ROOT_INODE, name))
    await write(state, inos[0])
    await remove(state, ROOT_INODE, b"b")
    after = await snapshot(state, "after")
    await write(state, inos[2])
    await remove(state, ROOT_INODE, b"d")
    assert [await is_kept(state, before, ino) for ino in inos] == [False, False, True, True]
    assert [await is_kept(state, after, ino) for ino in inos[2:]] == [True] * 2


async def test_a_directory_takes_its_files_in_and_out(state: State) -> None:
    """All that counts is where it was at the instant."""
    off = await directory(state, b"off", b"off")
    inner = await make_directory(state.engine, b"inner")
    inos = [await place(state, inner.ino, b"%d" % number) for number in range(6)]
    snap = await snapshot(state, "before")
    await write(state, inos[0])
    await move(state, (ROOT_INODE, b"inner"), (off, b"inner"))
    await write(state, inos[1])
    await mark(state, off, b"on")
    await write(state, inos[2])
    await mark(state, off, b"off")
    inside = await snapshot(state, "inside")
    await move(state, (off, b"inner"), (ROOT_INODE, b"inner"))
    await write(state, inos[3])
    assert [await is_kept(state, snap, ino) for ino in inos] == [True] * 6
    async with state.engine.change():
        await state.engine.delete_snapshot(snap)
        while await state.engine.delete_snapshot_step(100):
            pass
    await write(state, inos[4])
    await remove(state, inner.ino, b"5")
    assert [await is_kept(state, inside, ino) for ino in inos[4:]] == [False, False]


async def test_a_mark_counts_as_it_was_at_the_instant(state: State) -> None:
    """Switched off later, the snapshot still gets what it shows; switched on later, it does not."""
    inos = [await place(state, ROOT_INODE, name) for name in (b"a", b"b", b"c", b"d")]
    for ino in inos[1::2]:
        await mark(state, ino, b"off")
    snap = await snapshot(state, "before")
    for ino in inos[::2]:
        await mark(state, ino, b"off")
    for ino in inos[1::2]:
        await mark(state, ino, b"on")
    for ino in inos[:2]:
        await write(state, ino)
    for name in (b"c", b"d"):
        await remove(state, ROOT_INODE, name)
    assert [await is_kept(state, snap, ino) for ino in inos] == [True, False, True, False]


async def test_the_owner_of_the_instant_counts(state: State) -> None:
    """A mark holds for files of the directory's own user, and for all if it is root's."""
    off = await directory(state, b"off", b"off")
    inos = [await place(state, off, name) for name in (b"a", b"b")]
    for ino in inos:
        await state.engine.set_attributes(ino, AttributeChanges(uid=7))
    ruled = await snapshot(state, "ruled")
    await state.engine.set_attributes(off, AttributeChanges(uid=8))
    await write(state, inos[0])
    assert not await is_kept(state, ruled, inos[0])
    free = await snapshot(state, "free")
    await state.engine.set_attributes(off, AttributeChanges(uid=0))
    await write(state, inos[1])
    assert await is_kept(state, free, inos[1])


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
