"""Compression on request: files are packed now, and not when their age or a full disk asks for it.

Invariant: a raw file goes only after the packed one was verified and published, and stays while a
program has the file open.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import InvalidValueError
from memfs.jobs.file_work import DUE, seal_regular
from memfs.metadata.records import Decision, InodeFlags
from memfs.moves.coding import NO_CODEC, codec_of
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import find_form, pack, stored_bytes_limit
from memfs.policy import rules
from memfs.policy.quotas import Spent
from memfs.stores.sampling import judge
from memfs.types import BLOCK_BYTES, FormKind, Tier

if TYPE_CHECKING:
    from memfs.codecs.codec import Codec
    from memfs.jobs.file_work import WorkResults
    from memfs.metadata.records import Form, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.outcome import MoveResult
    from memfs.placement.quotas import Quotas
    from memfs.policy.access_stats import AccessStats
    from memfs.types import InodeNo

PINNED = "pinned"
"""A pin wants it uncompressed, or in the store."""
ABSENT = "absent"
"""It is in the object store alone, compressed there."""

ATTEMPTS_MAX = 3
"""Looks at one file, for a mover that works on the same one. Guess."""

_OPEN = "a program has it open or mapped"
_CHANGED = "it was changed meanwhile"


class CompressionRequest(NamedTuple):
    """What is asked for."""

    codec: Codec | None = None
    """For this once; None: the one in force on each file."""
    drop_raw: bool = True
    """Give back the room of the raw file."""
    dry_run: bool = False
    """Only estimate, from a sample of each file."""


class _SupersededError(Exception):
    """A file has changed since it was looked at; nothing was done and nothing noted."""


class Compression:
    """Packs files; a `FileWork`.

    Args:
        access_stats: Is told what leaves RAM.
        request: What is asked for.

    Raises:
        InvalidValueError: The codec compresses nothing.
    """

    def __init__(
        self,
        parts: MoveParts,
        access_stats: AccessStats,
        quotas: Quotas,
        request: CompressionRequest,
    ) -> None:
        if request.codec is not None and request.codec.spec == NO_CODEC:
            raise InvalidValueError("the codec none compresses nothing")
        self._parts = parts
        self._access_stats = access_stats
        self._quotas = quotas
        self._request = request

    async def do(self, ino: InodeNo, results: WorkResults) -> None:
        """Pack a file that is not open, and that no pin wants otherwise.

        What the mover has packed or moved meanwhile is looked at again, as it is then.
        """
        for _ in range(ATTEMPTS_MAX):
            try:
                await self._do_once(ino, results)
            except _SupersededError:
                continue
            return
        results.note(ino, MoveOutcome.SUPERSEDED, _CHANGED)

    async def _do_once(self, ino: InodeNo, results: WorkResults) -> None:
        inode = await seal_regular(self._parts, ino, results)
        if inode is None:
            return
        if inode.flags & InodeFlags.UNSEALED:
            results.note(ino, MoveOutcome.BUSY, _OPEN)
        elif (pin := (await self._parts.engine.effective_pin(ino)).tier) not in (None, Tier.COLD):
            assert pin is not None
            results.note(ino, PINNED)
        else:
            packed = await find_form(self._parts, inode, FormKind.PACKED)
            await self._compress(inode, packed, results)

    async def finish(self, results: WorkResults) -> None:
        """Nothing is left to do."""
        await trio.lowlevel.checkpoint()

    async def _compress(self, inode: Inode, packed: Form | None, results: WorkResults) -> None:
        if packed is None and not inode.raw:
            # An empty file that was never written has no form at all, and needs no form.
            results.note(inode.ino, ABSENT if inode.blob else MoveOutcome.UNNEEDED)
            return
        recode = packed is not None and self._wants_other_codec(packed)
        if packed is not None and not recode and not (inode.raw and self._request.drop_raw):
            results.note(inode.ino, MoveOutcome.UNNEEDED)
        elif self._request.dry_run:
            await self._estimate(inode, packed, recode, results)
        else:
            await self._pack(inode, packed, recode, results)

    def _wants_other_codec(self, packed: Form) -> bool:
        codec = self._request.codec
        return codec is not None and packed.coding.codec != str(codec.spec)

    async def _pack(
        self, inode: Inode, packed: Form | None, recode: bool, results: WorkResults
    ) -> None:
        ino, moved_bytes = inode.ino, 0
        before_bytes = _local_bytes(inode, packed)
        if packed is None or recode:
            replacing = packed if recode else None
            outcome, moved_bytes = await self._make_packed(inode, replacing)
            if outcome is MoveOutcome.SUPERSEDED:
                raise _SupersededError
            if outcome not in (MoveOutcome.DONE, MoveOutcome.UNNEEDED):
                results.note(ino, outcome, _OPEN if outcome is MoveOutcome.BUSY else "")
                return
        kept = False
        if self._request.drop_raw:
            kept = (await drop_raw(self._parts, ino)).outcome == MoveOutcome.BUSY
            if not kept:
                self._access_stats.pools.leave(ino)
        now = await self._parts.engine.get_inode(ino)
        form = await find_form(self._parts, now, FormKind.PACKED)
        if form is not None:
            await self._record(ino, form, moved_bytes)
        results.note(
            ino,
            MoveOutcome.BUSY if kept else MoveOutcome.DONE,
            f"{_OPEN}: it is packed, and its raw file stays" if kept else "",
            before_bytes=before_bytes,
            after_bytes=_local_bytes(now, form),
            moved_bytes=moved_bytes,
        )

    async def _make_packed(self, inode: Inode, replacing: Form | None) -> MoveResult:
        unpacks = replacing is not None and not inode.raw
        unpacked_bytes = inode.size if unpacks else 0
        with self._quotas.reserved({Spent.DISK_WRITES: unpacked_bytes + inode.size}) as actual:
            if unpacks:
                await hydrate(self._parts, inode.ino)
            # What it has stays if the new one would be no gain: others may share it.
            result = await pack(self._parts, inode.ino, self._request.codec, replacing=replacing)
            if unpacks and result.outcome is MoveOutcome.INCOMPRESSIBLE:
                await drop_raw(self._parts, inode.ino)
            actual[Spent.DISK_WRITES] = unpacked_bytes + min(inode.size, result.moved_bytes)
            return result

    async def _record(self, ino: InodeNo, form: Form, moved_bytes: int) -> None:
        detail = f"memfs compress packed it with {form.coding.codec}"
        engine = self._parts.engine
        async with engine.change():
            await engine.record_decision(
                ino, Decision(rules.COMPRESS, detail, moved_bytes, time.time_ns())
            )

    async def _estimate(
        self, inode: Inode, packed: Form | None, recode: bool, results: WorkResults
    ) -> None:
        before_bytes = _local_bytes(inode, packed)
        kept_bytes = 0 if self._request.drop_raw else _local_bytes(inode, None)
        if packed is not None and (not recode or not inode.raw):
            # Without a raw file there is nothing to take a sample of: the size it has must do.
            after_bytes = packed.stored_bytes
            results.note(inode.ino, DUE, before_bytes=before_bytes, after_bytes=after_bytes)
            return
        parts = self._parts
        codec = self._request.codec or await codec_of(parts, inode.ino, parts.config.cold.codec)
        limit_bytes = stored_bytes_limit(inode)
        if codec.spec == NO_CODEC or limit_bytes <= 0:
            results.note(inode.ino, MoveOutcome.INCOMPRESSIBLE)
            return
        source = parts.raw_store.path(inode.raw)
        verdict = await trio.to_thread.run_sync(judge, source, codec, limiter=parts.threads)
        stored_bytes = int(inode.size * (1 - verdict.saving))
        if not verdict.worthwhile or stored_bytes > limit_bytes:
            results.note(inode.ino, MoveOutcome.INCOMPRESSIBLE)
            return
        results.note(
            inode.ino, DUE, before_bytes=before_bytes, after_bytes=stored_bytes + kept_bytes
        )


def _local_bytes(inode: Inode, packed: Form | None) -> int:
    """Return what a file takes up on the local disk."""
    raw_bytes = inode.blocks * BLOCK_BYTES if inode.raw else 0
    return raw_bytes + (packed.stored_bytes if packed is not None else 0)
