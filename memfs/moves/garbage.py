"""Garbage: files and objects that nothing refers to any more, removed for good.

Invariant: nothing is removed before the change that made it garbage is on stable storage: after
power loss the engine may be older than the disk, and would then name what is gone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.addresses import store_of
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
        self._stuck: dict[str | None, set[int]] = {}
        """By the name of their store; None: local files."""
        policy = parts.config.policy
        # Jitter, so that many mounts do not come back as one.
        self._backoffs = {
            name: Backoff(policy.retry_s_min, policy.retry_s_max, rng)
            for name in (None, *parts.store_names)
        }

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
            self._look_again(None)
            stuck = self._stuck.get(None, set())
            listed = await self._parts.engine.list_garbage(limit + len(stuck), remote=False)
            items = [item for item in listed if item.item not in stuck]
            return await self._remove(items) if items else 0

    async def _collect(self, limit: int) -> int:
        parts = self._parts
        self._look_again(None)
        # One that fails, or is not configured, keeps nobody from what is in another one.
        due = [name for name in parts.store_names if self._look_again(name)]
        if parts.source is not None or parts.remote is None:
            due = []
        elif due:
            for name in await abort_unfinished(parts.engine, parts.remote, due):
                self._backoffs[name].fail()
                due.remove(name)
        stuck = set[int]().union(*(self._stuck.get(name, ()) for name in (None, *due)))
        # Objects that wait for the store must not hide what takes up room here.
        # Nor is removed what an export in the store may name, or a node that reads may need.
        if due and parts.held_objects is not None:
            await parts.held_objects.look(parts.engine)
        listed = await parts.engine.list_garbage(
            limit + len(stuck), remote=bool(due), held_from=parts.garbage_held_from, stores=due
        )
        items = [item for item in listed if item.item not in stuck]
        return await self._remove(items) if items else 0

    def _look_again(self, name: str | None) -> bool:
        """Return whether a store, or the disk, is due, and if so forget what was stuck there."""
        if self._backoffs[name].wait_s:
            return False
        self._stuck.pop(name, None)
        return True

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
        self._put_aside(None, [item for item in local if item.item not in gone])
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
        by_store: dict[str, list[GarbageItem]] = {}
        for item in items:
            if item.kind == FormKind.REMOTE:
                by_store.setdefault(store_of(item.location), []).append(item)
        removed: list[int] = []
        failures: list[MemfsError] = []

        async def remove(name: str, objects: Sequence[GarbageItem]) -> None:
            try:
                removed.extend(await self._remove_objects(name, objects))
            except MemfsError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for name, objects in by_store.items():
                nursery.start_soon(remove, name, objects)
        if failures and not removed:
            raise failures[0]
        return removed

    async def _remove_objects(self, name: str, objects: Sequence[GarbageItem]) -> list[int]:
        """Remove those objects of one store that it lets us remove."""
        remote = self._parts.remote
        assert remote is not None, "what is listed is in a store that is there"
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
            self._backoffs[name].reset()
        if kept:
            pause_s = self._backoffs[name].fail()
            self._put_aside(name, kept)
            log.info(
                "%d objects cannot be removed, next try in %.0f s: %s",
                len(kept),
                pause_s,
                failure,
            )
        return removed

    def _put_aside(self, name: str | None, items: Sequence[GarbageItem]) -> None:
        if items and not self._backoffs[name].wait_s:
            self._backoffs[name].fail()
        stuck = self._stuck.setdefault(name, set())
        stuck.update(item.item for item in items[: self._stuck_count_max - len(stuck)])
