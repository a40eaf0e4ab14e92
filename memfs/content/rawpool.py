"""Raw files made ahead of need, so that creating a file waits for no directory of the disk.

Invariant: every raw file in the pool is empty, has an id that no inode uses and an mtime that says
that it is unused, and is removed at `close`; after a crash the sweep of unrecorded ones finds it.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import MemfsError, NoSpaceError
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.content.opening import Backing
    from memfs.metadata.local import Local
    from memfs.stores.raw import RawStore
    from memfs.types import InodeNo, RawId

READY_COUNT_FIRST = 1024
"""Raw files kept ready at first, once a program has created a file: what one program creates in
about 0.2 s."""

READY_COUNT_MAX = 4096
"""As many at most: the number doubles whenever the pool has run dry. Each is an inode of the disk
and an open file of the kernel (1.5 kB), and about 200 bytes here."""

INODES_SHARE_MAX = 1 / 16
"""Share of the disk's free inodes that may stand ready: a small disk has others for the rest."""

INODES_KEPT = 32
"""Free inodes of the disk that new files leave alone: those that leave it are written into objects
and containers first, which take one each for a moment. Guess."""

REFILL_COUNT = 32
"""Raw files made in one turn of the thread, and how many may be missing before it is woken."""

CALM_S = 0.05
"""So long programs may have made next to no requests before raw files are made: a thread that makes
them beside requests takes the interpreter from those. Guess."""

CALM_REQUEST_COUNT = 2
"""Requests in that time that disturb nothing: a program that asks now and then would else keep the
pool from ever being filled. Guess."""

UNUSED_MTIME_NS = 0
"""mtime of a raw file that nobody has written to since it was made: its inode has the file's own
mtime until then. A program that sets this very time has set that of the inode, too."""


class ReadyRaw(NamedTuple):
    """An empty raw file with the inode number that goes with it."""

    ino: InodeNo
    raw: RawId
    backing: int
    """Its backing id, registered with the kernel; 0: not yet."""


class RawPool:
    """The raw files that the next creates take.

    Args:
        engine: Gives the numbers; asked in the event loop's thread only.
        raw_store: Makes the files.
        backing: The kernel's registry, where files are registered as they are made; None where the
            driver has no registry.
        request_count: Returns how many requests programs have made so far.
        ready_count_max: As `READY_COUNT_MAX`.
    """

    def __init__(
        self,
        engine: Local,
        raw_store: RawStore,
        backing: Backing | None = None,
        request_count: Callable[[], int] = lambda: 0,
        ready_count_max: int = READY_COUNT_MAX,
    ) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._backing = backing
        self._request_count = request_count
        self._ready_count_max = ready_count_max
        self._ready: deque[ReadyRaw] = deque()
        self._wanted_count = min(READY_COUNT_FIRST, ready_count_max)
        self._low_count = self._wanted_count - REFILL_COUNT
        self._filled = False
        self._ran_dry = False
        """It was empty since it was filled last: it is too small for what programs do."""
        self._wake = Signal()

    @property
    def ready_count(self) -> int:
        """Raw files that stand ready."""
        return len(self._ready)

    def take(self) -> ReadyRaw:
        """Return a raw file that is the caller's from now on, backing id included.

        Raises:
            NoSpaceError: No raw file was ready, and no other can be made.
        """
        ready = self._ready
        if len(ready) <= self._low_count:
            self._wake.set()
            if not ready:
                self._ran_dry = self._filled
                if self._raw_store.free_inode_count() <= INODES_KEPT:
                    raise NoSpaceError(
                        f"{self._raw_store.root}: the disk has no inodes left; remove files from it"
                    )
                return self._make_one(*self._engine.reserve_ids())
        return ready.popleft()

    def take_ready(self) -> RawId | None:
        """Return a raw file that stands ready, is the caller's from now on, and has no backing id.

        Its name is on stable storage more often than that of one which is just made: one fsync of
        its directory was enough for all.

        Returns:
            None: No raw file is ready.
        """
        if not self._ready:
            return None
        ready = self.take()
        self._release(ready)
        return ready.raw

    def give_back(self, ready: ReadyRaw) -> None:
        """Take back a raw file that was not used."""
        self._ready.appendleft(ready)

    async def run(self) -> None:
        """Keep the pool filled, until cancelled. A full disk is left to `take` to tell."""
        seen = 0
        while True:
            seen = await self._wake.wait(seen)
            await self._fill_in_calm()

    async def refill(self) -> None:
        """Fill the pool once, if the disk has room. Checkpoint: if there is room in it."""
        while self._lacks_files and await self._add():
            pass

    @property
    def _lacks_files(self) -> bool:
        return len(self._ready) <= self._low_count

    async def _fill_in_calm(self) -> None:
        """Fill the pool while programs make next to no requests."""
        while self._lacks_files:
            busy_count = self._request_count() + CALM_REQUEST_COUNT
            await trio.sleep(CALM_S)
            while self._lacks_files and self._request_count() <= busy_count:
                if not await self._add():
                    return

    async def _add(self) -> bool:
        """Make some raw files; False if the disk has no room for as many."""
        if self._ran_dry:
            self._ran_dry = False
            self._wanted_count = min(2 * self._wanted_count, self._ready_count_max)
            self._low_count = self._wanted_count - REFILL_COUNT
        ids = [self._engine.reserve_ids() for _ in range(REFILL_COUNT)]
        made = await trio.to_thread.run_sync(self._make, ids, len(self._ready))
        self._ready.extend(made)
        if self._ready:
            # It may be long until the oldest is taken, and many numbers may go meanwhile.
            self._engine.hold_raw_ids(self._ready[0].raw)
        self._filled = not self._lacks_files
        return len(made) == REFILL_COUNT

    def close(self) -> None:
        """Remove the raw files that nobody took; idempotent."""
        while self._ready:
            ready = self._ready.popleft()
            self._release(ready)
            self._raw_store.unlink(ready.raw)

    def _release(self, ready: ReadyRaw) -> None:
        # When the mount is gone, the kernel has given all ids back by itself.
        if ready.backing and self._backing is not None and self._backing.available:
            self._backing.release(ready.backing)

    def _make(self, ids: Sequence[tuple[InodeNo, RawId]], ready_count: int) -> list[ReadyRaw]:
        """Make raw files, as many as the disk can have standing ready. Runs in a thread."""
        room = self._raw_store.free_inode_count() * INODES_SHARE_MAX - ready_count
        made: list[ReadyRaw] = []
        # A file system that counts no inodes has room for all.
        for ino, raw in ids[: max(0, int(min(room, len(ids))))]:
            try:
                made.append(self._make_one(ino, raw))
            except MemfsError:
                break
        return made

    def _make_one(self, ino: InodeNo, raw: RawId) -> ReadyRaw:
        # Read-only: a backing file that can be written to keeps the file from ever being sealed.
        fd = self._raw_store.create(raw, os.O_RDONLY)
        try:
            os.utime(fd, ns=(UNUSED_MTIME_NS, UNUSED_MTIME_NS))
            return ReadyRaw(ino, raw, self._register(fd))
        finally:
            os.close(fd)

    def _register(self, fd: int) -> int:
        if self._backing is None or not self._backing.available:
            return 0
        try:
            return self._backing.register(fd)
        except OSError:
            # The open table tries again at the file's first open, and tells why it fails.
            return 0
