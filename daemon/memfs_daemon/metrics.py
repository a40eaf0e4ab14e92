"""The answer of the control socket about metrics: every number of the table, as of now.

Invariant: an answer is bounded work, as that of the status, which most of it is made of.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from memfs.metadata.foreign import Conflict
from memfs.metrics import table
from memfs.metrics.text import Histogram, Sample, render
from memfs.stores.counts import Call
from memfs.types import READER, PendingCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from memfs.control.methods.mount import MetricsReport
    from memfs.control.report import DatabaseReport, StatusReport
    from memfs.control.server import Handler
    from memfs.metadata.local import Local
    from memfs.metadata.records import Usage
    from memfs.metrics.latency import Latencies
    from memfs.metrics.sources import SourceCounts
    from memfs.metrics.traffic import Traffic
    from memfs.moves.progress import ProgressTable
    from memfs.stores.counts import StoreCounts
    from memfs_daemon.stalls import Stalls

PENDING_COUNT_MAX = 2000
"""Waiting moves that are told apart by what they wait for: some 10 ms."""


class MetricsMethods:
    """Answers `metrics`.

    Args:
        engine: Has the moves that wait.
        status: Makes the status report.
        progress: The moves under way.
        traffic: Opens and moves so far.
        store: Calls of the object store so far.
        latencies: Durations of requests so far.
        stalls: Those of the event loop so far.
        sources: What went on with adopted files so far.
        commits: Durations of transactions of the mount's database so far.
    """

    def __init__(
        self,
        engine: Local,
        status: Callable[[], Awaitable[StatusReport]],
        progress: ProgressTable,
        traffic: Traffic,
        store: StoreCounts,
        latencies: Latencies,
        stalls: Stalls,
        sources: SourceCounts,
        commits: Latencies,
    ) -> None:
        self._engine = engine
        self._status = status
        self._progress = progress
        self._traffic = traffic
        self._store = store
        self._latencies = latencies
        self._stalls = stalls
        self._sources = sources
        self._commits = commits

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {"metrics": self.metrics}

    async def metrics(self) -> MetricsReport:
        """Return the text."""
        report = await self._status()
        return {"text": render(await self.samples(report), report.mountpoint)}

    async def samples(self, report: StatusReport) -> list[Sample]:
        """Return all numbers as of now; most of them are in the report."""
        waiting = await self._engine.list_pending(None, PENDING_COUNT_MAX)
        codes = Counter(move.code for move in waiting)
        return [
            *_of_mount(report),
            Sample(table.STALLS, self._stalls.count),
            Sample(table.STALLED, self._stalls.total_s),
            *_of_tiers(report),
            *_of_forms(await self._engine.usage()),
            *_of_traffic(self._traffic),
            *_of_work(report),
            Sample(table.RUNNING, self._progress.sum()[0]),
            *(Sample(table.PENDING, codes[code], (code,)) for code in PendingCode),
            *_of_store(report, self._store),
            *_of_sources(self._sources),
            *_of_quotas(report),
            *_of_prefetch(report),
            *_of_codecs(report),
            *_of_snapshots(report),
            *_of_database(report.database, self._commits),
            *self._durations(),
        ]

    def _durations(self) -> Iterator[Sample]:
        sums_ns = self._latencies.sums_ns()
        for operation, counts in self._latencies.counts().items():
            histogram = Histogram(counts, sums_ns[operation])
            yield Sample(table.REQUEST_DURATION, histogram, (operation,))


def _of_mount(report: StatusReport) -> Iterator[Sample]:
    yield Sample(table.INFO, 1, (report.version, report.driver.name))
    yield Sample(table.UPTIME, report.uptime_s)
    yield Sample(table.MEMORY, report.memory_bytes)
    yield Sample(table.INODES, report.inode_count)
    yield Sample(table.LOGICAL, report.logical_bytes)


def _of_tiers(report: StatusReport) -> Iterator[Sample]:
    for tier in report.tiers:
        label = (tier.tier,)
        if tier.capacity_bytes is not None:
            yield Sample(table.TIER_CAPACITY, tier.capacity_bytes, label)
        yield Sample(table.TIER_USED, tier.used_bytes, label)
        yield Sample(table.TIER_FILES, tier.file_count, label)


def _of_forms(usage: Usage) -> Iterator[Sample]:
    for form, size, count in (
        ("raw", usage.raw_bytes, usage.raw_count),
        ("packed", usage.packed_bytes, usage.packed_count),
        ("remote", usage.remote_bytes, usage.remote_count),
    ):
        yield Sample(table.FORM_BYTES, size, (form,))
        yield Sample(table.FORM_FILES, count, (form,))


def _of_traffic(traffic: Traffic) -> Iterator[Sample]:
    for level, opens in traffic.opens().items():
        yield Sample(table.OPENS, opens.file_count, (level,))
        yield Sample(table.OPENED, opens.bytes, (level,))
    yield Sample(table.USER_WRITES, traffic.user_write_count)
    for edge, moves in traffic.moves().items():
        yield Sample(table.MOVES, moves.file_count, edge)
        yield Sample(table.MOVED, moves.bytes, edge)


def _of_work(report: StatusReport) -> Iterator[Sample]:
    work = report.work
    yield Sample(table.QUEUED, work.queued_count)
    yield Sample(table.UNSEALED, work.unsealed_count)
    yield Sample(table.NOT_DURABLE, work.not_durable_count)
    yield Sample(table.GARBAGE, work.garbage_count)
    yield Sample(table.LOST, work.lost_count)


def _of_store(report: StatusReport, store: StoreCounts) -> Iterator[Sample]:
    if report.store is None:
        return
    if report.store.well is not None:
        yield Sample(table.STORE_UP, int(report.store.well))
    for call in Call:
        yield Sample(table.STORE_CALLS, store.requests[call], (call,))
        yield Sample(table.STORE_ERRORS, store.errors[call], (call,))
    yield Sample(table.STORE_SENT, store.sent_bytes)
    yield Sample(table.STORE_RECEIVED, store.received_bytes)


def _of_database(database: DatabaseReport | None, commits: Latencies) -> Iterator[Sample]:
    if database is None:
        return
    yield Sample(table.DATABASE_UP, int(database.cut_off_s is None))
    yield Sample(table.DATABASE_CUT_OFF, database.cut_off_s or 0.0)
    if database.role == READER:
        yield Sample(table.READER_APPLIED, database.applied)
        yield Sample(table.READER_LAG, database.lag_count)
        return
    yield Sample(table.DATABASE_UNCONFIRMED, database.unconfirmed_count)
    yield Sample(table.DATABASE_UNCONFIRMED_AGE, database.unconfirmed_age_s)
    yield Sample(table.DATABASE_GROUPS, database.group_count)
    yield Sample(table.DATABASE_CHANGES, database.change_count)
    for sqlstate, count in database.retries.items():
        yield Sample(table.DATABASE_RETRIES, count, (sqlstate,))
    sums_ns = commits.sums_ns()
    for name, counts in commits.counts().items():
        yield Sample(table.DATABASE_DURATION, Histogram(counts, sums_ns[name]))


def _of_sources(sources: SourceCounts) -> Iterator[Sample]:
    for conflict in Conflict:
        if conflict:
            yield Sample(table.SOURCE_CONFLICTS, sources.conflicts[conflict], (conflict,))
    yield Sample(table.SOURCE_FAILURES, sources.failed_listing_count)


def _of_quotas(report: StatusReport) -> Iterator[Sample]:
    for quota in report.quotas:
        label = (quota.quota,)
        yield Sample(table.QUOTA_LIMIT, quota.limit, label)
        yield Sample(table.QUOTA_USED, quota.used, label)
        yield Sample(table.QUOTA_RESERVED, quota.reserved, label)


def _of_prefetch(report: StatusReport) -> Iterator[Sample]:
    for source in report.prefetch.sources:
        label = (source.source,)
        yield Sample(table.GUESSES, source.issued_count, label)
        yield Sample(table.GUESSES_RIGHT, source.hit_count, label)
        yield Sample(table.GUESSES_WRONG, source.wasted_count, label)
        yield Sample(table.PRECISION, source.precision, label)
    yield Sample(table.FETCHED_FILES, report.prefetch.fetched_count)
    yield Sample(table.FETCHED_BYTES, report.prefetch.fetched_bytes)


def _of_codecs(report: StatusReport) -> Iterator[Sample]:
    for codec in report.codecs:
        yield Sample(table.CODEC_CONTENT, codec.content_bytes, (codec.codec,))
        yield Sample(table.CODEC_STORED, codec.stored_bytes, (codec.codec,))


def _of_snapshots(report: StatusReport) -> Iterator[Sample]:
    yield Sample(table.SNAPSHOTS, report.snapshots.snapshot_count)
    if report.snapshots.newest_s is not None:
        yield Sample(table.SNAPSHOT_AGE, report.snapshots.newest_s)
    yield Sample(table.SNAPSHOT_KEPT, report.snapshots.kept_bytes)
    if report.export is not None and report.export.age_s is not None:
        yield Sample(table.EXPORT_AGE, report.export.age_s)
