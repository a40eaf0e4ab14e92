"""Prefetching: what programs opened is learned from, and what they are to open next is fetched.

Invariant: nothing runs while programs open nothing and no list of files waits; what was fetched
for a wrong guess is as old as before.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.bounded import BoundedDict
from memfs.defects import as_failure
from memfs.errors import StaleInodeError
from memfs.placement.prefetch.done_files import DoneFiles
from memfs.placement.prefetch.fetcher import Fetcher, StalledError
from memfs.placement.prefetch.learner import Learner
from memfs.prediction.accesses import describe
from memfs.prediction.hints import Hints
from memfs.signals import Signal
from memfs.stores.paced import unhurried
from memfs.stores.restoring import without_restores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.placement.context import Context
    from memfs.placement.prefetch.fetcher import Fetched
    from memfs.placement.prefetch.learner import Issued
    from memfs.prediction.hints import JobProgress
    from memfs.prediction.predictor import Predictor
    from memfs.types import InodeNo

log = logging.getLogger(__name__)

PAUSE_S = 0.02
"""After a look at what was opened: many opens are cheaper to look at together."""

REST_FACTOR = 19
"""The pause is this many times what the look took: learning costs a twentieth of a core at most."""

PAUSE_S_MAX = 1.0

GUESSED_COUNT_MAX = 2048
"""Guesses that wait to be fetched; the oldest are forgotten."""

GUESS_NS_MAX = 60 * 1_000_000_000
"""A guess that waited for so long is forgotten: the program has gone on without it."""

FETCH_S_MAX = 300.0
"""A guessed file that takes longer to fetch is given up."""

NEAR_A_SLICE = 128
"""Hints at files that are in RAM already, between two checkpoints: half a millisecond."""


class Stalls(NamedTuple):
    """Pauses of a list of files while the disk is full or the store is down, seconds."""

    first_s: float = 1.0
    """Doubled each time."""
    last_s: float = 30.0
    closing_s: float = 0.2
    """While files that are open would make room: mostly they are being closed. Guess."""


STALLS = Stalls()


class Prefetcher:
    """Learns, guesses and fetches for one mount.

    Args:
        predictor: Learns and guesses.
        stalls: See `Stalls`.
    """

    def __init__(self, context: Context, predictor: Predictor, stalls: Stalls = STALLS) -> None:
        self._worker_count = context.config.glacier.transfer_count_max
        self._activity = context.activity
        self._clock = context.clock
        self._predictor = predictor
        self._stalls = stalls
        self.learner = Learner(context, predictor)
        self._done = DoneFiles(context)
        self._fetcher = Fetcher(context, self._done)
        self._hints = Hints()
        self._guessed: BoundedDict[InodeNo, Issued] = BoundedDict(GUESSED_COUNT_MAX)
        self._brought: dict[InodeNo, Fetched] = {}
        """Guessed files that were fetched or held and not opened yet."""
        self._work = Signal()
        self._stall_s = self._stalls.first_s
        self._stalled_until_s = 0.0

    # --- hints -----------------------------------------------------------------------------------
    def hint(
        self,
        inos: Sequence[InodeNo],
        *,
        warm: bool,
        job: int | None,
        replace: bool,
        exact: bool = False,
    ) -> tuple[int, int]:
        """Have files brought near in the given order, after those that the job has already.

        Args:
            inos: Regular files.
            warm: Hold them in RAM where that has room; for a new job.
            job: To go on with; None begins a new one.
            replace: First forget what waits in the job.
            exact: Nothing else will be used meanwhile: the last ones may make room for the first.

        Returns:
            The job, and how many of the files, the first ones, there was room for in the list.

        Raises:
            NotFoundError: There is no such job.
            InvalidValueError: There are too many.
        """
        number = self._hints.begin(warm=warm) if job is None else job
        if replace:
            self._done.forget(self._hints.waiting(number))
            self._hints.drop(number)
        accepted = self._hints.add(number, inos)
        self._done.expect(inos[:accepted], exact=exact)
        self._hints.stalled = None
        self._stall_s = self._stalls.first_s
        self._work.set()
        return number, accepted

    def are_near(self, inos: Sequence[InodeNo]) -> bool:
        """Return whether all of some files are in RAM, so that nothing is to be done for them."""
        return all(map(self._fetcher.is_held, inos))

    def pass_over(self, count: int, *, job: int | None, replace: bool) -> int:
        """Count files of a job that are in RAM already; returns the job, as `hint`.

        These need not make room, since no file is to come.
        """
        number = self._hints.begin(warm=True) if job is None else job
        if replace:
            self._done.forget(self._hints.waiting(number))
            self._hints.drop(number)
        self._hints.pass_over(number, count)
        return number

    def note_done(self, inos: Sequence[InodeNo]) -> None:
        """Programs will not use files again for now: they make room for those that wait."""
        self._done.add(inos)
        if self._hints.waiting_count:
            self._stall_s = self._stalls.first_s
            self._work.set()

    def progress(self, job: int) -> JobProgress:
        """Return how far a job is; `NotFoundError` if there is no such job."""
        return self._hints.progress(job)

    def cancel(self, job: int) -> JobProgress:
        """Forget what waits in a job; what is under way is finished."""
        self._hints.cancel(job)
        return self._hints.progress(job)

    def status(self) -> dict[str, object]:
        """Return scores and work, for `memfs status`."""
        sources = [
            {
                "source": source.label,
                "issued_count": score.issued_count,
                "hit_count": score.hit_count,
                "wasted_count": score.wasted_count,
                "precision": round(score.precision, 4),
                "stopped": score.stopped,
            }
            for source, score in self._predictor.scores.by_source.items()
        ]
        return {
            "sources": sources,
            "learned_count": self.learner.learned_count,
            "fetched_count": self._fetcher.fetched_count,
            "fetched_bytes": self._fetcher.fetched_bytes,
            "held_count": self._fetcher.held_count,
            "waiting_count": len(self._guessed) + self._hints.waiting_count,
            "stalled": self._hints.stalled,
        }

    # --- life ------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Learn and fetch until cancelled; stores what was learned at the end."""
        await self.learner.load()
        try:
            with unhurried():
                await self._run()
        finally:
            with trio.CancelScope(shield=True):
                await self.learner.save()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(self._worker_count):
                # One worker looks at guesses first, so that a long list delays no guess.
                nursery.start_soon(self._run_worker, index > 0)
            await self._run_learning()

    async def fetch_all(self) -> None:
        """Learn what was opened and fetch all that follows from it, one file after the other."""
        await self.learn()
        with contextlib.suppress(StalledError):
            while await self._fetch_next(hints_first=True):
                pass

    async def _run_learning(self) -> None:
        while True:
            with trio.move_on_after(self._idle_s()):
                await self._activity.wait_opened()
            begin_s = trio.current_time()
            try:
                await self.learn()
                if begin_s >= self.learner.save_due_s:
                    await self.learner.save()
            except Exception as error:
                reason = as_failure(error, "prediction")
                log.warning("prediction could not look at what was opened: %s", reason)
            spent_s = trio.current_time() - begin_s
            await trio.sleep(min(PAUSE_S_MAX, max(PAUSE_S, spent_s * REST_FACTOR)))

    def _idle_s(self) -> float:
        """How long there is nothing to do if programs open nothing: until a guess or a save."""
        idle_s = self.learner.save_due_s - trio.current_time()
        expiry_ns = self._predictor.scores.next_expiry_ns()
        if expiry_ns is not None:
            idle_s = min(idle_s, (expiry_ns - self._clock()) / 1e9 + 1.0)
        return max(0.0, idle_s)

    async def learn(self) -> None:
        """Look at what was opened: note new guesses, and make good wrong ones."""
        for issued in await self.learner.learn():
            self._guessed[issued.ino] = issued
        if self._guessed:
            self._work.set()
        scores = self._predictor.scores
        scores.expire(self._clock())
        for ino in scores.take_wasted():
            fetched = self._brought.pop(ino, None)
            if fetched is not None:
                await self._fetcher.undo(ino, fetched)
        if self._brought:
            self._brought = {ino: it for ino, it in self._brought.items() if scores.is_open(ino)}

    # --- fetching --------------------------------------------------------------------------------
    async def _run_worker(self, hints_first: bool) -> None:
        while True:
            pause_s = float("inf")
            seen = self._work.count
            try:
                if await self._fetch_next(hints_first=hints_first):
                    continue
            except StalledError:
                pause_s = self._stall()
            with trio.move_on_after(pause_s):
                await self._work.wait(seen)

    def _stall(self) -> float:
        """Return how long a worker waits for room or for the store, the same for all of them."""
        now_s = trio.current_time()
        if now_s >= self._stalled_until_s:
            # Files that are being closed leave in a moment.
            pause_s = min(
                self._stall_s,
                self._stalls.closing_s if self._done.open_count else self._stalls.last_s,
            )
            self._stalled_until_s = now_s + pause_s
            self._stall_s = min(self._stalls.last_s, 2 * self._stall_s)
        return self._stalled_until_s - now_s

    async def _fetch_next(self, *, hints_first: bool) -> bool:
        """Fetch one file; False if nothing waits.

        Raises:
            StalledError: A hint waits for room or for the store.
        """
        takers = (self._fetch_hint, self._fetch_guess)
        for fetch in takers if hints_first else reversed(takers):
            if await fetch():
                return True
        return False

    async def _fetch_hint(self) -> bool:
        for _ in range(NEAR_A_SLICE):
            hint = self._hints.take()
            if hint is None:
                return False
            self._done.forget([hint.ino])
            if not (hint.warm and self._fetcher.is_held(hint.ino)):
                break
            # What is near costs only to be passed over.
            self._predictor.scores.issue_hint(hint.ino)
            self._hints.finish(hint, 0, warm=True)
        else:
            await trio.lowlevel.checkpoint()
            return True
        try:
            fetched = await self._fetcher.bring(
                hint.ino, warm=hint.warm, why="it was asked for in advance", heed_pins=False
            )
        except StalledError as error:
            self._hints.put_back(hint)
            self._hints.stalled = str(error)
            raise
        except StaleInodeError:
            self._hints.finish(hint, 0, warm=False)
        except Exception as error:
            reason = as_failure(error, f"inode {hint.ino} in a prefetch")
            log.info("inode %d could not be prefetched: %s", hint.ino, reason)
            self._hints.fail(hint, str(reason))
        else:
            self._predictor.scores.issue_hint(hint.ino)
            self._hints.finish(hint, fetched.fetched_bytes, warm=fetched.warm)
        self._hints.stalled = None
        self._stall_s = self._stalls.first_s
        return True

    async def _fetch_guess(self) -> bool:
        while self._guessed:
            ino, issued = self._guessed.popitem(last=False)
            stale = self._clock() - issued.time_ns > GUESS_NS_MAX
            if stale or not self._predictor.scores.is_open(ino):
                continue
            try:
                # A guess is not worth what the restore of an archived object costs.
                with trio.move_on_after(FETCH_S_MAX), without_restores():
                    fetched = await self._fetcher.bring(
                        ino,
                        warm=True,
                        why=f"guessed from what was opened before ({describe(issued.sources)})",
                        heed_pins=True,
                    )
                    if fetched.accessed_ns:
                        self._brought[ino] = fetched
            except StalledError as error:
                log.debug("inode %d was guessed and not fetched: %s", ino, error)
            except Exception as error:
                reason = as_failure(error, f"inode {ino} that was guessed")
                log.debug("inode %d was guessed and not fetched: %s", ino, reason)
            return True
        return False
