"""Queues: the moves that are decided but not done, promotions apart from demotions.

Invariant: a file is in one queue at most, waiting or under way, and the queues are bounded. The one
of the highest priority is the next of those that wait.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from memfs.policy.view import Goal
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.policy.view import Move
    from memfs.types import InodeNo, Tier

WAITING_COUNT_MAX = 1024
"""Moves that wait in one queue; the mover looks for no more before there is room."""

GATHERED_COUNT_MAX = 8192
"""Small files in batches that are gathered or written: two full ones."""


class MoveQueue:
    """Moves by priority, and among equals in the order in which they were decided."""

    def __init__(self) -> None:
        self.waiting: dict[InodeNo, Move] = {}
        self.running: dict[InodeNo, Move] = {}
        self._order: list[tuple[int, int, InodeNo]] = []
        """A heap: negative priority, number of the move, file."""
        self._put_count = 0
        self._put = Signal()

    def put(self, move: Move) -> None:
        """Add a move; its file has none that waits."""
        self.waiting[move.ino] = move
        self._put_count += 1
        heappush(self._order, (-move.priority, self._put_count, move.ino))
        self._put.set()

    async def run_next(self, place: Callable[[Move], Awaitable[None]]) -> bool:
        """Make the next waiting move; False if none waits."""
        if not self.waiting:
            return False
        _, _, ino = heappop(self._order)
        self.running[ino] = move = self.waiting.pop(ino)
        try:
            await place(move)
        finally:
            del self.running[ino]
        return True

    async def run(self, place: Callable[[Move], Awaitable[None]]) -> None:
        """Make moves as they come, until cancelled; one of the queue's workers."""
        while True:
            seen = self._put.count
            if not await self.run_next(place):
                await self._put.wait(seen)


class MoveQueues:
    """Both queues: a file that a program wants never waits behind a slow upload."""

    def __init__(self) -> None:
        self.promotions = MoveQueue()
        self.demotions = MoveQueue()
        self.gathered: dict[InodeNo, Move] = {}
        """Uploads of small files that have left their queue for a batch; see `batcher`."""

    def __contains__(self, ino: object) -> bool:
        return ino in self.gathered or any(
            ino in queue.waiting or ino in queue.running
            for queue in (self.promotions, self.demotions)
        )

    def goal(self, ino: InodeNo) -> Goal | None:
        """Return where a file is being moved to; None if it is in no queue."""
        for queue in (self.promotions, self.demotions):
            move = queue.running.get(ino) or queue.waiting.get(ino)
            if move is not None:
                return move.goal
        gathered = self.gathered.get(ino)
        return gathered.goal if gathered is not None else None

    def wanted(self, ino: InodeNo) -> Tier | None:
        """Return the tier that a file is on its way to; None if it is in no queue."""
        goal = self.goal(ino)
        return goal.tier if goal is not None else None

    @property
    def has_room(self) -> bool:
        """True if both queues take more, and the batches do."""
        return len(self.gathered) < GATHERED_COUNT_MAX and all(
            len(queue.waiting) < WAITING_COUNT_MAX for queue in (self.promotions, self.demotions)
        )

    @property
    def queued_count(self) -> int:
        """Moves that wait for a worker, or for their batch to be full."""
        queues = (self.promotions, self.demotions)
        return len(self.gathered) + sum(len(queue.waiting) for queue in queues)

    @property
    def demoting(self) -> bool:
        """True if files are on their way to slower tiers."""
        return bool(self.demotions.waiting or self.demotions.running or self.gathered)

    @property
    def freeing_bytes(self) -> int:
        """What the demotions will free on the disk."""
        queue = self.demotions
        moves = [*queue.waiting.values(), *queue.running.values(), *self.gathered.values()]
        return sum(move.bytes for move in moves if move.goal <= Goal.PACKED)

    def put(self, move: Move) -> None:
        """Add a move to its queue, unless the file is in one already."""
        if move.ino not in self:
            promotes = move.goal >= Goal.LOCAL
            (self.promotions if promotes else self.demotions).put(move)

    async def drain(self, place: Callable[[Move], Awaitable[None]]) -> int:
        """Make all waiting moves one after the other; returns how many."""
        count = 0
        for queue in (self.promotions, self.demotions):
            while await queue.run_next(place):
                count += 1
        return count

    def status(self) -> dict[str, object]:
        """Return the queues in numbers, for `memfs status`."""
        return {
            "promotions_waiting": len(self.promotions.waiting),
            "promotions_running": len(self.promotions.running),
            "demotions_waiting": len(self.demotions.waiting),
            "demotions_running": len(self.demotions.running),
            "gathered": len(self.gathered),
        }
