"""The predictor: from what was opened to what will be.

Invariant: no I/O and no clock: the same accesses give the same guesses; what is remembered is
bounded, however many files and programs there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict
from memfs.prediction.accesses import Guess, Source
from memfs.prediction.listings import LISTED_COUNT_MAX, Listing, Listings
from memfs.prediction.names import find_numbers, find_shards
from memfs.prediction.runs import Run, Series
from memfs.prediction.scores import WINDOW_NS, Scores
from memfs.prediction.successors import SuccessorTable
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.prediction.accesses import Access

CONTEXT_COUNT_MAX = 1024
"""Directories x openers remembered; some 3 MB with names of ordinary length."""

SERIES_COUNT_MAX = 8
"""Templates that one opener reads in turn in one directory: `1.jpg 1.txt 2.jpg 2.txt`."""

SHARD_SETS_MAX = 256
"""Sets remembered, so that each is queued once and not with every member."""

SHARD_SET_NS = WINDOW_NS
"""A set that is opened again after so long is queued again."""

LISTING_AFTER = 3
"""Files that an opener reads in a directory, out of every series, before it is listed."""

LISTING_WANTED_MAX = 16

LISTING_NS_MIN = 60 * 1_000_000_000
"""A directory that keeps changing is listed at most this often."""

CHAIN_MAX = 4
"""Files that successors look ahead."""


class _Context:
    """What one opener did in one directory."""

    __slots__ = ("by_name", "by_readdir", "previous", "series", "unordered_count")

    def __init__(self) -> None:
        self.previous = InodeNo(0)
        self.series: BoundedDict[bytes, Series] = BoundedDict(SERIES_COUNT_MAX)
        self.by_readdir: Run | None = None
        self.by_name: Run | None = None
        self.unordered_count = 0
        """Accesses since the last one that continued a series."""


class Predictor:
    """Learns from accesses and guesses the next ones.

    A guess is only a name until `scores.issue` is told that the file exists.
    """

    def __init__(self) -> None:
        self.scores = Scores()
        self.successors = SuccessorTable()
        self._listings = Listings()
        self._contexts: BoundedDict[tuple[InodeNo, int, int], _Context] = BoundedDict(
            CONTEXT_COUNT_MAX
        )
        self._shard_sets: BoundedDict[tuple[InodeNo, bytes], int] = BoundedDict(SHARD_SETS_MAX)
        self._listing_wanted: dict[InodeNo, None] = {}

    def observe(self, access: Access) -> list[Guess]:
        """Take an access; returns the guesses that their sources' precision allows.

        A file that was hinted at is followed by the next hint, so nothing is guessed then.
        """
        hinted = self.scores.note_opened(access.ino, access.time_ns)
        found: dict[bytes | InodeNo, int] = {}
        for context in self._contexts_of(access):
            for source, target in self._follow(context, access):
                found[target] = found.get(target, 0) | source
        if hinted:
            return []
        guesses = []
        for target, sources in found.items():
            allowed = self.scores.allowed(sources)
            if not allowed or target == access.name or target == access.ino:
                continue
            if isinstance(target, bytes):
                guesses.append(Guess(allowed, access.directory, target, InodeNo(0)))
            else:
                guesses.append(Guess(allowed, access.directory, b"", target))
        return guesses

    # --- listings --------------------------------------------------------------------------------
    def take_listing_wanted(self) -> list[InodeNo]:
        """Return and forget the directories whose order would help."""
        taken, self._listing_wanted = self._listing_wanted, {}
        return list(taken)

    def learn_listing(
        self, directory: InodeNo, names: Sequence[bytes], version: int, time_ns: int
    ) -> None:
        """Take the order of a directory.

        Args:
            directory: One of `take_listing_wanted`.
            names: Those of its regular files, in the order of readdir; more than `LISTED_COUNT_MAX`
                of them are not kept.
            version: Differs when the directory has changed; see `check_listing`.
            time_ns: Wall clock.
        """
        kept = () if len(names) > LISTED_COUNT_MAX else names
        self._listings.put(directory, Listing(kept, version, time_ns))

    def check_listing(self, directory: InodeNo, version: int, time_ns: int) -> None:
        """Forget the order of a directory that has changed, but not too often."""
        listing = self._listings.get(directory)
        if listing is None or listing.version == version:
            return
        if time_ns - listing.time_ns >= LISTING_NS_MIN:
            self._listings.forget(directory)

    # --- one access ------------------------------------------------------------------------------
    def _contexts_of(self, access: Access) -> Iterator[_Context]:
        """Yield what an access belongs to.

        The first file of a process belongs to the user as well: `for f in *; do cat $f; done` is a
        sequence of processes that open one file each.
        """
        key = (access.directory, access.uid, access.process)
        if access.process and key in self._contexts:
            yield self._context(key)
            return
        if access.process:
            yield self._context(key)
        yield self._context((access.directory, access.uid, 0))

    def _context(self, key: tuple[InodeNo, int, int]) -> _Context:
        context = self._contexts.touch(key)
        if context is None:
            context = self._contexts[key] = _Context()
        return context

    def _follow(
        self, context: _Context, access: Access
    ) -> Iterator[tuple[Source, bytes | InodeNo]]:
        previous, context.previous = context.previous, access.ino
        if previous == access.ino:
            # Opened again: that says nothing of what comes next.
            return
        for name in self._in_series(context, access):
            yield Source.SEQUENCE, name
        for name in self._in_listing(context, access):
            yield Source.LISTING, name
        for name in self._in_shards(access):
            yield Source.SHARDS, name
        if previous:
            self.successors.learn(access.uid, previous, access.ino)
        seen = {access.ino}
        successor = self.successors.predict(access.uid, access.ino)
        while successor is not None and successor not in seen and len(seen) <= CHAIN_MAX:
            yield Source.SUCCESSOR, successor
            seen.add(successor)
            successor = self.successors.predict(access.uid, successor)

    def _in_series(self, context: _Context, access: Access) -> list[bytes]:
        numbered = find_numbers(access.name)
        if numbered is None:
            context.unordered_count += 1
            return []
        series = context.series.touch(numbered.template)
        if series is None:
            context.series[numbered.template] = Series(numbered)
            context.unordered_count += 1
            return []
        names = series.advance(numbered)
        context.unordered_count = 0 if series.going else context.unordered_count + 1
        return names

    def _in_listing(self, context: _Context, access: Access) -> list[bytes]:
        listing = self._listings.get(access.directory)
        if listing is None:
            if context.unordered_count >= LISTING_AFTER:
                self._want_listing(access.directory)
            return []
        places = listing.places(access.name)
        if places is None:
            return []
        if context.by_readdir is None or context.by_name is None:
            context.by_readdir, context.by_name = Run(places.by_readdir), Run(places.by_name)
            return []
        names = listing.by_readdir(context.by_readdir.advance(places.by_readdir))
        if not listing.is_sorted:
            names += listing.by_name(context.by_name.advance(places.by_name))
        return names

    def _want_listing(self, directory: InodeNo) -> None:
        if len(self._listing_wanted) < LISTING_WANTED_MAX:
            self._listing_wanted[directory] = None

    def _in_shards(self, access: Access) -> tuple[bytes, ...]:
        shards = find_shards(access.name)
        if shards is None:
            return ()
        key = (access.directory, shards.key)
        queued_ns = self._shard_sets.get(key)
        if queued_ns is not None and access.time_ns - queued_ns < SHARD_SET_NS:
            return ()
        self._shard_sets[key] = access.time_ns
        return shards.names
