"""Reading containers: ranges of them, and all of them, from local files and from stores.

Invariant: every byte that comes out was checked against its frame's checksums, and a whole content
against its digest as well.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import blake3
import trio

from memfs.codecs.registry import get_codec
from memfs.errors import CorruptDataError, OtherContentError
from memfs.stores.container import TAIL_BYTES, SeekTable
from memfs.stores.disk import ByteProgress, disk_errors, read_fully
from memfs.stores.envelope import Unlock, parse_table, table_bytes_needed
from memfs.stores.packing import worker_count
from memfs.stores.parts import PART_CONCURRENCY, PartSlots
from memfs.stores.reencrypting import Reencryption
from memfs.stores.store import PART_BYTES
from memfs.stores.zeros import ZeroRuns

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from memfs.codecs.codec import Codec
    from memfs.stores.envelope import Encryption

log = logging.getLogger(__name__)

RangeReader = Callable[[int, int], Awaitable[bytes]]
"""Returns stored bytes `[start, end)` of one container; fewer only at its end."""

BATCH_BYTES = 8 << 20
"""Stored bytes of one request when a whole object is read; guess: hides a round trip of 50 ms at
150 MB/s, and `PART_CONCURRENCY` of them are in memory at a time, as of other transfers: one that is
decoded, and requests under way."""


class ContentSink:
    """Takes a content's frames in order: checks the digest and writes the file, holes kept.

    Args:
        table: Of the container that the frames come from.
        target_fd: Writable file, emptied first; None only checks. Not fsynced.
        name: The file or object, for messages.
        zeros: Hashes runs of zeros; None: nothing is known of them.
    """

    def __init__(
        self, table: SeekTable, target_fd: int | None, name: str, zeros: ZeroRuns | None = None
    ) -> None:
        self._table = table
        self._target_fd = target_fd
        self._name = name
        self._hasher = blake3.blake3(max_threads=worker_count())
        self._zero_runs = zeros or ZeroRuns()
        self._pending_zero_bytes = 0
        self._zeros = bytes(min(table.frame_bytes, table.size))
        self.done_bytes = 0
        if target_fd is not None:
            os.ftruncate(target_fd, 0)
            os.ftruncate(target_fd, table.size)

    def write(self, frame: bytes) -> None:
        """Take the next frame."""
        # A frame of zeros stays a hole; the comparison ends at the first byte that differs.
        zeros = self._zeros if len(frame) == len(self._zeros) else self._zeros[: len(frame)]
        if frame == zeros:
            self._pending_zero_bytes += len(frame)
            self.done_bytes += len(frame)
            return
        self._hash_zeros()
        self._hasher.update(frame)
        if self._target_fd is not None:
            view, offset = memoryview(frame), self.done_bytes
            while view:
                count = os.pwrite(self._target_fd, view, offset)
                view, offset = view[count:], offset + count
        self.done_bytes += len(frame)

    def finish(self) -> None:
        """Raise `OtherContentError` unless the whole content was taken and has its digest."""
        self._hash_zeros()
        if self.done_bytes != self._table.size or self._hasher.digest() != self._table.digest:
            raise OtherContentError(f"{self._name}: the content fails its digest")

    def _hash_zeros(self) -> None:
        if self._pending_zero_bytes:
            self._hasher = self._zero_runs.update(self._hasher, self._pending_zero_bytes)
            self._pending_zero_bytes = 0


class _Decoder:
    """Decodes the frames of a whole container: those of zeros once, however many there are.

    Safe for threads. A frame whose encoded bytes are those that decoded to zeros, and whose
    checksum in the table is that of zeros, is one of zeros.
    """

    def __init__(self, table: SeekTable, codec: Codec, name: str) -> None:
        self._table = table
        self._codec = codec
        self._name = name
        self._zeros = bytes(table.frame_bytes if table.size >= table.frame_bytes else 0)
        self._known: tuple[bytes, int] | None = None
        """Encoded bytes, and the checksum of the content, of a frame of zeros."""

    def decode(self, index: int, stored: memoryview) -> bytes:
        """Return one frame's content; see `SeekTable.decode_frame`."""
        if self.may_be_zeros(index) and self._is_known(index, stored):
            return self._zeros
        content = self._table.decode_frame(self._codec, index, stored, self._name)
        if self._known is None and content and content == self._zeros:
            encoded = bytes(self._table.decrypt_frame(index, stored))
            self._known = encoded, self._table.content_checksums[index]
        return content

    def may_be_zeros(self, index: int) -> bool:
        """Return whether a frame has the length and checksum of a known one of zeros."""
        table, known = self._table, self._known
        if known is None or table.content_checksums[index] != known[1]:
            return False
        overhead = table.cipher.overhead_bytes if table.cipher is not None else 0
        length = table.stored_offsets[index + 1] - table.stored_offsets[index] - overhead
        return length == len(known[0]) and table.frame_size(index) == table.frame_bytes

    def _is_known(self, index: int, stored: memoryview) -> bool:
        assert self._known is not None
        try:
            return self._table.decrypt_frame(index, stored) == self._known[0]
        except CorruptDataError:
            # Told with the frame's name by who decodes it.
            return False


class PackedFile:
    """A local container, open for reading; every method blocks and is safe for all threads.

    Args:
        fd: Readable; owned from now on.
        name: The file, for messages.
        table: The parsed table where the caller has kept it; else it is read.
        unlock: What decrypts the table that is read; None: nothing does.
        start: Where the container begins in the file.
        stored_bytes: Its length; None: up to the end of the file.

    Raises:
        CorruptDataError: The table is damaged or the file truncated.
        EncryptionKeyError: The key that decrypts it is not there.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        table: SeekTable | None = None,
        unlock: Unlock | None = None,
        start: int = 0,
        stored_bytes: int | None = None,
    ) -> None:
        self._fd = fd
        self._name = name
        self._start = start
        self._stored_bytes = stored_bytes
        try:
            self.table = self._read_table(unlock) if table is None else table
            self._codec = get_codec(self.table.codec)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: Path, table: SeekTable | None = None, unlock: Unlock | None = None) -> Self:
        """Open a container by its path; `ObjectMissingError` if it is not there."""
        with disk_errors(str(path)):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return cls(fd, str(path), table, unlock)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` uncompressed bytes from `offset`; fewer only at the end.

        Raises:
            CorruptDataError: Names file and frame.
        """
        frames = self.table.frames_of(offset, size)
        if not frames:
            return b""
        stored = self._read_stored(frames)
        return _decode_range(self.table, self._codec, frames, stored, (offset, size), self._name)

    def frame(self, index: int) -> bytes:
        """Return one frame's uncompressed bytes; index is 0-based."""
        frames = range(index, index + 1)
        stored = memoryview(self._read_stored(frames))
        return self.table.decode_frame(self._codec, index, stored, self._name)

    def unpack_to(
        self,
        target_fd: int,
        on_progress: ByteProgress | None = None,
        zeros: ZeroRuns | None = None,
    ) -> None:
        """Write the whole content into a file, which is emptied first and not fsynced.

        Args:
            target_fd: Writable; frames of zeros become holes.
            on_progress: Told the bytes done, after each frame; may raise to stop.
            zeros: Hashes runs of zeros; None: nothing is known of them.

        Raises:
            CorruptDataError: Checksum, digest or length; the target is then partly written.
            NoSpaceError: The target's disk is full.
        """
        self._drain(target_fd, on_progress, zeros)

    def verify(
        self, on_progress: ByteProgress | None = None, zeros: ZeroRuns | None = None
    ) -> None:
        """Read and check everything; raises `CorruptDataError` as `unpack_to`, writes nothing."""
        self._drain(None, on_progress, zeros)

    def reencrypt_to(
        self,
        target_fd: int,
        encryption: Encryption | None,
        on_progress: ByteProgress | None = None,
    ) -> tuple[int, SeekTable]:
        """Append a copy under another key, or under none; returns its length and its table.

        Args:
            target_fd: Writable; not fsynced.
            encryption: Of the copy; None: it is not encrypted.
            on_progress: Told the uncompressed bytes done; may raise to stop.

        Raises:
            CorruptDataError: Names file and frame.
            NoSpaceError: The target's disk is full.
        """
        copy = Reencryption(self.table, target_fd, encryption, self._name)
        for index in range(self.table.frame_count):
            copy.write(memoryview(self._read_stored(range(index, index + 1))))
            if on_progress is not None:
                on_progress(copy.done_bytes)
        return copy.finish()

    def _drain(
        self, target_fd: int | None, on_progress: ByteProgress | None, zeros: ZeroRuns | None
    ) -> None:
        with disk_errors(self._name):
            sink = ContentSink(self.table, target_fd, self._name, zeros)
            decoder = _Decoder(self.table, self._codec, self._name)

            def decode(index: int) -> bytes:
                stored = self._read_stored(range(index, index + 1))
                return decoder.decode(index, memoryview(stored))

            threads = min(worker_count(), self.table.frame_count)
            if threads <= 1:
                for index in range(self.table.frame_count):
                    _deliver(sink, decode(index), on_progress)
            else:
                with ThreadPoolExecutor(threads, thread_name_prefix="memfs-unpack") as pool:
                    self._drain_threads(pool, threads, decoder, decode, sink, on_progress)
            sink.finish()

    def _drain_threads(
        self,
        pool: ThreadPoolExecutor,
        threads: int,
        decoder: _Decoder,
        decode: Callable[[int], bytes],
        sink: ContentSink,
        on_progress: ByteProgress | None,
    ) -> None:
        waiting: deque[Future[bytes]] = deque()
        try:
            for index in range(self.table.frame_count):
                if decoder.may_be_zeros(index):
                    # The way to a thread and back costs more than such a frame does.
                    waiting.append(_ended(decode(index)))
                else:
                    waiting.append(pool.submit(decode, index))
                if len(waiting) > 2 * threads:
                    _deliver(sink, waiting.popleft().result(), on_progress)
            while waiting:
                _deliver(sink, waiting.popleft().result(), on_progress)
        finally:
            for future in waiting:
                future.cancel()

    def _read_table(self, unlock: Unlock | None) -> SeekTable:
        with disk_errors(self._name):
            stored_bytes = self._stored_bytes
            if stored_bytes is None:
                stored_bytes = os.fstat(self._fd).st_size - self._start
            start = max(0, stored_bytes - TAIL_BYTES)
            tail = read_fully(self._fd, stored_bytes - start, self._start + start)
            needed = table_bytes_needed(tail, stored_bytes, self._name)
            if needed > len(tail):
                start = stored_bytes - needed
                tail = read_fully(self._fd, needed, self._start + start)
        return parse_table(tail, stored_bytes, self._name, unlock)

    def _read_stored(self, frames: range) -> bytes:
        start, end = self.table.stored_range(frames)
        with disk_errors(self._name):
            stored = read_fully(self._fd, end - start, self._start + start)
        return _whole(stored, end - start, frames, self._name)


class FrameReader:
    """A container behind a range read, as a remote object; decodes in worker threads.

    Keeps the tail of the object that the table came from, at most 256 KiB, and answers small
    objects from it: they cost one request in all. Callers that cache keep `table`, not the reader.

    What proves wrong is asked for once more: proxies and networks give single bad answers (a short
    body, the whole object instead of a range, a page of their own, a flipped bit).

    Args:
        read_range: Fetches stored bytes.
        stored_bytes: Length of the container.
        name: The object, for messages.
        table: Its parsed table; see `open`.
        tail: Its last bytes, where they are known.
        slots: Of the store; None: there is room for as much as a transfer may take.
    """

    def __init__(
        self,
        read_range: RangeReader,
        stored_bytes: int,
        name: str,
        table: SeekTable,
        tail: bytes = b"",
        slots: PartSlots | None = None,
    ) -> None:
        self._read_range = read_range
        self._name = name
        self._tail = tail
        self._tail_start = stored_bytes - len(tail)
        self._slots = slots or PartSlots(PART_CONCURRENCY * PART_BYTES, 1)
        self.table = table
        self._codec = get_codec(table.codec)

    async def learn(self) -> SeekTable:
        """Return a table that ranges can be read with, later and by other readers."""
        return self.table

    @classmethod
    async def open(
        cls,
        read_range: RangeReader,
        stored_bytes: int,
        name: str,
        unlock: Unlock | None = None,
        slots: PartSlots | None = None,
    ) -> Self:
        """Read the table, with one request as a rule and two for tables beyond 256 KiB.

        Args:
            read_range: As of the class.
            stored_bytes: As of the class.
            name: As of the class.
            unlock: Decrypts and tells what blob it is; None: anything in clear will do.
            slots: As of the class.

        Raises:
            CorruptDataError: The table is damaged or the object truncated.
            EncryptionKeyError: The key that decrypts it is not there.
            StoreError: As `read_range`.
        """
        try:
            return await cls._open(read_range, stored_bytes, name, unlock, slots)
        except CorruptDataError as error:
            reader = await cls._open(read_range, stored_bytes, name, unlock, slots)
            _note_bad_answer(error)
            return reader

    @classmethod
    async def _open(
        cls,
        read_range: RangeReader,
        stored_bytes: int,
        name: str,
        unlock: Unlock | None,
        slots: PartSlots | None,
    ) -> Self:
        start = max(0, stored_bytes - TAIL_BYTES)
        tail = await read_range(start, stored_bytes)
        if len(tail) > stored_bytes - start:
            raise CorruptDataError(f"{name}: more bytes came than were asked for")
        needed = table_bytes_needed(tail, stored_bytes, name)
        if len(tail) != stored_bytes - start:
            raise CorruptDataError(f"{name}: ends before byte {stored_bytes}")
        if needed > len(tail):
            start = stored_bytes - needed
            tail = await read_range(start, start + needed - len(tail)) + tail
            if len(tail) != needed:
                raise CorruptDataError(f"{name}: ends before byte {stored_bytes}")
        table = await trio.to_thread.run_sync(parse_table, tail, stored_bytes, name, unlock)
        return cls(read_range, stored_bytes, name, table, tail[-TAIL_BYTES:], slots)

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` uncompressed bytes from `offset`; fewer only at the end.

        One request for all frames of the range; memory is that of the range. Cancel: safe.

        Raises:
            CorruptDataError: Names object and frame.
            StoreError: As `read_range`.
        """
        frames = self.table.frames_of(offset, size)
        if not frames:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            return await self._read(frames, offset, size)
        except CorruptDataError as error:
            self._forget_tail()
            content = await self._read(frames, offset, size)
            _note_bad_answer(error)
            return content

    async def _read(self, frames: range, offset: int, size: int) -> bytes:
        stored = await self._read_stored(frames)
        return await trio.to_thread.run_sync(
            _decode_range, self.table, self._codec, frames, stored, (offset, size), self._name
        )

    def _forget_tail(self) -> None:
        self._tail_start += len(self._tail)
        self._tail = b""

    async def frame(self, index: int) -> bytes:
        """Return one frame's uncompressed bytes; index is 0-based."""
        return await self.read(index * self.table.frame_bytes, self.table.frame_size(index))

    async def unpack_to(
        self,
        target_fd: int,
        on_progress: ByteProgress | None = None,
        zeros: ZeroRuns | None = None,
    ) -> None:
        """Write the whole content into a file, which is emptied first and not fsynced.

        Cancel: safe; the target is partly written, and no thread uses it any more.

        Args:
            target_fd: Writable; frames of zeros become holes.
            on_progress: Told the bytes done; may raise to stop.
            zeros: Hashes runs of zeros; None: nothing is known of them.

        Raises:
            CorruptDataError: Checksum, digest or length; the target is then partly written.
            NoSpaceError: The target's disk is full.
            StoreError: As `read_range`.
        """
        await self._drain(target_fd, on_progress, zeros)

    async def verify(
        self, on_progress: ByteProgress | None = None, zeros: ZeroRuns | None = None
    ) -> None:
        """Read and check everything; raises `CorruptDataError` as `unpack_to`, writes nothing."""
        await self._drain(None, on_progress, zeros)

    async def reencrypt_to(
        self,
        target_fd: int,
        encryption: Encryption | None,
        on_progress: ByteProgress | None = None,
    ) -> tuple[int, SeekTable]:
        """Append a copy under another key, or under none; returns its length and its table.

        Cancel: safe; the target is partly written, and no thread uses it any more.

        Args:
            target_fd: Writable; not fsynced.
            encryption: Of the copy; None: it is not encrypted.
            on_progress: Told the uncompressed bytes done; may raise to stop.

        Raises:
            CorruptDataError: Names object and frame.
            NoSpaceError: The target's disk is full.
            StoreError: As `read_range`.
        """
        copy = Reencryption(self.table, target_fd, encryption, self._name)

        def take(_index: int, view: memoryview) -> int:
            copy.write(view)
            return copy.done_bytes

        await self._for_each_batch(take, on_progress)
        return await trio.to_thread.run_sync(copy.finish)

    async def _drain(
        self, target_fd: int | None, on_progress: ByteProgress | None, zeros: ZeroRuns | None
    ) -> None:
        with disk_errors(self._name):
            sink = ContentSink(self.table, target_fd, self._name, zeros)
        decoder = _Decoder(self.table, self._codec, self._name)

        def take(index: int, view: memoryview) -> int:
            with disk_errors(self._name):
                sink.write(decoder.decode(index, view))
            return sink.done_bytes

        await self._for_each_batch(take, on_progress)
        await trio.to_thread.run_sync(sink.finish)

    async def _for_each_batch(
        self, take: Callable[[int, memoryview], int], on_progress: ByteProgress | None
    ) -> None:
        """Fetch all stored bytes, some ahead, and hand them over in order, in a worker thread.

        Args:
            take: Takes the next frame, or raises `CorruptDataError` and takes nothing of it;
                returns the uncompressed bytes done.
            on_progress: Told these.
        """
        batches = self._batches()
        fetched: dict[int, bytes | Exception] = {}
        arrived = [trio.Event() for _ in batches]

        async def fetch(index: int) -> None:
            try:
                fetched[index] = await self._read_stored(batches[index])
            except Exception as error:
                fetched[index] = error
            arrived[index].set()

        begun = 0
        failure: Exception | None = None
        with self._slots.take(min(PART_CONCURRENCY, len(batches))) as count:
            async with trio.open_nursery() as nursery:
                for index, frames in enumerate(batches):
                    while begun < min(index + count, len(batches)):
                        nursery.start_soon(fetch, begun)
                        begun += 1
                    await arrived[index].wait()
                    try:
                        # Given away, not to be in memory beside the next one.
                        done_bytes = await self._take_batch(take, frames, fetched.pop(index))
                        if on_progress is not None:
                            on_progress(done_bytes)
                    except Exception as error:
                        # Raised below: the nursery would wrap it.
                        failure = error
                        nursery.cancel_scope.cancel()
                        break
        if failure is not None:
            raise failure

    async def _take_batch(
        self, take: Callable[[int, memoryview], int], frames: range, stored: bytes | Exception
    ) -> int:
        """Hand over the frames of a batch; from the first bad one on they are fetched anew once."""
        taken_count = done_bytes = 0

        def take_all(stored: bytes) -> None:
            nonlocal taken_count, done_bytes
            for index, view in _split(self.table, frames[taken_count:], stored):
                done_bytes = take(index, view)
                taken_count += 1

        try:
            if isinstance(stored, Exception):
                raise stored
            await trio.to_thread.run_sync(take_all, stored)
        except CorruptDataError as error:
            self._forget_tail()
            again = await self._read_stored(frames[taken_count:])
            await trio.to_thread.run_sync(take_all, again)
            _note_bad_answer(error)
        return done_bytes

    def _batches(self) -> list[range]:
        """Return all frames in runs of at most `BATCH_BYTES` stored bytes, or of one frame."""
        batches = []
        offsets, first = self.table.stored_offsets, 0
        for index in range(1, self.table.frame_count + 1):
            if index == self.table.frame_count or offsets[index + 1] - offsets[first] > BATCH_BYTES:
                batches.append(range(first, index))
                first = index
        return batches

    async def _read_stored(self, frames: range) -> bytes:
        start, end = self.table.stored_range(frames)
        if start >= self._tail_start:
            await trio.lowlevel.checkpoint()
            return self._tail[start - self._tail_start : end - self._tail_start]
        stored = await self._read_range(start, end)
        return _whole(stored, end - start, frames, self._name)


def _note_bad_answer(error: CorruptDataError) -> None:
    log.warning("%s; asked again, the answer was right: look at the network and its proxies", error)


def _ended(frame: bytes) -> Future[bytes]:
    future: Future[bytes] = Future()
    future.set_result(frame)
    return future


def _whole(stored: bytes, size: int, frames: range, name: str) -> bytes:
    if len(stored) != size:
        raise CorruptDataError(
            f"{name}: frames {frames[0]} to {frames[-1]} have {len(stored)} instead of {size} "
            "stored bytes: truncated, or the range was ignored"
        )
    return stored


def _split(table: SeekTable, frames: range, stored: bytes) -> list[tuple[int, memoryview]]:
    view, base, offsets = memoryview(stored), table.stored_offsets[frames[0]], table.stored_offsets
    return [(index, view[offsets[index] - base : offsets[index + 1] - base]) for index in frames]


def _decode_range(
    table: SeekTable, codec: Codec, frames: range, stored: bytes, span: tuple[int, int], name: str
) -> bytes:
    """Return uncompressed bytes of `span` (offset, size) from the stored bytes of its frames."""
    offset, size = span
    start = offset - frames[0] * table.frame_bytes
    parts = []
    for index, view in _split(table, frames, stored):
        content = table.decode_frame(codec, index, view, name)
        # Only the first and the last frame are cut, so that the middle is copied once.
        last = offset + size - index * table.frame_bytes
        if start or last < len(content):
            content = content[start:last]
        parts.append(content)
        start = 0
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _deliver(sink: ContentSink, frame: bytes, on_progress: ByteProgress | None) -> None:
    sink.write(frame)
    if on_progress is not None:
        on_progress(sink.done_bytes)
