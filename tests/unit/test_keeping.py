"""Bytes that a snapshot shows outlive what becomes of the file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memfs.moves.dropping import drop_raw
from memfs.moves.keeping import keep_copy
from memfs.moves.packing import pack
from memfs.stores.reading import PackedFile
from memfs.types import FormKind, InodeNo
from tests.moving import State, compressible

if TYPE_CHECKING:
    from memfs.types import SnapshotId

OLD, NEW = compressible(9000, 1), compressible(7000, 2)


async def snapshot(state: State, name: str = "snapshot") -> SnapshotId:
    made = await state.engine.create_snapshot(name, time.time_ns())
    state.engine.commit_nowait()
    return made.snap


async def content_at(state: State, snap: SnapshotId, ino: InodeNo) -> bytes:
    """Return the bytes of a file as of a snapshot, by whatever has them."""
    inode = await state.engine.inode_at(snap, ino)
    if inode.raw:
        return state.raw_store.path(inode.raw).read_bytes()
    form = next(
        each for each in await state.engine.list_forms(inode.blob) if each.kind == FormKind.PACKED
    )
    with PackedFile.open(state.packed_store.path(form.place.key)) as packed:
        return packed.read(0, inode.size)


async def delete_all(state: State) -> None:
    for each in await state.engine.list_snapshots():
        await state.engine.delete_snapshot(each.snap)
    while await state.engine.delete_snapshot_step(3):
        pass
    state.engine.commit_nowait()


async def collect(state: State) -> None:
    while await state.garbage.collect(100):
        pass


async def test_a_removed_file_is_in_the_snapshot_until_that_is_deleted(state: State) -> None:
    """The raw file changes its owner: nothing is copied."""
    ino = await state.create("file", OLD)
    raw = (await state.engine.get_inode(ino)).raw
    snap = await snapshot(state)
    await state.unlink("file")
    await collect(state)
    assert raw == (await state.engine.inode_at(snap, ino)).raw
    assert await content_at(state, snap, ino) == OLD
    usage = await state.engine.usage()
    assert usage.raw_count == 1
    assert usage == await state.engine.recount()
    await delete_all(state)
    await collect(state)
    assert await state.leaks() == []
    assert not state.raw_store.exists(raw)


async def test_a_file_without_a_snapshot_is_removed_at_once(state: State) -> None:
    await snapshot(state)
    ino = await state.create("younger", OLD)
    raw = (await state.engine.get_inode(ino)).raw
    await state.unlink("younger")
    await collect(state)
    assert not state.raw_store.exists(raw)


async def test_a_write_in_place_waits_for_a_copy(state: State) -> None:
    """The engine refuses to let the bytes change before, and asks for one copy a snapshot."""
    ino = await state.create("file", OLD)
    snap = await snapshot(state)
    inode = await state.engine.get_inode(ino)
    assert await state.engine.needs_copy(ino)
    assert inode == await state.engine.unseal(ino, inode.raw, inode.generation)
    await keep_copy(state.parts, ino)
    assert state.engine.synced
    assert not await state.engine.needs_copy(ino)
    await state.rewrite(ino, NEW)
    assert await state.content(ino) == NEW
    assert await content_at(state, snap, ino) == OLD
    await state.rewrite(ino, OLD)
    assert len(await state.engine.list_kept((InodeNo(0), inode.generation), 10)) == 1
    await delete_all(state)
    await collect(state)
    assert await state.leaks() == []


async def test_each_snapshot_has_the_bytes_of_its_time(state: State) -> None:
    contents = [compressible(5000, seed) for seed in range(4)]
    ino = await state.create("file", contents[0])
    snaps = []
    for index, content in enumerate(contents):
        if index:
            await keep_copy(state.parts, ino)
            await state.rewrite(ino, content)
        snaps.append(await snapshot(state, f"{index}"))
    await state.engine.delete_snapshot(snaps.pop(1))
    del contents[1]
    while await state.engine.delete_snapshot_step(1):
        pass
    await collect(state)
    for snap, content in zip(snaps, contents, strict=True):
        assert await content_at(state, snap, ino) == content
    assert await state.leaks() == []


async def test_a_packed_form_is_kept_by_reference(state: State) -> None:
    """Nothing is copied, and the form outlives the file."""
    ino = await state.create("file", OLD)
    await pack(state.parts, ino)
    snap = await snapshot(state)
    assert not await state.engine.needs_copy(ino)
    await state.rewrite(ino, NEW)
    await state.unlink("file")
    await collect(state)
    assert await content_at(state, snap, ino) == OLD
    await delete_all(state)
    await collect(state)
    assert await state.leaks() == []
    assert [*state.packed_store.iterate()] == []


async def test_a_raw_file_with_a_form_is_not_kept_twice(state: State) -> None:
    ino = await state.create("file", OLD)
    await pack(state.parts, ino)
    raw = (await state.engine.get_inode(ino)).raw
    snap = await snapshot(state)
    await state.unlink("file")
    await collect(state)
    assert not state.raw_store.exists(raw)
    assert await content_at(state, snap, ino) == OLD


async def test_a_copy_is_for_nothing_once_the_snapshot_has_gone(state: State) -> None:
    ino = await state.create("file", OLD)
    await snapshot(state)
    await keep_copy(state.parts, ino)
    await delete_all(state)
    await collect(state)
    assert await state.leaks() == []
    assert await state.content(ino) == OLD


async def test_deletion_of_several_at_once_comes_to_its_end(state: State) -> None:
    """One that has no undo rows may come first, while another one still shows bytes."""
    ino = await state.create("file", OLD)
    await snapshot(state, "first")
    await snapshot(state, "second")
    await keep_copy(state.parts, ino)
    await state.rewrite(ino, NEW)
    for each in await state.engine.list_snapshots():
        await state.engine.delete_snapshot(each.snap)
    step_count = 0
    while await state.engine.delete_snapshot_step(10):
        step_count += 1
        assert step_count < 20
    await collect(state)
    assert await state.leaks() == []


async def test_what_was_packed_meanwhile_needs_no_copy(state: State) -> None:
    ino = await state.create("file", OLD)
    snap = await snapshot(state)
    await pack(state.parts, ino)
    await drop_raw(state.parts, ino)
    assert not await state.engine.needs_copy(ino)
    assert await content_at(state, snap, ino) == OLD


async def test_an_open_file_needs_no_copy(state: State) -> None:
    """Its bytes change anyway, and nothing can copy those of the instant any more."""
    ino = await state.create("file", OLD)
    inode = await state.engine.get_inode(ino)
    await state.engine.unseal(ino, inode.raw)
    await snapshot(state)
    assert not await state.engine.needs_copy(ino)
