"""Removal: what deleted snapshots kept goes in the background.

Invariant: a step is short, and the loop has most of the time to itself; a step that was committed
is done, so that the next mount goes on behind it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.metadata.engine import Engine

log = logging.getLogger(__name__)

STEP_COUNT = 300
"""Some 4 ms of CPU."""

REST = 4.0
"""Pause after a step, in lengths of the step; guess."""

AGAIN_S = 60.0
"""Pause after an error, of a full disk say."""


class SnapshotRemoval:
    """Removes what deleted snapshots kept; raw files among it become garbage.

    Args:
        engine: Has the snapshots.
        note_deleted: Told before the first step.
        step_count: Inodes a step.
    """

    def __init__(
        self,
        engine: Engine,
        note_deleted: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        *,
        step_count: int = STEP_COUNT,
    ) -> None:
        self._engine = engine
        self._step_count = step_count
        self._note_deleted = note_deleted
        self._begun = Signal()

    def begin(self) -> None:
        """A snapshot was deleted."""
        self._begun.set()

    async def run(self) -> None:
        """Remove until cancelled, what an earlier mount has left first."""
        while True:
            count = self._begun.count
            try:
                await self._note_deleted()
                await self.remove_all()
            except MemfsError as error:
                log.warning("deleted snapshots stay in part, trying again later: %s", error)
                await trio.sleep(AGAIN_S)
                continue
            await self._begun.wait(count)

    async def remove_all(self) -> None:
        """Remove what there is to remove now. Checkpoint: always. Cancel: safe, between steps."""
        more = True
        while more:
            begun_s = time.monotonic()
            async with self._engine.change():
                more = await self._engine.delete_snapshot_step(self._step_count)
            await trio.sleep(REST * (time.monotonic() - begun_s))
