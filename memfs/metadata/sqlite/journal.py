"""The redo journal: one preallocated file of checksummed entries, appended by single writes.

Invariant: the entries of a file are consecutive in sequence; reading stops at the first one that
is torn, stale or out of sequence, so what is read is always a prefix of what was appended.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = b"memfsjnl"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQI")
"""Magic, version, fingerprint, first sequence, salt; followed by the CRC-32 of these."""
_ENTRY = struct.Struct("<QI")
"""Sequence and payload length; followed by their CRC-32 with the payload, seeded by the salt."""
_CHECKSUM = struct.Struct("<I")

_ENTRIES_OFFSET = _HEADER.size + _CHECKSUM.size


class Journal:
    """One journal file; used, retired and used again for ever.

    `append` and `start` belong to the event loop's thread; `sync` may run in any.
    """

    def __init__(self, path: Path, allocated_bytes: int) -> None:
        """Open a journal file, creating and preallocating it if need be.

        Args:
            path: The file.
            allocated_bytes: Room that entries have even when the disk is full.

        Raises:
            OSError: The file cannot be opened or allocated.
        """
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.fingerprint = 0
        self.first_sequence = 0
        """Sequence of the first entry; 0 while the file holds none that counts."""
        self.end_offset = _ENTRIES_OFFSET
        """Where the next entry goes, bytes; only right after `start`."""
        self._next_sequence = 0
        self._salt = 0
        try:
            os.posix_fallocate(self._fd, 0, allocated_bytes)
            self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def _read_header(self) -> None:
        header = os.pread(self._fd, _ENTRIES_OFFSET, 0)
        if len(header) < _ENTRIES_OFFSET:
            return
        magic, version, fingerprint, first_sequence, salt = _HEADER.unpack_from(header)
        (checksum,) = _CHECKSUM.unpack_from(header, _HEADER.size)
        if (magic, version, checksum) == (_MAGIC, _VERSION, zlib.crc32(header[: _HEADER.size])):
            self.fingerprint, self.first_sequence, self._salt = fingerprint, first_sequence, salt

    def start(self, first_sequence: int, fingerprint: int) -> None:
        """Forget all entries; the next one gets `first_sequence`.

        A fresh salt makes the entries left in the reused blocks unreadable for good.
        """
        salt = secrets.randbits(32)
        header = _HEADER.pack(_MAGIC, _VERSION, fingerprint, first_sequence, salt)
        self._write(header + _CHECKSUM.pack(zlib.crc32(header)), 0)
        self.fingerprint, self.first_sequence, self._salt = fingerprint, first_sequence, salt
        self._next_sequence = first_sequence
        self.end_offset = _ENTRIES_OFFSET

    @property
    def size_bytes(self) -> int:
        """Bytes of entries since `start`."""
        return self.end_offset - _ENTRIES_OFFSET

    @property
    def next_sequence(self) -> int:
        """Sequence of the next entry."""
        return self._next_sequence

    def append(self, payload: bytes) -> None:
        """Add one entry; after an OSError the journal is as before."""
        prefix = _ENTRY.pack(self._next_sequence, len(payload))
        checksum = zlib.crc32(payload, zlib.crc32(prefix, self._salt))
        entry = prefix + _CHECKSUM.pack(checksum) + payload
        self._write(entry, self.end_offset)
        self.end_offset += len(entry)
        self._next_sequence += 1

    def _write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], offset + written)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of each whole entry, in order."""
        if self.first_sequence == 0:
            return
        overhead = _ENTRY.size + _CHECKSUM.size
        offset, expected = _ENTRIES_OFFSET, self.first_sequence
        file_bytes = os.fstat(self._fd).st_size
        while offset + overhead <= file_bytes:
            prefix = os.pread(self._fd, overhead, offset)
            sequence, length = _ENTRY.unpack_from(prefix)
            if sequence != expected or offset + overhead + length > file_bytes:
                return
            payload = os.pread(self._fd, length, offset + overhead)
            (checksum,) = _CHECKSUM.unpack_from(prefix, _ENTRY.size)
            if checksum != zlib.crc32(payload, zlib.crc32(prefix[: _ENTRY.size], self._salt)):
                return
            yield sequence, payload
            offset, expected = offset + overhead + length, expected + 1

    def sync(self) -> None:
        """Make all entries survive power loss. Blocks."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; its entries stay."""
        os.close(self._fd)
