"""Files that make room in a known order: those that programs are done with, then those used last.

Invariant: a file leaves because of that only when files that were asked for in advance need its
room, and only where another form of it stays.

With the order known, what leaves is what is used again last: Belady's rule ("A study of replacement
algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from memfs.errors import MemfsError, ObjectMissingError, StaleInodeError, StoreError
from memfs.metadata.records import Decision
from memfs.moves.outcome import MoveOutcome
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.moves.attempt import MoveParts
    from memfs.moves.moves import Moves
    from memfs.policy.shares import Shares
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

DONE_COUNT_MAX = 524_288
"""As many as wait to be fetched at most (`prediction.hints`); some 60 MB."""

RULE = "done"


class _Leaving:
    """Files in the order in which they leave one tier."""

    def __init__(self) -> None:
        self.done: OrderedDict[InodeNo, None] = OrderedDict()
        """The first one has been done for longest."""
        self.coming: OrderedDict[InodeNo, None] = OrderedDict()
        """Of exact orders; the last one is used last."""

    def take(self) -> InodeNo | None:
        """Return the file that leaves next, and forget it."""
        if self.done:
            return self.done.popitem(last=False)[0]
        return self.coming.popitem(last=True)[0] if self.coming else None

    def put_back(self, ino: InodeNo) -> None:
        """A file that was taken could not leave, and leaves next."""
        self.done[ino] = None
        self.done.move_to_end(ino, last=False)


class DoneFiles:
    """Files by when they are used again, as far as programs have told.

    Args:
        parts: The engine and the RAM tier among them.
        moves: Drops raw files.
        shares: Of the RAM tier.
    """

    def __init__(self, parts: MoveParts, moves: Moves, shares: Shares) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._moves = moves
        self._shares = shares
        self._disk = _Leaving()
        self._ram = _Leaving()

    def add(self, inos: Iterable[InodeNo]) -> None:
        """Programs are done with files; the oldest are forgotten where there are too many."""
        for ino in inos:
            for leaving in (self._disk, self._ram):
                leaving.coming.pop(ino, None)
                leaving.done[ino] = None
                if len(leaving.done) > DONE_COUNT_MAX:
                    leaving.done.popitem(last=False)

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
        """Drop the local copy of the file that is used last; False if none is left.

        Files that cannot leave now are passed over; the mover comes to them by its own rules. While
        the store does not answer, nothing leaves.
        """
        while (ino := self._disk.take()) is not None:
            try:
                if await self._drop(ino):
                    return True
            except ObjectMissingError:
                continue
            except StoreError as error:
                # The others would ask the same store.
                log.info("inode %d makes no room for others: %s", ino, error)
                self._disk.put_back(ino)
                return False
            except MemfsError:
                continue
        return False

    async def unlock_next(self) -> bool:
        """Let the file that is used last go from RAM; False if none is left."""
        while (ino := self._ram.take()) is not None:
            if self._parts.residency.is_held(ino) and not await self._is_pinned(ino):
                await self._parts.residency.unlock(ino, drop_pages=False)
                self._shares.leave(ino)
                return True
        return False

    async def _drop(self, ino: InodeNo) -> bool:
        inode = await self._engine.get_inode(ino)
        if not inode.raw or not inode.blob or await self._is_pinned(ino):
            return False
        kinds = {form.kind for form in await self._engine.list_forms(inode.blob)}
        if FormKind.REMOTE not in kinds:
            return False
        result = await self._moves.drop_raw(ino)
        if result.outcome != MoveOutcome.DONE:
            return False
        if FormKind.PACKED in kinds:
            await self._moves.drop_form(ino, FormKind.PACKED)
        self._shares.leave(ino)
        detail = "files that a program uses before it needed the room"
        decision = Decision(RULE, detail, result.moved_bytes, time.time_ns())
        await self._engine.record_decision(ino, decision)
        self._engine.commit_nowait()
        return True

    async def _is_pinned(self, ino: InodeNo) -> bool:
        try:
            return (await self._engine.effective_pin(ino)).tier is not None
        except StaleInodeError:
            return False
