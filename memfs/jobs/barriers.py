"""Barriers: files, as they are now, are safe before the caller goes on.

The local barrier brings them to stable storage: a file that is noted as done has its bytes, its
names and all that the engine knows of it there, so that neither SIGKILL of the daemon nor loss of
power takes them away. What a program that has it open writes later is not covered.

The remote barrier brings them to the object store: a file that is noted as done has an object
there that was read back whole with its digest, for the generation that it has now, and the engine
knows so durably. The file reads back after SIGKILL, loss of power, and loss of its local forms,
which stay where they are.

Invariant: nothing is noted as done before the last write and sync that its promise rests on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memfs.errors import (
    MemfsError,
    QuotaSpentError,
    StaleInodeError,
    StoreError,
)
from memfs.jobs.file_work import FAILED, WAITING, refusal_outcome, seal_regular
from memfs.metadata.records import InodeFlags
from memfs.moves.attempt import configured_store
from memfs.moves.batching import upload_batch
from memfs.moves.choosing import chosen_store
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import find_form
from memfs.moves.uploading import upload
from memfs.placement.batcher import FILES_A_BATCH_MAX
from memfs.placement.quotas import BatchQuota, cost_of_upload, stored_bytes_max
from memfs.policy.quotas import Spent
from memfs.types import FormKind, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.backoff import CircuitBreaker
    from memfs.jobs.file_work import WorkResults
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.placement.quotas import Quotas
    from memfs.types import InodeNo

_NO_BYTES = (
    "there are no bytes of it, neither on this disk nor in the object store: if they are lost, "
    "write it anew or remove it"
)
_ADOPTED = (
    "its bytes are in the source that it was adopted from, and memfs has no object of it: after "
    "memfs adopt --own it is memfs's own"
)
_WRITTEN = "a program has it open for writing or mapped; it is uploaded when that ends"
_CHANGED = "it was changed meanwhile"

OPEN = "open"
"""On stable storage as it was, but a program has it open for writing or mapped, and may go on."""


class LocalBarrier:
    """Brings files to stable local storage; a `FileWork`.

    All files of a call are synced at once, so that thousands of small ones cost one syncfs(2).
    """

    def __init__(self, parts: MoveParts) -> None:
        self._parts = parts
        self._files: list[Inode] = []

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Take a file for `finish`, unless it is on stable storage."""
        inode = await seal_regular(self._parts, ino, results)
        if inode is None:
            return
        unsealed = inode.flags & InodeFlags.UNSEALED
        if inode.raw and (unsealed or not inode.flags & InodeFlags.DURABLE):
            self._files.append(inode)
        else:
            # Packed files were synced, and objects verified, before they were published.
            results.note(inode.ino, MoveOutcome.UNNEEDED)

    async def finish(self, results: WorkResults) -> None:
        """Sync the files; names of all files and directories become durable even without any."""
        failures = await self._parts.file_syncs.make_durable(self._files)
        for inode in self._files:
            if reason := failures.get(inode.ino):
                results.note(inode.ino, FAILED, reason)
            elif inode.flags & InodeFlags.UNSEALED:
                # It could not be sealed: a writer, or a mapping that outlives its handle.
                results.note(inode.ino, OPEN)
            else:
                results.note(inode.ino, MoveOutcome.DONE)


class RemoteBarrier:
    """Gives files objects in the store; a `FileWork`.

    Small files share objects, as those that the mover uploads. While the store is down, nobody asks
    it: the files wait with its reason; and with that of a quota of the day that is spent.

    Args:
        breaker_of: Returns the circuit breaker of a store by its name.

    Raises:
        NotSupportedError: There is no object store.
    """

    def __init__(
        self, parts: MoveParts, breaker_of: Callable[[str], CircuitBreaker], quotas: Quotas
    ) -> None:
        configured_store(parts)
        self._parts = parts
        self._breaker_of = breaker_of
        self._quotas = quotas
        self._small: dict[str, list[Inode]] = {}
        """By the name of the store that they belong in."""

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Upload a file, or take it for an object that it shares, unless it has one."""
        parts = self._parts
        inode = await seal_regular(parts, ino, results)
        if inode is None:
            return
        if inode.flags & InodeFlags.UNSEALED or await parts.sealer.adopt_if_changed(inode):
            results.note(ino, MoveOutcome.BUSY, _WRITTEN)
        elif await find_form(parts, inode, FormKind.REMOTE) is not None:
            results.note(ino, MoveOutcome.UNNEEDED)
        elif not (inode.raw or await find_form(parts, inode, FormKind.PACKED)) and (
            inode.size or inode.blob
        ):
            is_adopted = bool(await parts.engine.list_all_forms(inode))
            results.note(ino, FAILED, _ADOPTED if is_adopted else _NO_BYTES)
        else:
            await self._take(inode, await chosen_store(parts, ino), results)

    async def _take(self, inode: Inode, store: str, results: WorkResults) -> None:
        config = self._parts.config.store(store)
        if inode.size > config.batch_file_bytes_max:
            await self._upload(inode, store, results)
            return
        small = self._small.setdefault(store, [])
        small.append(inode)
        is_full = sum(each.size for each in small) >= config.batch_size_bytes
        if is_full or len(small) >= FILES_A_BATCH_MAX:
            await self._upload_batch(self._small.pop(store), store, results)

    async def finish(self, results: WorkResults) -> None:
        """Upload the small files that are left, and have the engine remember all objects."""
        while self._small:
            store, small = self._small.popitem()
            await self._upload_batch(small, store, results)
        # That the objects are there must not be forgotten with power.
        parts = self._parts
        await parts.file_syncs.sync()

    async def _upload_batch(self, files: Sequence[Inode], store: str, results: WorkResults) -> None:
        """Upload files into one object, and those that it leaves out one by one."""
        if len(files) == 1:
            await self._upload(files[0], store, results)
            return
        if self._wait_for_store(files, store, results):
            return
        quota = BatchQuota(self._quotas, sum(file.size for file in files))
        try:
            chosen = self._within(quota, files, results)
            if not chosen:
                return
            try:
                found = await upload_batch(self._parts, [file.ino for file in chosen], store)
            except (MemfsError, OSError) as error:
                quota.close(None)
                self._note_refusal(chosen, store, error, results)
                return
            quota.close(sum(result.moved_bytes for result in found.values()))
        finally:
            quota.close()
        self._breaker_of(store).succeed()
        for file in chosen:
            outcome, moved_bytes = found[file.ino]
            if outcome == MoveOutcome.SUPERSEDED:
                await self._upload(file, store, results)
            else:
                await self._note(file.ino, outcome, moved_bytes, results)

    def _within(
        self, quota: BatchQuota, files: Sequence[Inode], results: WorkResults
    ) -> list[Inode]:
        """Return those of some files that the quotas of the day have room for."""
        chosen = []
        for file in files:
            try:
                quota.add(file.size)
            except QuotaSpentError as error:
                results.note(file.ino, refusal_outcome(error), str(error))
            else:
                chosen.append(file)
        return chosen

    async def _upload(self, file: Inode, store: str, results: WorkResults) -> None:
        if self._wait_for_store([file], store, results):
            return
        packed = None if file.raw else await find_form(self._parts, file, FormKind.PACKED)
        size = file.size if packed is None else packed.stored_bytes
        cost = cost_of_upload(stored_bytes_max(size), copied=packed is None)
        try:
            with self._quotas.reserved(cost) as actual:
                outcome, moved_bytes = await upload(self._parts, file.ino)
                actual[Spent.DISK_WRITES] = min(actual[Spent.DISK_WRITES], moved_bytes)
        except (MemfsError, OSError) as error:
            self._note_refusal([file], store, error, results)
        else:
            self._breaker_of(store).succeed()
            await self._note(file.ino, outcome, moved_bytes, results)

    async def _note(
        self, ino: InodeNo, outcome: MoveOutcome, moved_bytes: int, results: WorkResults
    ) -> None:
        if outcome in (MoveOutcome.DONE, MoveOutcome.UNNEEDED):
            await self._wake(ino)
        reasons = {MoveOutcome.BUSY: _WRITTEN, MoveOutcome.SUPERSEDED: _CHANGED}
        results.note(ino, outcome, reasons.get(outcome, ""), moved_bytes=moved_bytes)

    async def _wake(self, ino: InodeNo) -> None:
        """Have the mover look at a file that waits for what was done just now."""
        engine = self._parts.engine
        try:
            async with engine.change():
                pending = await engine.get_pending(ino)
                if pending is not None and pending.wanted == Tier.GLACIER:
                    await engine.set_pending(pending._replace(retry_ns=time.time_ns()))
        except StaleInodeError:
            return

    def _wait_for_store(self, files: Sequence[Inode], store: str, results: WorkResults) -> bool:
        breaker = self._breaker_of(store)
        if not breaker.wait_s:
            return False
        for file in files:
            results.note(file.ino, WAITING, breaker.reason or "the store is down")
        return True

    def _note_refusal(
        self,
        files: Sequence[Inode],
        store: str,
        error: MemfsError | OSError,
        results: WorkResults,
    ) -> None:
        if isinstance(error, StoreError) and not isinstance(error, QuotaSpentError):
            self._breaker_of(store).fail(str(error))
        for file in files:
            results.note(file.ino, refusal_outcome(error), str(error))
