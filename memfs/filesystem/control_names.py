"""The names of the xattrs that control memfs, and their meanings: one table for code and documents.

Invariant: a name that is not in the table is refused, and so is a write to one that only tells.
"""

from __future__ import annotations

from typing import NamedTuple

from memfs.policy.marks import (
    AGES_XATTR,
    MARKS,
    POOL_XATTR,
    PRIORITY_XATTR,
    PUBLISH_DELETED_XATTR,
    PUBLISH_XATTR,
    SNAPSHOT_XATTR,
    STORE_XATTR,
    TENSOR_DTYPE_XATTR,
    TENSOR_MARKS,
    TENSOR_SHAPE_XATTR,
)

TIER_XATTR = b"user.memfs.tier"
PIN_XATTR = b"user.memfs.pin"
STATE_XATTR = b"user.memfs.state"
RESIDENCY_XATTR = b"user.memfs.residency"
WHY_XATTR = b"user.memfs.why"
CODEC_XATTR = b"user.memfs.codec"
DIGEST_XATTR = b"user.memfs.digest"
SNAPSHOT_STATE_XATTR = b"user.memfs.snapshot_state"
SOURCE_XATTR = b"user.memfs.source"
FROZEN_XATTR = b"user.memfs.frozen"
XATTRS_XATTR = b"user.memfs.xattrs"
"""Written as `memfs.client.xattrs` does."""
CACHE_XATTR = b"user.memfs.cache"
LEASE_XATTR = b"user.memfs.lease"
"""What a program needs to attach to a file in the hot tier (`memfs.hot.client`)."""

ASK_XATTR = b"user.memfs.ask"
"""What a user needs to query the mount (`memfs.filesystem.door`)."""


INHERITED_XATTRS = frozenset({TIER_XATTR, CODEC_XATTR, FROZEN_XATTR, *MARKS, *TENSOR_MARKS})
"""Set on a directory they hold for all below it."""


class ControlXattr(NamedTuple):
    """One of them."""

    is_writable: bool
    meaning: str
    """In Markdown, for docs/reference/xattrs.md."""
    is_readable: bool = True


CONTROL_XATTRS: dict[bytes, ControlXattr] = {
    TIER_XATTR: ControlXattr(
        True,
        "Read: the tier now. Write `hot`, `warm`, `cold` or `glacier`: go there and stay (a pin). "
        "Write `auto`, or remove it: unpin. A directory's holds for all below that have no pin of "
        "their own, now and later.",
    ),
    PIN_XATTR: ControlXattr(False, "The pin in force, own or inherited, else `auto`."),
    STATE_XATTR: ControlXattr(
        False,
        "How safe the file is: `dirty`, then `local` (on stable disk), then `remote` (a verified "
        "object of this generation exists); `foreign`: the source that it was adopted from has it; "
        "`lost`: its bytes are nowhere.",
    ),
    RESIDENCY_XATTR: ControlXattr(
        False, "JSON: forms, bytes in RAM, whether locked, devices that have its tensors."
    ),
    WHY_XATTR: ControlXattr(
        False,
        "JSON: the last placement decision, a pending move with its reason and a code for "
        "programs, and the reason why a file cannot be hot. Below `.memfs/snapshots`: which "
        "generation it is, where its bytes are, and until when they are kept.",
    ),
    PRIORITY_XATTR: ControlXattr(
        True,
        "0 to 100, by default 50. Higher moves first and leaves fast tiers last. A directory's "
        "holds for all below.",
    ),
    POOL_XATTR: ControlXattr(
        True,
        "The pool whose share of RAM the file is charged to. A directory's holds for all below.",
    ),
    AGES_XATTR: ControlXattr(
        True,
        'JSON: times without use after which files move on, as `{"hot_to_warm": "2h", '
        '"warm_to_cold": "12h", "pack_after": "3d", "cold_to_glacier": "30d"}`; what it does not '
        "name is as `[policy]` says. A directory's holds for all below.",
    ),
    CODEC_XATTR: ControlXattr(
        True,
        "Codec of packed and remote forms: `zstd:9`, `lz4`, `snappy`, `none`. A directory's holds "
        "for all below.",
    ),
    SNAPSHOT_XATTR: ControlXattr(
        True,
        "`off`: snapshots keep names and attributes, and no bytes that change or go. A directory's "
        "holds for all below; `on` ends that. It counts as it was at the instant of each "
        "snapshot.",
    ),
    STORE_XATTR: ControlXattr(
        True,
        "The object store that it goes to: a name of `[stores.NAME]`, or `default`. A directory's "
        "holds for all below. An object in another store stays there until `memfs relocate`.",
    ),
    PUBLISH_XATTR: ControlXattr(
        True,
        "URL below which all files of a directory are published as plain objects, by their paths "
        "below it: `s3://bucket/results`. It must be below one of `publish.targets`.",
    ),
    PUBLISH_DELETED_XATTR: ControlXattr(
        True,
        "`remove`: a published object goes when its file is removed or renamed, unless somebody "
        "else has changed it. `keep`: it stays. `publish.delete` is the default. A directory's "
        "holds for all below.",
    ),
    FROZEN_XATTR: ControlXattr(
        True,
        "Write `1` to a directory, or run `memfs freeze`: nothing in it or below it changes, and "
        "changes are EROFS. Remove it, or run `memfs thaw`, to end that. Read: the path of the "
        "frozen directory, of all below it too.",
    ),
    DIGEST_XATTR: ControlXattr(False, "BLAKE3 of the content of this generation, where known."),
    SOURCE_XATTR: ControlXattr(
        False,
        "JSON, of an adopted file: URL, ETag, size and time of the object that it was made of; "
        "whether the file has its bytes still; and in what both differ.",
    ),
    TENSOR_DTYPE_XATTR: ControlXattr(
        True,
        "Element type of a file of plain numbers, for the hot tier: `float32`. A directory's holds "
        "for all below.",
    ),
    TENSOR_SHAPE_XATTR: ControlXattr(
        True, "Shape of such a file: `1024,768`; without it, one dimension."
    ),
    SNAPSHOT_STATE_XATTR: ControlXattr(
        False,
        "Below `.memfs/snapshots`: `exact`; `open`, if a program had the file open for writing and "
        "its bytes may be later ones; `absent`, if nothing has its bytes.",
    ),
    XATTRS_XATTR: ControlXattr(
        True,
        "Write a JSON object of xattrs of the user, such as "
        '`{"user.city": "Ulm", "user.old": null}`: all of them change, or nothing does.',
        is_readable=False,
    ),
    CACHE_XATTR: ControlXattr(
        True,
        "Write `drop` before another file takes the place of a large one: its pages make room for "
        "those of the new one, unless a program has it open. `MemoryManager.store` does that.",
        is_readable=False,
    ),
    LEASE_XATTR: ControlXattr(
        False,
        "JSON: the ticket of a program to the tensors of the file on a device; `memfs.torch` reads "
        "it.",
    ),
    ASK_XATTR: ControlXattr(
        True,
        "JSON, of a directory: where a user may ask who has no right to the control socket, and a "
        "token for what lies below; `memfs query` reads that of the root. Write the token back: it "
        "is good for changes, too.",
    ),
}
"""By name, in the order of the table in the reference."""
