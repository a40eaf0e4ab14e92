"""Attempts: a move's intent, recorded before the first byte and ended with the last.

Invariant: while anything of an unpublished move may exist on disk or in the store, the engine has
an intent that names it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import trio

from memfs.bounded import BoundedDict
from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.errors import MemfsError, NotSupportedError
from memfs.keyed_lock import KeyedLock
from memfs.metadata.records import MoveKind
from memfs.metrics.events import EventLog
from memfs.metrics.sources import SourceCounts
from memfs.metrics.traffic import Traffic
from memfs.moves.faults import FaultPoints
from memfs.moves.progress import ProgressTable
from memfs.moves.sightings import Sightings
from memfs.moves.tally import CompressionTally
from memfs.moves.throttle import BackgroundThrottle
from memfs.moves.unfinished import note_unfinished
from memfs.single_flight import SingleFlight
from memfs.stores.zeros import ZeroRuns
from memfs.traces.access_log import AccessLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from memfs.config import Config
    from memfs.content.file_syncs import FileSyncs
    from memfs.content.opentable import OpenTable
    from memfs.content.residency import Residency
    from memfs.content.room import Room
    from memfs.content.sealing import Sealer
    from memfs.content.sources import Sources
    from memfs.hot.board import HotBoard
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.moves.held_objects import HeldObjects
    from memfs.moves.hydrating import FetchFromWriter
    from memfs.moves.mending import FetchPublished
    from memfs.stores.lost_found import LostFound
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo, IntentId

log = logging.getLogger(__name__)

T = TypeVar("T")

MOVE_THREADS_MAX = 4
"""Worker threads of the demotions together; each may use a few more to encode. Guess."""

UNPUBLISHED_COUNT_MAX = 20_000
"""Files of which is told why they are not published, some 5 MB: as many as are found at a time."""

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
    file_syncs: FileSyncs
    sealer: Sealer
    lost_found: LostFound
    keys: KeyRing = NO_KEYS
    """Those of forms that are encrypted, or are to be."""
    access_log: AccessLog = field(default_factory=AccessLog)
    """Told of hydrations while a trace is recorded."""
    throttle: BackgroundThrottle = field(default_factory=BackgroundThrottle)
    tally: CompressionTally = field(default_factory=CompressionTally)
    events: EventLog = field(default_factory=EventLog)
    """Told of what people decide and of what goes wrong."""
    traffic: Traffic = field(default_factory=Traffic)
    """Told of copies that were made, by the levels that they lead from and to."""
    source_counts: SourceCounts = field(default_factory=SourceCounts)
    """Told of adopted files that differ from their objects, and of listings that fail."""
    faults: FaultPoints = field(default_factory=FaultPoints)
    progress: ProgressTable = field(default_factory=ProgressTable)
    uploading: KeyedLock[InodeNo] = field(default_factory=KeyedLock)
    """Files that are being uploaded, by `sharing.upload_key`: the second to come finds the first
    one's object. A task that holds a file waits for no other one."""
    hydrating: SingleFlight[InodeNo, Inode] = field(default_factory=SingleFlight)
    """Files that are being hydrated: all who ask for one wait for the same raw file."""
    keeping: SingleFlight[InodeNo, bool] = field(default_factory=SingleFlight)
    """Files of which a copy is being made for snapshots."""
    hydrated: dict[InodeNo, None] = field(default_factory=dict)
    """Files that were hydrated since the mover asked (`take_hydrated`)."""
    unpublished: BoundedDict[InodeNo, str] = field(
        default_factory=lambda: BoundedDict(UNPUBLISHED_COUNT_MAX)
    )
    """Why files with `user.memfs.publish` are not published as they are, although it is time."""
    zeros: ZeroRuns = field(default_factory=ZeroRuns)
    """Hashes the holes of files."""
    sightings: Sightings = field(default_factory=Sightings)
    """Asked before the last local copy of a file goes."""
    room: Room | None = None
    """Holds writers back; None: nobody is."""
    store_elsewhere: bool = True
    """False: the store lies on the disk of the state directory, and moving there frees nothing but
    what compression saves."""
    held_from: int | None = None
    """Objects that have become garbage with this number or a higher one stay: an export in the
    store may name them. 0: all of them; None: not one."""
    held_objects: HeldObjects | None = None
    """Holds what nodes that read may need; None: this state is read here alone."""
    source: str | None = None
    """Why nothing in the store may be changed; None: it is this state's own."""
    writes: bool = True
    """False: another node writes. Local copies are made and dropped here, and nothing else."""
    sources: Sources | None = None
    """Those of adopted objects; None: they are not read here."""
    published: FetchPublished | None = None
    """Fetches published objects, for files that have lost their own forms; None: nobody does."""
    from_writer: FetchFromWriter | None = None
    """Fetches what the node that writes has alone; None: nobody does."""
    hot: HotBoard | None = None
    """None: there is no hot tier."""
    threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(MOVE_THREADS_MAX)
    )
    """For packing and uploading, which may hold one for minutes."""
    prompt_threads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(PROMPT_THREADS_MAX)
    )
    """For what programs wait for: hydration, and room on the disk."""

    @property
    def garbage_held_from(self) -> int | None:
        """Objects that have become garbage with this number or a higher one stay for now.

        None: not one.
        """
        bounds = [] if self.held_from is None else [self.held_from]
        if self.held_objects is not None:
            bounds.append(self.held_objects.held_from)
        return min(bounds, default=None)

    @property
    def store_names(self) -> tuple[str, ...]:
        """Names of the configured stores; that of the default one is empty, and the first."""
        return ("", *self.config.stores)

    def __post_init__(self) -> None:
        self.throttle.decide(giving_way=False, urgent=not self.config.policy.give_way)


def configured_store(parts: MoveParts) -> RemoteStore:
    """Return the object store for who looks at what is in it.

    Raises:
        NotSupportedError: There is no glacier tier.
    """
    if parts.remote is None:
        raise NotSupportedError("no glacier tier is configured: set glacier.url")
    return parts.remote


def writable_store(parts: MoveParts) -> RemoteStore:
    """Return the object store for who adds objects to it.

    Raises:
        NotSupportedError: There is no glacier tier, or it belongs to another state.
    """
    remote = configured_store(parts)
    if parts.source is not None:
        raise NotSupportedError(parts.source)
    return remote


def sources_of(parts: MoveParts, wanted: object = "adopted objects") -> Sources:
    """Return the sources.

    Args:
        parts: Have them, or not.
        wanted: What is to be read, for the error: the place of an object.

    Raises:
        NotSupportedError: They are not read here.
    """
    if parts.sources is None:
        raise NotSupportedError(f"{wanted}: no source of adopted objects is read here")
    return parts.sources


class Attempt:
    """One recorded move, of one file or of many."""

    def __init__(self, parts: MoveParts, kind: MoveKind, intent: IntentId, location: str) -> None:
        self._parts = parts
        self._kind = kind
        self._intent = intent
        self.location = location
        """Where the move writes."""
        self.ended = False
        """True once the engine has ended the intent, published or not."""

    async def publish(self, call: Callable[[IntentId], Awaitable[T]]) -> T:
        """Have the engine publish what was verified, committed, and return what it says of it.

        Args:
            call: Calls the engine, which ends the intent whatever it publishes.
        """
        async with self._parts.engine.change():
            answer = await call(self._intent)
        self.ended = True
        return answer

    async def give_up(self) -> None:
        """End the intent: what was written becomes garbage."""
        engine = self._parts.engine
        try:
            async with engine.change():
                await engine.cancel_intent(self._intent)
                if self._kind in (MoveKind.UPLOAD, MoveKind.BATCH):
                    await note_unfinished(engine, [self.location])
        except MemfsError as error:
            # The intent stays, and the next start rolls it back.
            log.warning(
                "%s: an unfinished %s could not be rolled back: %s",
                self.location,
                self._kind,
                error,
            )
            return
        self.ended = True
        self._parts.faults.reach("cancel.recorded")


@contextlib.asynccontextmanager
async def recorded(
    parts: MoveParts, kind: MoveKind, location: str, inode: Inode | None = None
) -> AsyncIterator[Attempt]:
    """Record a move for the block, and roll it back unless the block publishes.

    Args:
        kind: What the move does.
        location: Where it will write; never used before, so rolling back harms nobody.
        inode: The file as the move found it; None: a batch, of many files.
    """
    engine, now_ns = parts.engine, time.time_ns()
    async with engine.change():
        if inode is None:
            intent = await engine.begin_batch(location, now_ns)
        else:
            intent = await engine.begin_intent(kind, inode.ino, inode.generation, location, now_ns)
    parts.faults.reach(f"{kind}.begun")
    attempt = Attempt(parts, kind, intent, location)
    try:
        yield attempt
    finally:
        if not attempt.ended:
            with trio.CancelScope(shield=True):
                await attempt.give_up()
