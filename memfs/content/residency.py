"""Residency: which raw files are held in RAM, locked in the page cache, up to a capacity.

Invariant: `used_bytes` is the sum over the held files, in whole pages, and never above the
capacity; a file is held at most once. This is the one owner of that account.
"""

from __future__ import annotations

import concurrent.futures
import enum
import logging
import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import MemfsError, ObjectMissingError
from memfs.linux.files import NotPlainError, open_regular
from memfs.linux.memory import (
    PageLock,
    PageLockError,
    cachestat,
    map_count,
    max_map_count,
    memlock_limit,
    release_pages,
)
from memfs.metrics.traffic import Level, Traffic
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memfs.config import WarmConfig
    from memfs.stores.raw import RawStore
    from memfs.types import InodeNo, RawId

log = logging.getLogger(__name__)

MAPPINGS_MARGIN = 8192
"""Mappings left to the rest of the process: libraries, thread stacks, SQLite. Guess, generous:
a daemon without locks has about 300."""

HELD_COUNT_MAX = 65_536
"""Files held at a time, locked or not; about 12 MB of daemon memory."""

RELEASE_INLINE_BYTES_MAX = 16 << 20
"""Unlocking up to this size is done at once; larger ones in a thread (1 GiB: some 10 ms)."""

RELEASE_S_MAX = 10.0
"""So long a removal waits for the thread: it may be at other large files. Guess."""

_LOCK_THREADS = 2


class LockOutcome(enum.Enum):
    """How an attempt to hold a file in RAM ended."""

    LOCKED = "locked"
    """Its pages stay, whatever happens."""
    CACHED = "cached"
    """Its pages are read in and counted, but the kernel may take them: see `refusal`."""
    NO_ROOM = "no room"
    """It does not fit into the capacity now."""
    OFF = "off"
    """There is no RAM tier."""
    GONE = "gone"
    """Its raw file vanished or it was released meanwhile."""


class LockRequest(NamedTuple):
    """A raw file to hold."""

    ino: InodeNo
    raw: RawId
    size: int
    """Bytes of the raw file now."""


class _State(enum.IntEnum):
    """How far a held file is."""

    COMING = 0
    """Its pages are on their way into RAM."""
    LOCKED = 1
    REFUSED = 2
    """Its pages are cached, and not locked."""


class _Held(NamedTuple):
    """One held file."""

    raw: RawId
    size: int
    address: int = 0
    """Where its locked pages are mapped; 0: nowhere."""
    state: int = _State.COMING

    @property
    def charged_bytes(self) -> int:
        """What it takes of the capacity."""
        return page_bytes(self.size)

    @property
    def locked(self) -> bool:
        """Its pages cannot leave RAM."""
        return self.state == _State.LOCKED

    @property
    def refused(self) -> bool:
        """Its pages are cached, and not locked."""
        return self.state == _State.REFUSED


_HELD = struct.Struct("<QQQB")
"""A `_Held` as it is remembered: 64 bytes instead of 250 (CPython 3.11)."""


def page_bytes(size: int) -> int:
    """Return the RAM that `size` bytes of a file take: whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _is_shorter(fd: int, size: int) -> bool:
    """Return whether a raw file was removed, or cut, since it had `size` bytes."""
    status = os.fstat(fd)
    return status.st_nlink == 0 or status.st_size < size


def default_capacity_bytes() -> int:
    """Return a quarter of the machine's memory (sysconf(3), _SC_PHYS_PAGES)."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


class Residency:
    """The RAM tier of one mount.

    Args:
        raw_store: Opens raw files.
        config: The capacity.
        page_lock: Locks the pages of a file, given its descriptor, its length and a pause.
        lock_limit: Returns how many bytes may be locked; None: all.
        map_limit: Returns how many mappings the process may have.
        traffic: Told of files that came into RAM and left it.
    """

    def __init__(
        self,
        raw_store: RawStore,
        config: WarmConfig,
        *,
        page_lock: Callable[[int, int, Callable[[], None]], PageLock] = PageLock,
        lock_limit: Callable[[], int | None] = memlock_limit,
        map_limit: Callable[[], int] = max_map_count,
        traffic: Traffic | None = None,
    ) -> None:
        self._raw_store = raw_store
        self._traffic = traffic or Traffic()
        self._page_lock = page_lock
        size = config.size_bytes
        self.capacity_bytes = default_capacity_bytes() if size is None else size
        """Most bytes held; 0: no RAM tier."""
        self.used_bytes = 0
        """Bytes held, or about to be, in whole pages."""
        self.locked_count = 0
        """Files whose pages are really locked."""
        self._refusal: str | None = None
        """That of the last file that was refused."""
        self._refused_count = 0
        """Held files that are cached and not locked."""
        self._held: dict[InodeNo, bytes] = {}
        """Each as `_HELD` packs it, the one locked or touched longest ago first. Another object
        means that the file was let go of meanwhile, and is held anew."""
        limit = map_limit()
        self._mappings_max = max(limit - MAPPINGS_MARGIN, limit // 2) - map_count()
        self._lock_limit_bytes = lock_limit()
        self._threads = trio.CapacityLimiter(_LOCK_THREADS)
        self._releaser = ThreadPoolExecutor(1, thread_name_prefix="memfs-unlock")
        self._releasing: concurrent.futures.Future[None] | None = None
        """The last release that was given to the thread."""

    # --- questions -------------------------------------------------------------------------------
    @property
    def locked_bytes(self) -> int:
        """Bytes of the files whose pages are really locked, in whole pages."""
        held_files = (_Held(*each) for each in map(_HELD.unpack, self._held.values()))
        return sum(held.charged_bytes for held in held_files if held.locked)

    @property
    def held_count(self) -> int:
        """Files held, locked or only cached."""
        return len(self._held)

    def is_locked(self, ino: InodeNo) -> bool:
        """True if a file's pages cannot leave RAM."""
        held = self._get(ino)
        return held is not None and held.locked

    @property
    def refusal(self) -> str | None:
        """Why files are cached but not locked, with the remedy; None while all are locked."""
        return self._refusal if self._refused_count else None

    @property
    def note(self) -> str | None:
        """Why the tier does not hold all that it should, with the remedy; before that happens."""
        limit = self._lock_limit_bytes
        if self.refusal is not None or limit is None or limit >= self.capacity_bytes:
            return self.refusal
        return (
            f"at most {format_size(limit)} of {format_size(self.capacity_bytes)} can be locked "
            "(RLIMIT_MEMLOCK); the kernel may take the rest: raise it (`ulimit -l`, "
            "/etc/security/limits.conf, LimitMEMLOCK= in the unit) or lower warm.size"
        )

    def is_held(self, ino: InodeNo) -> bool:
        """True if a file counts to the tier: its pages are in RAM, or on their way into it."""
        return ino in self._held

    def is_refused(self, ino: InodeNo) -> bool:
        """True if a file's pages were read in, and the kernel refused to lock them."""
        held = self._get(ino)
        return held is not None and held.refused

    def is_resident(self, ino: InodeNo) -> bool:
        """True if all of a file is in RAM: locked, or read in where locking is refused."""
        held = self._get(ino)
        return held is not None and (held.locked or held.refused)

    def holds(self, ino: InodeNo, raw: RawId, size: int) -> bool:
        """True if exactly this raw file is held, in this size."""
        held = self._get(ino)
        return held is not None and held.raw == raw and held.size == size

    def charged_bytes(self, ino: InodeNo) -> int:
        """Return what a file takes of the capacity."""
        held = self._get(ino)
        return held.charged_bytes if held is not None else 0

    def coldest(self, limit: int) -> list[InodeNo]:
        """Return up to `limit` held files, the one locked or touched longest ago first."""
        found: list[InodeNo] = []
        for ino in self._held:
            if len(found) >= limit:
                break
            found.append(ino)
        return found

    def ram_bytes(self, path: Path) -> int:
        """Return how much of a file is in the page cache; 0 if it is gone."""
        try:
            fd = open_regular(path, os.O_RDONLY)
        except (FileNotFoundError, NotPlainError):
            return 0
        try:
            return cachestat(fd).resident_bytes
        finally:
            os.close(fd)

    def status(self) -> dict[str, object]:
        """Return the RAM tier in numbers, for `memfs status`."""
        return {
            "capacity_bytes": self.capacity_bytes,
            "used_bytes": self.used_bytes,
            "locked_bytes": self.locked_bytes,
            "file_count": len(self._held),
            "locked_count": self.locked_count,
            "refusal": self.refusal,
        }

    # --- changes ---------------------------------------------------------------------------------
    def touch(self, ino: InodeNo) -> None:
        """A file was used: it is the last of `coldest` now."""
        packed = self._held.pop(ino, None)
        if packed is not None:
            self._held[ino] = packed

    async def lock(self, ino: InodeNo, raw: RawId, size: int) -> LockOutcome:
        """Hold a raw file's pages in RAM; see `lock_many`."""
        return (await self.lock_many([LockRequest(ino, raw, size)]))[0]

    async def lock_many(self, requests: Sequence[LockRequest]) -> list[LockOutcome]:
        """Hold raw files' pages in RAM, reading in what is not there; one outcome each.

        A file that is held already, but as another raw file or in another size, is locked anew.
        One trip to a worker thread for all; cancelling waits for the piece that the thread is at.
        """
        outcomes = [self._reserve(request) for request in requests]
        work = [
            (request, held)
            for request, held in zip(requests, outcomes, strict=True)
            if isinstance(held, bytes)
        ]
        results: dict[InodeNo, LockOutcome] = {}
        try:
            if work:
                raws = [(request.raw, request.size) for request, _ in work]
                locks = await trio.to_thread.run_sync(
                    self._lock_all,
                    raws,
                    self._mappings_max - self.locked_count,
                    limiter=self._threads,
                )
                for (request, held), lock in zip(work, locks, strict=True):
                    results[request.ino] = self._note_locked(request, held, lock)
        finally:
            for request, held in work:
                if request.ino not in results and self._held.get(request.ino) is held:
                    self._forget(request.ino)
        return [
            results[request.ino] if isinstance(outcome, bytes) else outcome
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    def release(self, ino: InodeNo, drop_pages: bool) -> None:
        """Give a file's pages back to the kernel; nothing happens if it is not held.

        Args:
            drop_pages: Also throw clean pages out of the page cache; else the kernel does when it
                needs the room.
        """
        held = self._forget(ino)
        if held is None:
            return
        if held.charged_bytes <= RELEASE_INLINE_BYTES_MAX and not drop_pages:
            self._unlock(held, drop_pages)
        else:
            self._releasing = self._releaser.submit(self._unlock, held, drop_pages)

    async def wait_released(self) -> None:
        """Return when the kernel has what was to be released so far; not longer than some seconds.

        Checkpoint: only if that is not done yet.
        """
        releasing = self._releasing
        if releasing is not None and not releasing.done():
            await trio.to_thread.run_sync(concurrent.futures.wait, [releasing], RELEASE_S_MAX)

    def release_all(self) -> None:
        """Give the pages of all files back to the kernel, in a thread; the kernel keeps them."""
        for ino in list(self._held):
            if (held := self._forget(ino)) is not None:
                self._releasing = self._releaser.submit(self._unlock, held, False)

    async def unlock(self, ino: InodeNo, drop_pages: bool) -> int:
        """Do as `release`, and wait until the kernel has the pages; returns the bytes given back.

        Checkpoint: always.
        """
        held = self._forget(ino)
        if held is None:
            await trio.lowlevel.checkpoint()
            return 0
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._unlock, held, drop_pages, limiter=self._threads)
        self._traffic.note_move(Level.WARM, Level.COLD, held.size)
        return held.charged_bytes

    async def drop_pages(self, ino: InodeNo, raw: RawId) -> None:
        """Throw the clean pages of a raw file out of the page cache, held ones included.

        Pages that programs have mapped stay. Checkpoint: always.
        """
        await self.unlock(ino, drop_pages=False)
        await trio.to_thread.run_sync(
            self._advise, raw, os.POSIX_FADV_DONTNEED, limiter=self._threads
        )

    def close(self) -> None:
        """Give everything back; idempotent."""
        for ino in list(self._held):
            held = self._forget(ino)
            if held is not None:
                self._unlock(held, drop_pages=False)
        self._releaser.shutdown(wait=True)

    def _get(self, ino: InodeNo) -> _Held | None:
        packed = self._held.get(ino)
        return _Held(*_HELD.unpack(packed)) if packed is not None else None

    def _reserve(self, request: LockRequest) -> bytes | LockOutcome:
        """Charge a file to the capacity, and return it as it is remembered; its pages follow."""
        if not self.capacity_bytes:
            return LockOutcome.OFF
        held = self._get(request.ino)
        if held is not None:
            if held.raw == request.raw and held.size == request.size:
                self.touch(request.ino)
                return LockOutcome.LOCKED if held.locked else LockOutcome.CACHED
            self.release(request.ino, drop_pages=False)
        charged_bytes = page_bytes(request.size)
        if (
            self.used_bytes + charged_bytes > self.capacity_bytes
            or len(self._held) >= HELD_COUNT_MAX
        ):
            return LockOutcome.NO_ROOM
        fresh = self._held[request.ino] = _HELD.pack(*_Held(request.raw, request.size))
        self.used_bytes += charged_bytes
        return fresh

    def _note_locked(
        self, request: LockRequest, held: bytes, lock: PageLock | str | None
    ) -> LockOutcome:
        """Note what the thread came to."""
        ino, raw, size = request
        if self._held.get(ino) is not held:
            # Released while the thread was locking it.
            if isinstance(lock, PageLock):
                lock.release()
            return LockOutcome.GONE
        if lock is None:
            self._forget(ino)
            return LockOutcome.GONE
        if isinstance(lock, PageLock):
            done = _Held(raw, size, lock.hand_over(), _State.LOCKED)
            self._held[ino] = _HELD.pack(*done)
            self.locked_count += 1
            self._traffic.note_move(Level.COLD, Level.WARM, size)
            return LockOutcome.LOCKED
        self._held[ino] = _HELD.pack(*_Held(raw, size, state=_State.REFUSED))
        self._refused_count += 1
        self._traffic.note_move(Level.COLD, Level.WARM, size)
        if lock != self._refusal:
            log.info("files are cached but not locked: %s", lock)
            self._refusal = lock
        return LockOutcome.CACHED

    def _lock_all(
        self, raws: Sequence[tuple[RawId, int]], mappings_left: int
    ) -> list[PageLock | str | None]:
        """Lock files, in a thread; a text says why one is only cached, None that it is gone."""
        locks: list[PageLock | str | None] = []
        try:
            for raw, size in raws:
                lock = self._lock_one(raw, size, mappings_left)
                mappings_left -= isinstance(lock, PageLock)
                locks.append(lock)
        except BaseException:
            # Cancelled: nobody will know of them.
            for lock in locks:
                if isinstance(lock, PageLock):
                    lock.release()
            raise
        return locks

    def _lock_one(self, raw: RawId, size: int, mappings_left: int) -> PageLock | str | None:
        try:
            with self._raw_store.reading(raw) as check:
                return self._lock_pages(raw, size, mappings_left, check)
        except ObjectMissingError:
            # Gone, or removed meanwhile.
            return None

    def _lock_pages(
        self, raw: RawId, size: int, mappings_left: int, check: Callable[[], None]
    ) -> PageLock | str | None:
        def pause() -> None:
            trio.from_thread.check_cancelled()
            check()

        try:
            fd = self._raw_store.open(raw, os.O_RDONLY)
        except ObjectMissingError:
            raise
        except MemfsError as error:
            return str(error)
        try:
            if mappings_left > 0:
                return self._page_lock(fd, size, pause)
            refusal = "the process has no mapping left for more files; raise vm.max_map_count"
        except PageLockError as error:
            refusal = str(error)
        except OSError as error:
            refusal = f"raw file {raw} cannot be mapped: {error.strerror}"
        finally:
            shrunk = _is_shorter(fd, size)
            os.close(fd)
        if shrunk:
            # The kernel refuses what is not there any more: no fault of the tier's.
            return None
        self._advise(raw, os.POSIX_FADV_WILLNEED)
        return refusal

    def _forget(self, ino: InodeNo) -> _Held | None:
        held = self._get(ino)
        if held is not None:
            del self._held[ino]
            self.used_bytes -= held.charged_bytes
            self.locked_count -= held.locked
            self._refused_count -= held.refused
        return held

    def _unlock(self, held: _Held, drop_pages: bool) -> None:
        if held.address:
            release_pages(held.address, held.size)
        if drop_pages:
            self._advise(held.raw, os.POSIX_FADV_DONTNEED)

    def _advise(self, raw: RawId, advice: int) -> None:
        """Tell the kernel what becomes of a raw file's pages (posix_fadvise(2)); a hint only."""
        try:
            fd = self._raw_store.open(raw, os.O_RDONLY)
        except MemfsError:
            return
        try:
            os.posix_fadvise(fd, 0, 0, advice)
        finally:
            os.close(fd)
