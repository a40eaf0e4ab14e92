"""The pacing decorator: transfers share a bandwidth, and programs come before the mover.

Invariant: it holds calls back and refuses no call; what waits here has no deadline yet, so a low
rate makes reads slow and never makes them fail.
"""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio

from memfs.policy.quotas import SharedRate
from memfs.stores.forwarding import ForwardingStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.stores.store import ByteSource, RemoteStore

_unhurried = ContextVar("unhurried", default=False)


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Have transfers of the block come after those that programs wait for.

    Holds in the block's task and in the threads and tasks that it starts.
    """
    token = _unhurried.set(True)
    try:
        yield
    finally:
        _unhurried.reset(token)


class Rates:
    """Bandwidths that transfers share, those of one store or of several.

    Args:
        upload_rate: Bytes a second, > 0; None: no limit.
        download_rate: The same.
    """

    def __init__(self, upload_rate: int | None, download_rate: int | None) -> None:
        self.uploads = SharedRate(upload_rate) if upload_rate is not None else None
        self.downloads = SharedRate(download_rate) if download_rate is not None else None
        # Programs wait for each other alone, and the mover waits for all.
        self.hurried = SharedRate(download_rate) if download_rate is not None else None

    @property
    def limited(self) -> bool:
        """True if there is a limit."""
        return self.uploads is not None or self.downloads is not None


class PacedStore(ForwardingStore):
    """A store whose transfers wait until those before them are paid for.

    An object is sent or fetched at the speed of the link, and the next one waits the longer; large
    ones are fetched in ranges, and each of them waits.
    """

    def __init__(self, inner: RemoteStore, rates: Rates) -> None:
        super().__init__(inner)
        self._uploads = rates.uploads
        self._downloads = rates.downloads
        self._hurried = rates.hurried

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store, when the uploads before it are paid for."""
        if self._uploads is not None:
            size = (await trio.to_thread.run_sync(os.stat, source)).st_size
            await trio.sleep(self._uploads.take(size, trio.current_time()))
        await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store, when the uploads before it are paid for."""
        if self._uploads is not None:
            await trio.sleep(self._uploads.take(source.size_max, trio.current_time()))
        await self._inner.put_stream(key, source)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store, when the downloads before it are paid for."""
        await self._wait(max(0, end - start))
        return await self._inner.get_range(key, start, end)

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store, when the downloads before it are paid for."""
        await self._wait(0)
        await self._inner.get_file(key, target)
        if self._downloads is not None:
            size = (await trio.to_thread.run_sync(os.stat, target)).st_size
            self._downloads.charge(size, trio.current_time())

    async def _wait(self, size: int) -> None:
        if self._downloads is None or self._hurried is None:
            return
        now_s = trio.current_time()
        wait_s = self._downloads.take(size, now_s)
        if not _unhurried.get():
            wait_s = self._hurried.take(size, now_s)
        await trio.sleep(wait_s)
