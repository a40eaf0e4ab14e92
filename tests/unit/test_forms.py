"""Ranged reads of packed and remote contents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.content.forms import FormReader
from memfs.errors import CorruptDataError, ObjectMissingError, StoreUnavailableError
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.types import FormKind
from tests.faulty_store import Fault, FaultKind
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo

CONTENT = compressible(1_200_000)
"""Larger than a packed table's first read, so that frames cost requests of their own."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


@pytest.fixture
def reader(state: State) -> FormReader:
    return FormReader(state.engine, state.packed_store, state.remote, state.raw_store)


async def cold(state: State, *, packed: bool, remote: bool) -> InodeNo:
    ino = await state.create("a", CONTENT)
    if packed:
        await pack(state.parts, ino)
    if remote:
        await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    return ino


@pytest.mark.parametrize("kind", ["packed", "remote"])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, 4096), (4095, 2), (4096, 4096), (100, 20_000), (1_199_999, 10), (1_200_000, 5)],
)
async def test_a_range_reads_as_of_the_file(
    state: State, reader: FormReader, kind: str, offset: int, size: int
) -> None:
    """Frames are cut and joined exactly; the end of the file ends the read."""
    ino = await cold(state, packed=kind == "packed", remote=kind == "remote")
    inode = await state.engine.get_inode(ino)
    assert await reader.read(inode, offset, size) == CONTENT[offset : offset + size]
    assert await reader.read(inode, offset, size) == CONTENT[offset : offset + size]


async def test_a_damaged_packed_frame_is_read_from_the_object(
    state: State, reader: FormReader, caplog: pytest.LogCaptureFixture
) -> None:
    """Each form stands in for the other; the damage is logged once, with file and frame."""
    ino = await cold(state, packed=True, remote=True)
    inode = await state.engine.get_inode(ino)
    damage(state.packed_store.path((await state.form(ino, FormKind.PACKED)).place.key))
    for _ in range(2):
        assert await reader.read(inode, 0, len(CONTENT)) == CONTENT
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "/a: its packed form cannot be read" in caplog.text
    assert "frame " in caplog.text


async def test_a_damaged_only_form_is_an_error(state: State, reader: FormReader) -> None:
    """EIO, never wrong bytes; the other frames are still there."""
    ino = await cold(state, packed=False, remote=True)
    inode = await state.engine.get_inode(ino)
    damage(state.objects_dir / (await state.form(ino, FormKind.REMOTE)).place.key)
    with pytest.raises(CorruptDataError, match="frame"):
        await reader.read(inode, 0, len(CONTENT))
    assert await reader.read(inode, 0, 10) == CONTENT[:10]


async def test_a_missing_object_is_an_error(state: State, reader: FormReader) -> None:
    """An object that somebody removed is not waited for."""
    ino = await cold(state, packed=False, remote=True)
    inode = await state.engine.get_inode(ino)
    (state.objects_dir / (await state.form(ino, FormKind.REMOTE)).place.key).unlink()
    with pytest.raises(ObjectMissingError):
        await reader.read(inode, 0, 10)


async def test_readers_of_a_frame_share_one_request(state: State, reader: FormReader) -> None:
    """A frame is fetched once, however many ask for it at a time."""
    ino = await cold(state, packed=False, remote=True)
    inode = await state.engine.get_inode(ino)
    await reader.read(inode, 0, 1)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "get_range", skip_count=1, count=None))
    results = []

    async def read(offset: int) -> None:
        results.append(await reader.read(inode, 8192 + offset, 1))

    async with trio.open_nursery() as nursery:
        for offset in range(10):
            nursery.start_soon(read, offset)
    assert len(results) == 10


async def test_a_cancelled_reader_hands_over(state: State, reader: FormReader) -> None:
    """Who gives up does not take the others along."""
    ino = await cold(state, packed=False, remote=True)
    inode = await state.engine.get_inode(ino)
    await reader.read(inode, 0, 1)
    state.faults.add(Fault(FaultKind.HANG, "get_range"))
    results = []
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await reader.read(inode, 8192, 1)

    async def wait() -> None:
        results.append(await reader.read(inode, 8192, 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    assert results == [CONTENT[8192:8193]]


async def test_a_dead_store_is_an_error(state: State, reader: FormReader) -> None:
    """Reads of remote-only bytes fail; they do not hang."""
    ino = await cold(state, packed=False, remote=True)
    inode = await state.engine.get_inode(ino)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, count=None))
    with pytest.raises(StoreUnavailableError):
        await reader.read(inode, 0, 10)


async def test_a_file_hydrated_meanwhile_is_read_from_its_raw_file(
    state: State, reader: FormReader
) -> None:
    """The inode that the caller found may be old by the time of the read."""
    ino = await cold(state, packed=True, remote=False)
    inode = await state.engine.get_inode(ino)
    await hydrate(state.parts, ino)
    await drop_form(state.parts, ino, FormKind.PACKED)
    await state.garbage.collect(10)
    assert await reader.read(inode, 5, 5) == CONTENT[5:10]


async def test_the_caches_are_bounded(state: State) -> None:
    """Reading a large file from frames does not fill the memory."""
    reader = FormReader(state.engine, state.packed_store, state.remote, state.raw_store, 64 << 10)
    ino = await cold(state, packed=True, remote=False)
    inode = await state.engine.get_inode(ino)
    for offset in range(0, len(CONTENT), 100_000):
        await reader.read(inode, offset, 100_000)
    assert reader.cached_bytes <= (64 << 10) + 16 * 1000


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
