"""The answers of the control socket about prefetching: lists of files that will be used soon.

Invariant: a call is bounded work, and lets requests of programs through between the files.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, cast

import trio

from memfs.errors import InvalidValueError, MemfsError, NotFoundError, NotSupportedError
from memfs.hot.board import Want
from memfs.types import ROOT_INODE, InodeNo, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memfs.control.methods.prefetching import (
        DoneTaken,
        HintTaken,
        PrefetchProgress,
        PrefetchTaken,
    )
    from memfs.control.server import Handler
    from memfs.hot.board import HotBoard
    from memfs.metadata.namespace import Namespace
    from memfs.placement.prefetch.prefetcher import Prefetcher
    from memfs.prediction.hints import JobProgress

PATHS_A_CALL_MAX = 10_000
"""More are sent in several calls; a request line ends at 1 MiB anyway."""

PATHS_A_SLICE = 64
"""Paths looked up between two checkpoints: about a millisecond."""

INODES_A_CALL_MAX = 50_000
INODES_A_SLICE = 500
"""Dealt with between two checkpoints: about a millisecond."""

INODE_MAX = (1 << 63) - 1
"""As the engine stores them."""

SKIPPED_SHOWN_MAX = 20

WAIT_POLL_S = 0.1


class PrefetchMethods:
    """Answers `prefetch`, `prefetch_progress`, `prefetch_cancel`, `done` and `hint`.

    Args:
        engine: Knows names.
        prefetcher: Fetches.
        board: That of the hot tier; None: it has no hot tier.
    """

    def __init__(self, engine: Namespace, prefetcher: Prefetcher, board: HotBoard | None) -> None:
        self._engine = engine
        self._prefetcher = prefetcher
        self._board = board

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "prefetch": self.prefetch,
            "prefetch_progress": self.progress,
            "prefetch_cancel": self.cancel,
            "done": self.done,
            "hint": self.hint,
        }

    async def prefetch(
        self,
        paths: list[str],
        tier: str = "warm",
        job: int | None = None,
        replace: bool = False,
        wait: bool = False,
        exact: bool = False,
    ) -> PrefetchTaken:
        """Bring files near, in the order in which they will be used.

        Args:
            paths: From the root of the mount, up to `PATHS_A_CALL_MAX`; regular files.
            tier: `warm`: held in RAM if that has room; `cold`: on the local disk; `hot`: on
                the local disk, and then on a device, which the job does not wait for. For a new
                job.
            job: Append to this one; None: begin a new one.
            replace: First forget what waits in the job: the order of the next epoch.
            exact: The paths are all that will be used, in this order: where there is no room, those
                that come last make room for those that come first.
            wait: Answer when nothing is left to do, or nothing can be done at present.

        Returns:
            `job`; `taken_count`: paths dealt with, the first ones, fewer than all when the list is
            full; `skipped_count` and the first few `skipped` among them with their reasons;
            `progress` as of `prefetch_progress`.

        Raises:
            InvalidValueError: The parameters make no sense.
            NotFoundError: There is no such job.
        """
        _check_paths(paths)
        if tier == Tier.HOT.label and self._board is None:
            raise NotSupportedError("this mount has no hot tier; set hot.devices and hot.size")
        found, skipped = await self._find_all(paths)
        number, accepted = self._prefetcher.hint(
            [ino for _, ino in found],
            warm=tier == Tier.WARM.label,
            job=job,
            replace=replace,
            exact=exact,
        )
        if tier == Tier.HOT.label and self._board is not None:
            for _, ino in found[:accepted]:
                generation = (await self._engine.get_inode(ino)).generation
                self._board.want(Want(ino, generation))
        taken = found[accepted][0] if accepted < len(found) else len(paths)
        skipped = [each for each in skipped if each[0] < taken]
        progress = self._prefetcher.progress(number)
        while wait and not progress.ended and progress.stalled is None:
            await trio.sleep(WAIT_POLL_S)
            progress = self._prefetcher.progress(number)
        return {
            "job": number,
            "taken_count": taken,
            "skipped_count": len(skipped),
            "skipped": [f"{paths[at]}: {why}" for at, why in skipped[:SKIPPED_SHOWN_MAX]],
            "progress": _describe(progress),
        }

    async def done(self, paths: list[str]) -> DoneTaken:
        """Note that files are not used again for now; they make room for those that are fetched.

        Args:
            paths: From the root of the mount, up to `PATHS_A_CALL_MAX`.

        Returns:
            `taken_count`, and how many were `skipped_count`, being no files.

        Raises:
            InvalidValueError: The parameters make no sense.
        """
        _check_paths(paths)
        found, skipped = await self._find_all(paths)
        self._prefetcher.note_done([ino for _, ino in found])
        return {"taken_count": len(found), "skipped_count": len(skipped)}

    async def hint(
        self,
        coming: list[int],
        done: list[int],
        tier: str = "warm",
        job: int | None = None,
        replace: bool = False,
    ) -> HintTaken:
        """Note in which order files will be used, and which ones were; as `prefetch` and `done`.

        Nothing is looked up: numbers that are no files are passed over when their turn comes.

        Args:
            coming: Inode numbers, in order; nothing else will be used meanwhile.
            done: Those of files that are not used again for now. Both together are up to
                `INODES_A_CALL_MAX`.
            tier: `warm` or `cold`, of a new job.
            job: Append to this one; None: begin a new one.
            replace: First forget what waits in the job: the order of the next epoch.

        Returns:
            `job`; `taken_count`, of `coming`, fewer than all when the list is full; `stalled`:
            files wait for room or for the store.

        Raises:
            InvalidValueError: The parameters make no sense.
            NotFoundError: There is no such job.
        """
        _check_inodes(coming, done)
        for piece in _pieces(done):
            self._prefetcher.note_done(piece)
            await trio.lowlevel.checkpoint()
        warm = tier == Tier.WARM.label
        if warm and coming and await self._are_near(coming):
            number = self._prefetcher.pass_over(len(coming), job=job, replace=replace)
            return {"job": number, "taken_count": len(coming), "stalled": False}
        number, taken_count = await self._expect(coming, warm=warm, job=job, replace=replace)
        stalled = self._prefetcher.progress(number).stalled is not None
        return {"job": number, "taken_count": taken_count, "stalled": stalled}

    async def _are_near(self, inodes: list[int]) -> bool:
        for piece in _pieces(inodes):
            if not self._prefetcher.are_near(piece):
                return False
            await trio.lowlevel.checkpoint()
        return True

    async def _expect(
        self, inodes: list[int], *, warm: bool, job: int | None, replace: bool
    ) -> tuple[int, int]:
        """Add files to a job; returns its number, and how many there was room for."""
        number, _ = self._prefetcher.hint([], warm=warm, job=job, replace=replace, exact=True)
        taken_count = 0
        for piece in _pieces(inodes):
            _, accepted = self._prefetcher.hint(
                piece, warm=warm, job=number, replace=False, exact=True
            )
            taken_count += accepted
            if accepted < len(piece):
                break
            await trio.lowlevel.checkpoint()
        return number, taken_count

    async def progress(self, job: int) -> PrefetchProgress:
        """Return how far a job is; the last 64 are known."""
        return _describe(self._prefetcher.progress(job))

    async def cancel(self, job: int) -> PrefetchProgress:
        """Forget what waits in a job; what has been fetched stays. Returns its progress."""
        return _describe(self._prefetcher.cancel(job))

    async def _find_all(
        self, paths: list[str]
    ) -> tuple[list[tuple[int, InodeNo]], list[tuple[int, str]]]:
        """Return the files by index of their path, and why the others are skipped."""
        found: list[tuple[int, InodeNo]] = []
        skipped: list[tuple[int, str]] = []
        directories: dict[bytes, InodeNo] = {b"": ROOT_INODE}
        for at, path in enumerate(paths):
            if at % PATHS_A_SLICE == 0:
                await trio.lowlevel.checkpoint()
            try:
                found.append((at, await self._find(os.fsencode(path), directories)))
            except NotFoundError:
                skipped.append((at, "no such file"))
            except (MemfsError, UnicodeEncodeError) as error:
                skipped.append((at, str(error)))
        return found, skipped

    async def _find(self, path: bytes, directories: dict[bytes, InodeNo]) -> InodeNo:
        directory, _, name = path.strip(b"/").rpartition(b"/")
        parent = directories.get(directory)
        if parent is None:
            parent = ROOT_INODE
            for part in directory.split(b"/"):
                parent = (await self._engine.lookup(parent, part)).ino
            directories[directory] = parent
        inode = await self._engine.lookup(parent, name)
        if not stat.S_ISREG(inode.mode):
            raise InvalidValueError("not a regular file")
        return inode.ino


def _check_paths(paths: list[str]) -> None:
    if len(paths) > PATHS_A_CALL_MAX:
        raise InvalidValueError(f"paths: {len(paths)}; {PATHS_A_CALL_MAX} a call are allowed")


def _pieces(inodes: list[int]) -> Iterator[list[InodeNo]]:
    for at in range(0, len(inodes), INODES_A_SLICE):
        yield [InodeNo(number) for number in inodes[at : at + INODES_A_SLICE]]


def _check_inodes(*lists: list[int]) -> None:
    for inodes in lists:
        if inodes and not 0 < min(inodes) <= max(inodes) <= INODE_MAX:
            raise InvalidValueError("coming, done: not lists of inode numbers")
    if sum(map(len, lists)) > INODES_A_CALL_MAX:
        raise InvalidValueError(f"more than {INODES_A_CALL_MAX} inode numbers in a call")


def _describe(progress: JobProgress) -> PrefetchProgress:
    return cast("PrefetchProgress", {**progress._asdict(), "ended": progress.ended})
