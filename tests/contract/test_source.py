"""Every source lists in order, and returns bytes of the object that was listed or no bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import fsspec
import pytest
from botocore.exceptions import ClientError

from memfs.errors import (
    CorruptDataError,
    ListingOrderError,
    ObjectChangedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from memfs.stores.remote import open_source
from memfs.stores.source import PAGE_COUNT
from memfs.stores.store import PART_BYTES
from tests.servers.lying_s3 import Lie, LyingS3, running_lying_s3
from tests.servers.process import READY
from tests.servers.seaweedfs import READER_KEY, make_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.stores.source import RangeRead, SourceObject, SourceStore
    from tests.servers.azurite import AzureServer
    from tests.servers.fake_gcs import GcsServer
    from tests.servers.seaweedfs import S3Server

TIMEOUT_S = 60.0
VERSIONED = "memfs-versions"
LYING = "memfs-lying"
KEYS = ["a", "a-b", "a/b", "a/b c", "a0", "ordner/grün", "ordner/z", "z/%41+&", "\U0001f600/x"]
"""In order of their bytes; `a` is beside `a/b`."""


class Behind(Protocol):
    """The place behind a source, reached without it."""

    url: str
    options: dict[str, object]
    has_versions: bool

    def put(self, key: str, data: bytes) -> None: ...

    def remove(self, key: str) -> None: ...

    def close(self) -> None: ...


class S3Behind:
    def __init__(self, server: S3Server, bucket: str, prefix: str) -> None:
        self.url, self.options = f"s3://{bucket}/{prefix}", server.options
        self.has_versions = bucket == VERSIONED
        self._client: Any = server.client()
        self._bucket, self._prefix = bucket, prefix

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}", Body=data)

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}/{key}")

    def close(self) -> None:
        self._client.close()


class ServerBehind:
    has_versions = False

    def __init__(self, scheme: str, server: GcsServer | AzureServer, prefix: str) -> None:
        self.url, self.options = f"{scheme}://{READY}/{prefix}", dict(server.options)
        self._server, self._prefix = server, prefix

    def put(self, key: str, data: bytes) -> None:
        self._server.put(READY, f"{self._prefix}/{key}", data)

    def remove(self, key: str) -> None:
        self._server.delete(READY, f"{self._prefix}/{key}")

    def close(self) -> None:
        return


class DirectoryBehind:
    has_versions = False
    options: dict[str, object] = {}  # noqa: RUF012  nobody changes it

    def __init__(self, root: Path, scheme: str) -> None:
        self.url, self._root = f"{scheme}://{root}", root

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        (self._root / key).unlink()

    def close(self) -> None:
        return


class MemoryBehind:
    has_versions = False
    options: dict[str, object] = {}  # noqa: RUF012  nobody changes it

    def __init__(self, name: str) -> None:
        self._fs: Any = fsspec.filesystem("memory")
        self._root = f"/{name}"
        self.url = f"memory:/{self._root}"
        self._fs.makedirs(self._root)

    def put(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{key}", data)

    def remove(self, key: str) -> None:
        self._fs.rm_file(f"{self._root}/{key}")

    def close(self) -> None:
        self._fs.rm(self._root, recursive=True)


def open_behind(kind: str, request: pytest.FixtureRequest, directory: Path) -> Behind:
    name = directory.name
    match kind:
        case "s3":
            return S3Behind(request.getfixturevalue("s3_server"), READY, name)
        case "versions":
            server: S3Server = request.getfixturevalue("moto_server")
            make_bucket(server, VERSIONED)
            with contextlib.closing(server.client()) as client:
                client.put_bucket_versioning(
                    Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"}
                )
            return S3Behind(server, VERSIONED, name)
        case "gcs":
            return ServerBehind("gs", request.getfixturevalue("gcs_server"), name)
        case "azure":
            return ServerBehind("abfs", request.getfixturevalue("azure_server"), name)
        case "memory":
            return MemoryBehind(name)
    (directory / "source").mkdir()
    return DirectoryBehind(directory / "source", kind)


@pytest.fixture(params=["file", "local", "memory", "s3", "versions", "gcs", "azure"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Behind]:
    place = open_behind(request.param, request, tmp_path)
    yield place
    place.close()


@contextlib.asynccontextmanager
async def opened(behind: Behind) -> Any:  # noqa: ANN401  the decorator makes its type
    store = open_source(behind.url, behind.options, TIMEOUT_S)
    try:
        yield store
    finally:
        await store.aclose()


async def keys_of(store: SourceStore) -> list[str]:
    found = [each.key async for page in store.list_pages() for each in page]
    return [key for key in found if not key.endswith("/")]


async def find(store: SourceStore, key: str) -> SourceObject:
    found = [each async for page in store.list_pages() for each in page if each.key == key]
    assert len(found) == 1, key
    return found[0]


def keys_for(behind: Behind) -> list[str]:
    """A path cannot be a file and a directory."""
    is_tree = behind.url.startswith(("file:", "local:", "memory:"))
    return [key for key in KEYS if key != "a" or not is_tree]


async def test_objects_are_listed_in_order(behind: Behind) -> None:
    wanted = keys_for(behind)
    for key in reversed(wanted):
        behind.put(key, key.encode() * 3)
    async with opened(behind) as store:
        found = [
            each async for page in store.list_pages() for each in page if not each.key.endswith("/")
        ]
        assert [each.key for each in found] == wanted
        assert [each.size for each in found] == [len(key.encode()) * 3 for key in wanted]
        assert all(each.etag and each.mtime_ns >= 0 for each in found)
        assert all(bool(each.version) == behind.has_versions for each in found) or (
            behind.url.startswith("gs:")
        )
        assert await keys_of(store) == wanted
        for each in found:
            now = await store.look_at(each.key)
            assert (now.key, now.size, now.etag) == (each.key, each.size, each.etag)


async def test_ranges_are_of_the_object_that_was_listed(behind: Behind) -> None:
    data = os.urandom(100_000)
    behind.put("dir/key", data)
    behind.put("empty", b"")
    async with opened(behind) as store:
        wanted = await find(store, "dir/key")
        for start, end in ((0, 1), (0, 100_000), (99_999, 100_000), (5_000, 70_001), (7, 7)):
            assert await store.read(wanted, start, end) == data[start:end]
        assert await store.read(await find(store, "empty"), 0, 0) == b""


@pytest.mark.parametrize("size", [100, 99, 200])
async def test_an_object_that_was_replaced_is_not_read(behind: Behind, size: int) -> None:
    behind.put("key", b"a" * 100)
    async with opened(behind) as store:
        wanted = await find(store, "key")
        behind.put("key", b"b" * size)
        if behind.has_versions:
            assert await store.read(wanted, 0, 100) == b"a" * 100
        else:
            with pytest.raises(ObjectChangedError):
                await store.read(wanted, 0, 100)
        later = await find(store, "key")
        assert later.etag != wanted.etag
        assert await store.read(later, 0, size) == b"b" * size


async def test_an_object_that_was_removed_is_missing(behind: Behind) -> None:
    behind.put("key", b"a" * 100)
    behind.put("other", b"a" * 100)
    async with opened(behind) as store:
        wanted = await find(store, "key")
        behind.remove("key")
        if behind.has_versions:
            assert await store.read(wanted, 0, 100) == b"a" * 100
        else:
            with pytest.raises(ObjectMissingError):
                await store.read(wanted, 0, 100)
        with pytest.raises(ObjectMissingError):
            await store.look_at("key")
        assert await keys_of(store) == ["other"]


def flip_next(store: SourceStore, times: int) -> None:
    """Have one bit be another one in the next answers with bytes."""
    backend: Any = store._backend
    read_if, left = backend.read_if, [times]

    async def flipped(wanted: SourceObject, start: int, end: int) -> RangeRead:
        read: RangeRead = await read_if(wanted, start, end)
        if not left[0]:
            return read
        left[0] -= 1
        return read._replace(data=bytes([read.data[0] ^ 1]) + read.data[1:])

    backend.read_if = flipped


@pytest.mark.parametrize("behind", ["s3", "versions", "gcs", "azure"], indirect=True)
async def test_a_bit_that_is_another_one_is_seen_by_what_the_store_tells(
    behind: Behind, tmp_path: Path
) -> None:
    """By the ETag that is an MD5, by x-goog-hash, by the MD5 of the blob."""
    data = os.urandom(100_000)
    behind.put("key", data)
    async with opened(behind) as store:
        wanted = await find(store, "key")
        flip_next(store, 1)
        assert await store.read(wanted, 0, 100_000) == data
        # A part of it has no checksum.
        flip_next(store, 1)
        assert await store.read(wanted, 0, 99_999) != data[:-1]
        with (tmp_path / "fetched").open("w+b") as file:
            flip_next(store, 1)
            await store.fetch(wanted, file.fileno(), lambda _done: None)
            assert (tmp_path / "fetched").read_bytes() == data
            flip_next(store, 10)
            with pytest.raises(CorruptDataError, match=r"key: .* checksum"):
                await store.fetch(wanted, file.fileno(), lambda _done: None)
        with pytest.raises(CorruptDataError, match=r"key: .* checksum"):
            await store.read(wanted, 0, 100_000)


async def test_a_directory_tells_attributes_and_leaves_out_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    odd = os.fsdecode(b"\xff\xfe")
    (tmp_path / odd).write_bytes(b"odd")
    store = open_source(f"file://{tmp_path}", {}, TIMEOUT_S)
    (tmp_path / "empty").chmod(0o710)
    found = {each.key: each async for page in store.list_pages() for each in page}
    assert [*found] == ["empty/", "file", "link", odd]
    for name, mode in (("empty/", stat.S_IFDIR | 0o710), ("link", stat.S_IFLNK | 0o777)):
        attributes = found[name].attributes
        assert attributes is not None
        assert (attributes.mode, attributes.uid) == (mode, os.geteuid())
    assert found["link"].attributes is not None
    assert found["link"].attributes.target == b"file"
    assert await store.read(await find(store, odd), 0, 3) == b"odd"
    wanted = await find(store, "file")
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("/etc/passwd")
    with pytest.raises((StoreError, OSError)):
        await store.read(wanted, 0, 1)


async def test_one_directory_is_listed_without_what_is_below(behind: Behind) -> None:
    is_tree = "a" not in keys_for(behind)
    for key in (*keys_for(behind), "a/deep/er/x", "a/deep/y"):
        behind.put(key, b"1")
    async with opened(behind) as store:
        for prefix, expected in (
            ("", ["a", "a-b", "a/", "a0", "ordner/", "z/", "\U0001f600/"]),
            ("a/", ["a/b", "a/b c", "a/deep/"]),
            ("a/deep/", ["a/deep/er/", "a/deep/y"]),
            ("ordner/", ["ordner/grün", "ordner/z"]),
        ):
            pages = store.list_pages(prefix, shallow=True)
            found = [each async for page in pages for each in page]
            wanted = [key for key in expected if key != "a" or not is_tree]
            assert [each.key for each in found] == wanted
            objects = [each for each in found if not each.key.endswith("/")]
            assert all(each.size == 1 and each.etag for each in objects)
            assert all(bool(each.version) == behind.has_versions for each in objects) or (
                behind.url.startswith("gs:")
            )


async def test_a_directory_is_listed_in_pages(tmp_path: Path) -> None:
    names = [f"d{number % 7}/{number:05}" for number in range(2 * PAGE_COUNT + 5)]
    for number in range(7):
        (tmp_path / f"d{number}").mkdir()
    for name in names:
        (tmp_path / name).touch()
    store = open_source(f"file://{tmp_path}", {}, TIMEOUT_S)
    pages = [page async for page in store.list_pages()]
    assert [len(page) for page in pages] == [PAGE_COUNT, PAGE_COUNT, 12]
    assert await keys_of(store) == sorted(names)


async def test_a_file_that_was_changed_is_not_kept_open(tmp_path: Path) -> None:
    """`memfs adopt --move` left it where it was, as one that a program has open."""
    path = tmp_path / "a"
    path.write_bytes(b"before")
    store = open_source(f"file://{tmp_path}", {}, 30.0)
    [[found]] = [page async for page in store.list_pages()]
    path.write_bytes(b"another one")
    with pytest.raises(ObjectChangedError) as opening:
        await store.open_local(found)
    with pytest.raises(ObjectChangedError) as reading:
        await store.read(found, 0, 3)
    assert {each.value.errno for each in (opening, reading)} == {errno.ESTALE}
    fds = [Path(each.path) for each in os.scandir("/proc/self/fd")]
    assert [fd for fd in fds if fd.exists() and fd.samefile(path)] == []
    await store.aclose()


async def test_a_directory_that_is_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    store = open_source(f"file://{tmp_path}/source", {}, 0.5)
    (tmp_path / "source").rmdir()
    with pytest.raises(StoreUnavailableError):
        await keys_of(store)
    with pytest.raises(UsageError, match="no directory"):
        open_source(f"file://{tmp_path}/source", {}, 0.5)


@pytest.mark.parametrize("url", ["bucket/prefix", "/data", "nothing://x", "file://host/x"])
def test_what_is_no_source_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_source(url, {}, TIMEOUT_S)


@pytest.fixture
def lying() -> Iterator[LyingS3]:
    with running_lying_s3(LYING) as state:
        yield state


async def test_a_store_without_conditions_is_found_out(lying: LyingS3) -> None:
    """It sends other bytes; the etag beside them tells."""
    lying.objects["p/key"] = b"a" * 100
    lying.ignores_conditions = True
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    wanted = await find(store, "key")
    for later in (b"b" * 100, b"a" * 99, b"a" * 101):
        lying.objects["p/key"] = later
        with pytest.raises(ObjectChangedError):
            await store.read(wanted, 0, 100)
    await store.aclose()


@pytest.mark.parametrize("lie", [Lie.SHORT, Lie.CUT, Lie.WHOLE, Lie.HTML, Lie.OTHER, Lie.MISSING])
async def test_a_single_answer_that_is_not_the_range_is_asked_for_again(
    lying: LyingS3, lie: Lie
) -> None:
    lying.objects["p/key"], lying.objects["p/other"] = b"a" * 100, b"c" * 100
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    wanted = await find(store, "key")
    lying.lie("GET", lie)
    assert await store.read(wanted, 10, 60) == b"a" * 50
    assert not lying.lies_left
    await store.aclose()


async def test_a_large_object_whose_parts_have_a_bit_flipped_is_fetched_again(
    lying: LyingS3, tmp_path: Path
) -> None:
    data = os.urandom(PART_BYTES + 1000)
    lying.objects["p/key"] = data
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    wanted = await find(store, "key")
    lying.lie("GET", Lie.FLIP)
    with (tmp_path / "fetched").open("w+b") as file:
        await store.fetch(wanted, file.fileno(), lambda _done: None)
    assert (tmp_path / "fetched").read_bytes() == data
    assert lying.counts["GET"] == 4
    await store.aclose()


@pytest.mark.parametrize("told", ["x-amz-server-side-encryption", "no-md5"])
async def test_an_etag_that_is_no_checksum_is_not_compared(lying: LyingS3, told: str) -> None:
    """As of objects whose key is that of KMS."""
    lying.objects["p/key"] = b"a" * 100
    lying.told_of["p/key"] = {told: "aws:kms"}
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    wanted = await find(store, "key")
    lying.lie("GET", Lie.FLIP)
    assert (await store.read(wanted, 0, 100) == b"a" * 100) == (told == "no-md5")
    await store.aclose()


async def test_a_source_needs_no_right_to_write_and_never_tries(lying: LyingS3) -> None:
    lying.is_read_only = True
    lying.page_count = 3
    for number in range(10):
        lying.objects[f"p/{number}"] = b"x" * 10
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    found = [each async for page in store.list_pages() for each in page]
    assert [each.key for each in found] == [str(number) for number in range(10)]
    for each in found:
        assert await store.read(each, 0, 10) == b"x" * 10
    assert lying.counts.keys() <= {"GET", "HEAD", "LIST", "VERSIONING"}
    await store.aclose()


async def test_keys_that_may_only_read_are_enough(s3_server: S3Server, tmp_path: Path) -> None:
    """On a server that checks them; what would change something is refused there."""
    data = os.urandom(20_000)
    behind = S3Behind(s3_server, READY, tmp_path.name)
    behind.put("dir/key", data)
    options = {**s3_server.options, "key": READER_KEY}
    source = open_source(behind.url, options, TIMEOUT_S)
    wanted = await find(source, "dir/key")
    assert await source.read(wanted, 5, 19_999) == data[5:19_999]
    [looked] = await source.look_at_all([wanted])
    assert looked[:5] == wanted[:5]
    path = tmp_path / "fetched"
    with path.open("w+b") as file:
        await source.fetch(wanted, file.fileno(), lambda _done: None)
    assert path.read_bytes() == data
    await source.aclose()
    reader = replace(s3_server, access_key=READER_KEY)
    with contextlib.closing(reader.client()) as client:
        made: Any = client
        target = {"Bucket": READY, "Key": f"{tmp_path.name}/dir/key"}
        for refused in (made.put_object, made.delete_object):
            with pytest.raises(ClientError, match="AccessDenied"):
                refused(**target)
    behind.close()


@pytest.mark.parametrize("behind", ["local"], indirect=True)
@pytest.mark.parametrize("error", [PermissionError(13, "no"), ConnectionResetError(104, "gone")])
async def test_a_directory_that_cannot_be_listed_is_no_empty_one(
    behind: Behind, error: OSError
) -> None:
    """As fsspec's own search has it: what is below would count as removed."""
    for key in ("a/x", "b/y", "c"):
        behind.put(key, b"1")
    store = open_source(behind.url, behind.options, 1.0)
    assert await keys_of(store) == ["a/x", "b/y", "c"]
    fs: Any = store._backend._fs  # type: ignore[attr-defined]
    ls = fs.ls

    def refusing(path: str, *arguments: object, **more: object) -> object:
        if path.endswith("/b"):
            raise error
        return ls(path, *arguments, **more)

    fs.ls = refusing
    with pytest.raises(StoreError):
        await keys_of(store)
    fs.ls = ls
    await store.aclose()


async def test_a_listing_that_ends_early_is_an_error(lying: LyingS3) -> None:
    for number in range(10):
        lying.objects[f"p/{number}"] = b"x"
    lying.page_count = 4
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    found: list[str] = []

    async def read_all() -> None:
        async for page in store.list_pages():
            found.extend(each.key for each in page)
            lying.lie("LIST", Lie.MISSING, times=50)

    with pytest.raises(StoreError):
        await read_all()
    assert found == ["0", "1", "2", "3"]
    await store.aclose()


async def test_a_source_that_lists_in_another_order_is_sorted(lying: LyingS3) -> None:
    """As by directories; once that shows late, what was yielded does not count."""
    keys = [f"{number:02}" for number in range(10)]
    for key in [*keys[:6], *reversed(keys[6:])]:
        lying.objects[f"p/{key}"] = b"x"
    lying.page_count, lying.is_ordered = 4, False
    store = open_source(f"s3://{LYING}/p", lying.server.options, TIMEOUT_S)
    with pytest.raises(ListingOrderError):
        await keys_of(store)
    assert await keys_of(store) == keys
    await store.aclose()
