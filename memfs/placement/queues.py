"""Queues: the moves that are decided but not done, promotions apart from demotions.

Invariant: a file is in one queue at most, waiting or under way, and the queues are bounded. The one
of the highest priority is the next of those that wait. A move that waits for the others of its
batch is no task meanwhile. A store whose queues are full holds up files of other stores for
`FULL_S` at most.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

import trio

from memfs.policy.view import Goal
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from memfs.policy.view import Move
    from memfs.types import InodeNo, Tier

WAITING_COUNT_MAX = 1024
"""Moves that wait in one queue; the mover looks for others only when there is room."""

GATHERED_COUNT_MAX = 8192
"""Small files in batches that are gathered or written: two full ones, each 350 bytes."""

UPLOADS_WAITING_MAX = 256
"""With so many moves in a queue, no further file comes in that only lacks its object."""

FULL_S = 2.0
"""So long the mover waits for a queue that is full, before it looks for files of other stores: one
whose store is well has room by then. Guess."""


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

    @property
    def has_room(self) -> bool:
        """True if it takes more."""
        return len(self.waiting) < WAITING_COUNT_MAX and len(self.gathered) < GATHERED_COUNT_MAX

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


@dataclass(slots=True)
class Lane:
    """The queues of the files of one store.

    They are apart, so that a file that a program wants never waits behind a slow upload.
    """

    promotions: MoveQueue = field(default_factory=MoveQueue)
    demotions: MoveQueue = field(default_factory=MoveQueue)
    full_since_s: float | None = None
    """When it was first seen that one of them was full, by trio's clock; None: they have room."""

    def queue_of(self, move: Move) -> MoveQueue:
        """Return the queue of a move."""
        return self.promotions if move.goal >= Goal.LOCAL else self.demotions

    @property
    def has_room(self) -> bool:
        """True if both queues take more."""
        return self.promotions.has_room and self.demotions.has_room

    @property
    def is_passed_over(self) -> bool:
        """True if it has been full for so long that other lanes do not wait for it any more."""
        if self.has_room:
            self.full_since_s = None
            return False
        now_s = trio.current_time()
        if self.full_since_s is None:
            self.full_since_s = now_s
        return now_s - self.full_since_s >= FULL_S


class MoveQueues:
    """The queues of all stores: those of one that hangs hold up nothing of another one.

    Args:
        stores: Names of the stores beside the default one.
    """

    def __init__(self, stores: Iterable[str] = ()) -> None:
        self.lanes = {name: Lane() for name in ("", *stores)}
        """By the name of the store."""

    @property
    def _all(self) -> list[MoveQueue]:
        return [
            queue for lane in self.lanes.values() for queue in (lane.promotions, lane.demotions)
        ]

    @property
    def _demotions(self) -> list[MoveQueue]:
        return [lane.demotions for lane in self.lanes.values()]

    @property
    def promotions(self) -> MoveQueue:
        """Those of files of the default store."""
        return self.lanes[""].promotions

    @property
    def demotions(self) -> MoveQueue:
        """Those of files of the default store."""
        return self.lanes[""].demotions

    def __contains__(self, ino: object) -> bool:
        return any(
            ino in queue.waiting or ino in queue.running or ino in queue.gathered
            for queue in self._all
        )

    def goal(self, ino: InodeNo) -> Goal | None:
        """Return where a file is being moved to; None if it is in no queue."""
        for queue in self._all:
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
        """True if a queue takes more, and there is no full one that is still waited for."""
        full = [lane for lane in self.lanes.values() if not lane.has_room]
        return len(full) < len(self.lanes) and all(lane.is_passed_over for lane in full)

    def has_room_for(self, store: str) -> bool:
        """Return whether the queues of a store take more."""
        return self._lane(store).has_room

    def takes_upload(self, store: str) -> bool:
        """Return whether one more file of a store should wait for its upload in a queue.

        Others wait elsewhere: a file in a queue is not moved by any other rule.
        """
        lane = self._lane(store)
        return lane.has_room and len(lane.demotions.waiting) < UPLOADS_WAITING_MAX

    def passes_over(self, move: Move, store: str) -> bool:
        """Return whether a move is not to be put: its queue is full, and nobody waits for it."""
        lane = self._lane(store)
        if len(self.lanes) == 1 or lane.queue_of(move).has_room:
            return False
        return lane.is_passed_over

    def _lane(self, store: str) -> Lane:
        return self.lanes.get(store) or self.lanes[""]

    @property
    def queued_count(self) -> int:
        """Moves that wait for a worker, or for their batch to be full."""
        return sum(len(queue.waiting) + len(queue.gathered) for queue in self._all)

    @property
    def demoting(self) -> bool:
        """True if files are on their way to slower tiers."""
        return any(queue.waiting or queue.running or queue.gathered for queue in self._demotions)

    @property
    def freeing_bytes(self) -> int:
        """What the demotions will free on the disk."""
        return sum(
            move.bytes
            for queue in self._demotions
            for moves in (queue.waiting, queue.running, queue.gathered)
            for move in moves.values()
            if move.goal <= Goal.PACKED
        )

    def put(self, move: Move, store: str = "") -> None:
        """Add a move to its queue, unless the file is in one already.

        Args:
            store: Name of the store of its file; one that is not configured has no queue, and its
                files are refused by the default one's workers.
        """
        if move.ino not in self:
            self._lane(store).queue_of(move).put(move)

    def end(self, ino: InodeNo) -> None:
        """A move is done that waited for the others of its batch."""
        for queue in self._all:
            queue.gathered.pop(ino, None)

    async def begin_all(self, place: MakeMove) -> None:
        """Make all waiting moves one after the other, but for those that wait for a batch."""
        for queue in self._all:
            while await queue.begin_next(place):
                pass

    def status(self) -> dict[str, object]:
        """Return the queues in numbers, for `memfs status`."""
        promotions = [lane.promotions for lane in self.lanes.values()]
        return {
            "promotions_waiting": sum(len(queue.waiting) for queue in promotions),
            "promotions_running": sum(len(queue.running) for queue in promotions),
            "demotions_waiting": sum(len(queue.waiting) for queue in self._demotions),
            "demotions_running": sum(len(queue.running) for queue in self._demotions),
            "gathered": sum(len(queue.gathered) for queue in self._demotions),
        }
