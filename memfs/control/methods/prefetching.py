"""Files that will be used: lists to bring near, and hints."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from memfs.control.methods.method import Method


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
