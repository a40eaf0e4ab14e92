"""How much CPU time a daemon takes while nobody asks for anything.

Invariant: CPU time is what is counted; the wall clock only says over which time.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from tests.mounting import Mount

SAMPLE_S = 1.0
SPAN_S = 4.0
"""Over which a daemon has to be idle: several rounds of the mover (`policy.interval`: 1 s)."""

CPU_PERCENT_MAX = 5.0
"""A part of one core over the span. The aim is 1, and up to 3 were measured on a slow and busy
machine, which takes more for the same work; a daemon that looks all the time takes all of it."""


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time of processes so far (proc_pid_stat(5): utime and stime)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_until_idle(mount: Mount) -> None:
    """Return when a daemon has taken next to no CPU time over the last `SPAN_S`.

    Files are sealed, made durable, tried and tried again before.

    Raises:
        AssertionError: It never does.
    """
    pids = mount.daemon_pids()
    samples = [(time.monotonic(), cpu_s(pids))]
    while samples[-1][0] - samples[0][0] < WAIT_S:
        time.sleep(SAMPLE_S)
        now_s, used_s = time.monotonic(), cpu_s(pids)
        samples.append((now_s, used_s))
        before = [sample for sample in samples if sample[0] <= now_s - SPAN_S]
        if before and used_s - before[-1][1] < CPU_PERCENT_MAX / 100 * (now_s - before[-1][0]):
            return
    used = [round(after[1] - before[1], 2) for before, after in pairwise(samples)]
    raise AssertionError(f"the daemon never comes to rest: {used} s of a core a second")
