"""What /proc tells of processes, and what this one tells of itself there.

Invariant: a process that is gone is an answer, not an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_COMM_BYTES = 64
"""More than any name has (TASK_COMM_LEN is 16); those of the kernel's own threads are longer."""
_KILL_BIT = 1 << (signal.SIGKILL - 1)


def is_dying(thread: int) -> bool:
    """True if a thread is gone or about to be killed.

    A signal that ends a process is turned into a pending SIGKILL of each of its threads
    (`complete_signal`, kernel/signal.c); one that the program handles is not.

    Args:
        thread: Thread id in this process's pid namespace; 0: unknown, so not dying.

    Source: proc_pid_status(5), SigPnd and ShdPnd.
    """
    if not thread:
        return False
    try:
        status = _read_status(thread)
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = 0
    for name, value in status:
        if name in (b"SigPnd", b"ShdPnd"):
            pending |= int(value, 16)
    return bool(pending & _KILL_BIT)


def thread_group(thread: int) -> int:
    """Return the id of the process that a thread belongs to; the thread's own if it is gone.

    Source: proc_pid_status(5), Tgid. Takes some 20 us.
    """
    try:
        status = _read_status(thread)
    except (FileNotFoundError, ProcessLookupError):
        return thread
    return next((int(value) for name, value in status if name == b"Tgid"), thread)


def program_of(thread: int) -> tuple[int, str] | None:
    """Return id and name of the process that a thread belongs to; None if it is not known.

    Args:
        thread: Thread id in this process's pid namespace; 0: unknown.

    Source: proc_pid_comm(5); pidfd_open(2) takes no thread but the first of a process.
    """
    if not thread:
        return None
    try:
        os.close(os.pidfd_open(thread))
        pid = thread
    except OSError:
        # About five times as much; few programs open files in many threads.
        pid = thread_group(thread)
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return pid, os.fsdecode(os.read(fd, _COMM_BYTES).removesuffix(b"\n"))
        finally:
            os.close(fd)
    except OSError:
        return None


def groups_of(thread: int) -> frozenset[int]:
    """Return the supplementary groups of a thread; empty if it is gone.

    Source: proc_pid_status(5), Groups. Takes some 20 us.
    """
    try:
        status = _read_status(thread)
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()
    groups = next((value for name, value in status if name == b"Groups"), b"")
    return frozenset(map(int, groups.split()))


def ids_of(thread: int) -> tuple[int, int, frozenset[int]] | None:
    """Return fsuid, fsgid and all supplementary groups of a thread; None if it is not known.

    Args:
        thread: Thread id in this process's pid namespace; 0: unknown.

    Source: proc_pid_status(5), Uid, Gid and Groups. Takes some 20 us.
    """
    if not thread:
        return None
    try:
        status = dict(_read_status(thread))
        uid, gid = int(status[b"Uid"].split()[3]), int(status[b"Gid"].split()[3])
        return uid, gid, frozenset(map(int, status[b"Groups"].split()))
    except (OSError, KeyError, ValueError, IndexError):
        return None


def own_umask() -> int:
    """Return the umask of this process, which umask(2) tells only to who sets another one.

    Source: proc_pid_status(5), Umask. Takes some 20 us.
    """
    found = dict(_read_status(os.getpid()))
    return int(found[b"Umask"], 8)


def name_process(name: str) -> None:
    """Call this process so in ps(1) and top(1), which would show the interpreter; main thread.

    Args:
        name: At most 15 bytes.

    Source: proc_pid_comm(5).
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_bytes(name.encode())


def _read_status(thread: int) -> list[tuple[bytes, bytes]]:
    """Return names and values; bytes, and by newlines alone, since the program chose its name."""
    lines = Path(f"/proc/{thread}/status").read_bytes().split(b"\n")
    return [(name, value) for name, _, value in (line.partition(b":") for line in lines)]
