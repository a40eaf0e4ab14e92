"""Raw files made ahead of need, so that creating a file waits for no directory of the disk.

Invariant: every raw file in the pool is empty, has an id that no inode uses, and is removed at
`close`; after a crash the sweep of unrecorded raw files finds it.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import MemfsError
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.engine import Local
    from memfs.stores.raw import RawStore
    from memfs.types import InodeNo, RawId

POOL_COUNT_MAX = 128
"""Raw files kept ready, a descriptor each: what one program creates in about 30 ms."""

REFILL_COUNT = 32
"""Raw files made in one turn of the thread, and how many may be missing before it is woken."""


class ReadyRaw(NamedTuple):
    """An empty raw file with the inode number that goes with it."""

    ino: InodeNo
    raw: RawId
    fd: int
    """Read-only: as a backing file, a writable one would keep the file from ever being sealed."""


class RawPool:
    """The raw files that the next creates take.

    Args:
        engine: Gives the numbers; asked in the event loop's thread only.
        raw_store: Makes the files.
    """

    def __init__(self, engine: Local, raw_store: RawStore) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._ready: deque[ReadyRaw] = deque()
        self._wake = Signal()

    def take(self) -> ReadyRaw:
        """Return a raw file that is the caller's from now on, descriptor included.

        Raises:
            NoSpaceError: None was ready, and none can be made.
        """
        if len(self._ready) <= POOL_COUNT_MAX - REFILL_COUNT:
            self._wake.set()
        if self._ready:
            return self._ready.popleft()
        ino, raw = self._engine.reserve_ids()
        return ReadyRaw(ino, raw, self._raw_store.create(raw, os.O_RDONLY))

    def give_back(self, ready: ReadyRaw) -> None:
        """Take back a raw file that was not used."""
        self._ready.appendleft(ready)

    async def run(self) -> None:
        """Keep the pool filled, until cancelled. A full disk is left to `take` to tell."""
        seen = 0
        while True:
            seen = await self._wake.wait(seen)
            await self.refill()

    async def refill(self) -> None:
        """Fill the pool once, as far as the disk has room. Checkpoint: if there is room in it."""
        while len(self._ready) <= POOL_COUNT_MAX - REFILL_COUNT:
            ids = [self._engine.reserve_ids() for _ in range(REFILL_COUNT)]
            made = await trio.to_thread.run_sync(self._make, ids)
            self._ready.extend(made)
            if self._ready:
                # It may be long until the oldest is taken, and many numbers may go meanwhile.
                self._engine.hold_raw_ids(self._ready[0].raw)
            if len(made) < REFILL_COUNT:
                return

    def close(self) -> None:
        """Remove the raw files that nobody took; idempotent."""
        while self._ready:
            ready = self._ready.popleft()
            os.close(ready.fd)
            self._raw_store.unlink(ready.raw)

    def _make(self, ids: Sequence[tuple[InodeNo, RawId]]) -> list[ReadyRaw]:
        made: list[ReadyRaw] = []
        for ino, raw in ids:
            try:
                made.append(ReadyRaw(ino, raw, self._raw_store.create(raw, os.O_RDONLY)))
            except MemfsError:
                break
        return made
