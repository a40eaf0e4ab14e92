"""Objects that a store has lost are noticed within a day, told, and stored again."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.addresses import key_within, store_of
from memfs.config import NamedStoreConfig, QuotasConfig
from memfs.control.report import LostObjectsReport
from memfs.encryption.keys import Key, KeyRing
from memfs.errors import StoreError
from memfs.jobs.lost_objects import (
    AGAIN_S,
    LOOK_S,
    LOST_COUNT_MIN,
    MOUNT_PAUSE_S,
    Loss,
    LostObjects,
)
from memfs.metadata.records import PlacedObject
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.policy.marks import STORE_XATTR
from memfs.types import FormKind
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from memfs.types import InodeNo

CONFIG = replace(
    SMALL_FRAMES,
    stores={"archive": NamedStoreConfig(url="file:///unused", keys=("file:/unused",), codec="lz4")},
)
KEYS = KeyRing([], {"archive": [Key(bytes(range(32)), "archive")]})
STORES = ("", "archive")


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    """A default store in clear, and one that encrypts by a key of its own."""
    opened = State(tmp_path / "state", CONFIG, keys=KEYS)
    yield opened
    opened.close()


def lost_objects_of(
    state: State,
    config: QuotasConfig = QuotasConfig(),  # noqa: B008 - it is frozen
    clock: Callable[[], int] = time.time_ns,
) -> LostObjects:
    return LostObjects(state.parts, Quotas(config, state.engine), clock)


async def make(state: State, name: str, store: str) -> InodeNo:
    ino = await state.create(name, compressible(9000, len(name)))
    if store:
        async with state.engine.change():
            await state.engine.set_xattr(ino, STORE_XATTR, store.encode(), 0, 1)
    return ino


async def address_of_file(state: State, ino: InodeNo) -> str:
    return (await state.form(ino, FormKind.REMOTE)).place.key


def path_of(state: State, address: str) -> Path:
    store = store_of(address)
    base = state.state_dir / f"store-{store}" if store else state.objects_dir
    return base / key_within(address)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("how", ["gone", "cut"])
async def test_what_a_store_has_lost_is_stored_again(state: State, store: str, how: str) -> None:
    """By the key and the codec of its store."""
    ino, other = [await make(state, name, store) for name in ("lost", "whole")]
    for each in (ino, other):
        await upload(state.parts, each)
    before, whole = [await address_of_file(state, each) for each in (ino, other)]
    lost = lost_objects_of(state)
    assert await lost.look() == ()
    path = path_of(state, before)
    path.unlink() if how == "gone" else os.truncate(path, 100)
    [loss] = await lost.look()
    assert loss[:4] == (store, 2, 1, 1)
    assert lost.losses == ()
    assert lost.report() == ()
    after = await address_of_file(state, ino)
    assert (after != before, store_of(after)) == (True, store)
    form = await state.form(ino, FormKind.REMOTE)
    assert (form.coding.key_id != "", form.coding.codec) == (
        (True, "lz4") if store else (False, "zstd:3")
    )
    assert await address_of_file(state, other) == whole
    await drop_raw(state.parts, ino)
    assert await state.content(ino) == compressible(9000, 4)
    assert await lost.look() == ()


async def test_files_of_a_lost_batch_are_stored_again(state: State) -> None:
    inos = [await state.create(f"{number}", compressible(800, number)) for number in range(4)]
    await upload_batch(state.parts, inos)
    places = [await address_of_file(state, ino) for ino in inos]
    assert len({*places}) == 1
    [placed] = await state.engine.list_placed("", 10)
    assert placed == PlacedObject(places[0], path_of(state, places[0]).stat().st_size)
    path_of(state, places[0]).unlink()
    [loss] = await lost_objects_of(state).look()
    assert loss[:4] == ("", 1, 1, 1)
    for number, ino in enumerate(inos):
        await drop_raw(state.parts, ino)
        assert await state.content(ino) == compressible(800, number)


@pytest.mark.parametrize("store", STORES)
async def test_what_nobody_has_any_more_is_told_by_its_store_until_it_is_back(
    state: State, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    ino = await make(state, "alone", store)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    address = await address_of_file(state, ino)
    path = path_of(state, address)
    path.rename(path.with_name("away"))
    lost = lost_objects_of(state)
    await lost.look()
    told = LostObjectsReport(store or "default", 1, 0, f"{address}: it is gone")
    assert lost.report() == (told,)
    assert f"store {store or 'default'} has lost 1 object" in caplog.text
    # The next mount knows.
    again = lost_objects_of(state)
    await again.begin()
    assert again.report() == (told,)
    path.with_name("away").rename(path)
    assert await again.look() == ()
    assert await state.content(ino) == compressible(9000, 5)


async def test_a_store_that_does_not_answer_has_lost_nothing(state: State) -> None:
    """And keeps no other one from being looked at."""
    here, there = await make(state, "here", ""), await make(state, "there", "archive")
    for ino in (here, there):
        await upload(state.parts, ino)
        path_of(state, await address_of_file(state, ino)).unlink()
    fault = Fault(FaultKind.UNAVAILABLE, "list", count=None)
    state.named_faults["archive"].add(fault)
    lost = lost_objects_of(state)
    with pytest.raises(StoreError, match="archive: "):
        await lost.look()
    assert [loss[:4] for loss in lost._losses] == [("", 1, 1, 1)]
    state.named_faults["archive"].clear()
    # A listing may be older than what is there: each object is asked for by itself.
    state.named_faults["archive"].add(Fault(FaultKind.UNAVAILABLE, "stat", count=None))
    assert await lost.look() == ()
    state.named_faults["archive"].clear()
    assert [loss[:4] for loss in await lost.look()] == [("archive", 1, 1, 1)]


async def test_a_store_that_lacks_much_is_no_reason_to_store_all_again(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    """Its url may be that of another bucket."""
    count = LOST_COUNT_MIN + 5
    for number in range(count):
        await upload(state.parts, await state.create(f"{number}", compressible(300, number)))
    objects = state.objects_dir / "blobs"
    shutil.move(objects, state.objects_dir / "away")
    objects.mkdir()
    lost = lost_objects_of(state)
    [loss] = await lost.look()
    assert loss[:4] == ("", count, count, 0)
    assert "look at its url" in caplog.text
    assert [path for path in objects.rglob("*") if path.is_file()] == []
    objects.rmdir()
    shutil.move(state.objects_dir / "away", objects)
    assert await lost.look() == ()


async def test_what_a_quota_has_no_room_for_keeps_its_form_until_the_next_look(
    state: State,
) -> None:
    """So that it is looked at again, and told until then."""
    ino = await make(state, "lost", "")
    await upload(state.parts, ino)
    address = await address_of_file(state, ino)
    path_of(state, address).unlink()
    lost = lost_objects_of(state, QuotasConfig(requests_per_day=1))
    assert [loss[:4] for loss in await lost.look()] == [("", 1, 1, 0)]
    assert await address_of_file(state, ino) == address
    assert [loss[:4] for loss in await lost_objects_of(state).look()] == [("", 1, 1, 1)]


async def test_it_looks_once_a_day(state: State, autojump_clock: trio.testing.MockClock) -> None:
    looks: list[float] = []
    lost = lost_objects_of(state, clock=lambda: int((1e6 + trio.current_time()) * 1e9))

    async def count() -> tuple[Loss, ...]:
        # What is looked at takes threads, which this clock does not wait for.
        looks.append(trio.current_time())
        await lost._note((), ["down"] if len(looks) == 1 else [])
        return ()

    lost.look = count  # type: ignore[method-assign]  # of this one
    async with trio.open_nursery() as nursery:
        begun_s = trio.current_time()
        nursery.start_soon(lost.run)
        await trio.sleep(2.5 * LOOK_S)
        nursery.cancel_scope.cancel()
    # A look that a store has not answered is made again soon.
    assert [at - begun_s for at in looks] == [
        MOUNT_PAUSE_S,
        MOUNT_PAUSE_S + AGAIN_S,
        MOUNT_PAUSE_S + AGAIN_S + LOOK_S,
        MOUNT_PAUSE_S + AGAIN_S + 2 * LOOK_S,
    ]
    state.parts.source = "another's"
    count_before = len(looks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lost.run)
        await trio.sleep(2.5 * LOOK_S)
        nursery.cancel_scope.cancel()
    assert len(looks) == count_before
