"""The words of memfs as types: identities, tiers, forms, durability.

Invariant: nothing here does I/O, and nothing here imports another module of memfs.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, NewType

InodeNo = NewType("InodeNo", int)
"""Number of an inode; never reused in the life of a state directory; 1 is the root."""

RawId = NewType("RawId", int)
"""Number of a raw file in the state directory; never reused; 0 means that it has no raw file."""

BlobId = NewType("BlobId", int)
"""Number of a sealed content with packed or remote forms; never reused; 0: no blob."""

Generation = NewType("Generation", int)
"""Counts how often an inode's content was opened for change; starts at 1."""

IntentId = NewType("IntentId", int)
"""Number of a recorded move that is under way."""

SnapshotId = NewType("SnapshotId", int)
"""Number of a snapshot; never reused; it is beyond all numbers of what existed before it."""

SourceId = NewType("SourceId", int)
"""Number of a bucket, a prefix or a directory whose objects were adopted; never reused."""

StateId = NewType("StateId", bytes)
"""Identity of a state directory: 16 random bytes, for good; tells what is another one's."""

STATE_ID_BYTES = 16

ROOT_INODE = InodeNo(1)
NO_INODE = InodeNo(0)
NO_RAW = RawId(0)
NO_BLOB = BlobId(0)
NOW = SnapshotId((1 << 63) - 1)
"""The present, where a snapshot is asked for: later than all of them."""

NOW_NAME = "now"
"""How users write it where a snapshot can stand, so that no snapshot has that name."""

OWN_STORE = ""
"""The store of places that memfs itself has made: the state directory, and its object store."""

NAME_BYTES_MAX = 255
"""Longest name of a dentry or an xattr (`NAME_MAX`, `XATTR_NAME_MAX` in linux/limits.h)."""

XATTR_VALUE_BYTES_MAX = 65536
"""Longest value of an xattr (`XATTR_SIZE_MAX` in linux/limits.h)."""
SETTING_VALUE_BYTES_MAX = 65536
"""Longest value of a setting of the engine; guess: what is longer belongs into a file."""

METRIC_BYTES_MAX = 4096
"""Longest row of a ring of metrics; a row has some 300 bytes."""

DRIVERS = ("auto", "kernel", "pyfuse3")
"""How the kernel is served, as users write it; `auto` takes the first of the others that can."""

WRITER, READER = ROLES = ("writer", "reader")
"""What a node of a shared mount does, as users write it."""

FILESYSTEM_TYPE = "fuse.memfs"
"""How the kernel lists a mount, by either driver; its source is the state directory."""

BLOCK_BYTES = 512
"""Unit of `st_blocks` (stat(2))."""


class Tier(enum.IntEnum):
    """Rank of a place for bytes; a higher value is faster."""

    GLACIER = 1
    COLD = 2
    WARM = 3
    HOT = 4

    @property
    def label(self) -> str:
        """The word that users see and write: `glacier`, `cold`, `warm`, `hot`."""
        return self.name.lower()


class FormKind(enum.StrEnum):
    """In which shape a content's bytes exist."""

    RAW = "raw"
    """A plain local file: the only form that is written, mapped and passed through."""
    PACKED = "packed"
    """A local file of independently compressed frames with a seek table."""
    REMOTE = "remote"
    """One object in the glacier store, in the same frame layout as packed."""


class Layout(enum.StrEnum):
    """How the bytes of a packed or remote form lie."""

    CONTAINER = "container"
    """Independent frames with a seek table, perhaps compressed and encrypted."""
    PLAIN = "plain"
    """They are the file's bytes, as other programs have written them."""


class Place(NamedTuple):
    """Where the bytes of a packed or remote form lie; no two contents ever share one."""

    key: str
    """Packed: path below the state directory. Remote: key of the object."""
    offset: int | None = None
    """In the object, a batch that holds other forms as well; None: the form is all of it."""
    store: str = OWN_STORE
    """`OWN_STORE`, or the source that the object was adopted from."""
    etag: str = ""
    """That the object had when it was adopted; empty: memfs has written it."""
    version: str = ""
    """That of the object, where its bucket keeps versions."""

    def __str__(self) -> str:
        """How messages, and settings about a form, name it."""
        text = self.key if self.offset is None else f"{self.key}@{self.offset}"
        return f"{self.store}:{text}" if self.store else text


class PendingCode(enum.StrEnum):
    """What a move waits for, as programs read it; a sentence for people stands beside it.

    Invariant: rows and metrics of earlier days have these words, and numbers by their order: new
    ones are appended.
    """

    QUOTA = "quota"
    """Room in a quota of the day."""
    OPEN = "open"
    """A program that has the file open or mapped."""
    USE = "use"
    """The time for which a copy stays that was used just now."""
    SHARED = "shared"
    """Another file that shares the form."""
    ARCHIVED = "archived"
    """The restore of an archived object."""
    RAM = "ram"
    """Room in the RAM tier, or in a pool of it."""
    DISK = "disk"
    """Room on the disk."""
    KEY = "key"
    """A key that is not configured."""
    DAMAGE = "damage"
    """Somebody who mends a form that is damaged or missing."""
    STORE = "store"
    """An object store that does not do what it is asked."""
    OTHER = "other"
    """What has no word of its own, or was stored by a version without these words."""
    FULL = "full"
    """Room on a device of the hot tier."""


class Durability(enum.StrEnum):
    """How safe the current generation of a file is."""

    DIRTY = "dirty"
    """Not yet known to be on stable storage."""
    LOCAL = "local"
    """On stable local disk."""
    REMOTE = "remote"
    """A verified remote object of this generation exists."""
    FOREIGN = "foreign"
    """A source has its bytes: they are as safe as the source is."""
    LOST = "lost"
    """Its bytes are nowhere: reading is EIO, until it is written anew."""


class CodecSpec(NamedTuple):
    """A codec by name with its level, as users write it: `zstd:3`, `lz4`, `none`."""

    name: str
    level: int | None
    """Codec's own scale; None means the codec's default."""

    def __str__(self) -> str:
        return self.name if self.level is None else f"{self.name}:{self.level}"


class ByteRange(NamedTuple):
    """Half-open range of a file's bytes: `[start, end)`."""

    start: int
    end: int


class FormCoding(NamedTuple):
    """How a form is encoded."""

    codec: str
    """Codec spec as text."""
    shuffle_bytes: int = 1
    """Item size of the byte-shuffle filter; 1: no filter."""
    key_id: str = ""
    """Id of the key that encrypts it, as hexadecimal digits; empty: it is not encrypted."""
    table_id: str = ""
    """`SeekTable.fingerprint` of a container in clear; empty: not known, or encrypted."""

    def __str__(self) -> str:
        """How users read it: `zstd:3 shuffle:2 key:1f2e... table:9a...`."""
        words = [self.codec]
        if self.shuffle_bytes > 1:
            words.append(f"shuffle:{self.shuffle_bytes}")
        if self.key_id:
            words.append(f"key:{self.key_id}")
        if self.table_id:
            words.append(f"table:{self.table_id}")
        return " ".join(words)
