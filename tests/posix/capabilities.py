"""What only some places can do, derived from the table in docs/reference/drivers.md.

Invariant: the suite takes its expected differences between drivers from `memfs_daemon.capabilities`
alone; `test_capabilities.py` checks each of its rows that a program can see, in both directions.
"""

from __future__ import annotations

import enum
import errno
import os

from memfs_daemon.capabilities import CAPABILITIES as TABLE


class Capability(enum.Enum):
    """Something that a program can see and that not every place has."""

    PASSTHROUGH = "reads, writes and maps go straight to the local file (passthrough)"
    FALLOCATE = "fallocate(2) with its modes"
    SEEK_HOLE = "lseek(2) finds data and holes"
    TMPFILE = "open(2) with O_TMPFILE"
    BIRTH_TIME = "statx(2) tells the time of birth"
    ACL = "POSIX access control lists (acl(5))"
    LARGE_XATTRS = "extended attributes with values of 64 KiB"
    MEMFS_XATTRS = "tier, pin and state as extended attributes"


REFUSALS: dict[Capability, int] = {
    Capability.FALLOCATE: errno.EOPNOTSUPP,
    Capability.TMPFILE: errno.EOPNOTSUPP,
    Capability.ACL: errno.EOPNOTSUPP,
    Capability.LARGE_XATTRS: errno.ENOSPC,
    Capability.MEMFS_XATTRS: errno.ENODATA,
}
"""The error of the system call in a place without the capability, where there is one."""

LOCAL = "local"
KERNEL = "kernel"
SERVED = "kernel-served"
PYFUSE3 = "pyfuse3"
DIRECTORY = "directory"

PASSTHROUGH_KERNEL = (6, 9)
"""First Linux with FUSE passthrough; an older one runs the kernel driver without it."""

_OURS = frozenset({Capability.LARGE_XATTRS, Capability.MEMFS_XATTRS})
"""What memfs has under both drivers, and an ordinary local file system has not."""


def _of_driver(driver: str) -> frozenset[Capability]:
    able = {row.name for row in TABLE if getattr(row, driver) is True}
    return _OURS | {capability for capability in Capability if capability.value in able}


def _passthrough() -> frozenset[Capability]:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return frozenset({Capability.PASSTHROUGH} if release >= PASSTHROUGH_KERNEL else ())


CAPABILITIES: dict[str, frozenset[Capability]] = {
    LOCAL: frozenset(Capability) - _OURS,
    KERNEL: _of_driver(KERNEL) | _passthrough(),
    SERVED: _of_driver(KERNEL),
    PYFUSE3: _of_driver(PYFUSE3),
    DIRECTORY: frozenset(Capability) - _OURS,
}
"""By place: a local directory, the kernel driver with and without passthrough, the pyfuse3 driver,
and the directory that `--directory` names."""
