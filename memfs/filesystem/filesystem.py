"""The file system: what every FUSE request means, free of any protocol.

Invariant: it implements `operations.Operations`; drivers, and the mover beside it, see no other way
to the namespace.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import trio

from memfs.content.sealing import SEALS_A_STEP_MAX
from memfs.errors import ObjectMissingError
from memfs.filesystem.demand_listing import DemandListing
from memfs.linux.files import start_writeback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.metadata.records import Inode
    from memfs.types import RawId

WRITEBACK_PIECE_BYTES = 64 << 20
"""0.6 s at 100 MB/s."""


class Filesystem(DemandListing):
    """One mounted file system.

    The groups of requests build on each other, a module each: `names` < `writing` < `attributes` <
    `content` < `xattrs`. All run in one thread; no method suspends before `leave()`
    (`memfs.waiting`). `tree_changes`, `small_files` and
    `foreign_changes` are for commands, clients and sources, and suspend; `demand_listing` has
    directories listed that somebody looks into.
    """

    has_aliases = False
    """Inodes may have further numbers (`nodes.nodes_of`)."""

    async def recover(self) -> None:
        """Take over what an earlier daemon left; before the first request."""
        await self._file_syncs.load_refusals()
        await self.reap_left_over()
        await self._sealer.adopt_unsealed()
        await self._sealer.adopt_doubtful()

    async def finish_requests(self) -> bool:
        """Do what follows from requests but need not be waited for.

        That is to reap, to seal, and to keep access times, what objects have told, and which files
        the disk has refused.
        Called by the mover between two rounds. Every part is bounded.

        Returns:
            True if more is waiting.
        """
        await self.reap()
        sealed_count = await self._sealer.seal_all()
        await self.store_atimes()
        await self.take_told()
        await self._file_syncs.save_refusals()
        return sealed_count == SEALS_A_STEP_MAX

    async def write_out(
        self,
        inodes: Sequence[Inode],
        *,
        piece_bytes: int = WRITEBACK_PIECE_BYTES,
        start: Callable[[int, int, int], None] = start_writeback,
    ) -> None:
        """Give the bytes of files to the disk before a sync, which nothing can interrupt, must.

        Cancel: safe, and obeyed between two pieces. What follows from it is left to the sync.

        Args:
            inodes: Those of the files.
            piece_bytes: Handed over by one call, which nothing interrupts.
            start: Hands a range of a file over: by its descriptor, offset and length.
        """
        raws = [inode.raw for inode in inodes if inode.raw]
        write = functools.partial(self._write_out, raws, piece_bytes, start)
        await trio.to_thread.run_sync(write, limiter=self._threads)

    def _write_out(
        self, raws: Sequence[RawId], piece_bytes: int, start: Callable[[int, int, int], None]
    ) -> None:
        for raw in raws:
            try:
                fd = self._raw_store.open(raw, os.O_RDONLY)
            except ObjectMissingError:
                continue
            try:
                for offset in range(0, os.fstat(fd).st_size, piece_bytes):
                    trio.from_thread.check_cancelled()
                    start(fd, offset, piece_bytes)
            finally:
                os.close(fd)
