"""The remote store's contract: whole objects in, byte ranges out.

Invariant: `put_file` returns only after the object can be read back whole; a failed or interrupted
one leaves no object, or one that `delete` removes. Implementations stay small: retry, limits and
injected faults are decorators of this contract (`stores.retry`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.stores.parts import PartSlots

PART_BYTES = 8 << 20
"""Bytes of one request of a transfer; at least 5 MiB for S3. Guess: hides 50 ms round trips."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a store knows of an object."""

    key: str
    size: int
    """Bytes."""
    modified_s: float | None = field(default=None, compare=False)
    """When it was written, by the store's clock, seconds since the epoch; told by `list`, and None
    where the store does not know."""


class ByteSource(Protocol):
    """Bytes of an object that are made while it is uploaded; read by one worker thread."""

    @property
    def size_max(self) -> int:
        """At most so many bytes will come."""
        ...

    def read(self) -> bytes:
        """Return the next bytes, as they come; empty: that was all.

        Raises:
            StoreError: Their maker has failed; what was sent is to be thrown away.
        """
        ...

    def close(self) -> None:
        """Nothing else is wanted, whether all came or not; idempotent."""
        ...


class RemoteStore(Protocol):
    """An object store as memfs uses it. Keys are ASCII, `/`-separated, made by memfs itself.

    Where a mount has several stores, `stores.together` takes addresses for keys.

    Every method checkpoints, can be cancelled, and is idempotent. A call that the store does not
    answer within the configured deadline raises `StoreUnavailableError`: nothing ever hangs.

    Raises (every method):
        StoreUnavailableError: Not reachable, too slow, throttled, 5xx. Transient.
        StoreError: Refused for good: credentials, missing bucket, bad request.
    """

    @property
    def url(self) -> str:
        """The store as users know it, without secrets: `s3://bucket/prefix`, `file:///srv/x`."""
        ...

    @property
    def slots(self) -> PartSlots:
        """Room in memory for parts of its objects; who reads whole objects takes some of it."""
        ...

    def of(self, address: str) -> RemoteStore:
        """Return the store that has an object: itself, unless it stands for several.

        Raises:
            StoreNotConfiguredError: It stands for several, and that one is not among them.
        """
        ...

    async def put_file(self, key: str, source: Path) -> None:
        """Store a local file's bytes as an object, replacing an older one whole."""
        ...

    async def put_stream(self, key: str, source: ByteSource) -> None:
        """Store bytes as an object while they are made; tried once, since they come once.

        Closes the source once its thread ends. Memory is bounded by some parts.
        """
        ...

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes `[start, end)`; fewer only at the object's end.

        Raises:
            ObjectMissingError: There is no such object.
            ObjectArchivedError: It has to be restored first, which is begun if it is not under way.
        """
        ...

    async def get_file(self, key: str, target: Path) -> None:
        """Write an object's bytes into a new local file (not fsynced)."""
        ...

    async def stat(self, key: str) -> ObjectStat:
        """Return an object's size; `ObjectMissingError` if it is missing."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; no error if it is missing."""
        ...

    async def list_uploads(self, prefix: str) -> list[ObjectStat]:
        """Return unfinished uploads whose key starts with `prefix`, the first 1000.

        Their size is not known and 0; `modified_s` is when they were begun.
        """
        ...

    async def abort_uploads(self, key: str) -> int:
        """Remove what unfinished uploads of an object have left; returns how many there were.

        Only of keys that nobody uploads any more: of intents that were rolled back.
        """
        ...

    async def archive(self, key: str) -> None:
        """Move an object that was read back into the configured storage class.

        Does something only where objects of that class cannot be read before they are restored:
        from then on reads of it raise `ObjectArchivedError`, and have the store restore it.

        Raises:
            ObjectMissingError: There is no such object.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield all objects whose key starts with `prefix`, in any order."""
        ...

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        ...
