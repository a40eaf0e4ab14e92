"""Extents: where in the object store the container of a remote form lies.

Invariant: the location of a form alone says it: a key, or the key of a batch and an offset in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import CorruptDataError
from memfs.types import BATCH_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.stores.store import RemoteStore


class Extent(NamedTuple):
    """A range of bytes of an object."""

    key: str
    start: int
    """Offset in the object; 0 for an object of its own."""
    size: int
    """Bytes of the container."""
    batched: bool
    """True: the object holds other containers as well."""

    @classmethod
    def of(cls, location: str, stored_bytes: int) -> Extent:
        """Return where a remote form lies.

        Args:
            location: Of the form.
            stored_bytes: Of the form.

        Raises:
            CorruptDataError: The location is none.
        """
        key, separator, offset = location.partition(BATCH_SEPARATOR)
        if not separator:
            return cls(key, 0, stored_bytes, batched=False)
        if not offset.isdecimal():
            raise CorruptDataError(f"{location!r} is no place in a batch")
        return cls(key, int(offset), stored_bytes, batched=True)

    @property
    def end(self) -> int:
        """Offset after the last byte."""
        return self.start + self.size

    def fits(self, object_bytes: int) -> bool:
        """Return whether an object of that size is what this extent expects."""
        return self.end <= object_bytes if self.batched else self.end == object_bytes

    def reader(self, store: RemoteStore) -> Callable[[int, int], Awaitable[bytes]]:
        """Return a function that reads bytes `[start, end)` of the container."""

        async def read_range(start: int, end: int) -> bytes:
            # Never beyond the container: what follows in a batch belongs to others.
            return await store.get_range(
                self.key, self.start + start, self.start + min(end, self.size)
            )

        return read_range
