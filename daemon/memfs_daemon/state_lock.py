"""Who has a state directory in use: the lock file, and the holder that it names.

Invariant: the lock is the kernel's (an open file description lock, fcntl(2)), so it ends with its
holder however that dies; the file's text only says who the holder is.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOCK_NAME = "lock"

# struct flock of 64-bit Linux: type, whence, start, length, pid (0 as F_OFD_* demands).
_FLOCK = struct.Struct("@hhqqi4x")
_WHOLE = (os.SEEK_SET, 0, 0, 0)


class Holder(NamedTuple):
    """The process that has the state directory in use."""

    pid: int
    """0 if it has not written its name yet."""
    mountpoint: str | None
    """Where it serves the state directory; None: it works on it otherwise (fsck)."""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        work = f"serves {self.mountpoint}" if self.mountpoint else "checks it (fsck)"
        return f"process {self.pid}, which {work}"


class StateLock:
    """Holds the lock of a state directory for the life of the object; a context manager."""

    def __init__(self, state_dir: Path, mountpoint: Path | None) -> None:
        """Take the lock.

        Args:
            state_dir: Must exist.
            mountpoint: Where it is going to be served; None: nowhere.

        Raises:
            UsageError: Another process has it; the message names that process.
            OSError: The lock file cannot be made.
        """
        self._fd = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, *_WHOLE))
        except BlockingIOError:
            os.close(self._fd)
            other = ", or name another state directory with --state" if mountpoint else ""
            raise UsageError(
                f"{state_dir} is in use by {_read_holder(state_dir)}; end that first{other}",
                ExitCode.STATE_IN_USE,
            ) from None
        place = os.fspath(mountpoint) if mountpoint is not None else None
        text = json.dumps({"pid": os.getpid(), "mountpoint": place}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self) -> None:
        """Let others in; idempotent."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
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
        self.release()


def find_holder(state_dir: Path) -> Holder | None:
    """Return who has a state directory in use, without taking part: nobody is disturbed by it."""
    try:
        fd = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, *_WHOLE)
        found = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    finally:
        os.close(fd)
    return None if found[0] == fcntl.F_UNLCK else _read_holder(state_dir)


def _read_holder(state_dir: Path) -> Holder:
    try:
        content = json.loads((state_dir / LOCK_NAME).read_bytes())
        place = content["mountpoint"]
        return Holder(int(content["pid"]), str(place) if place is not None else None)
    except (OSError, ValueError, KeyError, TypeError):
        # Locked a moment ago, and the holder has not written its name yet.
        return Holder(0, None)
