"""A small program that lives in one directory and does what it is told, call by call.

Invariant: two actors that are told the same, in directories that behave the same, report the same
outcomes; nothing that differs between two good file systems (inode numbers, times that were not
set, block counts, sizes and link counts of directories) is reported.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from tests.outcomes import Outcome, outcome
from tests.posix import calls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HANDLE_COUNT_MAX = 8
"""The oldest handle is closed before one more is opened."""


class Step(NamedTuple):
    """One call: the name of an actor's method, and its arguments."""

    name: str
    arguments: tuple[object, ...]


class Actor:
    """Does steps below `top`, and keeps the handles that it opened."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._handles: list[int] = []

    def act(self, step: Step) -> Outcome:
        """Do one step and tell what came of it."""
        method: Callable[..., object] = getattr(self, step.name)
        return outcome(method, *step.arguments)

    def close_all(self) -> None:
        """Close every handle."""
        for fd in self._handles:
            os.close(fd)
        self._handles.clear()

    def open(self, name: str, flags: int, mode: int) -> int:
        """Open a file; a FIFO does not make it wait."""
        if len(self._handles) == HANDLE_COUNT_MAX:
            os.close(self._handles.pop(0))
        self._handles.append(os.open(self._top / name, flags | os.O_NONBLOCK, mode))
        return len(self._handles)

    def close(self, index: int) -> None:
        """Close one handle."""
        fd = self._fd(index)
        self._handles.remove(fd)
        os.close(fd)

    def pwrite(self, index: int, offset: int, data: bytes) -> int:
        """Write through a handle."""
        return os.pwrite(self._fd(index), data, offset)

    def write(self, index: int, data: bytes) -> int:
        """Write at a handle's position."""
        return os.write(self._fd(index), data)

    def pread(self, index: int, offset: int, length: int) -> bytes:
        """Read through a handle."""
        return os.pread(self._fd(index), length, offset)

    def read(self, index: int, length: int) -> bytes:
        """Read at a handle's position."""
        return os.read(self._fd(index), length)

    def seek_end(self, index: int) -> int:
        """Move a handle's position to the end, which a directory does not have."""
        fd = self._fd(index)
        return 0 if stat.S_ISDIR(os.fstat(fd).st_mode) else os.lseek(fd, 0, os.SEEK_END)

    def ftruncate(self, index: int, size: int) -> None:
        """Set a file's size through a handle."""
        os.ftruncate(self._fd(index), size)

    def fstat(self, index: int) -> tuple[int, ...]:
        """Attributes through a handle."""
        return _visible(os.fstat(self._fd(index)))

    def fsync(self, index: int) -> None:
        """Sync through a handle."""
        os.fsync(self._fd(index))

    def fallocate(self, index: int, mode: int, offset: int, length: int) -> None:
        """Change a file's allocation through a handle."""
        calls.fallocate(self._fd(index), mode, offset, length)

    def copy(self, source: int, target: int, offset: int, length: int) -> int:
        """Copy between handles until nothing more comes."""
        copied = 0
        while copied < length:
            count = os.copy_file_range(
                self._fd(source), self._fd(target), length - copied, offset + copied, copied
            )
            if count == 0:
                break
            copied += count
        return copied

    def save(self, name: str, data: bytes) -> int:
        """Replace a file's content."""
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK
        fd = os.open(self._top / name, flags, 0o644)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def load(self, name: str) -> bytes:
        """A file's content."""
        fd = os.open(self._top / name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(fd, 1 << 24)
        finally:
            os.close(fd)

    def truncate(self, name: str, size: int) -> None:
        """Set a file's size by path."""
        os.truncate(self._top / name, size)

    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory."""
        os.mkdir(self._top / name, mode)

    def rmdir(self, name: str) -> None:
        """Remove a directory."""
        os.rmdir(self._top / name)

    def unlink(self, name: str) -> None:
        """Remove a name."""
        os.unlink(self._top / name)

    def rename(self, source: str, target: str, flags: int) -> None:
        """Rename with flags."""
        calls.renameat2(self._top / source, self._top / target, flags)

    def link(self, source: str, target: str) -> None:
        """Give a file one more name."""
        os.link(self._top / source, self._top / target, follow_symlinks=False)

    def symlink(self, content: str, name: str) -> None:
        """Make a symlink."""
        os.symlink(content, self._top / name)

    def mkfifo(self, name: str) -> None:
        """Make a FIFO."""
        os.mkfifo(self._top / name)

    def chmod(self, name: str, mode: int) -> None:
        """Set the mode."""
        os.chmod(self._top / name, mode)

    def chown(self, name: str, uid: int, gid: int) -> None:
        """Set the owner."""
        os.chown(self._top / name, uid, gid, follow_symlinks=False)

    def utime(self, name: str, mtime_ns: int) -> int:
        """Set the times; tells what was kept."""
        os.utime(self._top / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        return (self._top / name).lstat().st_mtime_ns

    def setxattr(self, name: str, key: str, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        os.setxattr(self._top / name, key, value, flags, follow_symlinks=False)

    def getxattr(self, name: str, key: str) -> bytes:
        """Read an extended attribute."""
        return os.getxattr(self._top / name, key, follow_symlinks=False)

    def removexattr(self, name: str, key: str) -> None:
        """Remove an extended attribute."""
        os.removexattr(self._top / name, key, follow_symlinks=False)

    def stat(self, name: str) -> tuple[int, ...]:
        """Attributes of what a path leads to."""
        return _visible((self._top / name).stat())

    def lstat(self, name: str) -> tuple[int, ...]:
        """Attributes of what a path names."""
        return _visible((self._top / name).lstat())

    def listdir(self, name: str) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(os.listdir(self._top / name))

    def readlink(self, name: str) -> str:
        """Content of a symlink."""
        return os.readlink(self._top / name)

    def _fd(self, index: int) -> int:
        if not self._handles:
            raise OSError(errno.EBADF, "no handle is open")
        return self._handles[index % len(self._handles)]


def _visible(status: os.stat_result) -> tuple[int, ...]:
    ids = (status.st_mode, status.st_uid, status.st_gid)
    if stat.S_ISDIR(status.st_mode):
        return ids
    return (*ids, status.st_size, status.st_nlink, status.st_rdev)
