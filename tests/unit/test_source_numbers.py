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
async def test_a_size_that_cannot_be_is_named(size: int) -> None:
    store = opened(SourceObject("dir/a", size, "etag", 0))
    with pytest.raises(StoreError, match="dir/a: a size of"):
        await listed(store)
    with pytest.raises(StoreError, match="dir/a: a size of"):
        await store.look_at("dir/a")


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
