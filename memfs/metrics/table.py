"""The table of metrics: one row for each number that a mount tells to the outside.

Invariant: a name keeps its meaning for ever, since dashboards and alerts depend on it. All metrics
of the text come from here, and the reference page is made of it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.StrEnum):
    """What a metric is to Prometheus."""

    GAUGE = "gauge"
    """A value as of now."""
    COUNTER = "counter"
    """It only grows, from the start of the daemon on."""
    HISTOGRAM = "histogram"
    """Counts by powers of two of the value, from the start of the daemon on."""


class Metric(NamedTuple):
    """One row."""

    name: str
    """With `memfs_` before it, and its unit last."""
    unit: str
    """`bytes`, `seconds`, `ratio`, or what is counted."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_TIER = ("tier",)
_FORM = ("form",)
_LEVEL = ("level",)
_EDGE = ("source", "target")
_CALL = ("call",)
_QUOTA = ("quota",)
_SOURCE = ("source",)
_CODEC = ("codec",)

INFO = Metric(
    "memfs_info", "flag", Kind.GAUGE, "1; the labels tell what runs.", ("version", "driver")
)
UPTIME = Metric("memfs_uptime_seconds", "seconds", Kind.GAUGE, "Since the daemon started.")
MEMORY = Metric(
    "memfs_daemon_memory_bytes",
    "bytes",
    Kind.GAUGE,
    "Anonymous memory of the daemon, without files that it holds in RAM.",
)
STALLS = Metric(
    "memfs_loop_stalls_total",
    "stalls",
    Kind.COUNTER,
    "Times that the event loop of the daemon was busy with one thing for more than 50 ms.",
)
STALLED = Metric(
    "memfs_loop_stalled_seconds_total", "seconds", Kind.COUNTER, "How long these took in all."
)
INODES = Metric("memfs_inodes", "inodes", Kind.GAUGE, "Files, directories and all else.")
LOGICAL = Metric(
    "memfs_logical_bytes", "bytes", Kind.GAUGE, "The sum of the sizes of all closed files."
)
TIER_CAPACITY = Metric(
    "memfs_tier_capacity_bytes",
    "bytes",
    Kind.GAUGE,
    "The size of a tier; a tier without limit has no such line.",
    _TIER,
)
TIER_USED = Metric("memfs_tier_used_bytes", "bytes", Kind.GAUGE, "Bytes in a tier.", _TIER)
TIER_FILES = Metric("memfs_tier_files", "files", Kind.GAUGE, "Files in a tier.", _TIER)
FORM_BYTES = Metric(
    "memfs_form_bytes",
    "bytes",
    Kind.GAUGE,
    "Stored bytes by form: `raw` and `packed` on the disk, `remote` in the object store.",
    _FORM,
)
FORM_FILES = Metric("memfs_form_files", "files", Kind.GAUGE, "Files that have a form.", _FORM)
OPENS = Metric(
    "memfs_opens_total",
    "opens",
    Kind.COUNTER,
    "Opens for reading, by the level that the file was in: `warm` (RAM), `cold` (a plain file),"
    " `packed` (compressed on the disk), `glacier` (only in the store). `hot`: attaches to tensors"
    " on a device; each goes through an open, which has its own level and counts as well. With"
    " passthrough the daemon sees opens and no reads.",
    _LEVEL,
)
OPENED = Metric(
    "memfs_opened_bytes_total",
    "bytes",
    Kind.COUNTER,
    "Sizes of the files of these opens.",
    _LEVEL,
)
USER_WRITES = Metric(
    "memfs_user_xattr_writes_total",
    "writes",
    Kind.COUNTER,
    "Extended attributes of users, `user.*`, that were set or removed; those of memfs itself are"
    " not among them.",
)
MOVES = Metric(
    "memfs_moves_total",
    "moves",
    Kind.COUNTER,
    "Copies that were made from one level for another one.",
    _EDGE,
)
MOVED = Metric(
    "memfs_moved_bytes_total", "bytes", Kind.COUNTER, "Content of these, uncompressed.", _EDGE
)
QUEUED = Metric("memfs_moves_queued", "moves", Kind.GAUGE, "Moves that are decided and not begun.")
RUNNING = Metric("memfs_moves_running", "moves", Kind.GAUGE, "Moves under way.")
PENDING = Metric(
    "memfs_pending_moves",
    "moves",
    Kind.GAUGE,
    "Moves that wait, by what for; of the first 2000 that wait.",
    ("reason",),
)
UNSEALED = Metric(
    "memfs_unsealed_files", "files", Kind.GAUGE, "Files that may have a writer; 10000 or more."
)
NOT_DURABLE = Metric(
    "memfs_not_durable_files",
    "files",
    Kind.GAUGE,
    "Closed files that are not known to be on stable storage yet; 10000 or more.",
)
GARBAGE = Metric(
    "memfs_garbage_items", "items", Kind.GAUGE, "Files and objects that are to be removed."
)
LOST = Metric(
    "memfs_lost_items", "items", Kind.GAUGE, "Files in lost+found, and objects that it names."
)
STORE_UP = Metric(
    "memfs_store_up",
    "flag",
    Kind.GAUGE,
    "1: the object store answers. 0: it fails. There is no such line before it was asked.",
)
STORE_CALLS = Metric(
    "memfs_store_requests_total",
    "requests",
    Kind.COUNTER,
    "Requests to the object store, each attempt, as a provider counts them: parts of a transfer"
    " and pages of a listing one by one.",
    _CALL,
)
STORE_ERRORS = Metric(
    "memfs_store_errors_total",
    "calls",
    Kind.COUNTER,
    "Calls of the object store that failed, each attempt; a missing object is no failure.",
    _CALL,
)
STORE_SENT = Metric(
    "memfs_store_sent_bytes_total", "bytes", Kind.COUNTER, "Bytes to the object store."
)
STORE_RECEIVED = Metric(
    "memfs_store_received_bytes_total", "bytes", Kind.COUNTER, "Bytes from the object store."
)
SOURCE_CONFLICTS = Metric(
    "memfs_source_conflicts_total",
    "files",
    Kind.COUNTER,
    "Adopted files that came to differ from their objects: `changed` there and written here,"
    " `gone` there, or a name that was `taken` here.",
    ("conflict",),
)
SOURCE_FAILURES = Metric(
    "memfs_source_failed_listings_total",
    "listings",
    Kind.COUNTER,
    "Listings of sources of adopted files that did not end.",
)
QUOTA_LIMIT = Metric(
    "memfs_quota_limit",
    "requests or bytes",
    Kind.GAUGE,
    "The limit of a day; `requests_per_day` is in requests, the others are in bytes.",
    _QUOTA,
)
QUOTA_USED = Metric(
    "memfs_quota_used", "requests or bytes", Kind.GAUGE, "Spent in the last day.", _QUOTA
)
QUOTA_RESERVED = Metric(
    "memfs_quota_reserved", "requests or bytes", Kind.GAUGE, "Kept for what is under way.", _QUOTA
)
GUESSES = Metric(
    "memfs_prefetch_guesses_total",
    "files",
    Kind.COUNTER,
    "Files that a source of guesses named, since the state directory was made.",
    _SOURCE,
)
GUESSES_RIGHT = Metric(
    "memfs_prefetch_hits_total", "files", Kind.COUNTER, "Those that were opened in time.", _SOURCE
)
GUESSES_WRONG = Metric(
    "memfs_prefetch_wasted_total", "files", Kind.COUNTER, "Those that were not.", _SOURCE
)
PRECISION = Metric(
    "memfs_prefetch_precision_ratio",
    "ratio",
    Kind.GAUGE,
    "Moving average of hits among the guesses that ended; 0 to 1.",
    _SOURCE,
)
FETCHED_FILES = Metric(
    "memfs_prefetched_files_total", "files", Kind.COUNTER, "Files that were fetched beforehand."
)
FETCHED_BYTES = Metric("memfs_prefetched_bytes_total", "bytes", Kind.COUNTER, "Their bytes.")
CODEC_CONTENT = Metric(
    "memfs_codec_content_bytes_total",
    "bytes",
    Kind.COUNTER,
    "Uncompressed bytes that a codec encoded.",
    _CODEC,
)
CODEC_STORED = Metric(
    "memfs_codec_stored_bytes_total",
    "bytes",
    Kind.COUNTER,
    "Compressed bytes of the same files.",
    _CODEC,
)
SNAPSHOTS = Metric("memfs_snapshots", "snapshots", Kind.GAUGE, "Snapshots that there are.")
SNAPSHOT_AGE = Metric(
    "memfs_snapshot_newest_age_seconds",
    "seconds",
    Kind.GAUGE,
    "Since the newest snapshot was made; without a snapshot there is no such line.",
)
SNAPSHOT_KEPT = Metric(
    "memfs_snapshot_kept_bytes",
    "bytes",
    Kind.GAUGE,
    "Bytes on the disk that only snapshots show.",
)
EXPORT_AGE = Metric(
    "memfs_export_age_seconds",
    "seconds",
    Kind.GAUGE,
    "Since all was as it is in the newest export of the metadata; without an export"
    " there is no such line.",
)
DATABASE_UP = Metric(
    "memfs_database_up",
    "flag",
    Kind.GAUGE,
    "1 while the database of a shared mount takes changes; 0: they are refused. Without such a"
    " database there is no such line, nor those below of its name.",
)
DATABASE_CUT_OFF = Metric(
    "memfs_database_cut_off_seconds", "seconds", Kind.GAUGE, "So long it has been 0; else 0."
)
DATABASE_UNCONFIRMED = Metric(
    "memfs_database_unconfirmed_changes",
    "changes",
    Kind.GAUGE,
    "Changes that are in the journal of this node, and not known to be in the database.",
)
DATABASE_UNCONFIRMED_AGE = Metric(
    "memfs_database_unconfirmed_age_seconds", "seconds", Kind.GAUGE, "That of the oldest of them."
)
DATABASE_GROUPS = Metric(
    "memfs_database_groups_total",
    "transactions",
    Kind.COUNTER,
    "Transactions with changes; each has all that waited.",
)
DATABASE_CHANGES = Metric(
    "memfs_database_changes_total", "changes", Kind.COUNTER, "Changes in them."
)
DATABASE_RETRIES = Metric(
    "memfs_database_retries_total",
    "transactions",
    Kind.COUNTER,
    "Transactions that were sent again, by the SQLSTATE of the refusal; `lost`: with another"
    " connection.",
    ("sqlstate",),
)
DATABASE_DURATION = Metric(
    "memfs_database_commit_duration_seconds",
    "seconds",
    Kind.HISTOGRAM,
    "From the first byte of a transaction to its answer. The limits are powers of two of 1.024 us.",
)
READER_APPLIED = Metric(
    "memfs_reader_applied_change",
    "number",
    Kind.GAUGE,
    "On a node that reads: number of the last change of the node that writes that it has. Without"
    " that role there is no such line, nor the next one.",
)
READER_LAG = Metric(
    "memfs_reader_lag_changes",
    "changes",
    Kind.GAUGE,
    "Changes that are in the database, and not on this node yet.",
)
REQUEST_DURATION = Metric(
    "memfs_request_duration_seconds",
    "seconds",
    Kind.HISTOGRAM,
    "From the read of a request of the kernel to its reply, by operation. The limits are powers of"
    " two of 1.024 us.",
    ("operation",),
)

METRICS: tuple[Metric, ...] = (
    INFO,
    UPTIME,
    MEMORY,
    STALLS,
    STALLED,
    INODES,
    LOGICAL,
    TIER_CAPACITY,
    TIER_USED,
    TIER_FILES,
    FORM_BYTES,
    FORM_FILES,
    OPENS,
    OPENED,
    USER_WRITES,
    MOVES,
    MOVED,
    QUEUED,
    RUNNING,
    PENDING,
    UNSEALED,
    NOT_DURABLE,
    GARBAGE,
    LOST,
    STORE_UP,
    STORE_CALLS,
    STORE_ERRORS,
    STORE_SENT,
    STORE_RECEIVED,
    SOURCE_CONFLICTS,
    SOURCE_FAILURES,
    QUOTA_LIMIT,
    QUOTA_USED,
    QUOTA_RESERVED,
    GUESSES,
    GUESSES_RIGHT,
    GUESSES_WRONG,
    PRECISION,
    FETCHED_FILES,
    FETCHED_BYTES,
    CODEC_CONTENT,
    CODEC_STORED,
    SNAPSHOTS,
    SNAPSHOT_AGE,
    SNAPSHOT_KEPT,
    EXPORT_AGE,
    DATABASE_UP,
    DATABASE_CUT_OFF,
    DATABASE_UNCONFIRMED,
    DATABASE_UNCONFIRMED_AGE,
    DATABASE_GROUPS,
    DATABASE_CHANGES,
    DATABASE_RETRIES,
    DATABASE_DURATION,
    READER_APPLIED,
    READER_LAG,
    REQUEST_DURATION,
)
"""In the order of the text and of the reference."""
