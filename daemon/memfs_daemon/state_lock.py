"""Who has a state directory in use: the lock file, and the holder that it names.

Invariant: the lock is the kernel's (an open file description lock, fcntl(2)), so it ends with its
holder however that dies; the file's text only says who the holder is.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import list_mounts
from memfs.linux.ownership import open_own
from memfs.types import FILESYSTEM_TYPE
from memfs_daemon.mount_users import describe_copies, enumerate_users, list_copies, list_holders

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOCK_NAME = "lock"

# struct flock of 64-bit Linux: type, whence, start, length, pid (0 as F_OFD_* demands).
_FLOCK = struct.Struct("@hhqqi4x")
_WHOLE = (os.SEEK_SET, 0, 0, 0)


CLOSING_S_MAX = 60.0
"""A daemon bounds its end to less."""

UNMOUNTED_S_MAX = 5.0
"""A daemon notices within milliseconds that its mount was taken away; guess."""

_POLL_S = 0.05
_TEXT_BYTES_MAX = 64 << 10
"""Far above what the longest path takes."""


class Phase(enum.StrEnum):
    """How far a holder is."""

    STARTING = "starting"
    """Before its mount is in the tree; fsck always."""
    SERVING = "serving"
    CLOSING = "closing"
    """It brings everything to the disk, and ends by itself."""


class Holder(NamedTuple):
    """The process that has the state directory in use."""

    pid: int
    """0 if it has not written its name yet."""
    mountpoint: str | None
    """Where it serves the state directory; None: it works on it otherwise (fsck)."""
    phase: Phase = Phase.STARTING
    device: str | None = None
    """That of its mount, `major:minor`, which stays where the mount is taken from the tree."""

    def __str__(self) -> str:
        if not self.pid:
            return "another process"
        if self.mountpoint is None:
            return f"process {self.pid}, which checks it (fsck)"
        work = "closes after serving" if self.phase == Phase.CLOSING else "serves"
        return f"process {self.pid}, which {work} {self.mountpoint}"


class StateLock:
    """Holds the lock of a state directory for the life of the object; a context manager."""

    def __init__(
        self,
        state_dir: Path,
        mountpoint: Path | None,
        *,
        closing_s_max: float = CLOSING_S_MAX,
        unmounted_s_max: float = UNMOUNTED_S_MAX,
    ) -> None:
        """Take the lock.

        Args:
            state_dir: Must exist.
            mountpoint: Where it is going to be served; None: nowhere.
            closing_s_max: A daemon that closes is waited for so long.
            unmounted_s_max: And so long one whose mount has just been taken away.

        Waits for a holder that is about to end.

        Raises:
            UsageError: Another process has it; the message names that process.
            OSError: The lock file cannot be made.
        """
        self._state_dir = state_dir
        self._closing_s_max = closing_s_max
        self._unmounted_s_max = unmounted_s_max
        self._place = os.fspath(mountpoint) if mountpoint is not None else None
        self._device: str | None = None
        self._fd = _open_lock(state_dir, os.O_RDWR | os.O_CREAT)
        try:
            begin_s = time.monotonic()
            while not self._try_to_take():
                self._require_patience(time.monotonic() - begin_s)
                time.sleep(_POLL_S)
        except BaseException:
            os.close(self._fd)
            raise
        self.note(Phase.STARTING)

    def note(self, phase: Phase, device: str | None = None) -> None:
        """Tell those who look at the lock how far this holder is.

        Args:
            phase: How far it is.
            device: That of its mount, `major:minor`; None: as it was told before.
        """
        self._device = device or self._device
        content = {
            "pid": os.getpid(),
            "mountpoint": self._place,
            "phase": phase,
            "device": self._device,
        }
        text = json.dumps(content).encode()
        # Blanks behind it, and not truncated first: who reads meanwhile finds one or the other.
        size = os.fstat(self._fd).st_size
        # A full disk may have no block for it: what holds the lock is the descriptor.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, text.ljust(size), 0)

    def _try_to_take(self) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, *_WHOLE))
        except BlockingIOError:
            return False
        return True

    def _require_patience(self, waited_s: float) -> None:
        """Refuse the lock unless the holder is about to end.

        Raises:
            UsageError: It is not, or did not in time.
        """
        holder = _read_holder(self._state_dir)
        other = ", or name another state directory with --state" if self._place else ""
        remedy = f"end that first{other}"
        if holder.phase == Phase.CLOSING and waited_s < self._closing_s_max:
            return
        if holder.phase == Phase.SERVING and not _is_mounted(self._state_dir):
            if copies := list_copies(self._state_dir):
                remedy = (
                    f"its mount is not here, but {describe_copies(copies)}: end them, or the mount "
                    f"for all by `memfs umount --force {self._state_dir}`"
                )
            elif waited_s < self._unmounted_s_max:
                return
            elif users := list_holders(holder.device):
                remedy = (
                    f"its mount was taken from the tree, and {enumerate_users(users)} still uses "
                    "it: end that, or the mount for all by "
                    f"`memfs umount --force {self._state_dir}`"
                )
        raise UsageError(
            f"{self._state_dir} is in use by {holder}; {remedy}", ExitCode.STATE_IN_USE
        )

    def release(self) -> None:
        """Let others in; idempotent."""
        if self._fd >= 0:
            # Blanks, not truncated: the next holder needs no new block of a disk that is full.
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, b" " * os.fstat(self._fd).st_size, 0)
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
        fd = _open_lock(state_dir, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, *_WHOLE)
        found = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    finally:
        os.close(fd)
    return None if found[0] == fcntl.F_UNLCK else _read_holder(state_dir)


def _open_lock(state_dir: Path, flags: int) -> int:
    directory_fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_own(directory_fd, LOCK_NAME, flags)
    finally:
        os.close(directory_fd)


def _is_mounted(state_dir: Path) -> bool:
    """True if a mount of a state directory is in this process's mount namespace."""
    source = os.fspath(state_dir)
    return any(mount.type == FILESYSTEM_TYPE and mount.source == source for mount in list_mounts())


def _read_holder(state_dir: Path) -> Holder:
    try:
        with open(_open_lock(state_dir, os.O_RDONLY), "rb") as file:
            content = json.loads(file.read(_TEXT_BYTES_MAX))
        place, device = content["mountpoint"], content.get("device")
        return Holder(
            int(content["pid"]),
            str(place) if place is not None else None,
            Phase(content.get("phase", Phase.STARTING)),
            str(device) if device is not None else None,
        )
    except (OSError, UsageError, ValueError, KeyError, TypeError, RecursionError):
        # Locked a moment ago, and the holder has not written its name yet.
        return Holder(0, None)
