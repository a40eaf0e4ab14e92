"""File work: what is done to the files of a tree, one after the other, and what came of it.

Invariant: a work keeps no state beyond one call: files that are done are found to be so when it is
asked again, which is all that makes it resumable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from memfs.errors import MemfsError, QuotaSpentError, StoreUnavailableError
from memfs.moves.outcome import MoveOutcome

if TYPE_CHECKING:
    from memfs.types import InodeNo

FAILED = "failed"
"""It cannot be done; the reason says why, and what to do."""
WAITING = "waiting"
"""It cannot be done at present: the store is down, or a quota of the day is spent. Asking again
later helps."""
DUE = "due"
"""It would be done, were this not a mere look."""


@dataclass(slots=True)
class WorkResults:
    """What came of the files of one call."""

    outcomes: dict[str, int] = field(default_factory=dict)
    """Counts by values of `MoveOutcome`, the words above, and those of a work of its own."""
    before_bytes: int = 0
    """Of the files that were changed, as the work counts them: before, and after."""
    after_bytes: int = 0
    moved_bytes: int = 0
    """Stored bytes that were written."""
    left: dict[InodeNo, tuple[str, str]] = field(default_factory=dict)
    """Outcome and reason of each file that is not as it was asked to be."""

    def note(
        self,
        ino: InodeNo,
        outcome: MoveOutcome | str,
        reason: str = "",
        *,
        before_bytes: int = 0,
        after_bytes: int = 0,
        moved_bytes: int = 0,
    ) -> None:
        """Count a file; with a reason it is one that is not as it was asked to be."""
        word = outcome.value if isinstance(outcome, MoveOutcome) else outcome
        self.outcomes[word] = self.outcomes.get(word, 0) + 1
        self.before_bytes += before_bytes
        self.after_bytes += after_bytes
        self.moved_bytes += moved_bytes
        if reason:
            self.left[ino] = (word, reason)


def refusal_outcome(error: MemfsError | OSError) -> str:
    """Return whether something that could not be done has to wait, or has failed."""
    if isinstance(error, QuotaSpentError):
        return FAILED if math.isinf(error.wait_s) else WAITING
    return WAITING if isinstance(error, StoreUnavailableError) else FAILED


class FileWork(Protocol):
    """One kind of work, made for one call."""

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Do it to one file, or take the file for `finish`, and note what came of it.

        What it raises (`MemfsError`, `OSError`) is noted as the file's failure by the caller, so
        a file that was noted already must not raise. Several run at a time.
        """
        ...

    async def finish(self, results: WorkResults) -> None:
        """Do what is done to many files at once; after the last `do`, and without one too.

        Raises:
            MemfsError: The whole call has failed.
        """
        ...
