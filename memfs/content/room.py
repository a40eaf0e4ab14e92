"""Room: programs that begin to write are held back while the disk is nearly full.

Invariant: nobody is held back unless files are leaving the disk, and nobody for longer than
`HELD_S_MAX` or `cold.wait_for_room`, whichever is more. Passed-through writes never reach the
daemon, so that writers are held where they ask for the next file, for room in advance, or for a
write that the daemon serves.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING

import trio

from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.types import InodeNo

HELD_S_MAX = 30.0
"""Longest wait of one request while room is being made. Guess: below the 60 s of most watchdogs."""

STALL_S = 5.0
"""Room that has not grown for so long is not being made. Guess: one upload of some 100 MB."""

LOOK_S = 0.005
"""The disk is asked again after so long; at 2 GB/s it fills by 10 MB meanwhile."""

POLL_S = 0.05

FULL_BYTES = 4 << 20
"""Less than this is no room at all: what `cold.wait_for_room` waits for."""


class Room:
    """The free space of the disk under a state directory.

    Args:
        state_dir: On the disk in question.
        wait_for_room_s: How long a writer may wait on a full disk that nothing relieves.
        wake: Has the mover look at once.
        look: Returns the bytes that are free for us; None: by statvfs(3). It counts blocks that are
            promised to pages not yet written (ext4, xfs, btrfs).
    """

    def __init__(
        self,
        state_dir: Path,
        wait_for_room_s: float,
        wake: Callable[[], None],
        look: Callable[[], int] | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._wait_for_room_s = wait_for_room_s
        self._wake = wake
        self._look = look or self._statvfs
        self._free_bytes = 0
        self._again_s = float("-inf")
        self.floor_bytes = 0
        """Free bytes at the high watermark; the mover keeps it up to date."""
        self.relief = False
        """The mover can send files away from this disk, and the store takes them."""
        self._held_back: Counter[InodeNo] = Counter()

    @property
    def held_back_count(self) -> int:
        """Requests that are held back now."""
        return self._held_back.total()

    def is_held_back(self, ino: InodeNo) -> bool:
        """Return whether a writer of a file, or of a new one in a directory, is held back."""
        return ino in self._held_back

    @property
    def is_tight(self) -> bool:
        """True if a writer is to be held back: cheap enough for every request."""
        return self._short(self.floor_bytes) if self.relief else self._is_full

    async def wait(self, ino: InodeNo) -> None:
        """Return when a writer may go on; at once where there is room or nothing makes any.

        Cancel: safe; that is how a program that is being killed leaves.

        Args:
            ino: The file, or the directory of a new one; for `why`.
        """
        if not self.is_tight:
            return
        await leave()
        self._wake()
        with self._holding(ino):
            began_s = progress_s = trio.current_time()
            most_bytes = self._free_bytes
            while self.is_tight:
                await trio.sleep(POLL_S)
                now_s = trio.current_time()
                if self._free_bytes > most_bytes:
                    most_bytes, progress_s = self._free_bytes, now_s
                patience_s = STALL_S if self.relief else 0.0
                if now_s - progress_s >= max(patience_s, self._wait_for_room_s):
                    return
                if now_s - began_s >= max(HELD_S_MAX, self._wait_for_room_s):
                    return

    @property
    def _is_full(self) -> bool:
        return self._wait_for_room_s > 0 and self._short(FULL_BYTES)

    def _short(self, wanted_bytes: int) -> bool:
        now_s = trio.current_time()
        if now_s >= self._again_s:
            self._free_bytes, self._again_s = self._look(), now_s + LOOK_S
        return self._free_bytes < wanted_bytes

    def _statvfs(self) -> int:
        disk = os.statvfs(self._state_dir)
        return disk.f_bavail * disk.f_frsize

    @contextlib.contextmanager
    def _holding(self, ino: InodeNo) -> Iterator[None]:
        self._held_back[ino] += 1
        try:
            yield
        finally:
            self._held_back[ino] -= 1
            if not self._held_back[ino]:
                del self._held_back[ino]
