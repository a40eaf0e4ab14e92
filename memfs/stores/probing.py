"""The probing decorator: a store of unknown kind shows what it can before it is trusted.

Invariant: nothing is stored before an object of our own was written, replaced, listed, read by a
range and removed.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, ObjectMissingError, StoreError, StoreUnavailableError
from memfs.stores.forwarding import ForwardingStore

if TYPE_CHECKING:
    from memfs.stores.store import ByteSource, RemoteStore

PROBE_PREFIX = "memfs-probe/"

_FIRST, _SECOND = b"first content, the longer one", b"second content"


class ProbedStore(ForwardingStore):
    """A store that is tried out before the first upload; reads go through at once."""

    def __init__(self, inner: RemoteStore) -> None:
        super().__init__(inner)
        self._lock = trio.Lock()
        self._fit = False

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store, once that has shown that it can serve.

        Raises:
            StoreError: It cannot: the message names what it lacks.
        """
        async with self._lock:
            if not self._fit:
                await self._probe()
                self._fit = True
        await self._inner.put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As `put_file`."""
        async with self._lock:
            if not self._fit:
                await self._probe()
                self._fit = True
        await self._inner.put_stream(key, source)

    async def _probe(self) -> None:
        key = f"{PROBE_PREFIX}{secrets.token_hex(8)}"
        ability = "write an object"
        try:
            await self._put(key, _FIRST)
            ability = "replace an object"
            await self._put(key, _SECOND)
            ability = "read a range of an object"
            found = await self._inner.get_range(key, 3, 9)
            _check(found == _SECOND[3:9], f"it returned {found!r}, not {_SECOND[3:9]!r}")
            ability = "list objects"
            listed = [stat async for stat in self._inner.list(PROBE_PREFIX)]
            sizes = {stat.key: stat.size for stat in listed}
            _check(sizes.get(key) == len(_SECOND), f"{key} is not in its list with its size")
            ability = "remove an object"
            await self._inner.delete(key)
            await self._expect_missing(key)
        except StoreUnavailableError:
            raise
        except MemfsError as error:
            raise StoreError(
                f"store {self.url} cannot be the glacier: it failed to {ability}: {error}; "
                "choose another glacier.url"
            ) from error

    async def _put(self, key: str, data: bytes) -> None:
        path = await trio.to_thread.run_sync(_write_temporary, data)
        try:
            await self._inner.put_file(key, path)
        finally:
            path.unlink()

    async def _expect_missing(self, key: str) -> None:
        try:
            await self._inner.stat(key)
        except ObjectMissingError:
            return
        raise StoreError(f"{key} is still there")


def _check(fulfilled: bool, otherwise: str) -> None:
    if not fulfilled:
        raise StoreError(otherwise)


def _write_temporary(data: bytes) -> Path:
    fd, name = tempfile.mkstemp(prefix="memfs-probe-")
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    return Path(name)
