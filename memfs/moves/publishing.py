"""Publish: a sealed file becomes a plain object that others read, and that only they may change.

1. The record gets a new token and names no generation (`publishing.recorded`). *Killed from here
   on*: the next attempt knows the object by its etag, or by the token if it was sent; where the
   place keeps no tokens, or others can change bytes and leave the token, by the digest. *Lost with
   the disk*: a state that is made of an export knows by the token what its former life has sent
   (`publish_tokens`), in a directory by the token and the digest beside it.
2. An upload that would leave something behind there is recorded by its name (`publishing.begun`).
   *Killed from here on*: the next look ends it.
3. The bytes go there from where they are: nothing is copied on the disk. Before the object appears
   the file is looked at again: one that was changed meanwhile is not published
   (`publishing.sent`).
4. The object appears with the token in its metadata, on the condition that there is no object, or
   that it has the etag of the last one (`publishing.stored`).
5. It is read back on the condition of its etag, and has the digest of what was sent
   (`publishing.verified`).
6. The record names the generation of the file (`publishing.published`).

Invariant: an object that somebody else has written is never replaced nor removed; where a place has
no conditions that needs a permission, and is a look right before the change. A state that was
imported is somebody else than its former life until it has taken the store over.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio
from blake3 import blake3

from memfs.errors import (
    CorruptDataError,
    MemfsError,
    NotSupportedError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectTakenError,
)
from memfs.metadata.published import PublishedObject, PublishProblem
from memfs.metadata.records import InodeFlags
from memfs.moves.hydrating import hydrate
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.moves.publish_source import FormRead, Opened, Sent, Source, SourceChangedError, open_file
from memfs.moves.publish_tokens import sender_of
from memfs.moves.publish_uploads import (
    TRIAL,
    PublishUpload,
    forget_upload,
    list_uploads,
    note_upload,
)
from memfs.stores.disk import disk_errors, open_plain, write_all_at
from memfs.stores.parts import PART_CONCURRENCY
from memfs.stores.publishing import PublicAttributes, content_type_of
from memfs.stores.store import PART_BYTES
from memfs.types import Generation, InodeNo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts
    from memfs.stores.publishing import PublicObject, PublicStore


class Published(NamedTuple):
    """What came of a file."""

    result: MoveResult
    problem: PublishProblem = PublishProblem.NONE
    """Why the object is not as the file is."""


class Publication:
    """Publishes files to one place.

    Args:
        store: The place.
        target: The URL that it was opened with, without secrets.
        read_form: Reads files without a raw file; None: they are fetched first.
        in_parts_above_bytes: Larger files are sent in parts.

    Raises:
        NotSupportedError: Objects are encrypted, and nobody has allowed to publish in clear.
    """

    def __init__(
        self,
        parts: MoveParts,
        store: PublicStore,
        target: str,
        read_form: FormRead | None = None,
        in_parts_above_bytes: int = PART_BYTES,
    ) -> None:
        config = parts.config
        if parts.keys.first is not None and config.encryption.remote and not config.publish.plain:
            raise NotSupportedError(
                "objects of this mount are encrypted, and what is published is plain: set "
                "publish.plain = true, if that is meant"
            )
        self._parts = parts
        self._store = store
        self._read_form = read_form
        self._in_parts_above_bytes = in_parts_above_bytes
        self.target = target
        self._tried: set[bool] = set()
        """Kinds of uploads whose conditions were seen to hold: True for those in parts."""
        self._trials: list[str] = []
        """Keys of trials that could not begin."""
        self._sending: set[str] = set()
        """URLs of objects that are being sent."""

    def url_of(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.target}/{key}"

    async def publish(self, ino: InodeNo, key: str, *, unconditional: bool = False) -> Published:
        """Publish a file, unless that was done since it was changed.

        Args:
            ino: The file.
            key: That of the object, behind the URL.
            unconditional: Also where the place knows no conditions.

        Raises:
            StaleInodeError: The file is gone.
            NotSupportedError: The place knows no conditions, the key is too long, or the object is
                that of a state that may live still.
            StoreError: The store refused or cannot be reached.
            CorruptDataError: The file is damaged, or the object does not read back equal.
        """
        parts = self._parts
        inode = await parts.engine.get_inode(ino)
        if inode.flags & InodeFlags.UNSEALED:
            return Published(MoveResult(MoveOutcome.BUSY))
        known = await parts.engine.get_published(self.url_of(key))
        if known is not None and (known.ino, known.generation) == (ino, inode.generation):
            return Published(MoveResult(MoveOutcome.UNNEEDED))
        if inode.size and not inode.raw and self._read_form is None:
            inode = await hydrate(parts, ino)
        sent = Sent(
            *(ino, inode.generation, inode.size, inode.mtime_ns, inode.mode, inode.uid, inode.gid),
            partial(self._open, inode),
            partial(self._check, inode),
        )
        try:
            return await self._send(key, sent, known, unconditional=unconditional)
        except SourceChangedError:
            return Published(MoveResult(MoveOutcome.SUPERSEDED))

    async def publish_part(self, key: str, path: Path, *, unconditional: bool = False) -> Published:
        """Publish a local file that is no file of the mount, a part of a manifest.

        Raises:
            NotSupportedError, StoreError, CorruptDataError: As `publish`.
        """
        known = await self._parts.engine.get_published(self.url_of(key))
        status = await trio.to_thread.run_sync(path.stat)

        def open_part() -> Opened:
            with disk_errors(str(path)):
                return open_file(open_plain(path), path)

        async def check(_digest: bytes) -> None:
            await trio.lowlevel.checkpoint()

        sent = Sent(
            *(InodeNo(0), Generation(1), status.st_size, status.st_mtime_ns, 0o100644),
            *(status.st_uid, status.st_gid, open_part, check),
        )
        return await self._send(key, sent, known, unconditional=unconditional)

    async def fetch(self, known: PublishedObject, fd: int, advance: Callable[[int], None]) -> None:
        """Write the bytes of an object into a file, from its beginning.

        Args:
            known: The object, as it was published.
            fd: Writable.
            advance: Told the bytes that are there.

        Raises:
            ObjectMissingError, ObjectChangedError: It is not there any more.
            StoreError: The store refused or cannot be reached.
        """
        key = known.url.removeprefix(f"{self.target}/")
        found = await self._store.find(key)
        if found is None:
            raise ObjectMissingError(f"{known.url}: it is not there any more")
        if (found.etag, found.size) != (known.etag, known.size):
            raise ObjectChangedError(f"{known.url}: {PublishProblem.TAKEN}")
        for start in range(0, found.size, PART_BYTES):
            end = min(start + PART_BYTES, found.size)
            data = await self._store.read(key, found, start, end)
            # Not to be abandoned: the number of the file would be another file's soon.
            await trio.to_thread.run_sync(write_all_at, fd, data, start)
            advance(end)

    async def end_uploads(self) -> None:
        """End what uploads that were cut off have left there.

        Raises:
            StoreError: The store refused or cannot be reached.
        """
        for each in await list_uploads(self._parts.engine):
            if each.target == self.target and each.url not in self._sending:
                await self._end_upload(each)

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        await self._store.aclose()

    async def remove(self, known: PublishedObject) -> PublishProblem:
        """Remove an object that nobody has changed since; returns why it stays, if it does.

        Raises:
            StoreError: The store refused or cannot be reached.
        """
        engine = self._parts.engine
        if await self._is_of_living_state(known):
            return PublishProblem.FORMER
        key = known.url.removeprefix(f"{self.target}/")
        try:
            former = await self._former(key, known)
            async with engine.change():
                # A kill from here on leaves it open whether the object is there.
                await engine.put_published(known._replace(etag=former, generation=Generation(0)))
            if former:
                await self._delete(key, former, known)
        except ObjectTakenError:
            async with engine.change():
                await engine.put_published(
                    known._replace(generation=Generation(0), problem=PublishProblem.TAKEN)
                )
            return PublishProblem.TAKEN
        self._parts.faults.reach("publishing.removed")
        async with engine.change():
            await engine.forget_published([known.url])
        return PublishProblem.NONE

    async def _delete(self, key: str, former: str, known: PublishedObject) -> None:
        """Remove an object of an etag, or what the former life has put in its place since."""
        try:
            await self._store.delete_if(key, former)
        except ObjectTakenError:
            # Since the look, or since a life before.
            found = await self._store.find(key)
            if found is None or not await self._is_of_former_life(key, found, known):
                raise
            await self._store.delete_if(key, found.etag)

    async def _is_of_living_state(self, known: PublishedObject) -> bool:
        """Return whether an object is that of the former state, which may live still."""
        if self._parts.source is None:
            return False
        return (await sender_of(self._parts.engine)).inherits(known.token)

    async def _is_of_former_life(
        self, key: str, found: PublicObject, known: PublishedObject | None
    ) -> bool:
        """Return whether an object was sent by this state before it was imported, after the export.

        Args:
            key: That of the object.
            found: The object, which is not as it is recorded.
            known: What is recorded, before it is sent anew.
        """
        if self._parts.source is not None or not found.token:
            return False
        # That of the record is of an object that had another etag.
        if known is not None and found.token == known.token:
            return False
        if not (await sender_of(self._parts.engine)).had_sent(found.token):
            return False
        return self._store.is_replaced_whole or await self._has_digest(key, found, found.digest)

    def _open(self, inode: Inode) -> Opened:
        """Open a file for `Sent`, in a worker thread."""
        parts, read_form = self._parts, self._read_form
        if inode.raw:
            fd = parts.raw_store.open(inode.raw, os.O_RDONLY)
            return open_file(fd, parts.raw_store.path(inode.raw))
        assert read_form is not None

        def read_at(offset: int, size: int) -> bytes:
            return trio.from_thread.run(read_form, inode, offset, size)

        return Opened(read_at, lambda: None)

    async def _check(self, inode: Inode, digest: bytes) -> None:
        """See that a file is as it was when it was opened, and its bytes those of its blob."""
        if await self._is_changed(inode):
            raise SourceChangedError(f"inode {inode.ino} was changed while it was sent")
        if inode.blob:
            blob = await self._parts.engine.get_blob(inode.blob)
            if blob.digest != digest:
                raise CorruptDataError(
                    f"inode {inode.ino}: what was read of it is not what it was when it was "
                    "stored: nothing is published; run memfs scrub, which mends it where it can"
                )

    async def _is_changed(self, inode: Inode) -> bool:
        now = await self._parts.engine.get_inode(inode.ino)
        if now.generation != inode.generation or now.flags & InodeFlags.UNSEALED:
            return True
        if not inode.size or not inode.raw:
            return False
        try:
            return self._parts.sealer.is_changed(inode)
        except ObjectMissingError:
            # It has moved on to another form: what was read was read from an open file.
            return now.raw == inode.raw

    async def _send(
        self, key: str, sent: Sent, known: PublishedObject | None, *, unconditional: bool
    ) -> Published:
        url, limit = self.url_of(key), self._store.key_bytes_max
        if len(key.encode()) > limit:
            raise NotSupportedError(f"{url}: longer than {limit} bytes, the limit of keys there")
        if known is not None and await self._is_of_living_state(known):
            raise NotSupportedError(f"{url}: {PublishProblem.FORMER}")
        if url in self._sending:
            return Published(MoveResult(MoveOutcome.BUSY))
        self._sending.add(url)
        try:
            in_parts = sent.size > self._in_parts_above_bytes
            if not unconditional:
                await self._try_conditions(in_parts=in_parts)
            for each in await list_uploads(self._parts.engine):
                if each.url == url:
                    await self._end_upload(each)
            return await self._send_alone(key, sent, known, checks=unconditional)
        finally:
            self._sending.discard(url)

    async def _send_alone(
        self, key: str, sent: Sent, known: PublishedObject | None, *, checks: bool
    ) -> Published:
        engine, faults = self._parts.engine, self._parts.faults
        token = (await sender_of(engine)).make_token()
        record = PublishedObject(
            *(self.url_of(key), self.target, sent.ino, Generation(0), "", token),
            *(sent.size, sent.mtime_ns, b"", PublishProblem.NONE),
        )
        if known is not None:
            try:
                record = record._replace(etag=await self._former(key, known))
            except ObjectTakenError:
                return await self._note_taken(known)
        async with engine.change():
            await engine.put_published(record)
        # After power loss the object would be one that nobody knows.
        await self._parts.file_syncs.sync()
        faults.reach("publishing.recorded")
        with self._parts.progress.track("publish", sent.ino, sent.size) as progress:

            def advance(done_bytes: int) -> None:
                progress.done_bytes = done_bytes
                faults.reach("publishing.piece")

            stored = await self._put(key, sent, record, known, advance, checks=checks)
        if stored is None:
            return await self._note_taken(record)
        faults.reach("publishing.stored")
        await self._verify(key, stored)
        faults.reach("publishing.verified")
        async with engine.change():
            await engine.put_published(stored._replace(generation=sent.generation))
            await forget_upload(engine, record.url)
        faults.reach("publishing.published")
        return Published(MoveResult(MoveOutcome.DONE, sent.size))

    async def _note_taken(self, record: PublishedObject) -> Published:
        """Record that there is an object of somebody else's."""
        engine = self._parts.engine
        async with engine.change():
            await engine.put_published(
                record._replace(generation=Generation(0), problem=PublishProblem.TAKEN)
            )
            await forget_upload(engine, record.url)
        return Published(MoveResult(MoveOutcome.SHARED), PublishProblem.TAKEN)

    async def _former(self, key: str, known: PublishedObject) -> str:
        """Return the etag of the object that is memfs's own; empty: there is no such object.

        Raises:
            ObjectTakenError: It is somebody else's, with the etag that an export has told.
        """
        is_inherited = (await sender_of(self._parts.engine)).inherits(known.token)
        if known.generation and not is_inherited:
            return known.etag
        # The last attempt was cut off, or not seen by the export: the object may have arrived.
        found = await self._store.find(key)
        if found is None:
            return ""
        if known.generation and found.etag != known.etag:
            is_ours = False
        else:
            is_ours = await self._is_ours(key, found, known)
        if is_ours or await self._is_of_former_life(key, found, known):
            return found.etag
        if is_inherited and found.etag == known.etag:
            # Else the author of an export in clear could have any object replaced.
            raise ObjectTakenError(f"{known.url}: {PublishProblem.TAKEN}; it stays as it is")
        return known.etag

    async def _is_ours(self, key: str, found: PublicObject, known: PublishedObject) -> bool:
        """Return whether an object is the one that was sent last."""
        if found.token is not None and (
            found.token != known.token or self._store.is_replaced_whole
        ):
            return found.token == known.token
        return found.size == known.size and await self._has_digest(key, found, known.digest)

    async def _has_digest(self, key: str, found: PublicObject, digest: bytes) -> bool:
        """Return whether an object has the bytes of a digest; empty: it is not known."""
        return bool(digest) and await self._digest(key, found) == digest

    async def _put(
        self,
        key: str,
        sent: Sent,
        record: PublishedObject,
        known: PublishedObject | None,
        advance: Callable[[int], None],
        *,
        checks: bool,
    ) -> PublishedObject | None:
        """Store the object; returns what is known of it, or None: there is one of somebody else's.

        Args:
            known: What was recorded before `record`.
            checks: The place may know no conditions: it is looked at before the object appears.
        """
        engine, former = self._parts.engine, record.etag
        attributes = PublicAttributes(
            *(sent.mtime_ns, sent.mode, sent.uid, sent.gid, content_type_of(key), record.token)
        )

        async def may_appear(digest: bytes) -> None:
            nonlocal record
            await sent.check(digest)
            if checks:
                present = await self._store.find(key)
                if (present.etag if present is not None else "") != former:
                    raise ObjectTakenError(
                        f"{record.url}: {PublishProblem.TAKEN}; it stays as it is"
                    )
            record = record._replace(digest=digest)
            async with engine.change():
                await engine.put_published(record)
            self._parts.faults.reach("publishing.sent")

        def begin(upload: str) -> None:
            trio.from_thread.run(self._begin_upload, record.url, upload)
            self._parts.faults.reach("publishing.begun")

        is_superseded = False
        while True:
            source = Source(sent, may_appear, advance)
            try:
                etag = await self._store.put_if(
                    *(key, source, former, attributes, begin),
                    in_parts=sent.size > self._in_parts_above_bytes,
                )
                return record._replace(etag=etag)
            except ObjectTakenError:
                found = await self._store.find(key)
            finally:
                source.is_given_up = True
            if found is not None:
                if await self._is_ours(key, found, record):
                    # Its answer was lost, and the client has sent it again.
                    return record._replace(etag=found.etag)
                if is_superseded or not await self._is_of_former_life(key, found, known):
                    return None
                # Once: what changes meanwhile belongs to somebody who lives.
                is_superseded, former = True, found.etag
                continue
            if not former:
                return None
            # Somebody has removed it: nothing is there to be overwritten.
            former = ""

    async def _begin_upload(self, url: str, upload: str) -> None:
        """Record by what name an upload can be ended, durably."""
        async with self._parts.engine.change():
            await note_upload(self._parts.engine, PublishUpload(url, self.target, upload))
        await self._parts.file_syncs.sync()

    async def _end_upload(self, left: PublishUpload) -> None:
        key = left.url.removeprefix(f"{self.target}/")
        if left.upload == TRIAL:
            found = await self._store.find(key)
            if found is not None:
                await self._store.delete_if(key, found.etag)
        else:
            await self._store.abort(key, left.upload)
        async with self._parts.engine.change():
            await forget_upload(self._parts.engine, left.url)

    async def _verify(self, key: str, stored: PublishedObject) -> None:
        found = await self._store.find(key)
        if found is None or found.etag != stored.etag or found.size != stored.size:
            raise CorruptDataError(f"{self.url_of(key)}: is not there as it was sent")
        if await self._digest(key, found) != stored.digest:
            raise CorruptDataError(f"{self.url_of(key)}: does not read back as it was sent")

    async def _digest(self, key: str, found: PublicObject) -> bytes:
        """Return the digest of an object, some parts of which are read at a time."""
        hasher = blake3()
        window_bytes = PART_CONCURRENCY * PART_BYTES
        for start in range(0, found.size, window_bytes):
            end = min(start + window_bytes, found.size)
            starts = range(start, end, PART_BYTES)
            read: dict[int, bytes] = {}
            failures: list[MemfsError] = []

            async def read_part(
                at: int, end: int, read: dict[int, bytes], failures: list[MemfsError]
            ) -> None:
                try:
                    read[at] = await self._store.read(key, found, at, min(at + PART_BYTES, end))
                except MemfsError as error:
                    failures.append(error)

            async with trio.open_nursery() as nursery:
                for at in starts:
                    nursery.start_soon(read_part, at, end, read, failures)
            if failures:
                raise failures[0]
            for at in starts:
                hasher.update(read.pop(at))
        return hasher.digest()

    async def _try_conditions(self, *, in_parts: bool) -> None:
        """See once that the store heeds conditions, at an object that nobody else has.

        Args:
            in_parts: Those of uploads in parts.

        Raises:
            NotSupportedError: It does not: it would overwrite what others have written.
        """
        if not self._store.is_conditional:
            raise NotSupportedError(
                f"{self.target}: a store of this kind knows no conditions: what somebody else "
                "writes while memfs does would be lost; publish.unconditional = true, or "
                "--unconditional, takes that risk"
            )
        if in_parts in self._tried:
            return
        # What was tried in vain is tried again under the same name, which is recorded once.
        key = self._trials.pop() if self._trials else f".memfs-trial-{secrets.token_hex(8)}"
        engine, last = self._parts.engine, ""
        self._sending.add(self.url_of(key))
        try:
            await self._begin_upload(self.url_of(key), TRIAL)
            first = last = await self._put_trial(key, b"1", "", in_parts=in_parts)
            for former, data in ((first, b"2"), ("", b"3"), (first, b"4")):
                is_refused = data != b"2"
                try:
                    last = await self._put_trial(key, data, former, in_parts=in_parts)
                except ObjectTakenError:
                    if is_refused:
                        continue
                    raise
                if is_refused:
                    name = "If-Match" if former else "If-None-Match"
                    raise NotSupportedError(
                        f"{self.target}: the store overwrites an object although it was asked not "
                        f"to ({name}), so that nothing is published there; publish.unconditional "
                        "= true, or --unconditional, looks before each change instead"
                    )
        finally:
            self._sending.discard(self.url_of(key))
            if last:
                with contextlib.suppress(ObjectTakenError):
                    await self._store.delete_if(key, last)
                    async with engine.change():
                        await forget_upload(engine, self.url_of(key))
            else:
                self._trials.append(key)
        self._tried.add(in_parts)

    async def _put_trial(self, key: str, data: bytes, former: str, *, in_parts: bool) -> str:
        async def nothing(_digest: bytes) -> None:
            await trio.lowlevel.checkpoint()

        def nobody(_told: object) -> None:
            return

        sent = Sent(
            *(InodeNo(0), Generation(1), len(data), 0, 0o100600, os.geteuid(), os.getegid()),
            lambda: Opened(lambda offset, size: data[offset : offset + size], lambda: None),
            nothing,
        )
        attributes = PublicAttributes(
            *(0, sent.mode, sent.uid, sent.gid, "application/octet-stream", secrets.token_hex(16))
        )

        def begin(upload: str) -> None:
            trio.from_thread.run(self._begin_upload, self.url_of(key), upload)

        source = Source(sent, nothing, nobody)
        return await self._store.put_if(key, source, former, attributes, begin, in_parts=in_parts)


async def published_below(
    parts: MoveParts, target: str, page_count: int = 1000
) -> AsyncIterator[PublishedObject]:
    """Yield the records of a target, in order of URL."""
    after = ""
    while found := await parts.engine.list_published(target, after, page_count):
        for each in found:
            yield each
        after = found[-1].url
