"""Sightings: what the store was just seen to hold, before the last local copy of it goes.

Invariant: who lets a copy go has a look that ended after it asked; only the files of a batch, whose
object was written a moment ago, share one for `SEEN_S`, and look anew after a look that failed. A
record of an object is no proof of it: its store may be unmounted, emptied or another one by now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.bounded import BoundedDict
from memfs.errors import (
    CorruptDataError,
    MemfsError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
)
from memfs.single_flight import SingleFlight

if TYPE_CHECKING:
    from memfs.metadata.records import Form
    from memfs.stores.store import RemoteStore

SEEN_S = 1.0
"""One look serves all files of a batch that leave within it. Guess: a request a second for each."""

SEEN_COUNT_MAX = 1000
"""Objects that are remembered as seen."""


class Sightings:
    """Looks at objects; one request serves all files that share one."""

    def __init__(self) -> None:
        self._seen: BoundedDict[str, tuple[float, int]] = BoundedDict(SEEN_COUNT_MAX)
        """By key: when the look began, and the bytes that were seen."""
        self._looks: SingleFlight[str, int] = SingleFlight()
        """Under way, by key."""

    async def require(self, store: RemoteStore, form: Form, within_s: float = 0.0) -> None:
        """Return once the store has shown that it has the object of a remote form, whole.

        Args:
            store: Has it, as the engine says.
            form: A remote one that memfs has written: its key is never used again.
            within_s: An earlier look serves as well if it began so long ago at most.

        Raises:
            ObjectMissingError: The store has no such object.
            CorruptDataError: It has one of another size.
            StoreUnavailableError, StoreError: It did not say.
        """
        key = form.place.key
        size = self._seen_size(key, within_s)
        if size is None:
            size = await self._looks.run(key, lambda: self._look(store, key))
        if not form.fits(size):
            raise CorruptDataError(
                f"store {store.of(key).url}: {key} has {size} bytes, not {form.end}: the local "
                "copy stays; memfs scrub uploads it again"
            )

    def _seen_size(self, key: str, within_s: float) -> int | None:
        looked_s, size = self._seen.get(key, (float("-inf"), 0))
        return size if trio.current_time() - looked_s < within_s else None

    async def _look(self, store: RemoteStore, key: str) -> int:
        """Return the size of an object as the store shows it."""
        began_s = trio.current_time()
        try:
            size = (await store.stat(key)).size
        except MemfsError as error:
            # What was seen before says nothing of a store that fails now.
            self._seen.clear()
            raise _explained(error) from error
        self._seen[key] = began_s, size
        return size


def _explained(error: MemfsError) -> MemfsError:
    """Return the error with what it means for the local copy."""
    if isinstance(error, ObjectMissingError):
        return ObjectMissingError(
            f"{error}; the local copy is the last one and stays; memfs scrub uploads it again"
        )
    if isinstance(error, StoreUnavailableError):
        return StoreUnavailableError(
            f"{error}; the local copy stays until the store shows that it has the object"
        )
    if type(error) is StoreError:
        return StoreError(
            f"{error}; the local copy stays until the store shows that it has the object"
        )
    return error
