"""Forms that move while somebody reads them: batches are compacted, objects get another key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.content.forms import FormReader
from memfs.errors import ObjectMissingError
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.stores.forwarding import ForwardingStore
from memfs.types import FormKind
from tests.moving import State, compressible, incompressible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo

CONTENT = incompressible(50_000, 1)
RAW, PACKED, REMOTE = FormKind.RAW, FormKind.PACKED, FormKind.REMOTE


class InterruptedStore(ForwardingStore):
    """A store before whose first range read something else happens."""

    def __init__(self, inner: RemoteStore, interrupt: Callable[[], Awaitable[None]]) -> None:
        super().__init__(inner)
        self._interrupt: Callable[[], Awaitable[None]] | None = interrupt

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            await interrupt()
        return await super().get_range(key, start, end)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


async def in_sparse_batch(state: State, *, raw: bool = False) -> InodeNo:
    """Return a file in a batch whose other members are gone."""
    ino = await state.create("kept", CONTENT)
    others = [await state.create(f"{n}", incompressible(50_000, 2 + n)) for n in range(3)]
    await upload_batch(state.parts, [ino, *others])
    for number in range(3):
        await state.unlink(f"{number}")
    if not raw:
        await drop_raw(state.parts, ino)
    return ino


async def compact_all(state: State) -> None:
    """Compact, and remove the old object for good."""
    [batch] = await state.engine.list_sparse_batches(50, 10)
    await compact(state.parts, batch)
    while await state.garbage.collect(100):
        pass


async def test_a_range_is_read_from_where_its_batch_was_compacted_to(state: State) -> None:
    ino = await in_sparse_batch(state)
    store = InterruptedStore(state.remote, lambda: compact_all(state))
    reader = FormReader(state.engine, state.packed_store, store, state.raw_store)
    inode = await state.engine.get_inode(ino)
    assert await reader.read(inode, 100, 20_000) == CONTENT[100:20_100]


async def test_a_known_table_of_a_compacted_batch_is_not_used_on(state: State) -> None:
    """The reader has cached the table of the old place, and not all frames of it."""
    ino = await in_sparse_batch(state)
    reader = FormReader(state.engine, state.packed_store, state.remote, state.raw_store)
    inode = await state.engine.get_inode(ino)
    await reader.read(inode, 0, 10)
    await compact_all(state)
    assert await reader.read(inode, 0, len(CONTENT)) == CONTENT


async def test_a_hydration_goes_on_from_where_its_batch_was_compacted_to(state: State) -> None:
    ino = await in_sparse_batch(state)
    state.parts.remote = InterruptedStore(state.remote, lambda: compact_all(state))
    assert await state.content(ino) == CONTENT


async def test_a_range_of_an_object_that_was_packed_and_left_meanwhile_is_read(
    state: State,
) -> None:
    """The reader knew the object alone; when that is gone there is a packed form."""
    content = compressible(50_000)
    ino = await state.create("f", content)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)

    async def pack_instead() -> None:
        await hydrate(state.parts, ino)
        await pack(state.parts, ino)
        await drop_form(state.parts, ino, REMOTE)
        await drop_raw(state.parts, ino)
        while await state.garbage.collect(100):
            pass

    store = InterruptedStore(state.remote, pack_instead)
    reader = FormReader(state.engine, state.packed_store, store, state.raw_store)
    inode = await state.engine.get_inode(ino)
    assert await reader.read(inode, 0, len(content)) == content


async def test_an_object_that_is_lost_for_good_is_an_error(state: State) -> None:
    """Where nothing has moved, nobody looks for it again and again."""
    ino = await in_sparse_batch(state)
    [batch] = await state.engine.list_sparse_batches(50, 10)
    (state.objects_dir / batch.key).unlink()
    reader = FormReader(state.engine, state.packed_store, state.remote, state.raw_store)
    with pytest.raises(ObjectMissingError):
        await reader.read(await state.engine.get_inode(ino), 0, 10)
    with pytest.raises(ObjectMissingError):
        await hydrate(state.parts, ino)


@pytest.mark.parametrize("raw", [False, True])
async def test_a_compaction_during_a_scrub_is_no_damage(state: State, raw: bool) -> None:
    """The form that the scrub looked at is gone, but the one in its place is not to blame."""
    ino = await in_sparse_batch(state, raw=raw)
    state.parts.remote = InterruptedStore(state.remote, lambda: compact_all(state))
    scrubbed = await scrub_file(state.parts, ino)
    assert scrubbed.outcome == ScrubOutcome.SKIPPED, scrubbed
    assert await state.forms(ino) == ({RAW, REMOTE} if raw else {REMOTE})
    assert await state.engine.get_decision(ino) is None
    assert await state.content(ino) == CONTENT
