"""Each move that stores an object does so in the same order, and publishes nothing unverified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.encryption.keys import Key, KeyRing
from memfs.errors import CorruptDataError
from memfs.moves.batching import compact, upload_batch
from memfs.moves.faults import FaultPoints
from memfs.moves.rekeying import rekey
from memfs.moves.uploading import upload
from memfs.types import FormKind, InodeNo
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.records import Form

OLD, NEW = Key(bytes(range(32)), "old"), Key(bytes(range(32, 64)), "new")
MOVES = ("upload", "batch", "compact", "rekey")


class Recorder(FaultPoints):
    """Notes the points that are reached, and runs code at one of them."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.at: dict[str, Callable[[], None]] = {}

    def reach(self, point: str) -> None:
        self.points.append(point)
        if point in self.at:
            self.at.pop(point)()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def state(tmp_path: Path, recorder: Recorder) -> Iterator[State]:
    state = State(tmp_path / "state", faults=recorder, keys=KeyRing([OLD, NEW]))
    yield state
    state.close()


async def make(state: State, move: str) -> list[InodeNo]:
    """Return files that are ready for a move."""
    inos = [await state.create(str(number), compressible(9000, number)) for number in range(3)]
    if move == "rekey":
        await upload(state.parts, inos[0])
        state.parts.keys = KeyRing([NEW, OLD])
        return inos[:1]
    if move == "compact":
        await upload_batch(state.parts, inos)
        await state.rewrite(inos[0], b"another")
        return inos[1:]
    return inos[:1] if move == "upload" else inos


async def do(state: State, move: str, inos: list[InodeNo]) -> None:
    match move:
        case "upload":
            await upload(state.parts, inos[0])
        case "batch":
            await upload_batch(state.parts, inos)
        case "compact":
            [batch] = await state.engine.list_sparse_batches(100, 10)
            await compact(state.parts, batch)
        case "rekey":
            await rekey(state.parts, inos[0])


@pytest.mark.parametrize("move", MOVES)
async def test_the_steps_have_one_order(state: State, recorder: Recorder, move: str) -> None:
    inos = await make(state, move)
    del recorder.points[:]
    await do(state, move, inos)
    begun = {"compact": "batch", "rekey": "upload"}.get(move, move)
    steps = [f"{move}.{step}" for step in ("prepared", "stored", "verified", "published")]
    assert recorder.points == [f"{begun}.begun", *steps]
    for ino in inos:
        assert FormKind.REMOTE in await state.forms(ino)


@pytest.mark.parametrize("move", MOVES)
async def test_an_object_that_reads_back_otherwise_is_not_published(
    state: State, recorder: Recorder, move: str
) -> None:
    """The former forms stay in force, and the new object goes."""
    inos = await make(state, move)
    before = [await state.forms(ino) for ino in inos]
    places = [[form.place for form in await forms(state, ino)] for ino in inos]
    stored: set[Path] = set()

    def damage() -> None:
        new = {path for path in state.objects_dir.rglob("*") if path.is_file()} - stored
        for path in new:
            path.write_bytes(path.read_bytes()[:-100] + bytes(100))

    stored = {path for path in state.objects_dir.rglob("*") if path.is_file()}
    recorder.at[f"{move}.stored"] = damage
    with pytest.raises(CorruptDataError):
        await do(state, move, inos)
    assert f"{move}.verified" not in recorder.points
    assert before == [await state.forms(ino) for ino in inos]
    assert places == [[form.place for form in await forms(state, ino)] for ino in inos]
    while await state.garbage.collect(100):
        pass
    assert await state.engine.list_intents() == []
    left = {path for path in state.objects_dir.rglob("*") if path.is_file()}
    assert not left - stored


async def forms(state: State, ino: InodeNo) -> list[Form]:
    inode = await state.engine.get_inode(ino)
    return await state.engine.list_forms(inode.blob) if inode.blob else []


async def test_a_batch_without_a_file_stores_nothing(state: State, recorder: Recorder) -> None:
    """Each of its files cannot be read just now."""
    inos = await make(state, "batch")
    for ino in inos:
        inode = await state.engine.get_inode(ino)
        state.raw_store.path(inode.raw).unlink()
    results = await upload_batch(state.parts, inos)
    assert set(results) == set(inos)
    assert "batch.stored" not in recorder.points
    assert await state.engine.list_intents() == []
    assert not [path for path in state.objects_dir.rglob("*") if path.is_file()]
