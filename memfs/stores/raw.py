"""The raw store: plain local files by number, the only form that is written and mapped.

Invariant: `raw/{id >> 12:x}/{id:x}` below the state directory is the raw file of that id; 4096 ids
share a directory, so that no directory grows beyond what a file system scans fast.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from memfs.errors import CorruptDataError, MemfsError, ObjectMissingError, StoreError
from memfs.linux.files import (
    NotPlainError,
    open_known,
    spread_subdirectories,
    sync_directory,
)
from memfs.stores.disk import disk_errors, translate_error
from memfs.types import RawId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

DIRECTORY_BITS = 12
"""Ids of a directory, as a power of two; part of the format of the state directory."""

TICK_S_MAX = 0.02
"""A tick of the clock of a file system is 10 ms at most (time(7))."""

PROVISIONAL_MODE = 0o1600
"""That of a raw file whose bytes precede its record: the sticky bit, which means nothing to the
kernel (chmod(2)), tells the search after a crash that no program was told of it."""

_MODE = 0o600

_CREATE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class RawRemovedError(ObjectMissingError):
    """A raw file was removed while a thread read it; what it is of has moved on."""


class RawStore:
    """The raw files of one state directory; safe for all threads.

    Args:
        state_dir: The state directory; `raw/` is created in it.
    """

    def __init__(self, state_dir: Path) -> None:
        self.root = state_dir / "raw"
        self._lock = threading.Lock()
        # By directory: the files created in it since its last sync, a bit each.
        self._unsynced: dict[int, int] = {}
        # Directories synced by this process. Empty at start: a process that was killed may have
        # left entries behind that no fsync has seen.
        self._synced: set[int] = set()
        self._linked: set[int] = set()
        self._readers_changed = threading.Condition()
        """Guards what follows."""
        self._reader_counts: Counter[RawId] = Counter()
        self._removed: set[RawId] = set()
        """Raw files that have readers, and no name any more."""
        with disk_errors(str(self.root)):
            self.root.mkdir(exist_ok=True, mode=0o700)
            sync_directory(state_dir)
            # Paths relative to this descriptor spare the kernel the walk down to the state.
            self._root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # To make 10,000 files and remove the former ones, again and again, took 30 to 702 us of a
        # processor a create; it takes 27 (2 vCPU, ext4).
        spread_subdirectories(self._root_fd)

    def close(self) -> None:
        """Release the descriptor of the root; idempotent."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def free_inode_count(self) -> float:
        """Return how many more files the disk can have; infinite where it has no such limit.

        Raises:
            StoreError: The disk cannot be asked.
        """
        with disk_errors(str(self.root)):
            disk = os.statvfs(self._root_fd)
        # btrfs counts no inodes, neither free nor in use (statvfs(3)).
        return disk.f_favail if disk.f_files else math.inf

    def free_bytes(self) -> int:
        """Return what the disk has free for memfs.

        Raises:
            StoreError: The disk cannot be asked.
        """
        with disk_errors(str(self.root)):
            disk = os.statvfs(self._root_fd)
        return disk.f_bavail * disk.f_frsize

    def stamp(self) -> int:
        """Return a time between all changes of raw files so far and all that follow. Blocks.

        It is the disk's own time, in ns, to be compared with `st_ctime_ns` of raw files: the clock
        of a file system lags behind the wall clock by up to a tick, and is finer than a tick only
        for a file that was looked at in between (multigrain timestamps, Linux 6.13).

        Raises:
            StoreError: The disk cannot be written to.
        """
        with disk_errors(str(self.root)):
            earlier_ns = self._touch_root()
            end_s = time.monotonic() + TICK_S_MAX
            while self._touch_root() <= earlier_ns and time.monotonic() < end_s:
                time.sleep(0.001)
        return earlier_ns

    def _touch_root(self) -> int:
        """Change the root's `st_ctime` alone, which needs no room on the disk; return it."""
        os.fchmod(self._root_fd, stat.S_IMODE(os.fstat(self._root_fd).st_mode))
        return os.fstat(self._root_fd).st_ctime_ns

    def path(self, raw: RawId) -> Path:
        """Return the path of a raw file, whether it exists or not."""
        return self.root / _relative_path(raw)

    def create(self, raw: RawId, access: int = os.O_RDWR, *, provisional: bool = False) -> int:
        """Create an empty raw file and return a descriptor.

        Args:
            raw: Its id.
            access: As of open(2).
            provisional: It is removed after a crash, bytes or not, if it has no record; until
                `settle`.

        Raises:
            StoreError: There is one of that id already.
            NoSpaceError: The disk is full.
        """
        directory = raw >> DIRECTORY_BITS
        path = f"{directory:x}/{raw:x}"
        mode = PROVISIONAL_MODE if provisional else _MODE
        try:
            fd = os.open(path, _CREATE_FLAGS | access, mode, dir_fd=self._root_fd)
        except FileNotFoundError:
            fd = self._create_first(directory, path, access, mode)
        except OSError as error:
            raise self._error(error, raw) from error
        # Noted after the entry exists: a sync that began before cannot claim to have covered it.
        with self._lock:
            self._unsynced[directory] = self._unsynced.get(directory, 0) | _bit(raw)
        return fd

    def settle(self, raws: Iterable[RawId]) -> None:
        """Have provisional raw files, whose records are committed by now, be as all others.

        One that is gone, or that the disk refuses to change, stays as it is: that has a meaning
        only if its record is lost.
        """
        for raw in raws:
            with contextlib.suppress(OSError):
                os.chmod(_relative_path(raw), _MODE, dir_fd=self._root_fd)

    def set_aside(self, raw: RawId, name: str) -> Path:
        """Give a raw file a second name in `quarantine/`, out of the reach of moves; durable.

        Args:
            raw: The file; it stays where it is as well.
            name: A file name; what bears it already is replaced.

        Raises:
            ObjectMissingError, StoreError: It is gone, or the disk refuses.
        """
        target = self.root.with_name("quarantine") / name
        with disk_errors(str(target)):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(self.path(raw), target)
            sync_directory(target.parent)
            sync_directory(target.parent.parent)
        return target

    def move_aside(self, raw: RawId, name: str) -> Path:
        """Move a raw file to `quarantine/`; durable.

        Not by a second name, which would make the file's last change look like one of today.

        Args:
            raw: The file; it is missing from then on.
            name: A file name; what bears it already is replaced.

        Raises:
            ObjectMissingError, StoreError: It is gone, or the disk refuses.
        """
        source = self.path(raw)
        target = self.root.with_name("quarantine") / name
        with disk_errors(str(source)):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(source, target)
            sync_directory(target.parent)
            sync_directory(source.parent)
            sync_directory(target.parent.parent)
        return target

    def open(self, raw: RawId, flags: int = os.O_RDWR) -> int:
        """Return a descriptor of an existing raw file; flags as `linux.files.open_regular`.

        Raises:
            ObjectMissingError: No raw file has that id.
            CorruptDataError: Something else than a plain file is there.
        """
        return self.open_known(raw, flags)[0]

    def open_known(self, raw: RawId, flags: int) -> tuple[int, os.stat_result]:
        """Return what `open` does, and the attributes of the raw file as of then."""
        try:
            return open_known(_relative_path(raw), flags, dir_fd=self._root_fd)
        except NotPlainError as error:
            raise CorruptDataError(
                f"{self.path(raw)} is no plain file: move it away, and restore the file from a "
                "backup, or run memfs fsck"
            ) from error
        except OSError as error:
            raise self._error(error, raw) from error

    def exists(self, raw: RawId) -> bool:
        """Tell whether there is a raw file of that id."""
        try:
            self.stat(raw)
        except ObjectMissingError:
            return False
        return True

    def stat(self, raw: RawId) -> os.stat_result:
        """Return the attributes of a raw file (stat(2)); `ObjectMissingError` if it is gone."""
        try:
            return os.stat(_relative_path(raw), dir_fd=self._root_fd, follow_symlinks=False)
        except OSError as error:
            raise self._error(error, raw) from error

    def set_times(self, raw: RawId, atime_ns: int, mtime_ns: int) -> None:
        """Set the times of a raw file (utimensat(2)); `ObjectMissingError` if it is gone."""
        try:
            os.utime(
                _relative_path(raw),
                ns=(atime_ns, mtime_ns),
                dir_fd=self._root_fd,
                follow_symlinks=False,
            )
        except OSError as error:
            raise self._error(error, raw) from error

    def unlink(self, raw: RawId) -> None:
        """Remove a raw file; no error if it is missing. Open descriptors keep its bytes."""
        try:
            os.unlink(_relative_path(raw), dir_fd=self._root_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(error, raw) from error
        with self._readers_changed:
            if raw in self._reader_counts:
                self._removed.add(raw)

    @contextlib.contextmanager
    def reading(self, raw: RawId) -> Iterator[Callable[[], None]]:
        """Have a thread that reads a raw file for long, in the block, hear of its removal.

        Till it closes its descriptor, or unmaps the file, the bytes stay on the disk.

        Yields:
            A function to be called after each piece; `RawRemovedError`: the file was removed.
        """

        def check() -> None:
            if raw in self._removed:
                raise RawRemovedError(f"raw file {raw} was removed while it was read")

        with self._readers_changed:
            self._reader_counts[raw] += 1
        try:
            yield check
        finally:
            with self._readers_changed:
                self._reader_counts[raw] -= 1
                if not self._reader_counts[raw]:
                    del self._reader_counts[raw]
                    self._removed.discard(raw)
                    self._readers_changed.notify_all()

    def is_read(self, raw: RawId) -> bool:
        """Tell whether a thread is in `reading`."""
        return raw in self._reader_counts

    def wait_unread(self, raw: RawId, limit_s: float) -> bool:
        """Wait until no thread is in `reading`; returns whether that came in time. Blocks."""
        with self._readers_changed:
            return self._readers_changed.wait_for(lambda: not self.is_read(raw), limit_s)

    def is_name_synced(self, raw: RawId) -> bool:
        """Return whether the name of a raw file is known to be durable."""
        directory = raw >> DIRECTORY_BITS
        with self._lock:
            return directory in self._synced and not self._unsynced.get(directory, 0) & _bit(raw)

    def sync_directory(self, raw: RawId) -> None:
        """Make the name of a raw file durable, with all names created before in its directory.

        Costs nothing when that was done since the file was created. The bytes are the caller's
        own fsync of the file.
        """
        if self.is_name_synced(raw):
            return
        directory = raw >> DIRECTORY_BITS
        with self._lock:
            created = self._unsynced.get(directory, 0)
        try:
            sync_directory(f"{directory:x}", dir_fd=self._root_fd)
            if directory not in self._linked:
                os.fsync(self._root_fd)
        except OSError as error:
            raise self._error(error, raw) from error
        with self._lock:
            self._linked.add(directory)
            self._synced.add(directory)
            # What was created in the meantime is not covered.
            if left := self._unsynced.get(directory, 0) & ~created:
                self._unsynced[directory] = left
            else:
                self._unsynced.pop(directory, None)

    def sync_directories(self) -> None:
        """Make the names of all raw files created so far by this process durable."""
        with self._lock:
            directories = list(self._unsynced)
        for directory in directories:
            self.sync_directory(RawId(directory << DIRECTORY_BITS))

    def list_range(self, start: RawId, end: RawId) -> list[RawId]:
        """Return the ids in `[start, end)` that exist, ascending."""
        first, last = start >> DIRECTORY_BITS, max(start, end - 1) >> DIRECTORY_BITS
        return [
            raw
            for directory in self._directories()
            if first <= directory <= last
            for raw in self._ids(directory)
            if start <= raw < end
        ]

    def iterate(self) -> Iterator[RawId]:
        """Yield all ids that exist, ascending; memory is bounded by one directory."""
        for directory in self._directories():
            yield from self._ids(directory)

    def strays(self) -> Iterator[Path]:
        """Yield what lies in the store but is no raw file's name (fsck)."""
        for name in self._names("."):
            if _parse_hex(name) is None:
                yield self.root / name
        for directory in self._directories():
            for name in self._names(f"{directory:x}"):
                raw = _parse_hex(name)
                if raw is None or raw >> DIRECTORY_BITS != directory:
                    yield self.root / f"{directory:x}" / name

    def _create_first(self, directory: int, path: str, access: int, mode: int) -> int:
        try:
            os.mkdir(f"{directory:x}", 0o700, dir_fd=self._root_fd)
        except FileExistsError:
            pass
        except OSError as error:
            raise translate_error(error, f"{self.root}/{directory:x}") from error
        try:
            return os.open(path, _CREATE_FLAGS | access, mode, dir_fd=self._root_fd)
        except OSError as error:
            raise translate_error(error, f"{self.root}/{path}") from error

    def _directories(self) -> list[int]:
        found = (_parse_hex(name) for name in self._names("."))
        return sorted(directory for directory in found if directory is not None)

    def _ids(self, directory: int) -> list[RawId]:
        found = (_parse_hex(name) for name in self._names(f"{directory:x}"))
        return sorted(
            RawId(raw) for raw in found if raw is not None and raw >> DIRECTORY_BITS == directory
        )

    def _names(self, path: str) -> list[str]:
        # By path and not by descriptor: listdir of a duplicated descriptor shares its position
        # with every other reader of it.
        with disk_errors(str(self.root / path)):
            return os.listdir(self.root / path)

    def _error(self, error: OSError, raw: RawId) -> MemfsError:
        if isinstance(error, FileExistsError):
            return StoreError(f"raw file {raw} exists already at {self.path(raw)}; run memfs fsck")
        return translate_error(error, f"raw file {raw} at {self.path(raw)}")


def _bit(raw: RawId) -> int:
    """Return the bit of a file among those of its directory."""
    return 1 << (raw & (1 << DIRECTORY_BITS) - 1)


def _relative_path(raw: int) -> str:
    return f"{raw >> DIRECTORY_BITS:x}/{raw:x}"


def _parse_hex(name: str) -> int | None:
    """Return the number that a name spells, None unless it is spelled as memfs does."""
    try:
        number = int(name, 16)
    except ValueError:
        return None
    return number if number >= 0 and f"{number:x}" == name else None
