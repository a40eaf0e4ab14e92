"""Garbage: files and objects that nothing refers to any more, removed for good.

Invariant: nothing is removed before the change that made it garbage is on stable storage: after
power loss the engine may be older than the disk, and would then name what is gone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.backoff import Backoff
from memfs.errors import MemfsError, StoreError
from memfs.moves.unfinished import abort_unfinished
from memfs.types import FormKind, RawId

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from memfs.metadata.records import GarbageItem
    from memfs.moves.attempt import MoveParts

log = logging.getLogger(__name__)

UNLINKS_A_CALL_MAX = 256
"""Files removed by one call to a worker thread: about 5 ms on ext4. Guess; never measured."""

STUCK_COUNT_MAX = 20_000
"""Bounds the memory of a look at the list."""


REFUSALS_MAX = 8
"""Objects of one look that the store may refuse to remove, as under a legal hold, before it is
taken to refuse them all."""


class GarbageCollector:
    """Removes what the engine lists as garbage.

    Args:
        rng: Jitter of pauses; seeded by tests.
        stuck_count_max: Items that cannot be removed now, and that a look at the list passes over.
    """

    def __init__(
        self,
        parts: MoveParts,
        rng: random.Random | None = None,
        *,
        stuck_count_max: int = STUCK_COUNT_MAX,
    ) -> None:
        self._parts = parts
        self._stuck_count_max = stuck_count_max
        self._lock = trio.Lock()
        self._local_lock = trio.Lock()
        self._stuck: set[int] = set()
        policy = parts.config.policy
        # Jitter, so that many mounts do not come back as one.
        self._backoff = Backoff(policy.retry_s_min, policy.retry_s_max, rng)

    async def collect(self, limit: int) -> int:
        """Remove up to `limit` items for good; returns how many were.

        An item that cannot be removed stays listed, and is tried again after a pause.
        """
        async with self._lock:
            return await self._collect(limit)

    async def collect_local(self, limit: int) -> int:
        """Remove up to `limit` local files, whatever a look at the store waits for beside this.

        Where both meet the same file, the second finds it gone, which is what it wants.
        """
        async with self._local_lock:
            listed = await self._parts.engine.list_garbage(limit + len(self._stuck), remote=False)
            items = [item for item in listed if item.item not in self._stuck]
            return await self._remove(items) if items else 0

    async def _collect(self, limit: int) -> int:
        remote_due = not self._backoff.wait_s
        if remote_due:
            self._stuck.clear()
            remote = self._parts.remote
            if self._parts.source is not None:
                remote_due = False
            elif remote is not None and not await abort_unfinished(self._parts.engine, remote):
                self._backoff.fail()
                remote_due = False
        # Objects that wait for the store must not hide what takes up room here.
        # Nor is removed what an export in the store may name.
        listed = await self._parts.engine.list_garbage(
            limit + len(self._stuck), remote=remote_due, held_from=self._parts.held_from
        )
        items = [item for item in listed if item.item not in self._stuck]
        return await self._remove(items) if items else 0

    async def _remove(self, items: Sequence[GarbageItem]) -> int:
        engine = self._parts.engine
        # What made it garbage may still be undone, where its commit fails.
        await engine.commit()
        await self._parts.file_syncs.sync()
        self._parts.faults.reach("garbage.synced")
        removed = await self._remove_local(items) + await self._remove_remote(items)
        self._parts.faults.reach("garbage.removed")
        async with engine.change():
            await engine.clear_garbage(removed)
        self._parts.faults.reach("garbage.cleared")
        return len(removed)

    async def _remove_local(self, items: Sequence[GarbageItem]) -> list[int]:
        local = [item for item in items if item.kind != FormKind.REMOTE]
        removed: list[int] = []
        for start in range(0, len(local), UNLINKS_A_CALL_MAX):
            removed += await trio.to_thread.run_sync(
                self._unlink,
                local[start : start + UNLINKS_A_CALL_MAX],
                limiter=self._parts.prompt_threads,
            )
        gone = set(removed)
        self._put_aside([item for item in local if item.item not in gone])
        return removed

    def _unlink(self, items: Sequence[GarbageItem]) -> list[int]:
        removed = []
        for item in items:
            try:
                if item.kind == FormKind.RAW:
                    self._parts.raw_store.unlink(RawId(int(item.location)))
                else:
                    self._parts.packed_store.delete(item.location)
            except MemfsError as error:
                log.warning("%s form %s cannot be removed: %s", item.kind, item.location, error)
            else:
                removed.append(item.item)
        return removed

    async def _remove_remote(self, items: Sequence[GarbageItem]) -> list[int]:
        objects = [item for item in items if item.kind == FormKind.REMOTE]
        remote = self._parts.remote
        if not objects or remote is None:
            self._put_aside(objects)
            return []
        removed: list[int] = []
        kept: list[GarbageItem] = []
        for number, item in enumerate(objects, start=1):
            try:
                await remote.delete(item.location)
            except StoreError as error:
                kept.append(item)
                failure = error
                if error.transient or len(kept) == REFUSALS_MAX:
                    kept += objects[number:]
                    break
            else:
                removed.append(item.item)
        if removed:
            self._backoff.reset()
        if kept:
            pause_s = self._backoff.fail()
            self._put_aside(kept)
            log.info(
                "%d objects cannot be removed, next try in %.0f s: %s",
                len(kept),
                pause_s,
                failure,
            )
        return removed

    def _put_aside(self, items: Sequence[GarbageItem]) -> None:
        if items and not self._backoff.wait_s:
            self._backoff.fail()
        for item in items[: self._stuck_count_max - len(self._stuck)]:
            self._stuck.add(item.item)
