"""The forwarding decorator: hands every call on; others override what they add to.

Invariant: a call that is new in the contract is handed on here once, for all decorators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore


class ForwardingStore:
    """A store that is another one."""

    def __init__(self, inner: RemoteStore) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        """The inner store's."""
        return self._inner.url

    @property
    def slots(self) -> PartSlots:
        """The inner store's."""
        return self._inner.slots

    def of(self, address: str) -> RemoteStore:
        """Itself."""
        return self

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store."""
        await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store."""
        await self._inner.put_stream(key, source)

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the inner store."""
        return await self._inner.list_uploads(prefix)

    async def abort_uploads(self, key: str) -> int:
        """As the inner store."""
        return await self._inner.abort_uploads(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store."""
        return await self._inner.get_range(key, start, end)

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store."""
        await self._inner.get_file(key, target)

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store."""
        return await self._inner.stat(key)

    async def delete(self, key: str) -> None:
        """As the inner store."""
        await self._inner.delete(key)

    async def archive(self, key: str) -> None:
        """As the inner store."""
        await self._inner.archive(key)

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the inner store."""
        return self._inner.list(prefix)

    async def aclose(self) -> None:
        """Close the inner store."""
        await self._inner.aclose()
