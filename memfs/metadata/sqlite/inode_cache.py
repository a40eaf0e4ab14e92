"""The inode cache: decoded inodes, least recently used ones leave.

Invariant: a cached inode equals its row, uncommitted changes included.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.metadata.records import Inode


TOUCHED_COUNT_MAX = 1024
"""Inodes in `InodeCache.touched`; guess: directories that programs fill at the same time."""


class InodeCache:
    """At most `count_max` inodes, and what else is known of the tables."""

    def __init__(self, count_max: int) -> None:
        self._inodes: OrderedDict[int, Inode] = OrderedDict()
        self._count_max = max(1, count_max)
        self._touch = self._inodes.move_to_end
        self.newest_snapshot: int | None = None
        """Number of the newest snapshot, 0 without any; None: not read yet."""
        self.kept_raw: list[int] | None = None
        """Raw files that only snapshots show: count and blocks; None: not counted yet."""
        self.touched: set[int] = set()
        """Inodes whose times were stored after the newest snapshot: it knows what they were."""

    def clear(self) -> None:
        """Forget everything: rows were changed unseen."""
        self._inodes.clear()
        self.touched.clear()
        self.newest_snapshot = None
        self.kept_raw = None

    def touch(self, ino: int) -> None:
        """Note that the times of an inode were stored."""
        if len(self.touched) >= TOUCHED_COUNT_MAX:
            self.touched.clear()
        self.touched.add(ino)

    def get(self, ino: int) -> Inode | None:
        """Return an inode that is cached."""
        inode = self._inodes.get(ino)
        if inode is not None:
            self._touch(ino)
        return inode

    def put(self, inode: Inode) -> None:
        """Keep an inode as it is now."""
        inodes = self._inodes
        ino = inode[0]
        inodes[ino] = inode
        self._touch(ino)
        if len(inodes) > self._count_max:
            inodes.popitem(last=False)

    def forget(self, ino: int) -> None:
        """Drop an inode that is gone or has changed unseen."""
        self._inodes.pop(ino, None)
