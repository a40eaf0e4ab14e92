"""The answer of the control socket to `memfs stores`: each store, its health and its use.

Invariant: requests of programs come in between two slices of the count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.addresses import address_of, told_store
from memfs.metadata.store_record import recall_store
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.methods.mount import StoreUseReport
    from memfs.control.server import Handler
    from memfs.moves.attempt import MoveParts
    from memfs.stores.health import StoreHealth

FORMS_A_SLICE = 2000
"""Rows counted before the event loop is given back: some milliseconds."""


class StoreMethods:
    """Answers `stores`.

    Args:
        healths: Those of the configured stores by name.
    """

    def __init__(self, parts: MoveParts, healths: Mapping[str, StoreHealth]) -> None:
        self._parts = parts
        self._healths = healths

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"stores": self.stores}

    async def stores(self) -> list[StoreUseReport]:
        """Return all configured stores, the default one first, and those that have objects."""
        parts = self._parts
        named = dict.fromkeys([*parts.config.stores, *await parts.engine.list_stores()])
        counted = {name: await self._count(name) for name in named}
        usage = await parts.engine.usage()
        rest = (
            usage.remote_count - sum(count for count, _ in counted.values()),
            usage.remote_bytes - sum(size for _, size in counted.values()),
        )
        found = [await self._report("", *rest)] if parts.remote is not None else []
        return found + [await self._report(name, *counted[name]) for name in named]

    async def _count(self, name: str) -> tuple[int, int]:
        form_count, stored_bytes, after = 0, 0, None
        while True:
            found = await self._parts.engine.count_stored(name, after, FORMS_A_SLICE)
            form_count += found.form_count
            stored_bytes += found.stored_bytes
            if (after := found.until) is None:
                return form_count, stored_bytes
            await trio.lowlevel.checkpoint()

    async def _report(self, name: str, form_count: int, stored_bytes: int) -> StoreUseReport:
        parts = self._parts
        configured = not name or name in parts.config.stores
        url = None
        if configured and parts.remote is not None:
            url = parts.remote.of(address_of(name, "")).url
        elif (known := await recall_store(parts.engine, name)) is not None:
            url = url_without_secrets(known)
        health = self._healths.get(name) if configured else None
        return {
            "name": told_store(name),
            "url": url,
            "configured": configured,
            "well": None if health is None else health.well,
            "lasts_s": None if health is None else health.lasts_s,
            "reason": None if health is None else health.reason,
            "form_count": form_count,
            "stored_bytes": stored_bytes,
        }
