"""Batcher: gathers the uploads of small files until one object is worth writing.

Invariant: a gathered move leaves in a bounded time, uploaded, postponed with a reason, or given
back to be made alone; while it is gathered, the file counts as being moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.defects import as_failure
from memfs.errors import MemfsError
from memfs.moves.batching import upload_batch
from memfs.moves.outcome import MoveOutcome
from memfs.placement.quotas import BatchQuota
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.placement.context import Context
    from memfs.policy.view import Move
    from memfs.types import InodeNo

FILES_A_BATCH_MAX = 4096
"""Bounds the engine's change that publishes them, some 60 ms. Guess."""


class Batcher:
    """Moves of small files on their way to the object store.

    Args:
        context: Of the mount; its queues hold each gathered move from its coming to its end.
        finish: Makes the rest of a move, with an upload of its own where the batch left it out.
        fail: Told the moves that wait, and why; records that.
    """

    def __init__(
        self,
        context: Context,
        finish: Callable[[Move, int], Awaitable[None]],
        fail: Callable[[list[Move], MemfsError | OSError], Awaitable[None]],
    ) -> None:
        self._parts = context.parts
        self._config = context.config.glacier
        self._finish = finish
        self._fail = fail
        self._gathered = context.queues.gathered
        self._quotas = context.quotas
        self._next: dict[InodeNo, Move] = {}
        self._next_bytes = 0
        self._next_quota = self._new_quota()
        self._alone: set[InodeNo] = set()
        self._added = Signal()

    def takes(self, ino: InodeNo, size_bytes: int) -> bool:
        """Return whether a file's upload belongs into a batch."""
        return size_bytes <= self._config.batch_file_bytes_max and ino not in self._alone

    def add(self, move: Move, size_bytes: int) -> None:
        """Gather a move; it is made with the others.

        Raises:
            QuotaSpentError: A quota has no room for it; it is not gathered.
        """
        self._next_quota.add(size_bytes)
        self._gathered[move.ino] = self._next[move.ino] = move
        self._next_bytes += size_bytes
        self._added.set()

    @property
    def is_full(self) -> bool:
        """True if the gathered files are worth an object."""
        return (
            self._next_bytes >= self._config.batch_size_bytes
            or len(self._next) >= FILES_A_BATCH_MAX
        )

    async def run(self) -> None:
        """Write a batch when it is full or no file has come for a while, until cancelled.

        One of the workers; each writes a batch of its own.
        """
        while True:
            while not self._next:
                await self._added.wait(self._added.count)
            while not self.is_full:
                with trio.move_on_after(self._config.batch_idle_s) as idle:
                    await self._added.wait(self._added.count)
                if idle.cancelled_caught:
                    break
            await self.flush()

    async def flush(self) -> None:
        """Write what is gathered now."""
        moves, self._next = self._next, {}
        quota, self._next_quota = self._next_quota, self._new_quota()
        self._next_bytes = 0
        try:
            await self._write(list(moves.values()), quota)
        finally:
            quota.close()
            for ino in moves:
                self._gathered.pop(ino, None)

    async def _write_alone(self, moves: list[Move]) -> None:
        """Upload files one by one, so that what is wrong with one of them keeps no other."""
        for move in moves:
            self._alone.add(move.ino)
            try:
                await self._finish(move, 0)
            finally:
                self._alone.discard(move.ino)

    def _new_quota(self) -> BatchQuota:
        return BatchQuota(self._quotas, self._config.batch_size_bytes)

    async def _write(self, moves: list[Move], quota: BatchQuota) -> None:
        if not moves:
            return
        try:
            results = await upload_batch(self._parts, [move.ino for move in moves])
        except (MemfsError, OSError) as error:
            quota.close(None)
            await self._fail(moves, error)
            return
        except Exception as error:
            quota.close(None)
            as_failure(error, f"a batch of {len(moves)} files")
            await self._write_alone(moves)
            return
        quota.close(sum(result.moved_bytes for result in results.values()))
        for move in moves:
            outcome, moved_bytes = results[move.ino]
            if outcome == MoveOutcome.SUPERSEDED:
                # Its own upload tells what is wrong with it, if anything is.
                self._alone.add(move.ino)
            await self._finish(move, moved_bytes)
            self._alone.discard(move.ino)
            self._gathered.pop(move.ino, None)
