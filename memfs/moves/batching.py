"""Batch: the containers of many small files in one object, and the compaction of such objects.

Invariant: the object was fetched back whole, and every container in it decoded with its file's
digest, before one engine call publishes them all; no two attempts ever write the same key.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    CorruptDataError,
    EncryptionKeyError,
    MemfsError,
    NotFoundError,
    NotSupportedError,
    StaleInodeError,
    StoreError,
)
from memfs.metadata.records import (
    BatchMember,
    Blob,
    Form,
    FormReplacement,
    InodeFlags,
)
from memfs.moves.coding import unlock
from memfs.moves.containers import append_container
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.packing import find_form
from memfs.moves.unfinished import note_unfinished
from memfs.moves.uploading import container_bytes_max, temporary_file
from memfs.stores.contents import range_reader
from memfs.stores.disk import disk_errors, write_all
from memfs.stores.reading import PackedFile
from memfs.stores.restoring import without_restores
from memfs.stores.store import PART_BYTES
from memfs.types import FormKind, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from pathlib import Path

    from memfs.metadata.records import Batch, Inode
    from memfs.moves.attempt import MoveParts
    from memfs.moves.progress import MoveProgress
    from memfs.stores.envelope import Unlock
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo, IntentId

log = logging.getLogger(__name__)

_LEFT_OUT = (
    CorruptDataError,
    EncryptionKeyError,
    NotFoundError,
    StaleInodeError,
    StoreError,
)
"""What speaks against one file, which may also have gone meanwhile, and not against the batch."""


class _Part(NamedTuple):
    """One file's container in the batch that is being made."""

    inode: Inode
    blob: Blob
    form: Form


class _BatchAttempt:
    """The recorded making of one object for many files."""

    def __init__(self, parts: MoveParts, key: str, intent: IntentId) -> None:
        self.key = key
        self._parts = parts
        self._intent = intent
        self.ended = False

    async def publish(self, size_bytes: int, made: Sequence[_Part]) -> list[bool]:
        """Publish all members, committed; False for those that have moved on."""
        engine = self._parts.engine
        members = [
            BatchMember(part.inode.ino, part.inode.generation, part.blob, part.form)
            for part in made
        ]
        async with engine.change():
            published = await engine.publish_batch(self._intent, self.key, size_bytes, members)
        self.ended = True
        return published

    async def replace(self, size_bytes: int, replacements: Sequence[FormReplacement]) -> list[bool]:
        """Publish moved forms, committed; False for those whose former form is gone."""
        engine = self._parts.engine
        async with engine.change():
            replaced = await engine.replace_batched(
                self._intent, self.key, size_bytes, replacements
            )
        self.ended = True
        return replaced

    async def give_up(self) -> None:
        """End the intent: the object becomes garbage."""
        engine = self._parts.engine
        try:
            async with engine.change():
                await engine.cancel_intent(self._intent)
                await note_unfinished(engine, [self.key])
        except MemfsError as error:
            # The intent stays, and the next start rolls it back.
            log.warning("%s: a batch could not be rolled back: %s", self.key, error)
            return
        self._parts.faults.reach("cancel.recorded")


def batch_key() -> str:
    """Return a key that was never used: random, so that no state directory meets another."""
    name = secrets.token_hex(12)
    return f"batches/{name[:2]}/{name[2:]}"


async def upload_batch(parts: MoveParts, inos: Sequence[InodeNo]) -> dict[InodeNo, MoveResult]:
    """Give sealed files their remote forms in one object.

    Args:
        parts: What moves work with.
        inos: Small files: all of them are on the local disk once more while it is made.

    Returns:
        An outcome for each file; one whose content cannot be read, or that is being uploaded by
        somebody else, is `SUPERSEDED` here and told apart by its own upload.

    Raises:
        NotSupportedError: There is no glacier tier.
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the batch.
        CorruptDataError: The object does not read back equal.
    """
    remote = parts.remote
    if remote is None:
        raise NotSupportedError("no glacier tier is configured: set glacier.url")
    with parts.uploading.hold_free(inos) as free:
        return await _upload_batch(parts, remote, inos, free)


async def _upload_batch(
    parts: MoveParts, remote: RemoteStore, inos: Sequence[InodeNo], free: Collection[InodeNo]
) -> dict[InodeNo, MoveResult]:
    results: dict[InodeNo, MoveResult] = {}
    chosen: list[Inode] = []
    for ino in dict.fromkeys(inos):
        if ino not in free:
            results[ino] = MoveResult(MoveOutcome.SUPERSEDED)
            continue
        inode, outcome = await _look_at(parts, ino)
        if inode is not None:
            chosen.append(inode)
        results[ino] = MoveResult(outcome)
    if not chosen:
        return results
    size_max = sum(container_bytes_max(inode.size) for inode in chosen)
    async with (
        _recorded(parts) as attempt,
        temporary_file(parts, "batch", size_max) as (path, fd),
    ):
        with parts.progress.track("upload", None, sum(inode.size for inode in chosen)) as progress:
            made = await _fill(parts, attempt.key, chosen, fd, progress)
            if not made:
                return results
            parts.faults.reach("batch.prepared")
            await remote.put_file(attempt.key, path)
            parts.faults.reach("batch.stored")
            blobs = [(part.form, part.blob) for part in made]
            await _verify(parts, attempt.key, path, blobs)
            progress.done_bytes = progress.total_bytes
        parts.faults.reach("batch.verified")
        await remote.archive(attempt.key)
        size_bytes = sum(part.form.stored_bytes for part in made)
        published = await attempt.publish(size_bytes, made)
    parts.faults.reach("batch.published")
    for part, yes in zip(made, published, strict=True):
        outcome = MoveOutcome.DONE if yes else MoveOutcome.SUPERSEDED
        results[part.inode.ino] = MoveResult(outcome, part.form.stored_bytes)
    return results


async def compact(parts: MoveParts, batch: Batch) -> int:
    """Copy what is alive of a batch into a new object; the old one becomes garbage.

    Returns:
        The bytes that the old object frees.

    Raises:
        StoreError: The store refused or cannot be reached.
        NoSpaceError: The disk has no room for the batch.
        CorruptDataError: A container in it is damaged: nothing changes, so that what is still
            readable of it stays where it is.
    """
    remote = parts.remote
    if remote is None:
        raise NotSupportedError("no glacier tier is configured: set glacier.url")
    forms = await parts.engine.list_batched(batch.key)
    if not forms:
        return 0
    size_max = sum(form.stored_bytes for form in forms)
    async with (
        _recorded(parts) as attempt,
        temporary_file(parts, "batch", size_max) as (path, fd),
    ):
        replacements = []
        blobs = []
        offset = 0
        for form in forms:
            try:
                blob = await parts.engine.get_blob(form.blob)
            except NotFoundError:
                continue
            stored = await _fetch_part(parts, remote, form, blob)
            await trio.to_thread.run_sync(write_all, fd, stored, limiter=parts.threads)
            moved = form._replace(place=Place(attempt.key, offset))
            offset += form.stored_bytes
            replacements.append(FormReplacement(form, moved))
            blobs.append((moved, blob))
        parts.faults.reach("compact.prepared")
        await remote.put_file(attempt.key, path)
        parts.faults.reach("compact.stored")
        await _verify(parts, attempt.key, path, blobs)
        parts.faults.reach("compact.verified")
        await remote.archive(attempt.key)
        await attempt.replace(offset, replacements)
    parts.faults.reach("compact.published")
    return batch.size_bytes - offset


async def _fetch_part(parts: MoveParts, remote: RemoteStore, form: Form, blob: Blob) -> bytes:
    """Return one file's container out of a batch, checked; asked for once more if it is wrong."""
    read_range = range_reader(remote, form)
    name = f"{remote.url}/{form.place}"

    async def fetch() -> bytes:
        with without_restores():
            stored = await read_range(0, form.stored_bytes)
        await trio.to_thread.run_sync(
            _check_part, stored, name, unlock(parts, blob, form.coding), limiter=parts.threads
        )
        return stored

    try:
        return await fetch()
    except CorruptDataError as error:
        log.info("%s; it is asked for again", error)
        return await fetch()


def _check_part(stored: bytes, name: str, unlocking: Unlock) -> None:
    fd = os.memfd_create("memfs-part", os.MFD_CLOEXEC)
    try:
        write_all(fd, stored)
    except BaseException:
        os.close(fd)
        raise
    with PackedFile(fd, name, unlock=unlocking) as packed:
        packed.verify()


async def _look_at(parts: MoveParts, ino: InodeNo) -> tuple[Inode | None, MoveOutcome]:
    try:
        inode = await parts.engine.get_inode(ino)
    except StaleInodeError:
        return None, MoveOutcome.SUPERSEDED
    if inode.flags & InodeFlags.UNSEALED:
        return None, MoveOutcome.BUSY
    if not stat.S_ISREG(inode.mode) or await find_form(parts, inode, FormKind.REMOTE):
        return None, MoveOutcome.UNNEEDED
    try:
        if await parts.sealer.adopt_if_changed(inode):
            return None, MoveOutcome.SUPERSEDED
    except (StoreError, CorruptDataError) as error:
        log.info("inode %d is left out of a batch: %s", ino, error)
        return None, MoveOutcome.SUPERSEDED
    return inode, MoveOutcome.SUPERSEDED


@contextlib.asynccontextmanager
async def _recorded(parts: MoveParts) -> AsyncIterator[_BatchAttempt]:
    """Record a batch for the block, durably, and roll it back unless the block publishes."""
    key = batch_key()
    async with parts.engine.change():
        intent = await parts.engine.begin_batch(key, time.time_ns())
    parts.faults.reach("batch.begun")
    attempt = _BatchAttempt(parts, key, intent)
    try:
        # A crash of the machine must not forget the intent and leave an object that nobody knows.
        await trio.to_thread.run_sync(parts.syncer.sync, limiter=parts.threads)
        yield attempt
    finally:
        if not attempt.ended:
            with trio.CancelScope(shield=True):
                await attempt.give_up()


async def _fill(
    parts: MoveParts, key: str, inodes: Sequence[Inode], fd: int, progress: MoveProgress
) -> list[_Part]:
    """Append the containers of files; those that cannot be read now are left out.

    That is the first half of the way: the other one is to store the object and to read it back.
    """
    made: list[_Part] = []
    offset = 0
    for inode in inodes:
        try:
            number = parts.engine.reserve_blob()
            blob, coding, stored_bytes = await append_container(
                parts, inode, number, fd, _stop_if_cancelled
            )
        except _LEFT_OUT as error:
            log.info("inode %d is left out of a batch: %s", inode.ino, error)
            await trio.to_thread.run_sync(os.ftruncate, fd, offset)
            os.lseek(fd, offset, os.SEEK_SET)
            continue
        progress.done_bytes += inode.size // 2
        form = Form(blob.blob, FormKind.REMOTE, Place(key, offset), coding, stored_bytes)
        made.append(_Part(inode, blob, form))
        offset += stored_bytes
    return made


def _stop_if_cancelled(_done_bytes: int) -> None:
    trio.from_thread.check_cancelled()


async def _verify(
    parts: MoveParts, key: str, path: Path, forms: Sequence[tuple[Form, Blob]]
) -> None:
    """Fetch the object back and decode every container in it; once more if one is wrong."""
    try:
        await _verify_once(parts, key, path, forms)
    except CorruptDataError as error:
        log.info("%s; the batch is fetched again", error)
        await _verify_once(parts, key, path, forms)


async def _verify_once(
    parts: MoveParts, key: str, path: Path, forms: Sequence[tuple[Form, Blob]]
) -> None:
    """Fetch the object back beside the local copy and decode every container in it."""
    remote = parts.remote
    assert remote is not None
    name = f"{remote.url}/{key}"
    if path.parent != parts.packed_store.temporary_dir:
        # There was no room on the disk for the copy either.
        size = (await trio.to_thread.run_sync(path.stat)).st_size
        async with temporary_file(parts, "batch-back", size) as (fetched, fd):
            for start in range(0, size, PART_BYTES):
                data = await remote.get_range(key, start, min(start + PART_BYTES, size))
                await trio.to_thread.run_sync(write_all, fd, data, limiter=parts.threads)
                del data  # not to be in memory beside the next part
            await trio.to_thread.run_sync(
                _verify_fetched, parts, fetched, name, forms, limiter=parts.threads
            )
        return
    fetched = path.with_name(path.name + ".back")
    try:
        await remote.get_file(key, fetched)
        await trio.to_thread.run_sync(
            _verify_fetched, parts, fetched, name, forms, limiter=parts.threads
        )
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(functools.partial(fetched.unlink, missing_ok=True))


def _verify_fetched(
    parts: MoveParts, path: Path, name: str, forms: Sequence[tuple[Form, Blob]]
) -> None:
    with disk_errors(str(path)):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for form, blob in forms:
            trio.from_thread.check_cancelled()
            with PackedFile(
                os.dup(fd),
                f"{name} at {form.start}",
                unlock=unlock(parts, blob, form.coding),
                start=form.start,
                stored_bytes=form.stored_bytes,
            ) as packed:
                packed.verify()
    finally:
        os.close(fd)
