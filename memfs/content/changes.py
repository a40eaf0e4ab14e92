"""Changes of files as they happen, for those who follow them elsewhere: publishing.

Invariant: bounded. What does not fit, and what concerns more files than one, sets `look_at_all`:
who follows then looks at everything once instead of at what was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.signals import Signal

if TYPE_CHECKING:
    from memfs.types import InodeNo

CHANGE_COUNT_MAX = 100_000
"""Files kept until they are taken; about 10 MB at most. Guess, not measured."""


class Changes:
    """A mailbox from the file system to one who follows; both live in one thread."""

    def __init__(self) -> None:
        self.followed = False
        """Somebody takes what is noted; else nothing is kept. Set by who follows."""
        self.look_at_all = False
        """Set when anything may have changed; who follows resets it before looking."""
        self._files: dict[InodeNo, None] = {}
        self._signal = Signal()

    def note(self, ino: InodeNo) -> None:
        """A file was sealed, or has got or lost a name."""
        if not self.followed:
            return
        if len(self._files) < CHANGE_COUNT_MAX:
            self._files[ino] = None
            self._signal.set()
        else:
            self.note_all()

    def note_all(self) -> None:
        """Any file may have changed, or what is followed has; also where nobody follows yet."""
        self.look_at_all = True
        self._signal.set()

    def take(self) -> list[InodeNo]:
        """Return and forget the files noted since the last call."""
        taken, self._files = self._files, {}
        return list(taken)

    async def wait(self) -> None:
        """Wait until something is there to be taken or looked at. Checkpoint: always."""
        seen = self._signal.count
        while not self._files and not self.look_at_all:
            seen = await self._signal.wait(seen)
