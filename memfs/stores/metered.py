"""The metering decorator: what is asked of a store is counted, and against the quotas of the day.

Invariant: nothing that a program may wait for is refused; removing objects is, since garbage can
wait.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from memfs.policy.quotas import Spent
from memfs.stores.counts import Call, StoreCounts
from memfs.stores.forwarding import ForwardingStore
from memfs.stores.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractContextManager
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


class CountingSource:
    """A source that knows how much was taken of it."""

    def __init__(self, inner: ByteSource) -> None:
        self._inner = inner
        self.taken_bytes = 0

    @property
    def size_max(self) -> int:
        """As the inner source."""
        return self._inner.size_max

    def read(self) -> bytes:
        """As the inner source."""
        data = self._inner.read()
        self.taken_bytes += len(data)
        return data

    def close(self) -> None:
        """As the inner source."""
        self._inner.close()


class Tally:
    """What the decorators count by: each call of a store, and what it spends of the quotas.

    Args:
        meter: Told of requests and bytes.
        counts: Told of them by call, and of failures; None: nobody wants to know.
    """

    def __init__(self, meter: Meter, counts: StoreCounts | None = None) -> None:
        self._meter = meter
        self._counts = counts or StoreCounts()

    def check(self, cost: Cost) -> None:
        """See `Meter.check`."""
        self._meter.check(cost)

    def note(self, call: Call, count: int = 1) -> None:
        """Count requests."""
        self._meter.spend(Spent.REQUESTS, count)
        self._counts.requests[call] += count

    def watch(self, call: Call) -> AbstractContextManager[None]:
        """Count a failure of the block, and nothing else."""
        return self._counts.watch(call)

    @contextmanager
    def asked(self, call: Call) -> Iterator[None]:
        """Count the one request of the block, and its failure."""
        self.note(call)
        with self.watch(call):
            yield

    def sent(self, size: int) -> None:
        """Count a transfer to the store, and its requests."""
        self.note(Call.PUT, transfer_request_count(size))
        self._meter.spend(Spent.UPLOAD, size)
        self._counts.sent_bytes += size

    def received(self, size: int) -> None:
        """Count bytes from the store."""
        self._meter.spend(Spent.EGRESS, size)
        self._counts.received_bytes += size


class MeteredStore(ForwardingStore):
    """A store whose calls are counted, each attempt of those that are repeated.

    Args:
        meter: Told of requests and bytes.
        counts: Told of them by call, and of failures; None: nobody wants to know.
    """

    def __init__(self, inner: RemoteStore, meter: Meter, counts: StoreCounts | None = None) -> None:
        super().__init__(inner)
        self._tally = Tally(meter, counts)

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store; counted as sent whole, even if it fails on the way."""
        size = (await trio.to_thread.run_sync(os.stat, source)).st_size
        self._tally.sent(size)
        with self._tally.watch(Call.PUT):
            await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store; counted is what was taken of it, even if it fails on the way."""
        counting = CountingSource(source)
        try:
            with self._tally.watch(Call.PUT):
                await self._inner.put_stream(key, counting)
        finally:
            self._tally.sent(counting.taken_bytes)

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the inner store."""
        with self._tally.asked(Call.LIST):
            return await self._inner.list_uploads(prefix)

    async def abort_uploads(self, key: str) -> int:
        """As the inner store."""
        with self._tally.asked(Call.DELETE):
            return await self._inner.abort_uploads(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store."""
        with self._tally.asked(Call.GET):
            content = await self._inner.get_range(key, start, end)
        self._tally.received(len(content))
        return content

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store."""
        with self._tally.watch(Call.GET):
            await self._inner.get_file(key, target)
        size = (await trio.to_thread.run_sync(os.stat, target)).st_size
        self._tally.note(Call.GET, transfer_request_count(size))
        self._tally.received(size)

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store."""
        with self._tally.asked(Call.STAT):
            return await self._inner.stat(key)

    async def delete(self, key: str) -> None:
        """As the inner store.

        Raises:
            QuotaSpentError: The requests of the day are spent.
        """
        self._tally.check({Spent.REQUESTS: 1})
        with self._tally.asked(Call.DELETE):
            await self._inner.delete(key)

    async def archive(self, key: str) -> None:
        """As the inner store."""
        with self._tally.asked(Call.ARCHIVE):
            await self._inner.archive(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the inner store."""
        count = 0
        with self._tally.watch(Call.LIST):
            async for stat in self._inner.list(prefix):
                if count % PAGE_COUNT == 0:
                    self._tally.note(Call.LIST)
                count += 1
                yield stat
