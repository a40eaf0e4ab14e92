"""Queues: the moves that are decided but not done, promotions apart from demotions.

Invariant: a file is in one queue at most, waiting or under way, and the queues are bounded. The one
of the highest priority is the next of those that wait. A move that waits for the others of its
batch is no task meanwhile.
"""

from __future__ import annotations

import contextlib
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

from memfs.policy.view import Goal
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from memfs.policy.view import Move
    from memfs.types import InodeNo, Tier

WAITING_COUNT_MAX = 1024
"""Moves that wait in one queue; the mover looks for others only when there is room."""

GATHERED_COUNT_MAX = 8192
"""Small files in batches that are gathered or written: two full ones, each 350 bytes."""


class MakeMove(Protocol):
    """Makes a move."""

    async def __call__(self, move: Move, /) -> bool:
        """Make it; True if it waits for the others of its batch, until `MoveQueues.end`."""
        ...


class MoveQueue:
    """Moves by priority, and among equals in the order in which they were decided."""

    def __init__(self) -> None:
        self.waiting: dict[InodeNo, Move] = {}
        self.running: dict[InodeNo, Move] = {}
        self.gathered: dict[InodeNo, Move] = {}
        """Small files that wait until the object of their batch is written; see `batcher`."""
        self._order: list[tuple[int, int, InodeNo]] = []
        """A heap: negative priority, number of the move, file."""
        self._put_count = 0
        self._put = Signal()

    def put(self, move: Move) -> None:
        """Add a move; no other move of its file waits."""
        self.waiting[move.ino] = move
        self._put_count += 1
        heappush(self._order, (-move.priority, self._put_count, move.ino))
        self._put.set()

    async def begin_next(self, place: MakeMove) -> bool:
        """Begin the next waiting move; False if nothing waits.

        Returns when the move is done, or when it waits for the others of its batch.
        """
        if not self.waiting:
            return False
        _, _, ino = heappop(self._order)
        self.running[ino] = move = self.waiting.pop(ino)
        try:
            if await place(move):
                self.gathered[ino] = move
        finally:
            del self.running[ino]
        return True

    async def run(
        self,
        place: MakeMove,
        turn: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """Make moves as they come, until cancelled; one of the queue's workers.

        Args:
            place: Makes one.
            turn: Entered for each move until it is done, or waits for the others of its batch.
        """
        while True:
            seen = self._put.count
            if self.waiting:
                async with turn():
                    await self.begin_next(place)
            else:
                await self._put.wait(seen)


class MoveQueues:
    """Both queues: a file that a program wants never waits behind a slow upload."""

    def __init__(self) -> None:
        self.promotions = MoveQueue()
        self.demotions = MoveQueue()

    def __contains__(self, ino: object) -> bool:
        return any(
            ino in queue.waiting or ino in queue.running or ino in queue.gathered
            for queue in (self.promotions, self.demotions)
        )

    def goal(self, ino: InodeNo) -> Goal | None:
        """Return where a file is being moved to; None if it is in no queue."""
        for queue in (self.promotions, self.demotions):
            move = queue.running.get(ino) or queue.waiting.get(ino) or queue.gathered.get(ino)
            if move is not None:
                return move.goal
        return None

    def wanted(self, ino: InodeNo) -> Tier | None:
        """Return the tier that a file is on its way to; None if it is in no queue."""
        goal = self.goal(ino)
        return goal.tier if goal is not None else None

    @property
    def has_room(self) -> bool:
        """True if both queues take more, and the batches do."""
        return len(self.demotions.gathered) < GATHERED_COUNT_MAX and all(
            len(queue.waiting) < WAITING_COUNT_MAX for queue in (self.promotions, self.demotions)
        )

    @property
    def queued_count(self) -> int:
        """Moves that wait for a worker, or for their batch to be full."""
        return sum(
            len(waiting)
            for waiting in (
                self.promotions.waiting,
                self.demotions.waiting,
                self.demotions.gathered,
            )
        )

    @property
    def demoting(self) -> bool:
        """True if files are on their way to slower tiers."""
        queue = self.demotions
        return bool(queue.waiting or queue.running or queue.gathered)

    @property
    def freeing_bytes(self) -> int:
        """What the demotions will free on the disk."""
        queue = self.demotions
        moves = [*queue.waiting.values(), *queue.running.values(), *queue.gathered.values()]
        return sum(move.bytes for move in moves if move.goal <= Goal.PACKED)

    def put(self, move: Move) -> None:
        """Add a move to its queue, unless the file is in one already."""
        if move.ino not in self:
            promotes = move.goal >= Goal.LOCAL
            (self.promotions if promotes else self.demotions).put(move)

    def end(self, ino: InodeNo) -> None:
        """A move is done that waited for the others of its batch."""
        for queue in (self.promotions, self.demotions):
            queue.gathered.pop(ino, None)

    async def begin_all(self, place: MakeMove) -> None:
        """Make all waiting moves one after the other, but for those that wait for a batch."""
        for queue in (self.promotions, self.demotions):
            while await queue.begin_next(place):
                pass

    def status(self) -> dict[str, object]:
        """Return the queues in numbers, for `memfs status`."""
        return {
            "promotions_waiting": len(self.promotions.waiting),
            "promotions_running": len(self.promotions.running),
            "demotions_waiting": len(self.demotions.waiting),
            "demotions_running": len(self.demotions.running),
            "gathered": len(self.demotions.gathered),
        }
