"""Progress: which moves are under way and how far they are.

Invariant: a move is listed from its begin to its end, however it ends.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.types import InodeNo, Tier


class WantedMoves(Protocol):
    """Moves that are decided, under way or not."""

    def wanted(self, ino: InodeNo) -> Tier | None:
        """Return the tier that a file is on its way to; None if it is not on its way."""
        ...


class MoveProgress:
    """How far one move is; read by status reports while a worker thread stores into it.

    `done_bytes` is one reference that is replaced, so a reader sees the old or the new number.
    """

    __slots__ = ("done_bytes", "ino", "kind", "total_bytes")

    def __init__(self, kind: str, ino: InodeNo | None, total_bytes: int) -> None:
        self.kind = kind
        self.ino = ino
        """None: many files in one object."""
        self.total_bytes = total_bytes
        """Uncompressed bytes."""
        self.done_bytes = 0

    def advance(self, done_bytes: int) -> None:
        """Tell from a worker thread of trio how far it is; raises where it is to stop."""
        self.done_bytes = done_bytes
        trio.from_thread.check_cancelled()


class ProgressTable:
    """The moves under way."""

    def __init__(self) -> None:
        self._moves: dict[MoveProgress, None] = {}
        self.queue: WantedMoves | None = None
        """That of the mover; None: it is not there."""

    @contextlib.contextmanager
    def track(self, kind: str, ino: InodeNo | None, total_bytes: int) -> Iterator[MoveProgress]:
        """List a move for as long as the block runs; without `ino`, one of many files."""
        progress = MoveProgress(kind, ino, total_bytes)
        self._moves[progress] = None
        try:
            yield progress
        finally:
            del self._moves[progress]

    def find(self, ino: InodeNo) -> MoveProgress | None:
        """Return the move of one file that is under way; those in a shared object are not found."""
        return next((move for move in self._moves if move.ino == ino), None)

    def wanted(self, ino: InodeNo) -> Tier | None:
        """Return the tier that a file is on its way to; None if nobody has decided that."""
        return self.queue.wanted(ino) if self.queue is not None else None

    def sum(self) -> tuple[int, int, int]:
        """Return the moves under way: how many, their bytes done, and their bytes in all."""
        moves = [*self._moves]
        done_bytes = sum(move.done_bytes for move in moves)
        return len(moves), done_bytes, sum(move.total_bytes for move in moves)

    def under_way(self) -> list[MoveProgress]:
        """Return the moves under way, oldest first."""
        return [*self._moves]

    def describe(self) -> list[dict[str, object]]:
        """Return the moves under way, oldest first, for `memfs status`."""
        return [
            {
                "kind": move.kind,
                "inode": None if move.ino is None else int(move.ino),
                "done_bytes": move.done_bytes,
                "total_bytes": move.total_bytes,
            }
            for move in self._moves
        ]
