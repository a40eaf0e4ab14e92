"""Objects of archive classes: read back before they go there, restored once when they are read."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.errors import ObjectArchivedError, StoreError, StoreUnavailableError
from memfs.stores.azure import AzureStore
from memfs.stores.restoring import (
    HOUR_S,
    LOOK_PAUSE_S,
    ArchivedObject,
    RestoreDesk,
    RestoreState,
    RestoreTier,
    without_restores,
)
from memfs.stores.s3 import S3Store
from memfs.stores.store import PART_BYTES
from tests.servers.moto import set_restore_looks
from tests.servers.seaweedfs import make_bucket
from tests.waiting import join, wait_for, wait_until_set

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.azurite import AzureServer
    from tests.servers.seaweedfs import S3Server

BUCKET = "memfs-archive"
TIMEOUT_S = 60.0
NEVER = 1_000_000
"""More looks than any test makes: a restore stays as it is."""


@pytest.fixture(scope="module")
def moto(moto_server: S3Server) -> S3Server:
    make_bucket(moto_server, BUCKET)
    return moto_server


@pytest.fixture(scope="module")
def azurite(azure_server: AzureServer) -> AzureServer:
    azure_server.make_bucket(BUCKET)
    return azure_server


def open_s3(server: S3Server, prefix: str, storage_class: str, **options: Any) -> S3Store:  # noqa: ANN401
    return S3Store(
        f"s3://{BUCKET}/{prefix}",
        server.options,
        TIMEOUT_S,
        8,
        storage_class=storage_class,
        **options,
    )


def head(server: S3Server, key: str) -> dict[str, Any]:
    with contextlib.closing(server.client()) as client:
        answer: dict[str, Any] = client.head_object(Bucket=BUCKET, Key=key)
        return answer


def watch_requests(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that the names of all requests but reads are appended to."""
    methods: list[str] = []
    send = store._fs._call_s3

    def watch(method: str, *arguments: object, **parameters: object) -> object:
        methods.append(method)
        return send(method, *arguments, **parameters)

    monkeypatch.setattr(store._fs, "_call_s3", watch)
    return methods


async def put(store: S3Store | AzureStore, directory: Path, data: bytes = b"0123456789") -> None:
    source = directory / "source"
    source.write_bytes(data)
    await store.put_file("k", source)


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
async def test_an_s3_object_can_be_read_back_before_it_is_archived(
    moto: S3Server, tmp_path: Path, storage_class: str
) -> None:
    """Nothing is dropped locally for an upload that nobody has verified."""
    store = open_s3(moto, tmp_path.name, storage_class)
    await put(store, tmp_path)
    assert await store.get_range("k", 2, 5) == b"234"
    await store.archive("k")
    await store.archive("k")
    archived = head(moto, f"{tmp_path.name}/k")
    assert (archived["StorageClass"], archived["ContentLength"]) == (storage_class, 10)
    await store.aclose()


async def test_a_large_s3_object_is_archived_in_parts(moto: S3Server, tmp_path: Path) -> None:
    store = open_s3(
        moto,
        tmp_path.name,
        "GLACIER",
        server_side_encryption="AES256",
        copy_bytes_max=PART_BYTES,
    )
    data = bytes(range(256)) * ((2 * PART_BYTES + 256) // 256)
    await put(store, tmp_path, data)
    await store.archive("k")
    archived = head(moto, f"{tmp_path.name}/k")
    assert (archived["StorageClass"], archived["ContentLength"]) == ("GLACIER", len(data))
    assert archived["ServerSideEncryption"] == "AES256"
    set_restore_looks(moto, 0)
    with pytest.raises(ObjectArchivedError):
        await store.get_range("k", 0, 1)
    await store.get_file("k", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    await store.aclose()


async def test_other_storage_classes_are_left_as_they_were_put(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_s3(moto, tmp_path.name, "STANDARD_IA")
    await put(store, tmp_path)
    methods = watch_requests(store, monkeypatch)
    await store.archive("k")
    assert methods == []
    await store.aclose()


async def test_reading_an_archived_s3_object_restores_it_once(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every read is answered at once; the restore is asked for by the first one only."""
    store = open_s3(moto, tmp_path.name, "GLACIER", restore_tier=RestoreTier.BULK, restore_days=2)
    await put(store, tmp_path)
    await store.archive("k")
    set_restore_looks(moto, 1)
    methods = watch_requests(store, monkeypatch)
    errors: list[ObjectArchivedError] = []

    async def read() -> None:
        with pytest.raises(ObjectArchivedError, match=r"class GLACIER|being requested") as caught:
            await store.get_range("k", 0, 5)
        errors.append(caught.value)

    await read()
    await read()
    set_restore_looks(moto, NEVER)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
    assert methods.count("restore_object") == 1
    estimate_s = errors[-1].ready_estimate_s
    assert estimate_s is not None
    assert 11.9 * HOUR_S < estimate_s <= 12 * HOUR_S
    assert "ends by" in str(errors[-1])
    assert not errors[-1].transient

    # Another process knows nothing of that, and asks the provider before it asks for more.
    other = open_s3(moto, tmp_path.name, "GLACIER")
    methods = watch_requests(other, monkeypatch)
    with pytest.raises(ObjectArchivedError, match="requested earlier"):
        await other.get_range("k", 0, 5)
    assert "restore_object" not in methods
    set_restore_looks(moto, 0)
    assert await store.get_range("k", 0, 5) == b"01234"
    assert await other.get_range("k", 0, 5) == b"01234"
    await store.aclose()
    await other.aclose()


async def test_who_only_checks_restores_nothing(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_s3(moto, tmp_path.name, "GLACIER")
    await put(store, tmp_path)
    await store.archive("k")
    methods = watch_requests(store, monkeypatch)
    with without_restores(), pytest.raises(ObjectArchivedError, match="nobody restores it"):
        await store.get_range("k", 0, 5)
    assert "restore_object" not in methods
    await store.aclose()


async def test_a_restored_s3_object_is_read_whole(moto: S3Server, tmp_path: Path) -> None:
    store = open_s3(moto, tmp_path.name, "DEEP_ARCHIVE")
    await put(store, tmp_path)
    await store.archive("k")
    set_restore_looks(moto, 0)
    with pytest.raises(ObjectArchivedError):
        await store.get_file("k", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    await store.get_file("k", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"0123456789"
    assert (await store.stat("k")).size == 10
    await store.delete("k")
    await store.aclose()


async def test_an_azure_blob_is_archived_and_rehydrated(
    azurite: AzureServer, tmp_path: Path
) -> None:
    place = f"az://{BUCKET}/{tmp_path.name}"
    store = AzureStore(
        place, azurite.options, TIMEOUT_S, 8, "Archive", restore_tier=RestoreTier.EXPEDITED
    )
    await put(store, tmp_path)
    assert await store.get_range("k", 2, 5) == b"234"
    await store.archive("k")
    assert azurite.properties(BUCKET, f"{tmp_path.name}/k").blob_tier == "Archive"
    with pytest.raises(ObjectArchivedError, match="class Archive") as caught:
        await store.get_range("k", 0, 5)
    assert caught.value.ready_estimate_s is not None
    assert caught.value.ready_estimate_s <= HOUR_S
    # The server rehydrates at once.
    assert await store.get_range("k", 0, 5) == b"01234"
    await store.aclose()


# --- the desk alone -------------------------------------------------------------------------------


class Provider:
    """An archive class with one object, whose restores are counted."""

    def __init__(self) -> None:
        self.found = ArchivedObject(RestoreState.ARCHIVED, "GLACIER", 5 * HOUR_S)
        self.look_count = 0
        self.request_count = 0
        self.failure: StoreError | None = None
        self.gate = threading.Event()
        self.gate.set()

    def look(self, key: str) -> ArchivedObject:
        self.look_count += 1
        wait_until_set(self.gate)
        return self.found

    def request_restore(self, key: str, found: ArchivedObject) -> None:
        if self.failure is not None:
            raise self.failure
        self.request_count += 1
        self.found = dataclasses.replace(found, state=RestoreState.ONGOING)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_provider_is_asked_again_only_after_a_pause() -> None:
    provider, clock = Provider(), Clock()
    desk = RestoreDesk(provider, RestoreTier.STANDARD, clock)
    for _ in range(3):
        assert desk.refuse("k", "get k") is not None
    assert (provider.look_count, provider.request_count) == (1, 1)
    clock.now_s += LOOK_PAUSE_S
    assert desk.refuse("k", "get k") is not None
    assert (provider.look_count, provider.request_count) == (2, 1)
    provider.found = dataclasses.replace(provider.found, state=RestoreState.READABLE)
    clock.now_s += LOOK_PAUSE_S
    assert desk.refuse("k", "get k") is None


def test_a_restored_copy_that_expired_is_restored_again() -> None:
    provider, clock = Provider(), Clock()
    desk = RestoreDesk(provider, RestoreTier.STANDARD, clock)
    desk.refuse("k", "get k")
    provider.found = dataclasses.replace(provider.found, state=RestoreState.ARCHIVED)
    clock.now_s += 4 * 24 * HOUR_S
    assert desk.refuse("k", "get k") is not None
    assert provider.request_count == 2


def test_nobody_waits_for_another_ones_request() -> None:
    provider = Provider()
    desk = RestoreDesk(provider, RestoreTier.STANDARD)
    provider.gate.clear()
    first = threading.Thread(target=desk.refuse, args=("k", "get k"))
    first.start()
    try:
        wait_for(lambda: provider.look_count, "the provider is not asked")
        refusal = desk.refuse("k", "get k")
        assert "is being requested" in str(refusal)
    finally:
        provider.gate.set()
        join(first)
    assert (provider.look_count, provider.request_count) == (1, 1)


def test_a_restore_that_could_not_be_requested_is_requested_by_the_next_read() -> None:
    provider = Provider()
    desk = RestoreDesk(provider, RestoreTier.STANDARD)
    provider.failure = StoreUnavailableError("throttled")
    with pytest.raises(StoreUnavailableError):
        desk.refuse("k", "get k")
    provider.failure = None
    assert desk.refuse("k", "get k") is not None
    assert provider.request_count == 1
