"""Recovery: what a killed daemon left half done is undone.

Invariant: `Recovery.begin` looks only at unfinished moves, so that a mount of any size is ready at
once; what needs a look at every file is done in slices, while the mount serves.
"""

from __future__ import annotations

import logging
import stat
from typing import TYPE_CHECKING

import trio

from memfs.defects import as_failure
from memfs.errors import MemfsError, ObjectMissingError
from memfs.metadata.records import MoveKind
from memfs.moves.rechecking import Recheck
from memfs.moves.unfinished import note_unfinished
from memfs.types import Generation, InodeNo, RawId

if TYPE_CHECKING:
    from memfs.moves.attempt import MoveParts

log = logging.getLogger(__name__)

FILES_A_SLICE = 2000
"""Inodes looked at before the event loop is given back; about 10 ms. Guess; never measured."""


class Recovery:
    """All that is to be done about an earlier daemon's end."""

    def __init__(self, parts: MoveParts) -> None:
        self._parts = parts
        self._sweep = Sweep(parts)
        self.recheck = Recheck(parts)

    async def begin(self) -> int:
        """Roll back the moves of a daemon that died; returns how many. Once, before any move."""
        count = await roll_back(self._parts)
        if self._parts.writes:
            await self.recheck.begin()
        else:
            self.recheck.trust()
        return count

    async def look_at_slice(self) -> int:
        """Look a little for what an earlier daemon left; returns raw files removed or adopted."""
        return await self.recheck.compare_slice() + await self._sweep.sweep_slice()

    @property
    def done(self) -> bool:
        """True when nothing can be left to find."""
        return self._sweep.done and self.recheck.proven


async def roll_back(parts: MoveParts) -> int:
    """Undo the moves that were under way when the last daemon died; returns how many.

    What they wrote becomes garbage. Only at start, before any move begins.
    """
    engine = parts.engine
    intents = await engine.list_intents()
    uploads = (MoveKind.UPLOAD, MoveKind.BATCH)
    async with engine.change():
        await note_unfinished(engine, [each.location for each in intents if each.kind in uploads])
    for intent in intents:
        try:
            async with engine.change():
                await engine.cancel_intent(intent.intent)
        except (MemfsError, OSError):
            raise
        except Exception as error:
            # It stays, and comes again with the next mount.
            as_failure(error, f"{intent.location}: rolling an unfinished {intent.kind} back")
            continue
        log.info("%s: unfinished %s was rolled back", intent.location, intent.kind)
    parts.faults.reach("recover.rolled_back")
    await trio.to_thread.run_sync(parts.packed_store.clear_temporary)
    return len(intents)


class Sweep:
    """Looks for raw files that were created but never recorded, once after an unclean end.

    Empty ones are removed: they were made ahead, and no program had them. So are provisional ones:
    their record was about to be made, and no program was told of them. One with bytes has lost its
    record, with power as a rule, and goes to `lost+found/`.
    """

    def __init__(self, parts: MoveParts) -> None:
        self._parts = parts
        self._range = parts.engine.unrecorded_raw_range()
        self._unrecorded: set[RawId] | None = None
        self._after = InodeNo(0)
        self.done = self._range[0] >= self._range[1]
        """True when nothing is left to look for."""

    async def sweep_slice(self) -> int:
        """Look at one slice of the files; at the end put away what not one of them names.

        Returns:
            Raw files put away.
        """
        if self.done:
            return 0
        if self._unrecorded is None:
            found = await trio.to_thread.run_sync(
                self._parts.raw_store.list_range, *self._range, limiter=self._parts.prompt_threads
            )
            self._unrecorded = set(found)
        # Ids of this daemon lie beyond the range, so files that come or change now do not matter.
        if self._unrecorded:
            inodes = await self._parts.engine.list_files(self._after, FILES_A_SLICE)
            self._unrecorded.difference_update(inode.raw for inode in inodes)
            if inodes:
                self._after = inodes[-1].ino
                return 0
            kept_after = (InodeNo(0), Generation(0))
            while kept := await self._parts.engine.list_kept(kept_after, FILES_A_SLICE):
                self._unrecorded.difference_update(each.raw for each in kept)
                kept_after = (kept[-1].ino, kept[-1].generation)
        self.done = True
        raws = sorted(self._unrecorded)
        try:
            kept_count = await trio.to_thread.run_sync(
                self._put_away, raws, limiter=self._parts.prompt_threads
            )
        except MemfsError as error:
            # They lie where they are, and the next mount looks again.
            log.warning("%d raw files without a record stay: %s", len(raws), error)
            return 0
        self._parts.engine.clear_unrecorded_raw_range()
        self._parts.faults.reach("recover.swept")
        if len(raws) > kept_count:
            log.info("%d raw files that no program had yet are removed", len(raws) - kept_count)
        if kept_count:
            log.warning(
                "%d raw files with bytes have no record and were moved to %s: see what they are, "
                "then `memfs gc --lost-found --yes` removes them",
                kept_count,
                self._parts.lost_found.root,
            )
        return len(raws)

    def _put_away(self, raws: list[RawId]) -> int:
        """Remove the empty and provisional ones, keep the others; returns how many these are."""
        store = self._parts.raw_store
        kept = []
        for raw in raws:
            try:
                status = store.stat(raw)
            except ObjectMissingError:
                continue
            is_empty = status.st_size == 0 and status.st_blocks == 0
            if stat.S_ISREG(status.st_mode) and (is_empty or status.st_mode & stat.S_ISVTX):
                store.unlink(raw)
            else:
                kept.append(store.path(raw))
        return self._parts.lost_found.take(kept) if kept else 0
