"""One suite for all places of published objects: conditions hold, and bytes come whole or not."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import pytest
import trio

from memfs.errors import ObjectChangedError, ObjectTakenError, StoreError
from memfs.stores.directory_publishing import DirectoryPublicStore
from memfs.stores.publishing import PublicAttributes
from memfs.stores.remote import open_public_store, open_source
from tests.servers.guarded_gcs import running_guarded_gcs
from tests.servers.process import READY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from memfs.stores.publishing import PublicStore
    from memfs.stores.source import SourceObject

KINDS = ("seaweedfs", "moto", "gcs", "azure", "file", "memory")
SERVERS = {"seaweedfs": "s3_server", "moto": "moto_server"}
SCHEMES = {"seaweedfs": "s3", "moto": "s3", "gcs": "gs", "azure": "abfs"}
WITHOUT_IF_MATCH_OF_PARTS = ("moto",)
"""Servers that ignore If-Match where parts are put together; SeaweedFS and Azurite do not. No
emulator of Google's heeds conditions there: `running_guarded_gcs` does so before one."""
LARGE = os.urandom(5 << 20) + b"and a part of its own"


class Bytes:
    """A `ByteSource` of bytes; may fail at its end."""

    def __init__(self, data: bytes, failure: StoreError | None = None) -> None:
        self._data = data
        self._failure = failure
        self._at = 0
        self.is_closed = False
        self.at_end: Callable[[], None] = lambda: None

    @property
    def size_max(self) -> int:
        return len(self._data)

    def read(self) -> bytes:
        piece = self._data[self._at : self._at + (1 << 20)]
        self._at += len(piece)
        if not piece:
            self.at_end()
            if self._failure is not None:
                raise self._failure
        return piece

    def close(self) -> None:
        self.is_closed = True


class Place(NamedTuple):
    """A store, with all that it was told of uploads."""

    kind: str
    store: PublicStore
    uploads: list[str]
    options: dict[str, object] = {}  # noqa: RUF012  nobody changes it

    async def put(
        self, key: str, source: bytes | Bytes, former: str = "", *, in_parts: bool = False
    ) -> str:
        source = Bytes(source) if isinstance(source, bytes) else source
        attributes = attributes_of(secrets.token_hex(16))
        etag = await self.store.put_if(
            key, source, former, attributes, self.uploads.append, in_parts=in_parts
        )
        assert source.is_closed
        found = await self.store.find(key)
        assert found is not None
        assert found.token in (attributes.token, None)
        assert (found.etag, found.size) == (etag, source.size_max)
        return etag

    async def get(self, key: str) -> bytes | None:
        found = await self.store.find(key)
        return None if found is None else await self.store.read(key, found, 0, found.size)


def attributes_of(token: str) -> PublicAttributes:
    owner = os.geteuid(), os.getegid()
    return PublicAttributes(10**18 + 5, 0o100640, *owner, "text/csv", token)


def nothing(_upload: str) -> None:
    """Nobody wants to know."""


def open_again(place: Place) -> PublicStore:
    return open_public_store(place.store.url, place.options, 60.0)


@asynccontextmanager
async def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    options: dict[str, object] = {}
    stack = contextlib.ExitStack()
    if kind in SCHEMES:
        server: Any = request.getfixturevalue(SERVERS.get(kind, f"{kind}_server"))
        url, options = f"{SCHEMES[kind]}://{READY}/{tmp_path.name}", server.options
        if kind == "gcs":
            guarded = stack.enter_context(running_guarded_gcs(server))
            guarded.takes_all = True
            options = {**options, "endpoint_url": guarded.endpoint_url}
    elif kind == "file":
        (tmp_path / "there").mkdir()
        url = f"file://{tmp_path}/there"
    else:
        url = f"memory://{tmp_path.name}/there"
        fsspec.filesystem("memory").makedirs(f"/{tmp_path.name}/there")
    store = open_public_store(url, options, 60.0)
    if kind in SCHEMES:
        # Two parts of 5 MiB, the least that S3 takes, and not of 8.
        store.part_bytes = 5 << 20  # type: ignore[attr-defined]
    try:
        yield Place(kind, store, [], options)
    finally:
        await store.aclose()
        stack.close()


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with opened(request.param, request, tmp_path) as found:
        yield found


async def test_an_object_is_made_only_where_there_is_no_object(place: Place) -> None:
    etag = await place.put("a/b.csv", b"one")
    assert await place.get("a/b.csv") == b"one"
    with pytest.raises(ObjectTakenError, match="changed by someone else"):
        await place.put("a/b.csv", b"two")
    with pytest.raises(ObjectTakenError):
        await place.put("missing", b"two", etag)
    assert await place.get("a/b.csv") == b"one"
    assert await place.get("missing") is None
    assert await place.store.find("a/no/such/one") is None
    await place.put("empty", b"")
    assert await place.get("empty") == b""


async def test_an_object_is_replaced_and_removed_only_while_it_is_known(place: Place) -> None:
    first = await place.put("a", b"one")
    second = await place.put("a", b"other", first)
    assert second != first
    found = await place.store.find("a")
    assert found is not None
    with pytest.raises(ObjectTakenError):
        await place.put("a", b"third", first)
    with pytest.raises(ObjectTakenError):
        await place.store.delete_if("a", first)
    with pytest.raises(ObjectChangedError):
        await place.store.read("a", found._replace(etag=first), 0, 5)
    assert await place.get("a") == b"other"
    assert await place.store.read("a", found, 1, 3) == b"th"
    await place.store.delete_if("a", second)
    assert await place.get("a") is None
    await place.store.delete_if("a", second)


async def test_a_large_object_is_sent_in_parts_on_the_same_conditions(place: Place) -> None:
    etag = await place.put("large", LARGE)
    assert await place.get("large") == LARGE
    with pytest.raises(ObjectTakenError):
        await place.put("large", LARGE[::-1])
    if place.kind in WITHOUT_IF_MATCH_OF_PARTS:
        return
    smaller = await place.put("large", b"in parts too", etag, in_parts=True)
    with pytest.raises(ObjectTakenError):
        await place.put("large", LARGE[::-1], etag)
    assert await place.get("large") == b"in parts too"
    assert smaller != etag
    for upload in place.uploads:
        # All of them have ended: nothing is there to be ended, and nothing is lost by it.
        await place.store.abort("large", upload)
    assert await place.get("large") == b"in parts too"


@pytest.mark.parametrize("kind", SCHEMES)
async def test_an_object_tells_type_and_metadata_with_its_bytes(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """To who adopts it: a listing does not tell, and another request would cost."""
    async with opened(kind, request, tmp_path) as place:
        await place.put("a", b"some bytes")
        told: list[SourceObject] = []
        source = open_source(place.store.url, place.options, 60.0)
        source.on_told = told.append
        [found] = [each async for page in source.list_pages() for each in page]
        assert await source.read(found, 5, 10) == b"bytes"
        await source.aclose()
        [each] = told
        assert each[:5] == found[:5]
        assert each.content_type == "text/csv"
        assert dict(each.metadata)["mode"] == "100640"


async def test_a_source_that_fails_at_its_end_leaves_what_was_there(place: Place) -> None:
    etag = await place.put("a", b"one")
    failure = StoreError("it was changed")
    for data in (b"two", LARGE):
        with pytest.raises(StoreError, match="it was changed"):
            await place.put("a", Bytes(data, failure), etag)
        with pytest.raises(StoreError, match="it was changed"):
            await place.put("new", Bytes(data, failure))
    assert await place.get("a") == b"one"
    assert await place.get("new") is None


@pytest.mark.parametrize("kind", ["seaweedfs", "moto", "gcs", "azure", "file", "memory"])
@pytest.mark.parametrize("data", [b"ours", LARGE], ids=["whole", "parts"])
async def test_what_appears_while_an_object_is_sent_stays(
    kind: str, data: bytes, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By the condition of the last request, and not by a look before the first one."""
    async with opened(kind, request, tmp_path) as place:
        other = open_again(place)
        source = Bytes(data)

        async def meddle() -> None:
            await Place(kind, other, []).put("a", b"theirs")

        source.at_end = lambda: trio.from_thread.run(meddle)
        with pytest.raises(ObjectTakenError):
            await place.store.put_if("a", source, "", attributes_of("f" * 32), nothing)
        assert await place.get("a") == b"theirs"
        await other.aclose()


async def test_a_file_has_mode_and_time_and_no_link_leads_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "there", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    place = Place("file", DirectoryPublicStore(root, 60.0, 4), [])
    await place.put("deep/a.csv", b"one")
    status = (root / "deep" / "a.csv").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, 10**18 + 5)
    assert os.listdir(root / "deep") == ["a.csv"]
    (root / "link").symlink_to(outside)
    with pytest.raises(StoreError):
        await place.put("link/a", b"one")
    (root / "name").symlink_to(outside / "a")
    with pytest.raises(ObjectTakenError):
        await place.put("name", b"one")
    assert os.listdir(outside) == []
    for key in ("../x", "a//b", ".memfs-new-x"):
        with pytest.raises(StoreError if key == "" else Exception, match="choose another name"):
            await place.put(key, b"")


async def test_a_file_that_was_exchanged_when_the_daemon_died_gets_its_name_back(
    tmp_path: Path,
) -> None:
    """Between the two exchanges the file of somebody else has the temporary name."""
    store = DirectoryPublicStore(tmp_path, 60.0, 4)
    place = Place("file", store, [])
    etag = await place.put("a", b"former")
    [upload] = place.uploads
    token = upload.partition(" ")[0]
    # Ours has the name, theirs the temporary one.
    (tmp_path / f".memfs-new-{token}").write_bytes(b"theirs")
    await store.abort("a", upload)
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]
    # The former one of memfs's own goes, and so does a file that was not whole.
    former = await place.put("b", b"former")
    token = "e" * 32
    await store.put_if("b", Bytes(b"new"), former, attributes_of(token), place.uploads.append)
    os.rename(tmp_path / "b", tmp_path / f".memfs-new-{token}")
    await store.abort("b", f"{token} {former}")
    assert os.listdir(tmp_path) == ["a"]
    assert etag


async def test_an_exchange_that_meets_the_file_of_another_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryPublicStore(tmp_path, 60.0, 4)
    place = Place("file", store, [])
    former = await place.put("a", b"former")
    check = DirectoryPublicStore._check_former

    def meddle(self: DirectoryPublicStore, key: str, *arguments: Any) -> None:  # noqa: ANN401
        check(self, key, *arguments)
        (tmp_path / "of-others").write_bytes(b"theirs")
        os.rename(tmp_path / "of-others", tmp_path / "a")

    monkeypatch.setattr(DirectoryPublicStore, "_check_former", meddle)
    with pytest.raises(ObjectTakenError):
        await place.put("a", b"new", former)
    assert (tmp_path / "a").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]
