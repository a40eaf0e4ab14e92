"""Upkeep: scrubbing, and collecting garbage."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from memfs.control.methods.method import Method, Nothing


# --- scrubbing ------------------------------------------------------------------------------------
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


# --- collecting garbage ---------------------------------------------------------------------------
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
    needed_count: int
    """Other objects that stay because nodes that read may need them."""


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
    held_count: int


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
