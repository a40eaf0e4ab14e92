"""Barriers: files, as they are now, are brought to a level of safety before the caller goes on.

Local: a file that is noted as done has its bytes, its names and all that the engine knows of it on
stable storage: neither SIGKILL of the daemon nor loss of power takes them away. What a program
that has it open writes later is not covered.

Remote: a file that is noted as done has an object in the store that was read back whole with its
digest, for the generation that it has now, and the engine knows so durably: the file reads back
after SIGKILL, loss of power, and loss of its local forms. Those stay where they are.

Invariant: nothing is noted as done before the last write and sync that its promise rests on.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

from memfs.errors import MemfsError, NotSupportedError, StoreError, StoreUnavailableError
from memfs.metadata.records import InodeFlags
from memfs.mover.batcher import FILES_A_BATCH_MAX
from memfs.moves.file_work import FAILED, WAITING
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import find_form
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Inode
    from memfs.mover.durability import Durability
    from memfs.mover.store_gate import StoreGate
    from memfs.moves.attempt import MoveParts
    from memfs.moves.file_work import WorkResults
    from memfs.moves.moves import Moves
    from memfs.types import InodeNo

OPEN = "open"
"""On stable storage as it was, but a program has it open for writing or mapped, and may go on."""

_WRITTEN = "a program has it open for writing or mapped; it is uploaded when that ends"
_CHANGED = "it was changed meanwhile"


class LocalBarrier:
    """Brings files to stable local storage; a `FileWork`.

    All files of a call are synced at once, so that thousands of small ones cost one syncfs(2).

    Args:
        parts: The engine and the raw files among them.
        durability: Of the mount.
    """

    def __init__(self, parts: MoveParts, durability: Durability) -> None:
        self._parts = parts
        self._durability = durability
        self._files: list[Inode] = []

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """See `FileWork`."""
        await self._parts.sealer.seal(ino)
        inode = await self._parts.engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode) or not inode.raw:
            # Packed files were synced, and objects verified, before they were published.
            results.note(ino, MoveOutcome.UNNEEDED)
        elif inode.flags & (InodeFlags.UNSEALED | InodeFlags.DURABLE) == InodeFlags.DURABLE:
            results.note(ino, MoveOutcome.UNNEEDED)
        else:
            self._files.append(inode)

    async def finish(self, results: WorkResults) -> None:
        """See `FileWork`; names of all files and directories become durable even if no file did."""
        failures = await self._durability.make_durable(self._files)
        for inode in self._files:
            if reason := failures.get(inode.ino) or self._earlier_failure(inode):
                results.note(inode.ino, FAILED, reason)
            elif inode.flags & InodeFlags.UNSEALED:
                # It could not be sealed: a writer, or a mapping that outlives its handle.
                results.note(inode.ino, OPEN)
            else:
                results.note(inode.ino, MoveOutcome.DONE)

    def _earlier_failure(self, inode: Inode) -> str | None:
        """Return what an earlier sync has met: the kernel tells of a lost page only once."""
        code = self._parts.open_table.sync_errno(inode.ino)
        code = code or self._parts.syncer.failure_of(inode.raw)
        return f"an earlier sync of it failed: {os.strerror(code)}" if code else None


class RemoteBarrier:
    """Gives files objects in the store; a `FileWork`.

    Small files share objects, as those that the mover uploads. While the store is down, nobody asks
    it: the files wait with its reason.

    Args:
        parts: The engine and the configuration among them.
        moves: Makes the uploads.
        gate: Of the mover.

    Raises:
        NotSupportedError: There is no object store.
    """

    def __init__(self, parts: MoveParts, moves: Moves, gate: StoreGate) -> None:
        if parts.remote is None:
            raise NotSupportedError("no glacier tier is configured: set glacier.url")
        self._parts = parts
        self._moves = moves
        self._gate = gate
        self._small: list[InodeNo] = []
        self._small_bytes = 0

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """See `FileWork`."""
        parts, config = self._parts, self._parts.config.glacier
        await parts.sealer.seal(ino)
        inode = await parts.engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode):
            results.note(ino, MoveOutcome.UNNEEDED)
        elif inode.flags & InodeFlags.UNSEALED or await parts.sealer.adopt_if_changed(inode):
            results.note(ino, MoveOutcome.BUSY, _WRITTEN)
        elif await find_form(parts, inode, FormKind.REMOTE) is not None:
            results.note(ino, MoveOutcome.UNNEEDED)
        elif inode.size > config.batch_file_bytes_max:
            await self._upload([ino], results)
        else:
            self._small.append(ino)
            self._small_bytes += inode.size
            if (
                self._small_bytes >= config.batch_size_bytes
                or len(self._small) >= FILES_A_BATCH_MAX
            ):
                await self._upload(self._take_small(), results)

    async def finish(self, results: WorkResults) -> None:
        """See `FileWork`."""
        if self._small:
            await self._upload(self._take_small(), results)
        # That the objects are there must not be forgotten with power.
        parts = self._parts
        await trio.to_thread.run_sync(parts.syncer.sync, limiter=parts.prompt_threads)

    def _take_small(self) -> list[InodeNo]:
        taken, self._small = self._small, []
        self._small_bytes = 0
        return taken

    async def _upload(self, inos: Sequence[InodeNo], results: WorkResults) -> None:
        """Upload files into one object, and those that it leaves out one by one."""
        alone = list(inos)
        if len(inos) > 1:
            if self._wait_for_store(inos, results):
                return
            try:
                found = await self._moves.upload_batch(inos)
            except (MemfsError, OSError) as error:
                self._note_refusal(inos, error, results)
                return
            self._gate.succeed()
            alone = [ino for ino in inos if found[ino].outcome == MoveOutcome.SUPERSEDED]
            for ino in inos:
                if found[ino].outcome != MoveOutcome.SUPERSEDED:
                    self._note(ino, found[ino].outcome, found[ino].moved_bytes, results)
        for ino in alone:
            if self._wait_for_store([ino], results):
                continue
            try:
                outcome, moved_bytes = await self._moves.upload(ino)
            except (MemfsError, OSError) as error:
                self._note_refusal([ino], error, results)
            else:
                self._gate.succeed()
                self._note(ino, outcome, moved_bytes, results)

    def _note(
        self, ino: InodeNo, outcome: MoveOutcome, moved_bytes: int, results: WorkResults
    ) -> None:
        reasons = {MoveOutcome.BUSY: _WRITTEN, MoveOutcome.SUPERSEDED: _CHANGED}
        results.note(ino, outcome, reasons.get(outcome, ""), moved_bytes=moved_bytes)

    def _wait_for_store(self, inos: Sequence[InodeNo], results: WorkResults) -> bool:
        if not self._gate.wait_s:
            return False
        for ino in inos:
            results.note(ino, WAITING, self._gate.reason or "the store is down")
        return True

    def _note_refusal(
        self, inos: Sequence[InodeNo], error: MemfsError | OSError, results: WorkResults
    ) -> None:
        if isinstance(error, StoreError):
            self._gate.fail(str(error))
        outcome = WAITING if isinstance(error, StoreUnavailableError) else FAILED
        for ino in inos:
            results.note(ino, outcome, str(error))
