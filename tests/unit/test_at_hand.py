"""A node that reads fetches what the node that writes has alone, and waits where that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import (
    CorruptDataError,
    NoSpaceError,
    NotUploadedError,
    PeerError,
    StaleInodeError,
    WrittenElsewhereError,
)
from memfs.filesystem.at_hand import AtHand
from memfs.metadata.records import InodeFlags
from memfs.metadata.sqlite.statements import SET_RAW
from memfs.moves.hydrating import hydrate
from memfs.types import NO_RAW
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.types import Generation, InodeNo

CONTENT = b"x" * 1000 + bytes(100_000) + b"y"
NOT_UPLOADED, WRITTEN = NotUploadedError("n"), WrittenElsewhereError("w")


class Client:
    """The node that writes, as a test wants it."""

    def __init__(self) -> None:
        self.is_sealed = True
        self.failure: Exception | None = None
        self.meanwhile: Callable[[], Awaitable[object]] | None = None
        self.content = CONTENT
        self.asked: list[InodeNo] = []
        self.fetched: list[tuple[InodeNo, Generation, int]] = []

    async def ask(self, ino: InodeNo) -> bool:
        await trio.lowlevel.checkpoint()
        self.asked.append(ino)
        if self.failure is not None:
            raise self.failure
        return self.is_sealed

    async def fetch(
        self,
        ino: InodeNo,
        generation: Generation,
        size: int,
        write: Callable[[bytes, int], Awaitable[None]],
    ) -> None:
        self.fetched.append((ino, generation, size))
        for offset in range(0, size, 1000):
            await write(self.content[offset : min(size, offset + 1000)], offset)
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.failure is not None:
            raise self.failure


class Bench:
    """A node that knows a file and has no bytes of it."""

    def __init__(self, state_dir: Path) -> None:
        self.state = State(state_dir)
        self.client = Client()
        self.seen_count = 0
        self.at_hand = AtHand(self.client, self.state.parts, self._see)

    async def _see(self) -> int:
        await trio.lowlevel.checkpoint()
        self.seen_count += 1
        return self.seen_count

    async def make(self) -> InodeNo:
        ino = await self.state.create("f", CONTENT)
        engine = self.state.engine
        inode = await engine.get_inode(ino)
        engine._begin_change()
        engine._write(SET_RAW, (0, 0, ino))
        engine._replace(inode, inode._replace(raw=NO_RAW, blocks=0))
        engine.commit_nowait()
        self.state.raw_store.path(inode.raw).unlink()
        return ino


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(tmp_path / "state")
    yield opened
    opened.state.close()


async def test_a_file_is_fetched_into_a_durable_raw_file(bench: Bench) -> None:
    ino = await bench.make()
    before = await bench.state.engine.get_inode(ino)
    assert await bench.at_hand.hurry(ino, NOT_UPLOADED)
    assert bench.client.fetched == [(ino, before.generation, len(CONTENT))]
    inode = await bench.state.engine.get_inode(ino)
    assert inode.flags & InodeFlags.DURABLE
    path = bench.state.raw_store.path(inode.raw)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mtime_ns == inode.mtime_ns
    # Its hole is one.
    assert path.stat().st_blocks * 512 < len(CONTENT) // 2


async def test_many_who_want_a_file_fetch_it_once(bench: Bench) -> None:
    ino = await bench.make()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(bench.at_hand.hurry, ino, NOT_UPLOADED)
    assert len(bench.client.fetched) == 1


@pytest.mark.parametrize("failure", [PeerError("away"), CorruptDataError("other bytes")])
async def test_what_fails_leaves_nothing_and_is_waited_for(
    bench: Bench, failure: Exception
) -> None:
    ino = await bench.make()
    bench.client.failure = failure
    assert not await bench.at_hand.hurry(ino, NOT_UPLOADED)
    assert not await bench.at_hand.hurry(ino, WRITTEN)
    assert not (await bench.state.engine.get_inode(ino)).raw
    assert await bench.state.engine.list_intents() == []
    bench.client.failure = None
    assert await bench.at_hand.hurry(ino, NOT_UPLOADED)


async def test_a_full_disk_here_is_told(bench: Bench) -> None:
    ino = await bench.make()
    bench.client.failure = NoSpaceError("full")
    with pytest.raises(NoSpaceError):
        await bench.at_hand.hurry(ino, NOT_UPLOADED)


async def test_a_generation_that_has_ended_meanwhile_is_not_published(bench: Bench) -> None:
    ino = await bench.make()

    async def rewrite() -> None:
        _, raw = bench.state.engine.reserve_ids()
        await bench.state.engine.unseal(ino, raw)
        bench.state.engine.commit_nowait()

    bench.client.meanwhile = rewrite
    await bench.at_hand.hurry(ino, NOT_UPLOADED)
    inode = await bench.state.engine.get_inode(ino)
    assert inode.flags & InodeFlags.UNSEALED
    assert await bench.state.engine.list_intents() == []


async def test_who_is_told_that_it_is_gone_or_sealed_looks_again(bench: Bench) -> None:
    """Once all is here that the database has."""
    ino = await bench.make()
    assert await bench.at_hand.hurry(ino, WRITTEN)
    assert (bench.client.asked, bench.seen_count) == ([ino], 1)
    bench.client.failure = StaleInodeError("gone")
    assert await bench.at_hand.hurry(ino, WRITTEN)
    assert await bench.at_hand.hurry(ino, NOT_UPLOADED)
    assert bench.seen_count == 3
    bench.client.failure, bench.client.is_sealed = None, False
    assert not await bench.at_hand.hurry(ino, WRITTEN)
    assert bench.seen_count == 3


async def test_a_node_that_writes_fetches_from_nobody(bench: Bench) -> None:
    ino = await bench.make()
    bench.state.parts.from_writer = None
    with pytest.raises(CorruptDataError, match="no form of its content is known"):
        await hydrate(bench.state.parts, ino)
