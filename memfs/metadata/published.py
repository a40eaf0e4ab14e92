"""Published objects: plain objects that memfs has written for others to read.

Invariant: memfs writes or removes an object only on the condition that it is the one of its record:
the etag, or else the token that the record had before the object was sent.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.types import Generation, InodeNo


class PublishProblem(enum.StrEnum):
    """Why an object is not as its file is; the tables of states have these texts for ever."""

    NONE = ""
    """It is, or will be tried."""
    TAKEN = "changed by someone else"
    FORMER = (
        "the former state may publish it still: unmount, then take the store over by memfs "
        "snapshot import --take-over, or publish to another place"
    )
    """In no record: it holds until then."""
    """Somebody else has written or removed it: it waits for people."""


class PublishedObject(NamedTuple):
    """What is known of one."""

    url: str
    """Without secrets."""
    target: str
    """What it was published with: a URL that `url` begins with."""
    ino: InodeNo
    """The file; 0: a part of a manifest."""
    generation: Generation
    """That of the file whose bytes the object has, read back; 0: not known to be there."""
    etag: str
    """That of the last object that memfs has stored there; empty: it knows of no such object."""
    token: str
    """In the metadata of the object that was sent last."""
    size: int
    mtime_ns: int
    digest: bytes
    """BLAKE3-256 of the bytes that were sent last."""
    problem: PublishProblem


class Published(Protocol):
    """The records of published objects."""

    async def put_published(self, published: PublishedObject) -> None:
        """Store what is known of an object, in the place of what was."""
        ...

    async def get_published(self, url: str) -> PublishedObject | None:
        """Return what is known of an object."""
        ...

    async def list_published(self, target: str, after: str, limit: int) -> list[PublishedObject]:
        """Return objects of a target whose URL comes after another one, in order."""
        ...

    async def list_published_of(self, ino: InodeNo) -> list[PublishedObject]:
        """Return all objects of a file, in order of URL; it may be gone."""
        ...

    async def forget_published(self, urls: Sequence[str]) -> None:
        """Forget objects: nothing is removed where they are."""
        ...
