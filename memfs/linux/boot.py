"""Which run of the kernel this is.

Invariant: the answer changes with every start of the machine and never between two of them.
"""

from __future__ import annotations

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_time_s() -> float:
    """Return the seconds since this start, those included in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> bytes:
    """Return the kernel's random name for this start of the machine, 36 bytes (random(4))."""
    return _BOOT_ID.read_bytes().strip()
