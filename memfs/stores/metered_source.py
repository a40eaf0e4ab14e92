"""The metering decorator of sources: their requests count as those of memfs's own store do.

Invariant: each attempt is counted; nothing is refused, since a program may wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.stores.counts import Call
from memfs.stores.metered import Tally

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.counts import StoreCounts
    from memfs.stores.metered import Meter
    from memfs.stores.parts import PartSlots
    from memfs.stores.source import (
        LocalFile,
        ObjectPage,
        RangeRead,
        SourceBackend,
        SourceObject,
    )


class MeteredSource:
    """A `SourceBackend` whose requests are counted.

    Args:
        inner: Makes the requests.
        meter: Told of requests and bytes.
        counts: Told of them by call, and of failures; None: nobody wants to know.
    """

    def __init__(
        self, inner: SourceBackend, meter: Meter, counts: StoreCounts | None = None
    ) -> None:
        self._inner = inner
        self._tally = Tally(meter, counts)

    @property
    def url(self) -> str:
        """As the inner source."""
        return self._inner.url

    @property
    def slots(self) -> PartSlots:
        """As the inner source."""
        return self._inner.slots

    async def list_objects(
        self, page: str, prefix: str = "", *, shallow: bool = False
    ) -> ObjectPage:
        """As the inner source."""
        with self._tally.asked(Call.LIST):
            return await self._inner.list_objects(page, prefix, shallow=shallow)

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """As the inner source."""
        with self._tally.asked(Call.GET):
            read = await self._inner.read_if(wanted, start, end)
        self._tally.received(len(read.data))
        return read

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        """As the inner source."""
        with self._tally.asked(Call.STAT):
            return await self._inner.look_at(key, version)

    async def open_if(self, wanted: SourceObject) -> LocalFile | None:
        """As the inner source; no request."""
        return await self._inner.open_if(wanted)

    def local_path(self, key: str) -> Path | None:
        """As the inner source."""
        return self._inner.local_path(key)

    async def aclose(self) -> None:
        """As the inner source."""
        await self._inner.aclose()
