"""The end of writing: who is sealed, when, and what an error or a power cut leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.content.sealing import Sealer
from memfs.errors import NoSpaceError, StoreError
from memfs.metadata.records import InodeFlags
from memfs.metadata.sqlite.database import Database
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.types import InodeNo, RawId


class Bench:
    """A state directory with a sealer."""

    def __init__(self, state_dir: Path) -> None:
        self.state = State(state_dir)
        self.sealer = self.state.sealer

    def keep_candidates(self, count_max: int) -> None:
        """Have a sealer that remembers so many candidates."""
        state = self.state
        self.sealer = Sealer(
            state.engine,
            state.raw_store,
            state.open_table,
            state.activity,
            candidate_count_max=count_max,
        )

    async def seal_rounds(self, count: int) -> int:
        """Seal in so many rounds; returns how many files were."""
        return sum([await self.sealer.seal_all() for _ in range(count)])

    async def write(self, name: str, content: bytes) -> InodeNo:
        """Leave a file unsealed, as its writer's close does."""
        ino = await self.state.create(name, b"")
        inode = await self.state.engine.get_inode(ino)
        await self.state.engine.unseal(ino, inode.raw)
        self.state.engine.commit_nowait()
        self.state.raw_store.path(inode.raw).write_bytes(content)
        self.sealer.add(ino)
        return ino

    async def inode(self, ino: InodeNo) -> Inode:
        return await self.state.engine.get_inode(ino)

    async def is_sealed(self, ino: InodeNo) -> bool:
        return not (await self.inode(ino)).flags & InodeFlags.UNSEALED


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(tmp_path / "state")
    try:
        yield opened
    finally:
        opened.state.close()


async def test_files_whose_seal_was_not_committed_are_sealed_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inos = [await bench.write(str(number), b"content") for number in range(3)]

    def refuse(_database: Database) -> None:
        raise NoSpaceError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "commit_nowait", refuse)
        with pytest.raises(NoSpaceError):
            await bench.sealer.seal_all()
    assert bench.sealer.candidate_count == 3
    await bench.sealer.seal_all()
    assert [await bench.is_sealed(ino) for ino in inos] == [True, True, True]


async def test_a_deleted_file_is_not_looked_at_again(bench: Bench) -> None:
    deleted, kept = await bench.write("deleted", b"content"), await bench.write("kept", b"content")
    bench.sealer.discard(deleted)
    bench.sealer.discard(deleted)
    assert await bench.sealer.seal_all() == 1
    assert not await bench.is_sealed(deleted)
    assert await bench.is_sealed(kept)


async def test_a_raw_file_that_cannot_be_opened_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = [await bench.write(name, b"content") for name in ("bad", "good")]
    bad_raw = (await bench.inode(bad)).raw
    open_raw = bench.state.raw_store.open

    def fail(raw: RawId, flags: int = os.O_RDWR) -> int:
        if raw == bad_raw:
            raise StoreError("input/output error")
        return open_raw(raw, flags)

    monkeypatch.setattr(bench.state.raw_store, "open", fail)
    assert await bench.sealer.seal_all() == 1
    assert await bench.is_sealed(good)
    assert not await bench.is_sealed(bad)
    assert bench.sealer.candidate_count == 1


async def test_a_mapped_file_waits_for_its_mapping(bench: Bench) -> None:
    ino = await bench.write("mapped", b"content")
    fd = bench.state.raw_store.open((await bench.inode(ino)).raw)
    assert await bench.sealer.seal_all() == 0
    os.close(fd)
    await trio.lowlevel.checkpoint()
    assert await bench.sealer.seal_all() == 1


async def test_more_files_than_are_remembered_are_sealed_by_and_by(bench: Bench) -> None:
    """Programs can make files much faster than they are sealed."""
    bench.keep_candidates(4)
    inos = [await bench.write(str(number), b"content") for number in range(30)]
    assert bench.sealer.candidate_count == 30
    assert await bench.sealer.seal_all() == 4
    # A round takes one from the engine's list, and then finds that it has ended.
    assert await bench.seal_rounds(27) == 26
    assert [await bench.is_sealed(ino) for ino in inos] == [True] * 30
    assert bench.sealer.candidate_count == 0


async def test_a_file_that_was_not_remembered_is_sealed_at_once_for_who_needs_it(
    bench: Bench,
) -> None:
    bench.keep_candidates(2)
    inos = [await bench.write(str(number), b"content") for number in range(6)]
    await bench.sealer.seal(inos[5])
    assert [await bench.is_sealed(ino) for ino in inos] == [*[False] * 5, True]
    assert await bench.seal_rounds(8) == 5
    assert bench.sealer.candidate_count == 0


async def test_a_file_that_is_closed_behind_the_reader_of_the_list_is_sealed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is gone through once more where that may have happened."""
    bench.keep_candidates(2)
    inos = [await bench.write(str(number), b"content") for number in range(10)]
    written = {inos[2]}
    monkeypatch.setattr(bench.state.open_table, "has_writer", lambda ino: ino in written)
    # The reader of the list has passed the file that is being written.
    while not await bench.is_sealed(inos[4]):
        await bench.sealer.seal_all()
    more = [await bench.write(f"more-{number}", b"content") for number in range(3)]
    written.clear()
    bench.sealer.add(inos[2])
    await bench.seal_rounds(20)
    assert [await bench.is_sealed(ino) for ino in (*inos, *more)] == [True] * 13
    assert bench.sealer.candidate_count == 0


async def test_files_that_stay_mapped_hold_up_no_other(
    bench: Bench,
) -> None:
    bench.keep_candidates(4)
    mapped = [await bench.write(f"mapped-{number}", b"content") for number in range(6)]
    fds = [bench.state.raw_store.open((await bench.inode(ino)).raw) for ino in mapped]
    others = [await bench.write(str(number), b"content") for number in range(10)]
    await bench.seal_rounds(20)
    assert [await bench.is_sealed(ino) for ino in others] == [True] * 10
    assert bench.sealer.candidate_count == 6
    for fd in fds:
        os.close(fd)
    assert await bench.sealer.seal_all() == 6


async def test_a_sealed_file_that_power_loss_cut_is_what_its_raw_file_is(bench: Bench) -> None:
    ino = await bench.write("cut", b"never synced")
    await bench.sealer.seal_all()
    os.truncate(bench.state.raw_store.path((await bench.inode(ino)).raw), 0)
    assert await bench.sealer.adopt_doubtful() == 1
    await bench.sealer.seal_all()
    assert (await bench.inode(ino)).size == 0
    assert await bench.is_sealed(ino)


async def test_a_sealed_file_whose_raw_file_power_loss_took_is_empty(bench: Bench) -> None:
    ino = await bench.write("gone", b"never synced")
    await bench.sealer.seal_all()
    bench.state.raw_store.unlink((await bench.inode(ino)).raw)
    assert await bench.sealer.adopt_doubtful() == 1
    await bench.sealer.seal_all()
    inode = await bench.inode(ino)
    assert (inode.size, bench.state.raw_store.stat(inode.raw).st_size) == (0, 0)


async def test_a_packed_file_outlives_the_loss_of_its_raw_file(bench: Bench) -> None:
    content = b"packed before power was lost " * 4096
    ino = await bench.write("packed", content)
    await bench.sealer.seal_all()
    await pack(bench.state.parts, ino)
    os.truncate(bench.state.raw_store.path((await bench.inode(ino)).raw), 100)
    assert await bench.sealer.adopt_doubtful() == 1
    inode = await hydrate(bench.state.parts, ino)
    assert bench.state.raw_store.path(inode.raw).read_bytes() == content


async def test_files_that_are_as_they_were_sealed_stay_sealed(bench: Bench) -> None:
    inos = [await bench.write(str(number), b"content") for number in range(3)]
    await bench.sealer.seal_all()
    assert await bench.sealer.adopt_doubtful() == 0
    assert [await bench.is_sealed(ino) for ino in inos] == [True, True, True]
