"""Hydrate: a sealed file gets its raw form back from a packed or remote one.

On a node that reads, a file that no store has yet gets it from the node that writes.

Invariant: the raw file was read back with the blob's digest, and is on stable storage, before it is
published; from then on a writer may detach the other forms.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from memfs.errors import (
    FORM_ERRORS,
    CorruptDataError,
    MemfsError,
    NotFoundError,
    NotSupportedError,
    ObjectArchivedError,
    ObjectChangedError,
    OtherContentError,
    StaleInodeError,
    StoreError,
)
from memfs.metadata.quarantine import quarantine, release
from memfs.metadata.records import MoveKind
from memfs.metrics.traffic import Level
from memfs.moves.attempt import recorded, sources_of
from memfs.moves.coding import unlock
from memfs.moves.damage import replace_damaged
from memfs.moves.mending import fill_from_published
from memfs.moves.sharing import fill_from_sharer
from memfs.stores.contents import open_content
from memfs.stores.digesting import digest_file
from memfs.stores.disk import disk_errors
from memfs.stores.reading import PackedFile
from memfs.traces.access_log import Operation
from memfs.types import FormKind, SourceId, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Blob, Form, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.types import InodeNo, IntentId, RawId

log = logging.getLogger(__name__)


FetchFromWriter = Callable[["Inode", int, Callable[[int], None]], Awaitable[None]]
"""Writes the content of a sealed file into one that is open; tells how many bytes are there."""

DONE_COUNT_MAX = 10_000
"""Hydrated files remembered for the mover, about 1 MB; it hears of more at its next full look."""


async def hydrate(parts: MoveParts, ino: InodeNo, seen: Inode | None = None) -> Inode:
    """Return the inode once it has a raw file; makes one if it is missing, once for all who ask.

    Checkpoint: not if the raw file is there. Cancel: safe; another waiting caller takes over.

    Args:
        ino: A regular file.
        seen: The inode as the caller has just read it, not damaged; None: it is read here.

    Raises:
        StaleInodeError: The file is gone.
        NoSpaceError: The disk is full; nothing is left behind.
        StoreError: No form can be fetched.
        CorruptDataError: No form is intact, or the raw file is damaged and alone.
    """
    inode = await replace_damaged(parts, ino) if seen is None else seen
    while not inode.raw:
        if ino not in parts.hydrating:
            with parts.hydrating.lead(ino):
                if ino in parts.hydrated:
                    # Another one may have ended since the look at the file.
                    inode = await parts.engine.get_inode(ino)
                return inode if inode.raw else await _lead(parts, inode)
        # Then looked at anew: the leader may have been cancelled, or the file written since.
        await parts.hydrating.join(ino)
        inode = await replace_damaged(parts, ino)
    return inode


def take_hydrated(parts: MoveParts) -> list[InodeNo]:
    """Return and forget the files hydrated since the last call."""
    taken = [*parts.hydrated]
    parts.hydrated.clear()
    return taken


async def _lead(parts: MoveParts, inode: Inode) -> Inode:
    hydrated = await _hydrate(parts, inode)
    if len(parts.hydrated) < DONE_COUNT_MAX:
        parts.hydrated[inode.ino] = None
    forms = await parts.engine.list_all_forms(inode)
    packed = any(form.kind == FormKind.PACKED for form in forms)
    is_here = not packed and await _is_here(parts, forms)
    if not is_here:
        parts.traffic.note_move(Level.PACKED if packed else Level.GLACIER, Level.COLD, inode.size)
    if (access_log := parts.access_log).active:
        tier = Tier.COLD if packed or is_here else Tier.GLACIER
        access_log.note(Operation.HYDRATE, inode.ino, inode.size, tier)
    return hydrated


async def _is_here(parts: MoveParts, forms: Sequence[Form]) -> bool:
    """Return whether a file was made of one that lies on this machine, or on another node."""
    if not forms and parts.from_writer is not None:
        return True
    if parts.sources is None or not forms or not forms[-1].is_foreign:
        return False
    return await parts.sources.is_here(SourceId(int(forms[-1].place.store)))


async def _hydrate(parts: MoveParts, inode: Inode) -> Inode:
    engine = parts.engine
    _, raw = engine.reserve_ids()
    async with recorded(parts, MoveKind.HYDRATE, str(int(raw)), inode) as attempt:
        with parts.progress.track("hydrate", inode.ino, inode.size) as progress:
            try:
                blocks, digest = await _fill(parts, inode, raw, progress)
            except MemfsError:
                now = await engine.get_inode(inode.ino)
                if now.raw:
                    # Written anew meanwhile, so that the forms that were fetched from went.
                    return now
                raise
        # No utimensat(2) comes between a look at the raw file and the change.
        async with parts.open_table.gates.hold(inode.ino):
            published = await attempt.publish(
                partial(_publish_raw, parts, inode, raw, blocks, digest)
            )
    parts.faults.reach("hydrate.published")
    if published is not None:
        return published
    now = await engine.get_inode(inode.ino)
    if not now.raw:
        raise StoreError(f"inode {inode.ino}: its content changed while it was fetched; try again")
    return now


async def _publish_raw(
    parts: MoveParts,
    inode: Inode,
    raw: RawId,
    blocks: int,
    digest: bytes,
    intent: IntentId,
) -> Inode | None:
    """Publish a verified raw file, durable as it is; None if the file has moved on."""
    late = await _take_over_mtime(parts, inode, raw)
    foreign = await parts.engine.get_object(inode.ino)
    if foreign is not None and foreign.generation == inode.generation:
        await parts.engine.note_object_digest(foreign, digest)
    # Its bytes and its name were made durable before.
    return await parts.engine.publish_raw(
        inode.ino, inode.generation, raw, blocks, intent, durable=not late
    )


async def _take_over_mtime(parts: MoveParts, inode: Inode, raw: RawId) -> bool:
    """Give a new raw file an mtime that was set while it was being written; True if one was.

    Its own is the one that the move began with, and is durable.
    """
    try:
        now = await parts.engine.get_inode(inode.ino)
    except StaleInodeError:
        return False
    if now.generation != inode.generation or now.mtime_ns == inode.mtime_ns:
        return False
    path = parts.raw_store.path(raw)
    with disk_errors(str(path)):
        os.utime(path, ns=(now.atime_ns, now.mtime_ns))
    return True


async def _fill(
    parts: MoveParts, inode: Inode, raw: RawId, progress: MoveProgress
) -> tuple[int, bytes]:
    """Create and fill a raw file from the best intact form; returns its `st_blocks` and digest."""
    blob: Blob | None = None
    foreign = await parts.engine.get_object(inode.ino)
    if foreign is not None and foreign.generation != inode.generation:
        foreign = None
    # Before it is uploaded, a file of another node has no blob.
    is_elsewhere = not inode.blob and inode.size > 0 and parts.from_writer is not None
    # An empty file may have no form, after an import for one.
    if inode.blob or (inode.size and foreign is None and not is_elsewhere):
        try:
            blob = await parts.engine.get_blob(inode.blob)
        except NotFoundError:
            raise CorruptDataError(
                f"inode {inode.ino}: no form of its content is known; run memfs fsck"
            ) from None
    fd = parts.raw_store.create(raw)
    try:
        parts.faults.reach("hydrate.created")
        if blob is not None or foreign is not None or is_elsewhere:
            await _unpack(parts, inode, blob, fd, progress)
        blocks = await trio.to_thread.run_sync(
            _finish, parts, inode, raw, fd, limiter=parts.prompt_threads
        )
        parts.faults.reach("hydrate.written")
        digest = await trio.to_thread.run_sync(
            digest_file,
            parts.raw_store.path(raw),
            _stop_if_cancelled,
            parts.zeros,
            limiter=parts.prompt_threads,
        )
    finally:
        os.close(fd)
    if blob is not None and digest != blob.digest:
        raise CorruptDataError(
            f"inode {inode.ino}: raw file {raw} reads back with another digest than was written"
        )
    if foreign is not None and foreign.digest not in (None, digest):
        raise OtherContentError(
            f"{foreign.name}: the source sends other bytes than before under {foreign.etag}"
        )
    parts.faults.reach("hydrate.verified")
    return blocks, digest


async def _unpack(
    parts: MoveParts, inode: Inode, blob: Blob | None, fd: int, progress: MoveProgress
) -> None:
    """Write the content into `fd` from the first form that is intact, packed before remote.

    Before anything is fetched, the raw file of another file with the same content serves.
    """
    failure: MemfsError | None = None
    tried: list[Form] = []
    # Again where forms were replaced meanwhile: a batch is compacted, an object gets a new key.
    while (forms := await parts.engine.list_all_forms(inode)) != tried:
        tried, failure = forms, None
        if (
            blob is not None
            and not any(form.kind == FormKind.PACKED for form in forms)
            and await fill_from_sharer(parts, inode, blob, fd, progress)
        ):
            return
        for form in forms:
            try:
                await _unpack_form(parts, form, blob, fd, progress)
            except FORM_ERRORS as error:
                if isinstance(error, OtherContentError) and not form.is_foreign:
                    await quarantine(parts.engine, form, str(error))
                if form in await parts.engine.list_all_forms(inode):
                    await _complain(parts, inode, form, error)
                # Corruption outranks absence: it needs a person, and waiting does not help.
                if not isinstance(failure, CorruptDataError):
                    failure = error
            else:
                if not form.is_foreign:
                    await release(parts.engine, form)
                return
    if blob is not None and (
        (failure is not None and await fill_from_sharer(parts, inode, blob, fd, progress))
        or await fill_from_published(parts, inode, blob, fd, progress)
    ):
        return
    if parts.from_writer is not None and not tried:
        # Until it has an object; what comes has the digest of its blob, if it has one.
        await parts.from_writer(inode, fd, partial(_note_done, progress))
        return
    raise failure or CorruptDataError(f"inode {inode.ino}: no form of its content is left")


def _note_done(progress: MoveProgress, done_bytes: int) -> None:
    progress.done_bytes = done_bytes


async def _complain(parts: MoveParts, inode: Inode, form: Form, error: MemfsError) -> None:
    path = os.fsdecode(await parts.engine.get_path(inode.ino))
    expected = isinstance(error, ObjectArchivedError | ObjectChangedError)
    level = logging.INFO if expected else logging.WARNING
    log.log(level, "%s: its %s form cannot be used: %s", path, form.kind, error)
    if level == logging.WARNING:
        parts.events.note("damage", path, f"its {form.kind} form cannot be used: {error}")


async def _unpack_form(
    parts: MoveParts, form: Form, blob: Blob | None, fd: int, progress: MoveProgress
) -> None:
    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes

    if form.is_foreign:
        store, wanted = await sources_of(parts, form.place).store_of_form(form)
        await trio.to_thread.run_sync(os.ftruncate, fd, 0)
        await store.fetch(wanted, fd, advance)
        return
    assert blob is not None
    if form.kind == FormKind.PACKED:
        await trio.to_thread.run_sync(
            _unpack_packed, parts, form, blob, fd, progress, limiter=parts.prompt_threads
        )
        return
    remote = parts.remote
    if remote is None:
        raise NotSupportedError("the content is in a glacier tier that is not configured any more")
    reader = await open_content(remote, form, unlock(parts, blob, form.coding))
    await reader.unpack_to(fd, advance, parts.zeros)


def _unpack_packed(
    parts: MoveParts, form: Form, blob: Blob, fd: int, progress: MoveProgress
) -> None:
    def advance(done_bytes: int) -> None:
        progress.done_bytes = done_bytes
        trio.from_thread.check_cancelled()

    path = parts.packed_store.path(form.place.key)
    with PackedFile.open(path, unlock=unlock(parts, blob, form.coding)) as packed:
        packed.unpack_to(fd, advance, parts.zeros)


def _finish(parts: MoveParts, inode: Inode, raw: RawId, fd: int) -> int:
    """Set times, make the raw file durable, and return its `st_blocks`."""
    with disk_errors(str(parts.raw_store.path(raw))):
        # An unsealed inode reads its times from the raw file, so they must go on from here.
        os.utime(fd, ns=(inode.atime_ns, inode.mtime_ns))
        os.fsync(fd)
        blocks = os.fstat(fd).st_blocks
    parts.raw_store.sync_directory(raw)
    return blocks


def _stop_if_cancelled(_done_bytes: int) -> None:
    trio.from_thread.check_cancelled()
