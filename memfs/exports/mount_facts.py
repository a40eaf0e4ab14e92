"""Facts of a mount that an export tells beside its parts.

Invariant: they are those of now, not of the instant of the export; no secret and no key is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.exports.places import StoreAddress
from memfs.metadata.records import IndexState
from memfs.metadata.store_record import recall_store
from memfs.moves.coding import key_of
from memfs.moves.publish_tokens import sender_of
from memfs.placement.resident import POOLS_SETTING
from memfs.types import FormKind
from memfs.urls import url_without_secrets

if TYPE_CHECKING:
    from memfs.moves.attempt import MoveParts


class MountFacts(NamedTuple):
    """Fields of a `Description`."""

    pools: str
    stores: tuple[StoreAddress, ...]
    indexes: tuple[str, ...]
    life: int


async def facts_of(parts: MoveParts) -> MountFacts:
    """Return the facts of a mount."""
    engine = parts.engine
    pools = (await engine.get_setting(POOLS_SETTING) or b"{}").decode()
    indexes = tuple(
        each.field for each in engine.field_indexes() if each.state is not IndexState.LEAVING
    )
    life = (await sender_of(engine)).number
    return MountFacts(pools, await _stores_of(parts), indexes, life)


async def _stores_of(parts: MoveParts) -> tuple[StoreAddress, ...]:
    """Return where the named stores are: those in use, and those that have objects yet."""
    configured = parts.config.stores
    found = []
    for name in sorted({*configured, *await parts.engine.list_stores()}):
        if (named := configured.get(name)) is not None:
            key = key_of(parts, FormKind.REMOTE, name)
            key_id = "" if key is None else key.id.hex()
            found.append(StoreAddress.of(name, named, key_id))
        elif known := await recall_store(parts.engine, name):
            found.append(StoreAddress(name, url_without_secrets(known)))
    return tuple(found)
