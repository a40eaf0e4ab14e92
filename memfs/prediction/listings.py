"""Listings: the order of a directory, as readdir gives it and as its names sort.

Invariant: bounded by the number of names, whatever the number of directories; the oldest go first.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.types import InodeNo

LISTED_COUNT_MAX = 32_768
"""Names of all listings together, some 3 MB; a directory with more is not listed."""

DIRECTORY_COUNT_MAX = 256


class Listing:
    """The names of one directory.

    Args:
        names: Those of its regular files, in the order of readdir.
        version: Tells whether the directory has changed since.
        time_ns: When it was listed.
    """

    def __init__(self, names: Sequence[bytes], version: int, time_ns: int) -> None:
        self.version = version
        self.time_ns = time_ns
        self._names = list(names)
        self._sorted = array("I", sorted(range(len(names)), key=self._names.__getitem__))
        """Place in the order of readdir by place among the sorted names."""
        self.is_sorted = all(place == at for at, place in enumerate(self._sorted))
        """True if both orders are one."""

    def __len__(self) -> int:
        return len(self._names)

    def places(self, name: bytes) -> Places | None:
        """Return where a name stands in both orders; None if it was not there."""
        by_name = bisect_left(self._sorted, name, key=self._names.__getitem__)
        if by_name == len(self._sorted):
            return None
        by_readdir = self._sorted[by_name]
        return Places(by_readdir, by_name) if self._names[by_readdir] == name else None

    def by_readdir(self, places: range) -> list[bytes]:
        """Return the names at places in the order of readdir; those outside are passed over."""
        return [self._names[place] for place in places if 0 <= place < len(self._names)]

    def by_name(self, places: range) -> list[bytes]:
        """Return the names at places among the sorted names."""
        count = len(self._names)
        return [self._names[self._sorted[place]] for place in places if 0 <= place < count]


class Places(NamedTuple):
    """Where a name stands in a directory."""

    by_readdir: int
    by_name: int


class Listings:
    """The listings that are kept."""

    def __init__(self) -> None:
        self._listings: OrderedDict[InodeNo, Listing] = OrderedDict()
        self._name_count = 0

    def get(self, directory: InodeNo) -> Listing | None:
        """Return a directory's listing, if there is one."""
        return self._listings.get(directory)

    def put(self, directory: InodeNo, listing: Listing) -> None:
        """Keep a listing; older ones make room."""
        assert len(listing) <= LISTED_COUNT_MAX
        self.forget(directory)
        self._listings[directory] = listing
        self._name_count += len(listing)
        while self._name_count > LISTED_COUNT_MAX or len(self._listings) > DIRECTORY_COUNT_MAX:
            _, oldest = self._listings.popitem(last=False)
            self._name_count -= len(oldest)

    def forget(self, directory: InodeNo) -> None:
        """Drop a listing, if there is one."""
        listing = self._listings.pop(directory, None)
        if listing is not None:
            self._name_count -= len(listing)
