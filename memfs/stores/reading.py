"""Reading containers: ranges of them, and all of them, from local files and from stores.

`ContainerReader` knows what a container's bytes mean, and reads nothing. There are two ways to the
bytes: a `PackedFile` reads a local file in the caller's thread, a `FrameReader` has the event loop
fetch ranges.

Invariant: every byte that comes out was checked against its frame's checksums, and a whole content
against its digest as well.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import trio

from memfs.codecs.registry import get_codec
from memfs.errors import CorruptDataError
from memfs.stores.container import TAIL_BYTES, SeekTable
from memfs.stores.disk import ByteProgress, disk_errors, open_plain, read_fully
from memfs.stores.envelope import Unlock, parse_table, table_bytes_needed
from memfs.stores.packing import worker_count
from memfs.stores.parts import PART_CONCURRENCY, PartSlots
from memfs.stores.reencrypting import Reencryption
from memfs.stores.store import PART_BYTES
from memfs.stores.unpacking import Unpacking
from memfs.types import ByteRange

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from memfs.stores.envelope import Encryption
    from memfs.stores.zeros import ZeroRuns

log = logging.getLogger(__name__)

RangeReader = Callable[[int, int], Awaitable[bytes]]
"""Returns stored bytes `[start, end)` of one container; fewer only at its end."""

T_co = TypeVar("T_co", covariant=True)

BATCH_BYTES = 8 << 20
"""Stored bytes of one request when a whole object is read; guess: hides a round trip of 50 ms at
150 MB/s, and `PART_CONCURRENCY` of them are in memory at a time, as of other transfers: one that is
decoded, and requests under way."""


class FrameTaker(Protocol[T_co]):
    """Takes all stored frames of a container in order: an `Unpacking`, or a `Reencryption`."""

    def take(self, index: int, stored: memoryview) -> int:
        """Take the next frame; returns the bytes of the content done.

        Raises:
            CorruptDataError: Names file and frame; nothing of it was taken.
        """

    def finish(self) -> T_co:
        """Return what came of all frames."""


class TableSearch:
    """Finds the table of a container from its end: asks for bytes until it has it.

    Args:
        stored_bytes: Length of the container.
        name: The file or object, for messages.
        unlock: Decrypts and tells what blob it is; None: anything in clear will do.
    """

    def __init__(self, stored_bytes: int, name: str, unlock: Unlock | None) -> None:
        self._stored_bytes = stored_bytes
        self._name = name
        self._unlock = unlock
        self.wanted: ByteRange | None = ByteRange(max(0, stored_bytes - TAIL_BYTES), stored_bytes)
        """Stored bytes that `take` is to be given; None: `table` is found."""
        self.tail = b""
        """The last bytes of the container, which have the table."""
        self.table: SeekTable | None = None

    def take(self, data: bytes) -> None:
        """Take the bytes that were wanted; may take a while for a large table.

        Raises:
            CorruptDataError: The table is damaged or the container truncated.
            EncryptionKeyError: The key that decrypts it is not there.
        """
        assert self.wanted is not None
        (start, end), is_first = self.wanted, not self.tail
        if len(data) > end - start:
            raise CorruptDataError(f"{self._name}: more bytes came than were asked for")
        self.tail = data + self.tail
        if is_first:
            # Before the length is looked at: it tells better what is wrong with the end.
            needed = table_bytes_needed(self.tail, self._stored_bytes, self._name)
        if len(data) != end - start:
            raise CorruptDataError(f"{self._name}: ends before byte {self._stored_bytes}")
        if is_first and needed > len(self.tail):
            self.wanted = ByteRange(self._stored_bytes - needed, start)
            return
        self.wanted = None
        self.table = parse_table(self.tail, self._stored_bytes, self._name, self._unlock)


class ContainerReader:
    """What is made of a container's stored bytes, wherever they come from.

    Args:
        name: The file or object, for messages.
        table: Its parsed table.
    """

    def __init__(self, name: str, table: SeekTable) -> None:
        self.table = table
        self._name = name
        self._codec = get_codec(table.codec)

    def _check_length(self, frames: range, stored: bytes) -> bytes:
        """Return the stored bytes of frames, which are all there."""
        start, end = self.table.stored_range(frames)
        if len(stored) != end - start:
            raise CorruptDataError(
                f"{self._name}: frames {frames[0]} to {frames[-1]} have {len(stored)} instead of "
                f"{end - start} stored bytes: truncated, or the range was ignored"
            )
        return stored

    def _split(self, frames: range, stored: bytes) -> list[tuple[int, memoryview]]:
        """Return the stored bytes of each frame with its index."""
        view, offsets = memoryview(stored), self.table.stored_offsets
        base = offsets[frames[0]]
        return [(at, view[offsets[at] - base : offsets[at + 1] - base]) for at in frames]

    def _decode(self, frames: range, stored: bytes, offset: int, size: int) -> bytes:
        """Return uncompressed bytes `[offset, offset + size)` from the stored bytes of frames."""
        table = self.table
        start = offset - frames[0] * table.frame_bytes
        parts = []
        for index, view in self._split(frames, stored):
            content = table.decode_frame(self._codec, index, view, self._name)
            # Only the first and the last frame are cut, so that the middle is copied once.
            last = offset + size - index * table.frame_bytes
            if start or last < len(content):
                content = content[start:last]
            parts.append(content)
            start = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)


class PackedFile(ContainerReader):
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
        self._start = start
        try:
            super().__init__(name, table or self._find_table(name, stored_bytes, unlock))
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, path: Path, table: SeekTable | None = None, unlock: Unlock | None = None) -> Self:
        """Open a container by its path; `ObjectMissingError` if it is not there."""
        with disk_errors(str(path)):
            fd = open_plain(path)
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
        return self._decode(frames, self._read_stored(frames), offset, size) if frames else b""

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
        """Append a copy under another key, or in clear; returns its length and its table.

        Args:
            target_fd: Writable; not fsynced.
            encryption: That of the copy; None: it is not encrypted.
            on_progress: Told the uncompressed bytes done; may raise to stop.

        Raises:
            CorruptDataError: Names file and frame.
            NoSpaceError: The target's disk is full.
        """
        copy = Reencryption(self.table, target_fd, encryption, self._name)
        for index in range(self.table.frame_count):
            done_bytes = copy.take(index, memoryview(self._read_stored(range(index, index + 1))))
            if on_progress is not None:
                on_progress(done_bytes)
        return copy.finish()

    def _drain(
        self, target_fd: int | None, on_progress: ByteProgress | None, zeros: ZeroRuns | None
    ) -> None:
        def tell() -> None:
            if on_progress is not None:
                on_progress(unpacking.done_bytes)

        unpacking = Unpacking(self.table, target_fd, self._name, zeros, tell)

        def decode(index: int) -> bytes:
            stored = self._read_stored(range(index, index + 1))
            return unpacking.decode(index, memoryview(stored))

        def write(frame: bytes) -> None:
            unpacking.write(frame)
            tell()

        threads = min(worker_count(), self.table.frame_count)
        if threads <= 1:
            for index in range(self.table.frame_count):
                write(decode(index))
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="memfs-unpack") as pool:
                self._drain_threads(pool, threads, unpacking, decode, write)
        unpacking.finish()

    def _drain_threads(
        self,
        pool: ThreadPoolExecutor,
        threads: int,
        unpacking: Unpacking,
        decode: Callable[[int], bytes],
        write: Callable[[bytes], None],
    ) -> None:
        """Decode some frames ahead, in threads, and write them in order."""
        waiting: deque[Future[bytes]] = deque()
        try:
            for index in range(self.table.frame_count):
                if unpacking.may_be_zeros(index):
                    # The way to a thread and back costs more than such a frame does.
                    waiting.append(_ended(decode(index)))
                else:
                    waiting.append(pool.submit(decode, index))
                if len(waiting) > 2 * threads:
                    write(waiting.popleft().result())
            while waiting:
                write(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def _find_table(self, name: str, stored_bytes: int | None, unlock: Unlock | None) -> SeekTable:
        with disk_errors(name):
            if stored_bytes is None:
                stored_bytes = os.fstat(self._fd).st_size - self._start
            search = TableSearch(stored_bytes, name, unlock)
            while (wanted := search.wanted) is not None:
                start, end = wanted
                search.take(read_fully(self._fd, end - start, self._start + start))
        assert search.table is not None
        return search.table

    def _read_stored(self, frames: range) -> bytes:
        start, end = self.table.stored_range(frames)
        with disk_errors(self._name):
            stored = read_fully(self._fd, end - start, self._start + start)
        return self._check_length(frames, stored)


class FrameReader(ContainerReader):
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
        slots: Those of the store; None: there is room for as much as a transfer may take.
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
        super().__init__(name, table)
        self._read_range = read_range
        self._tail = tail
        self._tail_start = stored_bytes - len(tail)
        self._slots = slots or PartSlots(PART_CONCURRENCY * PART_BYTES, 1)

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
        search = TableSearch(stored_bytes, name, unlock)
        while search.wanted is not None:
            data = await read_range(*search.wanted)
            await trio.to_thread.run_sync(search.take, data)
        assert search.table is not None
        tail = search.tail[-TAIL_BYTES:]
        return cls(read_range, stored_bytes, name, search.table, tail, slots)

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
        return await trio.to_thread.run_sync(self._decode, frames, stored, offset, size)

    def _forget_tail(self) -> None:
        self._tail_start += len(self._tail)
        self._tail = b""

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
        """Append a copy under another key, or in clear; returns its length and its table.

        Cancel: safe; the target is partly written, and no thread uses it any more.

        Args:
            target_fd: Writable; not fsynced.
            encryption: That of the copy; None: it is not encrypted.
            on_progress: Told the uncompressed bytes done; may raise to stop.

        Raises:
            CorruptDataError: Names object and frame.
            NoSpaceError: The target's disk is full.
            StoreError: As `read_range`.
        """
        copy = Reencryption(self.table, target_fd, encryption, self._name)
        await self._for_each_batch(copy, on_progress)
        return await trio.to_thread.run_sync(copy.finish)

    async def _drain(
        self, target_fd: int | None, on_progress: ByteProgress | None, zeros: ZeroRuns | None
    ) -> None:
        unpacking = Unpacking(
            self.table, target_fd, self._name, zeros, trio.from_thread.check_cancelled
        )
        await self._for_each_batch(unpacking, on_progress)
        await trio.to_thread.run_sync(unpacking.finish)

    async def _for_each_batch(
        self, taker: FrameTaker[object], on_progress: ByteProgress | None
    ) -> None:
        """Fetch all stored bytes, some ahead, and hand them over in order, in a worker thread.

        Args:
            taker: Given all frames.
            on_progress: Told the uncompressed bytes done.
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
                        done_bytes = await self._take_batch(taker, frames, fetched.pop(index))
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
        self, taker: FrameTaker[object], frames: range, stored: bytes | Exception
    ) -> int:
        """Hand over the frames of a batch; from the first bad one on they are fetched anew once."""
        taken_count = done_bytes = 0

        def take_all(stored: bytes) -> None:
            nonlocal taken_count, done_bytes
            for index, view in self._split(frames[taken_count:], stored):
                done_bytes = taker.take(index, view)
                taken_count += 1
                # A batch of holes has thousands of frames.
                trio.from_thread.check_cancelled()

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
        return self._check_length(frames, stored)


def _note_bad_answer(error: CorruptDataError) -> None:
    log.warning("%s; asked again, the answer was right: look at the network and its proxies", error)


def _ended(frame: bytes) -> Future[bytes]:
    future: Future[bytes] = Future()
    future.set_result(frame)
    return future
