"""One directory for everything that a test session leaves on the machine.

Invariant: mounts, state directories and daemons of a session lie below one directory `memfs-test-*`
whose `lock` file the session holds; a directory whose lock is free belongs to a killed session, and
the next session removes it with all its mounts and daemons.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from memfs.linux.readiness import await_ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

PREFIX = "memfs-test-"

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_MIN = 6 << 30
"""Free memory for files of a run: two test processes had 2 GiB at the most, and need some too."""


class MountEntry(NamedTuple):
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    mountpoint: Path
    minor: int
    """Minor device number: the connection's directory below /sys/fs/fuse/connections."""
    type: str


class Scratch:
    """A locked directory below `root`, and the names in it."""

    def __init__(self, root: Path) -> None:
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=root))
        # Other users' processes take part in the permission tests, so they must get in.
        new.chmod(0o755)
        self._count = 0
        self._lock_fd = os.open(new / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        # Under its name only now: a session beside ours would take it for one left over.
        self.path = new.rename(root / new.name.removeprefix("."))

    def directory(self, label: str) -> Path:
        """A new directory that every user can enter."""
        self._count += 1
        path = self.path / f"{self._count:03}-{label}"
        path.mkdir(mode=0o755)
        return path

    def close(self) -> None:
        """Remove the directory with the mounts and daemons that are still there."""
        remove(self.path)
        os.close(self._lock_fd)


def memory_root() -> Path | None:
    """Return a directory in memory, None where it has little room, as in many containers."""
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    if available is None or int(available[1]) << 10 < _MEMORY_BYTES_MIN:
        return None
    if not os.access(_MEMORY, os.W_OK):
        return None
    room = os.statvfs(_MEMORY)
    return _MEMORY if room.f_bavail * room.f_frsize >= _MEMORY_BYTES_MIN else None


def mounts_below(path: Path) -> list[MountEntry]:
    """The mounts whose mountpoint is `path` or below, the deepest first."""
    entries = []
    for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).rstrip("\n").split("\n"):
        fields = line.split(" ")
        mountpoint = Path(fields[4].encode().decode("unicode_escape"))
        if mountpoint == path or path in mountpoint.parents:
            entries.append(
                MountEntry(
                    mountpoint=mountpoint,
                    minor=int(fields[2].partition(":")[2]),
                    type=fields[fields.index("-") + 1],
                )
            )
    return sorted(entries, key=lambda entry: len(entry.mountpoint.parts), reverse=True)


def processes_naming(path: Path) -> list[int]:
    """Ids of the other processes with `path`, or a path below it, among their arguments."""
    wanted = os.fsencode(path)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if any(a == wanted or wanted + b"/" in a + b"/" for a in arguments):
                    found.append(int(entry.name))
    return found


def kill_and_wait(pid: int, limit_s: float = 60.0) -> None:
    """Kill a process, a child or not, and return when it is gone (pidfd_open(2)).

    Raises:
        ProcessLookupError: There is no such process.
        AssertionError: It was still there after `limit_s`.
    """
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert await_ready([pidfd], limit_s), f"process {pid} outlived SIGKILL by {limit_s:.0f} s"
    finally:
        os.close(pidfd)


def abort_connection(minor: int) -> None:
    """Fail every request of a FUSE connection, so that no process hangs on it."""
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")


def detach(path: Path) -> None:
    """Take the mounts below `path` away by force, and kill the processes that served them."""
    for entry in mounts_below(path):
        if entry.type.startswith("fuse"):
            abort_connection(entry.minor)
        subprocess.run(["umount", "-l", entry.mountpoint], check=False, capture_output=True)
    for pid in processes_naming(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove(path: Path) -> None:
    """Detach what is mounted below `path`, then delete it."""
    detach(path)
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def workspace(root: Path) -> Iterator[Scratch]:
    """A scratch directory for a program: gone when the block is left, by a signal too.

    SIGTERM and SIGHUP end the program as an exception does; a second one, or Ctrl-C, does not cut
    the clean-up short. What a killed program has left below `root` is removed first. The program's
    actions for these signals come back at the end; for the main thread.
    """
    remove_leftovers(root)
    former = {each: signal.signal(each, _exit) for each in (signal.SIGTERM, signal.SIGHUP)}
    former[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    scratch = Scratch(root)
    try:
        yield scratch
    finally:
        for each in former:
            signal.signal(each, signal.SIG_IGN)
        scratch.close()
        for each, action in former.items():
            signal.signal(each, action)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    # SystemExit runs the clean-up on its way out; the default action would not.
    sys.exit(128 + number)


def remove_leftovers(root: Path) -> None:
    """Remove the scratch directories below `root` whose session is gone."""
    for path in root.glob(PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path)
            except BlockingIOError:
                pass  # A session beside ours is using it.
            finally:
                os.close(lock_fd)
