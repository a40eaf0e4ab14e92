"""Rekeying: files whose forms get the key of new ones, counted by the keys that they had.

Invariant: a file whose forms all have that key is not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.jobs.file_work import DUE
from memfs.moves.outcome import MoveOutcome
from memfs.moves.rekeying import list_keyed, rekey
from memfs.placement.quotas import cost_of_rekey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.jobs.file_work import WorkResults
    from memfs.moves.attempt import MoveParts
    from memfs.moves.rekeying import KeyedForm
    from memfs.placement.quotas import Quotas
    from memfs.types import InodeNo

_REASONS: dict[MoveOutcome | str, str] = {
    MoveOutcome.BUSY: "a program has it open for writing",
    MoveOutcome.SUPERSEDED: "it was changed meanwhile",
}


class Rekeying:
    """Brings files under the key that new forms have; a `FileWork`.

    Args:
        dry_run: Only count forms by key.
    """

    def __init__(self, parts: MoveParts, quotas: Quotas, *, dry_run: bool) -> None:
        self._parts = parts
        self._quotas = quotas
        self._dry_run = dry_run
        self.keys: dict[str, list[int]] = {}
        """Forms and stored bytes by key id as they were found; empty id: in clear. Those of files
        that are to be asked for again are not counted."""

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Bring the forms of a file under the key, and count them by the keys that they had."""
        forms = await list_keyed(self._parts, ino)
        outcome, moved_bytes = await self._rekey(ino, forms)
        if outcome not in _REASONS:
            for form in forms:
                counts = self.keys.setdefault(form.key_id, [0, 0])
                counts[0] += 1
                counts[1] += form.stored_bytes
        results.note(ino, outcome, _REASONS.get(outcome, ""), moved_bytes=moved_bytes)

    async def _rekey(
        self, ino: InodeNo, forms: Sequence[KeyedForm]
    ) -> tuple[MoveOutcome | str, int]:
        if all(form.current for form in forms):
            return MoveOutcome.UNNEEDED, 0
        if self._dry_run:
            return DUE, 0
        with self._quotas.reserved(cost_of_rekey(forms)):
            return await rekey(self._parts, ino)

    async def finish(self, results: WorkResults) -> None:
        """Nothing is left to do."""
        await trio.lowlevel.checkpoint()
