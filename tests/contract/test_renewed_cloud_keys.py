"""Keys of Google and Azure that are renewed where they are kept: no new mount is needed."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Protocol

import pytest
import trio
from adlfs import AzureBlobFileSystem
from azure.identity.aio import ClientSecretCredential
from azure.storage.blob.aio import BlobServiceClient

from memfs.errors import StoreError, StoreUnavailableError, UsageError
from memfs.stores.azure import FORMER_COUNT_MAX, AzureStore
from memfs.stores.gcs import GcsStore
from memfs.stores.store import PART_BYTES
from tests.servers.azurite import KEY, AzureServer, find_azurite
from tests.servers.fake_gcs import GcsServer, find_fake_gcs
from tests.servers.guarded_gcs import GuardedGcs, running_guarded_gcs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from memfs.stores.objects import FsspecStore

BUCKET = "renewed-keys"
TIMEOUT_S = 60.0
WRONG_KEY = "A" * len(KEY.rstrip("=")) + "=="


class Keys(Protocol):
    """Where a store finds its key."""

    def open(self, prefix: str, *, renew_pause_s: float = 0.0) -> FsspecStore: ...

    def write(self, *, right: bool) -> None: ...

    def forget(self) -> None: ...

    def revoke(self) -> None:
        """Refuse the right key from now on, and take another one."""
        ...


class GoogleKeys:
    """The key file of a service account."""

    def __init__(self, server: GuardedGcs, path: Path, refusal: int = 401) -> None:
        self._server = server
        self._path = path
        self._number = 0
        server.key_ids.clear()
        server.refusal = refusal
        self.revoke()

    def open(self, prefix: str, *, renew_pause_s: float = 0.0) -> FsspecStore:
        options = {
            "endpoint_url": self._server.endpoint_url,
            "project": "tests",
            "token": str(self._path),
        }
        url = f"gs://{BUCKET}/{prefix}"
        return GcsStore(url, options, TIMEOUT_S, 8, renew_pause_s=renew_pause_s)

    def write(self, *, right: bool) -> None:
        self._server.write_key(self._path, f"key{self._number}" if right else "none")

    def forget(self) -> None:
        self._path.unlink()

    def revoke(self) -> None:
        self._number += 1
        self._server.key_ids = {f"key{self._number}"}


class AzureKeys:
    """A connection string in a file; the server's one key does not change."""

    def __init__(self, server: AzureServer, path: Path) -> None:
        self._server = server
        self._path = path

    def open(self, prefix: str, *, renew_pause_s: float = 0.0) -> FsspecStore:
        options = {"connection_string": f"file:{self._path}"}
        url = f"az://{BUCKET}/{prefix}"
        return AzureStore(url, options, TIMEOUT_S, 8, renew_pause_s=renew_pause_s)

    def write(self, *, right: bool) -> None:
        text = self._server.connection_string(KEY if right else WRONG_KEY)
        written = self._path.with_suffix(".new")
        written.write_text(text + "\n")
        written.chmod(0o600)
        written.replace(self._path)

    def forget(self) -> None:
        self._path.unlink()

    def revoke(self) -> None: ...


@pytest.fixture(scope="module")
def guarded_gcs(gcs_server: GcsServer) -> Iterator[GuardedGcs]:
    gcs_server.make_bucket(BUCKET)
    with running_guarded_gcs(gcs_server) as server:
        yield server


@pytest.fixture(scope="module")
def azurite(azure_server: AzureServer) -> AzureServer:
    azure_server.make_bucket(BUCKET)
    return azure_server


@pytest.fixture(params=["google", "azure"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Keys:
    if request.param == "google":
        if find_fake_gcs() is None:
            pytest.skip("fake-gcs-server is not installed")
        return GoogleKeys(request.getfixturevalue("guarded_gcs"), tmp_path / "key.json")
    if find_azurite() is None:
        pytest.skip("Azurite is not installed")
    return AzureKeys(request.getfixturevalue("azurite"), tmp_path / "connection")


@pytest.fixture
async def store(keys: Keys, tmp_path: Path) -> AsyncIterator[FsspecStore]:
    keys.write(right=False)
    store = keys.open(tmp_path.name)
    yield store
    await store.aclose()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    return source


async def test_a_renewed_key_is_taken_without_a_new_mount(
    keys: Keys, store: FsspecStore, source: Path
) -> None:
    with pytest.raises(StoreError, match="check"):
        await store.put_file("k", source)
    keys.write(right=True)
    await store.put_file("k", source)
    assert (await store.stat("k")).size == 10
    assert await store.get_range("k", 2, 5) == b"234"


@pytest.mark.parametrize("refusal", [401, 403])
async def test_a_key_that_is_revoked_while_its_token_is_valid_is_read_again(
    guarded_gcs: GuardedGcs, tmp_path: Path, source: Path, refusal: int
) -> None:
    """The library keeps a token for an hour; the store may refuse it before."""
    keys = GoogleKeys(guarded_gcs, tmp_path / "key.json", refusal)
    keys.write(right=True)
    store = keys.open(tmp_path.name)
    await store.put_file("k", source)
    keys.revoke()
    with pytest.raises(StoreError, match="check token"):
        await store.stat("k")
    keys.write(right=True)
    assert (await store.stat("k")).size == 10
    await store.delete("k")
    await store.aclose()


async def test_a_file_that_is_away_for_a_while_changes_nothing(
    keys: Keys, store: FsspecStore, source: Path
) -> None:
    keys.forget()
    with pytest.raises(StoreError, match="check"):
        await store.put_file("k", source)
    keys.write(right=True)
    await store.put_file("k", source)
    assert (await store.stat("k")).size == 10


async def test_a_wrong_key_is_not_read_again_at_each_call(
    keys: Keys, tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    keys.write(right=False)
    store = keys.open(tmp_path.name, renew_pause_s=100.0)
    for _ in range(5):
        with pytest.raises(StoreError, match="check"):
            await store.put_file("k", source)
    assert caplog.text.count("they are read again") == 1
    await store.aclose()


async def test_clients_that_are_not_used_any_more_are_closed(
    keys: Keys, store: FsspecStore, source: Path
) -> None:
    before_count = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(StoreError, match="check"):
            await store.put_file("k", source)
    assert len(os.listdir("/proc/self/fd")) <= before_count + 10


def living(kind: type) -> int:
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


async def test_renewed_keys_of_azure_leave_no_clients_in_memory(
    azurite: AzureServer, tmp_path: Path, source: Path
) -> None:
    """Adlfs keeps each of its file systems, with the client, up to the end of the process."""
    keys = AzureKeys(azurite, tmp_path / "connection")
    keys.write(right=False)
    before = living(AzureBlobFileSystem), living(BlobServiceClient)
    store = keys.open(tmp_path.name)
    for _ in range(20):
        with pytest.raises(StoreError, match="check"):
            await store.put_file("k", source)
    now = living(AzureBlobFileSystem), living(BlobServiceClient)
    assert now[0] - before[0] == 1
    assert now[1] - before[1] <= FORMER_COUNT_MAX + 1
    keys.write(right=True)
    await store.put_file("k", source)
    await store.aclose()
    assert living(BlobServiceClient) <= before[1]


async def test_renewed_credentials_of_a_service_principal_are_closed(tmp_path: Path) -> None:
    """Each has a session of its own, beside that of the client; no network is needed here."""
    secret = tmp_path / "secret"
    secret.write_text("one")
    secret.chmod(0o600)
    options = {"account_name": "a", "tenant_id": "t", "client_id": "c"}
    before = living(ClientSecretCredential)
    store = AzureStore("az://c/p", {**options, "client_secret": f"file:{secret}"}, TIMEOUT_S, 8)
    for number in range(10):
        secret.write_text(f"new-{number}")
        await trio.to_thread.run_sync(store._connect_anew)
    assert living(ClientSecretCredential) - before <= FORMER_COUNT_MAX + 1
    assert store._fs.credential._secret == "new-9"
    await store.aclose()
    assert living(ClientSecretCredential) == before


class Bytes:
    """Bytes that come once."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self.size_max = len(data)

    def read(self) -> bytes:
        assert self._data is not None, "it was closed"
        taken, self._data = self._data, b""
        return taken

    def close(self) -> None:
        self._data = None


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES])
async def test_bytes_that_come_once_are_not_sent_again_but_begun_anew(
    keys: Keys, store: FsspecStore, size: int
) -> None:
    """Nothing of them is stored; the one who makes them is told to make them again."""
    keys.write(right=True)
    with pytest.raises(StoreUnavailableError, match="begins anew"):
        await store.put_stream("k", Bytes(b"a" * size))
    assert [stat async for stat in store.list("")] == []
    await store.put_stream("k", Bytes(b"a" * size))
    assert (await store.stat("k")).size == size


async def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret")
    path.chmod(0o644)
    options = {"account_name": "a", "account_key": f"file:{path}"}
    with pytest.raises(UsageError, match=r"glacier\.options\.account_key.*chmod 600"):
        AzureStore("az://c/p", options, TIMEOUT_S, 8)


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
async def test_a_key_file_without_a_key_ends_the_mount_with_a_word(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="token"):
        GcsStore("gs://b/p", {"token": str(path)}, TIMEOUT_S, 8)
