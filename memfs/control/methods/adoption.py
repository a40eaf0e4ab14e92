"""Adoption of buckets and directories."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from memfs.control.methods.method import Method, Nothing, WorkParameters
from memfs.control.methods.trees import WorkReport


class AdoptParameters(TypedDict):
    """A source, and the directory that its objects are to be below, from the root of the mount."""

    url: str
    path: str
    work: str
    mode: NotRequired[int | None]
    uid: NotRequired[int | None]
    gid: NotRequired[int | None]
    watch_s: NotRequired[int | None]
    deleted: NotRequired[str | None]
    """`keep` or `remove`."""
    store: NotRequired[str | None]
    """Name of a store with credentials."""
    take: NotRequired[str | None]
    """`reference`, `copy` or `move`, of a directory of this machine."""
    options: NotRequired[dict[str, object] | None]
    """Those of the fsspec file system; no secrets."""
    lazy: NotRequired[bool]
    """Directories are listed when somebody looks into them."""
    head: NotRequired[bool]
    """Each new object is looked at, for its content type and its metadata."""


class RefreshParameters(TypedDict):
    """A source by its directory."""

    path: str
    work: str
    watch_s: NotRequired[int | None]
    deleted: NotRequired[str | None]
    confirm: NotRequired[bool]
    """Remove files however many of them are gone."""


class AdoptReport(TypedDict):
    """How far a listing is; see `jobs.refreshing.RefreshTally`."""

    ended: bool
    """False: ask again to go on."""
    source: int
    listed_count: int
    listed_bytes: int
    made_count: int
    directory_count: int
    replaced_count: int
    removed_count: int
    gone_count: int
    conflict_count: int
    odd_count: int
    odd: list[str]
    refused_count: int
    refused: list[str]
    taken_count: int
    taken_bytes: int
    failed_count: int
    failures: list[str]
    problem: str
    """Why nothing was removed; empty: no problem."""
    waiting: bool
    """Somebody else lists the source, and that has to end first."""


class SourceReport(TypedDict):
    """A source."""

    source: int
    url: str
    path: str
    """That of its directory; empty: that was removed."""
    watch_s: int
    deleted: str
    listed_ns: int
    object_count: int
    unlisted_count: int
    """Directories that nobody has looked into, of a source that was adopted lazily."""
    problem: str
    waits: str
    """Why it is not listed although it is watched and due; empty: it does not wait."""


class SourcePathParameters(TypedDict):
    """A source by its directory."""

    path: str


class ReleaseParameters(TypedDict):
    """A directory that was adopted, by its place in the mount."""

    path: str
    work: str


class OwnParameters(TypedDict):
    """Files."""

    inos: list[int]


ADOPT = Method("adopt", AdoptParameters, AdoptReport)
ADOPT_REFRESH = Method("adopt_refresh", RefreshParameters, AdoptReport)
ADOPT_CANCEL = Method("adopt_cancel", WorkParameters, type(None))
ADOPT_SOURCES = Method("adopt_sources", Nothing, list[SourceReport])
ADOPT_OWN = Method("adopt_own", OwnParameters, WorkReport)
ADOPT_RELEASE = Method("adopt_release", ReleaseParameters, AdoptReport)
ADOPT_FORGET = Method("adopt_forget", SourcePathParameters, int)
