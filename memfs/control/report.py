"""The status report: what `status` answers, and what `memfs status` shows.

Invariant: a report is plain data; `decode(StatusReport, encode(report)) == report`.
"""

from __future__ import annotations

from typing import NamedTuple

from memfs.types import PendingCode  # noqa: TC001 - `typed.decode` reads annotations


class TierReport(NamedTuple):
    """One tier."""

    tier: str
    """`hot` where there is one, `warm`, `cold` or `glacier`."""
    capacity_bytes: int | None
    """None: without limit."""
    used_bytes: int
    file_count: int
    note: str | None
    """One sentence where the tier does not work as configured, else None."""
    is_on: bool = True
    """False: the configuration has turned it off."""


class StoreReport(NamedTuple):
    """How the object store answers."""

    well: bool | None
    """None: it has not been asked yet."""
    lasts_s: float | None
    """Seconds since it has been so; None: it has not been asked yet."""
    reason: str | None
    """What it failed with last; None while it is well."""


class DatabaseReport(NamedTuple):
    """The database that has the names of the mount as well as this node."""

    node: str
    """This node's name."""
    address: str
    """Without secrets."""
    connected: bool
    cut_off_s: float | None
    """So long changes have been refused, in seconds; None: they are taken."""
    reason: str | None
    """Why it did not answer last; None: it does."""
    unconfirmed_count: int
    """Changes that are in this node's journal, and not known to be in the database."""
    unconfirmed_bytes: int
    unconfirmed_age_s: float
    """Seconds since the oldest of them was made."""
    group_count: int
    """Transactions since the daemon started; each has all changes that waited."""
    change_count: int
    """Changes in them."""
    retries: dict[str, int]
    """How often transactions were sent again, by SQLSTATE; `lost`: with another connection."""
    role: str = "writer"
    """What this node does: `writer` or `reader`."""
    writer: str | None = None
    """Name of the node that writes; None: this one does."""
    applied: int = 0
    """Number of the last change of the writer that a reader has; 0 on the writer."""
    lag_count: int = 0
    """So many changes are in the database that a reader does not have yet."""
    is_left_behind: bool = False
    """A reader lacks changes that are gone, and has to be mounted anew."""


class NamedStoreReport(NamedTuple):
    """A store beside the default one."""

    name: str
    url: str
    store: StoreReport | None


class DriverReport(NamedTuple):
    """How the kernel is served."""

    name: str
    """`kernel` or `pyfuse3`."""
    passthrough: bool
    """Reads and writes go to the local file within the kernel."""
    refusals: tuple[str, ...]
    """Why nothing faster, a sentence each; empty: it is the fastest."""
    limits: tuple[str, ...]
    """What programs miss under it, a sentence each."""


class PendingReport(NamedTuple):
    """A move that waits."""

    path: str
    wanted: str
    """The tier that it is to reach."""
    reason: str
    attempt_count: int
    retry_s: float
    """Until the next attempt; 0 if it is due."""
    since: str | None
    """When it began to wait, by ISO 8601 in UTC; null: an earlier version of memfs knew."""
    code: PendingCode
    """What it waits for."""
    until: str | None = None
    """When that is over at the latest, likewise; null: nobody knows."""


class WorkReport(NamedTuple):
    """What is not done yet. A count that reached `COUNT_MAX` means that many, or more."""

    unsealed_count: int
    """Files that may have a writer."""
    not_durable_count: int
    """Closed files that are not known to be on stable storage yet."""
    intent_count: int
    """Moves under way."""
    pending_count: int
    """Moves that wait."""
    garbage_count: int
    """Files and objects to be removed."""
    pending: tuple[PendingReport, ...]
    """The first few of those that wait."""
    queued_count: int = 0
    """Moves that are decided and not begun."""
    lost_count: int = 0
    """Files in lost+found, and objects that it names; see `memfs gc --lost-found`."""
    lost_bytes: int = 0
    """What these files take up on the disk."""
    needed_count: int = 0
    """Objects to be removed that stay for now, since nodes that read may need them."""


class SourceReport(NamedTuple):
    """How often one source of guesses was right since the state directory was made."""

    source: str
    """`sequence`, `listing`, `shards`, `successor`, or `hint`, which is no guess."""
    issued_count: int
    hit_count: int
    """Files that were opened within the window."""
    wasted_count: int
    """Files that were not."""
    precision: float
    """Moving average of hits among the guesses that ended; 0 to 1."""
    stopped: bool
    """It is wrong too often and only probes."""


class PrefetchReport(NamedTuple):
    """What was brought near before it was used, since the daemon started."""

    sources: tuple[SourceReport, ...]
    learned_count: int
    """Opens that were learned from."""
    fetched_count: int
    """Files that got a raw form."""
    fetched_bytes: int
    held_count: int
    """Files that were brought into RAM."""
    waiting_count: int
    """Files that are to be fetched."""
    stalled: str | None
    """Why they are not, cause and remedy; None while they are."""


class PoolReport(NamedTuple):
    """A pool of the RAM tier."""

    name: str
    size_bytes: int
    used_bytes: int
    file_count: int


class PolicyReport(NamedTuple):
    """Who decides where files go."""

    name: str
    """As configured."""
    note: str | None
    """One sentence where that one does not work, else None."""
    frozen: bool
    """A loop over more than the RAM tier holds is being read: what is in RAM stays."""
    pools: tuple[PoolReport, ...]


class CodecReport(NamedTuple):
    """What one codec came to since the daemon started."""

    codec: str
    """With its level, and the filter before it: `zstd:3 shuffle:2`."""
    file_count: int
    """Files that it encoded."""
    content_bytes: int
    """Their uncompressed bytes."""
    stored_bytes: int
    """Their compressed bytes."""
    elapsed_s: float
    """Reading, encoding and writing; of files at the same time, the sum."""
    spared_count: int
    """Files that it did not encode, because a sample told that it would not pay."""
    spared_bytes: int


class QuotaReport(NamedTuple):
    """What may be spent in a day."""

    quota: str
    """The key in `[quotas]`: `requests_per_day` is in requests, the others are in bytes."""
    limit: int
    used: int
    """In the last day, by the mover and by programs."""
    reserved: int
    """For what is under way."""
    frees_s: float
    """Until some of what is used comes back; 0 if nothing is."""


COUNT_MAX = 10_000
"""Counting stops here: a report must not cost a walk over millions of rows."""


class FieldIndexReport(NamedTuple):
    """An index that was added: of a field that memfs itself fills, or of the texts in an xattr."""

    field: str
    """`$size`, `$mtime`, `$name`, or the name of an xattr."""
    state: str
    """`building`, `whole`, or `leaving`: it was dropped, and its entries go in steps."""
    through: int
    """All inodes up to this number are in it."""
    last: int
    """Highest inode number."""


class ElementsReport(NamedTuple):
    """How complete the index of elements of JSON arrays is."""

    is_whole: bool
    array_count: int
    """Arrays that it has taken in since the mount began."""
    done_name_count: int
    """All arrays of so many names of xattrs are in it."""
    name_count: int


class IndexReport(NamedTuple):
    """How complete the index of xattrs is, which queries need."""

    enabled: bool
    is_whole: bool
    through: int
    """All inodes up to this number are in it."""
    last: int
    """Highest inode number."""
    name_count: int
    is_short_of_names: bool
    """Some names are left out, since there are too many."""
    elements: ElementsReport


class SnapshotsReport(NamedTuple):
    """What there is of snapshots."""

    snapshot_count: int
    newest_s: float | None
    """Since the newest one was made; None: there is no snapshot."""
    leaving_count: int
    """Deleted ones, of which something is still to be removed."""
    kept_count: int
    """Raw files that only snapshots show."""
    kept_bytes: int
    """What these take up on the disk; a part of what the cold tier uses."""


class LostObjectsReport(NamedTuple):
    """Objects that files need, and that a store has not any more."""

    store: str
    """As users name it."""
    lost_count: int
    mended_count: int
    """Those that were stored again, from local forms."""
    example: str
    """One that was not, and why."""


class ExportReport(NamedTuple):
    """The metadata beside the objects, of which a mount can be made anew."""

    interval_s: float | None
    """So often they are exported; None: only when it is asked for."""
    age_s: float | None
    """Since all was as it is in the newest complete export; None: there is no such export."""
    file_count: int
    """Files in it."""
    missing_count: int
    """Files of these whose bytes had no object: they would be lost with this disk."""
    missing_bytes: int
    running: bool
    error: str | None
    """Why the last attempt failed."""
    refusal: str | None
    """Why nothing is exported: the store belongs to another state."""
    lost: str | None = None
    """Why a later export is complete no longer."""
    lost_objects: tuple[LostObjectsReport, ...] = ()
    """By store, what the look of the day has found and could not make good."""


class PricesReport(NamedTuple):
    """Prices as configured; None: not known. See `config.PricesConfig`."""

    currency: str = ""
    hot: float | None = None
    warm: float | None = None
    cold: float | None = None
    stored: float | None = None
    requests: float | None = None
    received: float | None = None
    sent: float | None = None

    def amounts(self) -> dict[str, float]:
        """Return the prices that are known, by name."""
        return {
            name: value
            for name, value in self._asdict().items()
            if name != "currency" and value is not None
        }


class ListingReport(NamedTuple):
    """A source that is watched, and is not listed although it is time."""

    url: str
    reason: str


class UnpublishedReport(NamedTuple):
    """Files with `user.memfs.publish` that are not published as they are, although it is time."""

    file_count: int
    reason: str
    """That of one of them; `memfs why` tells that of each."""


class StatusReport(NamedTuple):
    """A mount at one moment."""

    version: str
    mountpoint: str
    state_dir: str
    pid: int
    uptime_s: float
    memory_bytes: int
    """Resident anonymous memory of the daemon; the locked files of the warm tier not included."""
    inode_count: int
    logical_bytes: int
    """Sum of the sizes of all closed files."""
    driver: DriverReport
    store_url: str | None
    """URL of the glacier tier, without secrets; None: there is no glacier tier."""
    store: StoreReport | None
    """None: it is not there."""
    tiers: tuple[TierReport, ...]
    work: WorkReport
    prefetch: PrefetchReport
    policy: PolicyReport
    quotas: tuple[QuotaReport, ...]
    """Those that are configured."""
    codecs: tuple[CodecReport, ...]
    keys: tuple[str, ...]
    """Ids of the keys that are configured; the first one encrypts."""
    xattr_index: IndexReport
    field_indexes: tuple[FieldIndexReport, ...]
    snapshots: SnapshotsReport
    export: ExportReport | None = None
    """None: there is no store but one in the state directory."""
    stores: tuple[NamedStoreReport, ...] = ()
    """Those of `[stores.NAME]`, in the order of the configuration."""
    prices: PricesReport = PricesReport()
    listings: tuple[ListingReport, ...] = ()
    """Those that wait."""
    database: DatabaseReport | None = None
    """None: all is in the state directory alone."""
    unpublished: UnpublishedReport | None = None
    """None: there is no such file."""
