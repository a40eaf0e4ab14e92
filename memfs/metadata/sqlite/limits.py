"""Sizes of the database's files beside its tables, and how often it syncs."""

from __future__ import annotations

from dataclasses import dataclass

from memfs.config import KIB, MIB
from memfs.metadata.sqlite.lease import LEASE_COUNT


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of what the database keeps on disk beside the tables, bytes, and how often it syncs."""

    checkpoint_bytes: int = 512 * KIB
    """A journal of this length is moved into the tables. 128 KiB, 512 KiB, 1 MiB measured on a
    loaded 2 vCPU machine: a creation costs 51, 40, 41 us."""
    checkpoint_page_count: int = 2048
    """Changed pages beyond which a shorter journal is moved, down to an eighth: SQLite writes them
    to its log in the event loop, at 4-5 us a page."""
    journal_bytes: int = 4 * MIB
    """Preallocated for each of the two journals; more than `checkpoint_bytes`, so that a full disk
    stops nobody while a checkpoint is late."""
    reserve_bytes: int = 16 * MIB
    """Given up when the disk is full: room to commit a journal of changes that remove things."""
    log_page_count: int = 8192
    """SQLite's write-ahead log starts over beyond this length. To cut 32 MiB on ext4 takes 0.5 ms
    of CPU, and 6.7 ms while the page cache has them, which the checkpointer sees to before."""
    redo_row_count: int = 2000
    """It does so while at most so many rows are to be redone in the event loop for it, at some 3 us
    a row; a log of twice the length while there are at most five times as many, and one of four
    times the length in any case."""
    late_bytes: int = 128 * KIB
    """A checkpoint that failed is tried again after so much more journal."""
    lease_count: int = LEASE_COUNT
    """Numbers of inodes that a durable write buys."""
