"""Reports: what the hot tier holds, in numbers, and only to those whom they concern.

Invariants:
- What is shown is derived from the pool when it is asked for.
- A report fits a packet, however many slabs and snapshots there are and whatever they are called.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from memfs.hot.pool import SlabState
from memfs.hot.protocol import PACKET_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence, Set

    from memfs.hot.loading import Loader
    from memfs.hot.pool import SlabInfo
    from memfs.hot.snapshots import SnapshotReport

T = TypeVar("T")

SLABS_BYTES_MAX = PACKET_BYTES_MAX // 2
SNAPSHOTS_BYTES_MAX = PACKET_BYTES_MAX // 4
"""Limit of the lists in a report; the rest is for devices and numbers."""

SNAPSHOTS_A_SLAB_MAX = 4
"""Names that are shown beside a slab; a name has up to 1.5 KiB in JSON."""


def describe_pool(loader: Loader) -> dict[str, object]:
    """Return devices and counters as values of JSON; they concern all users alike."""
    slabs = list(loader.pool)
    return {
        "devices": [_describe_device(loader, uuid, slabs) for uuid in loader.devices],
        "loaded_count": loader.loaded_count,
        "loaded_bytes": loader.loaded_bytes,
        "evicted_count": loader.evicted_count,
        "refused_count": loader.refused_count,
    }


def list_slabs(slabs: Iterable[SlabInfo], snapshots: Set[str]) -> list[dict[str, object]]:
    """Return slabs as values of JSON, the largest first, as many as fit.

    Args:
        snapshots: Names that may be shown beside them.
    """
    ordered = sorted(slabs, key=lambda slab: -slab.size_bytes)
    return _fitting(ordered, lambda slab: _describe_slab(slab, snapshots), SLABS_BYTES_MAX)


def list_snapshots(snapshots: Sequence[SnapshotReport]) -> list[dict[str, object]]:
    """Return snapshots as values of JSON, the largest first, as many as fit."""
    ordered = sorted(snapshots, key=lambda snapshot: -snapshot.size_bytes)
    return _fitting(ordered, lambda snapshot: snapshot._asdict(), SNAPSHOTS_BYTES_MAX)


def _fitting(
    items: Iterable[T], describe: Callable[[T], dict[str, object]], room_bytes: int
) -> list[dict[str, object]]:
    rows = []
    for item in items:
        row = describe(item)
        room_bytes -= len(json.dumps(row))
        if room_bytes < 0:
            break
        rows.append(row)
    return rows


def _describe_device(loader: Loader, uuid: str, slabs: Sequence[SlabInfo]) -> dict[str, object]:
    device, pool = loader.devices[uuid], loader.pool
    here = [slab for slab in slabs if slab.device == uuid]
    memory = device.memory()
    return {
        "uuid": uuid,
        "name": device.name,
        "kind": device.kind,
        "capacity_bytes": pool.limit_bytes(uuid),
        "used_bytes": pool.used_bytes(uuid),
        "pinned_bytes": sum(slab.size_bytes for slab in here if slab.pinned),
        "leased_bytes": sum(slab.size_bytes for slab in here if slab.lease_count),
        "lingering_bytes": sum(slab.size_bytes for slab in here if slab.state == SlabState.DOOMED),
        "snapshot_bytes": sum(slab.size_bytes for slab in here if slab.snapshots),
        "free_bytes": memory.free_bytes,
        "total_bytes": memory.total_bytes,
    }


def _describe_slab(slab: SlabInfo, snapshots: Set[str]) -> dict[str, object]:
    return {
        "ino": slab.key.ino,
        "generation": slab.key.generation,
        "dtype": slab.key.dtype or None,
        "layout": slab.key.layout or None,
        "device": slab.device,
        "size_bytes": slab.size_bytes,
        "state": slab.state.value,
        "pinned": slab.pinned,
        "priority": slab.priority,
        "leases": slab.lease_count,
        "snapshots": sorted(slab.snapshots & snapshots)[:SNAPSHOTS_A_SLAB_MAX],
    }
