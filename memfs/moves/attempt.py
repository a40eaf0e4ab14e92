"""Attempts: a move's intent, recorded before the first byte and ended with the last.

Invariant: while anything of an unpublished move may exist on disk or in the store, the engine has
an intent that names it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.errors import MemfsError, StaleInodeError
from memfs.keyed_lock import KeyedLock
from memfs.metadata.records import MoveKind
from memfs.moves.faults import FaultPoints
from memfs.moves.progress import ProgressTable
from memfs.moves.sightings import Sightings
from memfs.moves.tally import CompressionTally
from memfs.moves.throttle import BackgroundThrottle
from memfs.moves.unfinished import note_unfinished
from memfs.single_flight import SingleFlight
from memfs.stores.disk import disk_errors
from memfs.stores.zeros import ZeroRuns
from memfs.traces.access_log import AccessLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from memfs.config import Config
    from memfs.content.file_syncs import FileSyncs
    from memfs.content.opentable import OpenTable
    from memfs.content.residency import Residency
    from memfs.content.room import Room
    from memfs.content.sealing import Sealer
    from memfs.content.syncer import Syncer
    from memfs.hot.board import HotBoard
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Blob, Form, FormReplacement, Inode
    from memfs.stores.lost_found import LostFound
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo, IntentId, RawId

log = logging.getLogger(__name__)

MOVE_THREADS_MAX = 4
"""Worker threads of the demotions together; each may use a few more to encode. Guess."""

PROMPT_THREADS_MAX = 4
"""Worker threads of all else. Guess: the mover takes two of them at most to hydrate."""


@dataclass(slots=True)
class MoveParts:
    """What all moves work with."""

    engine: Engine
    raw_store: RawStore
    packed_store: PackedStore
    remote: RemoteStore | None
    """None: no glacier tier is configured."""
    config: Config
    open_table: OpenTable
    residency: Residency
    syncer: Syncer
    file_syncs: FileSyncs
    sealer: Sealer
    lost_found: LostFound
    keys: KeyRing = NO_KEYS
    """Of forms that are encrypted, or are to be."""
    access_log: AccessLog = field(default_factory=AccessLog)
    """Told of hydrations while a trace is recorded."""
    throttle: BackgroundThrottle = field(default_factory=BackgroundThrottle)
    tally: CompressionTally = field(default_factory=CompressionTally)
    faults: FaultPoints = field(default_factory=FaultPoints)
    progress: ProgressTable = field(default_factory=ProgressTable)
    uploading: KeyedLock[InodeNo] = field(default_factory=KeyedLock)
    """Files that are being uploaded: whoever comes second finds the first one's object. A task that
    holds a file waits for no other one."""
    hydrating: SingleFlight[InodeNo, Inode] = field(default_factory=SingleFlight)
    """Files that are being hydrated: all who ask for one wait for the same raw file."""
    hydrated: dict[InodeNo, None] = field(default_factory=dict)
    """Files that were hydrated since the mover asked (`take_hydrated`)."""
    zeros: ZeroRuns = field(default_factory=ZeroRuns)
    """Hashes the holes of files."""
    sightings: Sightings = field(default_factory=Sightings)
    """Asked before the last local copy of a file goes."""
    room: Room | None = None
    """Holds writers back; None: nobody is."""
    store_elsewhere: bool = True
    """False: the store lies on the disk of the state directory, and moving there frees nothing but
    what compression saves."""
    hot: HotBoard | None = None
    """None: there is no hot tier."""
    threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(MOVE_THREADS_MAX)
    )
    """For packing and uploading, which may hold one for minutes."""
    prompt_threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(PROMPT_THREADS_MAX)
    )
    """For what programs wait for: hydration, durability, and room on the disk."""


class Attempt:
    """One recorded move."""

    def __init__(
        self, parts: MoveParts, inode: Inode, intent: IntentId, upload_key: str | None
    ) -> None:
        self._parts = parts
        self._inode = inode
        self._intent = intent
        self._upload_key = upload_key
        self.ended = False
        """True once the engine has ended the intent, published or not."""

    async def publish_form(self, blob: Blob, form: Form) -> bool:
        """Publish a verified form, committed; False if the file has moved on."""
        inode, engine = self._inode, self._parts.engine
        async with engine.change():
            published = await engine.publish_form(
                inode.ino, inode.generation, blob, form, self._intent
            )
        self.ended = True
        return published

    async def replace_form(self, replacement: FormReplacement) -> bool:
        """Put a verified remote form in the place of another, committed; False if that is gone."""
        engine = self._parts.engine
        async with engine.change():
            replaced = await engine.replace_form(self._intent, replacement)
        self.ended = True
        return replaced

    async def publish_raw(self, raw: RawId, blocks: int) -> bool:
        """Publish a verified raw file, committed; False if the file has moved on."""
        inode, engine = self._inode, self._parts.engine
        # No utimensat(2) comes between its look at the raw file and its change.
        async with self._parts.open_table.gates.hold(inode.ino), engine.change():
            late = await self._take_over_mtime(raw)
            published = await engine.publish_raw(
                inode.ino, inode.generation, raw, blocks, self._intent
            )
            if published and not late:
                # Its bytes and its name were made durable before; if the publishing itself is lost
                # with power, so is this.
                await engine.mark_durable([(inode.ino, inode.generation)])
        self.ended = True
        return published

    async def _take_over_mtime(self, raw: RawId) -> bool:
        """Give a new raw file an mtime that was set while it was being written; True if one was.

        Its own is the one that the move began with, and is durable.
        """
        inode, parts = self._inode, self._parts
        try:
            now = await parts.engine.get_inode(inode.ino)
        except StaleInodeError:
            return False
        if now.generation != inode.generation or now.mtime_ns == inode.mtime_ns:
            return False
        path = parts.raw_store.path(raw)
        with disk_errors(str(path)):
            os.utime(path, ns=(now.atime_ns, now.mtime_ns))
        return True

    async def give_up(self) -> None:
        """End the intent: what was written becomes garbage."""
        engine = self._parts.engine
        try:
            async with engine.change():
                await engine.cancel_intent(self._intent)
                if self._upload_key is not None:
                    await note_unfinished(engine, [self._upload_key])
        except MemfsError as error:
            # The intent stays, and the next start rolls it back.
            log.warning("inode %d: a move could not be rolled back: %s", self._inode.ino, error)
            return
        self.ended = True
        self._parts.faults.reach("cancel.recorded")


@contextlib.asynccontextmanager
async def recorded(
    parts: MoveParts, kind: MoveKind, inode: Inode, location: str
) -> AsyncIterator[Attempt]:
    """Record a move for the block, and roll it back unless the block publishes.

    Args:
        parts: The engine among them.
        kind: What the move does.
        inode: The file as the move found it.
        location: Where it will write; never used before, so rolling back harms nobody.
    """
    engine = parts.engine
    async with engine.change():
        intent = await engine.begin_intent(
            kind, inode.ino, inode.generation, location, time.time_ns()
        )
    parts.faults.reach(f"{kind}.begun")
    upload_key = location if kind == MoveKind.UPLOAD else None
    attempt = Attempt(parts, inode, intent, upload_key)
    try:
        yield attempt
    finally:
        if not attempt.ended:
            with trio.CancelScope(shield=True):
                await attempt.give_up()
