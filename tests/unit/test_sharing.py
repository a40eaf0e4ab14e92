"""Files that share a blob: what a move of one of them means for the others."""

from __future__ import annotations

import os
import stat

import pytest
import trio

from memfs.errors import StoreUnavailableError
from memfs.metadata.records import AttributeChanges, NewInode
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.sharing import is_wanted_by_others
from memfs.moves.uploading import upload
from memfs.placement.execute import Placer
from memfs.policy import rules
from memfs.policy.view import Goal, Move
from memfs.types import ROOT_INODE, FormKind, Generation, InodeNo, Tier
from tests.faulty_store import Fault, FaultKind
from tests.moving import State, compressible

CONTENT = compressible(30_000, 1)


async def clone(state: State, ino: InodeNo, name: str, accessed_ns: int = 0) -> InodeNo:
    """Make a file that shares another one's blob."""
    engine, original = state.engine, await state.engine.get_inode(ino)
    number, _ = engine.reserve_ids()
    now_ns = original.accessed_ns + accessed_ns
    async with engine.change():
        await engine.create_orphan(NewInode(number, stat.S_IFREG | 0o644, 0, 0, now_ns))
        assert await engine.share_blob(number, Generation(1), original.blob)
        changes = AttributeChanges(size=original.size, blocks=original.blocks)
        await engine.set_attributes(number, changes)
        await engine.link(number, ROOT_INODE, name.encode(), now_ns)
    return number


async def pinned(state: State, ino: InodeNo, tier: Tier | None) -> None:
    async with state.engine.change():
        await state.engine.set_pin(ino, tier)


def object_count(state: State) -> int:
    return sum(len(names) for _, _, names in os.walk(state.objects_dir))


async def test_a_packed_form_stays_while_a_clone_wants_it(state: State) -> None:
    """Else one would pack again and again what the other one drops."""
    first = await state.create("first", CONTENT)
    await pack(state.parts, first)
    await upload(state.parts, first)
    await drop_raw(state.parts, first)
    second = await clone(state, first, "second", accessed_ns=-1)
    inode = await state.engine.get_inode(first)
    assert not await is_wanted_by_others(state.parts, inode), "it was used longer ago"
    for tier, expected in ((Tier.COLD, True), (Tier.GLACIER, False)):
        await pinned(state, second, tier)
        assert await is_wanted_by_others(state.parts, inode) == expected
    await pinned(state, second, Tier.COLD)
    placer = Placer(state.placement())
    move = Move(first, Goal.GLACIER, rules.PIN, "pinned to glacier", inode.size)
    await placer.place(move)
    assert await state.forms(first) == {FormKind.PACKED, FormKind.REMOTE}
    waiting = await state.engine.get_pending(first)
    assert waiting is not None
    assert "shares its compressed copy" in waiting.reason
    await pinned(state, second, Tier.GLACIER)
    await placer.place(move)
    assert await state.forms(first) == await state.forms(second) == {FormKind.REMOTE}


async def test_a_clone_is_hydrated_from_the_raw_file_of_another_one(state: State) -> None:
    """What is on the disk is not fetched from the store, unless it is damaged."""
    first = await state.create("first", CONTENT)
    await upload(state.parts, first)
    second, third = await clone(state, first, "second"), await clone(state, first, "third")
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "get_range", count=100))
    await hydrate(state.parts, second)
    assert await state.content(second) == CONTENT
    for ino in (first, second):
        raw = (await state.engine.get_inode(ino)).raw
        state.raw_store.path(raw).write_bytes(CONTENT[::-1])
    with pytest.raises(StoreUnavailableError):
        await hydrate(state.parts, third)


async def test_clones_are_uploaded_once(state: State) -> None:
    first = await state.create("first", CONTENT)
    await pack(state.parts, first)
    second = await clone(state, first, "second")
    outcomes: list[MoveOutcome] = []

    async def send(ino: InodeNo) -> None:
        outcomes.append((await upload(state.parts, ino)).outcome)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, first)
        nursery.start_soon(send, second)
    assert sorted(each.value for each in outcomes) == ["done", "unneeded"]
    assert object_count(state) == 1


async def test_a_batch_has_what_clones_share_once(state: State) -> None:
    first = await state.create("first", CONTENT)
    other = await state.create("other", compressible(20_000, 2))
    await pack(state.parts, first)
    second = await clone(state, first, "second")
    results = await upload_batch(state.parts, [first, second, other])
    assert results[second].outcome == MoveOutcome.SUPERSEDED
    assert results[first].outcome == results[other].outcome == MoveOutcome.DONE
    (batch,) = await state.engine.list_sparse_batches(101, 10)
    assert batch.live_count == 2
    assert batch.live_bytes == batch.size_bytes
    assert FormKind.REMOTE in await state.forms(second)
    await drop_form(state.parts, second, FormKind.PACKED)
    await drop_raw(state.parts, first)
    assert await state.content(second) == CONTENT
