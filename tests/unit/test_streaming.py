"""Uploads from a full disk: containers are made on the way, and nothing lies on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import MemfsError, StoreError
from memfs.moves import storing, streaming, uploading
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.outcome import MoveOutcome
from memfs.moves.uploading import upload
from memfs.types import FormKind
from tests.faulty_store import Fault, FaultKind
from tests.moving import State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.stores.store import ByteSource

CONTENTS = {
    "empty": b"",
    "small": compressible(5000),
    "large": incompressible(3_000_000),
}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """A state on a disk without room: a temporary file on it is a failure."""
    for module in (storing, uploading):
        monkeypatch.setattr(module, "is_short", lambda _directory, _bytes: True)
    state = State(tmp_path / "state")
    monkeypatch.setattr(state.packed_store, "temporary_path", None)
    yield state
    state.close()


@pytest.mark.parametrize("name", CONTENTS)
async def test_a_file_is_uploaded_without_a_copy(state: State, name: str) -> None:
    """Verified by reading it back, as every object is."""
    ino = await state.create("a", CONTENTS[name])
    assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE
    assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
    assert await state.forms(ino) == {FormKind.REMOTE}
    assert await state.content(ino) == CONTENTS[name]


async def test_a_batch_is_uploaded_without_a_copy(state: State) -> None:
    """It lies in memory, which its size bounds."""
    inos = [await state.create(f"f{n}", compressible(20_000, n)) for n in range(20)]
    results = await upload_batch(state.parts, inos)
    assert {result.outcome for result in results.values()} == {MoveOutcome.DONE}
    for number, ino in enumerate(inos):
        await drop_raw(state.parts, ino)
        assert await state.content(ino) == compressible(20_000, number)


@pytest.mark.parametrize(
    "kind", [FaultKind.UNAVAILABLE, FaultKind.REFUSED, FaultKind.LOST_ANSWER, FaultKind.FULL]
)
async def test_a_store_that_fails_says_so(state: State, kind: FaultKind) -> None:
    """And not that a pipe broke; what arrived becomes garbage."""
    ino = await state.create("a", CONTENTS["large"])
    state.faults.add(Fault(kind, "put_stream", count=None))
    with pytest.raises(MemfsError, match="injected"):
        await upload(state.parts, ino)
    state.faults.clear()
    while await state.garbage.collect(100):
        pass
    assert await state.forms(ino) == {FormKind.RAW}
    assert await state.leaks() == []


async def test_a_store_that_stops_taking_bytes_ends_the_upload(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that makes the container is not left waiting for it."""
    ino = await state.create("a", CONTENTS["large"])

    async def take_some(_key: str, source: ByteSource) -> None:
        await trio.to_thread.run_sync(source.read)
        source.close()
        raise StoreError("the store took some and no more")

    monkeypatch.setattr(state.remote, "put_stream", take_some)
    with trio.fail_after(30), pytest.raises(StoreError, match="some and no more"):
        await upload(state.parts, ino)


async def test_a_source_that_fails_makes_no_object(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the source's."""
    ino = await state.create("a", CONTENTS["large"])

    async def fail(*_arguments: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreError("the disk does not read it")

    monkeypatch.setattr(streaming, "append_container", fail)
    with pytest.raises(StoreError, match="does not read it"):
        await upload(state.parts, ino)
    assert await state.leaks() == []


async def test_an_upload_can_be_cancelled_at_any_time(state: State) -> None:
    """Neither thread is waited for longer than its own step; another attempt goes well."""
    ino = await state.create("a", CONTENTS["large"])
    for step in range(12):
        with trio.move_on_after(0.002 * step):
            await upload(state.parts, ino)
        if FormKind.REMOTE in await state.forms(ino):
            break
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    while await state.garbage.collect(100):
        pass
    assert await state.content(ino) == CONTENTS["large"]


def test_a_disk_is_short_before_it_is_full(tmp_path: Path) -> None:
    """Others begin to upload at the same time."""
    assert not streaming.is_short(tmp_path, 0)
    assert streaming.is_short(tmp_path, 1 << 60)
