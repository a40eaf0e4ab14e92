"""How much CPU time a daemon takes while nobody asks for anything.

Invariant: CPU time is what is counted; the wall clock only says over which time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.mounting import Mount

WINDOW_S = 5.0
WINDOW_COUNT_MAX = 24
"""Until a daemon that is not idle then is taken to be never: files are sealed, made durable, tried
and tried again before."""

CPU_PERCENT_MAX = 3.0
"""A part of one core; the aim is 1: a slow and busy machine takes more for the same work."""


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time of processes so far (proc_pid_stat(5): utime and stime)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_percent(mount: Mount) -> float:
    """Return the share of one core that a daemon takes over a window of time."""
    pids = mount.daemon_pids()
    before_s, began_s = cpu_s(pids), time.monotonic()
    time.sleep(WINDOW_S)
    return 100 * (cpu_s(pids) - before_s) / (time.monotonic() - began_s)


def wait_until_idle(mount: Mount) -> None:
    """Return when a daemon took next to no CPU time over two windows, one after the other.

    Raises:
        AssertionError: It never does.
    """
    measured: list[float] = []
    while len(measured) < WINDOW_COUNT_MAX:
        measured.append(idle_percent(mount))
        if max(measured[-2:]) < CPU_PERCENT_MAX and len(measured) > 1:
            return
    raise AssertionError(f"the daemon never comes to rest: {measured} percent of a core")
