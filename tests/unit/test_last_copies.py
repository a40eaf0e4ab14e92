"""The last local copy of a file goes only after its object was seen, whatever drops it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import ColdConfig, PolicyConfig
from memfs.content.activity import Activity
from memfs.errors import MemfsError, StoreUnavailableError
from memfs.metadata.records import Form
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.packing import pack
from memfs.moves.sightings import SEEN_S, Sightings
from memfs.moves.uploading import upload
from memfs.placement.mover import Mover
from memfs.placement.prefetch.done_files import DoneFiles
from memfs.stores.store import ObjectStat
from memfs.types import BlobId, FormCoding, FormKind, Place, Tier
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from memfs.types import InodeNo

CONTENT = compressible(100_000)
LONG_AGO_NS = 1


class Bench:
    """A state whose mover and done files drop copies."""

    def __init__(self, state_dir: Path) -> None:
        self.config = replace(SMALL_FRAMES, policy=PolicyConfig(retry_s_min=0.0, retry_s_max=0.0))
        self.state = State(state_dir, self.config)
        self.activity = Activity()
        self.done = DoneFiles(self.state.placement())
        self.inos: list[InodeNo] = []

    def mover(self) -> Mover:
        async def settle() -> bool:
            return False

        return Mover(self.state.placement(self.activity), settle)


async def drop_raw_files(bench: Bench) -> None:
    for ino in bench.inos:
        await drop_raw(bench.state.parts, ino)


async def drop_packed(bench: Bench) -> None:
    for ino in bench.inos:
        await drop_form(bench.state.parts, ino, FormKind.PACKED)


async def end_a_glacier_pin(bench: Bench) -> None:
    for ino in bench.inos:
        await bench.state.engine.set_pin(ino, Tier.GLACIER)
        bench.activity.note_pin(ino)
    bench.state.engine.commit_nowait()
    await bench.mover().run_round()


async def fill_the_disk(bench: Bench) -> None:
    bench.state.parts.config = replace(
        bench.config, cold=ColdConfig(size_bytes=1, frame_bytes=4096)
    )
    for ino in bench.inos:
        await bench.state.engine.record_access([(ino, LONG_AGO_NS)])
    bench.state.engine.commit_nowait()
    mover = bench.mover()
    for _ in range(3):
        await mover.run_round()


async def make_room_for_others(bench: Bench) -> None:
    bench.done.add(bench.inos)
    while await bench.done.drop_next():
        pass


DROPS = [drop_raw_files, end_a_glacier_pin, fill_the_disk, make_room_for_others]


def move_away(state: State) -> None:
    state.objects_dir.rename(state.objects_dir.with_name("elsewhere"))


def empty(state: State) -> None:
    """The place is there, as of another disk mounted there, and has nothing of ours."""
    move_away(state)
    (state.objects_dir / ".memfs-unfinished").mkdir(parents=True)


def cut(state: State) -> None:
    for path in state.objects_dir.rglob("*"):
        if path.is_file():
            path.write_bytes(b"x")


def fail(kind: FaultKind) -> Callable[[State], None]:
    def begin(state: State) -> None:
        state.faults.add(Fault(kind, count=None))

    begin.__name__ = kind.value
    return begin


LOSSES = [
    move_away,
    empty,
    cut,
    fail(FaultKind.UNAVAILABLE),
    fail(FaultKind.REFUSED),
    fail(FaultKind.MISSING),
    fail(FaultKind.HANG),
]


def named(function: Callable[..., object]) -> str:
    return function.__name__


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "state")
    bench.state.remote._deadline_s = 0.01
    yield bench
    bench.state.close()


async def stored(bench: Bench, *, batched: bool) -> None:
    bench.inos = [await bench.state.create(name, CONTENT) for name in ("a", "b", "c")]
    if batched:
        await upload_batch(bench.state.parts, bench.inos)
    else:
        for ino in bench.inos:
            await upload(bench.state.parts, ino)


@pytest.mark.parametrize("batched", [False, True], ids=["objects", "batch"])
@pytest.mark.parametrize("lose", LOSSES, ids=named)
@pytest.mark.parametrize("drop", DROPS, ids=named)
async def test_the_last_copy_stays_while_the_store_does_not_show_the_object(
    bench: Bench,
    drop: Callable[[Bench], Awaitable[None]],
    lose: Callable[[State], None],
    batched: bool,
) -> None:
    """A store that is gone, empty, cut, refuses, hangs or says that it has nothing."""
    await stored(bench, batched=batched)
    lose(bench.state)
    with contextlib.suppress(MemfsError):
        await drop(bench)
    for ino in bench.inos:
        assert (await bench.state.forms(ino)) & {FormKind.RAW, FormKind.PACKED}
        assert await bench.state.content(ino) == CONTENT


@pytest.mark.parametrize("lose", LOSSES, ids=named)
async def test_the_last_packed_copy_stays_as_well(
    bench: Bench, lose: Callable[[State], None]
) -> None:
    """Packed is what is left of it here."""
    await stored(bench, batched=False)
    for ino in bench.inos:
        await pack(bench.state.parts, ino)
        await drop_raw(bench.state.parts, ino)
    lose(bench.state)
    with pytest.raises(MemfsError, match="stays"):
        await drop_packed(bench)
    for ino in bench.inos:
        assert await bench.state.forms(ino) == {FormKind.PACKED, FormKind.REMOTE}


@pytest.mark.parametrize("drop", DROPS, ids=named)
async def test_copies_go_again_once_the_store_is_back(
    bench: Bench, drop: Callable[[Bench], Awaitable[None]]
) -> None:
    """The refusal is of the moment."""
    await stored(bench, batched=False)
    move_away(bench.state)
    with contextlib.suppress(MemfsError):
        await drop(bench)
    bench.state.objects_dir.with_name("elsewhere").rename(bench.state.objects_dir)
    await drop(bench)
    for ino in bench.inos:
        assert await bench.state.forms(ino) == {FormKind.REMOTE}


async def test_a_raw_file_does_not_go_for_a_packed_one_that_is_lost(bench: Bench) -> None:
    """The disk is looked at as the store is; with an object the store is asked then."""
    [ino] = bench.inos = [await bench.state.create("a", CONTENT)]
    await pack(bench.state.parts, ino)
    packed = await bench.state.form(ino, FormKind.PACKED)
    bench.state.packed_store.path(packed.place.key).unlink()
    with pytest.raises(MemfsError, match="stays"):
        await drop_raw(bench.state.parts, ino)
    assert FormKind.RAW in await bench.state.forms(ino)


async def test_why_tells_that_the_store_does_not_show_the_object(bench: Bench) -> None:
    """A pending record with the cause, as of every move that cannot be made."""
    await stored(bench, batched=False)
    move_away(bench.state)
    await end_a_glacier_pin(bench)
    pending = await bench.state.engine.get_pending(bench.inos[0])
    assert pending is not None
    assert "the directory is gone" in pending.reason


class CountingStore:
    """Says of every object that it is large, after a second."""

    url = "test://"

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.failure: MemfsError | None = None

    async def stat(self, key: str) -> ObjectStat:
        self.looks.append(key)
        await trio.sleep(1.0)
        if self.failure is not None:
            raise self.failure
        return ObjectStat(key, 1 << 20)


def part(number: int) -> Form:
    return Form(
        BlobId(number), FormKind.REMOTE, Place("batches/1", number * 100), FormCoding("none"), 100
    )


async def test_files_of_one_batch_cost_one_look(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whether they come together or one after the other; a refusal is shared as well."""
    store, sightings = CountingStore(), Sightings()
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(sightings.require, store, part(number))  # type: ignore[arg-type]
    await sightings.require(store, part(100), SEEN_S + 1)  # type: ignore[arg-type]  # all that is asked of it
    assert len(store.looks) == 1
    store.failure = StoreUnavailableError("gone")
    await trio.sleep(SEEN_S)

    refused: list[int] = []

    async def expect_refusal(number: int) -> None:
        with pytest.raises(StoreUnavailableError, match="gone"):
            await sightings.require(store, part(number))  # type: ignore[arg-type]
        refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(expect_refusal, number)
    assert (len(refused), len(store.looks)) == (100, 2)


async def test_a_look_is_not_trusted_for_long(autojump_clock: trio.testing.MockClock) -> None:
    """What was there a while ago may be gone; nor is anything once a look has failed."""
    store, sightings = CountingStore(), Sightings()
    await sightings.require(store, part(1))  # type: ignore[arg-type]  # all that is asked of it
    await sightings.require(store, part(1))  # type: ignore[arg-type]
    assert len(store.looks) == 2
    store.failure = StoreUnavailableError("gone")
    other = Form(BlobId(9), FormKind.REMOTE, Place("other"), FormCoding("none"), 1)
    with pytest.raises(StoreUnavailableError):
        await sightings.require(store, other)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError):
        await sightings.require(store, part(1), 100.0)  # type: ignore[arg-type]


async def test_who_waits_for_a_look_that_is_cancelled_looks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The others are not let down."""
    store, sightings = CountingStore(), Sightings()
    done: list[int] = []

    async def look(number: int) -> None:
        await sightings.require(store, part(number))  # type: ignore[arg-type]  # all it is asked
        done.append(number)

    async with trio.open_nursery() as nursery, trio.open_nursery() as first:
        first.start_soon(look, 1)
        await trio.sleep(0.5)
        nursery.start_soon(look, 2)
        nursery.start_soon(look, 3)
        await trio.sleep(0.1)
        first.cancel_scope.cancel()
    assert sorted(done) == [2, 3]
    assert len(store.looks) == 2
