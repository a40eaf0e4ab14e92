"""A remote store in memory, verified by the store suite like every other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from memfs.errors import ObjectMissingError, StoreError
from memfs.stores.parts import PART_CONCURRENCY, PartSlots
from memfs.stores.store import PART_BYTES, ObjectStat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.stores.store import ByteSource, RemoteStore


class MemoryStore:
    """Keeps objects in a dict and uses no thread, so that tests may run on a clock that jumps."""

    url = "memory://"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.slots = PartSlots(PART_CONCURRENCY * PART_BYTES, 1)

    def of(self, address: str) -> RemoteStore:
        """Itself."""
        return self

    async def put_file(self, key: str, source: Path) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self.objects[key] = _read(source)
        except FileNotFoundError as error:
            raise StoreError(f"store {self.url}: put {key}: {error}") from error

    async def put_stream(self, key: str, source: ByteSource) -> None:
        await trio.lowlevel.checkpoint()
        with contextlib.closing(source):
            self.objects[key] = b"".join(iter(source.read, b""))

    async def list_uploads(self, _prefix: str) -> list[ObjectStat]:
        await trio.lowlevel.checkpoint()
        return []

    async def abort_uploads(self, key: str) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._get("get", key)[start:end]

    async def get_file(self, key: str, target: Path) -> None:
        await trio.lowlevel.checkpoint()
        data = self._get("get", key)
        try:
            with target.open("xb") as file:
                file.write(data)
        except FileExistsError as error:
            raise StoreError(f"store {self.url}: get {key}: {error}") from error

    async def stat(self, key: str) -> ObjectStat:
        await trio.lowlevel.checkpoint()
        return ObjectStat(key, len(self._get("stat", key)))

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.objects.pop(key, None)

    async def archive(self, key: str) -> None:
        await trio.lowlevel.checkpoint()

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        await trio.lowlevel.checkpoint()
        for key, data in tuple(self.objects.items()):
            if key.startswith(prefix):
                yield ObjectStat(key, len(data))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def _get(self, operation: str, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectMissingError(f"store {self.url}: {operation} {key}: no object") from None


def _read(source: Path) -> bytes:
    return source.read_bytes()
