"""Numbers that a source tells: a file system may tell any, and so may a server."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, cast

import pytest

from memfs.errors import InvalidValueError, StoreError
from memfs.linux.times import TIME_NS_MAX, TIME_NS_MIN
from memfs.stores.health import StoreHealth
from memfs.stores.remote import open_source
from memfs.stores.retry import RepeatedCalls, RetryPolicy
from memfs.stores.source import SIZE_MAX, SourceBackend, SourceObject, SourceStore
from memfs.stores.told import SIZE_UNKNOWN, iso_ns, size_of
from memfs.stores.web import http_date_ns
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.source import ObjectPage


class Told:
    """A source that tells one object."""

    url = "s3://bucket"

    def __init__(self, told: SourceObject) -> None:
        self._told = told

    async def list_objects(self, page: str, prefix: str, *, shallow: bool) -> ObjectPage:
        return [self._told], None

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        return self._told


def opened(told: SourceObject) -> SourceStore:
    calls = RepeatedCalls(
        "s3://bucket", RetryPolicy(deadline_s=10.0), random.Random(1), StoreHealth()
    )
    return SourceStore(cast("SourceBackend", Told(told)), calls)


async def listed(store: SourceStore) -> list[SourceObject]:
    return [each async for page in store.list_pages() for each in page]


@pytest.mark.parametrize(
    ("told_ns", "stored_ns"),
    [(10**20, TIME_NS_MAX), (-(10**20), TIME_NS_MIN), (TIME_NS_MAX, TIME_NS_MAX), (0, 0)],
)
async def test_a_time_is_cut_to_what_can_be_stored(told_ns: int, stored_ns: int) -> None:
    """The year 2600 in one file of a source stopped all of its adoption."""
    store = opened(SourceObject("a", 1, "etag", told_ns))
    assert [each.mtime_ns for each in await listed(store)] == [stored_ns]
    assert (await store.look_at("a")).mtime_ns == stored_ns


@pytest.mark.parametrize("size", [-1, SIZE_MAX + 1])
async def test_a_size_that_cannot_be_is_not_known(size: int) -> None:
    """It does not stop the listing of all others; a look at the object is an error by its name."""
    store = opened(SourceObject("dir/a", size, "etag", 0))
    assert [each.size for each in await listed(store)] == [SIZE_UNKNOWN]
    with pytest.raises(StoreError, match="dir/a: a size of"):
        await store.look_at("dir/a")


@pytest.mark.parametrize("told", ["", "ten", "1e3", None, 1.5, b"1"])
def test_a_number_that_makes_no_sense_is_not_known(told: object) -> None:
    assert size_of(told) == SIZE_UNKNOWN
    assert (size_of("12"), size_of(12)) == (12, 12)


@pytest.mark.parametrize("told", ["", "yesterday", "Thu, 32 Jan 2026 00:00:00 GMT", "99999-01-01"])
def test_a_time_that_makes_no_sense_is_not_known(told: str) -> None:
    assert (iso_ns(told), http_date_ns(told)) == (0, 0)


def test_times_are_read_as_they_are_written() -> None:
    assert iso_ns("2026-01-01T00:00:00.5Z") == 1_767_225_600_500_000_000
    assert http_date_ns("Thu, 01 Jan 2026 00:00:00 GMT") == 1_767_225_600_000_000_000


async def test_a_file_of_the_far_future_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.utime(path, (1 << 34, 1 << 34))
    store = open_source(f"file://{tmp_path}", {}, 10.0)
    assert [each.mtime_ns for each in await listed(store)] == [TIME_NS_MAX]
    await store.aclose()


@pytest.mark.parametrize("text", ["s3://[x", "s3://\udcff/x", "s3://]"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is no URL"):
        url_without_secrets(text)
