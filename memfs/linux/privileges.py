"""What this process may do: its effective capabilities.

Invariant: nothing is remembered; each call asks the kernel.
"""

from __future__ import annotations

import enum
from pathlib import Path

_WHOLE_UID_RANGE = ["0", "0", "4294967295"]


class Capability(enum.IntEnum):
    """Bits of a capability set (linux/capability.h) that memfs asks for."""

    IPC_LOCK = 14
    """Lock memory without limit (mlock(2))."""
    SYS_ADMIN = 21
    """Mount, and register files for FUSE passthrough."""
    SYS_NICE = 23
    """Raise a thread's priority again (setpriority(2))."""
    LEASE = 28
    """Take leases on other users' files (fcntl(2))."""


def effective_capabilities() -> int:
    """Return the calling thread's effective set as a bit mask (proc_pid_status(5), CapEff)."""
    for line in Path("/proc/thread-self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    raise OSError("/proc/thread-self/status has no CapEff line")


def has_capability(capability: Capability) -> bool:
    """Return True if the calling thread has the capability in its own user namespace."""
    return bool(effective_capabilities() >> capability & 1)


def has_cap_sys_admin() -> bool:
    """Return True with CAP_SYS_ADMIN in the initial user namespace.

    That is what FUSE passthrough asks for (fs/fuse/backing.c); the capability in a container's own
    user namespace does not count.
    """
    return has_capability(Capability.SYS_ADMIN) and in_initial_user_namespace()


def in_initial_user_namespace() -> bool:
    """Return True if user ids are mapped one to one over their whole range (user_namespaces(7))."""
    return Path("/proc/self/uid_map").read_text().split() == _WHOLE_UID_RANGE
