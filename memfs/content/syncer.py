"""Names reach stable storage after the bytes that they were given to.

Invariant: when `Syncer.sync` returns, every file that was added before it began is on stable
storage, and only then were the names; so a rename over an old file leaves the old or the new bytes.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from memfs.errors import MemfsError, ObjectMissingError
from memfs.linux.files import syncfs
from memfs.stores.disk import disk_errors
from memfs.stores.raw import DIRECTORY_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memfs.metadata.engine import Local
    from memfs.stores.raw import RawStore
    from memfs.types import RawId

log = logging.getLogger(__name__)

QUEUED_COUNT_MAX = 128
"""Files synced one by one; where more wait, one syncfs(2) of the disk is cheaper. Guess."""

FAILED_COUNT_MAX = 10_000
"""Files remembered that could not be synced, until a program asks; about 1 MB."""

ROUNDS_MAX = 3
"""Looks at the queue in one sync: files are added while others are synced. Guess."""


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
        """Number of the latest `add` that found no room; 0: none."""
        self._reported: set[RawId | None] = set()
        """What failed before; None stands for the whole disk."""
        self._failures: dict[RawId, int] = {}
        """Errno of failed syncs that no program has been told of."""
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

    def note_failure(self, raw: RawId, error: MemfsError) -> None:
        """A sync of a raw file in the background has failed: a program that syncs it must hear.

        The kernel tells of a lost page once and then calls it clean (fsync(2), NOTES).
        """
        with self._lock:
            if len(self._failures) < FAILED_COUNT_MAX:
                self._failures[raw] = error.errno

    def take_failure(self, raw: RawId) -> int:
        """Return, once, the errno of a failed sync in the background; 0: none has failed."""
        # No lock for the usual case, an empty dict: this is asked by every fsync.
        if not self._failures:
            return 0
        with self._lock:
            return self._failures.pop(raw, 0)

    def failure_of(self, raw: RawId) -> int:
        """Return what `take_failure` would, and leave it to be taken."""
        return self._failures.get(raw, 0)

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

    def _sync_added(self) -> bool:
        """Sync what is queued; False if nothing was, or nothing of it could be."""
        with self._lock:
            queue, overflow = dict(self._queue), self._overflow
        if overflow and self._sync_whole():
            with self._lock:
                if self._overflow == overflow:
                    self._overflow = 0
            done: set[RawId] = set(queue)
        else:
            done = self._sync_each(queue)
        with self._lock:
            for raw in done:
                if self._queue[raw] == queue[raw]:
                    del self._queue[raw]
        self._reported -= done
        return bool(done)

    def _sync_each(self, raws: Iterable[RawId]) -> set[RawId]:
        """Sync files and their names; returns those that are durable, or gone."""
        done: set[RawId] = set()
        in_directory: dict[int, list[RawId]] = {}
        for raw in raws:
            try:
                self._sync_bytes(raw)
            except ObjectMissingError:
                done.add(raw)
            except MemfsError as error:
                self._report(raw, error)
            else:
                in_directory.setdefault(raw >> DIRECTORY_BITS, []).append(raw)
        return done | self._sync_names(in_directory)

    def _sync_bytes(self, raw: RawId) -> None:
        fd = self._raw_store.open(raw, os.O_RDONLY)
        try:
            with disk_errors(str(self._raw_store.path(raw))):
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def _sync_names(self, in_directory: Mapping[int, list[RawId]]) -> set[RawId]:
        done: set[RawId] = set()
        for raws in in_directory.values():
            try:
                self._raw_store.sync_directory(raws[0])
            except MemfsError as error:
                self._report(raws[0], error)
            else:
                done.update(raws)
        return done

    def _sync_whole(self) -> bool:
        root = self._raw_store.root
        try:
            with disk_errors(str(root)):
                fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    syncfs(fd)
                finally:
                    os.close(fd)
        except MemfsError as error:
            self._report(None, error)
            return False
        self._reported.discard(None)
        return True

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
