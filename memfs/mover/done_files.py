"""Done files: those that programs have said they will not use again for now.

Invariant: a file leaves because of that only when files that were asked for in advance need its
room, and only where another form of it stays.

What training reads once an epoch is never evicted before it was read, and right after it: with the
order known, that is what Belady's rule comes to ("A study of replacement algorithms for a
virtual-storage computer", IBM Systems Journal 5(2), 1966).
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from memfs.errors import MemfsError, StaleInodeError
from memfs.metadata.records import Decision
from memfs.moves.outcome import MoveOutcome
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.moves.attempt import MoveParts
    from memfs.moves.moves import Moves
    from memfs.policy.shares import Shares
    from memfs.types import InodeNo

DONE_COUNT_MAX = 524_288
"""As many as wait to be fetched at most (`prediction.hints`); some 60 MB."""

RULE = "done"


class DoneFiles:
    """Files in the order in which programs were done with them.

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
        self._disk: OrderedDict[InodeNo, None] = OrderedDict()
        self._ram: OrderedDict[InodeNo, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._disk)

    def add(self, inos: Iterable[InodeNo]) -> None:
        """Note files; the oldest are forgotten where there are too many."""
        for ino in inos:
            for files in (self._disk, self._ram):
                files[ino] = None
                if len(files) > DONE_COUNT_MAX:
                    files.popitem(last=False)

    def discard(self, inos: Iterable[InodeNo]) -> None:
        """They are to be used again."""
        for ino in inos:
            self._disk.pop(ino, None)
            self._ram.pop(ino, None)

    async def drop_next(self) -> bool:
        """Drop the local copy of the file that has been done for longest; False if none is left.

        Files that cannot leave now are passed over; the mover comes to them by its own rules.
        """
        while self._disk:
            ino, _ = self._disk.popitem(last=False)
            with contextlib.suppress(MemfsError):
                if await self._drop(ino):
                    return True
        return False

    async def unlock_next(self) -> bool:
        """Let the file that has been done for longest go from RAM; False if none is left."""
        while self._ram:
            ino, _ = self._ram.popitem(last=False)
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
        detail = "a program was done with it, and files that it uses next needed the room"
        decision = Decision(RULE, detail, result.moved_bytes, time.time_ns())
        await self._engine.record_decision(ino, decision)
        self._engine.commit_nowait()
        return True

    async def _is_pinned(self, ino: InodeNo) -> bool:
        try:
            return (await self._engine.effective_pin(ino)).tier is not None
        except StaleInodeError:
            return False
