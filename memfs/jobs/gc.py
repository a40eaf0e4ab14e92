"""The answers of the control socket to `memfs gc`: garbage, sparse batches, accounts, orphans.

Invariant: a call keeps no state: who asks again is told what is left.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import trio

from memfs.errors import MetadataError, NotSupportedError
from memfs.jobs.orphans import (
    AGE_S_MIN,
    SHARED_AGE_S_MIN,
    SHOWN_MAX,
    OrphanSearch,
    SearchPlace,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.methods.upkeep import (
        AccountsReport,
        BatchesReport,
        CompactedReport,
        GarbageReport,
        LostFoundReport,
        OrphansReport,
    )
    from memfs.control.server import Handler
    from memfs.exports.stored import StoredExports
    from memfs.metadata.records import SnapshotUsage
    from memfs.moves.attempt import MoveParts
    from memfs.moves.garbage import GarbageCollector
    from memfs.placement.upkeep import Compaction

log = logging.getLogger(__name__)

SLICE_S = 1.0
"""Garbage is removed for so long in a call, so that its caller can show how far it is."""

ITEMS_A_STEP = 256


class GcMethods:
    """Answers `gc_garbage`, `gc_batches`, `gc_accounts`, `gc_orphans` and `gc_lost_found`.

    Args:
        garbage: Removes it.
        compaction: That of the mover.
        exports: None: there are no exports.
        is_shared: Other nodes share the names, and may have stored objects.
    """

    def __init__(
        self,
        parts: MoveParts,
        garbage: GarbageCollector,
        compaction: Compaction,
        exports: StoredExports | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._parts = parts
        self._garbage = garbage
        self._compaction = compaction
        self._orphans = OrphanSearch(
            parts, exports, age_s=SHARED_AGE_S_MIN if is_shared else AGE_S_MIN
        )

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "gc_garbage": self.garbage,
            "gc_batches": self.batches,
            "gc_accounts": self.accounts,
            "gc_orphans": self.orphans,
            "gc_lost_found": self.lost_found,
        }

    async def garbage(self, dry_run: bool = False) -> GarbageReport:
        """Remove garbage for `SLICE_S`.

        Returns:
            `removed_count`, 0 if nothing can be removed at present, `left_count`, `held_count`
            of objects that stay as long as an export may name them, and `needed_count` of others
            that stay because nodes that read may need them.
        """
        removed_count = 0
        end_s = time.monotonic() + SLICE_S
        while not dry_run and time.monotonic() < end_s:
            step_count = await self._garbage.collect(ITEMS_A_STEP)
            if not step_count:
                break
            removed_count += step_count
        left_count = (await self._parts.engine.usage()).garbage_count
        held_count = await self._count_held(self._parts.held_from)
        needed_count = await self._count_held(self._parts.garbage_held_from) - held_count
        return {
            "removed_count": removed_count,
            "left_count": left_count - held_count - needed_count,
            "held_count": held_count,
            "needed_count": needed_count,
        }

    async def _count_held(self, held_from: int | None) -> int:
        return 0 if held_from is None else await self._parts.engine.count_held(held_from)

    async def batches(self, dry_run: bool = False) -> BatchesReport:
        """Compact the sparsest batch.

        Returns:
            `compacted`: None if no batch is sparse, else `key`, `freed_bytes` and `failure`;
            `left_count` and `left_bytes`, dead ones, of the first sparse batches that are left.
        """
        compacted = None
        if not dry_run and self._parts.remote is not None:
            compacted = await self._compaction.compact_sparsest()
        left = await self._compaction.list_sparse()
        return {
            "compacted": compacted and cast("CompactedReport", compacted._asdict()),
            "left_count": len(left),
            "left_bytes": sum(batch.size_bytes - batch.live_bytes for batch in left),
        }

    async def accounts(self) -> AccountsReport:
        """Count again what the engine keeps accounts of; reads its tables for some seconds at most.

        Returns:
            `accounts`: the totals by name; `drift`: as kept and as counted, where they differ.
        """
        engine = self._parts.engine
        kept = (await engine.usage())._asdict() | _of_snapshots(await engine.snapshot_usage())
        counted = (await engine.recount())._asdict()
        counted |= _of_snapshots(await engine.recount_snapshots())
        drift = {name: [kept[name], counted[name]] for name in kept if kept[name] != counted[name]}
        return {"accounts": kept, "drift": drift}

    async def orphans(self, place: str, prefix: str = "", take: bool = False) -> OrphansReport:
        """Find what nothing refers to; see `jobs.orphans`.

        Args:
            place: `raw`, `packed`, `tmp`, `remote`, `uploads` or `exports`.
            prefix: That of the keys in the store.
            take: And put it into lost+found; unfinished uploads and objects of exports go.

        Raises:
            MemfsError: As of `OrphanSearch.look`.
        """
        found = await self._orphans.look(SearchPlace(place), prefix, take=take)
        return cast("OrphansReport", asdict(found))

    async def lost_found(self, clear: bool = False) -> LostFoundReport:
        """Tell what lies in lost+found, and remove it for good on request.

        Args:
            clear: Remove the files, and those objects that still nothing refers to.

        Returns:
            `count`, `bytes` and `object_count` as they were, `names` of the first files, and
            `removed_count`, objects included.

        Raises:
            MetadataError: `clear`, while the metadata are not sound: what lies there may be needed.
            MemfsError: The disk or the store refuses.
        """
        lost_found = self._parts.lost_found
        usage = await trio.to_thread.run_sync(lost_found.usage)
        names = await trio.to_thread.run_sync(lost_found.names)
        removed_count = 0
        if clear:
            if damage := self._parts.engine.check():
                raise MetadataError(
                    f"nothing is removed from lost+found while a repair is due: {damage[0]}"
                )
            removed_count = await self._remove_objects()
            removed_count += await trio.to_thread.run_sync(lost_found.clear)
        answer = asdict(usage) | {"names": names[:SHOWN_MAX], "removed_count": removed_count}
        return cast("LostFoundReport", answer)

    async def _remove_objects(self) -> int:
        """Remove the noted objects that still nothing refers to; returns how many."""
        parts = self._parts
        keys = [key for key, _size in await trio.to_thread.run_sync(parts.lost_found.objects)]
        if not keys:
            return 0
        if parts.remote is None:
            raise NotSupportedError("lost+found names objects, and no store is configured")
        due = await self._orphans.find_removable(keys)
        for key in due:
            await parts.remote.delete(key)
            log.info("object %s was removed: nothing refers to it", key)
        return len(due)


def _of_snapshots(usage: SnapshotUsage) -> dict[str, int]:
    return {"kept_raw_count": usage.kept_raw_count, "kept_raw_bytes": usage.kept_raw_bytes}
