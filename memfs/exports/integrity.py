"""Integrity of exports: whether the store still has each of their objects as it was written.

A listing tells which are gone, or have another size. What it shows for the first time, or with
another time, is read and compared with its digest; all else is read once a day.

Invariant: what is not told to be unusable was there with its size at this look, and was read with
its digest within `READ_S`, unless a quota of the day had no room or its key is not configured.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import (
    CorruptDataError,
    EncryptionKeyError,
    ObjectMissingError,
    QuotaSpentError,
    StoreUnavailableError,
)
from memfs.exports.objects import verify_sealed
from memfs.placement.quotas import cost_of_fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from memfs.exports.description import Sealed
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.stores.store import ObjectStat, RemoteStore

READ_S = 86_400.0
"""So often an object is read although its listing has not changed: bytes that rot on a disk leave
size and time as they were. A million files are some 50 MB."""

READS_MAX = 3
"""Objects that are read at a time. Guess."""


class Integrity:
    """Looks at objects of exports, and remembers which were read.

    Args:
        parts: What moves work with.
        quotas: Those of the day.
        clock: Seconds.
    """

    def __init__(
        self, parts: MoveParts, quotas: Quotas, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = parts
        self._quotas = quotas
        self._clock = clock
        self._read: dict[str, tuple[float | None, float]] = {}
        """By key: its time as it was listed, and when it was read."""

    async def look(
        self, remote: RemoteStore, wanted: Iterable[Sealed], listed: Mapping[str, ObjectStat]
    ) -> dict[str, str]:
        """Return why objects cannot be used, by key; those that can are not in it.

        Checkpoint: always. Cancel: safe.

        Args:
            remote: Has them.
            wanted: Which.
            listed: What the store has, by key.

        Raises:
            StoreUnavailableError: The store does not answer; nothing is known.
        """
        unusable: dict[str, str] = {}
        by_key = {sealed.key: sealed for sealed in wanted}
        slots = trio.CapacityLimiter(READS_MAX)
        unavailable: list[StoreUnavailableError] = []

        async def look_at(sealed: Sealed) -> None:
            async with slots:
                try:
                    if (reason := await self._look_at(remote, sealed, listed)) is not None:
                        unusable[sealed.key] = reason
                except StoreUnavailableError as error:
                    unavailable.append(error)

        async with trio.open_nursery() as nursery:
            for sealed in by_key.values():
                nursery.start_soon(look_at, sealed)
        if unavailable:
            raise unavailable[0]
        self._read = {key: read for key, read in self._read.items() if key in by_key}
        return unusable

    async def _look_at(
        self, remote: RemoteStore, sealed: Sealed, listed: Mapping[str, ObjectStat]
    ) -> str | None:
        name, now_s = f"{remote.url}/{sealed.key}", self._clock()
        found = listed.get(sealed.key)
        if found is None:
            return f"{name}: is gone"
        if found.size != sealed.stored_bytes:
            return f"{name}: has {found.size} bytes, not {sealed.stored_bytes}"
        known = self._read.get(sealed.key)
        if known is not None and known[0] == found.modified_s and now_s - known[1] < READ_S:
            return None
        try:
            with self._quotas.reserved(cost_of_fetch(sealed.stored_bytes)):
                await verify_sealed(remote, self._parts.keys, self._parts.engine.state_id, sealed)
        except (CorruptDataError, ObjectMissingError) as error:
            self._read.pop(sealed.key, None)
            return str(error)
        except (EncryptionKeyError, QuotaSpentError):
            return None
        self._read[sealed.key] = (found.modified_s, now_s)
        return None
