"""The answers of the control socket about the whole mount.

Invariant: an answer is bounded work: totals are kept by their owners, lists stop at a limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import TYPE_CHECKING, NamedTuple, cast

import trio

from memfs import __version__
from memfs.addresses import address_of
from memfs.content.space import measure_cold_space
from memfs.control.report import (
    COUNT_MAX,
    CodecReport,
    DatabaseReport,
    DriverReport,
    ElementsReport,
    ExportReport,
    FieldIndexReport,
    IndexReport,
    ListingReport,
    NamedStoreReport,
    PendingReport,
    PrefetchReport,
    PricesReport,
    QuotaReport,
    SnapshotsReport,
    StatusReport,
    StoreReport,
    TierReport,
    UnpublishedReport,
    WorkReport,
)
from memfs.control.typed import decode
from memfs.errors import StaleInodeError
from memfs.jobs.exports import export_report
from memfs.sizes import format_size
from memfs.types import READER, Tier
from memfs_daemon.limits import anonymous_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from memfs.config import Config, QueryConfig
    from memfs.content.residency import Residency
    from memfs.content.room import Room
    from memfs.content.sources import Sources
    from memfs.content.space import ColdSpace
    from memfs.control.methods.mount import FrozenReport, PingReport
    from memfs.control.protocol import JsonValue
    from memfs.control.server import Handler
    from memfs.encryption.keys import KeyRing
    from memfs.exports.exporter import Exporter
    from memfs.hot.board import HotBoard
    from memfs.jobs.lost_objects import LostObjects
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import PendingMove, Usage
    from memfs.metadata.shared.log import Log, LogReport
    from memfs.metadata.shared.writer import Writer
    from memfs.moves.held_objects import HeldObjects
    from memfs.moves.tally import CompressionTally
    from memfs.placement.prefetch.prefetcher import Prefetcher
    from memfs.placement.quotas import Quotas
    from memfs.stores.health import StoreHealth
    from memfs.stores.lost_found import LostFound
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo
    from memfs_daemon.policy import PolicyMethods

PENDING_SHOWN = 5
"""Waiting moves in a status report; `pending` tells them all."""


class StatusParts(NamedTuple):
    """What a mount's status is read from."""

    mountpoint: Path
    state_dir: Path
    config: Config
    engine: Engine
    residency: Residency
    remote: RemoteStore | None
    prefetcher: Prefetcher
    quotas: Quotas
    policy: PolicyMethods
    tally: CompressionTally
    keys: KeyRing
    describe_driver: Callable[[], DriverReport]
    hot: HotBoard | None
    lost_found: LostFound
    healths: Mapping[str, StoreHealth]
    """Those of the stores by name; that of the default one is empty."""
    count_queued: Callable[[], int]
    """Moves that are decided and not begun."""
    room: Room | None = None
    """Holds writers back; None: nobody is."""
    store_elsewhere: bool = True
    """As of `MoveParts`."""
    exporter: Exporter | None = None
    """None: there is no store but one in the state directory."""
    lost_objects: LostObjects | None = None
    """What the stores have lost; None: nobody looks."""
    sources: Sources | None = None
    """None: nothing is adopted here."""
    writer: Writer | None = None
    """Sends changes to the database of the mount; None: there is no such one."""
    log: Log | None = None
    """What another node writes; None: this one does."""
    held_objects: HeldObjects | None = None
    """As of `MoveParts`."""
    unpublished: Mapping[InodeNo, str] = {}
    """As of `MoveParts`."""


def index_report(engine: Engine, config: QueryConfig) -> IndexReport:
    """Return how complete the index of xattrs is."""
    progress = engine.index_progress()
    return IndexReport(
        config.enabled,
        progress.is_whole,
        progress.through,
        progress.last,
        progress.name_count,
        progress.is_short_of_names,
        ElementsReport(*engine.element_progress()),
    )


def field_reports(engine: Engine) -> tuple[FieldIndexReport, ...]:
    """Return how complete the indexes are that were added."""
    return tuple(
        FieldIndexReport(index.field, index.state.value, index.through, index.last)
        for index in engine.field_indexes()
    )


class Status:
    """Answers `ping`, `status`, `pending` and `frozen`."""

    def __init__(self, parts: StatusParts) -> None:
        self._parts = parts
        self._started_s = time.monotonic()

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "ping": self.ping,
            "status": self.status,
            "pending": self.pending,
            "frozen": self.frozen,
        }

    async def ping(self) -> PingReport:
        """Say who is there."""
        return {"pid": os.getpid(), "mountpoint": os.fspath(self._parts.mountpoint)}

    async def frozen(self) -> list[FrozenReport]:
        """Return the frozen directories, by path."""
        engine = self._parts.engine
        found: list[FrozenReport] = []
        for tree in await engine.list_frozen():
            # An import of an instant before the directory was made has not got it.
            with contextlib.suppress(StaleInodeError):
                path = os.fsdecode(await engine.get_path(tree.ino))
                found.append({"path": path, "thawing": tree.is_thawing})
        return sorted(found, key=lambda each: each["path"])

    async def status(self) -> StatusReport:
        """Return the `StatusReport`."""
        parts = self._parts
        usage = await parts.engine.usage()
        return StatusReport(
            version=__version__,
            mountpoint=os.fspath(parts.mountpoint),
            state_dir=os.fspath(parts.state_dir),
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started_s,
            memory_bytes=anonymous_bytes(),
            inode_count=usage.inode_count,
            logical_bytes=usage.logical_bytes,
            driver=parts.describe_driver(),
            store_url=parts.remote.url if parts.remote is not None else None,
            store=self._store(""),
            stores=self._named_stores(),
            tiers=self.tiers(usage),
            work=await self._work(usage),
            codecs=_codecs(parts.tally),
            keys=tuple(parts.keys.ids),
            prefetch=decode(PrefetchReport, cast("JsonValue", parts.prefetcher.status())),
            policy=parts.policy.report(),
            quotas=_quotas(parts.quotas),
            xattr_index=index_report(parts.engine, parts.config.query),
            field_indexes=field_reports(parts.engine),
            snapshots=await self._snapshots(),
            export=self._export(),
            database=self._database(),
            prices=PricesReport(**dataclasses.asdict(parts.config.prices)),
            listings=await self._listings(),
            unpublished=self._unpublished(),
        )

    def _unpublished(self) -> UnpublishedReport | None:
        waiting = self._parts.unpublished
        if not waiting:
            return None
        return UnpublishedReport(len(waiting), next(iter(waiting.values())))

    async def _listings(self) -> tuple[ListingReport, ...]:
        waiting = {} if self._parts.sources is None else self._parts.sources.waiting
        if not waiting:
            return ()
        return tuple(
            ListingReport(each.url, waiting[each.source])
            for each in await self._parts.engine.list_sources()
            if each.source in waiting
        )

    def _database(self) -> DatabaseReport | None:
        if (log := self._parts.log) is not None:
            return _of_reader(log.report())
        if (writer := self._parts.writer) is None:
            return None
        report = writer.report()
        since = report.cut_off_since
        return DatabaseReport(
            report.node,
            report.database,
            report.connected,
            None if since is None else max(0.0, time.time() - since),
            report.reason,
            report.unconfirmed_count,
            report.unconfirmed_bytes,
            report.unconfirmed_age_s,
            report.group_count,
            report.entry_count,
            dict(report.retries),
        )

    def _export(self) -> ExportReport | None:
        exporter, lost = self._parts.exporter, self._parts.lost_objects
        if exporter is None:
            return None
        return export_report(exporter, () if lost is None else lost.report())

    async def pending(self, limit: int = COUNT_MAX) -> list[PendingReport]:
        """Return the moves that wait, those due first.

        Args:
            limit: At most so many, and never more than `COUNT_MAX`.
        """
        moves = await self._parts.engine.list_pending(None, min(max(limit, 0), COUNT_MAX))
        return await self._describe(moves)

    async def _snapshots(self) -> SnapshotsReport:
        usage = await self._parts.engine.snapshot_usage()
        newest_ns = usage.newest_ns
        return SnapshotsReport(
            snapshot_count=usage.snapshot_count,
            newest_s=None if newest_ns is None else max(0.0, (time.time_ns() - newest_ns) / 1e9),
            leaving_count=usage.leaving_count,
            kept_count=usage.kept_raw_count,
            kept_bytes=usage.kept_raw_bytes,
        )

    def _named_stores(self) -> tuple[NamedStoreReport, ...]:
        remote = self._parts.remote
        if remote is None:
            return ()
        return tuple(
            NamedStoreReport(name, remote.of(address_of(name, "")).url, self._store(name))
            for name in self._parts.config.stores
        )

    def _store(self, name: str) -> StoreReport | None:
        if self._parts.remote is None:
            return None
        health = self._parts.healths[name]
        return StoreReport(health.well, health.lasts_s, health.reason)

    def tiers(self, usage: Usage) -> tuple[TierReport, ...]:
        """Return how full the tiers are; of the disk only statfs(2) is asked."""
        parts = self._parts
        space = measure_cold_space(parts.state_dir, parts.config.cold, usage)
        warm = TierReport(
            tier=Tier.WARM.label,
            capacity_bytes=parts.residency.capacity_bytes,
            used_bytes=parts.residency.used_bytes,
            file_count=parts.residency.held_count,
            note=parts.residency.note,
        )
        cold = TierReport(
            tier=Tier.COLD.label,
            capacity_bytes=space.capacity_bytes,
            used_bytes=space.used_bytes,
            file_count=usage.raw_count + usage.packed_count,
            note=self._cold_note(space),
        )
        glacier = TierReport(
            tier=Tier.GLACIER.label,
            capacity_bytes=None,
            used_bytes=usage.remote_bytes,
            file_count=usage.remote_count,
            note=self._glacier_note(),
            is_on=self._parts.remote is not None,
        )
        return *self._hot_tier(), warm, cold, glacier

    def _glacier_note(self) -> str | None:
        """Return why moving files there does not do what one would expect."""
        if self._parts.remote is None:
            return "turned off"
        if not self._parts.store_elsewhere:
            return (
                "lies on the disk of the state directory: moving files there frees only what "
                "compression saves; name another disk or a bucket by glacier.url"
            )
        return None

    def _hot_tier(self) -> tuple[TierReport, ...]:
        """Return the hot tier, if one is configured."""
        board = self._parts.hot
        if board is None:
            return ()
        devices = board.server.devices if board.server is not None else ()
        report = TierReport(
            tier=Tier.HOT.label,
            capacity_bytes=sum(device.capacity_bytes for device in devices),
            used_bytes=sum(each.size_bytes for each in board.residents.values()),
            file_count=len(board.residents),
            note=board.note,
        )
        return (report,)

    def _cold_note(self, space: ColdSpace) -> str | None:
        """Return why a full disk tier stays full, or who waits until it is less so."""
        if (room := self._parts.room) is not None and room.held_back_count:
            return (
                f"{room.held_back_count} requests of programs that write are held back: less than "
                f"{format_size(room.floor_bytes)} are free, and files are on their way to the store"
            )
        high_bytes = int(space.capacity_bytes * self._parts.config.cold.high_watermark)
        if space.used_bytes <= high_bytes:
            return None
        beyond = f"beyond its high watermark of {format_size(high_bytes)}: "
        if self._parts.remote is None:
            return (
                f"{beyond}what shrinks is packed, the rest can go nowhere without a glacier tier; "
                "turn that on, remove files or raise cold.size"
            )
        if all(health.well is False for health in self._parts.healths.values()):
            return f"{beyond}files leave it when the object store answers again"
        return f"{beyond}files leave it, but for those that are open, pinned or held by a quota"

    async def _work(self, usage: Usage) -> WorkReport:
        engine = self._parts.engine
        counts = await engine.count_work(COUNT_MAX)
        pending = await engine.list_pending(None, PENDING_SHOWN)
        lost = await trio.to_thread.run_sync(self._parts.lost_found.usage)
        held = self._parts.held_objects
        return WorkReport(
            unsealed_count=counts.unsealed_count,
            not_durable_count=counts.not_durable_count,
            intent_count=counts.intent_count,
            pending_count=counts.pending_count,
            garbage_count=usage.garbage_count,
            pending=tuple(await self._describe(pending)),
            queued_count=self._parts.count_queued(),
            lost_count=lost.count,
            lost_bytes=lost.bytes,
            needed_count=0 if held is None else await engine.count_held(held.held_from),
        )

    async def _describe(self, moves: Sequence[PendingMove]) -> list[PendingReport]:
        now_ns = time.time_ns()
        reports = []
        for move in moves:
            try:
                path = await self._parts.engine.get_path(move.ino)
            except StaleInodeError:
                # It was removed since it was listed.
                continue
            reports.append(
                PendingReport(
                    path=os.fsdecode(path),
                    wanted=move.wanted.label,
                    reason=move.reason,
                    attempt_count=move.attempt_count,
                    retry_s=max(0.0, (move.retry_ns - now_ns) / 1e9),
                    since=_instant(move.since_ns) if move.since_ns else None,
                    code=move.code,
                    until=_instant(move.until_ns) if move.until_ns else None,
                )
            )
        return reports


def _of_reader(report: LogReport) -> DatabaseReport:
    since = report.behind_since
    return DatabaseReport(
        node=report.node,
        address=report.database,
        connected=report.connected,
        cut_off_s=None if since is None else max(0.0, time.time() - since),
        reason=report.reason,
        unconfirmed_count=0,
        unconfirmed_bytes=0,
        unconfirmed_age_s=0.0,
        group_count=0,
        change_count=0,
        retries={},
        role=READER,
        writer=report.writer,
        applied=report.applied,
        lag_count=max(0, report.writer_seq - report.applied),
        is_left_behind=report.is_left_behind,
    )


def _instant(now_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ns // 1_000_000_000))


def _quotas(quotas: Quotas) -> tuple[QuotaReport, ...]:
    return tuple(
        QuotaReport(str(use.spent), use.limit, use.used, use.reserved, use.frees_s)
        for use in quotas.uses()
    )


def _codecs(tally: CompressionTally) -> tuple[CodecReport, ...]:
    totals = sorted(tally.totals().items())
    return tuple(CodecReport(codec, **dataclasses.asdict(total)) for codec, total in totals)
