"""The attributes that the kernel has cached: forgotten where they change behind its back.

Invariant: nothing is written to the kernel by the event loop: a notification can wait for locks
that a request holds, and that request may wait for the loop.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memfs.types import InodeNo

log = logging.getLogger(__name__)

WAITING_COUNT_MAX = 100_000
"""Inodes that wait to be forgotten; beyond it the kernel takes none, and its connection is dead."""

END_S_MAX = 2.0
"""How long the end waits for a notification under way. Guess."""


class KernelAttributes:
    """Has the kernel ask for attributes again, by a thread of its own."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[InodeNo | None] = queue.SimpleQueue()
        self._open = False

    def forget(self, ino: InodeNo) -> None:
        """Soon, the kernel believes nothing of an inode's attributes any more; never waits."""
        if self._open and self._waiting.qsize() < WAITING_COUNT_MAX:
            self._waiting.put(ino)

    @contextlib.contextmanager
    def told_by(self, tell: Callable[[InodeNo], None]) -> Iterator[None]:
        """Tell the kernel for the block; before and after it knows nothing that could be old.

        Args:
            tell: Has the kernel forget one inode's attributes, its pages not; may block. What it
                raises is passed over where the kernel does not know the inode or is gone.
        """
        thread = threading.Thread(
            target=self._tell_all, args=(tell,), name="kernel-attributes", daemon=True
        )
        self._open = True
        thread.start()
        try:
            yield
        finally:
            self._open = False
            self._waiting.put(None)
            thread.join(END_S_MAX)

    def _tell_all(self, tell: Callable[[InodeNo], None]) -> None:
        while (ino := self._waiting.get()) is not None:
            try:
                tell(ino)
            except OSError as error:
                log.debug("inode %d: the kernel was not told: %s", ino, error)
            except Exception:
                log.exception("inode %d: the kernel could not be told", ino)
