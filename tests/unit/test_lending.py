"""Other nodes read sealed generations that are durable, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.content.forms import FormReader
from memfs.content.lending import Lender
from memfs.content.opening import OpenMode
from memfs.errors import CorruptDataError, StaleInodeError, StoreError
from memfs.metadata.records import InodeFlags
from memfs.moves.dropping import drop_raw
from memfs.moves.packing import pack
from memfs.types import ROOT_INODE, Generation, InodeNo
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.records import Inode

CONTENT = bytes(range(256)) * 100


class Bench:
    """A state directory, and what lends its files."""

    def __init__(self, state_dir: Path) -> None:
        self.state = state = State(state_dir)
        reader = FormReader(state.engine, state.packed_store, state.remote, state.raw_store)
        self.lender = Lender(
            state.engine,
            state.raw_store,
            reader,
            state.open_table,
            state.sealer,
            state.parts.file_syncs,
        )

    async def inode(self, ino: InodeNo) -> Inode:
        return await self.state.engine.get_inode(ino)

    async def unseal(self, ino: InodeNo) -> Inode:
        inode = await self.state.engine.unseal(ino, (await self.inode(ino)).raw)
        self.state.engine.commit_nowait()
        self.state.sealer.add(ino)
        return inode


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(tmp_path / "state")
    yield opened
    opened.state.close()


async def test_a_sealed_generation_is_read_and_durable(bench: Bench) -> None:
    ino = await bench.state.create("f", CONTENT)
    inode = await bench.inode(ino)
    assert not inode.flags & InodeFlags.DURABLE
    assert await bench.lender.read(ino, inode.generation, 5, 10) == CONTENT[5:15]
    assert (await bench.inode(ino)).flags & InodeFlags.DURABLE
    assert await bench.lender.read(ino, inode.generation, len(CONTENT) - 3, 10) == CONTENT[-3:]
    assert await bench.lender.read(ino, inode.generation, len(CONTENT), 10) == b""


async def test_a_packed_file_is_read_too(bench: Bench) -> None:
    ino = await bench.state.create("f", CONTENT)
    await pack(bench.state.parts, ino)
    await drop_raw(bench.state.parts, ino)
    inode = await bench.inode(ino)
    assert not inode.raw
    assert await bench.lender.read(ino, inode.generation, 5, 10) == CONTENT[5:15]


async def test_nothing_but_the_present_sealed_generation_is_read(bench: Bench) -> None:
    ino = await bench.state.create("f", CONTENT)
    former = (await bench.inode(ino)).generation
    for generation in (former - 1, former + 1):
        with pytest.raises(StaleInodeError):
            await bench.lender.read(ino, Generation(generation), 0, 10)
    written = (await bench.unseal(ino)).generation
    for generation in (former, written):
        with pytest.raises(StaleInodeError):
            await bench.lender.read(ino, generation, 0, 10)
    for other in (ROOT_INODE, InodeNo(99_999), InodeNo(0)):
        with pytest.raises(StaleInodeError):
            await bench.lender.read(other, former, 0, 10)
        with pytest.raises(StaleInodeError):
            await bench.lender.ask(other)


async def test_a_file_that_is_rewritten_while_it_is_read_is_not_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its raw file may have other bytes by then."""
    ino = await bench.state.create("f", CONTENT)
    generation = (await bench.inode(ino)).generation
    read = bench.lender._make_durable

    async def rewrite_meanwhile(inode: Inode) -> None:
        await read(inode)
        await bench.state.rewrite(ino, CONTENT[::-1])

    monkeypatch.setattr(bench.lender, "_make_durable", rewrite_meanwhile)
    with pytest.raises(StaleInodeError):
        await bench.lender.read(ino, generation, 0, 10)


async def test_a_raw_file_that_is_not_as_it_was_sealed_is_not_read(bench: Bench) -> None:
    ino = await bench.state.create("f", CONTENT)
    inode = await bench.inode(ino)
    os.utime(bench.state.raw_store.path(inode.raw), ns=(1, 1))
    with pytest.raises((StaleInodeError, CorruptDataError)):
        await bench.lender.read(ino, inode.generation, 0, 10)


async def test_a_file_that_cannot_become_durable_is_not_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = await bench.state.create("f", CONTENT)

    async def refuse(inodes: list[Inode]) -> dict[InodeNo, str]:
        return {each.ino: "the disk has refused its bytes" for each in inodes}

    monkeypatch.setattr(bench.state.parts.file_syncs, "make_durable", refuse)
    with pytest.raises(StoreError, match="the disk has refused"):
        await bench.lender.read(ino, (await bench.inode(ino)).generation, 0, 10)


async def test_who_asks_has_a_file_sealed_unless_somebody_can_write_to_it(bench: Bench) -> None:
    ino = await bench.state.create("f", CONTENT)
    assert await bench.lender.ask(ino)
    inode = await bench.unseal(ino)
    table = bench.state.open_table
    handle = table.add(ino, OpenMode.DIRECT, writable=True)
    assert not await bench.lender.ask(ino)
    assert (await bench.inode(ino)).flags & InodeFlags.UNSEALED
    table.remove(ino, handle)
    # As a mapping has it.
    with bench.state.raw_store.path(inode.raw).open("r+b"):
        assert not await bench.lender.ask(ino)
    assert await bench.lender.ask(ino)
    assert not (await bench.inode(ino)).flags & InodeFlags.UNSEALED
