"""Several stores in one mount: each file's object is in its own, and one that fails harms no other.

Invariant: the object store of a test is a directory by name, and each has a script of faults.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.addresses import address_of, key_within, store_of
from memfs.config import EncryptionConfig, GlacierConfig, NamedStoreConfig
from memfs.content.forms import FormReader
from memfs.encryption.keys import load_keys
from memfs.errors import (
    CorruptDataError,
    StoreError,
    StoreNotConfiguredError,
    StoreUnavailableError,
    UsageError,
)
from memfs.jobs.barriers import RemoteBarrier
from memfs.jobs.file_work import WorkResults
from memfs.jobs.orphans import OrphanSearch, SearchPlace
from memfs.jobs.relocation import Relocation
from memfs.jobs.scrubbing import scrub_file
from memfs.jobs.stores import StoreMethods
from memfs.metadata.store_record import record_store
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.outcome import MoveOutcome
from memfs.moves.rekeying import rekey
from memfs.moves.relocating import relocate
from memfs.moves.uploading import upload
from memfs.placement import queues, sources
from memfs.placement.mover import Mover
from memfs.placement.quotas import Quotas
from memfs.placement.upkeep import Compaction
from memfs.policy.marks import STORE_XATTR
from memfs.stores.health import StoreHealth
from memfs.stores.remote import open_stores, together, with_credentials
from memfs.types import ROOT_INODE, FormKind, PendingCode, Tier
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.config import Config
    from memfs.types import InodeNo

CONTENT = compressible(40_000)
KEY = bytes(range(32)).hex()


def config_of(**named: NamedStoreConfig) -> Config:
    return replace(SMALL_FRAMES, stores=named)


CONFIG = config_of(archive=NamedStoreConfig(url="file:///unused"))


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    opened = State(tmp_path / "state", CONFIG)
    yield opened
    assert (await opened.check_files()).problems == []
    opened.close()


async def mark(state: State, ino: InodeNo, store: str) -> None:
    async with state.engine.change():
        await state.engine.set_xattr(ino, STORE_XATTR, store.encode(), 0, 1)


async def place_of(state: State, ino: InodeNo) -> str:
    return (await state.form(ino, FormKind.REMOTE)).place.key


async def empty(state: State) -> None:
    while await state.garbage.collect(100):
        pass


def reopened(tmp_path: Path, config: Config) -> State:
    return State(tmp_path / "state", config)


def test_an_address_is_a_key_with_the_name_of_its_store() -> None:
    for store in ("", "archive"):
        address = address_of(store, "blobs/3f/3f-1-0")
        assert (store_of(address), key_within(address)) == (store, "blobs/3f/3f-1-0")


async def test_an_object_goes_to_the_store_that_its_directory_names(state: State) -> None:
    """The default one keeps what names it, or nothing."""
    await mark(state, ROOT_INODE, "archive")
    inos = [await state.create(name, CONTENT + name.encode()) for name in ("a", "b")]
    await mark(state, inos[1], "default")
    for ino in inos:
        assert (await upload(state.parts, ino)).outcome == MoveOutcome.DONE
        assert (await drop_raw(state.parts, ino)).outcome == MoveOutcome.DONE
    assert [store_of(await place_of(state, ino)) for ino in inos] == ["archive", ""]
    archived = state.state_dir / "store-archive" / key_within(await place_of(state, inos[0]))
    assert archived.is_file()
    reader = FormReader(state.engine, state.packed_store, state.all_stores, state.raw_store)
    for ino, name in zip(inos, (b"a", b"b"), strict=True):
        inode = await state.engine.get_inode(ino)
        assert await reader.read(inode, 39_990, 11) == (CONTENT + name)[39_990:]
        assert await state.content(ino) == CONTENT + name
    await empty(state)
    assert await state.leaks() == []


async def test_a_batch_is_of_one_store(state: State) -> None:
    """A file that belongs in another one is left to its own upload; compaction stays there."""
    inos = [await state.create(str(number), CONTENT + bytes([number])) for number in range(4)]
    for ino in inos[:3]:
        await mark(state, ino, "archive")
    results = await upload_batch(state.parts, inos, "archive")
    done = MoveOutcome.DONE
    assert [results[ino].outcome for ino in inos] == [done, done, done, MoveOutcome.SUPERSEDED]
    key = await place_of(state, inos[0])
    assert store_of(key) == "archive"
    for name in ("1", "2"):
        await state.unlink(name)
    [batch] = await state.engine.list_sparse_batches(90, 10)
    assert batch.key == key
    assert await state.engine.list_sparse_batches(90, 10, [""]) == []
    await compact(state.parts, batch)
    assert store_of(await place_of(state, inos[0])) == "archive"
    await empty(state)
    assert await state.leaks() == []


async def test_the_codec_of_an_object_is_that_of_its_store(tmp_path: Path) -> None:
    named = NamedStoreConfig(url="file:///unused", codec="lz4")
    state = State(tmp_path / "state", config_of(archive=named))
    for store, codec in (("archive", "lz4"), ("default", "zstd:3")):
        ino = await state.create(store, CONTENT + store.encode())
        await mark(state, ino, store)
        await upload(state.parts, ino)
        assert (await state.form(ino, FormKind.REMOTE)).coding.codec == codec
    state.close()


@pytest.mark.parametrize(
    ("encrypted", "named", "expected"),
    [
        # An own key; and the rest in clear; that of all; in clear though the rest is not.
        (True, {"keys": ("env:OWN",)}, "OWN"),
        (False, {"keys": ("env:OWN",)}, "OWN"),
        (True, {}, "ALL"),
        (True, {"encrypt": False}, None),
        (False, {"encrypt": True}, "ALL"),
    ],
)
async def test_each_store_has_its_encryption(
    tmp_path: Path, encrypted: bool, named: dict[str, object], expected: str | None
) -> None:
    environment = {"ALL": KEY, "OWN": KEY[::-1]}
    config = replace(
        config_of(archive=NamedStoreConfig(url="file:///unused", **named)),  # type: ignore[arg-type]
        encryption=EncryptionConfig(keys=("env:ALL",), remote=encrypted),
    )
    keys = load_keys(config, environment)
    ids = {
        name: load_keys(
            replace(config, stores={}, encryption=EncryptionConfig(keys=(f"env:{name}",))),
            environment,
        ).ids[0]
        for name in environment
    }
    state = State(tmp_path / "state", config, keys=keys)
    inos = [await state.create(name, CONTENT + name.encode()) for name in ("a", "b")]
    await mark(state, inos[0], "archive")
    for ino in inos:
        await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
    found = [(await state.form(ino, FormKind.REMOTE)).coding.key_id for ino in inos]
    assert found == [ids.get(expected or "", ""), ids["ALL"] if encrypted else ""]
    for ino, name in zip(inos, (b"a", b"b"), strict=True):
        assert await state.content(ino) == CONTENT + name
    state.close()


def test_a_store_without_a_key_is_not_encrypted_by_wish_alone() -> None:
    config = config_of(archive=NamedStoreConfig(url="s3://b", encrypt=True))
    with pytest.raises(UsageError, match=r"stores\.archive\.encrypt: there is no key"):
        load_keys(config, {})


async def test_a_form_in_a_store_that_is_not_configured_is_told_with_the_remedy(
    tmp_path: Path,
) -> None:
    """Neither is anything removed there, nor does a file that belongs there go to another one."""
    state = State(tmp_path / "state", CONFIG)
    inos = [await state.create(name, CONTENT + name.encode()) for name in ("a", "b", "c")]
    for ino in inos:
        await mark(state, ino, "archive")
    for ino in inos[:2]:
        await upload(state.parts, ino)
        await drop_raw(state.parts, ino)
    await state.unlink("b")
    state.close()
    state = reopened(tmp_path, config_of(other=NamedStoreConfig(url="file:///unused")))
    with pytest.raises(StoreNotConfiguredError, match=r"write \[stores\.archive\]") as caught:
        await state.content(inos[0])
    assert caught.value.errno == 5
    with pytest.raises(StoreNotConfiguredError, match="/c: store 'archive' is not configured"):
        await upload(state.parts, inos[2])
    assert await state.engine.list_stores() == ["archive"]
    await empty(state)
    garbage = await state.engine.list_garbage(100)
    assert [store_of(item.location) for item in garbage] == ["archive"]
    with pytest.raises(StoreNotConfiguredError):
        await OrphanSearch(state.parts).look(SearchPlace.REMOTE, "archive:blobs/", take=True)
    [problem] = (await state.check_files()).problems
    assert "not configured, so that 1 forms there were not looked at" in problem.fault
    state.close()
    state = reopened(tmp_path, CONFIG)
    assert await state.content(inos[0]) == CONTENT + b"a"
    await empty(state)
    assert await state.leaks() == []
    state.close()


async def test_a_store_that_is_down_holds_up_no_other(state: State) -> None:
    """Neither uploads, nor garbage, nor compaction, nor barriers."""
    stores = ("archive", "default")
    inos = {name: await state.create(name, CONTENT + name.encode()) for name in stores}
    gone = {name: await state.create(f"{name}-", CONTENT + b"-" + name.encode()) for name in stores}
    for name in stores:
        await mark(state, inos[name], name)
        await mark(state, gone[name], name)
        await upload(state.parts, gone[name])
        await state.unlink(f"{name}-")
    state.named_faults["archive"].add(Fault(FaultKind.UNAVAILABLE, count=None))
    while await state.garbage.collect(100):
        pass
    garbage = await state.engine.list_garbage(100)
    assert [store_of(item.location) for item in garbage] == ["archive"]
    context = state.placement()
    work = RemoteBarrier(
        state.parts, context.breakers.of, Quotas(state.config.quotas, state.engine)
    )
    results = WorkResults()
    for name in stores:
        await work.do(inos[name], results)
    await work.finish(results)
    assert await state.forms(inos["default"]) == {FormKind.RAW, FormKind.REMOTE}
    assert await state.forms(inos["archive"]) == {FormKind.RAW}
    assert context.breakers.of("archive").wait_s
    assert not context.breakers.of("").wait_s
    assert context.store_ready
    assert context.is_ready("")
    assert not context.is_ready("archive")
    state.named_faults["archive"].clear()


async def test_a_store_that_hangs_holds_up_no_move_to_another_one(state: State) -> None:
    """Not even with more files than there are workers, small and large, and the disk in use."""
    state.named_faults["archive"].add(Fault(FaultKind.HANG, "put_file", count=None))
    state.parts.throttle.decide(giving_way=True, urgent=False)
    config = state.config.glacier
    context = state.placement()

    async def finish_requests() -> bool:
        return False

    mover = Mover(context, finish_requests)
    inos = []
    for number in range(2 * (config.transfer_count_max + 2)):
        content = os.urandom(config.batch_file_bytes_max + 1) if number % 2 else CONTENT
        inos.append(await state.create(str(number), content + bytes([number])))
        await mark(state, inos[-1], "archive")
    others = [await state.create(name, CONTENT + name.encode()) for name in ("small", "other")]
    context.access_stats.marked = True
    for ino in (*inos, *others):
        async with state.engine.change():
            await state.engine.set_pin(ino, Tier.GLACIER)
        state.activity.note_pin(ino)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mover.run)
        while not state.named_faults["archive"].hit_counts[FaultKind.HANG]:  # noqa: ASYNC110
            await trio.sleep(0.01)
        for ino in others:
            while await state.forms(ino) != {FormKind.REMOTE}:  # noqa: ASYNC110
                await trio.sleep(0.01)
        # It has not given up meanwhile.
        assert not context.breakers.of("archive").wait_s
        assert context.breakers.of("archive").reason is None
        nursery.cancel_scope.cancel()
    state.named_faults["archive"].clear()


async def test_moves_that_wait_for_a_store_that_hangs_hold_up_no_other_file(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: those that its queue has no room for wait elsewhere, and say so."""
    monkeypatch.setattr(queues, "WAITING_COUNT_MAX", 4)
    monkeypatch.setattr(queues, "FULL_S", 0.1)
    state.named_faults["archive"].add(Fault(FaultKind.HANG, "put_file", count=None))
    context = state.placement()

    async def finish_requests() -> bool:
        return False

    mover, inos = Mover(context, finish_requests), []
    size = state.config.glacier.batch_file_bytes_max + 1
    for number in range(40):
        inos.append(await state.create(str(number), bytes([number]) * size))
        await mark(state, inos[-1], "archive")
    other = await state.create("other", CONTENT)
    context.access_stats.marked = True
    for ino in (*inos, other):
        async with state.engine.change():
            await state.engine.set_pin(ino, Tier.GLACIER)
    # One after the other, as a look at all files comes to them.
    monkeypatch.setattr(sources, "PINNED_A_ROUND", 8)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mover.run)
        while await state.forms(other) != {FormKind.REMOTE}:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert context.breakers.of("archive").reason is None
        lane = context.queues.lanes["archive"].demotions
        assert len(lane.waiting) <= queues.WAITING_COUNT_MAX + sources.PINNED_A_ROUND
        pending = await state.engine.list_pending(None, 100)
        assert any("of the store archive wait already" in each.reason for each in pending)
        assert {each.code for each in pending} == {PendingCode.STORE}
        nursery.cancel_scope.cancel()
    state.named_faults["archive"].clear()


async def test_compaction_goes_on_beside_a_store_that_is_down(state: State) -> None:
    """The sparsest batch is in the one that fails."""
    for store, count in (("archive", 9), ("", 4)):
        inos = [
            await state.create(f"{store}{n}", CONTENT + bytes([n, count])) for n in range(count)
        ]
        for ino in inos:
            await mark(state, ino, store or "default")
        await upload_batch(state.parts, inos, store)
        for number in range(1, count):
            await state.unlink(f"{store}{number}")
    state.named_faults["archive"].add(Fault(FaultKind.UNAVAILABLE, count=None))
    compaction = Compaction(state.parts, Quotas(state.config.quotas, state.engine))
    first, second = [await compaction.compact_sparsest() for _ in range(2)]
    assert first is not None
    assert second is not None
    assert (store_of(first.key), first.store_failed) == ("archive", True)
    assert (store_of(second.key), second.failure) == ("", None)
    assert await compaction.compact_sparsest() is None
    state.named_faults["archive"].clear()


async def test_what_is_stored_in_a_named_store_is_counted_in_slices(state: State) -> None:
    stored_bytes = 0
    inos = [await state.create(str(number), CONTENT + bytes([number])) for number in range(5)]
    for ino in inos[:4]:
        await mark(state, ino, "archive")
    await upload_batch(state.parts, inos[:3], "archive")
    for ino in inos[3:]:
        await upload(state.parts, ino)
    for ino in inos[:4]:
        stored_bytes += (await state.form(ino, FormKind.REMOTE)).stored_bytes
    assert await state.engine.list_stores() == ["archive"]
    counted, after, slices = (0, 0), None, 0
    while True:
        found = await state.engine.count_stored("archive", after, 2)
        counted = counted[0] + found.form_count, counted[1] + found.stored_bytes
        slices += 1
        if (after := found.until) is None:
            break
    assert counted == (4, stored_bytes)
    assert slices == 3
    assert await state.engine.count_stored("archives", None, 2) == (0, 0, None)


def test_credentials_are_options_from_a_file_of_their_own(tmp_path: Path) -> None:
    """Nobody else may read it, and what is wrong with it shows nothing of it."""
    path = tmp_path / "archive.toml"
    path.write_text('key = "AKIA"\nsecret = "s"\n')
    path.chmod(0o600)
    config = NamedStoreConfig(
        url="s3://b", credentials=f"file:{path}", options={"endpoint_url": "http://h"}
    )
    found = with_credentials(config, "stores.archive", {})
    assert found.options == {"endpoint_url": "http://h", "key": "AKIA", "secret": "s"}
    assert config.options == {"endpoint_url": "http://h"}
    told = with_credentials(replace(config, credentials="env:HIDDEN"), "x", {"HIDDEN": "a = 1"})
    assert told.options["a"] == 1
    path.write_text("AKIA")
    with pytest.raises(UsageError, match=r"stores\.archive\.credentials: not valid TOML") as caught:
        with_credentials(config, "stores.archive", {})
    assert "AKIA" not in str(caught.value)
    path.chmod(0o644)
    with pytest.raises(UsageError, match=r"stores\.archive\.credentials: .*chmod 600"):
        with_credentials(config, "stores.archive", {})


async def test_the_stores_of_a_configuration_speak_of_their_own_sections(tmp_path: Path) -> None:
    missing = config_of(archive=NamedStoreConfig(url=f"file://{tmp_path}/missing"))
    with pytest.raises(UsageError, match=r"stores\.archive\.url file://"):
        open_stores(missing, tmp_path / "glacier", {})
    (tmp_path / "there").mkdir()
    config = config_of(archive=NamedStoreConfig(url=f"file://{tmp_path}/there"))
    opened = open_stores(config, tmp_path / "glacier", {})
    assert [*opened] == ["", "archive"]
    assert open_stores(replace(config, glacier=GlacierConfig(enabled=False)), tmp_path, {}) == {}
    together_ = together(opened)
    (tmp_path / "there").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailableError, match=r"correct stores\.archive\.url"):
        await together_.stat("archive:blobs/1")
    await together_.aclose()


@pytest.mark.parametrize("is_batched", [False, True])
async def test_an_object_is_moved_to_the_store_that_its_file_belongs_in(
    tmp_path: Path, is_batched: bool
) -> None:
    """It takes the frames of the former one, or the codec of the store with a raw file."""
    archive = NamedStoreConfig(url="file:///unused", codec="lz4")
    state = State(tmp_path / "state", config_of(archive=archive))
    inos = [await state.create(name, CONTENT + name.encode()) for name in ("a", "b", "c")]
    if is_batched:
        await upload_batch(state.parts, inos)
    else:
        for ino in inos:
            await upload(state.parts, ino)
    await drop_raw(state.parts, inos[0])
    for ino in inos[:2]:
        await mark(state, ino, "archive")
    work = Relocation(state.parts, Quotas(state.config.quotas, state.engine), dry_run=True)
    results = WorkResults()
    for ino in inos:
        await work.do(ino, results)
    assert results.outcomes == {"due": 2, "unneeded": 1}
    work = Relocation(state.parts, Quotas(state.config.quotas, state.engine), dry_run=False)
    results = WorkResults()
    for ino in (*inos, *inos):
        await work.do(ino, results)
    assert results.outcomes == {"done": 2, "unneeded": 4}
    found = [(await state.form(ino, FormKind.REMOTE)) for ino in inos]
    assert [store_of(form.place.key) for form in found] == ["archive", "archive", ""]
    assert [form.coding.codec for form in found] == ["zstd:3", "lz4", "zstd:3"]
    await empty(state)
    assert await state.leaks() == []
    for ino, name in zip(inos, ("a", "b", "c"), strict=True):
        assert await state.content(ino) == CONTENT + name.encode()
    [default, named] = await StoreMethods(state.parts, {"": StoreHealth()}).stores()
    assert (default["name"], default["form_count"]) == ("default", 1)
    assert (named["name"], named["form_count"]) == ("archive", 2)
    assert named["stored_bytes"] == sum(form.stored_bytes for form in found[:2])
    state.close()


async def test_a_former_object_stays_until_the_new_one_was_read_back(state: State) -> None:
    """A new one that is cut, or whose store is down, changes nothing."""
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    before = await place_of(state, ino)
    await mark(state, ino, "archive")
    for kind, operation in (
        (FaultKind.CUT, "put_file"),
        (FaultKind.BIT_FLIP, "get_range"),
        (FaultKind.UNAVAILABLE, "put_file"),
    ):
        state.named_faults["archive"].add(Fault(kind, operation, count=4))
        with pytest.raises((CorruptDataError, StoreUnavailableError)):
            await relocate(state.parts, ino)
        state.named_faults["archive"].clear()
        assert await place_of(state, ino) == before
        await empty(state)
        assert await state.leaks() == []
    assert (await relocate(state.parts, ino)).outcome == MoveOutcome.DONE
    assert await state.content(ino) == CONTENT


async def test_a_store_of_which_the_name_is_gone_is_listed_with_what_is_there(
    tmp_path: Path,
) -> None:
    state = State(tmp_path / "state", CONFIG)
    ino = await state.create("a", CONTENT)
    await mark(state, ino, "archive")
    await upload(state.parts, ino)
    await record_store(state.engine, "s3://user:secret@archive/x", "archive")
    state.close()
    state = reopened(tmp_path, SMALL_FRAMES)
    [default, gone] = await StoreMethods(state.parts, {"": StoreHealth()}).stores()
    assert default["configured"]
    assert not gone["configured"]
    assert gone["url"] == "s3://archive/x"
    assert gone["form_count"] == 1
    state.close()


async def test_orphans_are_looked_for_in_the_store_that_is_named(state: State) -> None:
    """What is there counts; what is in the other store does not."""
    ino = await state.create("a", CONTENT)
    await mark(state, ino, "archive")
    await upload(state.parts, ino)
    key = await place_of(state, ino)
    path = state.state_dir / "store-archive" / key_within(key)
    lost = path.with_name(f"1-1-{'0' * 16}")
    lost.write_bytes(b"lost")
    orphan = f"archive:{key_within(key).rpartition('/')[0]}/{lost.name}"
    search = OrphanSearch(state.parts, clock=lambda: time.time() + 7200)
    assert (await search.look(SearchPlace.REMOTE, "blobs/")).count == 0
    found = await search.look(SearchPlace.REMOTE, "archive:blobs/", take=True)
    assert (found.names, found.taken_count) == ([orphan], 1)
    assert [name for name, _size in state.parts.lost_found.objects()] == [orphan]
    assert lost.exists()
    assert (await search.look(SearchPlace.UPLOADS, "archive:")).count == 0
    lost.unlink()


async def test_a_listing_that_fails_finds_nothing_and_takes_nothing(state: State) -> None:
    state.named_faults["archive"].add(Fault(FaultKind.REFUSED, "list", count=None))
    search = OrphanSearch(state.parts)
    with pytest.raises(StoreError):
        await search.look(SearchPlace.REMOTE, "archive:blobs/", take=True)
    assert state.parts.lost_found.objects() == []
    state.named_faults["archive"].clear()


async def test_fsck_goes_on_without_a_named_store_that_is_down(tmp_path: Path) -> None:
    """It says how many forms nobody looked at, and asks that store once."""
    state = State(tmp_path / "state", CONFIG)
    for name in ("a", "b"):
        ino = await state.create(name, CONTENT + name.encode())
        await mark(state, ino, "archive")
        await upload(state.parts, ino)
    other = await state.create("c", CONTENT)
    await upload(state.parts, other)
    (state.objects_dir / await place_of(state, other)).unlink()
    state.named_faults["archive"].add(Fault(FaultKind.UNAVAILABLE, count=None))
    problems = (await state.check_files()).problems
    [down] = [each for each in problems if each.subject == "store archive"]
    assert "so that 2 forms there were not looked at" in down.fault
    assert [each.subject for each in problems if each.subject != "store archive"] == ["/c"]
    assert state.named_faults["archive"].hit_counts[FaultKind.UNAVAILABLE] == 1
    state.close()


async def test_an_object_is_rekeyed_within_its_store(tmp_path: Path) -> None:
    """Under the first key of that store."""
    environment = {"OWN": KEY[::-1], "NEW": KEY[1:] + "0"}

    def opened(*names: str) -> State:
        sources = tuple(f"env:{name}" for name in names)
        config = config_of(archive=NamedStoreConfig(url="file:///unused", keys=sources))
        return State(tmp_path / "state", config, keys=load_keys(config, environment))

    state = opened("OWN")
    ino = await state.create("a", CONTENT)
    await mark(state, ino, "archive")
    await upload(state.parts, ino)
    before = await state.form(ino, FormKind.REMOTE)
    state.close()
    state = opened("NEW", "OWN")
    assert (await rekey(state.parts, ino)).outcome == MoveOutcome.DONE
    after = await state.form(ino, FormKind.REMOTE)
    assert after.coding.key_id not in ("", before.coding.key_id)
    assert store_of(after.place.key) == "archive"
    assert (await rekey(state.parts, ino)).outcome == MoveOutcome.UNNEEDED
    state.close()


async def test_a_scrub_finds_an_object_that_its_store_has_lost(state: State) -> None:
    ino = await state.create("a", CONTENT)
    await mark(state, ino, "archive")
    await upload(state.parts, ino)
    lost = await place_of(state, ino)
    (state.state_dir / "store-archive" / key_within(lost)).unlink()
    await scrub_file(state.parts, ino)
    assert await state.forms(ino) == {FormKind.RAW}
    await upload(state.parts, ino)
    assert store_of(await place_of(state, ino)) == "archive"
    await drop_raw(state.parts, ino)
    assert await state.content(ino) == CONTENT
