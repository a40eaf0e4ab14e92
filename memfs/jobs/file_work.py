"""File work: what is done to the files of a tree, one after the other, and what came of it.

Invariant: a work keeps no state beyond one call: files that are done are found to be so when it is
asked again, which is all that makes it resumable.
"""

from __future__ import annotations

import math
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from memfs.defects import as_failure
from memfs.errors import (
    InvalidValueError,
    MemfsError,
    QuotaSpentError,
    StaleInodeError,
    StoreUnavailableError,
)
from memfs.moves.outcome import MoveOutcome
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.control.methods.trees import WorkReport
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts

FILES_A_CALL_MAX = 4096

SLICE_S = 2.0
"""No file is begun in a call after so long, so that its caller can show how far it is."""

CONCURRENT_COUNT_MAX = 4
"""Files at a time: hides the store's round trips; guess."""

FAILED = "failed"
"""It cannot be done; the reason says why, and what to do."""
WAITING = "waiting"
"""It cannot be done at present: the store is down, or a quota of the day is spent. Asking again
later helps."""
DUE = "due"
"""Dry run: would be done."""

WRITTEN_REASONS: dict[MoveOutcome | str, str] = {
    MoveOutcome.BUSY: "a program has it open for writing",
    MoveOutcome.SUPERSEDED: "it was changed meanwhile",
}
"""Why a file is left alone that is written, by what became of it."""


@dataclass(slots=True)
class WorkResults:
    """What came of the files of one call."""

    outcomes: dict[str, int] = field(default_factory=dict)
    """Counts by values of `MoveOutcome`, the words above, and those of a work of its own."""
    before_bytes: int = 0
    """Bytes of the files that were changed, as the work counts them: before, and after."""
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


async def seal_regular(parts: MoveParts, ino: InodeNo, results: WorkResults) -> Inode | None:
    """Return a file once it was sealed, if it can be; None, and noted, if it is no regular file."""
    await parts.sealer.seal(ino)
    inode = await parts.engine.get_inode(ino)
    if stat.S_ISREG(inode.mode):
        return inode
    results.note(ino, MoveOutcome.UNNEEDED)
    return None


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


async def run_work(inos: Sequence[int], work: FileWork) -> WorkReport:
    """Do a work to as many files as are begun in `SLICE_S`.

    Raises:
        InvalidValueError: There are more than `FILES_A_CALL_MAX`.
    """
    if len(inos) > FILES_A_CALL_MAX:
        raise InvalidValueError(f"inos: {len(inos)}; {FILES_A_CALL_MAX} a call are allowed")
    results = WorkResults()
    taken: list[InodeNo] = []
    waiting = _take(inos, taken)
    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENT_COUNT_MAX):
            nursery.start_soon(_do_all, waiting, work, results)
    await work.finish(results)
    return {
        "taken_count": len(taken),
        "outcomes": {**results.outcomes},
        "before_bytes": results.before_bytes,
        "after_bytes": results.after_bytes,
        "moved_bytes": results.moved_bytes,
        "left": {str(ino): [*told] for ino, told in results.left.items()},
    }


def _take(inos: Sequence[int], taken: list[InodeNo]) -> Iterator[InodeNo]:
    """Yield the first of the numbers until the time is over; at least one."""
    end_s = time.monotonic() + SLICE_S
    for number in inos:
        if taken and time.monotonic() > end_s:
            return
        taken.append(InodeNo(number))
        yield taken[-1]


async def _do_all(waiting: Iterator[InodeNo], work: FileWork, results: WorkResults) -> None:
    for ino in waiting:
        # Work that finds nothing to do suspends nowhere, and requests of programs come first.
        await trio.lowlevel.checkpoint()
        try:
            await work.do(ino, results)
        except StaleInodeError:
            # Deleted since its name was listed: nothing is left to be done.
            results.note(ino, MoveOutcome.UNNEEDED)
        except Exception as error:
            reason = as_failure(error, f"inode {ino} in work on a tree")
            results.note(ino, refusal_outcome(reason), str(reason))
