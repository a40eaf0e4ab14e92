"""Priorities: of single threads, and of this process among all programs.

Invariant: a thread leaves a block with the priority that it had; no other session's share changes.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.linux.libc import LIBC
from memfs.linux.privileges import Capability, has_capability

if TYPE_CHECKING:
    from collections.abc import Iterator

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())
"""System call number; asm/unistd_64.h and asm-generic/unistd.h."""

_WHO_THREAD = 1
"""IOPRIO_WHO_PROCESS, which means a thread (ioprio_set(2))."""

_IDLE = 3 << 13
"""IOPRIO_CLASS_IDLE: the disk when no other thread wants it; mq-deadline and bfq heed it."""

_NONE = 0
"""IOPRIO_CLASS_NONE: by the nice value."""

_NICE = 19


@contextlib.contextmanager
def low_priority() -> Iterator[None]:
    """Give the calling thread the last place at the disk and at the processors for the block.

    Threads that it starts inherit that. Where the kernel would not take it back (no CAP_SYS_NICE),
    the processors are left as they are.
    """
    thread = threading.get_native_id()
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    lower = nice < _NICE and has_capability(Capability.SYS_NICE)
    _set_io(_IDLE)
    if lower:
        os.setpriority(os.PRIO_PROCESS, thread, _NICE)
    try:
        yield
    finally:
        if lower:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        _set_io(_NONE)


def set_session_nice(nice: int) -> bool:
    """Set the share of the processors that this session has among all sessions.

    Where the kernel groups sessions, nice values of threads count within a session only.

    Args:
        nice: As of setpriority(2).

    Returns:
        False if nothing was changed: this process shares its session with others, the kernel does
        not group sessions, or it wants CAP_SYS_NICE.

    Source: sched(7), the autogroup feature. It has no effect in a cgroup of the cpu controller, as
        of a service of systemd, which has a weight of its own.
    """
    if os.getsid(0) != os.getpid():
        return False
    try:
        Path("/proc/self/autogroup").write_text(str(nice))
    except OSError:
        return False
    return True


def _set_io(priority: int) -> None:
    """Set the calling thread's class; without effect where the kernel has no such class."""
    if _IOPRIO_SET is not None:
        LIBC.syscall(_IOPRIO_SET, _WHO_THREAD, 0, priority)
