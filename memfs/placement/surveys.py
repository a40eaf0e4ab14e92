"""Surveys: looks at all files, or at those below a directory, a slice at a time.

Invariant: a survey keeps a position and no files: memory is bounded by the depth of the tree,
whatever the number of files.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, StaleInodeError
from memfs.types import InodeNo

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.namespace import Namespace
    from memfs.metadata.records import Inode

PAUSE_S_MIN, PAUSE_S_MAX = 1.0, 30.0
"""A survey by access that found nothing to move begins again after so long: a full tier of which
nothing can leave costs nothing meanwhile. Guess."""

ENTRIES_A_SLICE = 256

_START = (0, 0)


class FileSurvey:
    """Looks at all files: once at start, and again when events were lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._after = InodeNo(0)
        self.done = False
        """True when all files were seen since `begin`."""

    def begin(self) -> None:
        """Look at all files from the first one on."""
        self._after = InodeNo(0)
        self.done = False

    async def next_files(self, limit: int) -> list[Inode]:
        """Return the next `limit` files."""
        if self.done:
            return []
        inodes = await self._engine.list_files(self._after, limit)
        if inodes:
            self._after = inodes[-1].ino
        else:
            self.done = True
        return inodes


class PinSurvey(FileSurvey):
    """Finds the files with a pin in force."""

    async def next_pinned(self, limit: int) -> list[InodeNo]:
        """Return the pinned ones among the next `limit` files."""
        pinned = []
        for inode in await self.next_files(limit):
            try:
                pin = await self._engine.effective_pin(inode.ino)
            except StaleInodeError:
                continue
            if pin.tier is not None:
                pinned.append(inode.ino)
        return pinned


class AccessSurvey:
    """Finds local files that were not used for long, the longest unused first.

    Files with a raw form and files with a packed one take turns.

    Args:
        engine: Has the files.
        age_s: The shortest time without use after which a file moves; a pause is no longer, so that
            each file moves within twice that time.
    """

    def __init__(self, engine: Engine, age_s: float) -> None:
        self._engine = engine
        self._pause_s = min(PAUSE_S_MAX, max(PAUSE_S_MIN, age_s))
        self._packed = False
        self._after = _START
        self._found = False
        self._again_s = float("-inf")

    def note_age(self, age_s: float) -> None:
        """Files may move that were not used for so long: the pause is not longer from now on."""
        pause_s = max(PAUSE_S_MIN, age_s)
        if pause_s < self._pause_s:
            self._pause_s = pause_s
            # A pause that has begun was for files that stay longer.
            self._again_s = min(self._again_s, trio.current_time() + pause_s)

    def hurry(self) -> None:
        """Begin again from the longest unused file, without a pause."""
        self._again_s = float("-inf")
        self._after = _START

    def note_found(self) -> None:
        """Something of what was returned is to be moved: no pause at the end of this survey."""
        self._found = True

    async def next_unused(self, before_ns: int, limit: int) -> list[InodeNo]:
        """Return up to `limit` more files that were last used before a time, wall clock."""
        if trio.current_time() < self._again_s:
            return []
        if self._after == _START and not self._packed:
            self._found = False
        inodes = await self._list(before_ns, limit)
        if len(inodes) == limit:
            self._after = (inodes[-1].accessed_ns, inodes[-1].ino)
        else:
            self._after = _START
            if self._packed and not self._found:
                self._again_s = trio.current_time() + self._pause_s
            self._packed = not self._packed
        return [inode.ino for inode in inodes]

    async def _list(self, before_ns: int, limit: int) -> list[Inode]:
        if self._packed:
            return await self._engine.list_packed_by_access(before_ns, self._after, limit)
        return await self._engine.list_raw_by_access(before_ns, self._after, limit)


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
