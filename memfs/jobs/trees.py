"""The answers of the control socket to work on trees: rekey, relocate, compress, barrier; moves.

The client walks the tree and sends inode numbers; a call works on them for some seconds and says
how many it took.

Invariant: a call keeps no state: who asks again for the same files finds those done as unneeded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.codecs.registry import get_codec, parse_codec
from memfs.jobs.barriers import LocalBarrier, RemoteBarrier
from memfs.jobs.compression import Compression, CompressionRequest
from memfs.jobs.file_work import FILES_A_CALL_MAX, run_work
from memfs.jobs.rekeying import KeptRekeying, Rekeying
from memfs.jobs.relocation import Relocation
from memfs.types import BlobId
from memfs.types import Durability as Level

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.control.methods.trees import MovesReport, WorkReport
    from memfs.control.server import Handler
    from memfs.placement.context import Context


class TreeMethods:
    """Answers `rekey`, `relocate`, `compress` and `barrier`, and `moves` to who shows progress.

    `kept_blobs` lists what only snapshots show, and `rekey_kept` takes that by its numbers.

    The first four take `inos`, up to `FILES_A_CALL_MAX` inode numbers, and return: `taken_count`,
    how many of them, from the first, are done; `outcomes`, counts by `MoveOutcome` and the words of
    `jobs.file_work`; `before_bytes`, `after_bytes`, `moved_bytes`; and `left`, outcome and reason
    by inode number of the files that are not as they were asked to be.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def methods(self) -> Mapping[str, Handler]:
        """Return the methods of the control socket by name."""
        return {
            "rekey": self.rekey,
            "rekey_kept": self.rekey_kept,
            "relocate": self.relocate,
            "kept_blobs": self.kept_blobs,
            "compress": self.compress,
            "barrier": self.barrier,
            "moves": self.moves,
        }

    async def moves(self) -> MovesReport:
        """Return how many moves are under way, whatever wants them, and how far they are."""
        await trio.lowlevel.checkpoint()
        count, done_bytes, total_bytes = self._context.parts.progress.sum()
        return {"count": count, "done_bytes": done_bytes, "total_bytes": total_bytes}

    async def rekey(self, inos: list[int], dry_run: bool = False) -> WorkReport:
        """Bring files under the key that new forms have.

        Args:
            dry_run: Only count their forms by key.

        Returns:
            `keys` as well: forms and stored bytes by the key id that they had.
        """
        work = Rekeying(self._context.parts, self._context.quotas, dry_run=dry_run)
        return await self._run_rekeying(inos, work)

    async def kept_blobs(self, after: int = 0, limit: int = FILES_A_CALL_MAX) -> list[int]:
        """Return contents with forms that only snapshots show, by number.

        Args:
            after: The last one of the page before.
            limit: At most so many, and `FILES_A_CALL_MAX`.
        """
        limit = max(0, min(limit, FILES_A_CALL_MAX))
        found = await self._context.parts.engine.list_kept_blobs(BlobId(after), limit)
        return [int(kept.blob) for kept in found]

    async def rekey_kept(self, blobs: list[int], dry_run: bool = False) -> WorkReport:
        """Do as `rekey` with contents that only snapshots show.

        Args:
            blobs: As `kept_blobs` lists them, at most `FILES_A_CALL_MAX`.
            dry_run: Only count their forms by key.
        """
        work = KeptRekeying(self._context.parts, self._context.quotas, dry_run=dry_run)
        return await self._run_rekeying(blobs, work)

    async def _run_rekeying(self, numbers: list[int], work: Rekeying) -> WorkReport:
        answer = await run_work(numbers, work)
        answer["keys"] = {key_id: [*counts] for key_id, counts in work.keys.items()}
        return answer

    async def relocate(self, inos: list[int], dry_run: bool = False) -> WorkReport:
        """Bring the objects of files into the stores that the files belong in.

        Args:
            dry_run: Only tell which are to be moved.
        """
        work = Relocation(self._context.parts, self._context.quotas, dry_run=dry_run)
        return await run_work(inos, work)

    async def compress(
        self,
        inos: list[int],
        codec: str | None = None,
        drop_raw: bool = True,
        dry_run: bool = False,
    ) -> WorkReport:
        """Pack files now.

        Args:
            codec: As users write it, for this once; None: the one in force on each file.
            drop_raw: Remove raw files that are packed.
            dry_run: Only estimate, from a sample of each file.

        Raises:
            InvalidValueError: There is no such codec, or it compresses nothing.
        """
        chosen = None if codec is None else get_codec(parse_codec(codec))
        request = CompressionRequest(chosen, drop_raw, dry_run)
        context = self._context
        work = Compression(context.parts, context.access_stats, context.quotas, request)
        return await run_work(inos, work)

    async def barrier(self, inos: list[int], level: str) -> WorkReport:
        """Bring files to a level of safety; `LocalBarrier` and `RemoteBarrier` say to which.

        Args:
            inos: Inode numbers; without any, `local` still brings all names to stable storage.
            level: `local` or `remote`.

        Raises:
            NotSupportedError: `remote`, and there is no object store.
        """
        context = self._context
        if level == Level.LOCAL:
            return await run_work(inos, LocalBarrier(context.parts))
        work = RemoteBarrier(context.parts, context.breakers.of, context.quotas)
        return await run_work(inos, work)
