"""Waits until the servers of all places rest, so that no server works on in another's sample."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WINDOW_S = 0.02
BUSY_SHARE_MAX = 0.1
"""Servers that use less of one processor over a window rest; their timers alone take some."""
WAIT_S_MAX = 3.0
"""Then the sample is taken all the same: one busy server must not stop the run."""


def await_rest(
    pids: Iterable[int],
    used_ns: Callable[[Iterable[int]], int] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when the processes have all but stopped computing, or after `WAIT_S_MAX`.

    Args:
        pids: Those of the processes.
        used_ns: As `processor_ns`, which is the default.
        clock: Seconds.
        sleep: Waits for seconds.
    """
    watched, used_ns = list(pids), used_ns or processor_ns
    deadline_s = clock() + WAIT_S_MAX
    before_ns, before_s = used_ns(watched), clock()
    while before_s < deadline_s:
        sleep(WINDOW_S)
        now_ns, now_s = used_ns(watched), clock()
        if (now_ns - before_ns) * 1e-9 < BUSY_SHARE_MAX * (now_s - before_s):
            return
        before_ns, before_s = now_ns, now_s


def processor_ns(pids: Iterable[int]) -> int:
    """Processor time that the processes have used, with threads that have ended; 0 of ended ones.

    Source: clock_getcpuclockid(3), whose clock is ~PID << 3 with CPUCLOCK_SCHED (2) in the kernel's
    include/linux/posix-timers.h.
    """
    total_ns = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total_ns += time.clock_gettime_ns(~pid << 3 | 2)
    return total_ns
