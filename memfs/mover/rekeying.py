"""Rekeying: files whose forms get the key of new ones, counted by the keys that they had.

Invariant: a file whose forms all have that key is not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.moves.file_work import DUE
from memfs.moves.outcome import MoveOutcome

if TYPE_CHECKING:
    from memfs.moves.file_work import WorkResults
    from memfs.moves.moves import Moves
    from memfs.types import InodeNo

_REASONS = {
    MoveOutcome.BUSY: "a program has it open for writing",
    MoveOutcome.SUPERSEDED: "it was changed meanwhile",
}


class Rekeying:
    """Brings files under the key that new forms have; a `FileWork`.

    Args:
        moves: Makes the moves.
        dry_run: Only count forms by key.
    """

    def __init__(self, moves: Moves, *, dry_run: bool) -> None:
        self._moves = moves
        self._dry_run = dry_run
        self.keys: dict[str, list[int]] = {}
        """Forms and stored bytes by key id as they were found; empty id: in clear."""

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """See `FileWork`."""
        forms = await self._moves.list_keyed(ino)
        for form in forms:
            counts = self.keys.setdefault(form.key_id, [0, 0])
            counts[0] += 1
            counts[1] += form.stored_bytes
        if all(form.current for form in forms):
            results.note(ino, MoveOutcome.UNNEEDED)
        elif self._dry_run:
            results.note(ino, DUE)
        else:
            outcome, moved_bytes = await self._moves.rekey(ino)
            results.note(ino, outcome, _REASONS.get(outcome, ""), moved_bytes=moved_bytes)

    async def finish(self, results: WorkResults) -> None:
        """See `FileWork`."""
        await trio.lowlevel.checkpoint()
