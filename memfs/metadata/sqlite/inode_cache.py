"""The inode cache: decoded inodes, least recently used ones leave.

Invariant: a cached inode equals its row, uncommitted changes included.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict
from memfs.metadata.sqlite.source_tallies import Tallies

if TYPE_CHECKING:
    from memfs.metadata.records import Inode


TOUCHED_COUNT_MAX = 8192
"""Entries of `InodeCache.touched`, of which one takes some 150 bytes; guess: directories that
programs fill at the same time, and files whose xattrs they set one by one."""

FROZEN_ABOVE_COUNT_MAX = 65_536
"""Directories in `InodeCache.frozen_above`, some 6 MB; only where a tree is frozen."""

LEFT_OUT_COUNT_MAX = 1024
"""Directories in `InodeCache.left_out`; guess: those that programs remove from at the same time."""


class InodeCache:
    """At most `count_max` inodes, and what else is known of the tables."""

    def __init__(self, count_max: int) -> None:
        self._inodes: OrderedDict[int, Inode] = OrderedDict()
        self._count_max = max(1, count_max)
        self._touch = self._inodes.move_to_end
        self.newest_snapshot: int | None = None
        """Number of the newest snapshot, 0 without any; None: not read yet."""
        self.newer_leaves = False
        """There is a snapshot still that is newer than the newest one that stays."""
        self.kept_raw: list[int] | None = None
        """Raw files that only snapshots show: count and blocks; None: not counted yet."""
        self.has_objects: bool | None = None
        """An inode, or a snapshot, may have a foreign object; None: not looked yet."""
        self.has_directories: bool | None = None
        """A directory may stand for a prefix of a source; None: not looked yet."""
        self.tallies = Tallies({}, {})
        """How many objects and directories each source has, or how many of them were counted."""
        self.touched: set[int | tuple[int, bytes]] = set()
        """Inodes, and xattrs by inode and name, that the newest snapshot knows as they were: by an
        undo row, or since they are younger. All are such where no snapshot is."""
        self.shown: dict[int, int] = {}
        """Inodes in `touched` of which an undo row was written when they lost a name, with the
        generation in it: the newest snapshot shows that."""
        self.may_be_marked: bool | None = None
        """An inode has a mark, or had one (`policy.marks.MARKED_SETTING`); None: not looked yet."""
        self.left_out: BoundedDict[tuple[int, int, int], tuple[bool, int]] = BoundedDict(
            LEFT_OUT_COUNT_MAX
        )
        """By a directory, the user of a file there, and a snapshot: what `left_out.Answer` has. It
        holds for good, but for the number of a snapshot that was taken back."""

        self.frozen_trees: dict[int, bool] | None = None
        """Directories of frozen trees, and whether they are being thawed; None: not read yet."""
        self.frozen_above: BoundedDict[int, int] = BoundedDict(FROZEN_ABOVE_COUNT_MAX)
        """By directory, the nearest of them above it, or itself; 0: it is in no frozen tree."""

    def clear(self) -> None:
        """Forget everything: rows were changed unseen."""
        self._inodes.clear()
        self.kept_raw = None
        self.has_objects = None
        self.has_directories = None
        self.tallies.clear()
        self.may_be_marked = None
        self.forget_frozen()
        self.forget_snapshots()

    def note_frozen(self, trees: dict[int, bool]) -> None:
        """Note which trees are frozen."""
        self.frozen_trees = trees
        self.frozen_above.clear()

    def forget_frozen(self) -> None:
        """Forget which trees are frozen: they may be others."""
        self.frozen_trees = None
        self.frozen_above.clear()

    def forget_snapshots(self) -> None:
        """Forget what is known of the newest snapshot: it may be another one."""
        self.newest_snapshot = None
        self._forget_touched()
        self.left_out.clear()

    def touch(self, what: int | tuple[int, bytes]) -> None:
        """Note an inode or an xattr that may change without another look at its undo row."""
        if len(self.touched) >= TOUCHED_COUNT_MAX:
            self._forget_touched()
        self.touched.add(what)

    def _forget_touched(self) -> None:
        self.touched.clear()
        self.shown.clear()

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
