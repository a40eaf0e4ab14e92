"""Surveys: looks at all files, a slice at a time.

Invariant: a survey keeps a position and no files, so that their number does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.errors import StaleInodeError
from memfs.types import InodeNo

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode

PAUSE_S = 30.0
"""A survey by access that found nothing to move begins again after so long: a full tier of which
nothing can leave costs nothing meanwhile. Guess."""

_START = (0, 0)


class PinSurvey:
    """Finds the files with a pin in force: once at start, and again when events were lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._after = InodeNo(0)
        self.done = False
        """True when all files were seen since `begin`."""

    def begin(self) -> None:
        """Look at all files from the first one on."""
        self._after = InodeNo(0)
        self.done = False

    async def next_pinned(self, limit: int) -> list[InodeNo]:
        """Return the pinned ones among the next `limit` files."""
        if self.done:
            return []
        inodes = await self._engine.list_files(self._after, limit)
        if not inodes:
            self.done = True
            return []
        self._after = inodes[-1].ino
        pinned = []
        for inode in inodes:
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
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._packed = False
        self._after = _START
        self._found = False
        self._again_s = -PAUSE_S

    def hurry(self) -> None:
        """Begin again from the longest unused file, without a pause."""
        self._again_s = -PAUSE_S
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
                self._again_s = trio.current_time() + PAUSE_S
            self._packed = not self._packed
        return [inode.ino for inode in inodes]

    async def _list(self, before_ns: int, limit: int) -> list[Inode]:
        if self._packed:
            return await self._engine.list_packed_by_access(before_ns, self._after, limit)
        return await self._engine.list_raw_by_access(before_ns, self._after, limit)
