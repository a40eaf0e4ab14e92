"""Forms: ranged reads of sealed contents that have no raw file.

Invariant: every byte handed out was checked against its frame's checksums; what the caches hold is
bounded in bytes, and one frame is fetched once however many ask for it at a time.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.bounded import BoundedDict, SizedDict
from memfs.content.foreign import ForeignReader
from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.errors import (
    FORM_ERRORS,
    CorruptDataError,
    MemfsError,
    NotFoundError,
    NotSupportedError,
    ObjectArchivedError,
    ObjectChangedError,
    ObjectMissingError,
    StaleInodeError,
    StoreGoneError,
)
from memfs.metadata.quarantine import why_quarantined
from memfs.single_flight import SingleFlight
from memfs.stores.contents import object_name, open_content, range_reader
from memfs.stores.disk import disk_errors, read_fully
from memfs.stores.envelope import Unlock
from memfs.stores.reading import FrameReader, PackedFile
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from memfs.content.sources import Sources
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Blob, Form, Inode
    from memfs.stores.container import SeekTable
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo, Place, RawId

log = logging.getLogger(__name__)

FRAME_CACHE_BYTES_MAX = 32 << 20
"""Decoded frames kept: the last 32 at the default size, for readers that go on or come back."""

TABLE_CACHE_BYTES_MAX = 8 << 20
"""Seek tables kept: of some 10,000 files of a few frames. Guess; never measured."""

COMPLAINT_COUNT_MAX = 1000
"""Damages remembered, so that each is logged once and not with every read."""

_THREADS_MAX = 8


class _FrameKey(NamedTuple):
    place: Place
    number: int
    """0-based."""


class FormReader:
    """Reads ranges of sealed contents from their packed or remote forms.

    Args:
        engine: Knows the forms.
        packed_store: Has the packed ones.
        remote: Has the remote ones; None: there is no glacier tier.
        raw_store: Has the content if it was hydrated while it was read.
        frame_cache_bytes_max: Bound of the decoded frames kept.
        keys: Those of encrypted forms.
        sources: Have the adopted ones; None: no source is read.
    """

    def __init__(
        self,
        engine: Engine,
        packed_store: PackedStore,
        remote: RemoteStore | None,
        raw_store: RawStore,
        frame_cache_bytes_max: int = FRAME_CACHE_BYTES_MAX,
        keys: KeyRing = NO_KEYS,
        sources: Sources | None = None,
    ) -> None:
        self._foreign = ForeignReader(sources) if sources is not None else None
        self._engine = engine
        self._packed_store = packed_store
        self._remote = remote
        self._raw_store = raw_store
        self._keys = keys
        self._frames: SizedDict[_FrameKey, bytes] = SizedDict(frame_cache_bytes_max, len)
        # The newest table stays even if it alone is beyond the bound: reading it costs a request.
        self._tables: SizedDict[Place, SeekTable] = SizedDict(
            TABLE_CACHE_BYTES_MAX, lambda table: table.memory_bytes, count_min=1
        )
        self._flights: SingleFlight[_FrameKey, bytes] = SingleFlight()
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._complaints: BoundedDict[str, None] = BoundedDict(COMPLAINT_COUNT_MAX)

    @property
    def cached_bytes(self) -> int:
        """Bytes of decoded frames and seek tables kept."""
        foreign = self._foreign.cached_bytes if self._foreign is not None else 0
        return self._frames.used_size + self._tables.used_size + foreign

    async def read(
        self,
        inode: Inode,
        offset: int,
        size: int,
        look_again: Callable[[InodeNo], Awaitable[Inode]] | None = None,
    ) -> bytes:
        """Return bytes `[offset, offset + size)` of a sealed content; fewer only at its end.

        The packed form is asked before the remote one, and each stands in for the other where that
        is damaged or missing. Cancel: safe; another reader of the same frame takes over.

        Args:
            inode: As the caller found it; if it has moved on since, so does the read.
            offset: >= 0.
            size: Bytes wanted.
            look_again: Returns an inode as it is now; None: the live one. Else one as of a
                snapshot, which moves on only to where the same bytes are.

        Raises:
            StaleInodeError: The file is gone.
            CorruptDataError: No form has these bytes intact.
            EncryptionKeyError: The key of the form that has them is not configured.
            StoreError: No form can be reached.
        """
        while True:
            if offset >= inode.size:
                return b""
            failure = CorruptDataError(
                f"inode {inode.ino}: no form of its content is known; run memfs fsck"
            )
            error: MemfsError = failure
            forms = await self._engine.list_all_forms(inode)
            for form in forms:
                try:
                    return await self._read_form(form, offset, min(size, inode.size - offset))
                except FORM_ERRORS as unusable:
                    await self._complain(inode, form, unusable)
                    # Corruption outranks absence: it needs a person, and waiting does not help.
                    if error is failure or isinstance(unusable, CorruptDataError):
                        error = unusable
            now = await (look_again or self._engine.get_inode)(inode.ino)
            if now.raw:
                return await trio.to_thread.run_sync(
                    self._read_raw, now.raw, offset, size, limiter=self._threads
                )
            # A form that was replaced meanwhile, as by a compaction, is read where it lies now.
            if await self._engine.list_all_forms(now) == forms:
                raise error
            inode = now

    async def read_kept(
        self, blob: Blob | None, forms: Sequence[Form], offset: int, size: int
    ) -> bytes:
        """Return bytes `[offset, offset + size)` of a content that nothing may refer to any more.

        Args:
            blob: The content; None: its forms are those of a source.
            forms: As they were when something did; they are there for a while.
            offset: Below its size.
            size: Bytes wanted, up to its end.

        Raises:
            MemfsError: As `read`.
        """
        failure: MemfsError = CorruptDataError("no form of the content is known")
        for form in forms:
            try:
                return await self._read_form(form, offset, size, blob)
            except FORM_ERRORS as error:
                failure = error
        raise failure

    async def _read_form(
        self, form: Form, offset: int, size: int, blob: Blob | None = None
    ) -> bytes:
        if form.is_foreign:
            if self._foreign is None:
                raise NotSupportedError(f"{form.place}: no source is read here")
            return await self._foreign.read(form, offset, size)
        # Before the caches: they may have got what they hold before the form was found out.
        reason = await why_quarantined(self._engine, form)
        if reason is not None:
            raise CorruptDataError(f"{form.place}: in quarantine: {reason}")
        table = self._tables.touch(form.place)
        if table is None:
            table = await self._open(form, blob)
            self._tables.put(form.place, table)
        frames = table.frames_of(offset, size)
        parts = await self._collect(form, table, frames)
        if not parts:
            return b""
        start = offset - frames[0] * table.frame_bytes
        if len(parts) == 1:
            return parts[0][start : start + size]
        parts[0] = parts[0][start:]
        parts[-1] = parts[-1][: offset + size - frames[-1] * table.frame_bytes]
        return b"".join(parts)

    async def _collect(self, form: Form, table: SeekTable, frames: range) -> list[bytes]:
        """Return frames: from the cache, from another reader's fetch or from a fetch of ours."""
        found: list[bytes] = []
        while len(found) < len(frames):
            key = _FrameKey(form.place, frames[len(found)])
            frame = self._frames.touch(key)
            if frame is not None:
                found.append(frame)
            elif key in self._flights:
                frame = await self._flights.join(key)
                if frame is not None:
                    found.append(frame)
            else:
                run = self._missing_run(form.place, frames[len(found) :])
                found += await self._fetch(form, table, run)
        return found

    def _missing_run(self, place: Place, frames: range) -> range:
        """Return the frames from the first on that nobody has and nobody is fetching."""
        for count, index in enumerate(frames):
            key = _FrameKey(place, index)
            if key in self._flights or key in self._frames:
                return frames[:count]
        return frames

    async def _fetch(self, form: Form, table: SeekTable, run: range) -> list[bytes]:
        """Read consecutive frames with one request, for all who want one of them."""
        keys = [_FrameKey(form.place, index) for index in run]
        frame_bytes = table.frame_bytes
        with self._flights.lead(*keys) as landed:
            data = await self._read_frames(
                form, table, run[0] * frame_bytes, len(run) * frame_bytes
            )
            if len(run) == 1:
                frames = [data]
            else:
                frames = [data[at : at + frame_bytes] for at in range(0, len(data), frame_bytes)]
            landed.update(zip(keys, frames, strict=True))
            for key, frame in landed.items():
                self._frames.put(key, frame)
        return frames

    async def _open(self, form: Form, blob: Blob | None) -> SeekTable:
        try:
            blob = blob or await self._engine.get_blob(form.blob)
        except NotFoundError:
            # The file was written anew since its forms were listed.
            raise ObjectMissingError(f"{form.place}: nothing refers to it any more") from None
        unlock = Unlock.of(self._keys, blob, form.coding, self._engine.object_state_id)
        if form.kind == FormKind.PACKED:
            return await trio.to_thread.run_sync(
                self._open_packed, form, unlock, limiter=self._threads
            )
        reader = await open_content(self._need_remote(), form, unlock)
        return await reader.learn()

    async def _read_frames(self, form: Form, table: SeekTable, offset: int, size: int) -> bytes:
        if form.kind == FormKind.PACKED:
            return await trio.to_thread.run_sync(
                self._read_packed, form.place.key, table, offset, size, limiter=self._threads
            )
        remote = self._need_remote()
        name, read_range = object_name(remote, form.place), range_reader(remote, form)
        reader = FrameReader(read_range, form.stored_bytes, name, table)
        return await reader.read(offset, size)

    def _open_packed(self, form: Form, unlock: Unlock) -> SeekTable:
        path = self._packed_store.path(form.place.key)
        with PackedFile.open(path, unlock=unlock) as packed:
            return packed.table

    def _read_packed(self, location: str, table: SeekTable, offset: int, size: int) -> bytes:
        with PackedFile.open(self._packed_store.path(location), table) as packed:
            return packed.read(offset, size)

    def _read_raw(self, raw: RawId, offset: int, size: int) -> bytes:
        fd = self._raw_store.open(raw, os.O_RDONLY)
        try:
            with disk_errors(str(self._raw_store.path(raw))):
                return read_fully(fd, size, offset)
        finally:
            os.close(fd)

    def _need_remote(self) -> RemoteStore:
        if self._remote is None:
            raise StoreGoneError(
                "the content is in a glacier tier that is not configured any more; set glacier.url"
            )
        return self._remote

    async def _complain(self, inode: Inode, form: Form, error: MemfsError) -> None:
        """Log a form that cannot be used: file, frame and reason, once."""
        text = str(error)
        # One that was replaced while it was read has nothing to be blamed for.
        if text in self._complaints or form not in await self._engine.list_all_forms(inode):
            return
        self._complaints[text] = None
        try:
            path = (await self._engine.get_path(inode.ino)).decode("utf-8", "backslashreplace")
        except StaleInodeError:
            path = f"inode {inode.ino}, which only snapshots show"
        expected = isinstance(error, ObjectArchivedError | ObjectChangedError)
        level = logging.INFO if expected else logging.WARNING
        log.log(level, "%s: its %s form cannot be read: %s", path, form.kind, text)
