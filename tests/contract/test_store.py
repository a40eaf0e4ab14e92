"""Every remote store keeps the store contract; what is stored is checked behind its back."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import fsspec
import pytest
import trio

from memfs.config import GlacierConfig
from memfs.errors import (
    CorruptDataError,
    InvalidValueError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from memfs.stores.azure import AzureStore
from memfs.stores.directory import UNFINISHED, DirectoryStore
from memfs.stores.gcs import GcsStore
from memfs.stores.limit import LimitedStore
from memfs.stores.objects import FsspecStore, UploadCallback
from memfs.stores.probing import ProbedStore
from memfs.stores.remote import open_remote_store
from memfs.stores.retry import RetryingStore, RetryPolicy
from memfs.stores.s3 import S3Store
from memfs.stores.store import PART_BYTES
from tests.disk_calls import intercept, name_of
from tests.faulty_store import Fault, FaultKind, FaultScript, FaultyStore
from tests.servers.azurite import AzureServer
from tests.servers.fake_gcs import GcsServer
from tests.servers.process import READY
from tests.servers.seaweedfs import S3Server
from tests.unit.fakes.memory_store import MemoryStore
from tests.waiting import join

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from memfs.stores.store import ObjectStat, RemoteStore

BUCKET = READY
TIMEOUT_S = 60.0
AN_HOUR_S = 3600.0
"""Generous: the machine may be busy, and no test waits for it to pass."""


class Backing(Protocol):
    """The place behind a store, reached without it."""

    @property
    def store(self) -> RemoteStore: ...

    def put(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def keys(self) -> list[str]: ...


class DirectoryBacking:
    def __init__(self, store: RemoteStore, root: Path) -> None:
        self.store = store
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        (self._root / key).parent.mkdir(parents=True, exist_ok=True)
        (self._root / key).write_bytes(data)

    def get(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.exists() else None

    def keys(self) -> list[str]:
        files = (path for path in self._root.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self._root)) for path in files)


class MemoryBacking:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def put(self, key: str, data: bytes) -> None:
        self.store.objects[key] = data

    def get(self, key: str) -> bytes | None:
        return self.store.objects.get(key)

    def keys(self) -> list[str]:
        return sorted(self.store.objects)


class BucketBacking:
    def __init__(self, store: RemoteStore, server: S3Server, prefix: str) -> None:
        self.store = store
        self._client: Any = server.client()
        self._prefix = prefix

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=self._prefix + key, Body=data)

    def get(self, key: str) -> bytes | None:
        try:
            answer = self._client.get_object(Bucket=BUCKET, Key=self._prefix + key)
        except self._client.exceptions.NoSuchKey:
            return None
        with contextlib.closing(answer["Body"]) as body:
            return bytes(body.read())

    def keys(self) -> list[str]:
        answer = self._client.list_objects_v2(Bucket=BUCKET, Prefix=self._prefix)
        found = (item["Key"] for item in answer.get("Contents", ()))
        return sorted(key.removeprefix(self._prefix) for key in found)

    def begin_upload(self, key: str) -> None:
        self._client.create_multipart_upload(Bucket=BUCKET, Key=self._prefix + key)

    def unfinished(self) -> list[str]:
        answer = self._client.list_multipart_uploads(Bucket=BUCKET, Prefix=self._prefix)
        return [each["Key"].removeprefix(self._prefix) for each in answer.get("Uploads", ())]

    def close(self) -> None:
        self._client.close()


class ServerBacking:
    """A prefix of a bucket of Google's, or of a container of Azure's."""

    def __init__(self, store: RemoteStore, server: GcsServer | AzureServer, prefix: str) -> None:
        self.store = store
        self._server = server
        self._prefix = prefix

    def put(self, key: str, data: bytes) -> None:
        self._server.put(BUCKET, self._prefix + key, data)

    def get(self, key: str) -> bytes | None:
        return self._server.get(BUCKET, self._prefix + key)

    def keys(self) -> list[str]:
        found = self._server.keys(BUCKET, self._prefix)
        return sorted(key.removeprefix(self._prefix) for key in found)


class FileSystemBacking:
    """fsspec's file system in memory, which is one for the whole process."""

    def __init__(self, store: RemoteStore, root: str) -> None:
        self.store = store
        self._fs: Any = fsspec.filesystem("memory")
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{key}", data)

    def get(self, key: str) -> bytes | None:
        path = f"{self._root}/{key}"
        return bytes(self._fs.cat_file(path)) if self._fs.exists(path) else None

    def keys(self) -> list[str]:
        return sorted(path.removeprefix(f"{self._root}/") for path in self._fs.find(self._root))


STORES = ["directory", "fsspec", "other", "s3", "gcs", "azure"]
DECORATORS = ["limited", "retrying", "faulty", "probed"]


@pytest.fixture(params=[*STORES, *DECORATORS, "memory"])
async def backing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backing]:
    root = tmp_path / "store"
    if request.param == "gcs":
        google: GcsServer = request.getfixturevalue("gcs_server")
        url = f"gs://{BUCKET}/{tmp_path.name}"
        gcs = GcsStore(url, google.options, TIMEOUT_S, 8)
        yield ServerBacking(gcs, google, f"{tmp_path.name}/")
        await gcs.aclose()
        return
    if request.param == "azure":
        microsoft: AzureServer = request.getfixturevalue("azure_server")
        url = f"abfs://{BUCKET}/{tmp_path.name}"
        azure = AzureStore(url, microsoft.options, TIMEOUT_S, 8)
        yield ServerBacking(azure, microsoft, f"{tmp_path.name}/")
        await azure.aclose()
        return
    if request.param == "other":
        name = f"/{tmp_path.name}"
        fsspec.filesystem("memory").makedirs(name)
        yield FileSystemBacking(FsspecStore(f"memory:/{name}", {}, TIMEOUT_S, 8), name)
        memory = fsspec.filesystem("memory")
        if memory.exists(name):
            memory.rm(name, recursive=True)
        return
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        prefix = tmp_path.name
        s3 = S3Store(f"s3://{BUCKET}/{prefix}", server.options, TIMEOUT_S, 8)
        bucket = BucketBacking(s3, server, f"{prefix}/")
        yield bucket
        await s3.aclose()
        bucket.close()
        return
    if request.param == "memory":
        yield MemoryBacking()
        return
    if request.param == "fsspec":
        root.mkdir()
        yield DirectoryBacking(FsspecStore(f"file://{root}", {}, TIMEOUT_S, 8), root)
        return
    store: RemoteStore = DirectoryStore(root, TIMEOUT_S, 8)
    if request.param == "limited":
        store = LimitedStore(store, 2, 2)
    if request.param == "retrying":
        store = RetryingStore(store, RetryPolicy(TIMEOUT_S), random.Random(1))
    if request.param == "faulty":
        store = FaultyStore(store, FaultScript())
    if request.param == "probed":
        store = ProbedStore(store)
    yield DirectoryBacking(store, root)
    await store.aclose()


class Cloud(NamedTuple):
    """A provider."""

    scheme: str
    store_class: Callable[[str, Mapping[str, object], float, int], RemoteStore]
    options: Mapping[str, object]
    wrong_options: Mapping[str, object] | None
    """Refused by the server; None: it takes all."""

    def open(self, place: str, options: Mapping[str, object] | None = None) -> RemoteStore:
        return self.store_class(f"{self.scheme}://{place}", options or self.options, TIMEOUT_S, 8)


def make_file(directory: Path, data: bytes) -> Path:
    path = directory / "source"
    path.write_bytes(data)
    return path


async def collect(objects: AsyncIterator[ObjectStat]) -> dict[str, int]:
    return {stat.key: stat.size async for stat in objects}


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 17])
async def test_put_file_stores_the_bytes(backing: Backing, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    await backing.store.put_file("a/b/c", make_file(tmp_path, data))
    assert data == backing.get("a/b/c")
    assert backing.keys() == ["a/b/c"]


async def test_put_file_replaces_an_object_whole(backing: Backing, tmp_path: Path) -> None:
    backing.put("k", b"a longer object than the next")
    await backing.store.put_file("k", make_file(tmp_path, b"short"))
    assert backing.get("k") == b"short"


async def test_put_file_of_a_missing_file_leaves_nothing(backing: Backing, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="put k"):
        await backing.store.put_file("k", tmp_path / "absent")
    assert backing.keys() == []


class Pieces:
    """A source of an object's bytes; fails at its end if it is told to."""

    def __init__(self, data: bytes, *, fails: bool = False) -> None:
        self._left = data
        self._fails = fails
        self.size_max = len(data)
        self.closed = False

    def read(self) -> bytes:
        piece, self._left = self._left[:300_000], self._left[300_000:]
        if not piece and self._fails:
            raise CorruptDataError("the source broke")
        return piece

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 5 * PART_BYTES + 17])
async def test_put_stream_stores_the_bytes(backing: Backing, size: int) -> None:
    """However many pieces they come in."""
    data = random.Random(size).randbytes(size)
    source = Pieces(data)
    await backing.store.put_stream("a/b/c", source)
    assert data == backing.get("a/b/c")
    assert backing.keys() == ["a/b/c"]
    assert source.closed


@pytest.mark.parametrize("size", [0, 1, 2 * PART_BYTES])
async def test_a_source_that_breaks_makes_no_object(backing: Backing, size: int) -> None:
    """What came until then is thrown away, and no unfinished upload stays."""
    source = Pieces(random.Random(size).randbytes(size), fails=True)
    with pytest.raises(CorruptDataError, match="the source broke"):
        await backing.store.put_stream("a/b", source)
    assert backing.get("a/b") is None
    assert source.closed
    if isinstance(backing, BucketBacking):
        assert backing.unfinished() == []


async def test_unfinished_uploads_of_a_key_are_removed(s3_server: S3Server, tmp_path: Path) -> None:
    """Those of others stay, of keys that begin alike as well."""
    store = S3Store(f"s3://{BUCKET}/{tmp_path.name}", s3_server.options, TIMEOUT_S, 8)
    bucket = BucketBacking(store, s3_server, f"{tmp_path.name}/")
    for key in ("k", "k", "k2"):
        bucket.begin_upload(key)
    told = await store.list_uploads("")
    assert sorted(stat.key for stat in told) == ["k", "k", "k2"]
    assert all(abs(time.time() - (stat.modified_s or 0.0)) < AN_HOUR_S for stat in told)
    assert await store.abort_uploads("k") == 2
    assert await store.abort_uploads("k") == 0
    assert bucket.unfinished() == ["k2"]
    await store.aclose()
    bucket.close()


@pytest.mark.parametrize("how", ["file", "stream"])
@pytest.mark.parametrize("then", ["removed", "closed"])
async def test_an_upload_that_is_given_up_leaves_nothing(
    s3_server: S3Server, tmp_path: Path, how: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread ends the upload in the bucket when it notices."""
    store = S3Store(f"s3://{BUCKET}/{tmp_path.name}", s3_server.options, TIMEOUT_S, 8)
    bucket = BucketBacking(store, s3_server, f"{tmp_path.name}/")
    data = random.Random(1).randbytes(6 * PART_BYTES)
    began = trio.Event()
    token = trio.lowlevel.current_trio_token()
    update = UploadCallback.relative_update

    def tell(callback: UploadCallback, inc: int = 1) -> None:
        if inc:
            trio.from_thread.run_sync(began.set, trio_token=token)
        update(callback, inc)

    monkeypatch.setattr(UploadCallback, "relative_update", tell)
    async with trio.open_nursery() as nursery:
        if how == "file":
            nursery.start_soon(store.put_file, "k", make_file(tmp_path, data))
        else:
            nursery.start_soon(store.put_stream, "k", Pieces(data))
        await began.wait()
        nursery.cancel_scope.cancel()
    # Both wait until no thread writes that key any more.
    await (store.delete("k") if then == "removed" else store.aclose())
    assert bucket.unfinished() == []
    assert bucket.keys() == []
    await store.aclose()
    bucket.close()


@pytest.mark.parametrize("how", ["file", "stream"])
async def test_a_container_that_is_missing_is_not_made(tmp_path: Path, how: str) -> None:
    """A mistyped name would be a new place that nobody looks for."""
    memory = fsspec.filesystem("memory")
    store = FsspecStore(f"memory://{tmp_path.name}-mistyped/x", {}, TIMEOUT_S, 8)
    put = (
        store.put_file("k", make_file(tmp_path, b"data"))
        if how == "file"
        else store.put_stream("k", Pieces(b"data"))
    )
    with pytest.raises(StoreError, match=r"does not exist: create it or correct glacier\.url"):
        await put
    assert not memory.exists(f"/{tmp_path.name}-mistyped")


async def test_get_range_returns_just_the_range(backing: Backing) -> None:
    data = random.Random(5).randbytes(1000)
    backing.put("x/y", data)
    for start, end in [(0, 1000), (0, 1), (1, 999), (999, 1000), (500, 500), (0, 0)]:
        assert data[start:end] == await backing.store.get_range("x/y", start, end)


async def test_get_range_is_cut_at_the_end(backing: Backing) -> None:
    backing.put("k", b"0123456789")
    assert await backing.store.get_range("k", 8, 20) == b"89"
    assert await backing.store.get_range("k", 10, 20) == b""
    assert await backing.store.get_range("k", 15, 20) == b""


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 17])
async def test_get_file_writes_the_bytes(backing: Backing, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    backing.put("a/k", data)
    await backing.store.get_file("a/k", tmp_path / "target")
    assert data == (tmp_path / "target").read_bytes()


async def test_get_file_never_overwrites(backing: Backing, tmp_path: Path) -> None:
    backing.put("k", b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(StoreError):
        await backing.store.get_file("k", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"


async def test_a_missing_object_is_told_as_missing(backing: Backing, tmp_path: Path) -> None:
    store = backing.store
    backing.put("a/other", b"x")
    for call in (store.get_range("a/k", 0, 5), store.stat("a/k"), store.stat("a")):
        with pytest.raises(ObjectMissingError, match="a"):
            await call
    with pytest.raises(ObjectMissingError, match=f"{store.url}.*a/k"):
        await store.get_file("a/k", tmp_path / "target")
    assert not (tmp_path / "target").exists()


async def test_stat_returns_the_size(backing: Backing) -> None:
    backing.put("a/b", b"12345")
    stat = await backing.store.stat("a/b")
    assert (stat.key, stat.size) == ("a/b", 5)


async def test_delete_removes_and_may_be_repeated(backing: Backing) -> None:
    backing.put("a/b", b"1")
    backing.put("a/c", b"2")
    await backing.store.delete("a/b")
    await backing.store.delete("a/b")
    await backing.store.delete("never/there")
    assert backing.keys() == ["a/c"]


async def test_list_yields_the_keys_with_the_prefix(backing: Backing) -> None:
    keys = ["p/1", "p/10", "p/2/x", "p/2/y/z", "pq", "q/1"]
    for key in keys:
        backing.put(key, key.encode())
    for prefix in ["", "p", "p/", "p/1", "p/2", "p/2/", "p/2/y/z", "nothing", "q/1/"]:
        expected = {key: len(key) for key in keys if key.startswith(prefix)}
        assert expected == await collect(backing.store.list(prefix))


async def test_list_tells_how_old_an_object_is(backing: Backing) -> None:
    """In seconds since the epoch, where the store knows: what is young is not taken for rubbish."""
    backing.put("k", b"content")
    [stat] = [stat async for stat in backing.store.list("k")]
    assert stat.modified_s is None or abs(stat.modified_s - time.time()) < AN_HOUR_S


async def test_list_of_an_empty_store_yields_nothing(backing: Backing) -> None:
    assert await collect(backing.store.list("")) == {}
    assert await collect(backing.store.list("a/b")) == {}


async def test_calls_run_side_by_side(backing: Backing) -> None:
    for number in range(12):
        backing.put(f"k/{number}", bytes([number]) * 1000)
    answers: dict[int, bytes] = {}

    async def get(number: int) -> None:
        answers[number] = await backing.store.get_range(f"k/{number}", 100, 200)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(get, number)
    assert answers == {number: bytes([number]) * 100 for number in range(12)}


async def test_every_method_checkpoints(backing: Backing, tmp_path: Path) -> None:
    store = backing.store
    backing.put("k", b"data")
    source = make_file(tmp_path, b"x")
    for call in (
        lambda: store.put_file("k2", source),
        lambda: store.get_range("k", 0, 1),
        lambda: store.get_range("k", 1, 1),
        lambda: store.get_file("k", tmp_path / "target"),
        lambda: store.stat("k"),
        lambda: store.delete("k"),
        lambda: store.archive("k"),
        lambda: collect(store.list("")),
    ):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught


async def test_aclose_may_be_repeated(backing: Backing) -> None:
    await backing.store.aclose()
    await backing.store.aclose()


# --- what only some stores have -------------------------------------------------------------------


async def test_many_objects_are_listed_over_several_pages(s3_server: S3Server) -> None:
    store = S3Store(f"s3://{BUCKET}/pages", s3_server.options, TIMEOUT_S, 8)
    with contextlib.closing(s3_server.client()) as client:
        for number in range(1005):
            client.put_object(Bucket=BUCKET, Key=f"pages/{number}", Body=b"")
        assert {str(number): 0 for number in range(1005)} == await collect(store.list(""))
    await store.aclose()


async def test_server_side_encryption_is_asked_for(s3_server: S3Server, tmp_path: Path) -> None:
    store = S3Store(
        f"s3://{BUCKET}/sse", s3_server.options, TIMEOUT_S, 8, server_side_encryption="AES256"
    )
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    large.write_bytes(bytes(2 * PART_BYTES + 1))
    await store.put_file("small", small)
    await store.put_file("large", large)
    with contextlib.closing(s3_server.client()) as client:
        for key in ("sse/small", "sse/large"):
            head = client.head_object(Bucket=BUCKET, Key=key)
            assert head["ServerSideEncryption"] == "AES256"
    assert await store.get_range("small", 0, 5) == b"small"
    await store.aclose()


@pytest.fixture(params=["s3", "gcs", "azure"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """One provider's store class, with what reaches its server."""
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3_server")
        return Cloud("s3", S3Store, s3.options, {**s3.options, "secret": "wrong"})
    if request.param == "gcs":
        gcs: GcsServer = request.getfixturevalue("gcs_server")
        return Cloud("gs", GcsStore, gcs.options, None)
    azure: AzureServer = request.getfixturevalue("azure_server")
    wrong = {"connection_string": azure.connection_string(key="d3Jvbmc=")}
    return Cloud("abfs", AzureStore, azure.options, wrong)


async def test_a_missing_bucket_is_no_missing_object(cloud: Cloud) -> None:
    """One who is told of a missing object takes its bytes for lost."""
    store = cloud.open("memfs-no-such-bucket/x")
    for call in (store.get_range("k", 0, 5), store.stat("k"), collect(store.list(""))):
        with pytest.raises(StoreError, match="memfs-no-such-bucket does not exist") as caught:
            await call
        assert not isinstance(caught.value, ObjectMissingError)
    await store.aclose()


async def test_wrong_credentials_are_refused_for_good(cloud: Cloud, tmp_path: Path) -> None:
    if cloud.wrong_options is None:
        pytest.skip("the server checks no credentials")
    store = cloud.open(f"{BUCKET}/x", cloud.wrong_options)
    for call in (
        store.get_range("k", 0, 5),
        store.stat("k"),
        store.delete("k"),
        store.put_file("k", make_file(tmp_path, b"x")),
        collect(store.list("")),
    ):
        with pytest.raises(StoreError, match=r"; check .* rights") as caught:
            await call
        assert not caught.value.transient
        assert not isinstance(caught.value, ObjectMissingError)
    await store.aclose()


@pytest.mark.parametrize("status", [b"500 Internal", b"503 Slow Down", b"429 Too Many"])
async def test_every_provider_s_failing_server_may_come_back(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with server_that_answers(answer) as url:
        port = int(url.rpartition(":")[2])
        for store in (
            GcsStore(f"gs://{BUCKET}", GcsServer(url).options, TIMEOUT_S, 8),
            AzureStore(f"az://{BUCKET}", AzureServer(port).options, TIMEOUT_S, 8),
        ):
            for call in (store.get_range("k", 0, 5), store.stat("k"), store.delete("k")):
                with pytest.raises(StoreUnavailableError):
                    await call
            await store.aclose()


async def test_every_provider_s_unreachable_server_may_come_back(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for store in (
            GcsStore(f"gs://{BUCKET}", GcsServer(f"http://127.0.0.1:{port}").options, 60.0, 8),
            AzureStore(f"az://{BUCKET}", AzureServer(port).options, 60.0, 8),
        ):
            for call in (
                store.get_range("k", 0, 5),
                store.stat("k"),
                store.put_file("k", make_file(tmp_path, b"x")),
                collect(store.list("")),
            ):
                with pytest.raises(StoreUnavailableError):
                    await call
            await store.aclose()


async def test_the_storage_class_of_google_goes_with_every_upload(
    gcs_server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps no classes, so the requests are watched on their way to it."""
    store = GcsStore(
        f"gs://{BUCKET}/class", gcs_server.options, TIMEOUT_S, 8, storage_class="NEARLINE"
    )
    bodies: list[str] = []
    send = store._fs._call

    def watch(method: str, *arguments: object, **parameters: Any) -> object:  # noqa: ANN401
        data = parameters.get("data")
        bodies.append(str(parameters.get("json") or (data and data.getvalue()[:1000])))
        return send(method, *arguments, **parameters)

    monkeypatch.setattr(store._fs, "_call", watch)
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(bytes(PART_BYTES + 1))
    for name in ("small", "large"):
        bodies.clear()
        await store.put_file(name, tmp_path / name)
        assert "NEARLINE" in bodies[0]
    await store.aclose()


async def test_the_access_tier_of_azure_goes_with_every_upload(
    azure_server: AzureServer, tmp_path: Path
) -> None:
    store = AzureStore(
        f"az://{BUCKET}/tier", azure_server.options, TIMEOUT_S, 8, storage_class="Cool"
    )
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(bytes(PART_BYTES + 1))
    for name in ("small", "large"):
        await store.put_file(name, tmp_path / name)
        assert azure_server.properties(BUCKET, f"tier/{name}").blob_tier == "Cool"
    await store.aclose()


@pytest.mark.parametrize(
    ("scheme", "extra", "ours", "theirs"),
    [
        ("s3", "s3", "memfs.stores.s3", "botocore.exceptions"),
        ("gs", "gcs", "memfs.stores.gcs", "gcsfs.core"),
        ("abfs", "azure", "memfs.stores.azure", "adlfs"),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_command(
    scheme: str,
    extra: str,
    ours: str,
    theirs: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, ours)
    monkeypatch.setitem(sys.modules, theirs, None)
    with pytest.raises(UsageError, match=rf"pip install 'memfs-tiers\[{extra}\]'"):
        open_remote_store(GlacierConfig(url=f"{scheme}://bucket/x"), tmp_path)


def test_an_unknown_access_tier_is_the_users_error(tmp_path: Path) -> None:
    config = GlacierConfig(
        url="az://bucket", storage_class="GLACIER", options=AzureServer(1).options
    )
    with pytest.raises(UsageError, match=r"not one of Azure's: Archive, Cool"):
        open_remote_store(config, tmp_path)


def test_an_unknown_restore_tier_is_the_users_error(tmp_path: Path) -> None:
    config = GlacierConfig(url="s3://bucket", restore_tier="soon")
    with pytest.raises(UsageError, match="not one of bulk, standard, expedited"):
        open_remote_store(config, tmp_path)


class LackingStore(MemoryStore):
    """A store that lacks one ability."""

    def __init__(self, lacks: str) -> None:
        super().__init__()
        self._lacks = lacks

    async def put_file(self, key: str, source: Path) -> None:
        if self._lacks == "replace" and key in self.objects:
            raise StoreError("exists already")
        await super().put_file(key, source)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        data = await super().get_range(key, 0, len(self.objects[key]))
        return data if self._lacks == "range" else data[start:end]

    async def delete(self, key: str) -> None:
        if self._lacks != "remove":
            await super().delete(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        if self._lacks != "list":
            async for stat in super().list(prefix):
                yield stat


@pytest.mark.parametrize("lacks", ["replace", "range", "list", "remove"])
async def test_a_store_that_lacks_an_ability_gets_no_upload(lacks: str, tmp_path: Path) -> None:
    inner = LackingStore(lacks)
    store = ProbedStore(inner)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"cannot be the glacier: it failed to .*{lacks}"):
            await store.put_file("k", make_file(tmp_path, b"x"))
    assert "k" not in inner.objects


async def test_a_store_is_probed_once_and_left_clean(tmp_path: Path) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, FaultScript())
    probed = ProbedStore(store)
    await probed.put_file("k", make_file(tmp_path, b"x"))
    store.script.add(Fault(FaultKind.REFUSED, "list", count=None))
    await probed.put_file("k2", make_file(tmp_path, b"y"))
    assert inner.objects == {"k": b"x", "k2": b"y"}


async def test_an_unreachable_server_may_come_back(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = S3Server(f"http://127.0.0.1:{closed.getsockname()[1]}")
        store = S3Store(f"s3://{BUCKET}/x", server.options, TIMEOUT_S, 8)
        for call in (
            store.get_range("k", 0, 5),
            store.stat("k"),
            store.put_file("k", make_file(tmp_path, b"x")),
        ):
            with pytest.raises(StoreUnavailableError, match=BUCKET):
                await call
        await store.aclose()


@contextlib.contextmanager
def server_that_answers(answer: bytes) -> Iterator[str]:
    """A server that gives all requests on a connection the same answer; empty: it never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            if answer:
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Closing alone does not wake the thread up in accept(2).
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        join(thread)
        for connection in accepted:
            connection.close()


async def test_a_server_that_never_answers_costs_the_deadline_and_no_more() -> None:
    with server_that_answers(b"") as endpoint_url:
        config = GlacierConfig(
            url=f"s3://{BUCKET}/x", options=S3Server(endpoint_url).options, timeout_s=0.5
        )
        store = open_remote_store(config, default_dir=None)  # type: ignore[arg-type]  # not used
        with pytest.raises(StoreUnavailableError, match=r"within 0\.5 s"):
            await store.get_range("k", 0, 5)
        await store.aclose()


@pytest.mark.parametrize("status", [b"500 Internal", b"503 Slow Down", b"429 Too Many"])
async def test_a_failing_server_may_come_back(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with server_that_answers(answer) as endpoint_url:
        store = S3Store(f"s3://{BUCKET}", S3Server(endpoint_url).options, TIMEOUT_S, 8)
        with pytest.raises(StoreUnavailableError):
            await store.get_range("k", 0, 5)
        with pytest.raises(StoreUnavailableError):
            await store.stat("k")
        await store.aclose()


async def test_the_storage_class_goes_with_every_upload(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows no classes, so the requests are watched on their way to it."""
    store = S3Store(
        f"s3://{BUCKET}/class", s3_server.options, TIMEOUT_S, 8, storage_class="STANDARD_IA"
    )
    requests: list[dict[str, object]] = []

    def watched(send: Callable[..., object]) -> Callable[..., object]:
        def watch(method: str, *arguments: object, **parameters: object) -> object:
            requests.append({"method": method, **parameters})
            return send(method, *arguments, **parameters)

        return watch

    # What has no body goes by the client's own way.
    monkeypatch.setattr(store._fs, "_call_s3", watched(store._fs._call_s3))
    monkeypatch.setattr(store._bucket, "send", watched(store._bucket.send))
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(bytes(2 * PART_BYTES + 1))
    await store.put_file("small", tmp_path / "small")
    await store.put_file("large", tmp_path / "large")
    classes = {str(request["method"]): request.get("StorageClass") for request in requests}
    assert classes["put_object"] == "STANDARD_IA"
    assert classes["create_multipart_upload"] == "STANDARD_IA"
    await store.aclose()


async def test_an_unmounted_directory_loses_no_object(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", TIMEOUT_S, 8)
    await store.put_file("k", make_file(tmp_path, b"x"))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    for call in (
        store.get_range("k", 0, 1),
        store.stat("k"),
        store.put_file("k2", tmp_path / "source"),
        collect(store.list("")),
    ):
        with pytest.raises(StoreUnavailableError, match="mount it again"):
            await call
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    assert await store.get_range("k", 0, 1) == b"x"


async def test_a_directory_store_syncs_before_it_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def note(call: str, place: int | Path, *_target: Path) -> None:
        events.append(f"{call} {name_of(place)}" if isinstance(place, int) else call)

    store = DirectoryStore(tmp_path / "store", TIMEOUT_S, 8)
    intercept(monkeypatch, "fsync", "rename", before=note)
    await store.put_file("a/b/k", make_file(tmp_path, b"x"))
    assert events.index("rename") == 1
    assert events[0].startswith("fsync ")
    assert set(events[2:]) >= {"fsync b", "fsync a", "fsync store"}


async def test_an_unfinished_upload_of_a_dead_process_is_cleared_in_time(tmp_path: Path) -> None:
    unfinished = tmp_path / "store" / UNFINISHED
    unfinished.mkdir(parents=True)
    (unfinished / "old").write_bytes(b"x")
    (unfinished / "new").write_bytes(b"x")
    os.utime(unfinished / "old", (0, 0))
    store = DirectoryStore(tmp_path / "store", TIMEOUT_S, 8)
    assert [path.name for path in unfinished.iterdir()] == ["new"]
    assert await collect(store.list("")) == {}


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/./b", f"{UNFINISHED}/a"])
async def test_a_directory_store_refuses_keys_that_are_no_paths_below_it(
    tmp_path: Path, key: str
) -> None:
    store = DirectoryStore(tmp_path / "store", TIMEOUT_S, 8)
    with pytest.raises(InvalidValueError):
        await store.stat(key)


@pytest.mark.parametrize(
    ("url", "expected"),
    [(None, "file://{dir}/glacier"), ("file://{dir}/other", "file://{dir}/other")],
)
async def test_the_configured_url_chooses_the_store(
    tmp_path: Path, url: str | None, expected: str
) -> None:
    (tmp_path / "other").mkdir()
    config = GlacierConfig(url=url and url.format(dir=tmp_path))
    store = open_remote_store(config, tmp_path / "glacier")
    assert expected.format(dir=tmp_path) == store.url
    await store.put_file("k", make_file(tmp_path, b"x"))
    assert (tmp_path / expected.removeprefix("file://{dir}/") / "k").read_bytes() == b"x"
    await store.aclose()


@pytest.mark.parametrize("url", ["file://host/dir", "file:dir", "nosuch://x", "s4://bucket"])
def test_a_wrong_url_is_the_users_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match=r"glacier\.url"):
        open_remote_store(GlacierConfig(url=url), tmp_path)


def test_a_directory_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    missing = tmp_path / "mistyped"
    with pytest.raises(UsageError, match=f"{missing} is no directory"):
        open_remote_store(GlacierConfig(url=f"file://{missing}"), tmp_path)
    assert not missing.exists()


def test_a_url_is_shown_without_its_secrets() -> None:
    store = FsspecStore("memory://user:password@host/dir?token=x", {}, TIMEOUT_S, 1)
    assert store.url == "memory://host/dir"
