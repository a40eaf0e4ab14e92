"""Subtrees: the files below directories whose pin, codec or marks have changed, a slice at a time.

Invariant: memory is bounded by the depth of the tree, whatever the number of files.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs.errors import MemfsError, StaleInodeError

if TYPE_CHECKING:
    from memfs.metadata.engine import Namespace
    from memfs.types import InodeNo

ENTRIES_A_SLICE = 256


class SubtreeWalk:
    """Finds the files that a change may concern: named files, and what directories hold.

    Files with a pin of their own are among them: they inherit no other pin, but codec, priority and
    pool.
    """

    def __init__(self, engine: Namespace) -> None:
        self._engine = engine
        self._roots: dict[InodeNo, None] = {}
        self._path: list[tuple[InodeNo, int]] = []
        """The way down to where the walk is: directory, and cookie of the entry last seen."""

    def add(self, ino: InodeNo) -> None:
        """Have a file or directory looked at."""
        self._roots[ino] = None

    @property
    def done(self) -> bool:
        """True if nothing is left to look at."""
        return not self._roots and not self._path

    async def next_files(self, limit: int) -> list[InodeNo]:
        """Return up to `limit` more files, and about that many directory entries looked at."""
        found: list[InodeNo] = []
        seen_count = 0
        while seen_count < limit and not self.done:
            if not self._path:
                await self._begin(found)
                seen_count += 1
                continue
            directory, cookie = self._path.pop()
            try:
                entries = await self._engine.list_directory(
                    directory, cookie, min(ENTRIES_A_SLICE, limit - seen_count)
                )
            except MemfsError:
                # It was removed meanwhile, and all below with it.
                continue
            for entry in entries:
                seen_count += 1
                cookie = entry.cookie
                if stat.S_ISDIR(entry.inode.mode):
                    self._path.append((directory, cookie))
                    self._path.append((entry.inode.ino, 0))
                    break
                if stat.S_ISREG(entry.inode.mode):
                    found.append(entry.inode.ino)
            else:
                if entries:
                    self._path.append((directory, cookie))
        return found

    async def _begin(self, found: list[InodeNo]) -> None:
        ino = next(iter(self._roots))
        del self._roots[ino]
        try:
            inode = await self._engine.get_inode(ino)
        except StaleInodeError:
            return
        if stat.S_ISDIR(inode.mode):
            self._path.append((ino, 0))
        elif stat.S_ISREG(inode.mode):
            found.append(ino)
