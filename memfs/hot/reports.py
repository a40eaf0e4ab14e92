"""Reports: what the hot tier holds, in numbers.

Invariant: what is shown is derived from the pool when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.hot.pool import EntryState

if TYPE_CHECKING:
    from memfs.hot.loading import Loader
    from memfs.hot.pool import Entry

ENTRIES_SHOWN_MAX = 200
"""The largest slabs are listed, so that a report fits a packet."""


def describe_pool(loader: Loader) -> dict[str, object]:
    """Return devices, slabs and counters as values of JSON."""
    entries = sorted(loader.pool, key=lambda entry: -entry.size_bytes)
    return {
        "devices": [_describe_device(loader, uuid, entries) for uuid in loader.devices],
        "slab_count": len(entries),
        "lease_count": sum(entry.lease_count for entry in entries),
        "loaded_count": loader.loaded_count,
        "loaded_bytes": loader.loaded_bytes,
        "evicted_count": loader.evicted_count,
        "refused_count": loader.refused_count,
        "slabs": [_describe_entry(entry) for entry in entries[:ENTRIES_SHOWN_MAX]],
    }


def _describe_device(loader: Loader, uuid: str, entries: list[Entry]) -> dict[str, object]:
    device, pool = loader.devices[uuid], loader.pool
    here = [entry for entry in entries if entry.device == uuid]
    memory = device.memory()
    return {
        "uuid": uuid,
        "name": device.name,
        "kind": device.kind,
        "budget_bytes": pool.limit_bytes(uuid),
        "used_bytes": pool.used_bytes(uuid),
        "pinned_bytes": sum(entry.size_bytes for entry in here if entry.pinned),
        "leased_bytes": sum(entry.size_bytes for entry in here if entry.lease_count),
        "lingering_bytes": sum(
            entry.size_bytes for entry in here if entry.state == EntryState.DOOMED
        ),
        "snapshot_bytes": sum(entry.size_bytes for entry in here if entry.snapshots),
        "free_bytes": memory.free_bytes,
        "total_bytes": memory.total_bytes,
    }


def _describe_entry(entry: Entry) -> dict[str, object]:
    return {
        "ino": entry.key.ino,
        "generation": entry.key.generation,
        "dtype": entry.key.dtype or None,
        "layout": entry.key.layout or None,
        "device": entry.device,
        "size_bytes": entry.size_bytes,
        "state": entry.state.value,
        "pinned": entry.pinned,
        "priority": entry.priority,
        "leases": entry.lease_count,
        "snapshots": sorted(entry.snapshots),
    }
