"""A web server is a source: what its headers tell without sense is not known, and stops nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from memfs.errors import (
    CorruptDataError,
    ObjectChangedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
)
from memfs.stores.remote import open_source
from memfs.stores.told import SIZE_UNKNOWN
from tests.servers.web import WebServer, running_web_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from memfs.stores.source import SourceObject, SourceStore

TIMEOUT_S = 60.0
NEW_YEAR_NS = 1_767_225_600 * 10**9


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running_web_server() as server:
        server.files = {
            "set/a.csv": b"0123456789",
            "set/deep/b c": b"b" * 300_000,
            "set/deep/er/empty": b"",
            "set/z": b"z",
            "other": b"not below it",
        }
        yield server


@contextlib.asynccontextmanager
async def opened(web: WebServer, timeout_s: float = TIMEOUT_S) -> AsyncIterator[SourceStore]:
    store = open_source(f"{web.url}/set", {}, timeout_s)
    try:
        yield store
    finally:
        await store.aclose()


async def listed(
    store: SourceStore, prefix: str = "", *, shallow: bool = False
) -> dict[str, SourceObject]:
    pages = store.list_pages(prefix, shallow=shallow)
    return {each.key: each async for page in pages for each in page}


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("knows_head", [True, False])
@pytest.mark.parametrize("has_etags", [True, False])
async def test_files_are_listed_by_links_and_read_by_ranges(
    web: WebServer, knows_ranges: bool, knows_head: bool, has_etags: bool
) -> None:
    web.knows_ranges, web.knows_head, web.has_etags = knows_ranges, knows_head, has_etags
    web.links["set/"] = ["?C=N;O=D", "../", "/other", "http://elsewhere.example/x", "#top"]
    async with opened(web) as store:
        found = await listed(store)
        assert [*found] == ["a.csv", "deep/b c", "deep/er/empty", "z"]
        assert [each.size for each in found.values()] == [10, 300_000, 0, 1]
        assert {each.mtime_ns for each in found.values()} == {NEW_YEAR_NS}
        assert [*await listed(store, shallow=True)] == ["a.csv", "deep/", "z"]
        assert [*await listed(store, "deep/", shallow=True)] == ["deep/b c", "deep/er/"]
        assert await store.read(found["a.csv"], 3, 7) == b"3456"
        assert await store.read(found["deep/b c"], 299_000, 300_000) == b"b" * 1000
        web.files["set/a.csv"] = b"0123456789 and more"
        with pytest.raises(ObjectChangedError):
            await store.read(found["a.csv"], 3, 7)
        del web.files["set/a.csv"]
        with pytest.raises(ObjectMissingError):
            await store.read(found["a.csv"], 3, 7)


@pytest.mark.parametrize("told", ["yesterday", "Thu, 01 Jan 20260 00:00:00 GMT", "0", ""])
async def test_a_time_that_makes_no_sense_is_not_known(web: WebServer, told: str) -> None:
    web.headers["set/a.csv"] = {"Last-Modified": told}
    async with opened(web) as store:
        found = (await listed(store))["a.csv"]
        assert (found.size, found.mtime_ns) == (10, 0)
        assert await store.read(found, 0, 10) == b"0123456789"


@pytest.mark.parametrize("told", ["ten", "-1", "1e1", ""])
async def test_a_length_that_makes_no_sense_is_asked_for_by_a_range(
    web: WebServer, told: str
) -> None:
    web.headers["set/a.csv"], web.lies_to = {"Content-Length": told}, ("HEAD",)
    async with opened(web) as store:
        found = await listed(store)
        assert (found["a.csv"].size, found["z"].size) == (10, 1)
        assert await store.read(found["a.csv"], 0, 10) == b"0123456789"


@pytest.mark.parametrize("told", ["ten", "-1", "1e1"])
async def test_a_length_that_nothing_tells_is_not_known_and_stops_nothing(
    web: WebServer, told: str
) -> None:
    web.headers["set/a.csv"] = {"Content-Length": told}
    async with opened(web) as store:
        found = await listed(store)
        assert (found["a.csv"].size, found["z"].size) == (SIZE_UNKNOWN, 1)
        with pytest.raises(StoreError, match=r"a\.csv"):
            await store.look_at("a.csv")
        web.headers.clear()
        assert (await listed(store))["a.csv"].size == 10


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_server_that_fails_has_not_lost_a_file(web: WebServer, status: int) -> None:
    async with opened(web, 1.0) as store:
        found = (await listed(store))["a.csv"]
        web.statuses["set/a.csv"] = [status] * 100
        for call in (lambda: store.read(found, 0, 5), lambda: store.look_at("a.csv")):
            with pytest.raises(StoreUnavailableError):
                await call()
    web.statuses["set/a.csv"] = [status]
    async with opened(web) as store:
        assert (await store.look_at("a.csv")).size == 10


async def test_a_page_that_is_missing_once_is_asked_for_again(web: WebServer) -> None:
    async with opened(web) as store:
        for path, prefix in (("set/", ""), ("set/deep/", "deep/")):
            before = await listed(store, prefix, shallow=True)
            web.statuses[path] = [404]
            assert await listed(store, prefix, shallow=True) == before
            web.statuses[path] = [404]
            assert len(await listed(store)) == 4


async def test_a_directory_that_is_gone_is_empty_and_a_source_that_is_gone_an_error(
    web: WebServer,
) -> None:
    async with opened(web) as store:
        web.links["set/"] = ["dangling/"]
        assert await listed(store, "dangling/", shallow=True) == {}
        assert len(await listed(store)) == 4
        web.statuses["set/"] = [404] * 100
        for prefix in ("", "dangling/"):
            with pytest.raises(ObjectMissingError, match="the source itself is not there"):
                await listed(store, prefix, shallow=True)
        with pytest.raises(ObjectMissingError):
            await listed(store)


async def test_a_bit_that_is_another_one_is_seen_by_the_digest_of_the_server(
    web: WebServer,
) -> None:
    async with opened(web) as store:
        found = (await listed(store))["a.csv"]
        web.flips = 1
        assert await store.read(found, 0, 10) == b"0123456789"
        web.flips = 2
        with pytest.raises(CorruptDataError, match=r"a\.csv: .*sha256"):
            await store.read(found, 0, 10)
