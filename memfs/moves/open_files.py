"""Open files: their bytes at the instant of a snapshot, which programs may be changing.

At the instant each of them begins a new generation, and the snapshot shows the former one without
bytes. A copy is made at once where the disk can share blocks (FICLONE), else in the background.

Invariant: a snapshot shows a copy whole, or no bytes: an unfinished one goes with its intent.
"""

from __future__ import annotations

import enum
import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.content.sealing import raw_mtime_ns
from memfs.defects import as_failure
from memfs.errors import MemfsError, ObjectMissingError
from memfs.linux.files import share_blocks
from memfs.metadata.records import KeptContent, MoveKind, OpenContent
from memfs.moves.attempt import Attempt
from memfs.moves.copying import new_raw
from memfs.policy.marks import SNAPSHOT_XATTR, SNAPSHOTS_OFF
from memfs.signals import Signal
from memfs.stores.disk import clone_file, disk_errors
from memfs.types import NO_BLOB, InodeNo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.types import RawId

log = logging.getLogger(__name__)

CLONE_S_MAX = 0.005
"""So long the event loop shares blocks at the instant itself, 0.02 ms a file; others follow."""

_FILES_A_PAGE = 1000


class OpenState(enum.StrEnum):
    """What a snapshot has of a file that was open for writing."""

    OPEN = "open"
    """Bytes that were copied while it was open."""
    COPYING = "copying"
    """They are being copied."""
    ABSENT = "absent"
    """No bytes."""


@dataclass(slots=True, eq=False)
class OpenCopy:
    """One file, from the instant until a snapshot has its bytes, or not."""

    inode: Inode
    """As it was."""
    size: int
    """Bytes at the instant."""
    mtime_ns: int
    state: OpenState
    reason: str = ""
    """Why there are no bytes."""
    raw: RawId | None = None
    """Number of the copy; None: no copy is to be made."""
    attempt: Attempt | None = None
    cloned: bool = False
    done: trio.Event = field(default_factory=trio.Event)


class OpenFiles:
    """Copies open files for snapshots, one after the other."""

    def __init__(self, parts: MoveParts) -> None:
        self._parts = parts
        self._waiting: deque[OpenCopy] = deque()
        self._changed = Signal()
        self._shares_blocks = True
        """The disk has not refused to."""

    async def find(self) -> list[OpenContent]:
        """Return all files that may have a writer, as they are now. Asks nothing but the engine."""
        found: list[OpenContent] = []
        after = InodeNo(0)
        while inodes := await self._parts.engine.list_unsealed(after, _FILES_A_PAGE):
            after = inodes[-1].ino
            for inode in inodes:
                if not inode.nlink:
                    continue
                try:
                    status = self._parts.raw_store.stat(inode.raw)
                except ObjectMissingError:
                    found.append(OpenContent(inode.ino, 0, inode.mtime_ns))
                else:
                    mtime_ns = raw_mtime_ns(inode, status)
                    found.append(OpenContent(inode.ino, status.st_size, mtime_ns))
        return found

    async def part(
        self, files: Sequence[OpenContent], *, with_bytes: bool = True
    ) -> list[OpenCopy]:
        """Begin new generations of files, and the intents of their copies.

        Within the change that has made the snapshot; `begin` follows in the same step.

        Args:
            files: What `find` has returned.
            with_bytes: False: the snapshot shows no bytes of them, and nothing is copied.
        """
        engine = self._parts.engine
        contents = {content.ino: content for content in files}
        copies = []
        for inode in await engine.part_open(files):
            content = contents[inode.ino]
            copy = OpenCopy(inode, content.size, content.mtime_ns, OpenState.COPYING)
            copies.append(copy)
            if not content.size:
                copy.state = OpenState.OPEN
            elif not with_bytes:
                copy.state = OpenState.ABSENT
                copy.reason = "the snapshot is made for names and attributes"
            elif await engine.effective_xattr(inode.ino, SNAPSHOT_XATTR) == SNAPSHOTS_OFF:
                copy.state = OpenState.ABSENT
                copy.reason = f"{SNAPSHOT_XATTR.decode()} is off"
            elif not self._shares_blocks and self._is_too_large(copy):
                self._note_too_large(copy)
            else:
                await self._reserve(copy)
        return copies

    async def _reserve(self, copy: OpenCopy) -> None:
        engine, inode = self._parts.engine, copy.inode
        _, copy.raw = engine.reserve_ids()
        location = str(int(copy.raw))
        intent = await engine.begin_intent(
            MoveKind.HYDRATE, inode.ino, inode.generation, location, time.time_ns()
        )
        copy.attempt = Attempt(self._parts, MoveKind.HYDRATE, intent, location)

    def _is_too_large(self, copy: OpenCopy) -> bool:
        return copy.size > self._parts.config.snapshots.open_copy_bytes_max

    def _note_too_large(self, copy: OpenCopy) -> None:
        copy.state = OpenState.ABSENT
        copy.reason = f"it is larger than snapshots.open_copy_max, and has {copy.size} bytes"

    def begin(self, copies: Sequence[OpenCopy]) -> None:
        """Share blocks where the disk can, and have the rest done in the background.

        The change of `part` is committed. Nothing is waited for.
        """
        self._parts.faults.reach("open.parted")
        begun_s = time.monotonic()
        for copy in copies:
            # The sealer may have looked at the former generation.
            self._parts.sealer.add(copy.inode.ino)
            if copy.raw is None:
                copy.done.set()
                continue
            if self._shares_blocks and time.monotonic() - begun_s < CLONE_S_MAX:
                try:
                    copy.cloned = self._clone(copy)
                except (MemfsError, OSError) as error:
                    log.info("inode %d: its blocks are not shared: %s", copy.inode.ino, error)
            self._waiting.append(copy)
        self._changed.set()

    def _clone(self, copy: OpenCopy) -> bool:
        store, raw = self._parts.raw_store, copy.raw
        assert raw is not None
        with new_raw(self._parts, copy.inode.raw, raw, "open.created") as (source, target):
            cloned = share_blocks(source, target)
        if not cloned:
            self._shares_blocks = False
            store.unlink(raw)
        return cloned

    async def run(self) -> None:
        """Copy until cancelled; what is not copied then is given up."""
        try:
            while True:
                while not self._waiting:
                    await self._changed.wait(self._changed.count)
                await self._finish(self._waiting[0])
                self._waiting.popleft()
        finally:
            with trio.CancelScope(shield=True):
                while self._waiting:
                    copy = self._waiting.popleft()
                    await self._give_up(copy, "the daemon has ended")

    async def copy_all(self) -> None:
        """Copy what waits now."""
        while self._waiting:
            await self._finish(self._waiting.popleft())

    async def _finish(self, copy: OpenCopy) -> None:
        if not self._shares_blocks and self._is_too_large(copy):
            self._note_too_large(copy)
            await self._give_up(copy, copy.reason)
            return
        try:
            await self._keep(copy)
        except Exception as error:
            reason = as_failure(error, f"inode {copy.inode.ino}, copied for a snapshot")
            log.info("inode %d is not copied for a snapshot: %s", copy.inode.ino, reason)
            await self._give_up(copy, str(reason))

    async def _keep(self, copy: OpenCopy) -> None:
        parts, inode = self._parts, copy.inode
        assert copy.attempt is not None
        with parts.progress.track("keep", inode.ino, copy.size) as progress:
            content = await trio.to_thread.run_sync(
                self._write, copy, progress, limiter=parts.threads
            )
        kept = await copy.attempt.publish(partial(parts.engine.keep_open, content))
        parts.faults.reach("open.recorded")
        copy.state = OpenState.OPEN if kept else OpenState.ABSENT
        copy.done.set()

    def _write(self, copy: OpenCopy, progress: MoveProgress) -> KeptContent:
        """Copy a raw file unless its blocks are shared, and make the copy durable."""
        store, raw, inode = self._parts.raw_store, copy.raw, copy.inode
        assert raw is not None
        mtime_ns = copy.mtime_ns
        if not copy.cloned:
            # What a failed attempt to share blocks has left.
            store.unlink(raw)
            with new_raw(self._parts, inode.raw, raw, "open.created") as (source, target):
                mtime_ns = raw_mtime_ns(inode, os.fstat(source))
                clone_file(source, target, progress.advance, may_shrink=True)
        with disk_errors(str(store.path(raw))):
            target = store.open(raw)
            try:
                os.utime(target, ns=(mtime_ns, mtime_ns))
                os.fsync(target)
                status = os.fstat(target)
            finally:
                os.close(target)
        store.sync_directory(raw)
        self._parts.faults.reach("open.written")
        return KeptContent(
            inode.ino,
            inode.generation,
            raw,
            NO_BLOB,
            status.st_size,
            status.st_blocks,
            mtime_ns,
            open=True,
        )

    async def _give_up(self, copy: OpenCopy, reason: str) -> None:
        copy.state, copy.reason = OpenState.ABSENT, copy.reason or reason
        if copy.attempt is not None and not copy.attempt.ended:
            with trio.CancelScope(shield=True):
                await copy.attempt.give_up()
        copy.done.set()
