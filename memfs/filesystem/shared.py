"""What all requests need: the parts of a mount, the clock, and attributes as of now.

Invariant: size and times of an unsealed file come from its raw file, of all others from the engine.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from memfs.config import ColdConfig
from memfs.content.activity import FREED_BYTES_MIN
from memfs.content.invalidations import Aspect, Invalidations
from memfs.content.kernel_cache import KernelCache
from memfs.content.sealing import raw_ctime_ns, raw_mtime_ns
from memfs.errors import MemfsError, ObjectMissingError, UnconfirmedError
from memfs.filesystem.replies import Attributes, Entry
from memfs.filesystem.validity import ALONE, Validity, ValidityLimits
from memfs.linux.times import Clock, storable_ns
from memfs.metadata.records import Inode, InodeFlags
from memfs.metrics.traffic import Level
from memfs.policy.access_stats import AccessStats
from memfs.stores.health import StoreHealth
from memfs.types import BLOCK_BYTES, FormKind, Tier

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from memfs.content.activity import Activity
    from memfs.content.file_syncs import FileSyncs
    from memfs.content.forms import FormReader
    from memfs.content.opentable import OpenTable
    from memfs.content.rawpool import RawPool
    from memfs.content.residency import Residency
    from memfs.content.room import Room
    from memfs.content.sealing import Sealer
    from memfs.filesystem.door import Door
    from memfs.filesystem.recency import Recency
    from memfs.hot.board import HotBoard
    from memfs.hot.headers import HeaderReader
    from memfs.metadata.engine import Engine
    from memfs.moves.attempt import MoveParts
    from memfs.moves.garbage import GarbageCollector
    from memfs.moves.rechecking import Recheck
    from memfs.stores.raw import RawStore
    from memfs.traces.access_log import Operation
    from memfs.types import InodeNo, RawId

_RELATIME_NS = 24 * 3600 * 1_000_000_000
"""An access time older than this is renewed by the next access (mount(8), relatime)."""

WITHOUT_CAPABILITY_MAX = 4096
"""Files remembered to have no `security.capability`: the kernel asks before the first write to an
inode, and without passthrough before each (`file_remove_privs`, fs/inode.c)."""

UNTOLD_COUNT_MAX = 65_536
"""Files remembered that the kernel has not heard of; some 6 MB."""

DIRECTORY_BYTES = 4096
"""`st_size` of a directory, as on ext4."""
DIRECTORY_BLOCKS = DIRECTORY_BYTES // BLOCK_BYTES

_TIER_OF = {
    Level.WARM: Tier.WARM,
    Level.COLD: Tier.COLD,
    Level.PACKED: Tier.COLD,
    Level.GLACIER: Tier.GLACIER,
}

ATIMES_MAX = 50_000
"""Access times kept in memory until they are stored."""


@dataclass(slots=True)
class Features:
    """What of the file system is switched on, as configured and as the driver can.

    Nothing of it changes while the file system is mounted, but for access times.
    """

    acl: bool
    """The kernel checks POSIX ACLs: they are inherited and kept in step with the mode."""
    atime: bool
    """Keep access times, as with relatime (mount(8)); False: noatime. A remount changes it."""
    warm: bool
    """There is a RAM tier."""
    glacier: bool
    """There is an object store."""
    hydrate_bytes_max: int
    """Files up to this size are made raw before they are opened."""
    codec: str
    """Codec of packed files that have no codec of their own."""
    strict_atime: bool = False
    """Renew access times at each open (mount(8), strictatime). A remount changes it."""
    cold: ColdConfig = field(default_factory=ColdConfig)
    """Its size is what statfs(2) shows, where one is set."""


@dataclass(slots=True)
class Parts:
    """The objects that a mounted file system is made of; built in one place and passed here."""

    engine: Engine
    raw_store: RawStore
    raw_pool: RawPool
    open_table: OpenTable
    sealer: Sealer
    file_syncs: FileSyncs
    activity: Activity
    residency: Residency
    move_parts: MoveParts
    garbage: GarbageCollector
    recheck: Recheck
    form_reader: FormReader
    state_dir: Path
    features: Features
    door: Door | None = None
    """Where users may ask; None: nowhere."""
    hot: HotBoard | None = None
    """None: there is no hot tier."""
    header_reader: HeaderReader | None = None
    """That of files that are to go there; None: there is no hot tier."""
    access_stats: AccessStats = field(default_factory=AccessStats)
    """Pools, and what is known of the use of files; the mover's."""
    invalidations: Invalidations = field(default_factory=lambda: Invalidations(KernelCache()))
    """Where caches learn what was changed elsewhere, that of the kernel among them."""
    validity_limits: ValidityLimits = ALONE
    clock: Clock = field(default_factory=Clock)
    """That of all times that the file system sets."""
    room: Room | None = None
    """Holds writers back while the disk is nearly full; None: nobody is."""
    healths: Mapping[str, StoreHealth] = field(default_factory=lambda: {"": StoreHealth()})
    """Those of the object stores by name; that of the default one is empty."""
    recency: Recency | None = None
    """What another node writes; None: this one does."""


def with_directory_size(directory: Inode) -> Inode:
    """Return a directory with the size of one that is small, whatever it holds.

    Some programs take a directory of size 0 for an empty or a broken one; its names are rows.
    """
    # A quarter of the time of `_replace`; a directory is asked about before each create in it.
    return tuple.__new__(Inode, (*directory[:6], DIRECTORY_BYTES, DIRECTORY_BLOCKS, *directory[8:]))


def with_raw_attributes(inode: Inode, status: os.stat_result) -> Inode:
    """Return an unsealed file with size and times as its raw file has them.

    By position, in a quarter of the time of `_replace`: each request about such a file needs it.
    """
    return tuple.__new__(
        Inode,
        (
            *inode[:6],
            status.st_size,
            status.st_blocks,
            inode.atime_ns,
            raw_mtime_ns(inode, status),
            raw_ctime_ns(inode, status),
            *inode[11:],
        ),
    )


class Orphan(NamedTuple):
    """An inode without a name that somebody may still hold."""

    raw: RawId
    forgotten: bool
    """The kernel has forgotten the inode: only a handle keeps it."""
    freed_bytes: int
    """Bytes of the disk, when it goes; -1: not known, since somebody had it open."""


class Shared:
    """Base of the groups of requests: holds the parts."""

    def __init__(self, parts: Parts) -> None:
        self._engine = parts.engine
        self._raw_store = parts.raw_store
        self._raw_pool = parts.raw_pool
        self._open_table = parts.open_table
        self._sealer = parts.sealer
        self._syncer = parts.file_syncs.syncer
        self._file_syncs = parts.file_syncs
        self._access_stats = parts.access_stats
        self._activity = parts.activity
        self._access_log = parts.activity.access_log
        self._residency = parts.residency
        self._room = parts.room
        self._move_parts = parts.move_parts
        self._traffic = parts.move_parts.traffic
        self._garbage = parts.garbage
        self._recheck = parts.recheck
        self._form_reader = parts.form_reader
        self._state_dir = parts.state_dir
        self._features = parts.features
        self._clock = parts.clock
        self.invalidations = parts.invalidations
        self._kernel_cache = parts.invalidations.kernel_cache
        self.validity = Validity(
            parts.open_table, lambda: parts.recheck.done, parts.validity_limits
        )
        self._now_ns = parts.clock.now_ns
        self._undone = False
        """Changes were undone, and `_orphans` may not be what the engine has."""
        self._early_failure: MemfsError | None = None
        self._made: list[tuple[InodeNo, RawId]] = []
        """Raw files of inodes that the engine was given, and has not committed yet."""
        self._unmade: list[tuple[InodeNo, RawId]] = []
        """The same of changes that were undone: no inode names them, and no sweep would look."""
        self._atimes: dict[InodeNo, int] = {}
        """Access times that the engine does not know yet."""
        self._without_capability: dict[InodeNo, None] = {}
        self._untold: dict[InodeNo, bool] = {}
        """Files that were made without a request, and that no reply has told the kernel of since:
        it has nothing of them that it would have to forget. True: it has heard since then that
        their names have changed, and so has nothing of the names."""
        self._reapable: list[InodeNo] = []
        """Orphans that nobody holds any more."""
        self._large: list[tuple[InodeNo, RawId]] = []
        """Orphans of the request under way whose space is to be free when it is answered."""
        self._orphans: dict[InodeNo, Orphan] = {}
        """Inodes without a name, until they may be reaped."""
        self._register_caches(parts)

    def _register_caches(self, parts: Parts) -> None:
        """Have all that is kept by inode hear of changes that did not come through here.

        What is kept with a generation, or the version of a directory, need not: who reads it
        compares that (the hot tier's board, the listings of the predictor).
        """
        register = self.invalidations.register
        content, policy = Aspect.CONTENT, Aspect.POLICY
        open_table, residency, activity = parts.open_table, parts.residency, parts.activity
        register(Aspect.ATTRIBUTES | content, open_table.doubt, open_table.doubt_all)
        register(content, partial(residency.release, drop_pages=False), residency.release_all)
        register(policy, activity.note_pin, activity.look_at_all)
        register(policy, lambda _: parts.access_stats.note_marked(), parts.access_stats.note_marked)
        if (hot := parts.hot) is not None:
            # Type and shape are inherited: a refusal may rest on a directory's.
            register(policy, lambda _: hot.clear_refusals(), hot.clear_refusals)
        # An access time that was set elsewhere is the newer one.
        register(Aspect.ATTRIBUTES, lambda ino: self._atimes.pop(ino, None), self._atimes.clear)
        without = self._without_capability
        register(Aspect.XATTRS, lambda ino: without.pop(ino, None), without.clear)

    @property
    def uncommitted(self) -> bool:
        """True if replies must wait for `commit`."""
        return self._engine.uncommitted or self._early_failure is not None

    async def commit(self) -> None:
        """Make the changes that replies wait for survive the death of the daemon."""
        failure, self._early_failure = self._early_failure, None
        await self._commit()
        if failure is not None:
            raise failure

    async def _commit_early(self) -> None:
        """Commit before the replies of the batch are due.

        A failure undoes what earlier requests of the batch did, too: it is theirs as well, and
        comes again at the `commit` that their replies wait for.
        """
        try:
            await self._commit()
        except MemfsError as error:
            self._early_failure = error
            raise

    async def _commit(self) -> None:
        # What is made while this waits is another commit's.
        made, self._made = self._made, []
        try:
            await self._engine.commit()
        except UnconfirmedError:
            # Nothing was undone: the raw files are those of inodes that are there.
            raise
        except MemfsError:
            self._unmade += made
            self._forget_undone()
            raise
        except BaseException:
            # Cancelled: nobody knows whether it came to be. The next commit tells.
            self._made[:0] = made
            raise

    def _doubt_raw(self, ino: InodeNo, raw: RawId) -> None:
        """A raw file may be no inode's: have it removed if it is."""
        self._unmade.append((ino, raw))
        self._undone = True

    def _forget_undone(self) -> None:
        """Drop what is remembered of changes that were undone."""
        self._undone = True
        self._recheck.doubt()
        self._unmade += self._made
        self._made.clear()
        self._large.clear()
        self._without_capability.clear()

    def _live(self, inode: Inode, status: os.stat_result | None = None) -> Inode:
        """Return the inode with its attributes as of now.

        Args:
            inode: As the engine has it.
            status: Its raw file as it was just now; None: it is asked where that tells.
        """
        if inode.flags & InodeFlags.UNSEALED:
            if status is None:
                try:
                    status = self._raw_store.stat(inode.raw)
                except ObjectMissingError:
                    return inode
            inode = with_raw_attributes(inode, status)
        elif stat.S_ISDIR(inode.mode):
            inode = with_directory_size(inode)
        self._clock.note_shown(inode.ctime_ns)
        atime_ns = self._atimes.get(inode.ino)
        if atime_ns is not None and atime_ns > inode.atime_ns:
            inode = inode._replace(atime_ns=atime_ns)
        return inode

    def _next_ctime_ns(self, live: Inode) -> int:
        """Return the time of a change of an inode: later than the one before, whatever the clock.

        Args:
            live: Its attributes as of now.
        """
        return storable_ns(max(self._now_ns(), live.ctime_ns + 1))

    def _entry(self, inode: Inode) -> Entry:
        validity = self.validity
        if self._untold:
            self._untold.pop(inode.ino, None)
        return Entry(self._live(inode), validity.name_s(inode), validity.attributes_s(inode))

    def _attributes(self, inode: Inode, status: os.stat_result | None = None) -> Attributes:
        if self._untold:
            # They are a LOOKUP's as well, of an inode by its handle.
            self._untold.pop(inode.ino, None)
        live = self._live(inode, status)
        return Attributes(live, self.validity.answer_s(inode, live))

    def _touch_atime(self, inode: Inode, time_ns: int) -> None:
        """Renew the access time if it is not newer than the change times, or a day old.

        Under `strictatime` at each open: what passes through is not heard of.
        """
        if not self._features.atime or len(self._atimes) >= ATIMES_MAX:
            return
        atime_ns = self._atimes.get(inode.ino, inode.atime_ns)
        if (
            self._features.strict_atime
            or atime_ns <= inode.mtime_ns
            or atime_ns <= inode.ctime_ns
            or time_ns - atime_ns > _RELATIME_NS
        ):
            self._atimes[inode.ino] = time_ns
            if self._features.strict_atime:
                # Pages that are cached are read without a word to it or to us.
                self._kernel_cache.forget_attributes(inode.ino)

    def _note_without_capability(self, ino: InodeNo) -> None:
        if len(self._without_capability) >= WITHOUT_CAPABILITY_MAX:
            self._without_capability.clear()
        self._without_capability[ino] = None

    async def _log(self, operation: Operation, inode: Inode, size_bytes: int) -> None:
        """Add a row to the trace that is being recorded; asked only if one is."""
        tier = _TIER_OF[await self._level_of(inode)]
        self._access_log.note(operation, inode.ino, size_bytes, tier)

    async def _level_of(self, inode: Inode) -> Level:
        """Return where a regular file is read from now."""
        if inode.raw:
            return Level.WARM if self._residency.is_resident(inode.ino) else Level.COLD
        forms = await self._engine.list_all_forms(inode)
        packed = any(form.kind == FormKind.PACKED for form in forms)
        return Level.PACKED if packed else Level.GLACIER

    def _note_orphan(self, inode: Inode, *, promptly: bool = True) -> None:
        """An inode may have lost its last name: it stays until nobody holds it any more.

        Args:
            inode: After that.
            promptly: The request under way gives back the space of a large one.
        """
        if inode.nlink == 0:
            ino, raw = inode.ino, inode.raw
            freed_bytes = 0
            if raw:
                freed_bytes = inode.blocks * BLOCK_BYTES
                if inode.flags & InodeFlags.UNSEALED or freed_bytes >= FREED_BYTES_MIN:
                    freed_bytes = self._raw_bytes(raw)
                if promptly and freed_bytes >= FREED_BYTES_MIN:
                    self._large.append((ino, raw))
                if self._open_table.is_open(ino):
                    freed_bytes = -1
            self._orphans[ino] = Orphan(raw, False, freed_bytes)

    def _raw_bytes(self, raw: RawId) -> int:
        """Return what a raw file takes of the disk; 0 if it is gone."""
        try:
            return self._raw_store.stat(raw).st_blocks * BLOCK_BYTES
        except ObjectMissingError:
            return 0

    def _let_go_if_unheld(self, ino: InodeNo) -> None:
        """A handle of an inode is gone: have it reaped if it was the last hold on an orphan."""
        orphan = self._orphans.get(ino)
        if orphan is not None and orphan.forgotten and not self._open_table.is_open(ino):
            self._let_go(ino)

    def _let_go(self, ino: InodeNo) -> None:
        """Nobody holds an orphan any more: have it reaped, at once if that frees much."""
        raw, _, freed_bytes = self._orphans.pop(ino)
        self._reapable.append(ino)
        if raw:
            self._activity.note_freed(self._raw_bytes(raw) if freed_bytes < 0 else freed_bytes)
