"""A bucket in memory that others write to: a backend of `stores.source` for tests."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from memfs.errors import ObjectChangedError, ObjectMissingError, StoreError
from memfs.stores.health import StoreHealth
from memfs.stores.parts import PartSlots
from memfs.stores.retry import RepeatedCalls, RetryPolicy
from memfs.stores.source import RangeRead, SourceObject, SourceStore
from memfs.stores.told import SIZE_UNKNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.stores.source import LocalFile, ObjectPage

URL = "fake://bucket"


def _up_to_slash(name: str) -> str:
    head, slash, _ = name.partition("/")
    return head + slash


class Bucket:
    """The objects, and the backend.

    Args:
        page_count: Objects of one page.
    """

    def __init__(self, page_count: int = 3) -> None:
        self.objects: dict[str, tuple[str, bytes]] = {}
        """Etag and bytes by key."""
        self.page_count = page_count
        self.told_of: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {}
        """Content type and metadata by key, which an answer with bytes tells."""
        self.unsized: set[str] = set()
        """Keys of objects whose size is not told, neither by a listing nor to a look."""
        self.missing_count = 0
        """So many requests for pages are answered as if there were nothing there."""
        self.fails_after: int | None = None
        """Pages that a listing yields before it fails; None: it does not fail."""
        self.is_down = False
        self.listed: list[str | None] = []
        """The prefix of each request for a page of one directory; None: of all objects."""
        self.gate: trio.Event | None = None
        """Pages wait for it."""
        self.asked = trio.Event()
        """Set by a request for a page."""
        self._put_count = 0

    def put(self, key: str, data: bytes) -> None:
        """Write an object, which has an etag of its own."""
        self._put_count += 1
        self.objects[key] = (f"e{self._put_count}", data)

    def open(self) -> SourceStore:
        """Return the source."""
        policy = RetryPolicy(deadline_s=3600.0)
        return SourceStore(self, RepeatedCalls(URL, policy, random.Random(1), StoreHealth()))

    # --- as a backend ----------------------------------------------------------------------------
    @property
    def url(self) -> str:
        """See `SourceBackend`."""
        return URL

    @property
    def slots(self) -> PartSlots:
        """See `SourceBackend`."""
        return PartSlots(1 << 30, 4)

    def _object(self, key: str) -> SourceObject:
        etag, data = self.objects[key]
        size = SIZE_UNKNOWN if key in self.unsized else len(data)
        return SourceObject(key, size, etag, 1_000_000 * int(etag[1:]))

    async def list_objects(
        self, page: str, prefix: str = "", *, shallow: bool = False
    ) -> ObjectPage:
        """See `SourceBackend`."""
        self.listed.append(prefix if shallow else None)
        await trio.lowlevel.checkpoint()
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.missing_count:
            self.missing_count -= 1
            raise ObjectMissingError(f"{prefix}: 404")
        number, last = (int(page.partition(":")[0]), page.partition(":")[2]) if page else (0, "")
        if self.is_down or (self.fails_after is not None and number >= self.fails_after):
            raise StoreError("the listing was cut off")
        names = {key for key in self.objects if key.startswith(prefix)}
        if shallow:
            names = {prefix + _up_to_slash(key.removeprefix(prefix)) for key in names}
        keys = sorted(name for name in names if name > last)
        found = [
            self._object(key) if key in self.objects else SourceObject(key, 0, "", 0)
            for key in keys[: self.page_count]
        ]
        if len(keys) <= self.page_count:
            return found, None
        return found, f"{number + 1}:{found[-1].key}"

    async def read_if(self, wanted: SourceObject, start: int, end: int) -> RangeRead:
        """See `SourceBackend`."""
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise StoreError("it is down")
        if wanted.key not in self.objects:
            raise ObjectMissingError(wanted.key)
        etag, data = self.objects[wanted.key]
        if etag != wanted.etag:
            raise ObjectChangedError(wanted.key)
        return RangeRead(data[start:end], *self.told_of.get(wanted.key, ()))

    async def look_at(self, key: str, version: str = "") -> SourceObject:
        """See `SourceBackend`."""
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise StoreError("it is down")
        if key not in self.objects:
            raise ObjectMissingError(key)
        return self._object(key)

    def local_path(self, _key: str) -> Path | None:
        """See `SourceBackend`."""
        return None

    async def open_if(self, _wanted: SourceObject) -> LocalFile | None:
        """See `SourceBackend`."""
        await trio.lowlevel.checkpoint()
        return None

    async def aclose(self) -> None:
        """See `SourceBackend`."""
        await trio.lowlevel.checkpoint()
