"""Pack: a sealed raw file also gets a compressed local form.

Invariant: the packed file was decoded whole and has the raw file's digest before it is published.
"""

from __future__ import annotations

import contextlib
import stat
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.errors import CorruptDataError, NotFoundError, StaleInodeError
from memfs.metadata.records import Blob, Form, FormReplacement, InodeFlags, MoveKind
from memfs.metrics.traffic import Level
from memfs.moves.attempt import recorded
from memfs.moves.coding import choose_coding, encryption_of, unlock
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.stores.packing import pack_file
from memfs.stores.raw import RawRemovedError
from memfs.stores.reading import PackedFile
from memfs.types import BLOCK_BYTES, FormKind, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.codecs.codec import Codec
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.coding import Coding
    from memfs.moves.progress import MoveProgress
    from memfs.moves.throttle import BackgroundThrottle
    from memfs.stores.envelope import Encryption, Unlock
    from memfs.stores.packing import PackedSummary
    from memfs.stores.zeros import ZeroRuns
    from memfs.types import BlobId, InodeNo, IntentId

DISK_BLOCK_BYTES = 4096
"""Unit in which common local file systems allocate; a packed file must save at least one."""


class _DoesNotShrinkError(Exception):
    """Stops the packing of a file that has no gain any more."""


async def pack(
    parts: MoveParts,
    ino: InodeNo,
    codec: Codec | None = None,
    *,
    seen: Inode | None = None,
    replacing: Form | None = None,
) -> MoveResult:
    """Give a sealed raw file its packed form.

    Args:
        parts: What moves work with.
        ino: The file.
        codec: For this form; None: the one in force on the file.
        seen: The file as the caller has read it just now; None: it is read.
        replacing: The packed form that it has, and the new one takes the place of, for all that
            share it. None: there is no such form.

    Raises:
        StaleInodeError: The file is gone.
        NoSpaceError: The disk is full; nothing is left behind.
        CorruptDataError: What was written does not read back equal.
    """
    inode = seen or await parts.engine.get_inode(ino)
    if inode.flags & InodeFlags.UNSEALED:
        return MoveResult(MoveOutcome.BUSY)
    if not stat.S_ISREG(inode.mode) or not inode.raw:
        return MoveResult(MoveOutcome.UNNEEDED)
    if await find_form(parts, inode, FormKind.PACKED) != replacing:
        return MoveResult(MoveOutcome.SUPERSEDED if replacing else MoveOutcome.UNNEEDED)
    if await parts.sealer.adopt_if_changed(inode):
        return MoveResult(MoveOutcome.SUPERSEDED)
    stored_bytes_max = stored_bytes_limit(inode)
    if stored_bytes_max <= 0:
        return MoveResult(MoveOutcome.INCOMPRESSIBLE)
    coding = await choose_coding(parts, inode, parts.config.cold.codec, codec)
    if not coding.worthwhile:
        return MoveResult(MoveOutcome.INCOMPRESSIBLE)
    number = parts.engine.reserve_blob()
    location = parts.packed_store.location(number)
    blob_number = inode.blob or number
    encryption = encryption_of(parts, FormKind.PACKED, inode, blob_number)
    async with recorded(parts, MoveKind.PACK, location, inode) as attempt:
        with parts.progress.track("pack", ino, inode.size) as progress:
            summary = await trio.to_thread.run_sync(
                _write,
                parts,
                inode,
                coding,
                encryption,
                location,
                stored_bytes_max,
                progress,
                limiter=parts.threads,
            )
            if summary is None:
                # So much was written at most, and is gone again.
                return MoveResult(MoveOutcome.INCOMPRESSIBLE, stored_bytes_max)
            parts.faults.reach("pack.written")
            written_blob = Blob(blob_number, summary.size, summary.digest)
            await trio.to_thread.run_sync(
                _verify,
                parts.throttle,
                parts.packed_store.path(location),
                unlock(parts, written_blob, summary.table.coding),
                progress,
                parts.zeros,
                limiter=parts.threads,
            )
            parts.faults.reach("pack.verified")
        blob = await blob_of(parts, inode, number, summary)
        coded = summary.table.coding
        form = Form(blob.blob, FormKind.PACKED, Place(location), coded, summary.stored_bytes)
        published = await attempt.publish(
            partial(publish_form, parts, inode, blob, form, replacing)
        )
    parts.tally.note_packed(summary)
    if published:
        parts.traffic.note_move(Level.COLD, Level.PACKED, summary.size)
    parts.faults.reach("pack.published")
    return MoveResult(
        MoveOutcome.DONE if published else MoveOutcome.SUPERSEDED, summary.stored_bytes
    )


async def publish_form(
    parts: MoveParts,
    inode: Inode,
    blob: Blob,
    form: Form,
    replacing: Form | None,
    intent: IntentId,
) -> bool:
    """Publish a form of a file, in the place of one of its kind or beside the others."""
    engine = parts.engine
    if replacing is not None:
        return await engine.replace_form(intent, FormReplacement(replacing, form))
    return await engine.publish_form(inode.ino, inode.generation, blob, form, intent)


def stored_bytes_limit(inode: Inode) -> int:
    """Return what the packed form of a raw file may take up at most to be worth having."""
    return inode.blocks * BLOCK_BYTES - DISK_BLOCK_BYTES


async def find_form(parts: MoveParts, inode: Inode, kind: FormKind) -> Form | None:
    """Return the form of one kind that an inode has, if it has one."""
    if not inode.blob:
        return None
    forms = await parts.engine.list_forms(inode.blob)
    return next((form for form in forms if form.kind == kind), None)


async def live_blob(parts: MoveParts, inode: Inode) -> Blob:
    """Return the blob that an inode had when a move began.

    Raises:
        StaleInodeError: The file has moved on, and the blob went with its last form. That is no
            failure: the one who wants the move looks at the file again.
    """
    try:
        return await parts.engine.get_blob(inode.blob)
    except NotFoundError:
        raise StaleInodeError(
            f"inode {inode.ino}: its content or its forms changed while it was moved"
        ) from None


async def blob_of(parts: MoveParts, inode: Inode, number: BlobId, summary: PackedSummary) -> Blob:
    """Return the blob that a new form of an inode belongs to: the one it has, or a new one.

    Raises:
        CorruptDataError: The raw file no longer has the digest of its other forms.
        StaleInodeError: The file has moved on.
    """
    if not inode.blob:
        return Blob(number, summary.size, summary.digest)
    blob = await live_blob(parts, inode)
    if blob.digest != summary.digest:
        raise CorruptDataError(
            f"inode {inode.ino}: raw file {inode.raw} differs from blob {blob.blob}, which was "
            "made from it: the disk has altered one of them; run memfs fsck"
        )
    return blob


@contextlib.contextmanager
def reading_raw(parts: MoveParts, inode: Inode) -> Iterator[Callable[[], None]]:
    """Read a raw file for long, in a thread and in the block, as `RawStore.reading`.

    Raises:
        StaleInodeError: It was removed meanwhile, and the reader has met that by the function.
    """
    try:
        with parts.raw_store.reading(inode.raw) as check:
            yield check
    except RawRemovedError as error:
        raise StaleInodeError(f"inode {inode.ino}: {error}") from error


def _write(
    parts: MoveParts,
    inode: Inode,
    coding: Coding,
    encryption: Encryption | None,
    location: str,
    stored_bytes_max: int,
    progress: MoveProgress,
) -> PackedSummary | None:
    """Write the packed file, durable under its name; None if it would not be smaller."""

    def advance(done_bytes: int, stored_bytes: int) -> None:
        progress.done_bytes = done_bytes // 2
        if stored_bytes > stored_bytes_max:
            raise _DoesNotShrinkError
        rest()

    source = parts.raw_store.path(inode.raw)
    with (
        reading_raw(parts, inode) as check,
        parts.throttle.stint(check) as rest,
        parts.packed_store.draft(location) as draft,
    ):
        try:
            summary = pack_file(
                source,
                draft.fd,
                coding.codec,
                parts.config.cold.frame_bytes,
                advance,
                shuffle_bytes=coding.shuffle_bytes,
                encryption=encryption,
                zeros=parts.zeros,
            )
        except _DoesNotShrinkError:
            return None
        if summary.stored_bytes > stored_bytes_max:
            return None
        draft.publish()
    return summary


def _verify(
    throttle: BackgroundThrottle,
    path: Path,
    unlocking: Unlock,
    progress: MoveProgress,
    zeros: ZeroRuns,
) -> None:
    half = progress.done_bytes

    def advance(done_bytes: int) -> None:
        progress.done_bytes = half + done_bytes // 2
        rest()

    with throttle.stint() as rest, PackedFile.open(path, unlock=unlocking) as packed:
        packed.verify(advance, zeros)
