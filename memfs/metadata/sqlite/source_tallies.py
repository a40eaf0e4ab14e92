"""Source tallies: how many rows each source has, counted once in steps and kept along since.

Invariant: a tally has the rows whose keys are below `begin`, uncommitted changes included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.types import SourceId

LISTED, UNLISTED = 0, 1
"""Places of a directory in `Tally.counts`; an object is at the first one."""


class Tally:
    """Rows of one source in one table."""

    def __init__(self) -> None:
        self.counts = [0, 0]
        self.begin: bytes | None = b""
        """The first key that was not looked at yet; None: all rows were counted."""

    def note(self, key: bytes, place: int, change: int) -> None:
        """Note that a row came (1) or went (-1)."""
        if self.begin is None or key < self.begin:
            self.counts[place] += change

    def advance(self, first: int, second: int, last: bytes, *, ends: bool) -> None:
        """Take in rows that were counted from `begin` on.

        Args:
            first: How many of them belong to the first place.
            second: How many to the second one.
            last: The last key among them.
            ends: These were the last ones.
        """
        self.counts[0] += first
        self.counts[1] += second
        # The next key in order, whatever it is.
        self.begin = None if ends else last + b"\0"


class Tallies(NamedTuple):
    """Those of all sources; one that is missing was not begun."""

    objects: dict[SourceId, Tally]
    directories: dict[SourceId, Tally]

    def clear(self) -> None:
        """Begin anew: rows were changed unseen."""
        self.objects.clear()
        self.directories.clear()

    def forget(self, source: SourceId) -> None:
        """A source has no rows any more."""
        self.objects.pop(source, None)
        self.directories.pop(source, None)

    def note_object(self, source: SourceId, key: bytes, change: int) -> None:
        """Note that a current object came (1) or went (-1)."""
        if (tally := self.objects.get(source)) is not None:
            tally.note(key, 0, change)

    def note_directory(self, source: SourceId, prefix: bytes, place: int, change: int) -> None:
        """Note that a directory came (1) or went (-1)."""
        if (tally := self.directories.get(source)) is not None:
            tally.note(prefix, place, change)
