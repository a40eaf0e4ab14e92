"""The metering decorator: what is asked of a store is counted against the quotas of the day.

Invariant: nothing that a program may wait for is refused; removing objects is, since garbage can
wait.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import trio

from memfs.policy.quotas import Spent
from memfs.stores.forwarding import ForwardingStore
from memfs.stores.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.policy.quotas import Cost
    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore

PAGE_COUNT = 1000
"""Objects on one page of a listing, the maximum of S3 and the default of others."""


class Meter(Protocol):
    """Counts what is spent; its methods are called on the event loop's thread."""

    def spend(self, spent: Spent, amount: int) -> None:
        """Count an amount."""
        ...

    def check(self, cost: Cost) -> None:
        """Raise `QuotaSpentError` if something does not fit the quotas now."""
        ...


def transfer_request_count(size: int) -> int:
    """Return the requests that a transfer of `size` bytes takes at most: parts, begin and end."""
    return 2 + -(-size // PART_BYTES)


class _CountingSource:
    """A source that knows how much was taken of it."""

    def __init__(self, inner: ByteSource) -> None:
        self._inner = inner
        self.taken_bytes = 0

    @property
    def size_max(self) -> int:
        return self._inner.size_max

    def read(self) -> bytes:
        data = self._inner.read()
        self.taken_bytes += len(data)
        return data

    def close(self) -> None:
        self._inner.close()


class MeteredStore(ForwardingStore):
    """A store whose calls are counted, each attempt of those that are repeated.

    Args:
        meter: Told of requests and bytes.
    """

    def __init__(self, inner: RemoteStore, meter: Meter) -> None:
        super().__init__(inner)
        self._meter = meter

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store; counted as sent whole, even if it fails on the way."""
        size = (await trio.to_thread.run_sync(os.stat, source)).st_size
        self._meter.spend(Spent.REQUESTS, transfer_request_count(size))
        self._meter.spend(Spent.UPLOAD, size)
        await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store; counted is what was taken of it, even if it fails on the way."""
        counting = _CountingSource(source)
        try:
            await self._inner.put_stream(key, counting)
        finally:
            self._meter.spend(Spent.REQUESTS, transfer_request_count(counting.taken_bytes))
            self._meter.spend(Spent.UPLOAD, counting.taken_bytes)

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the inner store."""
        self._meter.spend(Spent.REQUESTS, 1)
        return await self._inner.list_uploads(prefix)

    async def abort_uploads(self, key: str) -> int:
        """As the inner store."""
        self._meter.spend(Spent.REQUESTS, 1)
        return await self._inner.abort_uploads(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store."""
        self._meter.spend(Spent.REQUESTS, 1)
        content = await self._inner.get_range(key, start, end)
        self._meter.spend(Spent.EGRESS, len(content))
        return content

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store."""
        await self._inner.get_file(key, target)
        size = (await trio.to_thread.run_sync(os.stat, target)).st_size
        self._meter.spend(Spent.REQUESTS, transfer_request_count(size))
        self._meter.spend(Spent.EGRESS, size)

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store."""
        self._meter.spend(Spent.REQUESTS, 1)
        return await self._inner.stat(key)

    async def delete(self, key: str) -> None:
        """As the inner store.

        Raises:
            QuotaSpentError: The requests of the day are spent.
        """
        self._meter.check({Spent.REQUESTS: 1})
        self._meter.spend(Spent.REQUESTS, 1)
        await self._inner.delete(key)

    async def archive(self, key: str) -> None:
        """As the inner store."""
        self._meter.spend(Spent.REQUESTS, 1)
        await self._inner.archive(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the inner store."""
        count = 0
        async for stat in self._inner.list(prefix):
            if count % PAGE_COUNT == 0:
                self._meter.spend(Spent.REQUESTS, 1)
            count += 1
            yield stat
