"""Unpacking: the content that the stored frames of a container stand for, checked and in order.

Invariant: a frame is written only after it was checked; a content counts as whole only with its
digest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import blake3

from memfs.codecs.registry import get_codec
from memfs.errors import CorruptDataError, OtherContentError
from memfs.stores.disk import disk_errors
from memfs.stores.packing import worker_count
from memfs.stores.zeros import ZeroRuns

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.stores.container import SeekTable


class Unpacking:
    """Takes all stored frames of a container: checks the digest and writes the file, holes kept.

    Frames of zeros are decoded once, however many there are: one is known by its encoded bytes,
    and by its checksum in the table.

    Args:
        table: That of the container that the frames come from.
        target_fd: Writable file, emptied first; None only checks. Not fsynced.
        name: The file or object, for messages.
        zeros: Hashes runs of zeros; None: nothing is known of them.
        on_step: Called at least every 4 MiB of zeros that are hashed; may raise to stop.

    Raises:
        NoSpaceError: The target's disk is full; also later.
    """

    def __init__(
        self,
        table: SeekTable,
        target_fd: int | None,
        name: str,
        zeros: ZeroRuns | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        self._table = table
        self._codec = get_codec(table.codec)
        self._target_fd = target_fd
        self._name = name
        self._hasher = blake3.blake3(max_threads=worker_count())
        self._zero_runs = zeros or ZeroRuns()
        self._on_step = on_step
        self._pending_zero_bytes = 0
        self._zeros = bytes(min(table.frame_bytes, table.size))
        self._zero_frame: tuple[bytes, int] | None = None
        """Encoded bytes, and the checksum of the content, of a whole frame of zeros."""
        self.done_bytes = 0
        if target_fd is not None:
            with disk_errors(name):
                os.ftruncate(target_fd, 0)
                os.ftruncate(target_fd, table.size)

    def take(self, index: int, stored: memoryview) -> int:
        """Take the next frame as it is stored; returns the bytes of the content done.

        Raises:
            CorruptDataError: Names file and frame; nothing of it was taken.
        """
        self.write(self.decode(index, stored))
        return self.done_bytes

    def decode(self, index: int, stored: memoryview) -> bytes:
        """Return one frame's content; see `SeekTable.decode_frame`. Safe for threads."""
        if self.may_be_zeros(index) and self._is_zeros(index, stored):
            return self._zeros
        table = self._table
        content = table.decode_frame(self._codec, index, stored, self._name)
        is_whole = table.frame_size(index) == table.frame_bytes
        if self._zero_frame is None and is_whole and content == self._zeros:
            encoded = bytes(table.decrypt_frame(index, stored))
            self._zero_frame = encoded, table.content_checksums[index]
        return content

    def may_be_zeros(self, index: int) -> bool:
        """Return whether a frame has the length and checksum of a known one of zeros."""
        table, known = self._table, self._zero_frame
        if known is None or table.content_checksums[index] != known[1]:
            return False
        overhead = table.cipher.overhead_bytes if table.cipher is not None else 0
        length = table.stored_offsets[index + 1] - table.stored_offsets[index] - overhead
        return length == len(known[0]) and table.frame_size(index) == table.frame_bytes

    def _is_zeros(self, index: int, stored: memoryview) -> bool:
        assert self._zero_frame is not None
        try:
            return self._table.decrypt_frame(index, stored) == self._zero_frame[0]
        except CorruptDataError:
            # Told with the frame's name when it is decoded.
            return False

    def write(self, frame: bytes) -> None:
        """Take the content of the next frame."""
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
            with disk_errors(self._name):
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
            self._hasher = self._zero_runs.update(
                self._hasher, self._pending_zero_bytes, self._on_step
            )
            self._pending_zero_bytes = 0
