"""The redo journal: one preallocated file of checksummed entries, appended by single writes.

Invariant: the entries of a file are consecutive in sequence; reading stops at the first one that
is torn, stale or out of sequence, so what is read is always a prefix of what was appended.

    0     header: what this journal is, and where it comes from; one sector, written at once
    512   two notes in turn: which journal follows this one, and how far that was synced
    1536  entries, each at a multiple of 16 bytes

The header is one of the first layout (number 1) whose only entry tells what the second one adds:
a version of memfs that knows only the first meets an entry of statements that it does not know,
and refuses it, where it would otherwise take the file for empty.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from memfs.linux.files import open_regular
from memfs.types import STATE_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = b"memfsjnl"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQI")
"""Magic, version, fingerprint, first sequence, salt; followed by the CRC-32 of these."""
_CHECKSUM = struct.Struct("<I")

_FIRST_ENTRY = struct.Struct("<QI")
"""First layout: sequence and payload length; then their CRC-32 with the payload, from the salt."""
_ENTRY = struct.Struct("<QQI")
"""Sequence, sequence that was synced by then, payload length; then the CRC-32 as above."""

_ORIGIN_MAGIC = b"memfsjn2"
_ORIGIN = struct.Struct("<8s16s16sIQQ")
"""Magic, then the fields of `Origin`."""

_NOTE = struct.Struct("<QIQ")
"""Turn (the higher of two valid ones counts), salt of the next journal, synced sequence; CRC-32."""
_NOTE_OFFSETS = (512, 1024)  # a sector each, the unit that a disk writes whole

_FIRST_ENTRIES_OFFSET = _HEADER.size + _CHECKSUM.size
_ENTRIES_OFFSET = 1536
_ALIGNMENT_BYTES = 16

BOOT_BYTES = 16


class Origin(NamedTuple):
    """Where a journal comes from; written once, with its first byte."""

    state_id: bytes
    """That of the state directory, 16 bytes."""
    boot: bytes
    """Run of the kernel in which it was begun, 16 bytes."""
    predecessor: int
    """Salt of the journal before."""
    synced_sequence: int
    """All entries up to here were on stable storage before it was begun."""
    lease_turn: int
    """That of the id lease at that time; see `IdLease.turn`."""


NO_ORIGIN = Origin(bytes(STATE_ID_BYTES), bytes(BOOT_BYTES), 0, 0, 0)


class Extent(NamedTuple):
    """How far the entries of a journal reach, and what lies behind."""

    last_sequence: int
    """That of the last entry that can be read."""
    synced_sequence: int
    """The highest that any entry, note or header of the file calls synced."""
    behind_count: int
    """Valid entries of this very journal behind the first that cannot be read."""


class Journal:
    """One journal file; used, retired and used again for ever.

    `append` and `start` belong to the event loop's thread; `sync` may run in any.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open a journal file and read what it is; changes nothing in an existing one.

        Args:
            create: Make it if it is missing.

        Raises:
            OSError: The file cannot be opened; FileNotFoundError if it is missing.
        """
        self.path = path
        self._fd = open_regular(path, os.O_RDWR | (os.O_CREAT if create else 0))
        self.fingerprint = 0
        self.first_sequence = 0
        """Sequence that the header itself takes, entries follow; 0: there is no valid header."""
        self.salt = 0
        self.origin: Origin | None = None
        """None in a file of the first layout, or one that is damaged."""
        self.successor = 0
        """Salt of the journal that was begun after this one; 0: not noted."""
        self.noted_sequence = 0
        """Sequence up to which `successor` was synced."""
        self.end_offset = _ENTRIES_OFFSET
        """Where the next entry goes, bytes; only right after `start`."""
        self._next_sequence = 0
        self._note_turn = 0
        try:
            self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def _read_header(self) -> None:
        header = os.pread(self._fd, _ENTRIES_OFFSET, 0)
        if len(header) < _FIRST_ENTRIES_OFFSET:
            return
        header = header.ljust(_ENTRIES_OFFSET, b"\0")
        magic, version, fingerprint, first_sequence, salt = _HEADER.unpack_from(header)
        (checksum,) = _CHECKSUM.unpack_from(header, _HEADER.size)
        if (magic, version, checksum) != (_MAGIC, _VERSION, zlib.crc32(header[: _HEADER.size])):
            return
        self.fingerprint, self.first_sequence, self.salt = fingerprint, first_sequence, salt
        self._next_sequence = first_sequence + 1
        overhead = _FIRST_ENTRY.size + _CHECKSUM.size
        start = _FIRST_ENTRIES_OFFSET
        payload = header[start + overhead : start + overhead + _ORIGIN.size]
        if header[start : start + overhead] != _pack_first(first_sequence, payload, salt):
            return
        magic, *fields = _ORIGIN.unpack(payload)
        if magic != _ORIGIN_MAGIC:
            return
        self.origin = Origin(*fields)
        for offset in _NOTE_OFFSETS:
            note = header[offset : offset + _NOTE.size]
            (checksum,) = _CHECKSUM.unpack_from(header, offset + _NOTE.size)
            turn, successor, sequence = _NOTE.unpack(note)
            if turn > self._note_turn and checksum == zlib.crc32(note, salt):
                self._note_turn = turn
                self.successor, self.noted_sequence = successor, sequence

    def allocate(self, size_bytes: int) -> None:
        """Give the file room that entries have even when the disk is full.

        Raises:
            OSError: The disk has no such room.
        """
        os.posix_fallocate(self._fd, 0, size_bytes)

    def trim(self) -> None:
        """Give the disk what is allocated behind the last entry."""
        ends = [end for *_fields, end in self._walk(self._read_all())]
        os.ftruncate(self._fd, max([_ENTRIES_OFFSET, *ends[-1:]]))

    def start(self, first_sequence: int, fingerprint: int, origin: Origin = NO_ORIGIN) -> None:
        """Forget all entries; the header takes `first_sequence` and the next entry the one after.

        A fresh salt makes the entries left in the reused blocks unreadable for good.
        """
        salt = secrets.randbits(32) or 1
        header = _HEADER.pack(_MAGIC, _VERSION, fingerprint, first_sequence, salt)
        payload = _ORIGIN.pack(_ORIGIN_MAGIC, *origin)
        entry = _pack_first(first_sequence, payload, salt) + payload
        self._write(header + _CHECKSUM.pack(zlib.crc32(header)) + entry, 0)
        self.fingerprint, self.first_sequence, self.salt = fingerprint, first_sequence, salt
        self.origin = origin
        self.successor, self.noted_sequence, self._note_turn = 0, 0, 0
        self._next_sequence = first_sequence + 1
        self.end_offset = _ENTRIES_OFFSET

    def note(self, successor: int, synced_sequence: int) -> None:
        """Note in this journal, whose turn is over, how far the one after it was synced.

        Not durable by itself: a note that is lost claims less than there is.

        Args:
            successor: Salt of the next journal once its header is on stable storage, else 0.
            synced_sequence: On stable storage by now.
        """
        self._note_turn += 1
        note = _NOTE.pack(self._note_turn, successor, synced_sequence)
        checksum = _CHECKSUM.pack(zlib.crc32(note, self.salt))
        self._write(note + checksum, _NOTE_OFFSETS[self._note_turn % 2])
        self.successor, self.noted_sequence = successor, synced_sequence

    @property
    def size_bytes(self) -> int:
        """Bytes of entries since `start`."""
        return self.end_offset - _ENTRIES_OFFSET

    @property
    def next_sequence(self) -> int:
        """Sequence of the next entry."""
        return self._next_sequence

    def append(self, payload: bytes, synced_sequence: int = 0) -> None:
        """Add one entry; after an OSError the journal is as before.

        Args:
            payload: That of the entry.
            synced_sequence: What is on stable storage by now.
        """
        prefix = _ENTRY.pack(self._next_sequence, synced_sequence, len(payload))
        checksum = zlib.crc32(payload, zlib.crc32(prefix, self.salt))
        entry = prefix + _CHECKSUM.pack(checksum) + payload
        self._write(entry, self.end_offset)
        self.end_offset += _aligned(len(entry))
        self._next_sequence += 1

    def _write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], offset + written)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of each whole entry, in order."""
        data = self._read_all()
        for sequence, _synced, start, end in self._walk(data):
            yield sequence, data[start:end]

    def extent(self) -> Extent:
        """Return how far the entries reach, and look for what lies behind their end."""
        data = self._read_all()
        last, synced = self._before_first_entry, self.noted_sequence
        if self.origin is not None:
            synced = max(synced, self.origin.synced_sequence)
        stop = self._entries_offset
        for sequence, claim, _start, end in self._walk(data):
            last, synced = sequence, max(synced, claim)
            stop = end if self.origin is None else _aligned(end)
        behind_count = 0
        for _sequence, claim, _start, _end in self._behind(data, stop, last):
            behind_count += 1
            synced = max(synced, claim)
        return Extent(last, synced, behind_count)

    def behind(self) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of the entries of this journal behind the first broken one."""
        data = self._read_all()
        last, stop = self._before_first_entry, self._entries_offset
        for sequence, _claim, _start, end in self._walk(data):
            last = sequence
            stop = end if self.origin is None else _aligned(end)
        for sequence, _claim, start, end in self._behind(data, stop, last):
            yield sequence, data[start:end]

    @property
    def _entries_offset(self) -> int:
        return _FIRST_ENTRIES_OFFSET if self.origin is None else _ENTRIES_OFFSET

    @property
    def _before_first_entry(self) -> int:
        """Sequence before the first entry: in the first layout the header takes no number."""
        return self.first_sequence - 1 if self.origin is None else self.first_sequence

    def _read_all(self) -> bytes:
        if self.first_sequence == 0:
            return b""
        size = os.fstat(self._fd).st_size
        parts = []
        offset = 0
        while offset < size and (part := os.pread(self._fd, size - offset, offset)):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _walk(self, data: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Yield (sequence, synced, start and end of the payload) of each whole entry, in order."""
        if self.first_sequence == 0:
            return
        offset, expected = self._entries_offset, self._before_first_entry + 1
        while (found := self._entry_at(data, offset)) is not None and found[0] == expected:
            yield found
            offset = found[3] if self.origin is None else _aligned(found[3])
            expected += 1

    def _entry_at(self, data: bytes, offset: int) -> tuple[int, int, int, int] | None:
        form = _FIRST_ENTRY if self.origin is None else _ENTRY
        start = offset + form.size + _CHECKSUM.size
        if start > len(data):
            return None
        fields = form.unpack_from(data, offset)
        sequence, length = fields[0], fields[-1]
        if start + length > len(data):
            return None
        (checksum,) = _CHECKSUM.unpack_from(data, offset + form.size)
        prefix_sum = zlib.crc32(data[offset : offset + form.size], self.salt)
        if checksum != zlib.crc32(data[start : start + length], prefix_sum):
            return None
        return sequence, fields[1] if len(fields) == 3 else 0, start, start + length

    def _behind(self, data: bytes, stop: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield valid entries beyond the end of the readable ones, as `_walk` does."""
        step = 1 if self.origin is None else _ALIGNMENT_BYTES
        end = len(data.rstrip(b"\0"))
        highest = last + (len(data) - stop) // _FIRST_ENTRY.size
        offset = stop
        while offset < end:
            sequence = int.from_bytes(data[offset : offset + 8], "little")
            if last < sequence <= highest and (found := self._entry_at(data, offset)) is not None:
                yield found
                offset = found[3] if self.origin is None else _aligned(found[3])
            else:
                offset += step

    def sync(self) -> None:
        """Make all entries survive power loss. Blocks."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; its entries stay."""
        os.close(self._fd)


def _pack_first(sequence: int, payload: bytes, salt: int) -> bytes:
    """Return what precedes the payload of an entry of the first layout."""
    prefix = _FIRST_ENTRY.pack(sequence, len(payload))
    return prefix + _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(prefix, salt)))


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
