"""Batches of small files on a real engine and a real store, and their compaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import CorruptDataError, NoSpaceError, StoreError, StoreUnavailableError
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.faults import FaultPoints
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.stores.contents import range_reader
from memfs.types import FormKind
from tests.faulty_store import Fault, FaultKind
from tests.moving import State, compressible, incompressible

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo, RawId

CONTENTS = [
    b"",
    b"x",
    compressible(3000, 1),
    incompressible(5000, 2),
    compressible(100_000, 3),
    compressible(4096, 4),
]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


async def make(state: State, contents: list[bytes]) -> list[InodeNo]:
    return [await state.create(f"{number}", content) for number, content in enumerate(contents)]


async def objects(state: State) -> list[str]:
    return [stat.key async for stat in state.remote.list("")]


async def send(state: State, inos: list[InodeNo]) -> None:
    """Batch files and leave only their remote forms."""
    await upload_batch(state.parts, inos)
    for ino in inos:
        await drop_raw(state.parts, ino)
    await collect_all(state)


async def collect_all(state: State) -> None:
    while await state.garbage.collect(100):
        pass


async def test_files_of_one_batch_are_one_object_and_read_back_equal(state: State) -> None:
    inos = await make(state, CONTENTS)
    results = await upload_batch(state.parts, inos)
    assert {result.outcome for result in results.values()} == {MoveOutcome.DONE}
    assert len(await objects(state)) == 1
    for ino in inos:
        assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
        assert await state.forms(ino) == {FormKind.REMOTE}
    for ino, content in zip(inos, CONTENTS, strict=True):
        assert await state.content(ino) == content
    await collect_all(state)
    assert await state.leaks() == []


async def test_a_packed_file_is_taken_as_it_is(state: State) -> None:
    """It is not decoded: the object holds the packed file's bytes."""
    [ino, other] = await make(state, [compressible(100_000, 1), compressible(50_000, 2)])
    await pack(state.parts, ino)
    packed = state.packed_store.path((await state.form(ino, FormKind.PACKED)).place.key)
    await drop_raw(state.parts, ino)
    await upload_batch(state.parts, [other, ino])
    form = await state.form(ino, FormKind.REMOTE)
    assert form.start > 0
    stored = await range_reader(state.remote, form)(0, form.stored_bytes)
    assert stored == packed.read_bytes()


async def test_a_failed_upload_publishes_nothing_and_leaves_nothing(state: State) -> None:
    inos = await make(state, CONTENTS)
    state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
    with pytest.raises(StoreUnavailableError):
        await upload_batch(state.parts, inos)
    await collect_all(state)
    assert [await state.forms(ino) for ino in inos] == [{FormKind.RAW}] * len(inos)
    assert await state.leaks() == []


async def test_an_object_that_reads_back_changed_is_not_published(state: State) -> None:
    inos = await make(state, CONTENTS)
    state.faults.add(Fault(FaultKind.BIT_FLIP, "get_file", count=2))
    with pytest.raises(CorruptDataError):
        await upload_batch(state.parts, inos)
    await collect_all(state)
    assert await objects(state) == []
    assert await state.leaks() == []


async def test_files_that_cannot_be_batched_do_not_stop_the_others(state: State) -> None:
    """Gone, uploaded already, or with a raw file that the disk has lost."""
    gone, uploaded, lost, good = await make(state, CONTENTS[2:6])
    await state.unlink("0")
    await upload(state.parts, uploaded)
    inode = await state.engine.get_inode(lost)
    state.raw_store.path(inode.raw).unlink()
    results = await upload_batch(state.parts, [gone, uploaded, lost, good, good])
    assert {ino: result.outcome for ino, result in results.items()} == {
        gone: MoveOutcome.SUPERSEDED,
        uploaded: MoveOutcome.UNNEEDED,
        lost: MoveOutcome.SUPERSEDED,
        good: MoveOutcome.DONE,
    }
    await drop_raw(state.parts, good)
    assert await state.content(good) == CONTENTS[5]


async def test_a_batch_of_nothing_makes_no_object(state: State) -> None:
    [ino] = await make(state, [b"content"])
    await upload(state.parts, ino)
    before = await objects(state)
    await upload_batch(state.parts, [ino])
    assert await objects(state) == before
    assert await state.engine.list_intents() == []


async def test_compaction_keeps_what_lives_and_frees_the_rest(state: State) -> None:
    contents = [incompressible(10_000, seed) for seed in range(6)]
    inos = await make(state, contents)
    await send(state, inos)
    [before] = await objects(state)
    for number in (0, 2, 3, 5):
        await state.unlink(f"{number}")
    [batch] = await state.engine.list_sparse_batches(50, 10)
    assert await compact(state.parts, batch) > 40_000
    await collect_all(state)
    [after] = await objects(state)
    assert before != after
    assert await state.engine.list_sparse_batches(50, 10) == []
    for number in (1, 4):
        assert await state.content(inos[number]) == contents[number]
    assert await state.leaks() == []


async def test_a_damaged_part_is_not_copied_on(state: State) -> None:
    """Compaction fails as a whole, and the other files stay readable where they are."""
    contents = [incompressible(10_000, seed) for seed in range(4)]
    inos = await make(state, contents)
    await send(state, inos)
    for number in (0, 1, 2):
        await state.unlink(f"{number}")
    [batch] = await state.engine.list_sparse_batches(50, 10)
    state.faults.add(Fault(FaultKind.BIT_FLIP, "get_range", count=2))
    with pytest.raises(CorruptDataError):
        await compact(state.parts, batch)
    await collect_all(state)
    assert await objects(state) == [batch.key]
    assert await state.content(inos[3]) == contents[3]


async def test_a_full_disk_stops_a_batch_and_nothing_is_left(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    inos = await make(state, CONTENTS)

    def refuse(*_: object, **_options: object) -> None:
        raise NoSpaceError("the disk is full")

    monkeypatch.setattr("memfs.moves.containers.pack_file", refuse)
    with pytest.raises(NoSpaceError):
        await upload_batch(state.parts, inos)
    assert await state.leaks() == []


@pytest.mark.parametrize("packed", [False, True])
async def test_a_file_that_goes_while_its_batch_is_made_does_not_stop_the_others(
    state: State, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    gone, good = await make(state, [compressible(50_000, 1), compressible(50_000, 2)])
    if packed:
        await pack(state.parts, gone)
        await drop_raw(state.parts, gone)
    sync = state.parts.file_syncs.syncer.sync

    def remove_and_sync() -> None:
        # The first wait after the look at the files.
        trio.from_thread.run(state.unlink, "0")
        monkeypatch.undo()
        sync()

    monkeypatch.setattr(state.parts.file_syncs.syncer, "sync", remove_and_sync)
    results = await upload_batch(state.parts, [gone, good])
    assert results[gone].outcome == MoveOutcome.SUPERSEDED
    assert results[good].outcome == MoveOutcome.DONE


async def test_a_raw_file_that_its_disk_cannot_look_at_does_not_stop_the_others(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await make(state, [compressible(50_000, 1), compressible(50_000, 2)])
    bad_raw = (await state.engine.get_inode(bad)).raw
    stat = state.raw_store.stat

    def fail(raw: RawId) -> os.stat_result:
        if raw == bad_raw:
            raise StoreError("Input/output error")
        return stat(raw)

    monkeypatch.setattr(state.raw_store, "stat", fail)
    results = await upload_batch(state.parts, [bad, good])
    assert results[bad].outcome == MoveOutcome.SUPERSEDED
    assert results[good].outcome == MoveOutcome.DONE


def swap_halves(path: Path) -> None:
    """Have two containers of equal length change places, each of them intact."""
    data = path.read_bytes()
    half = len(data) // 2
    assert 2 * half == len(data)
    path.write_bytes(data[half:] + data[:half])


class Swap(FaultPoints):
    """Swaps the containers of each object once it is stored."""

    def __init__(self, objects_dir: Path, point: str) -> None:
        self._objects_dir = objects_dir
        self._point = point

    def reach(self, point: str) -> None:
        if point == self._point:
            for path in (self._objects_dir / "batches").glob("*/*"):
                swap_halves(path)


async def test_intact_containers_of_other_files_are_not_published(state: State) -> None:
    """Their checksums are right: only the digests tell that a store has mixed them up."""
    inos = await make(state, [incompressible(5000, 1), incompressible(5000, 2)])
    state.parts.faults = Swap(state.objects_dir, "batch.stored")
    with pytest.raises(CorruptDataError, match="another digest"):
        await upload_batch(state.parts, inos)
    assert [await state.forms(ino) for ino in inos] == [{FormKind.RAW}] * 2


async def test_a_batch_is_known_on_stable_storage_before_its_object_is(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else power loss leaves an object that nobody knows."""
    inos = await make(state, CONTENTS)
    known: list[bool] = []
    sync = state.parts.file_syncs.syncer.sync

    def note_sync() -> None:
        sync()
        known.append(bool(trio.from_thread.run(state.engine.list_intents)))

    async def look(call: str, _key: str) -> None:
        assert call != "put_file" or known == [True]

    monkeypatch.setattr(state.parts.file_syncs.syncer, "sync", note_sync)
    state.remote.before = look
    await upload_batch(state.parts, inos)
