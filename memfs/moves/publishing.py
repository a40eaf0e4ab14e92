"""Publish: a sealed file becomes a plain object that others read, and that only they may change.

1. A private copy of the file is made: no writer changes it under the upload.
2. The record gets a new token and names no generation (`publishing.recorded`). *Killed from here
   on*: the next attempt knows the object by its etag, or by the token if it was sent.
3. The object is sent with the token in its metadata, on the condition that there is no object, or
   that it has the etag of the last one (`publishing.stored`).
4. It is read back on the condition of its etag, and has the digest of the copy
   (`publishing.verified`).
5. The record names the generation of the file (`publishing.published`).

Invariant: an object that somebody else has written is never replaced nor removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, NamedTuple

import trio
from blake3 import blake3

from memfs.errors import CorruptDataError, NotSupportedError, ObjectTakenError
from memfs.metadata.published import PublishedObject
from memfs.metadata.records import InodeFlags
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.storing import temporary_file
from memfs.stores.digesting import digest_file
from memfs.stores.disk import clone_file, disk_errors
from memfs.stores.publishing import content_type_of, metadata_of
from memfs.stores.store import PART_BYTES
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.stores.publishing import PublicObject, PublicStore

TAKEN = "changed by someone else"
"""Why an object is not as the file is."""

KEY_BYTES_MAX = 1024
"""Longest key of S3 ("Naming objects", S3 user guide)."""


class Published(NamedTuple):
    """What came of a file."""

    result: MoveResult
    problem: str = ""
    """Why the object is not as the file is."""


class _Copy(NamedTuple):
    """A private copy of a file, and what is told of it."""

    path: Path
    digest: bytes
    size: int
    mtime_ns: int
    mode: int


class Publication:
    """Publishes files to one place.

    Args:
        store: The place.
        target: The URL that it was opened with, without secrets.

    Raises:
        NotSupportedError: Objects are encrypted, and nobody has allowed to publish in clear.
    """

    def __init__(self, parts: MoveParts, store: PublicStore, target: str) -> None:
        config = parts.config
        if parts.keys.first is not None and config.encryption.remote and not config.publish.plain:
            raise NotSupportedError(
                "objects of this mount are encrypted, and what is published is plain: set "
                "publish.plain = true, if that is meant"
            )
        self._parts = parts
        self._store = store
        self.target = target
        self._tried = False

    def url_of(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.target}/{key}"

    async def publish(self, ino: InodeNo, key: str) -> Published:
        """Publish a file, unless that was done since it was changed.

        Raises:
            StaleInodeError: The file is gone.
            StoreError: The store refused or cannot be reached.
            NoSpaceError: The disk has no room for a private copy.
            CorruptDataError: The file is damaged, or the object does not read back equal.
        """
        parts = self._parts
        inode = await parts.engine.get_inode(ino)
        if inode.flags & InodeFlags.UNSEALED:
            return Published(MoveResult(MoveOutcome.BUSY))
        known = await parts.engine.get_published(self.url_of(key))
        if known is not None and (known.ino, known.generation) == (ino, inode.generation):
            return Published(MoveResult(MoveOutcome.UNNEEDED))
        if inode.size and not inode.raw:
            inode = await hydrate(parts, ino)
        async with temporary_file(parts, f"publish-{ino}") as (path, fd):
            digest = await trio.to_thread.run_sync(
                self._copy, inode, path, fd, limiter=parts.threads
            )
            if await self._is_changed(inode):
                return Published(MoveResult(MoveOutcome.SUPERSEDED))
            copy = _Copy(path, digest, inode.size, inode.mtime_ns, inode.mode)
            return await self._send(key, copy, known, ino, inode.generation)

    async def publish_part(self, key: str, path: Path) -> Published:
        """Publish a local file that is no file of the mount, a part of a manifest.

        Raises:
            StoreError, CorruptDataError: As `publish`.
        """
        known = await self._parts.engine.get_published(self.url_of(key))
        status = await trio.to_thread.run_sync(path.stat)
        digest = await trio.to_thread.run_sync(digest_file, path, _go_on)
        copy = _Copy(path, digest, status.st_size, status.st_mtime_ns, 0o100644)
        return await self._send(key, copy, known, InodeNo(0), Generation(1))

    async def remove(self, known: PublishedObject) -> str:
        """Remove an object that nobody has changed since; returns why it stays, if it does.

        Raises:
            StoreError: The store refused or cannot be reached.
        """
        engine = self._parts.engine
        key = known.url.removeprefix(f"{self.target}/")
        former = await self._former(key, known)
        async with engine.change():
            # A kill from here on leaves it open whether the object is there.
            await engine.put_published(known._replace(etag=former, generation=Generation(0)))
        try:
            if former:
                await self._store.delete_if(key, former)
        except ObjectTakenError:
            async with engine.change():
                await engine.put_published(known._replace(generation=Generation(0), problem=TAKEN))
            return TAKEN
        self._parts.faults.reach("publishing.removed")
        async with engine.change():
            await engine.forget_published([known.url])
        return ""

    def _copy(self, inode: Inode, path: Path, fd: int) -> bytes:
        """Copy the raw file of a file, sharing its blocks where that goes; returns the digest."""
        parts = self._parts
        if inode.size:
            source = parts.raw_store.open(inode.raw, os.O_RDONLY)
            try:
                with disk_errors(str(path)):
                    clone_file(source, fd, _go_on)
            finally:
                os.close(source)
        return digest_file(path, _go_on, parts.zeros)

    async def _is_changed(self, inode: Inode) -> bool:
        now = await self._parts.engine.get_inode(inode.ino)
        if now.generation != inode.generation or now.flags & InodeFlags.UNSEALED:
            return True
        return bool(inode.size) and self._parts.sealer.is_changed(inode, missing=True)

    async def _send(
        self,
        key: str,
        copy: _Copy,
        known: PublishedObject | None,
        ino: InodeNo,
        generation: Generation,
    ) -> Published:
        if len(key.encode()) > KEY_BYTES_MAX:
            raise NotSupportedError(f"{key}: longer than {KEY_BYTES_MAX} bytes, the limit of keys")
        await self._try_conditions()
        engine, faults = self._parts.engine, self._parts.faults
        former = "" if known is None else await self._former(key, known)
        token = secrets.token_hex(16)
        record = PublishedObject(
            self.url_of(key),
            self.target,
            ino,
            Generation(0),
            former,
            token,
            copy.size,
            copy.mtime_ns,
            copy.digest,
            "",
        )
        async with engine.change():
            await engine.put_published(record)
        # After power loss the object would be one that nobody knows.
        await self._parts.file_syncs.sync()
        faults.reach("publishing.recorded")
        etag = await self._put(key, copy, record)
        if etag is None:
            async with engine.change():
                await engine.put_published(record._replace(problem=TAKEN))
            return Published(MoveResult(MoveOutcome.SHARED), TAKEN)
        faults.reach("publishing.stored")
        record = record._replace(etag=etag)
        await self._verify(key, copy, etag)
        faults.reach("publishing.verified")
        async with engine.change():
            await engine.put_published(record._replace(generation=generation))
        faults.reach("publishing.published")
        return Published(MoveResult(MoveOutcome.DONE, copy.size))

    async def _former(self, key: str, known: PublishedObject) -> str:
        """Return the etag of the object that is memfs's own; empty: there is no such object."""
        if known.generation:
            return known.etag
        # The last attempt was cut off: the object may have arrived.
        found = await self._store.find(key)
        if found is None:
            return ""
        return found.etag if found.token == known.token else known.etag

    async def _put(self, key: str, copy: _Copy, record: PublishedObject) -> str | None:
        """Store the object; None: there is one of somebody else's."""
        metadata = metadata_of(copy.mtime_ns, copy.mode, record.token)
        former = record.etag
        while True:
            try:
                return await self._store.put_if(
                    key, copy.path, former, content_type_of(key), metadata
                )
            except ObjectTakenError:
                found = await self._store.find(key)
            if found is not None:
                # Its answer was lost, and the client has sent it again.
                return found.etag if found.token == record.token else None
            if not former:
                return None
            # Somebody has removed it: nothing is there to be overwritten.
            former = ""

    async def _verify(self, key: str, copy: _Copy, etag: str) -> None:
        found = await self._store.find(key)
        if found is None or found.etag != etag or found.size != copy.size:
            raise CorruptDataError(f"{self.url_of(key)}: is not there as it was sent")
        digest = blake3()
        for start in range(0, copy.size, PART_BYTES):
            digest.update(await self._read(key, found, start))
        if digest.digest() != copy.digest:
            raise CorruptDataError(f"{self.url_of(key)}: does not read back as it was sent")

    async def _read(self, key: str, found: PublicObject, start: int) -> bytes:
        return await self._store.read(key, found, start, min(start + PART_BYTES, found.size))

    async def _try_conditions(self) -> None:
        """See once that the store heeds conditions, at an object that nobody else has.

        Raises:
            NotSupportedError: It does not: it would overwrite what others have written.
        """
        if self._tried:
            return
        key, metadata = f".memfs-trial-{secrets.token_hex(8)}", metadata_of(0, 0o100600, "trial")
        async with temporary_file(self._parts, "trial") as (path, _):
            etag = await self._store.put_if(key, path, "", "application/octet-stream", metadata)
            try:
                with contextlib.suppress(ObjectTakenError):
                    await self._store.put_if(key, path, "", "application/octet-stream", metadata)
                    raise NotSupportedError(
                        f"{self.target}: the store overwrites an object although it was asked not "
                        "to (If-None-Match), so that nothing is published there"
                    )
            finally:
                await self._store.delete_if(key, etag)
        self._tried = True


async def published_below(
    parts: MoveParts, target: str, page_count: int = 1000
) -> AsyncIterator[PublishedObject]:
    """Yield the records of a target, in order of URL."""
    after = ""
    while found := await parts.engine.list_published(target, after, page_count):
        for each in found:
            yield each
        after = found[-1].url


def _go_on(_done_bytes: int) -> None:
    trio.from_thread.check_cancelled()
