"""Frozen trees: directories below which nothing that programs see changes until they are thawed.

A tree is frozen by its directory alone, which a setting names: no row below it is touched, so that
a million files are frozen in a moment. Whether an inode is in such a tree is found by its path, and
remembered of each directory.

Invariants:
- No inode in a frozen tree gets or loses a name, content, attributes or xattrs; access times and
  what memfs keeps for itself (pins, forms, moves) are no part of that. A file with several names
  counts as long as one of them is in there.
- No directory that the path to a frozen tree goes through is moved or removed. So what was
  remembered of a directory holds until a tree is frozen or thawed.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from memfs.errors import FrozenError, InvalidValueError
from memfs.metadata.namespace import FROZEN_COUNT_MAX, FROZEN_SETTING, FrozenTree
from memfs.metadata.sqlite.rows import Rows, is_directory
from memfs.metadata.sqlite.statements import DELETE_SETTING, PUT_SETTING
from memfs.types import ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.metadata.records import Inode

_SELECT_TREES = "select value from setting where name = ?"
_SELECT_PLACES = "select distinct parent from dentry where ino = ?"


def encode_trees(trees: Mapping[int, bool]) -> bytes:
    """Return the setting that names frozen trees.

    Args:
        trees: Their directories, and whether they are being thawed.
    """
    return json.dumps([[ino, int(thaws)] for ino, thaws in trees.items()]).encode()


class Frozen(Rows):
    """The engine methods about frozen trees, and what others ask before a change."""

    async def freeze(self, ino: InodeNo) -> None:
        self._begin_change(grows=True)
        directory = self._directory(ino)
        if not directory.nlink:
            raise InvalidValueError(f"directory {ino} was removed")
        trees = {**self._frozen_trees()}
        if ino not in trees and len(trees) >= FROZEN_COUNT_MAX:
            raise InvalidValueError(
                f"{FROZEN_COUNT_MAX} trees are frozen already: freeze a directory above them"
            )
        self._put_trees({**trees, ino: False})

    async def begin_thaw(self, ino: InodeNo) -> None:
        self._begin_change()
        trees = self._frozen_trees()
        if ino in trees:
            self._put_trees({**trees, ino: True})

    async def thaw(self, ino: InodeNo) -> None:
        self._begin_change()
        self._put_trees(
            {each: thaws for each, thaws in self._frozen_trees().items() if each != ino}
        )

    async def list_frozen(self) -> list[FrozenTree]:
        return [FrozenTree(InodeNo(ino), thaws) for ino, thaws in self._frozen_trees().items()]

    @property
    def has_frozen(self) -> bool:
        return bool(self._frozen_trees())

    async def find_frozen(self, ino: InodeNo) -> FrozenTree | None:
        trees = self._frozen_trees()
        found = self._frozen_of(self._inode(ino)) if trees else None
        return None if found is None else FrozenTree(found, trees[found])

    async def require_thawed(self, ino: InodeNo) -> None:
        if self._frozen_trees():
            self._require_thawed(self._inode(ino))

    # --- what a change asks ----------------------------------------------------------------------
    def _require_thawed(self, *inodes: Inode) -> None:
        """See that no inode of some is in a frozen tree, or is the directory of one.

        Raises:
            FrozenError: One is.
        """
        if self._frozen_trees():
            for inode in inodes:
                if (found := self._frozen_of(inode)) is not None:
                    raise FrozenError(self._refusal(found))

    def _require_way_free(self, *moved: Inode) -> None:
        """See that no path to a frozen tree goes through the inodes, which are to be moved.

        Raises:
            FrozenError: One does.
        """
        for tree in self._frozen_trees() if any(map(is_directory, moved)) else ():
            ino = tree
            while ino != ROOT_INODE:
                if any(each.ino == ino for each in moved):
                    raise FrozenError(self._refusal(tree))
                ino = self._parent(ino)

    def _refusal(self, tree: int) -> str:
        path = os.fsdecode(self._path(tree))
        return f"{path} is frozen, and all below it: thaw it by `memfs thaw` to change it"

    # --- which are frozen ------------------------------------------------------------------------
    def _frozen_trees(self) -> Mapping[int, bool]:
        """Return the directories of frozen trees, and whether they are being thawed."""
        known = self._cache.frozen_trees
        if known is None:
            row = self._row(_SELECT_TREES, (FROZEN_SETTING,))
            known = {} if row is None else {ino: bool(thaws) for ino, thaws in json.loads(row[0])}
            self._cache.note_frozen(known)
        return known

    def _put_trees(self, trees: Mapping[int, bool]) -> None:
        if trees:
            self._write(PUT_SETTING, (FROZEN_SETTING, encode_trees(trees)))
        elif self._frozen_trees():
            self._write(DELETE_SETTING, (FROZEN_SETTING,))
        self._cache.note_frozen(dict(trees))

    def _frozen_of(self, inode: Inode) -> InodeNo | None:
        """Return the directory of the nearest frozen tree that an inode is in."""
        if is_directory(inode):
            return self._frozen_above(inode.ino)
        for (parent,) in self._rows(_SELECT_PLACES, (inode.ino,)):
            if (found := self._frozen_above(parent)) is not None:
                return found
        return None

    def _frozen_above(self, directory: int) -> InodeNo | None:
        trees, known = self._frozen_trees(), self._cache.frozen_above
        walked: list[int] = []
        found, ino = 0, directory
        while True:
            if ino in trees:
                found = ino
                break
            if (told := known.get(ino)) is not None:
                found = told
                break
            walked.append(ino)
            if ino == ROOT_INODE:
                break
            ino = self._parent(ino)
        for each in walked:
            known[each] = found
        return InodeNo(found) if found else None
