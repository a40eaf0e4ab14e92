"""Batcher: gathers the uploads of small files to a store until one object is worth writing.

Invariant: a gathered upload ends in a bounded time: in the object, with what kept that from being
written, or left out of it, to be made alone. It is no task meanwhile: each would take 6 kB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import trio

from memfs.defects import as_failure
from memfs.errors import MemfsError, QuotaSpentError, StoreError
from memfs.moves.batching import upload_batch
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.placement.quotas import BatchQuota
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from memfs.moves.attempt import MoveParts
    from memfs.placement.context import Context
    from memfs.policy.view import Move
    from memfs.types import InodeNo

FILES_A_BATCH_MAX = 4096
"""Bounds the engine's change that publishes them, some 60 ms. Guess."""

BATCH_WORKERS = 2
"""One fills its object while the other one uploads. Guess."""

LEFT_OUT = MoveResult(MoveOutcome.SUPERSEDED)
"""The object was written without a file: its own upload tells what is wrong with it."""


WriteBatch: TypeAlias = (
    "Callable[[MoveParts, Sequence[InodeNo]], Awaitable[Mapping[InodeNo, MoveResult]]]"
)
GoOn: TypeAlias = "Callable[[Move, MoveResult | Exception], Awaitable[None]]"


class _Batch:
    """The files of one object, and what came of them."""

    def __init__(self, quota: BatchQuota) -> None:
        self.quota = quota
        self.moves: list[Move] = []
        self.size_bytes = 0
        self.results: Mapping[InodeNo, MoveResult] = {}
        self.failure: MemfsError | OSError | None = None
        """Why there is no object."""


class Batcher:
    """Small files on their way to the object store.

    Args:
        go_on: Goes on with a file whose batch was written, or with what kept it from that.
        write: Writes the object of some files; None: as `upload_batch` does.
        store: Name of the store that they belong in; empty: the default one.
    """

    def __init__(
        self, context: Context, go_on: GoOn, write: WriteBatch | None = None, store: str = ""
    ) -> None:
        self._context = context
        self._go_on = go_on
        self._write_object = write
        self._store = store
        self._config = context.config.store(store)
        self._next = self._new_batch()
        self._added = Signal()
        self._going_on = trio.CapacityLimiter(BATCH_WORKERS)
        """Thousands of files may have waited for an object: requests come in between."""

    def takes(self, size_bytes: int) -> bool:
        """Return whether the upload of a file of so many bytes belongs into a batch."""
        return size_bytes <= self._config.batch_file_bytes_max

    def add(self, move: Move, size_bytes: int) -> None:
        """Upload a file with others; what was given as `go_on` is called after that.

        Args:
            move: Its file is in no other batch.
            size_bytes: Bytes of its content.

        Raises:
            QuotaSpentError: A quota has no room for it; it is not gathered.
        """
        batch = self._next
        batch.quota.add(size_bytes)
        batch.moves.append(move)
        batch.size_bytes += size_bytes
        self._added.set()

    @property
    def is_full(self) -> bool:
        """True if the gathered files are worth an object."""
        return (
            self._next.size_bytes >= self._config.batch_size_bytes
            or len(self._next.moves) >= FILES_A_BATCH_MAX
        )

    async def run(self, nursery: trio.Nursery) -> None:
        """Write a batch when it is full or no file has come for a while, until cancelled.

        One of the workers; each writes a batch of its own.

        Args:
            nursery: Its files are gone on with there, while the next batch is written.
        """
        while True:
            while not self._next.moves:
                await self._added.wait(self._added.count)
            while not self.is_full:
                with trio.move_on_after(self._config.batch_idle_s) as idle:
                    await self._added.wait(self._added.count)
                if idle.cancelled_caught:
                    break
            await self.flush(nursery)

    async def flush(self, nursery: trio.Nursery) -> None:
        """Write what is gathered now, and go on with the files in tasks of a nursery."""
        batch, self._next = self._next, self._new_batch()
        try:
            if batch.moves:
                await self._write(batch)
        finally:
            batch.quota.close()
        moves = iter(batch.moves)
        for _ in range(min(BATCH_WORKERS, len(batch.moves))):
            nursery.start_soon(self._finish, batch, moves)

    async def _finish(self, batch: _Batch, moves: Iterator[Move]) -> None:
        for move in moves:
            async with self._going_on:
                await self._go_on(move, batch.failure or batch.results.get(move.ino, LEFT_OUT))

    def _new_batch(self) -> _Batch:
        return _Batch(BatchQuota(self._context.quotas, self._config.batch_size_bytes))

    async def _write(self, batch: _Batch) -> None:
        breaker = self._context.breakers.of(self._store)
        try:
            parts, inos = self._context.parts, [move.ino for move in batch.moves]
            if self._write_object is not None:
                batch.results = await self._write_object(parts, inos)
            else:
                batch.results = await upload_batch(parts, inos, self._store)
        except (MemfsError, OSError) as error:
            batch.quota.close(None)
            batch.failure = error
            if isinstance(error, StoreError) and not isinstance(error, QuotaSpentError):
                breaker.fail(str(error))
            return
        except Exception as error:
            # What is wrong with one of the files keeps no other: each is uploaded alone.
            batch.quota.close(None)
            as_failure(error, f"a batch of {len(batch.moves)} files")
            return
        moved_bytes = sum(result.moved_bytes for result in batch.results.values())
        batch.quota.close(moved_bytes)
        if moved_bytes:
            breaker.succeed()
