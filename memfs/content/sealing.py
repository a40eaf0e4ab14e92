"""Sealing: the end of a file's writing, found by handle count and lease.

Invariant: a file is sealed only while nobody can write to it: no handle for writing is open, and
the kernel grants a read lease on the raw file, which it refuses exactly as long as a writable
descriptor or shared writable mapping exists (fcntl(2), F_SETLEASE). A mapping outlives its handle.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.backoff import pause_after
from memfs.bounded import BoundedDict
from memfs.content.kernel_cache import KernelCache
from memfs.content.rawpool import UNUSED_MTIME_NS
from memfs.defects import as_failure
from memfs.errors import (
    CorruptDataError,
    MemfsError,
    ObjectMissingError,
    StaleInodeError,
    StoreError,
    pending_code,
)
from memfs.linux.files import try_lease
from memfs.linux.memory import cachestat
from memfs.linux.times import storable_ns
from memfs.metadata.records import InodeFlags, PendingMove, Seal
from memfs.traces.access_log import Operation
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from memfs.content.activity import Activity
    from memfs.content.opentable import OpenTable
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.stores.raw import RawStore
    from memfs.types import Generation, RawId

log = logging.getLogger(__name__)

SEALS_A_STEP_MAX = 512
"""Files looked at before the event loop is given back: about 10 us each."""

CANDIDATE_COUNT_MAX = 20_000
"""Candidates that are kept, about 3 MB; the engine has a list of all others. Programs can make
files faster than they are sealed, beside a load ten times: a million of them took 70 MB."""

SYNCED_COUNT_MAX = 10_000
"""Files remembered that were fsynced while they were written; about 2 MB."""

PUT_OFF_S_MIN, PUT_OFF_S_MAX = 1.0, 600.0
"""How long a file waits after a defect, doubling from one attempt to the next. Guess."""

DOUBTFUL_COUNT_MAX = 100_000
"""Files looked at at a start; the background makes files durable within seconds, so that far fewer
are not. About 3 us each."""


RELEASE_S = 0.02
"""Given once to a file that seems to be open, where somebody asks about it: close(2) does not wait
for RELEASE, which may be on its way to the daemon."""


class _Synced(NamedTuple):
    """A raw file when an fsync of it began."""

    generation: Generation
    size: int
    mtime_ns: int
    ctime_ns: int


def raw_mtime_ns(inode: Inode, status: os.stat_result) -> int:
    """Return the mtime of an unsealed file.

    Args:
        status: That of its raw file.
    """
    mtime_ns = storable_ns(status.st_mtime_ns)
    return inode.mtime_ns if mtime_ns == UNUSED_MTIME_NS else mtime_ns


def raw_ctime_ns(inode: Inode, status: os.stat_result) -> int:
    """Return the ctime of an unsealed file.

    A raw file gets another ctime also where memfs sets its mtime, which changes nothing in the
    file: it counts only if the mtime tells of a write.

    Args:
        status: That of its raw file.
    """
    if storable_ns(status.st_mtime_ns) in (UNUSED_MTIME_NS, inode.mtime_ns):
        return inode.ctime_ns
    return max(inode.ctime_ns, storable_ns(status.st_ctime_ns))


class Sealer:
    """Seals files whose last writer is gone.

    Attributes:
        writes: False: nobody writes here: raw files are as they were fetched, whatever their times.
    """

    writes = True

    def __init__(
        self,
        engine: Engine,
        raw_store: RawStore,
        open_table: OpenTable,
        activity: Activity,
        kernel_cache: KernelCache | None = None,
        candidate_count_max: int = CANDIDATE_COUNT_MAX,
    ) -> None:
        self._engine = engine
        self._raw_store = raw_store
        self._open_table = open_table
        self._activity = activity
        self._clean_ns = 0
        self._candidates: dict[InodeNo, None] = {}
        """In the order in which they are looked at."""
        self._candidate_count_max = candidate_count_max
        self._listed_a_step_max = max(1, candidate_count_max // 20)
        """Read from the engine's list at a time; more than are sealed in a step."""
        self._held_up: set[InodeNo] = set()
        """Candidates that were looked at, and could not be sealed then."""
        self._left_out_count = 0
        """Candidates that were too many, at least so many; the engine lists them as unsealed."""
        self._missed_count = 0
        """Those of them that came while the list is gone through, perhaps behind its reader."""
        self._listed_until = InodeNo(0)
        """Where the reader of that list is; 0: at its begin."""
        self._synced: BoundedDict[InodeNo, _Synced] = BoundedDict(SYNCED_COUNT_MAX)
        self._complaint = ""
        self._kernel_cache = kernel_cache or KernelCache()
        self._mapped: set[InodeNo] = set()
        """Candidates that a mapping has kept from being sealed."""
        self._put_off: dict[InodeNo, float] = {}
        """Files that a defect kept from being sealed, and trio's time of the next attempt."""
        self._attempts: dict[InodeNo, int] = {}

    @property
    def candidate_count(self) -> int:
        """Files that wait to be sealed, mapped ones included; at least so many."""
        return len(self._candidates) + self._left_out_count

    def add(self, ino: InodeNo) -> None:
        """A file may have lost its last writer."""
        fresh_count = len(self._candidates) - len(self._held_up)
        if fresh_count < self._candidate_count_max or ino in self._candidates:
            self._candidates[ino] = None
            return
        self._left_out_count += 1
        if self._listed_until:
            self._missed_count += 1

    def discard(self, ino: InodeNo) -> None:
        """A file is about to be deleted: it need not be sealed."""
        self._candidates.pop(ino, None)
        self._held_up.discard(ino)
        self._mapped.discard(ino)
        self._put_off.pop(ino, None)
        self._attempts.pop(ino, None)

    def note_synced(self, inode: Inode, status: os.stat_result) -> None:
        """An unsealed file is on stable storage, its name included, as it was in `status`.

        If nothing has been written since when it is sealed, it is durable then.
        """
        self._synced[inode.ino] = _Synced(
            inode.generation, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    async def seal_all(self) -> int:
        """Seal what can be sealed now, commit, and return how many were."""
        if self._put_off:
            self._take_again()
        if self._left_out_count:
            await self._take_left_out()
        return await self._seal([*islice(self._candidates, SEALS_A_STEP_MAX)])

    async def _take_left_out(self) -> None:
        """Make candidates of some that were left out, if there is room again for many."""
        fresh_count = len(self._candidates) - len(self._held_up)
        if fresh_count > self._candidate_count_max // 2:
            return
        inodes = await self._engine.list_unsealed(self._listed_until, self._listed_a_step_max)
        for inode in inodes:
            if self._may_be_left_out(inode.ino) and not self._open_table.has_writer(inode.ino):
                self._candidates[inode.ino] = None
                self._left_out_count = max(self._left_out_count - 1, 1)
        if len(inodes) == self._listed_a_step_max:
            self._listed_until = inodes[-1].ino
        else:
            self._listed_until = InodeNo(0)
            self._left_out_count, self._missed_count = self._missed_count, 0

    def _may_be_left_out(self, ino: InodeNo) -> bool:
        return self._left_out_count > 0 and ino not in self._candidates and ino not in self._put_off

    async def seal(self, ino: InodeNo) -> None:
        """Seal one file now if it is a candidate and nobody can write to it."""
        gates = self._open_table.gates
        # A gate that is held may be that of a seal under way.
        if ino in self._candidates or self._may_be_left_out(ino) or gates.is_held(ino):
            async with gates.hold(ino):
                if ino in self._candidates or self._may_be_left_out(ino):
                    await self._seal_entered([ino])

    async def seal_closed(self, ino: InodeNo) -> None:
        """Seal one file as `seal` does; one that a program has closed just now is waited for.

        Checkpoint: if it seems to be open.
        """
        await self.seal(ino)
        if self._open_table.has_writer(ino):
            await trio.sleep(RELEASE_S)
            await self.seal(ino)

    async def adopt_unsealed(self) -> int:
        """Make candidates of all files that an earlier daemon left unsealed; returns how many."""
        after = InodeNo(0)
        count = 0
        while inodes := await self._engine.list_unsealed(after, 1000):
            for inode in inodes:
                self.add(inode.ino)
            count += len(inodes)
            after = inodes[-1].ino
        return count

    async def adopt_doubtful(self) -> int:
        """Unseal the files that power loss has changed behind their seal; returns how many.

        The engine's journal may reach the disk before the bytes of a file that nobody fsynced: the
        inode then has a size that its raw file has not. Only files not yet durable can be such.
        Where another form holds the content, the raw file goes; else the raw file is the truth.
        """
        count = 0
        async with self._engine.change():
            for inode in await self._engine.list_not_durable(DOUBTFUL_COUNT_MAX):
                try:
                    count += await self._adopt_if_doubtful(inode)
                except Exception as error:
                    # One file must not keep all the others from being mounted.
                    await self._put_off_file(inode.ino, error)
        return count

    async def _adopt_if_doubtful(self, inode: Inode) -> bool:
        if not self.is_changed(inode, missing=True):
            return False
        if await self._engine.list_all_forms(inode):
            # Kept under another name: nobody has asked whether the other form is still there.
            with contextlib.suppress(ObjectMissingError):
                kept = self._raw_store.set_aside(inode.raw, f"inode-{inode.ino}-{inode.generation}")
                log.warning(
                    "inode %d: raw file %d was cut by power loss, and is kept as %s",
                    inode.ino,
                    inode.raw,
                    kept,
                )
            if await self._engine.drop_raw(inode.ino, inode.generation):
                return True
        await self._engine.unseal(inode.ino, inode.raw, overwritten=True)
        self.add(inode.ino)
        return True

    async def adopt_if_changed(self, inode: Inode) -> bool:
        """Unseal a sealed file, committed, if its raw file is not as it was sealed; True if so.

        The raw file is the truth then, and the next seal takes it as it is: after power loss the
        engine may not know that the file was opened for writing. What was fsynced is never such,
        for fsync syncs the engine as well.

        Raises:
            CorruptDataError: It was changed while no daemon ran (`damage_of`).
        """
        async with self._open_table.gates.hold(inode.ino):
            try:
                now = await self._engine.get_inode(inode.ino)
            except StaleInodeError:
                return True
            return await self.adopt_entered(now)

    async def adopt_entered(self, inode: Inode) -> bool:
        """Do as `adopt_if_changed` within the inode's gate, for the inode as it is now."""
        if (damage := self.damage_of(inode)) is not None:
            raise CorruptDataError(damage)
        if inode.flags & InodeFlags.UNSEALED or not self.is_changed(inode):
            return False
        log.info("inode %d: raw file %d was written after its seal", inode.ino, inode.raw)
        async with self._engine.change():
            await self._engine.unseal(inode.ino, inode.raw, inode.generation, overwritten=True)
        self._kernel_cache.forget_attributes(inode.ino)
        self.add(inode.ino)
        return True

    def note_clean(self, clean_ns: int) -> None:
        """Tell when the raw files of all durable files were known to be as the engine says.

        Args:
            clean_ns: By the wall clock, in ns since the epoch; 0: never.
        """
        self._clean_ns = clean_ns

    def damage_of(self, inode: Inode, status: os.stat_result | None = None) -> str | None:
        """Return what was done to a raw file while no daemon ran; None: nothing. Safe in threads.

        Only its last change tells when it was made: what is younger than the last orderly end may
        be a write that the engine has forgotten with power, and `adopt_if_changed` judges that. No
        program can set the time that tells it (`st_ctime`).

        Args:
            inode: As the engine has it.
            status: Its raw file as it was just now; None: it is looked at.

        Returns:
            For users: path, what is wrong, and the remedy.
        """
        if not inode.raw or inode.flags != InodeFlags.DURABLE or not self._clean_ns:
            return None
        try:
            status = status or self._raw_store.stat(inode.raw)
        except ObjectMissingError:
            path = self._raw_store.path(inode.raw)
            return f"its raw file {path} is missing; restore it from a backup"
        found = status.st_size, storable_ns(status.st_mtime_ns)
        if found == (inode.size, inode.mtime_ns) or status.st_ctime_ns > self._clean_ns:
            return None
        what = (
            f"has {found[0]} bytes instead of {inode.size}"
            if found[0] != inode.size
            else f"was modified at {found[1]} ns since the epoch instead of {inode.mtime_ns}"
        )
        path = self._raw_store.path(inode.raw)
        return (
            f"its raw file {path} {what}: it was changed while the state was not mounted; restore "
            "it from a backup with its times (a copy of a state directory needs `cp -a`), unmount "
            "and take it as it is by `memfs fsck --accept`, or copy from there what you trust"
        )

    def is_changed(self, inode: Inode, *, missing: bool = False) -> bool:
        """Return whether a sealed inode's raw file has another size or mtime; safe in threads.

        Args:
            inode: Without a raw file nothing has changed.
            missing: The answer where the raw file is gone.
        """
        if not inode.raw or inode.flags & InodeFlags.UNSEALED:
            return False
        try:
            status = self._raw_store.stat(inode.raw)
        except ObjectMissingError:
            return missing
        found = status.st_size, storable_ns(status.st_mtime_ns)
        return self.writes and found != (inode.size, inode.mtime_ns)

    async def _seal(self, inos: list[InodeNo]) -> int:
        """Seal those of the candidates that nothing else is being done with."""
        with self._open_table.gates.hold_free(inos) as entered:
            return await self._seal_entered(entered)

    async def _seal_entered(self, inos: list[InodeNo]) -> int:
        """Seal candidates whose gates are held: else one could be opened for writing meanwhile."""
        for ino in inos:
            self._candidates.pop(ino, None)
            self._held_up.discard(ino)
        durable: list[tuple[InodeNo, Generation]] = []
        try:
            seals = [
                seal
                for ino in inos
                if (seal := await self._examine_guarded(ino, durable)) is not None
            ]
            if seals:
                async with self._engine.change():
                    await self._engine.seal(seals)
                    await self._engine.mark_durable(durable)
        except BaseException:
            # Nothing was sealed (a full disk, no descriptor left): all of them come again.
            self._candidates.update(dict.fromkeys(ino for ino in inos if ino not in self._put_off))
            raise
        for seal in seals:
            self._activity.note_sealed(seal.ino)
            if seal.ino in self._mapped:
                # What it wrote last may have changed the times after they were asked for.
                self._mapped.discard(seal.ino)
                self._kernel_cache.forget_attributes(seal.ino)
        if (access_log := self._activity.access_log).active:
            for seal in seals:
                access_log.note(Operation.WRITE, seal.ino, seal.size, Tier.COLD)
        return len(seals)

    async def _examine_guarded(
        self, ino: InodeNo, durable: list[tuple[InodeNo, Generation]]
    ) -> Seal | None:
        """Examine a file; one that a defect keeps from being sealed keeps no other from it."""
        try:
            seal = await self._examine(ino, durable)
        except (MemfsError, OSError):
            raise
        except Exception as error:
            await self._put_off_file(ino, error)
            return None
        self._attempts.pop(ino, None)
        return seal

    async def _put_off_file(self, ino: InodeNo, error: Exception) -> None:
        """Try a file again later, and have `why` say so."""
        reason = as_failure(error, f"inode {ino} at the end of its writing")
        attempt_count = self._attempts[ino] = self._attempts.get(ino, 0) + 1
        pause_s = pause_after(attempt_count, PUT_OFF_S_MIN, PUT_OFF_S_MAX)
        self._put_off[ino] = trio.current_time() + pause_s
        now_ns = time.time_ns()
        retry_ns = now_ns + int(pause_s * 1e9)
        pending = PendingMove(
            ino, Tier.COLD, str(reason), attempt_count, retry_ns, now_ns, pending_code(reason)
        )
        try:
            async with self._engine.change():
                await self._engine.set_pending(pending)
        except MemfsError as refusal:
            log.info("inode %d waits (%s), which was not recorded: %s", ino, reason, refusal)

    def _take_again(self) -> None:
        """Make candidates of the files that were put off until now."""
        now_s = trio.current_time()
        for ino in [ino for ino, time_s in self._put_off.items() if time_s <= now_s]:
            del self._put_off[ino]
            self.add(ino)

    async def _examine(
        self, ino: InodeNo, durable: list[tuple[InodeNo, Generation]]
    ) -> Seal | None:
        """Return how a file is to be sealed; None if it is not to be, or not yet.

        Args:
            ino: A candidate.
            durable: The file is added if it is on stable storage already.
        """
        if self._open_table.has_writer(ino):
            return None
        try:
            inode = await self._engine.get_inode(ino)
        except StaleInodeError:
            return None
        if not inode.flags & InodeFlags.UNSEALED:
            return None
        try:
            fd = self._open(ino, inode.raw)
        except StoreError as error:
            # Its disk fails: the files behind it must not wait for that.
            if str(error) != self._complaint:
                log.warning("inode %d cannot be sealed: %s", ino, error)
                self._complaint = str(error)
            self._hold_up(ino)
            return None
        try:
            if not try_lease(fd):
                # Mapped for writing: it goes to the end of the queue.
                self._hold_up(ino)
                self._mapped.add(ino)
                return None
            status = os.fstat(fd)
            is_synced = self._is_synced(inode, status, fd)
            mtime_ns = raw_mtime_ns(inode, status)
            ctime_ns = raw_ctime_ns(inode, status)
            if mtime_ns != storable_ns(status.st_mtime_ns):
                # So that stat says the same before and after. The new time is not on the disk yet.
                os.utime(fd, ns=(status.st_atime_ns, mtime_ns))
                status = os.fstat(fd)
            elif is_synced:
                durable.append((ino, inode.generation))
        finally:
            os.close(fd)
        return Seal(
            ino,
            inode.generation,
            status.st_size,
            status.st_blocks,
            max(inode.atime_ns, storable_ns(status.st_atime_ns)),
            storable_ns(status.st_mtime_ns),
            ctime_ns,
        )

    def _hold_up(self, ino: InodeNo) -> None:
        """Keep a candidate that cannot be sealed now for later."""
        self._candidates[ino] = None
        self._held_up.add(ino)

    def _is_synced(self, inode: Inode, status: os.stat_result, fd: int) -> bool:
        """Return whether nothing was written to a file since its last fsync.

        Times alone do not tell: where they have a grain of milliseconds, a write right after the
        fsync has the same. Its page is dirty then, as are pages written by a mapping.
        """
        synced = self._synced.pop(inode.ino, None)
        now = _Synced(inode.generation, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if synced != now:
            return False
        pages = cachestat(fd)
        return pages.dirty_bytes == 0 and pages.writeback_bytes == 0

    def _open(self, ino: InodeNo, raw: RawId) -> int:
        try:
            return self._raw_store.open(raw, os.O_RDONLY)
        except ObjectMissingError:
            # Its name was not on stable storage yet when power failed, and nobody had fsynced it.
            log.warning("inode %d: raw file %d was lost with power; it is empty now", ino, raw)
            os.close(self._raw_store.create(raw))
            return self._raw_store.open(raw, os.O_RDONLY)
