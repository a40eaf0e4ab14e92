"""What the metadata engine stores and returns: immutable rows, by value.

Invariant: a record is a snapshot; changing the file system means calling the engine, never a
record. NamedTuple and not dataclass: `Inode._make(row)` costs a quarter of a frozen dataclass.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from memfs.types import (
    NO_BLOB,
    NOW,
    OWN_STORE,
    BlobId,
    FormCoding,
    FormKind,
    Generation,
    InodeNo,
    IntentId,
    Layout,
    PendingCode,
    Place,
    RawId,
    SnapshotId,
    Tier,
)

if TYPE_CHECKING:
    from memfs.namespace.permissions import Credentials


class InodeFlags:
    """State bits of an inode. Plain integers: an IntFlag costs half a microsecond for each `&`."""

    UNSEALED: Final = 1
    """Its raw file may have a writer: size and times come from `fstat` of the raw file."""
    DURABLE: Final = 2
    """The raw file of this generation is known to be on stable storage."""


class Inode(NamedTuple):
    """One inode: POSIX attributes and where its content is."""

    ino: InodeNo
    mode: int
    """File type and permission bits, as `st_mode` (inode(7))."""
    uid: int
    gid: int
    nlink: int
    """0: an orphan, kept until no handle and no kernel reference is left."""
    rdev: int
    """Device number of a device node as `st_rdev`, else 0."""
    size: int
    """Bytes; of an unsealed file only the size at the last seal. For a symlink: length of the
    target."""
    blocks: int
    """Units of 512 bytes at the last seal; reported while the raw file is absent."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    generation: Generation
    raw: RawId
    """The raw file that holds the content, or 0 (`NO_RAW`)."""
    blob: BlobId
    """The sealed blob whose packed and remote forms equal the content, or 0 (`NO_BLOB`)."""
    flags: int
    """Those of `InodeFlags`."""
    pin: int
    """The inode's own pin as `Tier` value; 0: it has no own pin."""
    codec: str | None
    """The inode's own codec as users wrote it (`zstd:9`), or None."""
    accessed_ns: int
    """Last open or read that memfs knows of, for the mover; not `atime`."""


class DirectoryEntry(NamedTuple):
    """One dentry with its inode, as readdir returns it."""

    cookie: int
    """Position after this dentry: pass it to continue. Stable while others come and go; > 2."""
    name: bytes
    inode: Inode


class AttributeChanges(NamedTuple):
    """What setattr changes; None leaves a field as it is."""

    mode: int | None = None
    """Permission bits (07777); the file type is kept."""
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    blocks: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class WrittenRaw(NamedTuple):
    """A raw file whose bytes are all there: nobody writes to it any more."""

    size: int
    """Bytes."""
    blocks: int
    """Each has 512 bytes, as in stat(2)."""
    mtime_ns: int


class NewInode(NamedTuple):
    """All that creating an inode needs; numbers are reserved before (`Engine.reserve_ids`)."""

    ino: InodeNo
    mode: int
    uid: int
    gid: int
    now_ns: int
    rdev: int = 0
    raw: RawId = RawId(0)
    """For a regular file: its raw file, which exists already."""
    target: bytes = b""
    """For a symlink: what readlink returns."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Extended attributes from the first instant on (inherited ACLs)."""
    written: WrittenRaw | None = None
    """What is in the raw file: the inode starts sealed. None: it is empty, and starts unsealed."""

    def as_inode(self, nlink: int) -> Inode:
        """Return the inode that this makes."""
        ino, mode, uid, gid, now_ns, rdev, raw, target, _, written = self
        if written is not None:
            return Inode(
                ino, mode, uid, gid, nlink, rdev, *written[:2], now_ns, written.mtime_ns, now_ns,
                now_ns, Generation(1), raw, NO_BLOB, 0, 0, None, now_ns,
            )  # fmt: skip
        flags = InodeFlags.UNSEALED if raw else 0
        return Inode(
            ino, mode, uid, gid, nlink, rdev, len(target), 0, now_ns, now_ns, now_ns, now_ns,
            Generation(1), raw, NO_BLOB, flags, 0, None, now_ns,
        )  # fmt: skip


class RenameResult(NamedTuple):
    """What a rename moved and what it replaced."""

    moved: Inode
    replaced: Inode | None
    """The inode that lost its name, as it is afterwards (nlink may be 0), or that was exchanged;
    None if there was no such thing."""


class Seal(NamedTuple):
    """One file whose last writer is gone, with the attributes of its raw file at that time."""

    ino: InodeNo
    generation: Generation
    """Nothing happens if the inode has moved on from this generation."""
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Blob(NamedTuple):
    """A sealed content with at least one packed or remote form, or one about to get it."""

    blob: BlobId
    size: int
    """Uncompressed bytes."""
    digest: bytes
    """BLAKE3-256 of the uncompressed bytes; 32 bytes."""


class Form(NamedTuple):
    """A packed or remote form of a blob (raw forms live in `Inode.raw`)."""

    blob: BlobId
    kind: FormKind
    place: Place
    coding: FormCoding
    """How a container is encoded; a plain form has the codec `none`."""
    stored_bytes: int
    """Length of the file, of the object, or of the part of a batch."""
    layout: Layout = Layout.CONTAINER
    owned: bool = True
    """False: memfs has not written it, and never changes, moves or removes what lies there."""

    @property
    def is_foreign(self) -> bool:
        """True for an object of a source (`foreign.ForeignObject.as_form`)."""
        return self.place.store != OWN_STORE

    @property
    def start(self) -> int:
        """Where it begins in its file or object, bytes."""
        return self.place.offset or 0

    @property
    def end(self) -> int:
        """Where it ends there."""
        return self.start + self.stored_bytes

    def fits(self, object_bytes: int) -> bool:
        """Return whether a file or an object of that size is what this form lies in."""
        whole = self.place.offset is None
        return self.end == object_bytes if whole else self.end <= object_bytes


class BatchMember(NamedTuple):
    """One file's verified part of a batch that was uploaded."""

    ino: InodeNo
    generation: Generation
    blob: Blob
    form: Form


class FormReplacement(NamedTuple):
    """A packed or remote form, and that of the same kind and content that takes its place."""

    former: Form
    form: Form


class Batch(NamedTuple):
    """An object that holds the remote forms of many small files."""

    key: str
    size_bytes: int
    live_count: int
    """Forms that lie in it; at least 1."""
    live_bytes: int
    """The sum of their `stored_bytes`; the rest of the object is dead."""


class PlacedObject(NamedTuple):
    """An object that forms of memfs lie in."""

    key: str
    size_bytes: int
    """That of the whole object."""


class StoredUntil(NamedTuple):
    """Where a slice of the forms in a store has ended, in the order of their places."""

    key: str
    offset: int


class StoredCount(NamedTuple):
    """A slice of the forms in a store."""

    form_count: int
    stored_bytes: int
    until: StoredUntil | None
    """None: nothing is behind it."""


class GarbageItem(NamedTuple):
    """A file or object that nothing refers to any more and that is still to be removed."""

    item: int
    """Number of the row, for `clear_garbage`."""
    kind: FormKind
    location: str
    """Raw: decimal `RawId`. Packed and remote: as in `Place.key`."""


class MoveKind(enum.StrEnum):
    """The moves that are recorded before they begin."""

    PACK = "pack"
    """raw -> packed"""
    UPLOAD = "upload"
    """raw or packed -> remote"""
    HYDRATE = "hydrate"
    """packed or remote -> raw"""
    BATCH = "batch"
    """raw, packed or batched of many files -> one remote object"""


class Intent(NamedTuple):
    """A move that was begun and has neither been published nor given up."""

    intent: IntentId
    kind: MoveKind
    ino: InodeNo
    """The file; of a batch, and of a copy that becomes another file's, 0 (`NO_INODE`)."""
    generation: Generation
    location: str
    """Where the move writes: what to remove when it is rolled back (form as in `GarbageItem`)."""
    begun_ns: int


class PendingMove(NamedTuple):
    """Why a wanted tier is not reached yet, and when it is tried again."""

    ino: InodeNo
    wanted: Tier
    reason: str
    """One sentence for a user: cause and remedy."""
    attempt_count: int
    retry_ns: int
    """Wall-clock time of the next attempt, nanoseconds since the epoch."""
    since_ns: int
    """When it began to wait; 0: an earlier version of memfs knew, and has not kept it."""
    code: PendingCode
    """What it waits for; `OTHER` if an earlier version of memfs has recorded it."""
    until_ns: int = 0
    """When that is over at the latest, as a provider or a quota says, since the epoch; 0: nobody
    knows."""


class MetricRow(NamedTuple):
    """What was measured in one period."""

    resolution_s: int
    """Length of the period; one of `metrics.rings.RINGS`."""
    at_s: int
    """When it began, seconds since the epoch; a multiple of its length."""
    numbers: bytes
    """As `metrics.numbers` encodes them, 0..`METRIC_BYTES_MAX` bytes."""


class Event(NamedTuple):
    """Something that a person decided, or that went wrong."""

    number: int
    """From 1 on, without a gap; 0: not stored yet."""
    at_ns: int
    kind: str
    """One word, such as `pin` or `store`."""
    subject: str
    """What it is about: a path, or empty."""
    detail: str
    """One sentence."""


class Decision(NamedTuple):
    """The last placement decision on a file, for `user.memfs.why`."""

    rule: str
    """Name of the rule: `pin`, `watermark`, `age`, `open`, `seal`, ..."""
    detail: str
    """One sentence for a user."""
    moved_bytes: int
    decided_ns: int


class EffectivePin(NamedTuple):
    """The pin in force on an inode."""

    tier: Tier | None
    """None: `auto`."""
    source: InodeNo
    """The inode that carries the pin; the asked one itself if no inode does."""


class FileOrder(NamedTuple):
    """By what found files are sorted; those with nothing to sort by come last."""

    field: str
    """An xattr with its prefix, `$size` or `$mtime`."""
    descending: bool = False


ExportPosition = tuple[int, "int | str"]
"""Where a page of an export ends: an inode and 0, a directory and a cookie, or a source and a key
in hexadecimal digits; (0, 0) before the first one."""


class FilePosition(NamedTuple):
    """Where a page of found files ended; the next one goes on behind it."""

    driver: str
    """The field whose index leads through the files; empty: their numbers do."""
    segment: int
    """Which part of the walk."""
    value: int | float | str | None
    ino: InodeNo


class FilePage(NamedTuple):
    """Some of the files that a filter finds."""

    inos: list[InodeNo]
    after: FilePosition | None
    """Where to go on; None: these were the last."""
    is_exact: bool
    """False: some may not match, since the filter has conditions that the engine cannot decide."""
    driver: str
    """As in `FilePosition`."""


class Scope(NamedTuple):
    """What a question is asked to: which instant, and for whom."""

    snap: SnapshotId = NOW
    """That of a snapshot, with the names, attributes and permissions of then."""
    caller: Credentials | None = None
    """Finds what `find` and `getfattr`, run by it, would have found; None: finds everything."""

    @property
    def is_everything(self) -> bool:
        """True for all that there is now."""
        return self.snap == NOW and self.caller is None


EVERYTHING = Scope()


XATTR_BYTES_DESCRIBED_MAX = 1 << 20
"""The most that is told of one inode; a file may have gigabytes of xattrs. Guess: 16 long ones."""


class FoundInode(NamedTuple):
    """An inode as a scope shows it."""

    ino: InodeNo
    paths: tuple[bytes, ...]
    """From the root, without the first slash; those that the caller can go. At least one."""
    size: int
    """As of the last seal."""
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] | None
    """All by name; None: the caller may not read the file, or did not ask, or they are longer than
    `XATTR_BYTES_DESCRIBED_MAX`."""


class IndexProgress(NamedTuple):
    """How complete the index of attributes is."""

    is_whole: bool
    """Everything that can be asked for is in it."""
    through: InodeNo
    """All inodes up to here are in it."""
    last: InodeNo
    """The highest inode number."""
    name_count: int
    is_short_of_names: bool
    """Some names are not in it, since there are more than `query.name_count_max`."""


class ElementProgress(NamedTuple):
    """How complete the index of elements of JSON arrays is; it goes from name to name of xattrs."""

    is_whole: bool
    array_count: int
    """Arrays that it has taken in since the mount began, but for those that were set meanwhile."""
    done_name_count: int
    """All arrays of so many names are in it."""
    name_count: int


class IndexState(enum.Enum):
    """What an index that was added is good for."""

    BUILDING = "building"
    """It leads nowhere yet."""
    WHOLE = "whole"
    LEAVING = "leaving"
    """It was dropped, and its entries go in steps."""


class FieldIndex(NamedTuple):
    """An index that was added."""

    field: str
    """One that memfs itself fills, or the name of an xattr: of the texts in it."""
    state: IndexState
    through: InodeNo
    """All inodes up to here are in it."""
    last: InodeNo
    """The highest inode number."""


class WorkCounts(NamedTuple):
    """What is not done yet; each number stops at a limit."""

    unsealed_count: int
    """Files that may have a writer."""
    not_durable_count: int
    """Sealed files whose raw bytes are not known to be on stable storage."""
    intent_count: int
    """Moves under way."""
    pending_count: int
    """Moves that wait."""


class Snapshot(NamedTuple):
    """An instant of the file system that is kept."""

    snap: SnapshotId
    name: str
    created_ns: int
    description: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """Key and value, in order of key."""
    kept_until_ns: int | None = None
    """No rule removes it before; None: any rule may."""


class SnapshotUsage(NamedTuple):
    """What there is of snapshots."""

    snapshot_count: int
    newest_ns: int | None
    """When the newest one was made; None: there is no snapshot."""
    leaving_count: int
    """Deleted ones, of which something is still to be removed."""
    kept_raw_count: int
    """Raw files that only snapshots show."""
    kept_raw_bytes: int
    """Their allocated bytes; a part of `Usage.raw_bytes`."""


class HeldContent(NamedTuple):
    """Bytes that only snapshots show, and which of them do; deleted ones do not count."""

    ino: InodeNo
    generation: Generation
    oldest: SnapshotId | None
    """The first that shows it, or its blob; None: not one does, and it goes in the background."""
    newest: SnapshotId | None
    """The last that does: the same one, if it alone holds it."""
    raw_bytes: int
    """Allocated. All three are 0 for what a file has as well, or another row before."""
    packed_bytes: int
    remote_bytes: int


class OpenContent(NamedTuple):
    """A file that a program has open for writing, at the instant of a snapshot."""

    ino: InodeNo
    size: int
    """Bytes of its raw file."""
    mtime_ns: int


class KeptContent(NamedTuple):
    """Bytes of an earlier generation that snapshots show."""

    ino: InodeNo
    generation: Generation
    raw: RawId
    """A raw file of its own, or 0 (`NO_RAW`)."""
    blob: BlobId
    """A blob, which lives as long; 0 (`NO_BLOB`) where it has a raw file."""
    size: int
    """Without raw file and blob: as large as it was, but its bytes are lost."""
    blocks: int
    """Units of 512 bytes of the raw file."""
    mtime_ns: int
    open: bool
    """A writer had it, and may have changed it after the snapshot."""


class Difference(NamedTuple):
    """What has become of one inode between two instants."""

    ino: InodeNo
    before: Inode | None
    """At the earlier instant; None: it was not in the tree. Both are as of `inode_at`."""
    after: Inode | None
    """At the later instant; None: it was not in the tree."""
    paths_before: tuple[bytes, ...]
    """All its paths at the earlier instant, in order of their making."""
    paths_after: tuple[bytes, ...]
    xattrs_differ: bool


class DifferencePage(NamedTuple):
    """A part of all differences."""

    differences: tuple[Difference, ...]
    """In order of inode; maybe empty."""
    position: InodeNo | None
    """Where to go on; None: that was all."""


class Usage(NamedTuple):
    """What the namespace holds, by the engine's own accounting in O(1)."""

    inode_count: int
    logical_bytes: int
    """Sum of sizes of sealed regular files, modulo 2^64."""
    raw_count: int
    raw_bytes: int
    """Allocated bytes (512 * blocks) of raw files at their last seal."""
    packed_count: int
    packed_bytes: int
    remote_count: int
    remote_bytes: int
    garbage_count: int
