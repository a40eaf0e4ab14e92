"""The methods of the control socket: what each takes and what it answers, for server and client.

Invariant: a call whose parameters are not those of its method never reaches the method.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

from memfs.control.report import (
    FieldIndexReport,
    IndexReport,
    PendingReport,
    PoolReport,
    StatusReport,
)

P = TypeVar("P")
R = TypeVar("R")


class Method(NamedTuple, Generic[P, R]):
    """One method."""

    name: str
    parameters: type[P]
    """A `TypedDict`; those that are not required have their default in the method itself."""
    report: type[R]
    """What it answers."""


class Nothing(TypedDict):
    """No parameters."""


# --- the mount -----------------------------------------------------------------------------------
class PingReport(TypedDict):
    """Who is there."""

    pid: int
    mountpoint: str


class PendingParameters(TypedDict):
    """Which waiting moves to list."""

    limit: NotRequired[int]


class RemountParameters(TypedDict):
    """Other options of a mount."""

    atime: bool
    strict_atime: NotRequired[bool | None]


class MetricsReport(TypedDict):
    """All metrics."""

    text: str
    """In the text format of Prometheus; `metrics.table` has the names."""


class ActivityParameters(TypedDict):
    """How much to list of what goes on."""

    limit: NotRequired[int]
    """Entries of each list."""


class MoveReport(TypedDict):
    """A move under way."""

    kind: str
    """`pack`, `upload`, `hydrate`, `copy`, `keep`, `rekey` or `relocate`."""
    ino: int | None
    """null: several files in one object."""
    path: str | None
    """From the root of the mount, with a slash before it; null: several files, or it is gone."""
    wanted: str | None
    """The tier that the file is on its way to; null: it stays where it is."""
    done_bytes: int
    total_bytes: int
    """Uncompressed bytes."""


class ProgramReport(TypedDict):
    """What a program has opened; see `content.programs.ProgramUse`."""

    name: str
    uid: int
    pid: int
    open_count: int
    write_count: int
    opened_bytes: int
    idle_s: float
    """Since it opened something last."""


class ActivityReport(TypedDict):
    """What goes on in a mount: what a live screen shows beside the status."""

    request_count: int
    """Requests since the daemon started that looked a name up, opened or changed something."""
    move_count: int
    """Moves under way."""
    moves: list[MoveReport]
    """The first of them, oldest first."""
    programs: list[ProgramReport]
    """Those that opened most bytes, first."""


class HistoryParameters(TypedDict):
    """A ring of what was measured."""

    resolution_s: int
    """One of `metrics.rings.RINGS`."""
    after_s: NotRequired[int]
    """Only rows that begin later, seconds since the epoch."""


class HistoryReport(TypedDict):
    """Rows in order of time."""

    rows: list[tuple[int, str]]
    """When each begins, and its numbers as `metrics.numbers` encodes them, in base64."""


class HeatParameters(TypedDict):
    """How many to list."""

    limit: NotRequired[int]


class HotFileReport(TypedDict):
    """A file or directory that is used much."""

    path: str
    size: int
    """0 where it is a directory."""
    uses: float
    """Opens for reading, of a directory those of its files; each counts half after a day."""
    error: float
    """They may be so many fewer."""


class ColdFileReport(TypedDict):
    """A file that was not used for long, and is on the disk."""

    path: str
    size: int
    accessed_ns: int


class HeatReport(TypedDict):
    """What is used most and least."""

    files: list[HotFileReport]
    directories: list[HotFileReport]
    coldest: list[ColdFileReport]


class EventsParameters(TypedDict):
    """Which events to list."""

    before: NotRequired[int | None]
    limit: NotRequired[int]


class EventReport(TypedDict):
    """Something that a person decided, or that went wrong; see `metadata.records.Event`."""

    number: int
    at_ns: int
    kind: str
    subject: str
    detail: str


HISTORY = Method("history", HistoryParameters, HistoryReport)
HEAT = Method("heat", HeatParameters, HeatReport)
EVENTS = Method("events", EventsParameters, list[EventReport])
METRICS = Method("metrics", Nothing, MetricsReport)
PING = Method("ping", Nothing, PingReport)
STATUS = Method("status", Nothing, StatusReport)
PENDING = Method("pending", PendingParameters, list[PendingReport])
ACTIVITY = Method("activity", ActivityParameters, ActivityReport)
REMOUNT = Method("remount", RemountParameters, dict[str, object])


# --- files that will be used ---------------------------------------------------------------------
class PrefetchParameters(TypedDict):
    """Files to bring near, by path from the root of the mount."""

    paths: list[str]
    tier: NotRequired[Literal["hot", "warm", "cold"]]
    job: NotRequired[int | None]
    replace: NotRequired[bool]
    wait: NotRequired[bool]
    exact: NotRequired[bool]


class JobParameters(TypedDict):
    """A list of files that are being brought near."""

    job: int


class PathsParameters(TypedDict):
    """Files, by path from the root of the mount."""

    paths: list[str]


class HintParameters(TypedDict):
    """Files by inode number: those that will be used, in order, and those that were."""

    coming: list[int]
    done: list[int]
    tier: NotRequired[Literal["warm", "cold"]]
    job: NotRequired[int | None]
    replace: NotRequired[bool]


class PrefetchProgress(TypedDict):
    """How far a job is; see `prediction.hints.JobProgress`."""

    job: int
    total_count: int
    done_count: int
    warm_count: int
    failed_count: int
    waiting_count: int
    fetched_bytes: int
    error: str | None
    stalled: str | None
    ended: bool


class PrefetchTaken(TypedDict):
    """What came of a list of paths."""

    job: int
    taken_count: int
    """Paths dealt with, the first ones; fewer than all when the list is full."""
    skipped_count: int
    skipped: list[str]
    """The first few, with their reasons."""
    progress: PrefetchProgress


class DoneTaken(TypedDict):
    """How many paths are files."""

    taken_count: int
    skipped_count: int


class HintTaken(TypedDict):
    """What came of a hint."""

    job: int
    taken_count: int
    """That of those that are coming; fewer than all when the list is full."""
    stalled: bool
    """Files wait for room or for the store."""


PREFETCH = Method("prefetch", PrefetchParameters, PrefetchTaken)
PREFETCH_PROGRESS = Method("prefetch_progress", JobParameters, PrefetchProgress)
PREFETCH_CANCEL = Method("prefetch_cancel", JobParameters, PrefetchProgress)
DONE = Method("done", PathsParameters, DoneTaken)
HINT = Method("hint", HintParameters, HintTaken)


# --- work on trees -------------------------------------------------------------------------------
class RekeyParameters(TypedDict):
    """Files to bring under the newest key."""

    inos: list[int]
    dry_run: NotRequired[bool]


class RelocateParameters(TypedDict):
    """Files whose objects are to be in the stores that they belong in."""

    inos: list[int]
    dry_run: NotRequired[bool]


class KeptBlobsParameters(TypedDict):
    """Which contents to list that only snapshots show."""

    after: NotRequired[int]
    """The last one of the page before."""
    limit: NotRequired[int]


class RekeyKeptParameters(TypedDict):
    """Contents that only snapshots show, to bring under the newest key."""

    blobs: list[int]
    dry_run: NotRequired[bool]


class CompressParameters(TypedDict):
    """Files to pack."""

    inos: list[int]
    codec: NotRequired[str | None]
    drop_raw: NotRequired[bool]
    dry_run: NotRequired[bool]


class BarrierParameters(TypedDict):
    """Files to bring to a level of safety."""

    inos: list[int]
    level: Literal["local", "remote"]


class WorkReport(TypedDict):
    """What a call of work on a tree came to."""

    taken_count: int
    """Files that are done, the first ones."""
    outcomes: dict[str, int]
    before_bytes: int
    after_bytes: int
    moved_bytes: int
    left: dict[str, list[str]]
    """Outcome and reason, by inode number, of files that are not as they were asked to be."""
    keys: NotRequired[dict[str, list[int]]]
    """Those of `rekey`: forms and stored bytes by the key that they had."""


class MovesReport(TypedDict):
    """Moves under way."""

    count: int
    done_bytes: int
    total_bytes: int


REKEY = Method("rekey", RekeyParameters, WorkReport)
RELOCATE = Method("relocate", RelocateParameters, WorkReport)
KEPT_BLOBS = Method("kept_blobs", KeptBlobsParameters, list[int])
REKEY_KEPT = Method("rekey_kept", RekeyKeptParameters, WorkReport)
COMPRESS = Method("compress", CompressParameters, WorkReport)
BARRIER = Method("barrier", BarrierParameters, WorkReport)
MOVES = Method("moves", Nothing, MovesReport)


# --- copies of trees -----------------------------------------------------------------------------
class CloneParameters(TypedDict):
    """What to clone, by paths from the root of the mount."""

    source: str
    target: str
    work: str
    """A name of the work that the client has chosen; unique."""
    replace: NotRequired[bool]


class WorkParameters(TypedDict):
    """Work of a client."""

    work: str


class CopyReport(TypedDict):
    """How far a copy is; see `jobs.tree_copying.CopyTally`."""

    ended: bool
    """False: ask again to go on."""
    file_count: int
    directory_count: int
    changed_count: int
    equal_count: int
    removed_count: int
    shared_bytes: int
    cloned_bytes: int
    copied_bytes: int
    failed_count: int
    failures: list[str]


class RestoreParameters(TypedDict):
    """What to restore; paths are from the root of the mount."""

    work: str
    path: str
    """Empty: everything."""
    snapshot: NotRequired[str | None]
    """None: the newest one that was not made before a restore."""
    to: NotRequired[str | None]
    delete: NotRequired[bool]
    dry_run: NotRequired[bool]
    before: NotRequired[str | None]
    """That of a former restore, which this one belongs to; None: one is made."""


class RestoreReport(CopyReport):
    """How far a restore is."""

    snapshot: str
    before: str | None
    """The snapshot of the present that was made before."""
    actions: list[list[str]]
    """Those of a dry run, since the last call: `make`, `change` or `remove`, and the path."""


CLONE = Method("clone", CloneParameters, CopyReport)
CLONE_CANCEL = Method("clone_cancel", WorkParameters, type(None))
SNAPSHOT_RESTORE = Method("snapshot.restore", RestoreParameters, RestoreReport)
SNAPSHOT_RESTORE_CANCEL = Method("snapshot.restore_cancel", WorkParameters, type(None))


# --- adoption ------------------------------------------------------------------------------------
class AdoptParameters(TypedDict):
    """A source, and the directory that its objects are to be below, from the root of the mount."""

    url: str
    path: str
    work: str
    mode: NotRequired[int | None]
    uid: NotRequired[int | None]
    gid: NotRequired[int | None]
    watch_s: NotRequired[int | None]
    deleted: NotRequired[str | None]
    """`keep` or `remove`."""
    store: NotRequired[str | None]
    """Name of a store with credentials."""
    take: NotRequired[str | None]
    """`reference`, `copy` or `move`, of a directory of this machine."""
    options: NotRequired[dict[str, object] | None]
    """Those of the fsspec file system; no secrets."""


class RefreshParameters(TypedDict):
    """A source by its directory."""

    path: str
    work: str
    watch_s: NotRequired[int | None]
    deleted: NotRequired[str | None]
    confirm: NotRequired[bool]
    """Remove files however many of them are gone."""


class AdoptReport(TypedDict):
    """How far a listing is; see `jobs.refreshing.RefreshTally`."""

    ended: bool
    """False: ask again to go on."""
    source: int
    listed_count: int
    listed_bytes: int
    made_count: int
    directory_count: int
    replaced_count: int
    removed_count: int
    gone_count: int
    conflict_count: int
    odd_count: int
    odd: list[str]
    refused_count: int
    refused: list[str]
    taken_count: int
    taken_bytes: int
    failed_count: int
    failures: list[str]
    problem: str
    """Why nothing was removed; empty: no problem."""


class SourceReport(TypedDict):
    """A source."""

    source: int
    url: str
    path: str
    """That of its directory; empty: that was removed."""
    watch_s: int
    deleted: str
    listed_ns: int
    object_count: int
    problem: str


class SourcePathParameters(TypedDict):
    """A source by its directory."""

    path: str


class ReleaseParameters(TypedDict):
    """A directory that was adopted, by its place in the mount."""

    path: str
    work: str


class OwnParameters(TypedDict):
    """Files."""

    inos: list[int]


ADOPT = Method("adopt", AdoptParameters, AdoptReport)
ADOPT_REFRESH = Method("adopt_refresh", RefreshParameters, AdoptReport)
ADOPT_CANCEL = Method("adopt_cancel", WorkParameters, type(None))
ADOPT_SOURCES = Method("adopt_sources", Nothing, list[SourceReport])
ADOPT_OWN = Method("adopt_own", OwnParameters, WorkReport)
ADOPT_RELEASE = Method("adopt_release", ReleaseParameters, AdoptReport)
ADOPT_FORGET = Method("adopt_forget", SourcePathParameters, int)


# --- queries -------------------------------------------------------------------------------------
class QueryParameters(TypedDict):
    """A page of what a filter finds."""

    filter: str
    """In JSON."""
    sort: NotRequired[str | None]
    token: NotRequired[str | None]
    """That of the page before."""
    limit: NotRequired[int]
    names: NotRequired[bool]
    """False: files are only counted."""
    attributes: NotRequired[bool]
    at: NotRequired[str | None]
    """Name of a snapshot; null: now."""


class UserQueryParameters(QueryParameters):
    """The same of a user who has no right to the control socket."""

    ticket: str
    """That of `user.memfs.ask`."""


class FoundReport(TypedDict):
    """A file; see `filesystem.querying.FoundFile`."""

    ino: int
    path: str
    size: int
    mtime_ns: int
    attributes: dict[str, str] | None


class QueryReport(TypedDict):
    """A page; see `filesystem.querying.Answer`."""

    files: list[FoundReport]
    count: int
    token: str | None
    driver: str
    place: Literal["loop", "reader"]
    is_exact: bool
    duration_s: float
    notes: list[str]


class NamesReport(TypedDict):
    """The indexes: that of xattrs, and those of fields."""

    fields: list[FieldIndexReport]
    index: IndexReport
    names: list[str]
    """Those of the xattrs that can be asked for."""


TreeOrder = Literal["bytes", "heat", "name"]


class TreeParameters(TypedDict):
    """A directory to look into."""

    path: str
    """From the root of the mount; empty: the root."""
    order: NotRequired[TreeOrder]
    """`heat`: what was used last comes first."""
    limit: NotRequired[int]


class TreeEntryReport(TypedDict):
    """A name in a directory."""

    name: str
    ino: int
    kind: Literal["file", "directory", "other"]
    file_count: int
    """Files at it and below it."""
    size: int
    """Their sizes as of the last close; a file with several names counts for each of them."""
    local_bytes: int
    """Those of the files that are on the disk, plain or packed."""
    accessed_ns: int
    """When one of them was used last; some minutes late."""


class TreeReport(TypedDict):
    """What a directory holds."""

    is_summed: bool
    """False: that took too long, and directories count as empty."""
    name_count: int
    """Names in the directory; the next three are sums of all of them."""
    file_count: int
    size: int
    local_bytes: int
    entries: list[TreeEntryReport]
    """The first names in the order that was asked for."""


TREE = Method("tree", TreeParameters, TreeReport)
QUERY = Method("query", QueryParameters, QueryReport)
QUERY_AS_USER = Method("query_as_user", UserQueryParameters, QueryReport)
QUERY_INDEX = Method("query_index", Nothing, NamesReport)


class IndexParameters(TypedDict):
    """Which index."""

    field: str
    """`$size`, `$mtime` or `$name`."""


INDEX_ADD = Method("index_add", IndexParameters, type(None))
INDEX_DROP = Method("index_drop", IndexParameters, type(None))
PUBLISH = Method("publish_tables", Nothing, type(None))


# --- snapshots -----------------------------------------------------------------------------------
class SnapshotParameters(TypedDict):
    """A snapshot to be made."""

    name: str
    description: NotRequired[str]
    labels: NotRequired[dict[str, str]]
    kept_until_ns: NotRequired[int | None]
    """No rule removes it before; None: any rule may."""
    strict: NotRequired[bool]
    """Refuse if a file is open for writing."""


class SnapshotNameParameters(TypedDict):
    """The name of a snapshot."""

    name: str


class SnapshotNamesParameters(TypedDict):
    """Names of snapshots."""

    names: list[str]


class SnapshotReport(TypedDict):
    """An instant that is kept; see `metadata.records.Snapshot`."""

    name: str
    number: int
    """Higher than all inode numbers of what existed then."""
    created_ns: int
    description: str
    labels: dict[str, str]
    kept_until_ns: int | None


class HeldBytesReport(TypedDict):
    """Bytes that only snapshots show."""

    local_bytes: int
    """On the disk of the state directory."""
    remote_bytes: int
    """In the object store."""


class SnapshotSizesReport(TypedDict):
    """What snapshots hold."""

    alone: dict[str, HeldBytesReport]
    """What deletion of one snapshot frees, by its name."""
    shared: HeldBytesReport
    """What two or more show: it goes with the last of them."""


class OpenFileReport(TypedDict):
    """A file that was open for writing, or mapped, when a snapshot was made."""

    path: str
    state: Literal["open", "copying", "absent"]
    """What the snapshot has of it: bytes that were copied meanwhile, such to come, or no bytes."""
    reason: str
    """Why it has no bytes; else empty."""


class SnapshotMade(TypedDict):
    """What came of making one."""

    snapshot: SnapshotReport
    open_count: int
    """Files that were open for writing, or mapped."""
    absent_count: int
    """Those of them without bytes in the snapshot."""
    copying_count: int
    """Those that are still being copied."""
    open_files: list[OpenFileReport]
    """The first of them."""


class SnapshotDiffParameters(TypedDict):
    """Two instants to be compared."""

    before: str
    """The earlier snapshot."""
    after: NotRequired[str | None]
    """The later one; None: now."""
    under: NotRequired[str]
    """Only what was below this path, from the root of the mount, or is it."""
    position: NotRequired[int]
    """Where the page before has ended; 0: from the start."""
    limit: NotRequired[int]
    """At most so many inodes are looked at."""


FileKind = Literal["file", "directory", "symlink", "other"]


class DifferenceReport(TypedDict):
    """What became of one path."""

    change: Literal["+", "-", "M", "R", "m"]
    """It came, went, has other content, has another name, or has other attributes."""
    path: str
    """From the root of the mount; after the change, but of what went."""
    old_path: str | None
    """R: its name before."""
    kind: FileKind
    ino: int
    size: int | None
    """Bytes after it; None: it is gone."""
    old_size: int | None
    """Bytes before it; None: it was not there."""
    mtime_ns: int | None


class SnapshotDiffReport(TypedDict):
    """A page of differences."""

    differences: list[DifferenceReport]
    position: int | None
    """Where to go on; None: that was all."""


class VersionsParameters(TypedDict):
    """A path, from the root of the mount."""

    path: str


class VersionReport(TypedDict):
    """One generation of a file."""

    ino: int
    generation: int
    kind: FileKind
    size: int
    mtime_ns: int
    state: Literal["exact", "open", "absent"]
    """As of `content.past.PastState`."""
    forms: list[str]
    """Where its bytes are: `raw`, `packed`, `remote`."""
    now: bool
    """It is the present one."""
    snapshots: list[str]
    """Those that have it, the newest one first."""


class VersionsReport(TypedDict):
    """All generations that are left of a file, the newest one first."""

    versions: list[VersionReport]


SNAPSHOT_DIFF = Method("snapshot.diff", SnapshotDiffParameters, SnapshotDiffReport)
SNAPSHOT_VERSIONS = Method("snapshot.versions", VersionsParameters, VersionsReport)
SNAPSHOT_CREATE = Method("snapshot.create", SnapshotParameters, SnapshotMade)
SNAPSHOT_LIST = Method("snapshot.list", Nothing, list[SnapshotReport])
SNAPSHOT_SIZES = Method("snapshot.sizes", Nothing, SnapshotSizesReport)
SNAPSHOT_SHOW = Method("snapshot.show", SnapshotNameParameters, SnapshotReport)
SNAPSHOT_DELETE = Method("snapshot.delete", SnapshotNamesParameters, type(None))


class ExportNoteReport(TypedDict):
    """A complete export in the store; see `exports.exporter.ExportNote`."""

    id: str
    """As `memfs snapshot import --at` takes it."""
    created_ns: int
    checked_ns: int
    file_count: int
    content_bytes: int
    missing_count: int
    missing_bytes: int
    key: str
    """Id of the key that it is encrypted with; empty: it is in clear, or was not looked at yet."""


class LostExportReport(TypedDict):
    """An export that has lost an object."""

    id: str
    reason: str
    """Which one, and how."""


class ExportsReport(TypedDict):
    """What the exporter is at; see `exports.exporter.ExportProgress`."""

    running: bool
    row_count: int
    row_total: int
    stored_count: int
    stored_bytes: int
    finished_count: int
    error: str | None
    exports: list[ExportNoteReport]
    """Newest first."""
    lost: list[LostExportReport]
    """Newest first."""


SNAPSHOT_EXPORT = Method("snapshot.export", Nothing, int)
SNAPSHOT_EXPORTS = Method("snapshot.exports", Nothing, ExportsReport)


# --- scrubbing -----------------------------------------------------------------------------------
class ScrubParameters(TypedDict):
    """How to scrub."""

    rate: NotRequired[int]
    """Bytes a second, > 0."""
    restart: NotRequired[bool]


class ScrubReport(TypedDict):
    """How far a scrub is, and what it found."""

    running: bool
    file_count: int
    total_count: int
    read_bytes: int
    rate: int
    unchecked_count: int
    unchecked_reason: str | None
    outcomes: dict[str, int]
    findings: list[dict[str, str]]
    error: str | None


SCRUB = Method("scrub", ScrubParameters, ScrubReport)
SCRUB_PROGRESS = Method("scrub_progress", Nothing, ScrubReport)
SCRUB_STOP = Method("scrub_stop", Nothing, ScrubReport)


# --- pools ---------------------------------------------------------------------------------------
class PoolParameters(TypedDict):
    """A pool and its size."""

    name: str
    size: str | int
    """Bytes, or as users write it."""


class NameParameters(TypedDict):
    """The name of something."""

    name: str


POOL_CREATE = Method("pool_create", PoolParameters, PoolReport)
POOL_LIST = Method("pool_list", Nothing, list[PoolReport])
POOL_REMOVE = Method("pool_remove", NameParameters, type(None))


# --- traces --------------------------------------------------------------------------------------
class TraceParameters(TypedDict):
    """What to record, and where."""

    path: str
    paths: NotRequired[bool]


class TraceReport(TypedDict):
    """What is, or was last, recorded; see `traces.recorder.RecorderReport`."""

    recording: bool
    path: str | None
    paths: bool
    duration_s: float
    row_count: int
    size_bytes: int
    dropped_count: int
    removed_count: int
    reason: str | None


TRACE_START = Method("trace_start", TraceParameters, TraceReport)
TRACE_STOP = Method("trace_stop", Nothing, TraceReport)
TRACE_STATUS = Method("trace_status", Nothing, TraceReport)


# --- collecting garbage --------------------------------------------------------------------------
class DryRunParameters(TypedDict):
    """Whether only to look."""

    dry_run: NotRequired[bool]


SearchPlace = Literal["raw", "packed", "tmp", "remote", "uploads", "exports"]
"""The values of `jobs.orphans.SearchPlace`."""


class OrphansParameters(TypedDict):
    """Where to look for what nothing refers to."""

    place: SearchPlace
    prefix: NotRequired[str]
    take: NotRequired[bool]


class ClearParameters(TypedDict):
    """Whether to empty lost+found."""

    clear: NotRequired[bool]


class GarbageReport(TypedDict):
    """What was removed."""

    removed_count: int
    left_count: int
    held_count: int
    """Objects that stay as long as an export in the store may name them."""


class CompactedReport(TypedDict):
    """What came of one batch."""

    key: str
    freed_bytes: int
    failure: str | None
    wait_s: float
    store_failed: bool


class BatchesReport(TypedDict):
    """What was compacted, and what is sparse."""

    compacted: CompactedReport | None
    left_count: int
    left_bytes: int


class AccountsReport(TypedDict):
    """The accounts of space."""

    accounts: dict[str, int]
    drift: dict[str, list[int]]
    """As kept and as counted, where they differ."""


class OrphansReport(TypedDict):
    """What was found in one place; see `jobs.orphans.Orphans`."""

    names: list[str]
    count: int
    bytes: int
    taken_count: int
    young_count: int
    foreign_count: int


class LostFoundReport(TypedDict):
    """What lies in lost+found."""

    count: int
    bytes: int
    object_count: int
    names: list[str]
    removed_count: int


GC_GARBAGE = Method("gc_garbage", DryRunParameters, GarbageReport)
GC_BATCHES = Method("gc_batches", DryRunParameters, BatchesReport)
GC_ACCOUNTS = Method("gc_accounts", Nothing, AccountsReport)
GC_ORPHANS = Method("gc_orphans", OrphansParameters, OrphansReport)
GC_LOST_FOUND = Method("gc_lost_found", ClearParameters, LostFoundReport)


# --- stores --------------------------------------------------------------------------------------
class StoreUseReport(TypedDict):
    """A store, how it answers, and what memfs has there."""

    name: str
    """`default`, or that of its section."""
    url: str | None
    """Without secrets; None: it is not configured, and was not since such a mount."""
    configured: bool
    well: bool | None
    """None: it has not been asked yet."""
    lasts_s: float | None
    reason: str | None
    form_count: int
    """Files' contents there."""
    stored_bytes: int


STORES = Method("stores", Nothing, list[StoreUseReport])


# --- publishing ----------------------------------------------------------------------------------
class PublishParameters(TypedDict):
    """Files to publish."""

    inos: list[int]
    root: int
    """The directory that they are below, or the only one of them."""
    url: str


class PublishPartParameters(TypedDict):
    """A part of a manifest."""

    url: str
    key: str
    path: str
    """A local file; empty: the part is removed instead."""


class PublishRemovedParameters(TypedDict):
    """Where to look for objects whose files are gone."""

    root: int
    url: str


class RemovedReport(TypedDict):
    """What became of objects whose files are gone."""

    removed_count: int
    left_count: int
    problems: list[str]


class PublishedParameters(TypedDict):
    """Which published objects to list."""

    url: str
    after: NotRequired[str]
    limit: NotRequired[int]


class PublishedReport(TypedDict):
    """Published objects, in order of key."""

    objects: list[dict[str, Any]]


PUBLISH_OBJECTS = Method("publish", PublishParameters, WorkReport)
PUBLISH_PART = Method("publish_part", PublishPartParameters, str)
PUBLISH_REMOVED = Method("publish_removed", PublishRemovedParameters, RemovedReport)
PUBLISHED = Method("published", PublishedParameters, PublishedReport)


# --- the hot tier --------------------------------------------------------------------------------
HOT = Method("hot", Nothing, dict[str, Any])
HOT_SNAPSHOTS = Method("hot_snapshots", Nothing, list[dict[str, Any]])
HOT_DROP_SNAPSHOT = Method("hot_drop_snapshot", NameParameters, type(None))


METHODS: dict[str, Method[Any, Any]] = {
    value.name: value for value in tuple(globals().values()) if isinstance(value, Method)
}
"""All methods by name."""
