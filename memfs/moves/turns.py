"""Turns: a file is uploaded once, however many want that at a time.

Invariant: nobody waits for a file while it holds another one, so none waits for ever.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from memfs.types import InodeNo


class UploadTurns:
    """The files that are being uploaded; who comes second finds the first one's object."""

    def __init__(self) -> None:
        self._held: set[InodeNo] = set()
        self._ended = Signal()

    @contextlib.asynccontextmanager
    async def turn(self, ino: InodeNo) -> AsyncIterator[None]:
        """Hold a file for the block, once nobody else does."""
        while ino in self._held:
            await self._ended.wait(self._ended.count)
        with self.claim([ino]):
            yield

    @contextlib.contextmanager
    def claim(self, inos: Sequence[InodeNo]) -> Iterator[frozenset[InodeNo]]:
        """Hold those of some files for the block that nobody else holds, and give them."""
        free = frozenset(inos) - self._held
        self._held |= free
        try:
            yield free
        finally:
            self._held -= free
            self._ended.set()
