"""The metering decorator of places: what is published counts as what goes to memfs's own store.

Invariant: each call is counted, whether it succeeds or not; nothing is refused, since room was kept
before it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.stores.counts import Call
from memfs.stores.metered import CountingSource, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.stores.counts import StoreCounts
    from memfs.stores.metered import Meter
    from memfs.stores.publishing import PublicAttributes, PublicObject, PublicStore
    from memfs.stores.store import ByteSource


class MeteredPublicStore:
    """A `PublicStore` whose requests are counted.

    Args:
        inner: Makes the requests.
        meter: Told of requests and bytes.
        counts: Told of them by call, and of failures; None: nobody wants to know.
    """

    def __init__(self, inner: PublicStore, meter: Meter, counts: StoreCounts | None = None) -> None:
        self._inner = inner
        self._tally = Tally(meter, counts)

    @property
    def url(self) -> str:
        """As the inner store."""
        return self._inner.url

    @property
    def is_conditional(self) -> bool:
        """As the inner store."""
        return self._inner.is_conditional

    @property
    def is_replaced_whole(self) -> bool:
        """As the inner store."""
        return self._inner.is_replaced_whole

    @property
    def key_bytes_max(self) -> int:
        """As the inner store."""
        return self._inner.key_bytes_max

    async def put_if(
        self,
        key: str,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        on_begun: Callable[[str], object],
        *,
        in_parts: bool = False,
    ) -> str:
        """As the inner store; counted is what was taken of the bytes, even if it fails."""
        counting = CountingSource(source)
        try:
            with self._tally.watch(Call.PUT):
                return await self._inner.put_if(
                    key, counting, former, attributes, on_begun, in_parts=in_parts
                )
        finally:
            self._tally.sent(counting.taken_bytes)

    async def abort(self, key: str, upload: str) -> None:
        """As the inner store."""
        with self._tally.asked(Call.DELETE):
            await self._inner.abort(key, upload)

    async def find(self, key: str) -> PublicObject | None:
        """As the inner store."""
        with self._tally.asked(Call.STAT):
            return await self._inner.find(key)

    async def read(self, key: str, stored: PublicObject, start: int, end: int) -> bytes:
        """As the inner store."""
        with self._tally.asked(Call.GET):
            data = await self._inner.read(key, stored, start, end)
        self._tally.received(len(data))
        return data

    async def delete_if(self, key: str, former: str) -> None:
        """As the inner store."""
        with self._tally.asked(Call.DELETE):
            await self._inner.delete_if(key, former)

    async def aclose(self) -> None:
        """As the inner store."""
        await self._inner.aclose()
