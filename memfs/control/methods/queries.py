"""Queries, their indexes, and what directories hold."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from memfs.control.methods.method import Method, Nothing
from memfs.control.report import FieldIndexReport, IndexReport  # noqa: TC001 - `typed` evaluates them


class QueryParameters(TypedDict):
    """A page of what a filter finds."""

    filter: str
    """In JSON."""
    sort: NotRequired[str | None]
    token: NotRequired[str | None]
    """That of the page before."""
    limit: NotRequired[int]
    names: NotRequired[bool]
    """False: files are only counted."""
    attributes: NotRequired[bool]
    at: NotRequired[str | None]
    """Name of a snapshot; null: now."""


class UserQueryParameters(QueryParameters):
    """The same of a user who has no right to the control socket."""

    ticket: str
    """That of `user.memfs.ask`."""


class FoundReport(TypedDict):
    """A file; see `filesystem.querying.FoundFile`."""

    ino: int
    path: str
    size: int
    mtime_ns: int
    attributes: dict[str, str] | None


class QueryReport(TypedDict):
    """A page; see `filesystem.querying.Answer`."""

    files: list[FoundReport]
    count: int
    token: str | None
    driver: str
    place: Literal["loop", "reader"]
    is_exact: bool
    duration_s: float
    notes: list[str]


class NamesReport(TypedDict):
    """The indexes: that of xattrs, and those that were added."""

    fields: list[FieldIndexReport]
    index: IndexReport
    names: list[str]
    """Those of the xattrs that can be asked for."""


TreeOrder = Literal["bytes", "heat", "name"]


class TreeParameters(TypedDict):
    """A directory to look into."""

    path: str
    """From the root of the mount; empty: the root."""
    order: NotRequired[TreeOrder]
    """`heat`: what was used last comes first."""
    limit: NotRequired[int]


class TreeEntryReport(TypedDict):
    """A name in a directory."""

    name: str
    ino: int
    kind: Literal["file", "directory", "other"]
    file_count: int
    """Files at it and below it."""
    size: int
    """Their sizes as of the last close; a file with several names counts for each of them."""
    local_bytes: int
    """Those of the files that are on the disk, plain or packed."""
    accessed_ns: int
    """When one of them was used last; some minutes late."""


class TreeReport(TypedDict):
    """What a directory holds."""

    is_summed: bool
    """False: that took too long, and directories count as empty."""
    name_count: int
    """Names in the directory; the next three are sums of all of them."""
    file_count: int
    size: int
    local_bytes: int
    entries: list[TreeEntryReport]
    """The first names in the order that was asked for."""


TREE = Method("tree", TreeParameters, TreeReport)
QUERY = Method("query", QueryParameters, QueryReport)
QUERY_AS_USER = Method("query_as_user", UserQueryParameters, QueryReport)
QUERY_INDEX = Method("query_index", Nothing, NamesReport)


class IndexParameters(TypedDict):
    """Which index."""

    field: str
    """`$size`, `$mtime` or `$name`; or the name of an xattr, of the texts in it."""


INDEX_ADD = Method("index_add", IndexParameters, type(None))
INDEX_DROP = Method("index_drop", IndexParameters, type(None))
PUBLISH = Method("publish_tables", Nothing, type(None))
