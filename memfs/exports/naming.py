"""Naming: which objects the parts of exports name.

Invariant: an object that a part names is among those that are told; another one is with a chance of
some in 2**64 for each name, and is kept then as well.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

import trio

from memfs.errors import CorruptDataError, ObjectMissingError
from memfs.exports.objects import open_sealed
from memfs.metadata.columns import decode
from memfs.placement.quotas import cost_of_fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memfs.exports.description import Sealed
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.stores.store import RemoteStore

log = logging.getLogger(__name__)

_FORMS = "form"
"""The table of a part whose column `key` has addresses."""


class Names:
    """Addresses of objects, by hashes: 8 bytes each."""

    def __init__(self, hashes: Iterable[int]) -> None:
        self._hashes = array("q", sorted(hashes))

    def __contains__(self, address: str) -> bool:
        at = bisect_left(self._hashes, hash(address))
        return at < len(self._hashes) and self._hashes[at] == hash(address)


class NamedObjects:
    """Reads parts of exports, and remembers what they name as long as they are asked for.

    Args:
        parts: What moves work with.
    """

    def __init__(self, parts: MoveParts) -> None:
        self._parts = parts
        self._read: frozenset[str] = frozenset()
        """Keys of the parts that `_names` is of."""
        self._names = Names(())

    async def named(
        self, remote: RemoteStore, quotas: Quotas, parts: Mapping[str, Sealed]
    ) -> Names:
        """Return the addresses of all objects that some parts name.

        Checkpoint: always. Cancel: safe.

        Args:
            remote: Has the parts.
            quotas: Those of the day.
            parts: By key.

        Raises:
            EncryptionKeyError, StoreError: A part cannot be read. One that is gone, or damaged,
                names nothing: no import can use it.
        """
        await trio.lowlevel.checkpoint()
        if self._read == parts.keys():
            return self._names
        keys, state_id = self._parts.keys, self._parts.engine.state_id
        found: set[int] = set()
        for sealed in parts.values():
            name = f"{remote.url}/{sealed.key}"
            try:
                with quotas.reserved(cost_of_fetch(sealed.stored_bytes)):
                    data = await open_sealed(remote, keys, state_id, sealed)
                found |= await trio.to_thread.run_sync(_hashes_of, data, name)
            except (CorruptDataError, ObjectMissingError) as error:
                log.info("what a part of an export names is not known: %s", error)
        self._names = await trio.to_thread.run_sync(Names, found)
        self._read = frozenset(parts)
        return self._names


def _hashes_of(data: bytes, name: str) -> set[int]:
    addresses: Sequence[str] = decode(data, name).get(_FORMS, {}).get("key", ())
    return {hash(address) for address in addresses}
