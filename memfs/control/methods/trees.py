"""Work on the files of trees: safety, compression, keys, stores, publishing."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from memfs.control.methods.method import Method, Nothing


# --- work on trees --------------------------------------------------------------------------------
class RekeyParameters(TypedDict):
    """Files to bring under the newest key."""

    inos: list[int]
    dry_run: NotRequired[bool]


class RelocateParameters(TypedDict):
    """Files whose objects are to be in the stores that they belong in."""

    inos: list[int]
    dry_run: NotRequired[bool]


class KeptBlobsParameters(TypedDict):
    """Which contents to list that only snapshots show."""

    after: NotRequired[int]
    """The last one of the page before."""
    limit: NotRequired[int]


class RekeyKeptParameters(TypedDict):
    """Contents that only snapshots show, to bring under the newest key."""

    blobs: list[int]
    dry_run: NotRequired[bool]


class CompressParameters(TypedDict):
    """Files to pack."""

    inos: list[int]
    codec: NotRequired[str | None]
    drop_raw: NotRequired[bool]
    dry_run: NotRequired[bool]


class BarrierParameters(TypedDict):
    """Files to bring to a level of safety."""

    inos: list[int]
    level: Literal["local", "remote"]


class WorkReport(TypedDict):
    """What a call of work on a tree came to."""

    taken_count: int
    """Files that are done, the first ones."""
    outcomes: dict[str, int]
    before_bytes: int
    after_bytes: int
    moved_bytes: int
    left: dict[str, list[str]]
    """Outcome and reason, by inode number, of files that are not as they were asked to be."""
    keys: NotRequired[dict[str, list[int]]]
    """Those of `rekey`: forms and stored bytes by the key that they had."""


class MovesReport(TypedDict):
    """Moves under way."""

    count: int
    done_bytes: int
    total_bytes: int


REKEY = Method("rekey", RekeyParameters, WorkReport)
RELOCATE = Method("relocate", RelocateParameters, WorkReport)
KEPT_BLOBS = Method("kept_blobs", KeptBlobsParameters, list[int])
REKEY_KEPT = Method("rekey_kept", RekeyKeptParameters, WorkReport)
COMPRESS = Method("compress", CompressParameters, WorkReport)
BARRIER = Method("barrier", BarrierParameters, WorkReport)
MOVES = Method("moves", Nothing, MovesReport)


# --- publishing -----------------------------------------------------------------------------------
class PublishParameters(TypedDict):
    """Files to publish."""

    inos: list[int]
    root: int
    """The directory that they are below, or the only one of them."""
    url: str
    unconditional: NotRequired[bool]
    """Also where the place knows no conditions."""
    replaces: NotRequired[bool]
    """Also where the object is of a file of another directory."""


class PublishPartParameters(TypedDict):
    """A part of a manifest."""

    url: str
    key: str
    path: str
    """A local file; empty: the part is removed instead."""
    unconditional: NotRequired[bool]
    """As of `PublishParameters`."""


class PublishRemovedParameters(TypedDict):
    """Where to look for objects whose files are gone."""

    root: int
    url: str
    deleted: NotRequired[str]
    """`keep` or `remove`; empty: as the directory, or else the configuration, says."""


class RemovedReport(TypedDict):
    """What became of objects whose files are gone."""

    removed_count: int
    left_count: int
    problems: list[str]


class PublishedParameters(TypedDict):
    """Which published objects to list."""

    url: str
    after: NotRequired[str]
    limit: NotRequired[int]


class PublishedReport(TypedDict):
    """Published objects, in order of key."""

    objects: list[dict[str, Any]]


PUBLISH_OBJECTS = Method("publish", PublishParameters, WorkReport)
PUBLISH_PART = Method("publish_part", PublishPartParameters, str)
PUBLISH_REMOVED = Method("publish_removed", PublishRemovedParameters, RemovedReport)
PUBLISHED = Method("published", PublishedParameters, PublishedReport)
