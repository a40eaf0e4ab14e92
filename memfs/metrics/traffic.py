"""What programs opened and wrote, and what was moved: counts and bytes since the daemon started.

Invariant: numbers only grow; they are added to on the event loop's thread alone.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Level(enum.StrEnum):
    """Where a file is served from: a tier, and the two forms on the disk told apart."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"
    """A plain file on the disk."""
    PACKED = "packed"
    """Compressed on the disk."""
    GLACIER = "glacier"
    """Only in the object store."""


class Edge(NamedTuple):
    """A way from one level to another one."""

    source: Level
    target: Level


class Total(NamedTuple):
    """So many files, and their bytes."""

    file_count: int
    bytes: int


class Traffic:
    """Counts opens by level, and moves by edge."""

    def __init__(self) -> None:
        self._opens: dict[Level, list[int]] = {level: [0, 0] for level in Level}
        self._moves: dict[Edge, list[int]] = {}
        self.user_write_count = 0
        """Extended attributes of users, `user.*`, that were set or removed; memfs's own are not
        among them."""

    def note_open(self, level: Level, size: int, count: int = 1) -> None:
        """A program opens a file for reading, or `count` of them, of `size` bytes together."""
        row = self._opens[level]
        row[0] += count
        row[1] += size

    def note_attaches(self, count: int, size_bytes: int) -> None:
        """Programs attached to tensors on a device, `size_bytes` of them in all."""
        row = self._opens[Level.HOT]
        row[0] += count
        row[1] += size_bytes

    def note_move(self, source: Level, target: Level, size: int) -> None:
        """A copy was made at `target` from the one at `source`, `size` bytes uncompressed."""
        row = self._moves.setdefault(Edge(source, target), [0, 0])
        row[0] += 1
        row[1] += size

    def opens(self) -> dict[Level, Total]:
        """Return the opens by level."""
        return {level: Total(*row) for level, row in self._opens.items()}

    def moves(self) -> dict[Edge, Total]:
        """Return the moves by edge; those that never happened are left out."""
        return {edge: Total(*row) for edge, row in self._moves.items()}
