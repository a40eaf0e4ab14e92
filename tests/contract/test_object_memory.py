"""What of objects is in memory: the parts that are announced, and each of them once."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from memfs.stores.parts import PartSlots
from memfs.stores.s3 import S3Store
from memfs.stores.store import PART_BYTES
from tests.servers.moto import running_moto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.servers.seaweedfs import S3Server

BUCKET = "memory"
SLOT_COUNT = 4
SIZE = 2 * SLOT_COUNT * PART_BYTES
EASE_BYTES = 12 << 20
"""What the client takes besides: 3 MiB as a rule for sockets and buffers, 8 MiB when it loads more
of its classes meanwhile. Parts that were in memory twice would take 32 MiB."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_moto(BUCKET) as running:
        yield running


@pytest.fixture
async def store(server: S3Server) -> AsyncIterator[S3Store]:
    slots = PartSlots(SLOT_COUNT * PART_BYTES, 1)
    store = S3Store(f"s3://{BUCKET}/a", server.options, 60.0, 8, parts=slots)
    await store.put_stream("first", _Bytes(100))  # loads what the client needs
    await store.get_range("first", 0, 100)
    yield store
    await store.aclose()


class _Bytes:
    """A source of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size_max = size
        self._left = size

    def read(self) -> bytes:
        count = min(self._left, 100_000)
        self._left -= count
        return bytes(count)

    def close(self) -> None:
        """Close nothing."""


async def peak_bytes(act: Callable[[], Awaitable[object]]) -> int:
    """Return by how much memory grew meanwhile at the most."""
    tracemalloc.start()
    try:
        await act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_parts_of_an_upload_are_in_memory_once(store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(SIZE))
    assert await peak_bytes(lambda: store.put_file("whole", source)) < (
        SLOT_COUNT * PART_BYTES + EASE_BYTES
    )
    assert (await store.stat("whole")).size == SIZE


async def test_an_object_of_one_request_is_read_while_it_is_sent(
    store: S3Store, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(2 * PART_BYTES))
    assert await peak_bytes(lambda: store.put_file("small", source)) < EASE_BYTES
    assert (await store.stat("small")).size == 2 * PART_BYTES


async def test_parts_of_a_stream_are_in_memory_once(store: S3Store) -> None:
    # The part that is gathered meanwhile is one more.
    assert await peak_bytes(lambda: store.put_stream("stream", _Bytes(SIZE))) < (
        (SLOT_COUNT + 1) * PART_BYTES + EASE_BYTES
    )
    assert (await store.stat("stream")).size == SIZE


async def test_parts_that_are_fetched_are_in_memory_once(store: S3Store, tmp_path: Path) -> None:
    await store.put_stream("there", _Bytes(SIZE))
    assert await peak_bytes(lambda: store.get_file("there", tmp_path / "target")) < (
        SLOT_COUNT * PART_BYTES + EASE_BYTES
    )
    assert (tmp_path / "target").stat().st_size == SIZE


async def test_a_range_is_in_memory_once(store: S3Store) -> None:
    await store.put_stream("range", _Bytes(SIZE))

    async def fetch() -> None:
        assert len(await store.get_range("range", 0, SIZE)) == SIZE

    assert await peak_bytes(fetch) < SIZE * 9 // 8 + EASE_BYTES
