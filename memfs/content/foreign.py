"""Foreign bytes: ranges of adopted objects that have no local form.

Invariant: every byte is of the etag, or the version, that the form names; what the cache holds is
bounded, and a frame is fetched once however many ask for it at a time.

Who reads on has the next frames fetched by one request, more of them each time, and while the ones
before are read. The checksum of a
range is the transport's; the digest of all bytes is learned when the file becomes raw.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.bounded import BoundedDict, SizedDict
from memfs.single_flight import SingleFlight

if TYPE_CHECKING:
    from memfs.content.sources import Sources
    from memfs.metadata.records import Form
    from memfs.types import Place

log = logging.getLogger(__name__)

FRAME_BYTES = 256 << 10
"""The least that is fetched. Guess: 10 ms at 25 MB/s, beside the round trip."""

RUN_GROWTH = 4
"""By so much each run is longer than the one before: 256 KiB, 1 MiB, 4 MiB, 8 MiB. Guess."""

RUN_COUNT_MAX = 32
"""Frames of one request, 8 MiB: for who reads on."""

CACHE_BYTES_MAX = 64 << 20
"""Frames kept: those of some readers that go on. Guess."""

AHEAD_COUNT_MAX = 4
"""Fetches ahead at a time, of all readers. Guess."""

RUNS_REMEMBERED_MAX = 1024
"""Places where somebody may read on."""


class _FrameKey(NamedTuple):
    place: Place
    number: int


class ForeignReader:
    """Reads ranges of foreign objects.

    Args:
        sources: Has their stores.
        cache_bytes_max: Bound of the frames kept.
    """

    def __init__(self, sources: Sources, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._sources = sources
        self._frames: SizedDict[_FrameKey, bytes] = SizedDict(cache_bytes_max, len)
        self._flights: SingleFlight[_FrameKey, bytes] = SingleFlight()
        self._runs: BoundedDict[_FrameKey, int] = BoundedDict(RUNS_REMEMBERED_MAX)
        """The frame that follows a fetch, and how many were fetched."""
        self._ahead_count = 0
        """Fetches under way that nobody waits for yet."""

    @property
    def cached_bytes(self) -> int:
        """Bytes of frames kept."""
        return self._frames.used_size

    async def read(self, form: Form, offset: int, size: int) -> bytes:
        """Return bytes `[offset, offset + size)` of an object, within its size.

        Cancel: safe; another reader of the same frame takes over.

        Raises:
            ObjectChangedError: Another object has the key by now.
            ObjectMissingError: No object has it.
            StoreError, UsageError, NotSupportedError: It cannot be reached.
        """
        first, end = offset // FRAME_BYTES, -(-(offset + size) // FRAME_BYTES)
        found: list[bytes] = []
        while (number := first + len(found)) < end:
            key = _FrameKey(form.place, number)
            frame = self._frames.touch(key)
            if frame is not None:
                found.append(frame)
            elif key in self._flights:
                joined = await self._flights.join(key)
                if joined is not None:
                    found.append(joined)
            else:
                fetched = await self._fetch(form, number, end - number)
                found += fetched[: end - number]
        self._read_ahead(form, end)
        if len(found) == 1:
            start = offset - first * FRAME_BYTES
            return found[0][start : start + size]
        data = b"".join(found)
        start = offset - first * FRAME_BYTES
        return data[start : start + size]

    def _read_ahead(self, form: Form, number: int) -> None:
        """Have what follows the run that somebody reads fetched, if that is not under way.

        Args:
            form: The object.
            number: The frame behind those that were read just now.
        """
        place, last = form.place, -(-form.stored_bytes // FRAME_BYTES)
        if self._ahead_count >= AHEAD_COUNT_MAX:
            return
        for following in range(number, min(number + RUN_COUNT_MAX + 1, last)):
            key = _FrameKey(place, following)
            if key in self._flights:
                return
            if key not in self._frames:
                # A run that was not the first of its reader ends here.
                if self._runs.get(key, 0) > 1:
                    self._ahead_count += 1
                    trio.lowlevel.spawn_system_task(self._fetch_ahead, form, following)
                return

    async def _fetch_ahead(self, form: Form, number: int) -> None:
        try:
            if _FrameKey(form.place, number) not in self._flights:
                await self._fetch(form, number, 1)
        except Exception as error:
            # A reader that needs these bytes asks again, and is told.
            log.debug("%s: cannot be read ahead: %s", form.place, error)
        finally:
            self._ahead_count -= 1

    async def _fetch(self, form: Form, number: int, wanted_count: int) -> list[bytes]:
        """Read frames with one request, for all who want one of them."""
        place = form.place
        grown = RUN_GROWTH * self._runs.pop(_FrameKey(place, number), 0)
        count = max(wanted_count, min(grown, RUN_COUNT_MAX))
        last = -(-form.stored_bytes // FRAME_BYTES)
        keys = [_FrameKey(place, each) for each in range(number, min(number + count, last))]
        for at, key in enumerate(keys):
            if key in self._flights or (at and key in self._frames):
                keys = keys[:at]
                break
        start, end = (
            number * FRAME_BYTES,
            min(form.stored_bytes, (number + len(keys)) * FRAME_BYTES),
        )
        with self._flights.lead(*keys) as landed:
            store, wanted = await self._sources.store_of_form(form)
            data = await store.read(wanted, start, end)
            frames = [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)]
            landed.update(zip(keys, frames, strict=True))
            for key, frame in landed.items():
                self._frames.put(key, frame)
        self._runs[_FrameKey(place, number + len(keys))] = len(keys)
        return frames
