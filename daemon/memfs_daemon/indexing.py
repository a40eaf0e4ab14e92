"""Indexing: what is missing in an index gets into it while the mount serves.

Invariant: a step is short, and the loop has most of the time to itself.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError
from memfs.signals import Signal

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import IndexProgress

log = logging.getLogger(__name__)

STEP_COUNT = 200
"""Xattrs that are looked at, and entries that are made: some 2 ms."""

REST = 4.0
"""Pause after a step, in lengths of the step; guess."""

TELL_S = 30.0
"""Between two lines of progress in the log."""

ENTRY_STEP_COUNT = 200
"""Some 1 ms."""

SETTLING_S = 0.01
"""Between two looks whether the engine moves changes out of its journal."""

AGAIN_S = 60.0
"""Pause after an error, of a full disk say."""


async def rest(engine: Engine, begun_s: float) -> None:
    """Pause after a step.

    While the engine moves changes out of its journal there is no further step: it would lengthen
    the next move, which requests have to wait for.

    Args:
        engine: Has made the step.
        begun_s: When the step was begun, by `time.monotonic`.
    """
    await trio.sleep(REST * (time.monotonic() - begun_s))
    # That is done by a thread, which tells nobody when it is done.
    while engine.is_settling:  # noqa: ASYNC110
        await trio.sleep(SETTLING_S)


class AttributeIndexer:
    """Brings the index of attributes up to date once, and ends.

    Args:
        engine: Its index is on.
        step_count: Xattrs that a step looks at, and entries that it makes.
    """

    def __init__(self, engine: Engine, step_count: int = STEP_COUNT) -> None:
        self._engine = engine
        self._step_count = step_count

    async def run(self) -> None:
        """Index until all is in the index."""
        told_s, is_long = time.monotonic(), False
        while True:
            begun_s = time.monotonic()
            try:
                progress = await self.step()
            except MemfsError as error:
                log.warning("xattrs are not indexed yet, trying again later: %s", error)
                await trio.sleep(AGAIN_S)
                continue
            if progress.is_whole:
                break
            if begun_s - told_s >= TELL_S:
                log.info("xattrs are indexed: %d of %d inodes", progress.through, progress.last)
                told_s, is_long = begun_s, True
            await rest(self._engine, begun_s)
        if is_long:
            log.info("xattrs are indexed, all of them")

    async def step(self) -> IndexProgress:
        """Index some xattrs."""
        async with self._engine.change():
            return await self._engine.index_attributes(self._step_count)


class FieldIndexer:
    """Builds the indexes that are begun, and removes the entries of those dropped.

    What a kill cuts off goes on from there at the next mount.

    Args:
        engine: Has the indexes.
        step_count: Entries that a step makes or removes.
    """

    def __init__(self, engine: Engine, step_count: int = ENTRY_STEP_COUNT) -> None:
        self._engine = engine
        self._step_count = step_count
        self._asked = Signal()

    async def add(self, field: str) -> None:
        """Begin an index; see `Queries.add_index`."""
        async with self._engine.change():
            await self._engine.add_index(field)
        self._asked.set()

    async def drop(self, field: str) -> None:
        """Give an index up; see `Queries.drop_index`."""
        async with self._engine.change():
            await self._engine.drop_index(field)
        self._asked.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            seen = self._asked.count
            begun_s = time.monotonic()
            try:
                is_busy = await self.step()
            except MemfsError as error:
                log.warning("an index waits, trying again later: %s", error)
                await trio.sleep(AGAIN_S)
                continue
            if is_busy:
                await rest(self._engine, begun_s)
            else:
                await self._asked.wait(seen)

    async def step(self) -> bool:
        """Do a part; False: there is nothing to do."""
        async with self._engine.change():
            return await self._engine.build_indexes(self._step_count)
