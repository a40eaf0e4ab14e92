"""Small files, many at a time; asked for on the socket of users."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from memfs.control.methods.method import Method

LEFT, AGAIN = -1, -2
"""What stands for the size of a file that was not read."""


class PutSmallParameters(TypedDict):
    """Files that a user makes; one list each, in the same order."""

    ticket: str
    """That of `user.memfs.ask` of a directory, which was written back."""
    paths: list[str]
    """Below that directory; bytes that are no text as `os.fsdecode` has them."""
    sizes: list[int]
    """Bytes of each content."""
    contents: str
    """All of them, one behind the other, in base64."""
    xattrs: list[str]
    """Those of each, in JSON, as `user.memfs.xattrs` takes them."""
    umask: int
    replace: bool
    """Files of these names give way."""
    tier: str | None
    """A pin of each: `warm`, `cold`, `glacier`."""
    durable: NotRequired[bool]
    """The answer waits until they are on stable storage."""


class PutSmallReport(TypedDict):
    """What became of them."""

    mtimes_ns: list[int]
    """One for each; 0: it was left, or could not be made durable; the user has to make it by
    requests, which tell why."""


class GetSmallParameters(TypedDict):
    """Files that a user reads."""

    ticket: str
    """That of `user.memfs.ask` of a directory."""
    paths: list[str]
    """Below that directory."""
    xattr: str
    """Name of one that is wanted of each."""


class GetSmallReport(TypedDict):
    """What is in them."""

    sizes: list[int]
    """Bytes of each; `LEFT`: the user has to open it; `AGAIN`: this answer had no room for it."""
    contents: str
    """All of them, one behind the other, in base64."""
    xattrs: list[str]
    """One for each, as `os.fsdecode` returns it; empty: there is no such xattr."""


PUT_SMALL = Method("put_small_as_user", PutSmallParameters, PutSmallReport)
GET_SMALL = Method("get_small_as_user", GetSmallParameters, GetSmallReport)
