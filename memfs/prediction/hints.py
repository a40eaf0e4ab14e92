"""Hints: files that programs and users asked to have near, in the order in which they will be used.

Invariant: bounded; what waits in a job is handed out in the order given, jobs take turns.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError, NotFoundError
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Sequence

HINT_COUNT_MAX = 524_288
"""Files that wait, of all jobs; 8 bytes each."""

JOB_COUNT_MAX = 64
"""Jobs remembered; the oldest one with nothing left to do makes room."""


class Hint(NamedTuple):
    """One file of a job."""

    job: int
    ino: InodeNo
    warm: bool
    """To be held in RAM where that has room."""


class JobProgress(NamedTuple):
    """How far a job is."""

    job: int
    total_count: int
    done_count: int
    """Files that are on the local disk now, or that have gone."""
    warm_count: int
    """Those of them that are held in RAM."""
    failed_count: int
    waiting_count: int
    """Files that are not begun."""
    fetched_bytes: int
    """Bytes of files that had no raw form before."""
    error: str | None
    """Why the last one failed."""
    stalled: str | None
    """Why nothing goes on at present: cause and remedy. None while it does."""

    @property
    def ended(self) -> bool:
        """True if nothing of it is left to do."""
        return self.done_count + self.failed_count >= self.total_count


class _Job:
    """One list of files."""

    def __init__(self, number: int, *, warm: bool) -> None:
        self.number = number
        self.warm = warm
        self.inos = array("Q")
        self.next = 0
        """Index of the first one that waits."""
        self.total_count = 0
        self.done_count = 0
        self.warm_count = 0
        self.failed_count = 0
        self.fetched_bytes = 0
        self.error: str | None = None
        self.cancelled = False

    @property
    def waiting_count(self) -> int:
        return len(self.inos) - self.next

    @property
    def ended(self) -> bool:
        return self.done_count + self.failed_count >= self.total_count


class Hints:
    """The jobs.

    Args:
        count_max: Files that may wait, of all jobs together.
    """

    def __init__(self, count_max: int = HINT_COUNT_MAX) -> None:
        self._count_max = count_max
        self._jobs: OrderedDict[int, _Job] = OrderedDict()
        self._turns: OrderedDict[int, _Job] = OrderedDict()
        """Jobs with files that wait; the first one's turn it is."""
        self._last_job = 0
        self.waiting_count = 0
        """Files that wait, of all jobs."""
        self.stalled: str | None = None
        """Why no file is handed out; set by their taker."""

    def begin(self, *, warm: bool) -> int:
        """Begin a job and return its number.

        Raises:
            InvalidValueError: `JOB_COUNT_MAX` jobs are under way.
        """
        if len(self._jobs) >= JOB_COUNT_MAX:
            ended = next((number for number, job in self._jobs.items() if job.ended), None)
            if ended is None:
                raise InvalidValueError(f"{JOB_COUNT_MAX} lists of files are being fetched already")
            del self._jobs[ended]
        self._last_job += 1
        self._jobs[self._last_job] = _Job(self._last_job, warm=warm)
        return self._last_job

    def add(self, number: int, inos: Sequence[InodeNo]) -> int:
        """Append files to a job; returns how many of them, the first ones, there was room for.

        Raises:
            NotFoundError: There is no such job, or it was cancelled.
        """
        job = self._find(number)
        if job.cancelled:
            raise NotFoundError(f"list {number} of files to prefetch was cancelled")
        taken = inos[: self._count_max - self.waiting_count]
        if taken:
            # What was handed out goes with the next addition, so that a long-lived job stays small.
            del job.inos[: job.next]
            job.next = 0
            job.inos.extend(taken)
            job.total_count += len(taken)
            self.waiting_count += len(taken)
            self._turns[number] = job
        return len(taken)

    def pass_over(self, number: int, count: int) -> None:
        """Count files as done that need not be handed out.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self._find(number)
        job.total_count += count
        job.done_count += count
        job.warm_count += count if job.warm else 0

    def drop(self, number: int) -> int:
        """Forget the files of a job that wait; returns how many.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self._find(number)
        dropped = job.waiting_count
        job.inos, job.next = array("Q"), 0
        job.total_count -= dropped
        self.waiting_count -= dropped
        self._turns.pop(number, None)
        return dropped

    def waiting(self, number: int) -> list[InodeNo]:
        """Return the files of a job that wait, in order.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self._find(number)
        return [InodeNo(ino) for ino in job.inos[job.next :]]

    def cancel(self, number: int) -> None:
        """Forget the files of a job that wait, those too that are put back later.

        Raises:
            NotFoundError: There is no such job.
        """
        self.drop(number)
        self._find(number).cancelled = True

    def take(self) -> Hint | None:
        """Return the next file; None if no file waits."""
        if not self._turns:
            return None
        number, job = next(iter(self._turns.items()))
        ino = InodeNo(job.inos[job.next])
        job.next += 1
        self.waiting_count -= 1
        if job.waiting_count:
            self._turns.move_to_end(number)
        else:
            del self._turns[number]
            job.inos, job.next = array("Q"), 0
        return Hint(number, ino, job.warm)

    def put_back(self, hint: Hint) -> None:
        """Have a file that was taken wait again, before the others of its job."""
        job = self._jobs.get(hint.job)
        if job is None:
            return
        if job.cancelled:
            job.total_count -= 1
            return
        if job.next:
            job.next -= 1
            job.inos[job.next] = hint.ino
        else:
            job.inos.insert(0, hint.ino)
        self.waiting_count += 1
        self._turns[hint.job] = job
        self._turns.move_to_end(hint.job, last=False)

    def finish(self, hint: Hint, fetched_bytes: int, *, warm: bool) -> None:
        """A file is where it was asked to be, or has gone."""
        job = self._jobs.get(hint.job)
        if job is not None:
            job.done_count += 1
            job.warm_count += warm
            job.fetched_bytes += fetched_bytes

    def fail(self, hint: Hint, error: str) -> None:
        """A file cannot be brought near."""
        job = self._jobs.get(hint.job)
        if job is not None:
            job.failed_count += 1
            job.error = error

    def progress(self, number: int) -> JobProgress:
        """Return how far a job is.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self._find(number)
        return JobProgress(
            job=number,
            total_count=job.total_count,
            done_count=job.done_count,
            warm_count=job.warm_count,
            failed_count=job.failed_count,
            waiting_count=job.waiting_count,
            fetched_bytes=job.fetched_bytes,
            error=job.error,
            stalled=self.stalled if job.waiting_count else None,
        )

    def _find(self, number: int) -> _Job:
        job = self._jobs.get(number)
        if job is None:
            raise NotFoundError(f"there is no list {number} of files to prefetch (any more)")
        return job
