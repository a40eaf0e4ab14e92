"""Accesses and guesses: what prediction is told, and what it answers.

Invariant: plain values; a guess names a file that may not exist.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.types import InodeNo


class Access(NamedTuple):
    """A program opened a regular file for reading."""

    directory: InodeNo
    name: bytes
    ino: InodeNo
    uid: int
    """That of the user who opened it."""
    process: int
    """Thread group of the opener; 0: not known."""
    time_ns: int
    """Wall clock."""


class Source(enum.IntEnum):
    """What a guess was made from: bits, since several may agree on one file.

    IntEnum and not IntFlag: joining flags costs ten times as much as joining numbers.
    """

    SEQUENCE = 1
    """Numbers in names, an equal step apart."""
    LISTING = 2
    """The order of the directory, by readdir or by name."""
    SHARDS = 4
    """`x-00001-of-00009`: all of the set once one is opened."""
    SUCCESSOR = 8
    """What followed at least twice among the last four times."""
    HINT = 16
    """A program or a user said so: no guess, and never throttled."""

    @property
    def label(self) -> str:
        """The word that users see: `sequence`, ..., `hint`."""
        return self.name.lower()


def describe(sources: int) -> str:
    """Return the labels of some sources, for users."""
    return ", ".join(source.label for source in Source if source & sources)


GUESSED = (Source.SEQUENCE, Source.LISTING, Source.SHARDS, Source.SUCCESSOR)
"""The sources that can be wrong."""


class Guess(NamedTuple):
    """A file that may be opened soon, by name or by number."""

    sources: int
    """Bits of `Source`."""
    directory: InodeNo
    name: bytes
    """Empty if the guess is by number."""
    ino: InodeNo
    """0 if the guess is by name."""
