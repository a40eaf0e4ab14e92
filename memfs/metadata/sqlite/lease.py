"""The id lease: numbers that are never handed out twice, not even after power loss.

Invariant: every number handed out is below the lease's end, which was on stable storage before.
One counter serves inodes, raw files, blobs, dentry cookies, garbage and intents.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from typing import TYPE_CHECKING

from memfs.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

LEASE_COUNT = 1 << 16
"""Numbers a durable write buys: one fsync in some 30,000 creates; guess, never measured."""

FIRST_ID = 16
"""1 is the root and cookies up to 2 are the dots of a directory; the rest is spare."""

_SLOT = struct.Struct("<QQQI")
"""Turn (the higher of two valid slots counts), start, end, 1 if closed cleanly; then CRC-32."""
_CHECKSUM = struct.Struct("<I")
_SLOT_BYTES = 512  # a sector, the unit that a disk writes whole


class IdLease:
    """Hands out numbers from a range that is stored ahead of use."""

    def __init__(self, path: Path) -> None:
        """Open the lease file of an existing state directory and take a fresh range.

        Raises:
            UsageError: The file is missing, damaged, or in use by another process.
            OSError: It cannot be read or written.
        """
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UsageError(f"{path} is missing: restore it from a backup") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._turn, start, end, clean = self._read(path)
            self._next = start if clean else end
            self.unsettled = (start, start) if clean else (start, end)
            """Numbers `[start, end)` that a killed process may have used without record."""
            self._settled = bool(clean)
            self._start, self._end = start, self._next + LEASE_COUNT
            self._previous_end = self._next
            self._held: int | None = None
            self._write(clean=False)
        except BlockingIOError:
            os.close(self._fd)
            raise UsageError(f"{path.parent} is in use by another process") from None
        except BaseException:
            os.close(self._fd)
            raise

    @staticmethod
    def format(path: Path) -> None:
        """Create the lease file of a new state directory."""
        slot = _SLOT.pack(0, FIRST_ID, FIRST_ID, 1)
        path.touch(mode=0o600)
        with path.open("wb") as file:
            file.write((slot + _CHECKSUM.pack(zlib.crc32(slot))).ljust(2 * _SLOT_BYTES, b"\0"))
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
            raise UsageError(f"{path} is damaged: restore it from a backup")
        return max(slots)

    def _write(self, *, clean: bool) -> None:
        # In place and in turn: it needs no room on a full disk, and a torn write leaves the other.
        self._turn += 1
        slot = _SLOT.pack(self._turn, self._next if clean else self._start, self._end, int(clean))
        offset = _SLOT_BYTES * (self._turn % 2)
        os.pwrite(self._fd, slot + _CHECKSUM.pack(zlib.crc32(slot)), offset)
        os.fdatasync(self._fd)

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
        self._end += LEASE_COUNT
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

    def settle(self) -> None:
        """Note that `unsettled` was looked through: only then can a close be a clean one."""
        self._settled = True

    def close(self, *, clean: bool) -> None:
        """Close; `clean`: all that this process used numbers for is recorded. Idempotent."""
        if self._fd < 0:
            return
        fd = self._fd
        try:
            if clean and self._settled:
                self._write(clean=True)
        finally:
            self._fd = -1
            os.close(fd)
