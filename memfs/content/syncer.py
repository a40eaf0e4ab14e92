"""The syncer: raw files, their names and the engine reach stable storage, in that order.

Invariant: when `Syncer.sync` returns, every file that was added before it began is on stable
storage, and only then were the names; so a rename over an old file leaves the old or the new bytes.
A sync that the disk refused is remembered: a later one would report success for pages that are lost
(fsync(2), NOTES).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError, ObjectMissingError
from memfs.linux.files import syncfs, write_back
from memfs.stores.disk import data_extents, disk_errors
from memfs.stores.raw import DIRECTORY_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from memfs.metadata.local import Local
    from memfs.stores.raw import RawStore
    from memfs.types import RawId

log = logging.getLogger(__name__)

QUEUED_COUNT_MAX = 128
"""Files synced one by one; where more wait, one syncfs(2) of the disk is cheaper. Guess."""

SYNC_EACH_MAX = 32
"""More files than this that only the background waits for are synced by one syncfs(2). Guess."""

FAILED_COUNT_MAX = 10_000
"""Files remembered that could not be synced; about 2 MB."""

PIECE_BYTES = 64 << 20
"""Bytes of a large file written between two looks whether it was removed: half a second of a disk
with 100 MB/s."""

ROUNDS_MAX = 3
"""Looks at the queue in one sync: files are added while others are synced. Guess."""


class _Failure(NamedTuple):
    """What came of a sync of a raw file that the disk has refused."""

    code: int
    """The errno."""
    reason: str
    told: bool
    """A program has heard of it."""
    void: bool = False
    """The file was opened for writing since: what is lost belongs to a former content."""


class Syncer:
    """Makes the engine durable, but first the files that took the place of others.

    Programs replace a file by writing another one and renaming it over the old one, often without
    fsync; local file systems write the bytes before such a rename (ext4(5), `auto_da_alloc`).
    They cannot see ours, which is a change of the engine and moves no raw file.

    A file that cannot be synced is reported once and tried again at each later sync, but names do
    not wait for it: one bad file must not keep all others from ever being durable, and on a full
    disk the garbage collection behind this call is what frees the room that it needs. A rename
    made while the journal itself is being synced, or moved into the tables by the engine, may
    precede its bytes until the next sync; the old raw file is still there then, since garbage is
    removed only after a sync of its own.

    Safe for all threads.

    Args:
        engine: Knows the names.
        raw_store: Has the bytes.
    """

    def __init__(self, engine: Local, raw_store: RawStore) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._lock = threading.Lock()
        """Guards what follows; never held while the disk is waited for."""
        self._queue: dict[RawId, int] = {}
        """Files to sync, with the number of their latest `add`: one that is added again while it
        is being synced stays."""
        self._add_count = 0
        self._overflow = 0
        """Number of the latest `add` that found no room; 0: all found room."""
        self._reported: set[RawId | None] = set()
        """What failed before; None stands for the whole disk."""
        self._failures: dict[RawId, _Failure] = {}
        self._forgot_failures = False
        """There were too many: no file is known to be without one."""
        self.failure_change_count = 0
        """Grows with each failure, and with each that is told or void."""
        self._turn = threading.Lock()
        """Held while files are synced: a second sync waits, and need not do the same work again."""

    @property
    def queued_count(self) -> int:
        """Files that the next sync will sync one by one."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """True if no file is to be synced before the engine, nor is one being synced."""
        return not (self._queue or self._overflow or self._turn.locked())

    def add(self, raw: RawId) -> None:
        """Have the bytes of a raw file precede all names of the next sync. Does not block.

        To be called before the change that must not precede the bytes is committed.
        """
        with self._lock:
            self._add_count += 1
            if raw in self._queue or len(self._queue) < QUEUED_COUNT_MAX:
                self._queue[raw] = self._add_count
            else:
                self._overflow = self._add_count

    # --- failures --------------------------------------------------------------------------------
    def note_failure(self, raw: RawId, error: MemfsError | OSError, *, told: bool = False) -> None:
        """The disk has refused the bytes or the name of a raw file.

        A program that syncs the file must hear of it, and the file is not durable before it was
        written anew: the kernel tells of a lost page once, and then calls it clean.

        Args:
            error: What the sync raised.
            told: The program that waited for the sync gets the error.
        """
        code = error.errno or errno.EIO
        with self._lock:
            if len(self._failures) >= FAILED_COUNT_MAX and raw not in self._failures:
                self._forgot_failures = True
                return
            self._failures[raw] = _Failure(code, str(error), told)
            self.failure_change_count += 1

    def take_failure(self, raw: RawId) -> int:
        """Return, once, the errno of a failed sync that no program has heard of; 0: all is well."""
        # No lock for the usual case, an empty dict: this is asked by every fsync.
        if not self._failures:
            return 0
        with self._lock:
            failure = self._failures.get(raw)
            if failure is None or failure.told:
                return 0
            self._replace_failure(raw, failure._replace(told=True))
            return failure.code

    @property
    def has_failures(self) -> bool:
        """True if a sync of any file has failed, or may have."""
        return bool(self._failures) or self._forgot_failures

    def refusal(self, raw: RawId) -> str | None:
        """Return why a raw file is not to be called durable, whatever syncs say; None: nothing."""
        failure = self._failures.get(raw)
        if failure is not None and not failure.void:
            return f"an earlier sync of it failed: {failure.reason}"
        if self._forgot_failures and failure is None:
            return f"more than {FAILED_COUNT_MAX} files could not be synced; mount again"
        return None

    def renew(self, raw: RawId) -> None:
        """A raw file is opened for writing, by the first one that does: it may become durable."""
        if not self._failures:
            return
        with self._lock:
            if (failure := self._failures.get(raw)) is not None:
                self._replace_failure(raw, failure._replace(void=True))

    def refused(self) -> dict[RawId, bool]:
        """Return the raw files that have a `refusal`, and whether a program has heard of each."""
        with self._lock:
            failures = self._failures.items()
            return {raw: failure.told for raw, failure in failures if not failure.void}

    def _replace_failure(self, raw: RawId, failure: _Failure) -> None:
        self.failure_change_count += 1
        if failure.told and failure.void:
            del self._failures[raw]
        else:
            self._failures[raw] = failure

    # --- syncs -----------------------------------------------------------------------------------
    def sync(self) -> None:
        """Bring the added files and then all committed changes to stable storage. Blocks.

        Raises:
            MetadataError: The engine cannot be made durable.
        """
        with self._turn:
            for _ in range(ROUNDS_MAX):
                if not self._sync_added():
                    break
        self._engine.sync()

    def sync_file(self, raw: RawId, fd: int, *, data_only: bool) -> None:
        """Bring one file, its name, and then all that `sync` does to stable storage. Blocks.

        The last two cost nothing where they were done since anything changed: a database's files
        have nothing but bytes to write.

        Args:
            fd: Open at it.
            data_only: Leave out its times (fdatasync(2)).

        Raises:
            OSError: The disk refuses the bytes.
            StoreError: It refuses the name.
            MetadataError: The engine cannot be made durable.
        """
        self.sync_bytes(raw, fd, data_only=data_only)
        self._raw_store.sync_directory(raw)
        self.sync()

    def sync_bytes(self, raw: RawId, fd: int, *, data_only: bool) -> None:
        """Bring the bytes of one file to stable storage, and not its name. Blocks.

        Args:
            fd: Open at it.
            data_only: As for `sync_file`.

        Raises:
            OSError: The disk refuses the bytes.
        """
        try:
            (os.fdatasync if data_only else os.fsync)(fd)
        except OSError as error:
            self.note_failure(raw, error, told=True)
            raise

    def sync_files(self, raws: Sequence[RawId]) -> dict[RawId, MemfsError]:
        """Bring raw files and their names to stable storage, many by one syncfs(2). Blocks.

        Returns:
            What the disk has refused; `note_failure` is left to the caller.
        """
        if len(raws) > SYNC_EACH_MAX:
            try:
                self.sync_disk()
            except MemfsError as error:
                # Only an fsync of each file tells whose bytes are lost; another syncfs succeeds.
                log.warning("%s cannot be synced as a whole: %s", self._raw_store.root, error)
            else:
                return {}
        return self._sync_each(raws, os.fsync)

    def sync_disk(self) -> None:
        """Bring everything on the disk of the raw files to stable storage. Blocks.

        Raises:
            StoreError: Some bytes could not be written since the last call, of whichever file.
        """
        root = self._raw_store.root
        with disk_errors(str(root)):
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                syncfs(fd)
            finally:
                os.close(fd)

    def _sync_added(self) -> bool:
        """Sync what is queued; False if nothing was, or nothing of it could be."""
        with self._lock:
            queue, overflow = dict(self._queue), self._overflow
        if overflow and self._sync_overflowed():
            with self._lock:
                if self._overflow == overflow:
                    self._overflow = 0
            done: set[RawId] = set(queue)
        else:
            # Their times are the engine's to keep.
            refused = self._sync_each(queue, os.fdatasync)
            for raw, error in refused.items():
                if not isinstance(error, ObjectMissingError):
                    self._report(raw, error)
            done = {
                raw
                for raw in queue
                if raw not in refused or isinstance(refused[raw], ObjectMissingError)
            }
        with self._lock:
            for raw in done:
                if self._queue[raw] == queue[raw]:
                    del self._queue[raw]
        self._reported -= done
        return bool(done)

    def _sync_overflowed(self) -> bool:
        try:
            self.sync_disk()
        except MemfsError as error:
            self._report(None, error)
            return False
        self._reported.discard(None)
        return True

    def _sync_each(
        self, raws: Iterable[RawId], sync: Callable[[int], None]
    ) -> dict[RawId, MemfsError]:
        """Sync files, and then their names, once a directory; returns those that are refused."""
        refused: dict[RawId, MemfsError] = {}
        in_directory: dict[int, list[RawId]] = {}
        for raw in raws:
            try:
                self._sync_bytes(raw, sync)
            except MemfsError as error:
                refused[raw] = error
            else:
                in_directory.setdefault(raw >> DIRECTORY_BITS, []).append(raw)
        for together in in_directory.values():
            try:
                self._raw_store.sync_directory(together[0])
            except MemfsError as error:
                refused |= dict.fromkeys(together, error)
        return refused

    def _sync_bytes(self, raw: RawId, sync: Callable[[int], None]) -> None:
        with self._raw_store.reading(raw) as check:
            fd = self._raw_store.open(raw, os.O_RDONLY)
            try:
                with disk_errors(str(self._raw_store.path(raw))):
                    size = os.fstat(fd).st_size
                    # An fsync of gigabytes cannot be stopped, and keeps their room on the disk.
                    for start, end in data_extents(fd, size) if size > PIECE_BYTES else ():
                        for offset in range(start, end, PIECE_BYTES):
                            write_back(fd, offset, min(PIECE_BYTES, end - offset))
                            check()
                    sync(fd)
            finally:
                os.close(fd)

    def _report(self, raw: RawId | None, error: MemfsError) -> None:
        if raw is not None:
            self.note_failure(raw, error)
        if raw in self._reported:
            return
        self._reported.add(raw)
        subject = "the disk of the raw files" if raw is None else f"raw file {raw}"
        log.error(
            "%s cannot be made durable, and took the place of older bytes by a rename: power loss "
            "may leave less of it; next try with the next sync: %s",
            subject,
            error,
        )
