"""Forms: ranged reads of sealed contents that have no raw file.

Invariant: every byte handed out was checked against its frame's checksums; what the caches hold is
bounded in bytes, and one frame is fetched once however many ask for it at a time.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.errors import (
    FORM_ERRORS,
    CorruptDataError,
    MemfsError,
    NotFoundError,
    NotSupportedError,
    ObjectArchivedError,
    ObjectMissingError,
)
from memfs.metadata.quarantine import why_quarantined
from memfs.stores.disk import disk_errors, read_fully
from memfs.stores.envelope import Unlock
from memfs.stores.extent import Extent
from memfs.stores.reading import FrameReader, PackedFile
from memfs.types import FormKind

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Form, Inode
    from memfs.stores.container import SeekTable
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore
    from memfs.stores.store import RemoteStore
    from memfs.types import RawId

log = logging.getLogger(__name__)

FRAME_CACHE_BYTES_MAX = 32 << 20
"""Decoded frames kept: the last 32 at the default size, for readers that go on or come back."""

TABLE_CACHE_BYTES_MAX = 8 << 20
"""Seek tables kept: of some 10,000 files of a few frames. Guess; never measured."""

COMPLAINT_COUNT_MAX = 1000
"""Damages remembered, so that each is logged once and not with every read."""

_THREADS_MAX = 8


class _FrameKey(NamedTuple):
    location: str
    number: int
    """0-based."""


class _Flight:
    """A fetch under way, shared by all who wait for one of its frames."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: MemfsError | None = None


class _FrameCache:
    """Decoded frames, the last used last, bounded in bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames: OrderedDict[_FrameKey, bytes] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: _FrameKey) -> bytes | None:
        frame = self._frames.get(key)
        if frame is not None:
            self._frames.move_to_end(key)
        return frame

    def put(self, key: _FrameKey, frame: bytes) -> None:
        if len(frame) > self._bytes_max or key in self._frames:
            return
        self._frames[key] = frame
        self.used_bytes += len(frame)
        while self.used_bytes > self._bytes_max:
            _, oldest = self._frames.popitem(last=False)
            self.used_bytes -= len(oldest)


class _TableCache:
    """Seek tables by location, the last used last, bounded in bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._tables: OrderedDict[str, SeekTable] = OrderedDict()
        self.used_bytes = 0

    def get(self, location: str) -> SeekTable | None:
        table = self._tables.get(location)
        if table is not None:
            self._tables.move_to_end(location)
        return table

    def put(self, location: str, table: SeekTable) -> None:
        if location in self._tables:
            return
        self._tables[location] = table
        self.used_bytes += table.memory_bytes
        # The newest stays even if it alone is beyond the bound: reading it again costs a request.
        while self.used_bytes > self._bytes_max and len(self._tables) > 1:
            _, oldest = self._tables.popitem(last=False)
            self.used_bytes -= oldest.memory_bytes


class FormReader:
    """Reads ranges of sealed contents from their packed or remote forms.

    Args:
        engine: Knows the forms.
        packed_store: Has the packed ones.
        remote: Has the remote ones; None: there is no glacier tier.
        raw_store: Has the content if it was hydrated while it was read.
        frame_cache_bytes_max: Bound of the decoded frames kept.
        keys: Of encrypted forms.
    """

    def __init__(
        self,
        engine: Engine,
        packed_store: PackedStore,
        remote: RemoteStore | None,
        raw_store: RawStore,
        frame_cache_bytes_max: int = FRAME_CACHE_BYTES_MAX,
        keys: KeyRing = NO_KEYS,
    ) -> None:
        self._engine = engine
        self._packed_store = packed_store
        self._remote = remote
        self._raw_store = raw_store
        self._keys = keys
        self._frames = _FrameCache(frame_cache_bytes_max)
        self._tables = _TableCache(TABLE_CACHE_BYTES_MAX)
        self._flights: dict[_FrameKey, _Flight] = {}
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._complaints: set[str] = set()

    @property
    def cached_bytes(self) -> int:
        """Bytes of decoded frames and seek tables kept."""
        return self._frames.used_bytes + self._tables.used_bytes

    async def read(self, inode: Inode, offset: int, size: int) -> bytes:
        """Return bytes `[offset, offset + size)` of a sealed content; fewer only at its end.

        The packed form is asked before the remote one, and each stands in for the other where that
        is damaged or missing. Cancel: safe; another reader of the same frame takes over.

        Args:
            inode: As the caller found it; if it has moved on since, so does the read.
            offset: >= 0.
            size: Bytes wanted.

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
            forms = await self._engine.list_forms(inode.blob)
            for form in forms:
                try:
                    return await self._read_form(form, offset, min(size, inode.size - offset))
                except FORM_ERRORS as unusable:
                    await self._complain(inode, form, unusable)
                    # Corruption outranks absence: it needs a person, and waiting does not help.
                    if error is failure or isinstance(unusable, CorruptDataError):
                        error = unusable
            now = await self._engine.get_inode(inode.ino)
            if now.raw:
                return await trio.to_thread.run_sync(
                    self._read_raw, now.raw, offset, size, limiter=self._threads
                )
            # A form that was replaced meanwhile, as by a compaction, is read where it lies now.
            if now.blob == inode.blob and await self._engine.list_forms(now.blob) == forms:
                raise error
            inode = now

    async def _read_form(self, form: Form, offset: int, size: int) -> bytes:
        # Before the caches: they may have got what they hold before the form was found out.
        reason = await why_quarantined(self._engine, form)
        if reason is not None:
            raise CorruptDataError(f"{form.location}: in quarantine: {reason}")
        table = self._tables.get(form.location)
        if table is None:
            table = await self._open(form)
            self._tables.put(form.location, table)
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
            key = _FrameKey(form.location, frames[len(found)])
            cached = self._frames.get(key)
            if cached is not None:
                found.append(cached)
            elif (flight := self._flights.get(key)) is not None:
                await flight.done.wait()
                if flight.error is not None:
                    raise type(flight.error)(*flight.error.args) from flight.error
            else:
                run = self._missing_run(form.location, frames[len(found) :])
                found += await self._fetch(form, table, run)
        return found

    def _missing_run(self, location: str, frames: range) -> range:
        """Return the frames from the first on that nobody has and nobody is fetching."""
        for count, index in enumerate(frames):
            key = _FrameKey(location, index)
            if key in self._flights or self._frames.get(key) is not None:
                return frames[:count]
        return frames

    async def _fetch(self, form: Form, table: SeekTable, run: range) -> list[bytes]:
        """Read consecutive frames with one request, for all who want one of them."""
        keys = [_FrameKey(form.location, index) for index in run]
        flight = _Flight()
        self._flights.update(dict.fromkeys(keys, flight))
        frame_bytes = table.frame_bytes
        try:
            data = await self._read_frames(
                form, table, run[0] * frame_bytes, len(run) * frame_bytes
            )
            if len(run) == 1:
                frames = [data]
            else:
                frames = [data[at : at + frame_bytes] for at in range(0, len(data), frame_bytes)]
            for key, frame in zip(keys, frames, strict=True):
                self._frames.put(key, frame)
        except MemfsError as error:
            flight.error = error
            raise
        finally:
            for key in keys:
                del self._flights[key]
            flight.done.set()
        return frames

    async def _open(self, form: Form) -> SeekTable:
        try:
            blob = await self._engine.get_blob(form.blob)
        except NotFoundError:
            # The file was written anew since its forms were listed.
            raise ObjectMissingError(f"{form.location}: nothing refers to it any more") from None
        unlock = Unlock.of(self._keys, blob, form.codec, self._engine.state_id)
        if form.kind == FormKind.PACKED:
            return await trio.to_thread.run_sync(
                self._open_packed, form, unlock, limiter=self._threads
            )
        remote = self._need_remote()
        read_range = Extent.of(form.location, form.stored_bytes).reader(remote)
        reader = await FrameReader.open(read_range, form.stored_bytes, self._name(form), unlock)
        return reader.table

    async def _read_frames(self, form: Form, table: SeekTable, offset: int, size: int) -> bytes:
        if form.kind == FormKind.PACKED:
            return await trio.to_thread.run_sync(
                self._read_packed, form.location, table, offset, size, limiter=self._threads
            )
        extent = Extent.of(form.location, form.stored_bytes)
        read_range = extent.reader(self._need_remote())
        reader = FrameReader(read_range, form.stored_bytes, self._name(form), table)
        return await reader.read(offset, size)

    def _open_packed(self, form: Form, unlock: Unlock) -> SeekTable:
        path = self._packed_store.path(form.location)
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
            raise NotSupportedError(
                "the content is in a glacier tier that is not configured any more; set glacier.url"
            )
        return self._remote

    def _name(self, form: Form) -> str:
        return f"{self._need_remote().url}/{form.location}"

    async def _complain(self, inode: Inode, form: Form, error: MemfsError) -> None:
        """Log a form that cannot be used: file, frame and reason, once."""
        text = str(error)
        # One that was replaced while it was read has nothing to be blamed for.
        if text in self._complaints or form not in await self._engine.list_forms(inode.blob):
            return
        if len(self._complaints) >= COMPLAINT_COUNT_MAX:
            self._complaints.clear()
        self._complaints.add(text)
        path = (await self._engine.get_path(inode.ino)).decode("utf-8", "backslashreplace")
        level = logging.INFO if isinstance(error, ObjectArchivedError) else logging.WARNING
        log.log(level, "%s: its %s form cannot be read: %s", path, form.kind, text)
