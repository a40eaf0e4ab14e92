"""Page sums: a checksum for each page of the database file, which SQLite itself does not keep.

Without them a flipped bit in a row, or an older copy of the file, is served without a word. Pages
reach the file by way of the write-ahead log alone, so the checkpoint thread reads what came into
the log, once that is on stable storage and before SQLite copies it:

1. The log is fsynced. *Power lost*: the sums know nothing of the new frames, nor does the file.
2. `note_log` puts the sums of the new pages into `metadata.sums`, and how much of the log they
   cover; without an fsync. *Power lost from here on*: any part of that may be on the disk. Pages
   that the log has, covered or not, are not compared with the file.
3. SQLite copies the pages. *Power lost*: the log still has them, and is checked where it is
covered.
4. A long log starts over only after all of it was covered and copied, and `note_copied` has told
   so, durably. *Power lost*: the log is whole, or it was cut and its first page may be missing.

The file also has a note of how far the journals were synced. The journals have the same note, but
older copies of both of them agree with each other, and with the tables as well.

Invariant: a page of the file that the log does not have is as its sum says, if it has one. What
was covered of a log is as it was, until the log starts over.

Source: https://www.sqlite.org/walformat.html (header, frames, and the index's `mxFrame`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import threading
import zlib
from array import array
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from memfs.linux.files import open_regular, read_regular

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

FILE_NAME = "metadata.sums"

_SLOT = struct.Struct("<8s16sQIIIIIQQ")
"""Magic, state id, turn, flags, page size, and the fields of `Covered`; followed by the CRC-32."""
_MAGIC = b"memfsum1"
_CLOSED, _COPIED = 1, 2
_SLOT_OFFSETS = (0, 512)
_NOTE = struct.Struct("<Q")
"""Sequence that was synced (the higher of two valid notes counts); CRC-32, from the state id's."""
_NOTE_OFFSETS = (1024, 1536)
_SUMS_OFFSET = 4096
_SUM_BYTES = 8
_BLOCK_COUNT = 512
"""Sums that are written together: a block of the disk."""
_READ_BYTES = 1 << 20

_LOG_HEADER = struct.Struct(">IIIIIIII")
_FRAME_HEADER_BYTES = 24
_INDEX_HEADER = struct.Struct("=16xI12x8s")
"""The first 40 bytes of the `-shm` file: the last valid frame, and the salts as in the log."""


class Covered(NamedTuple):
    """How much of which log is in the sums, and which journal was in use."""

    salts: tuple[int, int] = (0, 0)
    """Those of the log; SQLite adds 1 to the first one when the log starts over."""
    frame_count: int = 0
    log_sum: int = 0
    """xxh3 of the log's header and these frames."""
    journal_sequence: int = 0
    """First sequence of the journal in use, whose header is on stable storage."""


class PageSums:
    """The sums of one database; used by one thread at a time, but for `note_synced`."""

    def __init__(self, database_path: Path, state_id: bytes) -> None:
        self._database_path = database_path
        self._log_path = database_path.with_name(database_path.name + "-wal")
        self._index_path = database_path.with_name(database_path.name + "-shm")
        self.path = database_path.with_name(FILE_NAME)
        self._state_id = state_id
        self._fd = -1
        self._held: dict[Path, int] = {}
        """Files of SQLite's that were opened beside it, by path."""
        self._turn = 0
        self._closed = False
        self._copied = False
        """The file has all of the log that is covered: it may have been cut since."""
        self._log_is_new = False
        self._page_bytes = 0
        self._sums = array("Q")
        self._log_hash = xxhash.xxh3_64()
        self._note_count = 0
        self._lock = threading.Lock()
        """Held while notes are written, and while the file is closed."""
        self.covered = Covered()
        self.known = False
        """False: there are no sums that can be trusted; `begin` makes them from what is there."""
        self.synced_sequence = 0
        """All entries of the journals up to here were synced, as the file said when opened."""
        self._load()

    # --- opening ---------------------------------------------------------------------------------
    def _load(self) -> None:
        try:
            data = read_regular(self.path)
        except FileNotFoundError:
            return
        for offset in _SLOT_OFFSETS:
            slot = data[offset : offset + _SLOT.size]
            end = offset + _SLOT.size
            if len(slot) < _SLOT.size or data[end : end + 4] != _checksum(slot):
                continue
            magic, state_id, turn, flags, page_bytes, first, second, *rest = _SLOT.unpack(slot)
            if magic == _MAGIC and state_id == self._state_id and turn > self._turn:
                self._turn, self._page_bytes = turn, page_bytes
                self._closed, self._copied = bool(flags & _CLOSED), bool(flags & _COPIED)
                self.covered = Covered((first, second), *rest)
                self.known = True
        for offset in _NOTE_OFFSETS:
            note, end = data[offset : offset + _NOTE.size], offset + _NOTE.size
            if len(note) == _NOTE.size and data[end : end + 4] == self._sum_note(note):
                self.synced_sequence = max(self.synced_sequence, *_NOTE.unpack(note))
        sums = data[_SUMS_OFFSET:]
        self._sums.frombytes(sums[: len(sums) // _SUM_BYTES * _SUM_BYTES])

    def _sum_note(self, note: bytes) -> bytes:
        return zlib.crc32(note, zlib.crc32(self._state_id)).to_bytes(4, "little")

    def forget(self) -> None:
        """Trust nothing of the sums: what wrote the database last did not keep them."""
        self.known = False

    def find_damage(self) -> str | None:
        """Compare the closed database with its sums; returns what differs, a phrase.

        Reads all of it. SQLite has not opened it yet, since it would already act on a damaged log.
        """
        if not self.known:
            return None
        logged = self._logged_pages()
        if isinstance(logged, str):
            return logged
        size = self._page_bytes
        number = 0
        with open(open_regular(self._database_path, os.O_RDONLY), "rb", 0) as file:
            while chunk := file.read(_READ_BYTES // size * size):
                for offset in range(0, len(chunk), size):
                    number += 1
                    if self._differs(number, chunk[offset : offset + size], logged):
                        return f"{self._database_path} is damaged, or an older copy: page {number}"
        missing = range(number, len(self._sums))
        if any(self._sums[index] and index + 1 not in logged for index in missing):
            return f"{self._database_path} is cut: page {number + 1} is missing"
        return None

    def _differs(self, number: int, page: bytes, logged: set[int]) -> bool:
        wanted = self._sums[number - 1] if number <= len(self._sums) else 0
        return bool(wanted) and wanted != _page_sum(page) and number not in logged

    def _logged_pages(self) -> set[int] | str:
        """Return the pages of the covered part of the log, or what is wrong with it, a phrase."""
        try:
            fd = open_regular(self._log_path, os.O_RDONLY)
        except FileNotFoundError:
            self._log_is_new = True
            return set()
        try:
            header = os.pread(fd, _LOG_HEADER.size, 0)
            if not header:
                self._log_is_new = True
                return set()
            if self._closed:
                return f"{self._log_path} does not belong here: the database was closed without one"
            covered = self.covered
            if covered.salts == (0, 0):
                return self._pages_of_frames(fd, header[16:24])
            salts = _LOG_HEADER.unpack(header)[4:6] if len(header) == _LOG_HEADER.size else (0, 0)
            if salts[0] == (covered.salts[0] + 1) & 0xFFFFFFFF:
                # It has started over since, and the file has all of the former one.
                return self._pages_of_frames(fd, header[16:24])
            if self._copied and not any(header):
                # It was cut, and power loss has taken the first page that was written then.
                return set()
            end = _LOG_HEADER.size + covered.frame_count * self._frame_bytes
            if salts != covered.salts or not self._hash_log(fd, end, covered.log_sum):
                return f"{self._log_path} is damaged, cut, or an older copy"
            return self._pages_of_frames(fd, header[16:24])
        finally:
            os.close(fd)

    def _pages_of_frames(self, fd: int, salts: bytes) -> set[int]:
        """Return the pages of all frames of the log, those beyond what is covered included.

        SQLite may have copied these, and power loss may have taken the note that covers them.
        """
        pages: set[int] = set()
        offset = _LOG_HEADER.size
        while len(frame := os.pread(fd, 16, offset)) == 16 and frame[8:16] == salts:
            pages.add(int.from_bytes(frame[:4], "big"))
            offset += self._frame_bytes
        return pages

    def _hash_log(self, fd: int, end: int, wanted: int) -> bool:
        self._log_hash = xxhash.xxh3_64()
        offset = 0
        while offset < end:
            part = os.pread(fd, min(_READ_BYTES, end - offset), offset)
            if not part:
                return False
            self._log_hash.update(part)
            offset += len(part)
        return self._log_hash.intdigest() == wanted

    @property
    def _frame_bytes(self) -> int:
        return _FRAME_HEADER_BYTES + self._page_bytes

    def begin(self, page_bytes: int) -> None:
        """Take up the sums of a database that was found sound, before its first commit.

        Args:
            page_bytes: Bytes of the database.

        A disk that is full costs the sums, as in `note_log`.
        """
        try:
            self._begin(page_bytes)
        except OSError as error:
            log.warning("%s cannot be made: %s", self.path, error.strerror)
            self.give_up()

    def _begin(self, page_bytes: int) -> None:
        self._fd = open_regular(self.path, os.O_RDWR | os.O_CREAT)
        if not self.known or self._page_bytes != page_bytes:
            self._page_bytes = page_bytes
            self.covered = Covered()
            self._sums = self._sum_file()
            os.ftruncate(self._fd, _SUMS_OFFSET)
            self._write_sums(range(0, len(self._sums), _BLOCK_COUNT))
        if self._closed or self._log_is_new or not self.known:
            # SQLite begins a log with salts of its own: whatever is there from now on is ours.
            self.covered = Covered(journal_sequence=self.covered.journal_sequence)
            self._closed = False
            self.known = True
            self._write_slot()
            os.fdatasync(self._fd)

    def _sum_file(self) -> array[int]:
        sums = array("Q")
        size = self._page_bytes
        step, at = _READ_BYTES // size * size, 0
        while chunk := os.pread(self._hold(self._database_path), step, at):
            sums.extend(
                _page_sum(chunk[offset : offset + size]) for offset in range(0, len(chunk), size)
            )
            at += len(chunk)
        return sums

    def _hold(self, path: Path) -> int:
        """Return a descriptor of a file that SQLite has open, kept for as long.

        Closing one would drop all locks that this process has on the file, SQLite's among them
        (fcntl(2)), and a reader in another process would take the tables to be nobody's.
        """
        fd = self._held.get(path)
        if fd is None:
            fd = open_regular(path, os.O_RDONLY)
            self._held[path] = fd
        return fd

    # --- following the log -----------------------------------------------------------------------
    def note_log(self, journal_sequence: int, *, durably: bool = True) -> None:
        """Cover what was committed to the log, which is on stable storage. Blocks.

        Nothing may commit meanwhile. A disk that is full costs the sums, and nothing else: the
        next opening makes them anew.

        Args:
            journal_sequence: First sequence of the newest journal that is on stable storage.
            durably: As it must be before the log starts over or goes; else within some seconds.
        """
        if self._fd < 0:
            return
        try:
            self._note_log(journal_sequence)
            if durably:
                os.fdatasync(self._fd)
        except OSError as error:
            self._complain(error)

    def note_copied(self) -> None:
        """Note, durably, that the file has all of the log, which may be cut from now on. Blocks.

        A log that begins with zeros is no damage then. A disk that refuses costs the sums.
        """
        if self._fd < 0:
            return
        try:
            self._copied = True
            self._write_slot()
            os.fdatasync(self._fd)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        log.warning(
            "%s cannot be kept, damage of the database would not be noticed until the next "
            "mount: %s",
            self.path,
            error.strerror,
        )
        self.give_up()

    def _note_log(self, journal_sequence: int) -> None:
        index = os.pread(self._hold(self._index_path), _INDEX_HEADER.size, 0)
        frame_count, indexed = _INDEX_HEADER.unpack(index)
        fd = open_regular(self._log_path, os.O_RDONLY)
        try:
            header = os.pread(fd, _LOG_HEADER.size, 0)
            if len(header) < _LOG_HEADER.size or header[16:24] != indexed:
                raise OSError(errno.EIO, "the log and its index differ")
            salts = _LOG_HEADER.unpack(header)[4:6]
            if salts != self.covered.salts or frame_count < self.covered.frame_count:
                self.covered = Covered(salts)
                self._log_hash = xxhash.xxh3_64(header)
            changed = self._read_frames(fd, self.covered.frame_count, frame_count)
        finally:
            os.close(fd)
        if changed:
            self._write_sums(sorted(changed))
        self.covered = Covered(salts, frame_count, self._log_hash.intdigest(), journal_sequence)
        self._copied = False
        self._write_slot()

    def note_synced(self, sequence: int) -> None:
        """Note how far the journals were synced. Any thread may call it.

        Not durable by itself: a note that is lost claims less than there is.

        Raises:
            OSError: The disk refuses.
        """
        note = _NOTE.pack(sequence)
        with self._lock:
            if self._fd >= 0:
                self._note_count += 1
                self._write(note + self._sum_note(note), _NOTE_OFFSETS[self._note_count % 2])

    def note_journal(self, journal_sequence: int) -> None:
        """Note which journal is in use, where the log has nothing new; durable. Blocks.

        What was noted of synced entries before is replaced: a repair begins with lower numbers.
        """
        if self._fd >= 0:
            for _ in _NOTE_OFFSETS:
                self.note_synced(journal_sequence)
            self.covered = self.covered._replace(journal_sequence=journal_sequence)
            self._write_slot()
            os.fdatasync(self._fd)

    def _read_frames(self, fd: int, start: int, end: int) -> set[int]:
        """Take the frames `[start, end)` into the sums; returns the blocks of these, by index."""
        size = self._frame_bytes
        step = max(1, _READ_BYTES // size)
        changed: set[int] = set()
        for first in range(start, end, step):
            count = min(step, end - first)
            data = memoryview(os.pread(fd, count * size, _LOG_HEADER.size + first * size))
            self._log_hash.update(data)
            for offset in range(0, count * size, size):
                number = int.from_bytes(data[offset : offset + 4], "big")
                if number > len(self._sums):
                    self._sums.extend([0] * (number - len(self._sums)))
                page = data[offset + _FRAME_HEADER_BYTES : offset + size]
                self._sums[number - 1] = _page_sum(page)
                changed.add((number - 1) // _BLOCK_COUNT * _BLOCK_COUNT)
        return changed

    def _write_sums(self, blocks: range | list[int]) -> None:
        for first in blocks:
            block = self._sums[first : first + _BLOCK_COUNT].tobytes()
            self._write(block, _SUMS_OFFSET + first * _SUM_BYTES)

    def _write(self, data: bytes, offset: int) -> None:
        if os.pwrite(self._fd, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_slot(self) -> None:
        self._turn += 1
        flags = (_CLOSED if self._closed else 0) | (_COPIED if self._copied else 0)
        salts, *rest = self.covered
        slot = _SLOT.pack(
            _MAGIC, self._state_id, self._turn, flags, self._page_bytes, *salts, *rest
        )
        self._write(slot + _checksum(slot), _SLOT_OFFSETS[self._turn % 2])

    def drop_sums(self) -> None:
        """Remove the sums from the file, and leave the note of what was synced (repair).

        Raises:
            OSError: The disk refuses.
        """
        if not self.path.exists():
            return
        fd = open_regular(self.path, os.O_RDWR)
        try:
            for offset in _SLOT_OFFSETS:
                os.pwrite(fd, bytes(_SLOT.size), offset)
            os.ftruncate(fd, _SUMS_OFFSET)
        finally:
            os.close(fd)
        self.known = False

    def give_up(self) -> None:
        """Have the next opening make the sums anew."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._stop()

    # --- closing ---------------------------------------------------------------------------------
    def close(self) -> None:
        """Note that SQLite has closed the database, and whether a log is left; durable."""
        if self._fd < 0:
            self.release()
            return
        try:
            left = self._log_path.exists() and self._log_path.stat().st_size > 0
            if not left:
                self._closed = True
                self._write_slot()
                os.fdatasync(self._fd)
        except OSError as error:
            log.warning("%s: not closed: %s", self.path, error.strerror)
        finally:
            self.release()

    def release(self) -> None:
        """Close all files as they are; SQLite has closed its own. Idempotent."""
        self._stop()
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _stop(self) -> None:
        """Keep sums no longer."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _page_sum(page: bytes | memoryview) -> int:
    """Return the sum of a page; never 0, which means that no sum is known."""
    return xxhash.xxh3_64_intdigest(page) or 1


def _checksum(slot: bytes) -> bytes:
    return zlib.crc32(slot).to_bytes(4, "little")
