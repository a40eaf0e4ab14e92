"""Recency: an answer of a node that reads has what was committed before the program asked.

The kernel walks a path by what it has cached, and asks only in the end, when the file is opened.
Then this waits until all is applied here that the node which writes had committed by then, and
looks whether that has taken a name from the file since the path was walked. If so the request is
answered ESTALE: the kernel walks the path anew, asks for each name, and opens what is there now.

Invariants:
- The kernel's cache is told of a change before anybody can have waited for it.
- A thread is not refused twice for one open(2): the kernel walks anew once, and that walk has seen
  all that was committed before the first answer.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from memfs.bounded import BoundedDict
from memfs.content.invalidations import Aspect
from memfs.errors import (
    BehindError,
    NotUploadedError,
    ReadOnlyNodeError,
    StaleInodeError,
    StoreError,
    WrittenElsewhereError,
)
from memfs.metadata.records import InodeFlags
from memfs.types import ROOT_INODE
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.content.invalidations import Invalidations
    from memfs.errors import MemfsError
    from memfs.filesystem.operations import Caller
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.metadata.shared.applying import Effects
    from memfs.metadata.shared.log import LogReport
    from memfs.types import InodeNo

GRACE_S = 2.0
"""An open whose path was walked before the kernel forgot a name may come to us so much later: it
waits in the kernel while we do something else. With 0.05 s 1 of some 5,000 opens was stale, of
a file that was replaced 170 times a second (load 12 on 2 processors). A walk anew costs a request
for each name, and asks no database."""

WRITTEN_WAIT_S = 2.0
"""A file that another node writes is waited for so long: it may just have been closed there."""

HURRY_S_MIN, HURRY_S_MAX = 0.02, 0.5
"""Pauses before the node that writes is asked again for a file, which double. Guess."""

WALK_S_MAX = 2.0
"""A walk anew takes so long at most: each name is a request that waits for nobody. Guess."""

REFUSED_COUNT_MAX = 4096
"""Threads remembered that walk anew; some 1 MB."""


class NameChanges(Protocol):
    """Tells which names were taken lately."""

    def lost_a_name(self, ino: InodeNo, since: int) -> bool:
        """See `shared.log.NameChanges.lost_a_name`."""
        ...


class Log(Protocol):
    """Changes of the node that writes, as they come in."""

    limit_s: float
    """So long a barrier waits."""
    applied: int
    """Number of the last change that was applied."""

    @property
    def is_fresh(self) -> bool:
        """See `shared.log.Log.is_fresh`."""
        ...

    @property
    def name_changes(self) -> NameChanges:
        """Names that were taken."""
        ...

    async def barrier(self) -> int:
        """See `shared.log.Log.barrier`."""
        ...

    async def wait_beyond(self, number: int) -> int:
        """See `shared.log.Log.wait_beyond`."""
        ...

    def report(self) -> LogReport:
        """Return how far this node is."""
        ...


class AtHand(Protocol):
    """Has the node that writes do at once what would be waited for."""

    async def hurry(self, ino: InodeNo, missing: MemfsError) -> bool:
        """See `filesystem.at_hand.AtHand.hurry`."""
        ...


class _Refused:
    """A thread that was refused, and walks anew."""

    __slots__ = ("found", "ino", "until_s")

    def __init__(self, ino: InodeNo, until_s: float) -> None:
        self.until_s = until_s
        """Later, by trio's clock, it has begun something else."""
        self.ino = ino
        """What it had come to."""
        self.found = ino
        """What it has looked up last since."""


class _Told(NamedTuple):
    """The kernel has forgotten what changes up to a number have made old."""

    number: int
    at_s: float
    """By trio's clock."""


class Recency:
    """Waits for what another node has changed.

    Args:
        log: Applies the changes.
        engine: Has what was applied.
        invalidations: Told of it; and so is the kernel.
        note_snapshots: Awaited when snapshots came or went.
    """

    def __init__(
        self,
        log: Log,
        engine: Engine,
        invalidations: Invalidations,
        note_snapshots: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log
        self._engine = engine
        self._invalidations = invalidations
        self._kernel_cache = invalidations.kernel_cache
        self._note_snapshots = note_snapshots
        self.at_hand: AtHand | None = None
        """Does at once what is waited for; None: nobody can. The daemon sets it."""
        self._refused: BoundedDict[int, _Refused] = BoundedDict(REFUSED_COUNT_MAX)
        """By thread."""
        self._told: deque[_Told] = deque()
        self._settled = self._attributes_told = self._all_told = log.applied
        self._has_other_snapshots = False
        self._frozen_at = log.applied
        """The last change that froze or thawed a tree."""

    @property
    def writer(self) -> str:
        """Name of the node that writes."""
        return self._log.report().writer

    def refusal(self) -> ReadOnlyNodeError:
        """Return the error of who wants to change something."""
        return ReadOnlyNodeError(f"this node reads; the writer is {self.writer}: change it there")

    # --- what comes in ---------------------------------------------------------------------------
    def tell(self, effects: Effects) -> None:
        """Changes were applied just now: have all caches forget what is old.

        A name that leads to nothing is asked for each time, so that nobody has to hear of new ones.
        """
        invalidations = self._invalidations
        for taken in effects.taken:
            invalidations.note_removed(taken.parent, taken.name, taken.ino, last=False)
        for _parent, _name, ino in effects.made:
            invalidations.note_inode(ino, Aspect.POLICY)
        for ino, aspect in effects.changed.items():
            invalidations.note_inode(ino, Aspect(int(aspect)))
        self._has_other_snapshots |= effects.snapshots
        if effects.frozen:
            self._frozen_at = self._log.applied

    async def run(self) -> None:
        """Note when the kernel has forgotten what is old, until cancelled."""
        number = self._settled
        while True:
            number = await self._log.wait_beyond(number)
            if self._has_other_snapshots and self._note_snapshots is not None:
                self._has_other_snapshots = False
                await self._note_snapshots()
            while not await self._kernel_cache.wait_told():
                pass
            self._attributes_told = max(self._attributes_told, number)
            self._all_told = max(self._all_told, number)
            self._told.append(_Told(number, trio.current_time()))

    def _seen_by_walks(self) -> int:
        """Return the last change that each walk of now has seen."""
        horizon_s = trio.current_time() - GRACE_S
        while self._told and self._told[0].at_s <= horizon_s:
            self._settled = self._told.popleft().number
        return self._settled

    def note_missed(self, caller: Caller) -> None:
        """A walk of a thread has ended at a name that leads nowhere: its next one is another one.

        Names that the next one looks up may be older than its beginning.
        """
        if self._refused:
            self._refused.pop(caller.pid, None)

    def note_found(self, ino: InodeNo, caller: Caller) -> None:
        """A thread has looked up a name that leads to an inode."""
        if self._refused and (refused := self._refused.get(caller.pid)) is not None:
            refused.found = ino

    # --- who asks --------------------------------------------------------------------------------
    async def see(self) -> int:
        """Return once all is applied that was committed before; the number of the last change.

        Checkpoint: always, in a task of its own.

        Raises:
            BehindError: The database does not answer in time.
        """
        await leave()
        return await self._log.barrier()

    async def see_in(self, ino: InodeNo) -> None:
        """Do as `see` for who asks about names in a directory, or below it.

        Raises:
            BehindError: As `see`.
        """
        if not await self._is_settled(ino):
            await self.see()

    async def _is_settled(self, ino: InodeNo) -> bool:
        """Tell whether an inode is in a frozen tree, so that nothing of it is to be waited for.

        All that it has was committed before the tree was frozen. Each walk of now has seen it,
        unless it came by a symlink from elsewhere that was switched less than `FROZEN_S` ago:
        no directory on the way to such a tree is moved.
        """
        engine = self._engine
        if not engine.has_frozen or not self._log.is_fresh:
            return False
        if self._frozen_at > self._seen_by_walks():
            return False
        try:
            tree = await engine.find_frozen(ino)
            if tree is None or tree.is_thawing:
                return False
            inode = await engine.get_inode(ino)
        except StaleInodeError:
            return False
        # Another name of a file may lie elsewhere, and its path may lead elsewhere by now.
        return stat.S_ISDIR(inode.mode) or inode.nlink == 1

    async def see_named(self, ino: InodeNo, caller: Caller) -> bool:
        """Do as `see` for who was led to an inode by a path, and is about to use it.

        Returns whether the path was walked anew for it (`walk_anew`).

        The kernel has forgotten old attributes of it then.

        Raises:
            BehindError: As `see`.
            StaleInodeError: The path may lead elsewhere by now.
        """
        is_anew = self._is_walked_anew(ino, caller)
        self._refused.pop(caller.pid, None)
        if await self._is_settled(ino):
            return is_anew
        number = await self._see_walked(ino, caller, is_anew=is_anew)
        if number > self._attributes_told:
            await self._kernel_cache.wait_attributes_told()
            self._attributes_told = max(self._attributes_told, number)
        return is_anew

    async def see_below(self, ino: InodeNo, caller: Caller) -> None:
        """Do as `see` for who was led to a directory by a path, and misses a name there.

        Raises:
            BehindError: As `see`.
            StaleInodeError: The path may lead to another directory by now.
        """
        if await self._is_settled(ino):
            return
        is_anew = self._is_walked_anew(ino, caller)
        if not is_anew:
            self._refused.pop(caller.pid, None)
        # No path leads to another root.
        await self._see_walked(ino, caller, is_anew=is_anew or ino == ROOT_INODE)

    def _is_walked_anew(self, ino: InodeNo, caller: Caller) -> bool:
        """Return whether a thread was refused, and has come to an inode since."""
        refused = self._refused.get(caller.pid)
        return (
            refused is not None
            and ino in (refused.ino, refused.found)
            and trio.current_time() <= refused.until_s
        )

    async def _see_walked(self, ino: InodeNo, caller: Caller, *, is_anew: bool) -> int:
        since = self._seen_by_walks()
        number = await self.see()
        if not is_anew and self._log.name_changes.lost_a_name(ino, since):
            raise self.walk_anew(ino, caller)
        return number

    def walk_anew(self, ino: InodeNo, caller: Caller) -> StaleInodeError:
        """Return the error that has the kernel walk a path anew, once."""
        self._refused[caller.pid] = _Refused(ino, trio.current_time() + WALK_S_MAX)
        return StaleInodeError(f"inode {ino}: a name of it leads elsewhere by now")

    async def forget_pages(self, ino: InodeNo) -> None:
        """Return once the kernel has forgotten all pages of a file that are old by now.

        Raises:
            BehindError: It has not in time.
        """
        number = self._log.applied
        if number <= self._all_told or await self._is_settled(ino):
            return
        await leave()
        limit_s = self._log.limit_s
        with trio.move_on_after(limit_s):
            while not await self._kernel_cache.wait_told():
                pass
            self._all_told = max(self._all_told, number)
            return
        raise BehindError(f"the kernel has not forgotten what is old within {limit_s:g} s")

    async def wait_for_bytes(self, ino: InodeNo) -> Inode:
        """Return an inode whose content can be had here; any other kind of it as it is.

        Checkpoint: where it is to be waited for.

        Raises:
            StaleInodeError: It is gone, or has lost its last name before its bytes came.
            WrittenElsewhereError: It is being written.
            NotUploadedError: Its bytes are on the other node alone.
            BehindError: Changes are missing.
        """
        begun_s, pause_s = trio.current_time(), HURRY_S_MIN / 2
        while True:
            number = self._log.applied
            inode = await self._engine.get_inode(ino)
            missing = await self.why_missing(inode)
            if missing is None:
                return inode
            if not inode.nlink:
                raise StaleInodeError(f"inode {ino}: it was removed before its bytes came")
            limit_s = self._log.limit_s
            if isinstance(missing, WrittenElsewhereError):
                limit_s = min(limit_s, WRITTEN_WAIT_S)
            until_s = begun_s + limit_s
            await leave()
            if self.at_hand is not None and trio.current_time() < until_s:
                if await self.at_hand.hurry(ino, missing):
                    continue
                # Asked again soon: most programs have a file open for a moment.
                pause_s = min(2 * pause_s, HURRY_S_MAX)
                until_s = min(until_s, trio.current_time() + pause_s)
            with trio.move_on_at(until_s):
                await self._log.wait_beyond(number)
                continue
            if trio.current_time() >= begun_s + limit_s:
                raise missing

    async def why_missing(self, inode: Inode) -> WrittenElsewhereError | NotUploadedError | None:
        """Return why the content of an inode cannot be had here; None: it can."""
        if not stat.S_ISREG(inode.mode):
            return None
        if inode.flags & InodeFlags.UNSEALED:
            return WrittenElsewhereError(
                f"inode {inode.ino}: node {self.writer} is writing it; it can be read once it is "
                "closed there"
            )
        if inode.raw or not inode.size or await self._engine.list_all_forms(inode):
            return None
        return NotUploadedError(
            f"inode {inode.ino}: its bytes are on node {self.writer} alone until they are uploaded"
        )

    async def why_unlisted(self, ino: InodeNo) -> StoreError | None:
        """Return why it is not known what is in a directory of a source; None: it is known."""
        directory = await self._engine.get_directory(ino)
        if directory is None or directory.listed_ns:
            return None
        return StoreError(
            f"{os.fsdecode(directory.prefix) or '/'}: it is listed when somebody looks into it on "
            f"node {self.writer}: have it listed there"
        )

    async def why(self, inode: Inode) -> dict[str, str]:
        """Return who writes, and why an inode cannot be read here, or is not known as it is now."""
        report = self._log.report()
        told = {"writer": report.writer}
        if report.reason is not None:
            told["names"] = f"what node {report.writer} changes does not come in: {report.reason}"
        missing = await self.why_missing(inode) or await self.why_unlisted(inode.ino)
        if missing is not None:
            told["content"] = str(missing)
        return told
