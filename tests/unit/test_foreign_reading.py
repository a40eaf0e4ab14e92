"""Ranges of foreign objects: each frame is fetched once, and more of them for who reads on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from memfs.content.foreign import FRAME_BYTES, ForeignReader
from memfs.errors import ObjectChangedError
from memfs.metadata.records import Form
from memfs.stores.source import RangeRead, SourceObject
from memfs.types import NO_BLOB, FormCoding, FormKind, Layout, Place
from tests.moving import incompressible
from tests.unit.fakes.bucket import Bucket

if TYPE_CHECKING:
    from memfs.content.sources import Sources
    from memfs.stores.source import SourceStore

SIZE = 40 * FRAME_BYTES + 123
DATA = incompressible(SIZE)
PIECE = 64 << 10


class CountingBucket(Bucket):
    """Remembers what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int]] = []
        self.put("key", DATA)

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        self.ranges.append((start, end))
        return await super().read_if(wanted, start, end)

    @property
    def form(self) -> Form:
        """The object as the engine tells it."""
        etag, data = self.objects["key"]
        coding, place = FormCoding("none"), Place("key", None, "9", etag)
        kind, layout = FormKind.REMOTE, Layout.PLAIN
        return Form(NO_BLOB, kind, place, coding, len(data), layout, owned=False)


class OneSource:
    """Stands for `Sources`."""

    def __init__(self, bucket: Bucket) -> None:
        self._store = bucket.open()

    async def store_of_form(self, form: Form) -> tuple[SourceStore, SourceObject]:
        return self._store, SourceObject("key", form.stored_bytes, form.place.etag, 0)


def reader_of(bucket: Bucket) -> ForeignReader:
    return ForeignReader(cast("Sources", OneSource(bucket)))


async def test_who_reads_on_has_larger_runs_fetched_ahead() -> None:
    bucket = CountingBucket()
    reader, form = reader_of(bucket), bucket.form
    for offset in range(0, SIZE, PIECE):
        size = min(PIECE, SIZE - offset)
        assert await reader.read(form, offset, size) == DATA[offset : offset + size]
        await trio.testing.wait_all_tasks_blocked()
    # No byte was fetched twice, and not one is missing.
    assert sorted(bucket.ranges) == bucket.ranges
    assert [start for start, _ in bucket.ranges] == [0, *(end for _, end in bucket.ranges[:-1])]
    assert bucket.ranges[-1][1] == SIZE
    assert len(bucket.ranges) <= 7


async def test_reads_here_and_there_fetch_a_frame_each() -> None:
    bucket = CountingBucket()
    reader, form = reader_of(bucket), bucket.form
    for number in (30, 3, 17, 9):
        offset = number * FRAME_BYTES + 100
        assert await reader.read(form, offset, 50) == DATA[offset : offset + 50]
        await trio.testing.wait_all_tasks_blocked()
    assert all(end - start == FRAME_BYTES for start, end in bucket.ranges)
    assert len(bucket.ranges) == 4


async def test_many_readers_of_a_frame_fetch_it_once() -> None:
    bucket = CountingBucket()
    reader, form = reader_of(bucket), bucket.form
    found: list[bytes] = []

    async def read() -> None:
        found.append(await reader.read(form, 5, 10))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
    assert found == [DATA[5:15]] * 5
    assert len(bucket.ranges) == 1


async def test_what_fails_ahead_is_told_to_who_reads_it() -> None:
    bucket = CountingBucket()
    reader, form = reader_of(bucket), bucket.form
    for offset in range(0, 3 * FRAME_BYTES, FRAME_BYTES):
        await reader.read(form, offset, FRAME_BYTES)
    bucket.put("key", DATA)
    await trio.testing.wait_all_tasks_blocked()
    # Some of it was fetched ahead before.
    with pytest.raises(ObjectChangedError):
        await reader.read(form, 0, SIZE)
