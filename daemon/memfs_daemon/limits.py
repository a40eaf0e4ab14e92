"""What the daemon asks of the system for itself: descriptors, locked memory, a late death.

Invariant: whatever is refused here is a loss of comfort, never of function; nothing raises.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

OOM_SCORE_ADJUSTMENT = -500
"""Half way to exempt (proc_pid_oom_score_adj(5)): killing the daemon frees little, because its
memory is mostly page cache, and takes the directory from everybody."""


def raise_limits() -> None:
    """Raise the soft limits of open files and locked memory to the hard ones."""
    for name in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK):
        _, hard = resource.getrlimit(name)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(name, (hard, hard))


def protect_from_oom() -> None:
    """Lower the chance of being killed when memory runs out; needs CAP_SYS_RESOURCE."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        if int(file.read_text()) > OOM_SCORE_ADJUSTMENT:
            file.write_text(str(OOM_SCORE_ADJUSTMENT))


def give_up_protection_from_oom() -> None:
    """Undo `protect_from_oom`, which children inherit: a copy of what is on disk is no loss."""
    with contextlib.suppress(OSError, ValueError):
        Path("/proc/self/oom_score_adj").write_text("0")


def anonymous_bytes() -> int:
    """Return the process's resident anonymous memory (proc_pid_status(5), RssAnon)."""
    with open("/proc/self/status", "rb") as lines:
        for line in lines:
            if line.startswith(b"RssAnon:"):
                return int(line.split()[1]) << 10
    return 0


def keep_private() -> None:
    """Make what the daemon creates readable for its own user alone."""
    os.umask(0o077)
