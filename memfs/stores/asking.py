"""The asking decorator: before each change it asks whether changes are allowed.

Invariant: a call that changes objects, or after which a local copy may be dropped, does not reach
the store before it was allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.stores.forwarding import ForwardingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore


class AskingStore(ForwardingStore):
    """A store that is read by everybody, and changed by those who may.

    Args:
        ask: Returns if changes are allowed; raises an error if not.
        ask_to_drop: Before local copies go for what is there; None: `ask`.
        ask_to_remove: Before an object goes; None: `ask`.
    """

    def __init__(
        self,
        inner: RemoteStore,
        ask: Callable[[], Awaitable[None]],
        ask_to_drop: Callable[[], Awaitable[None]] | None = None,
        ask_to_remove: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(inner)
        self._ask = ask
        self._ask_to_drop = ask_to_drop or ask
        self._ask_to_remove = ask_to_remove or ask

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store, where it is allowed."""
        await self._ask()
        await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store, where it is allowed."""
        try:
            await self._ask()
        except BaseException:
            source.close()
            raise
        await self._inner.put_stream(key, source)

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store, where it is allowed: copies are dropped for what it returns."""
        await self._ask_to_drop()
        return await self._inner.stat(key)

    async def delete(self, key: str) -> None:
        """As the inner store, where it is allowed."""
        await self._ask_to_remove()
        await self._inner.delete(key)

    async def abort_uploads(self, key: str) -> int:
        """As the inner store, where it is allowed."""
        await self._ask()
        return await self._inner.abort_uploads(key)

    async def archive(self, key: str) -> None:
        """As the inner store, where it is allowed."""
        await self._ask()
        await self._inner.archive(key)
