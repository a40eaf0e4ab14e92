"""Stores together: the default store and the named ones of a mount, as one.

Invariant: each call reaches the store that its address names, and no other one: a store that fails
or hangs is met only by those who ask for what is there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from memfs.addresses import address_of, key_within, section_named, store_of
from memfs.errors import MemfsError, StoreNotConfiguredError
from memfs.stores.forwarding import ForwardingStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from memfs.stores.parts import PartSlots
    from memfs.stores.store import ByteSource, ObjectStat, RemoteStore


@contextlib.contextmanager
def spoken_of(name: str) -> Iterator[None]:
    """Have errors of the block name the section of a named store, where they name `[glacier]`."""
    try:
        yield
    except MemfsError as error:
        if (text := section_named(name, str(error))) != str(error):
            error.args = (text, *error.args[1:])
        raise


class NamedStore(ForwardingStore):
    """A named store, by addresses.

    Args:
        inner: Knows keys.
        name: Not empty.
    """

    def __init__(self, inner: RemoteStore, name: str) -> None:
        super().__init__(inner)
        self._name = name

    async def put_file(self, key: str, source: Path) -> None:
        """As the inner store."""
        with spoken_of(self._name):
            await self._inner.put_file(key_within(key), source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the inner store."""
        with spoken_of(self._name):
            await self._inner.put_stream(key_within(key), source)

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the inner store."""
        with spoken_of(self._name):
            found = await self._inner.list_uploads(key_within(prefix))
        return [self._addressed(stat) for stat in found]

    async def abort_uploads(self, key: str) -> int:
        """As the inner store."""
        with spoken_of(self._name):
            return await self._inner.abort_uploads(key_within(key))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the inner store."""
        with spoken_of(self._name):
            return await self._inner.get_range(key_within(key), start, end)

    async def get_file(self, key: str, target: Path) -> None:
        """As the inner store."""
        with spoken_of(self._name):
            await self._inner.get_file(key_within(key), target)

    async def stat(self, key: str) -> ObjectStat:
        """As the inner store."""
        with spoken_of(self._name):
            return self._addressed(await self._inner.stat(key_within(key)))

    async def delete(self, key: str) -> None:
        """As the inner store."""
        with spoken_of(self._name):
            await self._inner.delete(key_within(key))

    async def archive(self, key: str) -> None:
        """As the inner store."""
        with spoken_of(self._name):
            await self._inner.archive(key_within(key))

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the inner store."""
        with spoken_of(self._name):
            async for stat in self._inner.list(key_within(prefix)):
                yield self._addressed(stat)

    def _addressed(self, stat: ObjectStat) -> ObjectStat:
        return type(stat)(address_of(self._name, stat.key), stat.size, stat.modified_s)


class StoreSet:
    """The stores of a mount, by addresses.

    What has no address, as `url`, is the default store's.

    Args:
        default: That of `[glacier]`.
        named: By name; each takes addresses (`NamedStore`).
    """

    def __init__(self, default: RemoteStore, named: Mapping[str, RemoteStore]) -> None:
        self._default = default
        self._named = dict(named)

    @property
    def url(self) -> str:
        """That of the default store."""
        return self._default.url

    @property
    def slots(self) -> PartSlots:
        """Those of the default store."""
        return self._default.slots

    @property
    def names(self) -> list[str]:
        """Names of all stores; that of the default one is empty, and the first."""
        return ["", *self._named]

    def each(self) -> list[RemoteStore]:
        """Return all of them."""
        return [self._default, *self._named.values()]

    def of(self, address: str) -> RemoteStore:
        """Return the store that has an object.

        Raises:
            StoreNotConfiguredError: There is no store of that name.
        """
        name = store_of(address)
        if not name:
            return self._default
        try:
            return self._named[name]
        except KeyError:
            raise StoreNotConfiguredError(name, address) from None

    async def put_file(self, key: str, source: Path) -> None:
        """As the store of the key."""
        await self.of(key).put_file(key, source)

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """As the store of the key."""
        try:
            store = self.of(key)
        except MemfsError:
            source.close()
            raise
        await store.put_stream(key, source)

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """As the store of the prefix."""
        return await self.of(prefix).list_uploads(prefix)

    async def abort_uploads(self, key: str) -> int:
        """As the store of the key."""
        return await self.of(key).abort_uploads(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """As the store of the key."""
        return await self.of(key).get_range(key, start, end)

    async def get_file(self, key: str, target: Path) -> None:
        """As the store of the key."""
        await self.of(key).get_file(key, target)

    async def stat(self, key: str) -> ObjectStat:
        """As the store of the key."""
        return await self.of(key).stat(key)

    async def delete(self, key: str) -> None:
        """As the store of the key."""
        await self.of(key).delete(key)

    async def archive(self, key: str) -> None:
        """As the store of the key."""
        await self.of(key).archive(key)

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """As the store of the prefix: a listing is of one store."""
        return self.of(prefix).list(prefix)

    async def aclose(self) -> None:
        """Close all of them at the same time: one that hangs keeps no other open."""
        async with trio.open_nursery() as nursery:
            for store in self.each():
                nursery.start_soon(store.aclose)
