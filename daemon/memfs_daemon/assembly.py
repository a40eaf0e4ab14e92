"""All objects of a mount, built and wired in one place.

Invariant: every object gets what it needs by its constructor, from here; what was opened is closed
in the opposite order, whatever happens in between.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memfs.addresses import address_of
from memfs.codecs.registry import get_codec, parse_codec
from memfs.content.activity import Activity
from memfs.content.file_syncs import FileSyncs
from memfs.content.forms import FormReader
from memfs.content.invalidations import Invalidations
from memfs.content.kernel_cache import KernelCache
from memfs.content.opentable import OpenTable
from memfs.content.past import PastReader
from memfs.content.rawpool import RawPool
from memfs.content.residency import Residency
from memfs.content.room import Room
from memfs.content.sealing import Sealer
from memfs.content.sources import Sources, open_store
from memfs.control.methods.table import METHODS
from memfs.control.user_server import UserServer
from memfs.encryption.keys import load_keys
from memfs.errors import MemfsError, UsageError
from memfs.exit_codes import ExitCode
from memfs.exports.exporter import Exporter
from memfs.filesystem.at_hand import AtHand
from memfs.filesystem.door import Door
from memfs.filesystem.filesystem import Filesystem
from memfs.filesystem.inside.inside import Inside
from memfs.filesystem.querying import Querying
from memfs.filesystem.reading import ReadingFilesystem
from memfs.filesystem.recency import Recency
from memfs.filesystem.shared import Features, Parts
from memfs.filesystem.validity import ALONE, ValidityLimits
from memfs.hot.board import HotBoard
from memfs.hot.environment import child_environment
from memfs.jobs.adopting import AdoptMethods
from memfs.jobs.automatic_snapshots import SETTINGS_OF_NEW_STATE, AutomaticSnapshots
from memfs.jobs.cloning import CloneMethods
from memfs.jobs.comparing import Comparing
from memfs.jobs.exports import ExportMethods
from memfs.jobs.gc import GcMethods
from memfs.jobs.lost_objects import LostObjects
from memfs.jobs.prefetch import PrefetchMethods
from memfs.jobs.publish_following import Following
from memfs.jobs.publishing import Places, PublishMethods
from memfs.jobs.restoring import RestoreMethods
from memfs.jobs.scrubber import Scrubber
from memfs.jobs.snapshot_removal import SnapshotRemoval
from memfs.jobs.snapshots import SnapshotMethods, seal_all
from memfs.jobs.stores import StoreMethods
from memfs.jobs.trees import TreeMethods
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.migration import Migration
from memfs.metadata.sqlite.reader_process import ReaderProcess
from memfs.metrics.latency import Latencies
from memfs.metrics.traffic import Traffic
from memfs.moves.attempt import MoveParts
from memfs.moves.faults import FaultPoints
from memfs.moves.garbage import GarbageCollector
from memfs.moves.generation import StateGeneration
from memfs.moves.held_objects import HeldObjects
from memfs.moves.open_files import OpenFiles
from memfs.moves.recovery import Recovery
from memfs.moves.rescuing import Rescue
from memfs.placement.context import Context
from memfs.placement.mover import Mover
from memfs.placement.prefetch.prefetcher import Prefetcher
from memfs.placement.quotas import Quotas
from memfs.policy.access_stats import AccessStats
from memfs.policy.plugins import GuardedPlanner, load_planner
from memfs.prediction.predictor import Predictor
from memfs.stores.asking import AskingStore
from memfs.stores.counts import StoreCounts
from memfs.stores.health import StoreHealth, ask_at_mount
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.stores.remote import lies_on_disk_of, open_stores, together
from memfs.traces.recorder import Recorder
from memfs.types import READER
from memfs_daemon.activity import ActivityMethods
from memfs_daemon.driver_choice import build_driver
from memfs_daemon.heap_keeper import HeapKeeper
from memfs_daemon.history import History
from memfs_daemon.indexing import AttributeIndexer, FieldIndexer
from memfs_daemon.inside import InsideFiles
from memfs_daemon.kernel.backing import BackingRegistry
from memfs_daemon.live_policy import LivePolicy
from memfs_daemon.metrics import MetricsMethods
from memfs_daemon.policy import PolicyMethods
from memfs_daemon.precedence import Precedence
from memfs_daemon.querying import QueryMethods, UserQueryMethods
from memfs_daemon.readings import Readings
from memfs_daemon.remounting import RemountMethods
from memfs_daemon.roles import ReaderRole, Role, Work, readable
from memfs_daemon.small_files import SmallFileMethods
from memfs_daemon.stalls import Stalls
from memfs_daemon.status import Status, StatusParts
from memfs_daemon.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from memfs.config import Config, GlacierConfig, HotConfig, NamedStoreConfig, NodesConfig
    from memfs.control.report import PendingReport, StatusReport
    from memfs.control.server import Handler
    from memfs.encryption.keys import KeyRing
    from memfs.hot.headers import HeaderReader
    from memfs.metadata.engine import Engine
    from memfs.metadata.shared.log import Log
    from memfs.metadata.shared.writer import Writer
    from memfs.peers.client import PeerClient
    from memfs.peers.server import PeerServer
    from memfs.stores.store import RemoteStore
    from memfs.stores.together import StoreSet
    from memfs_daemon.driver import Driver
    from memfs_daemon.driver_choice import DriverChoice
    from memfs_daemon.options import MountOptions

log = logging.getLogger(__name__)

GLACIER_NAME = "glacier"
"""Directory of the default object store in the state directory."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of a mount that its life is led by; see `lifecycle`."""

    mountpoint: Path
    state_dir: Path
    engine: Engine
    writer: Writer | None
    """Sends changes to the database of the mount; None: there is no such one."""
    sealer: Sealer
    recovery: Recovery
    file_syncs: FileSyncs
    filesystem: Filesystem
    driver: Driver
    tracing: Tracing
    quotas: Quotas
    access_stats: AccessStats
    warm_bytes: int
    """Capacity of the RAM tier."""
    live_policy: LivePolicy
    linger_s: float | None
    """As `mount.linger` says."""
    glacier: GlacierConfig
    move_parts: MoveParts
    exporter: Exporter | None
    """None: there is no store, or it is lost with the state directory."""
    generations: Mapping[str, StateGeneration]
    """By the name of the store, of those that lie outside of the state directory."""
    stores: Mapping[str, NamedStoreConfig]
    """The named ones."""
    remote: RemoteStore | None
    take_stale_state: bool
    """As the mount option says."""
    methods: Mapping[str, Handler]
    """What the control socket answers, by name."""
    background: tuple[Callable[[], Awaitable[None]], ...]
    """Runs beside the requests until it is cancelled."""


class _Provider(Protocol):
    """What answers some methods of the control socket."""

    def methods(self) -> Mapping[str, Handler]: ...


class _OpenedEngine(NamedTuple):
    """An engine, and how it keeps in touch with the database of a shared mount."""

    engine: SqliteEngine
    writer: Writer | None = None
    log: Log | None = None
    """That of a node that reads; None: it writes, or is alone."""
    build_server: Callable[..., PeerServer | None] | None = None
    """Makes what answers other nodes, of what they may read."""
    client: PeerClient | None = None
    """Asks the node that writes."""


class _HotParts(NamedTuple):
    """What a hot tier adds; empty where it is missing."""

    providers: tuple[_Provider, ...]
    background: tuple[Callable[[], Awaitable[None]], ...]


@contextlib.contextmanager
def assemble(
    state_dir: Path,
    mountpoint: Path,
    config: Config,
    options: MountOptions,
    choice: DriverChoice,
    tell: Callable[[str], None],
) -> Iterator[Assembly]:
    """Open a state directory and yield all that serves it; closes it at the end of the block.

    Args:
        state_dir: Locked by this process.
        mountpoint: Absolute.
        options: Words for the kernel.
        choice: From `choose_driver`.
        tell: Told how far a migration of the state directory is, a sentence for users.

    Raises:
        UsageError: The configuration asks for what is not there, or the state is unusable.
    """
    _check_codecs(config)
    if config.hot.devices and config.hot.size_bytes is None:
        raise UsageError("hot.devices needs hot.size, the capacity of each device, such as 20GiB")
    planner = _load_planner(config)
    keys = load_keys(config, os.environ)
    if choice.refusal is not None:
        log.info("%s: no faster driver: %s", mountpoint, choice.refusal)
    with contextlib.ExitStack() as stack:
        commits = Latencies()
        opened = _open_engine(state_dir, config, keys, tell, commits, stack)
        engine, writer, reader_log = opened[:3]
        writes = reader_log is None
        stack.callback(engine.close)
        raw_store = RawStore(state_dir)
        stack.callback(raw_store.close)
        packed_store = PackedStore(state_dir)
        quotas = Quotas(config.quotas, engine, keeps=writes)
        traffic, store_counts = Traffic(), StoreCounts()
        latencies, stalls = Latencies(), Stalls()
        remote, generations, healths = _open_stores(
            state_dir, config, engine, packed_store, quotas, store_counts, reader_log
        )
        registry = BackingRegistry() if choice.name == "kernel" else None
        activity = Activity()
        raw_pool = RawPool(engine, raw_store, registry, lambda: activity.request_count)
        stack.callback(raw_pool.close)
        open_table = OpenTable(raw_store, registry)
        stack.callback(open_table.close)
        residency = Residency(raw_store, config.warm, traffic=traffic)
        stack.callback(residency.close)
        kernel_cache = KernelCache()
        invalidations = Invalidations(kernel_cache)
        sealer = Sealer(engine, raw_store, open_table, activity, kernel_cache)
        sealer.writes = writes
        file_syncs = FileSyncs(engine, raw_store, open_table, sealer)
        lost_found = LostFound(state_dir)
        room = Room(state_dir, config.cold.wait_for_room_s, activity.wake)
        move_parts = MoveParts(
            engine,
            raw_store,
            packed_store,
            remote,
            config,
            open_table,
            residency,
            file_syncs,
            sealer,
            lost_found,
            keys=keys,
            access_log=activity.access_log,
            traffic=traffic,
            room=room,
            # What a reader drops frees room wherever the store lies: its objects are another's.
            store_elsewhere=not writes
            or (
                remote is not None
                and any(not lies_on_disk_of(each, state_dir) for each in remote.each())
            ),
            writes=writes,
        )
        open_one = partial(open_store, config, os.environ, meter=quotas, counts=store_counts)
        sources = Sources(engine, open_one)
        move_parts.sources = sources
        if writer is not None:
            move_parts.held_objects = _hold_objects(writer, config.nodes)
        if "" in generations:
            # Until it is known what exports name.
            move_parts.held_from = 0
        garbage = GarbageCollector(move_parts)
        recovery = Recovery(move_parts)
        board = HotBoard() if config.hot.devices else None
        move_parts.hot = board
        access_stats = AccessStats(config.policy.promote_count, config.policy.promote_window_s)
        policy = PolicyMethods(engine, access_stats, planner, activity, residency.capacity_bytes)
        live_policy = LivePolicy(move_parts, access_stats, activity)
        door = Door()
        recency = None
        if reader_log is not None:
            options = options._replace(words=(*options.words, "ro"))
            recency = Recency(
                reader_log, engine, invalidations, note_snapshots=lambda: inside.note_deleted()
            )
            reader_log.tell = recency.tell
            if opened.client is not None:
                stack.callback(opened.client.close)
                recency.at_hand = AtHand(opened.client, move_parts, reader_log.barrier)
            move_parts.source = str(recency.refusal())
        features = _features(config, options, choice, residency)
        parts = Parts(
            engine=engine,
            raw_store=raw_store,
            raw_pool=raw_pool,
            open_table=open_table,
            sealer=sealer,
            file_syncs=file_syncs,
            activity=activity,
            residency=residency,
            move_parts=move_parts,
            garbage=garbage,
            recheck=recovery.recheck,
            form_reader=FormReader(
                engine, packed_store, remote, raw_store, keys=keys, sources=sources
            ),
            state_dir=state_dir,
            features=features,
            access_stats=access_stats,
            door=door,
            hot=board,
            header_reader=_header_reader(config.hot),
            healths=healths,
            invalidations=invalidations,
            validity_limits=ALONE if writes else ValidityLimits(missing_s=0.0),
            room=room,
            recency=recency,
        )
        peer_server = None
        if opened.build_server is not None:
            peer_server = opened.build_server(
                raw_store, parts.form_reader, open_table, sealer, file_syncs
            )
        filesystem = Filesystem(parts) if recency is None else ReadingFilesystem(parts, recency)

        async def tell_status() -> StatusReport:
            return await status.status()

        async def tell_pending() -> list[PendingReport]:
            return await status.pending()

        async def tell_metrics() -> str:
            return (await metrics.metrics())["text"]

        files = InsideFiles(lambda: move_parts.config, tell_status, tell_pending, tell_metrics)
        reader = ReaderProcess(engine, state_dir, child_environment(os.environ))
        querying = Querying(parts, reader)
        field_indexer = FieldIndexer(engine)
        inside = Inside(parts, files.producers(), querying.ask)
        stack.callback(inside.close)
        recorder = Recorder(activity.access_log, engine.get_path, config.trace.size_bytes_max)
        placement = Context.of(
            move_parts,
            garbage,
            recovery,
            activity,
            state_dir,
            access_stats=access_stats,
            quotas=quotas,
            planner=planner,
        )
        prefetcher = Prefetcher(placement, Predictor())
        driver, describe = build_driver(
            inside.mounted(filesystem),
            registry,
            mountpoint,
            config.mount,
            state_dir,
            options,
            choice,
            kernel_cache,
            latencies,
        )
        mover = Mover(placement, filesystem.finish_requests)
        scrubber = Scrubber(move_parts, quotas)
        removal = SnapshotRemoval(engine, inside.note_deleted)
        open_files = OpenFiles(move_parts)
        lost_objects = LostObjects(move_parts, quotas)
        exporter = _build_exporter(move_parts, reader, open_files, quotas, generations, config)
        snapshots = SnapshotMethods(move_parts, removal, open_files)
        automatic = AutomaticSnapshots(move_parts, snapshots, state_dir)
        adoption = AdoptMethods(filesystem, move_parts, quotas)
        tracing = Tracing(recorder, mountpoint, config.trace)
        status_parts = StatusParts(
            mountpoint,
            state_dir,
            config,
            engine,
            residency,
            remote,
            prefetcher,
            quotas,
            policy,
            move_parts.tally,
            keys,
            describe,
            board,
            lost_found,
            healths,
            mover.count_queued,
            room,
            move_parts.store_elsewhere,
            exporter,
            lost_objects,
            sources,
            writer,
            reader_log,
            move_parts.held_objects,
            move_parts.unpublished,
        )
        status = Status(status_parts)
        metrics = MetricsMethods(
            engine,
            status.status,
            move_parts.progress,
            traffic,
            store_counts,
            latencies,
            stalls,
            move_parts.source_counts,
            commits,
        )
        readings = Readings(
            status_parts, status, activity, traffic, store_counts, latencies, stalls
        )
        history = History(engine, readings.take, activity, move_parts.events, healths)
        places = Places(
            move_parts,
            os.environ,
            read_form=parts.form_reader.read,
            meter=quotas,
            counts=store_counts,
        )
        move_parts.published = places.fetch
        publishing = PublishMethods(move_parts, quotas, places)
        following = Following(
            move_parts, quotas, places, activity.changes, filesystem.list_on_demand
        )
        hot = _build_hot(config.hot, state_dir, board, move_parts, activity)
        providers: tuple[_Provider, ...] = (
            status,
            metrics,
            history,
            policy,
            live_policy,
            tracing,
            QueryMethods(engine, querying, reader, field_indexer, config.query),
            PrefetchMethods(engine, prefetcher, board),
            scrubber,
            TreeMethods(placement),
            StoreMethods(move_parts, healths),
            publishing,
            ActivityMethods(engine, activity, move_parts.progress),
            CloneMethods(filesystem, move_parts),
            adoption,
            RestoreMethods(filesystem, move_parts, snapshots),
            snapshots,
            Comparing(move_parts, PastReader(engine, raw_store, sealer, parts.form_reader)),
            GcMethods(
                move_parts,
                garbage,
                mover.compaction,
                None if exporter is None else exporter.stored,
                is_shared=config.metadata.url is not None,
            ),
            RemountMethods(features),
            ExportMethods(exporter),
            *hot.providers,
        )
        role = Role() if recency is None or reader_log is None else ReaderRole(reader_log, recency)
        user_methods = role.methods(
            (name, _confirmed(engine, method))
            for user_provider in (
                UserQueryMethods(querying, door),
                SmallFileMethods(filesystem, door, features),
            )
            for name, method in user_provider.methods().items()
        )
        yield Assembly(
            mountpoint=mountpoint,
            state_dir=state_dir,
            engine=engine,
            writer=writer,
            sealer=sealer,
            recovery=recovery,
            file_syncs=file_syncs,
            filesystem=filesystem,
            driver=driver,
            tracing=tracing,
            quotas=quotas,
            access_stats=access_stats,
            live_policy=live_policy,
            warm_bytes=residency.capacity_bytes,
            linger_s=config.mount.linger_s,
            glacier=config.glacier,
            generations=generations,
            stores=config.stores,
            exporter=exporter,
            move_parts=move_parts,
            remote=remote,
            take_stale_state=options.take_stale_state,
            methods=role.methods(
                (
                    (name, _confirmed(engine, method))
                    for provider in providers
                    for name, method in provider.methods().items()
                )
            ),
            background=role.background(
                (
                    Work("mover", mover.run),
                    Work("history", history.run),
                    Work("stalls", stalls.run),
                    Work("heap", HeapKeeper(lambda: activity.request_count).run),
                    Work("precedence", Precedence(lambda: activity.request_count).run),
                    Work("prefetch", prefetcher.run),
                    Work("traces", tracing.run),
                    Work("scrub", scrubber.run),
                    Work("removal of snapshots", removal.run),
                    Work("open files of snapshots", open_files.run),
                    Work("publishing", following.run),
                    *(
                        (Work("automatic snapshots", automatic.run),)
                        if config.snapshots.automatic
                        else ()
                    ),
                    Work("raw pool", raw_pool.run),
                    Work("adoption", adoption.run),
                    Work("questions", reader.run),
                    *((Work("peers", peer_server.run),) if peer_server is not None else ()),
                    Work("users", UserServer(door.address, user_methods, METHODS).run),
                    *(
                        (Work("index of xattrs", AttributeIndexer(engine).run),)
                        if config.query.enabled
                        else ()
                    ),
                    Work("indexes of fields", field_indexer.run),
                    *(
                        Work(
                            "store health",
                            partial(ask_at_mount, remote.of(address_of(name, "")), health),
                        )
                        for name, health in healths.items()
                        if remote is not None
                    ),
                    *(Work("generations", each.run) for each in generations.values()),
                    *(
                        (Work("exports", exporter.run), Work("lost objects", lost_objects.run))
                        if exporter is not None
                        else ()
                    ),
                    *(Work("hot tier", run) for run in hot.background),
                )
            ),
        )


def _build_exporter(
    parts: MoveParts,
    reader: ReaderProcess,
    open_files: OpenFiles,
    quotas: Quotas,
    generations: Mapping[str, StateGeneration],
    config: Config,
) -> Exporter | None:
    if (generation := generations.get("")) is None:
        return None
    seal = partial(seal_all, parts.sealer)
    confirm = generation.confirm_now
    return Exporter(parts, reader, open_files, quotas, seal, confirm, config.snapshots)


class _Stores(NamedTuple):
    """The object stores of a mount."""

    remote: StoreSet | None
    """All of them; None: there is no glacier tier."""
    generations: Mapping[str, StateGeneration]
    """By name, of those that lie outside of the state directory."""
    healths: Mapping[str, StoreHealth]


def _open_stores(
    state_dir: Path,
    config: Config,
    engine: Engine,
    packed_store: PackedStore,
    quotas: Quotas,
    counts: StoreCounts,
    reader_log: Log | None,
) -> _Stores:
    healths = {name: StoreHealth(name) for name in ("", *config.stores)}
    generations = {}
    objects_dir = state_dir / GLACIER_NAME
    opened = open_stores(config, objects_dir, os.environ, quotas, healths, counts)
    for name, store in opened.items():
        if reader_log is not None:
            opened[name] = readable(store, reader_log)
        elif config.store(name).url is not None:
            generation = StateGeneration(
                engine, store, packed_store.temporary_path, health=healths[name], store=name
            )
            opened[name] = AskingStore(
                store, generation.confirm, generation.confirm_copies, generation.confirm_anew
            )
            generations[name] = generation
    return _Stores(together(opened) if opened else None, generations, healths)


def _check_codecs(config: Config) -> None:
    codecs = {"cold.codec": config.cold.codec, "glacier.codec": config.glacier.codec}
    codecs |= {f"stores.{name}.codec": store.codec for name, store in config.stores.items()}
    for key, text in codecs.items():
        try:
            get_codec(parse_codec(text))
        except MemfsError as error:
            raise UsageError(f"{key}: {error}") from None


def _load_planner(config: Config) -> GuardedPlanner:
    try:
        return GuardedPlanner(config.policy.name, load_planner(config.policy.name))
    except MemfsError as error:
        raise UsageError(f"policy.name: {error}") from None


def _build_hot(
    config: HotConfig,
    state_dir: Path,
    board: HotBoard | None,
    parts: MoveParts,
    activity: Activity,
) -> _HotParts:
    if board is None:
        return _HotParts((), ())
    # Imported here: most mounts have no hot tier.
    from memfs.hot.tier import HotTier
    from memfs_daemon.hot.methods import HotMethods
    from memfs_daemon.hot.supervisor import HotSupervisor

    supervisor = HotSupervisor(
        config,
        state_dir,
        board,
        activity.look_at_all,
        parts.traffic.note_attaches,
        child_environment(os.environ),
    )
    tier = HotTier(parts, board, supervisor)
    return _HotParts((HotMethods(config, supervisor, board),), (supervisor.run, tier.run))


def _header_reader(config: HotConfig) -> HeaderReader | None:
    if not config.devices:
        return None
    # Imported here: most mounts have no hot tier.
    from memfs.hot.headers import HeaderReader

    return HeaderReader(child_environment(os.environ))


def _open_engine(
    state_dir: Path,
    config: Config,
    keys: KeyRing,
    tell: Callable[[str], None],
    commits: Latencies,
    stack: contextlib.ExitStack,
) -> _OpenedEngine:
    if config.metadata.url is not None:
        return _join(state_dir, config, keys, tell, commits, stack)
    try:
        engine = SqliteEngine.open(
            state_dir,
            config.metadata,
            migration=Migration(tell),
            query=config.query,
            first_settings=SETTINGS_OF_NEW_STATE,
        )
    except UsageError as error:
        raise UsageError(str(error), ExitCode.STATE_UNUSABLE) from error
    return _OpenedEngine(engine)


def _join(
    state_dir: Path,
    config: Config,
    keys: KeyRing,
    tell: Callable[[str], None],
    commits: Latencies,
    stack: contextlib.ExitStack,
) -> _OpenedEngine:
    """Open the engine of a node of a shared mount."""
    # Imported here: most mounts have no such database, and libpq is an extra.
    from memfs.metadata.shared.address import Address
    from memfs.metadata.shared.client import TIMEOUT_S
    from memfs.metadata.shared.connector import PostgresConnector
    from memfs.metadata.shared.demoting import demote
    from memfs.metadata.shared.engine import NodeSettings, SharedEngine
    from memfs.metadata.shared.reader_engine import ReaderEngine, ReaderSettings
    from memfs_daemon.peering import Peering

    assert config.metadata.url is not None
    limit_s = config.nodes.commit_timeout_s
    address = Address.parse(config.metadata.url, os.environ)
    connector = PostgresConnector(address, config.glacier.url, min(limit_s, TIMEOUT_S))
    name = config.nodes.name or socket.gethostname()
    peering = Peering(state_dir, config.nodes, connector)
    stack.callback(peering.close)
    if config.nodes.role == READER:
        demote(
            state_dir,
            config.metadata,
            connector,
            partial(Rescue, state_dir, keys=keys, reach=FaultPoints().reach, tell=tell),
            migration=Migration(tell),
            reach=FaultPoints().reach,
        )
        reader = ReaderEngine.join(
            state_dir,
            config.metadata,
            connector,
            ReaderSettings(name, limit_s, peering.presence),
            migration=Migration(tell),
            query=config.query,
            reach=FaultPoints().reach,
            tell=tell,
        )
        return _OpenedEngine(reader, log=reader.log, client=peering.client(reader))
    engine = SharedEngine.join(
        state_dir,
        config.metadata,
        connector,
        NodeSettings(name, limit_s, config.nodes.keep_changes_s, peering.presence),
        migration=Migration(tell),
        query=config.query,
        first_settings=SETTINGS_OF_NEW_STATE,
        reach=FaultPoints().reach,
        note_latency=lambda took_s: commits.note("commit", int(took_s * 1e9)),
        tell=tell,
    )
    return _OpenedEngine(engine, engine.writer, build_server=partial(peering.server, engine))


def _hold_objects(writer: Writer, config: NodesConfig) -> HeldObjects:
    """Return what holds objects that nodes that read may need."""
    return HeldObjects(
        lambda: writer.last_change, lambda: writer.applied_by_readers, config.keep_objects_s
    )


def _confirmed(engine: SqliteEngine, method: Handler) -> Handler:
    """Return a method that is answered once a database has what it has changed, if there is one."""

    async def answer(*arguments: object, **options: object) -> object:
        return await engine.confirmed(method(*arguments, **options))

    return answer


def _features(
    config: Config, options: MountOptions, choice: DriverChoice, residency: Residency
) -> Features:
    return Features(
        acl=choice.name == "kernel",
        atime=options.atime,
        strict_atime=bool(options.strict_atime),
        warm=residency.capacity_bytes > 0,
        glacier=config.glacier.enabled,
        hydrate_bytes_max=config.cold.hydrate_bytes_max,
        codec=config.cold.codec,
        cold=config.cold,
    )
