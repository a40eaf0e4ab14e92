"""Metrics: use and size of the tiers of a mount, in the shape that programs expect.

Invariant: all four tiers are always there, whatever the mount has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memfs.client.placement import TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.control.report import StatusReport

_OPENS = re.compile(r'^memfs_opens_total\{.*level="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)


def metrics_of(status: StatusReport, prometheus: str) -> dict[str, dict[str, Any]]:
    """Return what a mount tells, tier by tier; see `MemoryManager.get_metrics`.

    Args:
        prometheus: Its metrics in the text format.
    """
    found = {tier: _tier(0, 0, 0) for tier in TIERS}
    for report in status.tiers:
        found[report.tier] = _tier(report.used_bytes, report.capacity_bytes or 0, report.file_count)
    found["total"] = _sum(found.values())
    for tier, ratio in hit_ratios(prometheus).items():
        found[tier]["hit_ratio"] = ratio
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


def hit_ratios(prometheus: str) -> dict[str, float | None]:
    """Return by tier the share that it served of the opens that no faster one did; None: no opens.

    `total` has the share that did not wait for the object store. An attach to tensors in GPU memory
    goes through an open, which counts at its own level as well: `hot` has attaches as a share of
    all opens, and the other tiers are as if there was no GPU.
    """
    opens = {level: int(float(count)) for level, count in _OPENS.findall(prometheus)}
    served = {
        "warm": opens.get("warm", 0),
        "cold": opens.get("cold", 0) + opens.get("packed", 0),
        "glacier": opens.get("glacier", 0),
    }
    left = sum(served.values())
    ratios = {
        "total": 1 - served["glacier"] / left if left else None,
        "hot": min(1.0, opens.get("hot", 0) / left) if left else None,
    }
    for tier, count in served.items():
        ratios[tier] = count / left if left else None
        left -= count
    return ratios


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
