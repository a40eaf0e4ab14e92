"""Files that make room in a known order: those that programs are done with, then those used last.

What goes is dropped form by form, the raw file first. *Killed in between*: the packed file is left,
and the mover drops it by policy. *Killed before the decision is recorded*: `why` tells the former.

Invariant: a file leaves because of that only when files that were asked for in advance need its
room, and only where another form of it stays.

With the order known, what leaves is what is used again last: Belady's rule ("A study of replacement
algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict
from memfs.errors import MemfsError, ObjectMissingError, StaleInodeError, StoreError
from memfs.metadata.records import Decision
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.outcome import MoveOutcome
from memfs.moves.sharing import is_wanted_by_others
from memfs.placement.resident import unlock
from memfs.policy import rules
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.placement.context import Context
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

DONE_COUNT_MAX = 524_288
"""As many as wait to be fetched at most (`prediction.hints`); some 60 MB."""

LOOKS_MAX = 256
"""Files looked at for room at a time, should all of them be open; the others have their turn next.
Guess."""


class _Leaving:
    """Files in the order in which they leave one tier."""

    def __init__(self) -> None:
        self.done: BoundedDict[InodeNo, None] = BoundedDict(DONE_COUNT_MAX)
        """The first one has been done for longest."""
        self.coming: OrderedDict[InodeNo, None] = OrderedDict()
        """That of exact orders; the last one is used last."""

    def take(self) -> InodeNo | None:
        """Return the file that leaves next, and forget it."""
        if self.done:
            return self.done.popitem(last=False)[0]
        return self.coming.popitem(last=True)[0] if self.coming else None

    def list_next(self, limit: int) -> list[InodeNo]:
        """Return the files that leave next, at most so many, in that order."""
        found = list(islice(self.done, limit))
        return found + list(islice(reversed(self.coming), limit - len(found)))

    def knows(self, ino: InodeNo) -> bool:
        """Return whether a file is to leave at some time."""
        return ino in self.done or ino in self.coming

    def forget(self, ino: InodeNo) -> None:
        """A file has left, or will not because of this."""
        self.done.pop(ino, None)
        self.coming.pop(ino, None)

    def postpone(self, ino: InodeNo) -> None:
        """A file cannot leave now: all others come first, and then it."""
        if ino in self.done:
            self.done.move_to_end(ino)
        elif ino in self.coming:
            self.coming.move_to_end(ino, last=False)


class DoneFiles:
    """Files by when they are used again, where programs have told.

    Args:
        looks_max: See `LOOKS_MAX`.
    """

    def __init__(self, context: Context, looks_max: int = LOOKS_MAX) -> None:
        self._context = context
        self._parts = context.parts
        self._engine = context.engine
        self._looks_max = looks_max
        self._disk = _Leaving()
        self._ram = _Leaving()
        self._dropping: set[InodeNo] = set()
        self.open_count = 0
        """Files that would have made room when `drop_next` was called last, and were open."""

    def add(self, inos: Iterable[InodeNo]) -> None:
        """Programs are done with files; the oldest are forgotten where there are too many."""
        for ino in inos:
            for leaving in (self._disk, self._ram):
                leaving.coming.pop(ino, None)
                leaving.done[ino] = None

    def expect(self, inos: Iterable[InodeNo], *, exact: bool) -> None:
        """Files are to be used, after those that are expected already.

        Args:
            inos: In order; as many as `prediction.hints` takes.
            exact: Nothing else will be used before them: the last ones may make room.
        """
        for ino in inos:
            for leaving in (self._disk, self._ram):
                leaving.done.pop(ino, None)
                leaving.coming.pop(ino, None)
                if exact:
                    leaving.coming[ino] = None

    def forget(self, inos: Iterable[InodeNo]) -> None:
        """Files are not expected any more, or are there."""
        for ino in inos:
            self._disk.coming.pop(ino, None)
            self._ram.coming.pop(ino, None)

    async def drop_next(self) -> bool:
        """Drop the local copy of the file that is used last; False if no file is left.

        A file that a program has open or mapped leaves with a later call: programs say that they
        are done with a file before the kernel tells that it is closed. While the store does not
        answer, nothing leaves.
        """
        open_count = 0
        for ino in self._disk.list_next(self._looks_max):
            if ino in self._dropping or not self._disk.knows(ino):
                continue
            self._dropping.add(ino)
            try:
                outcome = await self._drop(ino)
            except StoreError as error:
                if isinstance(error, ObjectMissingError):
                    outcome = MoveOutcome.SUPERSEDED
                else:
                    # The others would ask the same store.
                    log.info("inode %d makes no room for others: %s", ino, error)
                    break
            except MemfsError:
                outcome = MoveOutcome.SUPERSEDED
            finally:
                self._dropping.discard(ino)
            if outcome == MoveOutcome.BUSY:
                open_count += 1
                self._disk.postpone(ino)
                continue
            self._disk.forget(ino)
            if outcome == MoveOutcome.DONE:
                return True
        self.open_count = open_count
        return False

    async def unlock_next(self) -> bool:
        """Let the file that is used last go from RAM; False if no file is left."""
        while (ino := self._ram.take()) is not None:
            if self._parts.residency.is_held(ino) and not await self._is_pinned(ino):
                await unlock(self._context, ino, drop_pages=False)
                return True
        return False

    async def _drop(self, ino: InodeNo) -> MoveOutcome:
        inode = await self._engine.get_inode(ino)
        if not inode.raw or await self._is_pinned(ino):
            return MoveOutcome.UNNEEDED
        kinds = {form.kind for form in await self._engine.list_all_forms(inode)}
        if FormKind.REMOTE not in kinds:
            return MoveOutcome.UNNEEDED
        result = await drop_raw(self._parts, ino)
        if result.outcome != MoveOutcome.DONE:
            return result.outcome
        self._parts.faults.reach("done.dropped")
        if FormKind.PACKED in kinds and not await is_wanted_by_others(self._parts, inode):
            await drop_form(self._parts, ino, FormKind.PACKED)
        self._context.pools.leave(ino)
        detail = "files that a program uses before it needed the room"
        decision = Decision(rules.DONE, detail, result.moved_bytes, self._context.clock())
        async with self._engine.change():
            await self._engine.record_decision(ino, decision)
        self._parts.faults.reach("done.recorded")
        return result.outcome

    async def _is_pinned(self, ino: InodeNo) -> bool:
        try:
            return (await self._engine.effective_pin(ino)).tier is not None
        except StaleInodeError:
            return False
