"""The limiting decorator: bounded concurrency, transfers and small calls apart.

Invariant: transfers never keep readers waiting, since neither takes the other's tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.stores.forwarding import ForwardingStore

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore


class LimitedStore(ForwardingStore):
    """A store that lets only so many calls through at a time; others wait, in order.

    Args:
        transfer_count_max: `put_file` and `get_file` at a time.
        request_count_max: `get_range`, `stat` and `delete` at a time. Listing is not counted: its
            pages come one by one, and the consumer may pause between them.
    """

    def __init__(self, inner: RemoteStore, transfer_count_max: int, request_count_max: int) -> None:
        super().__init__(inner)
        self._transfers = trio.CapacityLimiter(transfer_count_max)
        self._requests = trio.CapacityLimiter(request_count_max)

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store, when it is this call's turn."""
        async with self._transfers:
            await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store, when it is this call's turn."""
        async with self._transfers:
            await self._inner.put_stream(key, source)

    async def abort_uploads(self, key: str) -> int:
        """As the inner store, when it is this call's turn."""
        async with self._requests:
            return await self._inner.abort_uploads(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store, when it is this call's turn."""
        async with self._requests:
            return await self._inner.get_range(key, start, end)

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store, when it is this call's turn."""
        async with self._transfers:
            await self._inner.get_file(key, target)

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store, when it is this call's turn."""
        async with self._requests:
            return await self._inner.stat(key)

    async def delete(self, key: str) -> None:
        """As the inner store, when it is this call's turn."""
        async with self._requests:
            await self._inner.delete(key)

    async def archive(self, key: str) -> None:
        """As the inner store, when it is this call's turn."""
        async with self._transfers:
            await self._inner.archive(key)
