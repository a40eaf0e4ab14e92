"""Relocation on request: files get their objects in the stores that they belong in.

Invariant: a file whose object is where it belongs is not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.jobs.file_work import DUE, WRITTEN_REASONS, seal_regular
from memfs.metadata.records import InodeFlags
from memfs.moves.outcome import MoveOutcome
from memfs.moves.relocating import find_misplaced, relocate
from memfs.placement.quotas import cost_of_relocation

if TYPE_CHECKING:
    from memfs.jobs.file_work import WorkResults
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.types import InodeNo


class Relocation:
    """Moves objects of files from one store to another; a `FileWork`.

    Args:
        dry_run: Only find which.
    """

    def __init__(self, parts: MoveParts, quotas: Quotas, *, dry_run: bool) -> None:
        self._parts = parts
        self._quotas = quotas
        self._dry_run = dry_run

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Move the object of a file, if it is elsewhere."""
        inode = await seal_regular(self._parts, ino, results)
        if inode is None:
            return
        if inode.flags & InodeFlags.UNSEALED:
            results.note(ino, MoveOutcome.BUSY, WRITTEN_REASONS[MoveOutcome.BUSY])
            return
        found = await find_misplaced(self._parts, ino)
        if found is None:
            results.note(ino, MoveOutcome.UNNEEDED)
            return
        size = found.form.stored_bytes
        if self._dry_run:
            results.note(ino, DUE, before_bytes=size)
            return
        with self._quotas.reserved(cost_of_relocation(size)):
            outcome, moved_bytes = await relocate(self._parts, ino)
        results.note(ino, outcome, WRITTEN_REASONS.get(outcome, ""), moved_bytes=moved_bytes)

    async def finish(self, results: WorkResults) -> None:
        """Nothing is left to do."""
        await trio.lowlevel.checkpoint()
