"""The settling decorator: what was just stored is waited for.

Invariant: an object that `put_file` has stored is not called missing for `SETTLE_S` seconds. Some
stores, and proxies that remember a 404, show a new object only after a while; to upload it again
would make another key that is late in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

from memfs.backoff import Backoff
from memfs.bounded import BoundedDict
from memfs.errors import ObjectMissingError
from memfs.stores.forwarding import ForwardingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore

T = TypeVar("T")

SETTLE_S = 20.0
"""Guess: replicas and remembered 404s lag by seconds; S3 itself shows new objects at once."""

PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 3.0
"""Between two looks; doubles each time."""

KEY_COUNT_MAX = 10_000
"""Keys remembered, about 2 MB; the oldest is forgotten first."""


class SettlingStore(ForwardingStore):
    """A store whose new objects may come late."""

    def __init__(self, inner: RemoteStore) -> None:
        super().__init__(inner)
        self._stored_s: BoundedDict[str, float] = BoundedDict(KEY_COUNT_MAX)
        """When each new object was stored, by trio's clock, the latest last."""

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store."""
        await self._inner.put_file(key, source)
        self._note_stored(key)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store."""
        await self._inner.put_stream(key, source)
        self._note_stored(key)

    def _note_stored(self, key: str) -> None:
        """An object was stored just now."""
        self._stored_s[key] = trio.current_time()

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store; waits for a new object."""
        return await self._settled(key, lambda: self._inner.get_range(key, start, end))

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store; waits for a new object."""
        await self._settled(key, lambda: self._inner.get_file(key, target))

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store; waits for a new object."""
        return await self._settled(key, lambda: self._inner.stat(key))

    async def archive(self, key: str) -> None:
        """As the inner store; waits for a new object."""
        await self._settled(key, lambda: self._inner.archive(key))

    async def delete(self, key: str) -> None:
        """As the inner store; it is not waited for any more."""
        self._stored_s.pop(key, None)
        await self._inner.delete(key)

    async def _settled(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff(PAUSE_S_MIN, PAUSE_S_MAX)
        while True:
            try:
                return await call()
            except ObjectMissingError:
                stored_s = self._stored_s.get(key)
                pause_s = backoff.fail()
                if stored_s is None or trio.current_time() + pause_s > stored_s + SETTLE_S:
                    self._stored_s.pop(key, None)
                    raise
            await trio.sleep(pause_s)
