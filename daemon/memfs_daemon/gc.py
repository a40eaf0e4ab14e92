"""The answers of the control socket to `memfs gc`: garbage, sparse batches, accounts, orphans.

Invariant: a call keeps no state: who asks again is told what is left.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from memfs.errors import InvalidValueError
from memfs.mover.orphans import OrphanSearch, Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.protocol import JsonValue
    from memfs.control.server import Method
    from memfs.mover.compaction import Compaction
    from memfs.moves.attempt import MoveParts
    from memfs.moves.moves import Moves

SLICE_S = 1.0
"""Garbage is removed for so long in a call, so that its caller can show how far it is."""

ITEMS_A_STEP = 256


class GcMethods:
    """Answers `gc_garbage`, `gc_batches`, `gc_accounts` and `gc_orphans`.

    Args:
        parts: The engine and the stores.
        moves: Removes garbage.
        compaction: Of the mover.
    """

    def __init__(self, parts: MoveParts, moves: Moves, compaction: Compaction) -> None:
        self._parts = parts
        self._moves = moves
        self._compaction = compaction
        self._orphans = OrphanSearch(parts)

    def methods(self) -> Mapping[str, Method]:
        """Return the methods of the control socket by name."""
        return {
            "gc_garbage": self.garbage,
            "gc_batches": self.batches,
            "gc_accounts": self.accounts,
            "gc_orphans": self.orphans,
        }

    async def garbage(self, dry_run: bool = False) -> JsonValue:
        """Remove garbage for `SLICE_S`.

        Returns:
            `removed_count`, 0 if nothing can be removed at present, and `left_count`.
        """
        removed_count = 0
        end_s = time.monotonic() + SLICE_S
        while not dry_run and time.monotonic() < end_s:
            step_count = await self._moves.collect_garbage(ITEMS_A_STEP)
            if not step_count:
                break
            removed_count += step_count
        left_count = (await self._parts.engine.usage()).garbage_count
        return {"removed_count": removed_count, "left_count": left_count}

    async def batches(self, dry_run: bool = False) -> JsonValue:
        """Compact the sparsest batch.

        Returns:
            `compacted`: None if no batch is sparse, else `key`, `freed_bytes` and `failure`;
            `left_count` and `left_bytes`, dead ones, of the first sparse batches that are left.
        """
        compacted = None
        if not dry_run and self._parts.remote is not None:
            compacted = await self._compaction.step()
        left = await self._compaction.list_sparse()
        return {
            "compacted": None if compacted is None else compacted._asdict(),
            "left_count": len(left),
            "left_bytes": sum(batch.size_bytes - batch.live_bytes for batch in left),
        }

    async def accounts(self) -> JsonValue:
        """Count again what the engine keeps accounts of; reads its tables for some seconds at most.

        Returns:
            `accounts`: the totals by name; `drift`: as kept and as counted, where they differ.
        """
        kept = (await self._parts.engine.usage())._asdict()
        counted = (await self._parts.engine.recount())._asdict()
        drift = {name: [kept[name], counted[name]] for name in kept if kept[name] != counted[name]}
        return cast("JsonValue", {"accounts": kept, "drift": drift})

    async def orphans(self, place: str, prefix: str = "", remove: bool = False) -> JsonValue:
        """Find what nothing refers to; see `mover.orphans`.

        Args:
            place: `raw`, `packed`, `tmp` or `remote`.
            prefix: Of the keys in the store.
            remove: And remove it.

        Raises:
            InvalidValueError: There is no such place.
            MemfsError: As of `OrphanSearch.look`.
        """
        if place not in [each.value for each in Place] or not isinstance(prefix, str):
            raise InvalidValueError(f"place: {place!r} is none of {', '.join(Place)}")
        found = await self._orphans.look(Place(place), prefix, remove=bool(remove))
        return cast("JsonValue", asdict(found))
