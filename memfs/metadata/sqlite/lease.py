"""The id lease: numbers that are never handed out twice, not even after power loss.

Invariant: every number handed out is below the lease's end, which was on stable storage before.
One counter serves inodes, raw files, blobs, dentry cookies, garbage and intents. The file has it
twice, in a sector each: the second is written once the first is on stable storage, so that a torn
write, or one damaged sector, leaves the other. A third sector notes how far the journals were
synced: older copies of these and of `metadata.sums` agree with each other, and with the tables.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import StateDamagedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

LEASE_COUNT = 1 << 16
"""One fsync in some 30,000 creates; guess, never measured."""

FIRST_ID = 16
"""1 is the root and cookies up to 2 are the dots of a directory; the rest is spare."""

FIRST_READER_ID = 1 << 46
"""Numbers that a node hands out which reads a shared mount, as those of raw files, begin here: the
writer's are lower. Raw files keep theirs where it writes later."""

_SLOT = struct.Struct("<QQQI")
"""Turn (the higher of two valid slots counts), start, end, 1 if closed cleanly; then CRC-32."""
_CHECKSUM = struct.Struct("<I")
_SLOT_BYTES = 512  # a sector, the unit that a disk writes whole
_NOTE = struct.Struct("<Q")
"""Sequence up to which the journals were synced; then CRC-32."""
_NOTE_OFFSET = 2 * _SLOT_BYTES


class Found(NamedTuple):
    """What the file said before this process changed it."""

    turn: int
    next_id: int
    """All numbers that were ever handed out are below."""
    synced_sequence: int
    """So far the journals were synced at least; 0: it is not known, as of an older memfs."""


class IdLease:
    """Hands out numbers from a range that is stored ahead of use."""

    def __init__(self, path: Path, count: int = LEASE_COUNT) -> None:
        """Open the lease file of an existing state directory; `begin` takes a fresh range.

        Args:
            path: That of the file.
            count: Numbers that a durable write buys.

        Raises:
            StateDamagedError: The file is missing or damaged.
            UsageError: It is in use by another process.
            OSError: It cannot be read or written.
        """
        self._count = count
        try:
            self._fd = open_regular(path, os.O_RDWR)
        except FileNotFoundError:
            raise StateDamagedError(f"{path} is missing", str(path.parent)) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._turn, start, end, clean = self._read(path)
            self.found = Found(self._turn, start if clean else end, self._read_note())
            self._next = start if clean else end
            self.unrecorded = (start, start) if clean else (start, end)
            """Numbers `[start, end)` that a killed process may have used without record."""
            self._recovered = bool(clean)
            self._start, self._end = start, self._next + count
            self._previous_end = self._next
            self._held: int | None = None
        except BlockingIOError:
            os.close(self._fd)
            raise UsageError(
                f"{path.parent} is in use by another process", ExitCode.STATE_IN_USE
            ) from None
        except BaseException:
            os.close(self._fd)
            raise

    def begin(self, synced_sequence: int) -> None:
        """Make the fresh range durable; nothing was changed before.

        Args:
            synced_sequence: That of the journals from here on: a repair begins with lower numbers
                than were noted before.
        """
        self.note_synced(synced_sequence)
        self._write(clean=False)

    def note_synced(self, sequence: int) -> None:
        """Note how far the journals were synced. One thread at a time may call it.

        Not durable by itself: a note that is lost claims less than there is.

        Raises:
            OSError: The disk refuses.
        """
        if self._fd >= 0:
            note = _NOTE.pack(sequence)
            os.pwrite(self._fd, note + _CHECKSUM.pack(zlib.crc32(note)), _NOTE_OFFSET)

    @staticmethod
    def format(path: Path, first: int = FIRST_ID, turn: int = 0) -> None:
        """Create the lease file of a new state directory, or of one that lost it.

        Args:
            first: The first number that was never handed out.
            turn: Beyond all that the journals have seen.
        """
        slot = _SLOT.pack(turn, first, first, 1)
        sector = (slot + _CHECKSUM.pack(zlib.crc32(slot))).ljust(_SLOT_BYTES, b"\0")
        with open(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(2 * sector)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> tuple[int, int, int, int]:
        slots: list[tuple[int, int, int, int]] = []
        for offset in (0, _SLOT_BYTES):
            data = os.pread(self._fd, _SLOT.size + _CHECKSUM.size, offset)
            if len(data) == _SLOT.size + _CHECKSUM.size:
                (checksum,) = _CHECKSUM.unpack_from(data, _SLOT.size)
                if checksum == zlib.crc32(data[: _SLOT.size]):
                    slots.append(_SLOT.unpack_from(data))
        if not slots:
            raise StateDamagedError(f"{path} is damaged", str(path.parent))
        return max(slots)

    def _read_note(self) -> int:
        data = os.pread(self._fd, _NOTE.size + _CHECKSUM.size, _NOTE_OFFSET)
        note, checksum = data[: _NOTE.size], data[_NOTE.size :]
        if len(data) < _NOTE.size + _CHECKSUM.size or checksum != _CHECKSUM.pack(zlib.crc32(note)):
            return 0
        sequence: int = _NOTE.unpack(note)[0]
        return sequence

    def _write(self, *, clean: bool) -> None:
        # In place and in turn: it needs no room on a full disk, and a torn write leaves the other.
        self._turn += 1
        slot = _SLOT.pack(self._turn, self._next if clean else self._start, self._end, int(clean))
        for turn in (self._turn, self._turn + 1):
            os.pwrite(self._fd, slot + _CHECKSUM.pack(zlib.crc32(slot)), _SLOT_BYTES * (turn % 2))
            os.fdatasync(self._fd)

    @property
    def turn(self) -> int:
        """Grows with each write of the file: an older copy has a lower one."""
        return self._turn

    @property
    def is_spent(self) -> bool:
        """True if the next number needs `renew` before."""
        return self._next >= self._end

    @property
    def next_id(self) -> int:
        """The number that `take` returns next: all in use are below."""
        return self._next

    def renew(self) -> None:
        """Take the next range; blocks for one fsync.

        What the range before the last one was used for must be durable by now, but for what is
        held: the numbers that are looked at after a crash shrink to the last range and this one.
        """
        self._start, self._previous_end = self._previous_end, self._end
        if self._held is not None:
            self._start = min(self._start, self._held)
        self._end += self._count
        self._write(clean=False)

    def restart(self, first: int) -> None:
        """Hand out the numbers from `first` on, which may be lower; blocks for an fsync.

        What is `unrecorded` stays so for this process; after a crash only the new numbers are
        looked at.
        """
        self._start = self._next = self._previous_end = first
        self._end = first + self._count
        self._held = None
        self._write(clean=False)

    def hold(self, oldest: int) -> None:
        """Have the numbers from `oldest` on looked at after a crash, however many follow."""
        self._held = oldest

    def take(self) -> int:
        """Return the next number; the caller has seen to `is_spent`."""
        number = self._next
        assert number < self._end
        self._next = number + 1
        return number

    def note_recovered(self) -> None:
        """Note that `unrecorded` was looked through: only then can a close be a clean one."""
        self._recovered = True

    def close(self, *, clean: bool) -> None:
        """Close; `clean`: all that this process used numbers for is recorded. Idempotent."""
        if self._fd < 0:
            return
        fd = self._fd
        try:
            if clean and self._recovered:
                self._write(clean=True)
        finally:
            self._fd = -1
            os.close(fd)
