"""A mount itself: how it is, what it has done, its pools, traces and stores, and its hot tier."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from memfs.control.methods.method import Method, NameParameters, Nothing
from memfs.control.report import PendingReport, PoolReport, StatusReport


# --- the mount ------------------------------------------------------------------------------------
class PingReport(TypedDict):
    """Who is there."""

    pid: int
    mountpoint: str


class PendingParameters(TypedDict):
    """Which waiting moves to list."""

    limit: NotRequired[int]


class FrozenReport(TypedDict):
    """A directory in which nothing changes, nor below it."""

    path: str
    """From the root of the mount, with a slash before it."""
    thawing: bool
    """It is about to be thawed, or that was cut off."""


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
FROZEN = Method("frozen", Nothing, list[FrozenReport])
PENDING = Method("pending", PendingParameters, list[PendingReport])
ACTIVITY = Method("activity", ActivityParameters, ActivityReport)
REMOUNT = Method("remount", RemountParameters, dict[str, object])


# --- pools ----------------------------------------------------------------------------------------
class PoolParameters(TypedDict):
    """A pool and its size."""

    name: str
    size: str | int
    """Bytes, or as users write it."""


POOL_CREATE = Method("pool_create", PoolParameters, PoolReport)
POOL_LIST = Method("pool_list", Nothing, list[PoolReport])
POOL_REMOVE = Method("pool_remove", NameParameters, type(None))


# --- the policy ----------------------------------------------------------------------------------
class PolicyValueReport(TypedDict):
    """A value of `[policy]` that can be changed while a mount serves."""

    name: str
    value: str
    """In force."""
    configured: str
    is_set: bool
    """It was set by `policy_set`, and stays until it is reset."""


class PolicySetParameters(TypedDict):
    """Values of `[policy]`."""

    values: dict[str, str]
    """As on the command line of `memfs mount`, by name without `policy.`."""


class PolicyResetParameters(TypedDict):
    """Which values are to be as configured."""

    names: list[str]
    """Without `policy.`; empty: all of them."""


POLICY_VALUES = Method("policy_values", Nothing, list[PolicyValueReport])
POLICY_SET = Method("policy_set", PolicySetParameters, list[PolicyValueReport])
POLICY_RESET = Method("policy_reset", PolicyResetParameters, list[PolicyValueReport])


# --- traces ---------------------------------------------------------------------------------------
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


# --- stores ---------------------------------------------------------------------------------------
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


# --- the hot tier ---------------------------------------------------------------------------------
HOT = Method("hot", Nothing, dict[str, Any])
HOT_SNAPSHOTS = Method("hot_snapshots", Nothing, list[dict[str, Any]])
HOT_DROP_SNAPSHOT = Method("hot_drop_snapshot", NameParameters, type(None))
