"""Snapshots: what they hold, how they differ, and exports of them."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from memfs.control.methods.method import Method, Nothing


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
    notes: list[str]
    """What the snapshot lacks otherwise."""


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
    """A complete export in the store; see `exports.notes.ExportNote`."""

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
