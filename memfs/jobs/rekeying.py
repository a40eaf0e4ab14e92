"""Rekeying: contents whose forms get the key of new ones, counted by the keys that they had.

Invariant: what has all its forms under that key is not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, StaleInodeError
from memfs.jobs.file_work import DUE, WRITTEN_REASONS, refusal_outcome
from memfs.jobs.kept_names import name_kept
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.rekeying import list_keyed, list_keyed_kept, rekey, rekey_kept
from memfs.placement.quotas import cost_of_rekey
from memfs.types import BlobId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from memfs.jobs.file_work import WorkResults
    from memfs.moves.attempt import MoveParts
    from memfs.moves.rekeying import KeyedForm
    from memfs.placement.quotas import Quotas
    from memfs.types import InodeNo


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
        await self._do(ino, forms, lambda: rekey(self._parts, ino), results)

    async def _do(
        self,
        number: InodeNo,
        forms: Sequence[KeyedForm],
        rekey_forms: Callable[[], Awaitable[MoveResult]],
        results: WorkResults,
    ) -> None:
        outcome: MoveOutcome | str = MoveOutcome.UNNEEDED
        moved_bytes = 0
        if not all(form.current for form in forms):
            if self._dry_run:
                outcome = DUE
            else:
                with self._quotas.reserved(cost_of_rekey(forms)):
                    outcome, moved_bytes = await rekey_forms()
        if outcome not in WRITTEN_REASONS:
            for form in forms:
                counts = self.keys.setdefault(form.key_id, [0, 0])
                counts[0] += 1
                counts[1] += form.stored_bytes
        results.note(number, outcome, WRITTEN_REASONS.get(outcome, ""), moved_bytes=moved_bytes)

    async def finish(self, results: WorkResults) -> None:
        """Nothing is left to do."""
        await trio.lowlevel.checkpoint()


class KeptRekeying(Rekeying):
    """Does the same with contents that only snapshots show; its numbers are those of blobs."""

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Bring the forms of a blob under the key; nothing, if a file has it by now, or nobody."""
        parts, blob = self._parts, BlobId(ino)
        found = await parts.engine.list_kept_blobs(BlobId(blob - 1), 1)
        if not found or found[0].blob != blob:
            results.note(ino, MoveOutcome.UNNEEDED)
            return
        [kept] = found
        try:
            forms = await list_keyed_kept(parts, kept)
            await self._do(ino, forms, lambda: rekey_kept(parts, kept), results)
        except StaleInodeError:
            raise
        except MemfsError as error:
            name = await name_kept(parts.engine, kept)
            results.note(ino, refusal_outcome(error), f"{name}: {error}")
