"""Metrics: use and size of the tiers of a mount, in the shape that programs expect.

Invariant: all four tiers are always there, whatever the mount has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memfs.client.placement import TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.control.report import StatusReport


def metrics_of(status: StatusReport) -> dict[str, dict[str, Any]]:
    """Return what a status says, tier by tier; see `MemoryManager.get_metrics`."""
    found = {tier: _tier(0, 0, 0) for tier in TIERS}
    for report in status.tiers:
        found[report.tier] = _tier(report.used_bytes, report.capacity_bytes or 0, report.file_count)
    found["total"] = _sum(found.values())
    found["moves"] = {
        "running": status.work.intent_count,
        "queued": status.work.queued_count,
        "waiting": status.work.pending_count,
    }
    found["snapshots"] = {
        "count": status.snapshots.snapshot_count,
        "kept_items": status.snapshots.kept_count,
        "kept_bytes": status.snapshots.kept_bytes,
    }
    return found


def _tier(usage_bytes: int, size_bytes: int, items: int) -> dict[str, Any]:
    return {
        "usage_bytes": usage_bytes,
        "size_bytes": size_bytes,
        "usage_percent": 100.0 * usage_bytes / size_bytes if size_bytes else 0.0,
        "items": items,
        "hit_ratio": None,
    }


def _sum(tiers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    sums = dict.fromkeys(("usage_bytes", "size_bytes", "items"), 0)
    for tier in tiers:
        for name in sums:
            sums[name] += tier[name]
    return _tier(sums["usage_bytes"], sums["size_bytes"], sums["items"])
