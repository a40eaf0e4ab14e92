"""Readings: all numbers of a ring's row, as they are now.

Invariant: they are taken within some milliseconds, without a look at the disk but statfs(2), so
that an idle one stays asleep.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from memfs.control.report import PrefetchReport
from memfs.control.typed import decode
from memfs.metrics.numbers import kind_of
from memfs_daemon.limits import anonymous_bytes

if TYPE_CHECKING:
    from memfs.content.activity import Activity
    from memfs.control.protocol import JsonValue
    from memfs.metrics.latency import Latencies
    from memfs.metrics.traffic import Traffic
    from memfs.stores.counts import StoreCounts
    from memfs_daemon.stalls import Stalls
    from memfs_daemon.status import Status, StatusParts

PENDING_COUNT_MAX = 500
"""Waiting moves that are told apart by what they wait for: some 2 ms."""
WORK_COUNT_MAX = 1000
"""Work lists are counted so far: some 0.1 ms."""


class Readings:
    """Takes the numbers of one mount.

    Args:
        parts: As the status has them.
        status: Knows how full the tiers are.
        activity: Counts requests.
        traffic: Counts opens and moves.
        store: Counts calls of the object store.
        latencies: Counts requests by their duration.
        stalls: Counts those of the event loop.
    """

    def __init__(
        self,
        parts: StatusParts,
        status: Status,
        activity: Activity,
        traffic: Traffic,
        store: StoreCounts,
        latencies: Latencies,
        stalls: Stalls,
    ) -> None:
        self._parts = parts
        self._status = status
        self._activity = activity
        self._traffic = traffic
        self._store = store
        self._latencies = latencies
        self._stalls = stalls

    async def take(self) -> dict[str, int]:
        """Return states as of now, and what happened since the daemon started."""
        numbers = await self._states()
        numbers |= await self._pending()
        numbers |= self._opens_and_moves()
        numbers |= self._durations()
        store = self._store
        prefetch = decode(PrefetchReport, cast("JsonValue", self._parts.prefetcher.status()))
        totals = self._parts.tally.totals().values()
        return numbers | {
            "requests": self._activity.request_count,
            "user_writes": self._traffic.user_write_count,
            "stalls": self._stalls.count,
            "stalled_ms": int(self._stalls.total_s * 1000),
            "store_requests": store.requests.total(),
            "store_errors": store.errors.total(),
            "store_sent_bytes": store.sent_bytes,
            "store_received_bytes": store.received_bytes,
            "prefetch_hits": sum(source.hit_count for source in prefetch.sources),
            "prefetch_wasted": sum(source.wasted_count for source in prefetch.sources),
            "prefetched_bytes": prefetch.fetched_bytes,
            "codec_content_bytes": sum(each.content_bytes for each in totals),
            "codec_stored_bytes": sum(each.stored_bytes for each in totals),
        }

    async def _states(self) -> dict[str, int]:
        parts = self._parts
        usage = await parts.engine.usage()
        work = await parts.engine.count_work(WORK_COUNT_MAX)
        snapshots = await parts.engine.snapshot_usage()
        numbers = {
            "inodes": usage.inode_count,
            "logical_bytes": usage.logical_bytes,
            "raw_bytes": usage.raw_bytes,
            "packed_bytes": usage.packed_bytes,
            "remote_bytes": usage.remote_bytes,
            "kept_bytes": snapshots.kept_raw_bytes,
            "snapshots": snapshots.snapshot_count,
            "pending": work.pending_count,
            "queued": parts.count_queued(),
            "not_durable": work.not_durable_count,
            "memory_bytes": anonymous_bytes(),
            "store_down": sum(health.well is False for health in parts.healths.values()),
        }
        for tier in self._status.tiers(usage):
            numbers[f"used.{tier.tier}"] = tier.used_bytes
            numbers[f"files.{tier.tier}"] = tier.file_count
            numbers[f"capacity.{tier.tier}"] = tier.capacity_bytes or 0
        return numbers

    async def _pending(self) -> dict[str, int]:
        waiting = await self._parts.engine.list_pending(None, PENDING_COUNT_MAX)
        codes = Counter(move.code for move in waiting)
        return {f"pending.{code}": count for code, count in codes.items()}

    def _opens_and_moves(self) -> dict[str, int]:
        numbers = {}
        for level, opens in self._traffic.opens().items():
            numbers[f"opens.{level}"] = opens.file_count
            numbers[f"opened_bytes.{level}"] = opens.bytes
        for (source, target), moves in self._traffic.moves().items():
            numbers[f"moves.{source}.{target}"] = moves.file_count
            numbers[f"moved_bytes.{source}.{target}"] = moves.bytes
        return numbers

    def _durations(self) -> dict[str, int]:
        numbers: Counter[str] = Counter()
        for operation, counts in self._latencies.counts().items():
            kind = kind_of(operation)
            if kind is not None:
                for bucket, count in enumerate(counts):
                    numbers[f"took.{kind}.{bucket}"] += count
        return dict(numbers)
