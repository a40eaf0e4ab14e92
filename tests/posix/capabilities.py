"""What only some drivers can do, and what the others answer instead.

Invariant: this table is the only place from which the suite derives expected differences between
drivers; `test_capabilities.py` checks every cell of it on a mount, in both directions.
"""

from __future__ import annotations

import enum
import errno


class Capability(enum.Enum):
    """Something that a program can see, and that not every driver has."""

    PASSTHROUGH = "reads, writes and maps go straight to the local file, past the daemon"
    FALLOCATE = "fallocate(2) with its modes; without it, posix_fallocate(3) writes zeros"
    SEEK_HOLE = "lseek(2) finds holes; without it, a file is one run of data"
    TMPFILE = "open(2) with O_TMPFILE"
    BIRTH_TIME = "statx(2) tells the time of birth"
    ACL = "POSIX access control lists (acl(5)), enforced by the kernel"
    LARGE_XATTRS = "extended attributes with values of 64 KiB"
    MEMFS_XATTRS = "tier, pin and state as extended attributes"


REFUSALS: dict[Capability, int] = {
    Capability.FALLOCATE: errno.EOPNOTSUPP,
    Capability.TMPFILE: errno.EOPNOTSUPP,
    Capability.ACL: errno.EOPNOTSUPP,
    Capability.LARGE_XATTRS: errno.ENOSPC,
    Capability.MEMFS_XATTRS: errno.ENODATA,
}
"""The error of the system call under a driver without the capability, where there is one."""

LOCAL = "local"
KERNEL = "kernel"
SERVED = "kernel-served"
PYFUSE3 = "pyfuse3"
DIRECTORY = "directory"

_OURS = frozenset({Capability.LARGE_XATTRS, Capability.MEMFS_XATTRS})
_EVERYTHING = frozenset(Capability)

CAPABILITIES: dict[str, frozenset[Capability]] = {
    LOCAL: _EVERYTHING - _OURS,
    KERNEL: _EVERYTHING,
    SERVED: _EVERYTHING - {Capability.PASSTHROUGH},
    PYFUSE3: _OURS,
    DIRECTORY: _EVERYTHING - _OURS,
}
"""By place: a local directory, the kernel driver with and without passthrough, the pyfuse3 driver,
and the directory that `--directory` names.

pyfuse3 3.5 fills no `fallocate`, `lseek`, `copy_file_range`, `tmpfile`, `ioctl` or `statx` slot of
libfuse's operations.
"""


def as_markdown() -> str:
    """The difference between the drivers as the README shows it."""
    lines = ["| | kernel | pyfuse3 |", "|---|---|---|"]
    for capability in Capability:
        able = [capability in CAPABILITIES[name] for name in (KERNEL, PYFUSE3)]
        if not all(able):
            cells = " | ".join("yes" if each else "no" for each in able)
            lines.append(f"| {capability.value} | {cells} |")
    return "\n".join(lines)
