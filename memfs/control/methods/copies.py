"""Copies of trees: clones, and restores of snapshots."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from memfs.control.methods.method import Method, WorkParameters


class CloneParameters(TypedDict):
    """What to clone, by paths from the root of the mount."""

    source: str
    target: str
    work: str
    """A name of the work that the client has chosen; unique."""
    replace: NotRequired[bool]


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
