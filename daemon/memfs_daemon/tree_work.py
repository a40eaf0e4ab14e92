"""The answers of the control socket to work on trees: rekey, compress, barrier; and moves.

The client walks the tree and sends inode numbers; a call works on them for some seconds and says
how many it took.

Invariant: a call keeps no state: who asks again for the same files finds those done as unneeded.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.codecs.registry import get_codec, parse_codec
from memfs.defects import as_failure
from memfs.errors import InvalidValueError, StaleInodeError
from memfs.jobs.compression import Compression, CompressionRequest
from memfs.jobs.local_barrier import LocalBarrier
from memfs.jobs.rekeying import Rekeying
from memfs.jobs.remote_barrier import RemoteBarrier
from memfs.moves.file_work import WorkResults, refusal_outcome
from memfs.moves.outcome import MoveOutcome
from memfs.types import Durability as Level
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memfs.control.protocol import JsonValue
    from memfs.control.server import Handler
    from memfs.moves.attempt import MoveParts
    from memfs.moves.file_work import FileWork
    from memfs.placement.mover import Mover
    from memfs.policy.access_stats import AccessStats

FILES_A_CALL_MAX = 4096

SLICE_S = 2.0
"""No file is begun in a call after so long, so that its caller can show how far it is."""

CONCURRENT_COUNT_MAX = 4
"""Files at a time: hides the store's round trips; guess."""


class TreeMethods:
    """Answers `rekey`, `compress` and `barrier`, and `moves` to who shows how far they are.

    The first three take `inos`, up to `FILES_A_CALL_MAX` inode numbers, and return: `taken_count`,
    how many of them, from the first, are done; `outcomes`, counts by `MoveOutcome` and the words of
    `moves.file_work`; `before_bytes`, `after_bytes`, `moved_bytes`; and `left`, outcome and reason
    by inode number of the files that are not as they were asked to be.

    Args:
        parts: What moves work with.
        mover: Knows the state of store and disk.
        access_stats: Is told what leaves RAM.
    """

    def __init__(self, parts: MoveParts, mover: Mover, access_stats: AccessStats) -> None:
        self._parts = parts
        self._mover = mover
        self._access_stats = access_stats

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "rekey": self.rekey,
            "compress": self.compress,
            "barrier": self.barrier,
            "moves": self.moves,
        }

    async def moves(self) -> JsonValue:
        """Return how many moves are under way, whoever wants them, and how far they are."""
        await trio.lowlevel.checkpoint()
        count, done_bytes, total_bytes = self._parts.progress.sum()
        return {"count": count, "done_bytes": done_bytes, "total_bytes": total_bytes}

    async def rekey(self, inos: list[int], dry_run: bool = False) -> JsonValue:
        """Bring files under the key that new forms have.

        Args:
            inos: Inode numbers.
            dry_run: Only count their forms by key.

        Returns:
            `keys` as well: forms and stored bytes by the key id that they had.
        """
        work = Rekeying(self._parts, self._mover.quotas, dry_run=dry_run)
        answer = await _run(inos, work)
        answer["keys"] = {key_id: [*counts] for key_id, counts in work.keys.items()}
        return answer

    async def compress(
        self,
        inos: list[int],
        codec: str | None = None,
        drop_raw: bool = True,
        dry_run: bool = False,
    ) -> JsonValue:
        """Pack files now.

        Args:
            inos: Inode numbers.
            codec: As users write it, for this once; None: the one in force on each file.
            drop_raw: Remove raw files that are packed.
            dry_run: Only estimate, from a sample of each file.

        Raises:
            InvalidValueError: There is no such codec, or it compresses nothing.
        """
        chosen = None if codec is None else get_codec(parse_codec(codec))
        request = CompressionRequest(chosen, drop_raw, dry_run)
        work = Compression(self._parts, self._access_stats, self._mover.quotas, request)
        return await _run(inos, work)

    async def barrier(self, inos: list[int], level: str) -> JsonValue:
        """Bring files to a level of safety; `LocalBarrier` and `RemoteBarrier` say to which.

        Args:
            inos: Inode numbers; without any, `local` still brings all names to stable storage.
            level: `local` or `remote`.

        Raises:
            NotSupportedError: `remote`, and there is no object store.
        """
        if level == Level.LOCAL:
            return await _run(inos, LocalBarrier(self._parts, self._mover.durability))
        mover = self._mover
        work = RemoteBarrier(self._parts, mover.breaker, mover.quotas)
        return await _run(inos, work)


async def _run(inos: Sequence[int], work: FileWork) -> dict[str, JsonValue]:
    """Do a work to as many files as are begun in `SLICE_S`."""
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
