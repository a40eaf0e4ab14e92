"""Whether the kernel driver can run here.

Invariant: a refusal is one sentence with its remedy.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from memfs.linux.privileges import Capability, has_capability

DEVICE = Path("/dev/fuse")
_PAGES_LIMIT = Path("/proc/sys/fs/fuse/max_pages_limit")
_PAGES_LIMIT_DEFAULT = 256
"""FUSE_MAX_MAX_PAGES, where the kernel (before 6.13) has no setting for it."""
_KERNEL_MIN = (5, 4)


def probe() -> str | None:
    """Return why the kernel driver cannot run here, or None if it can."""
    release = os.uname().release
    version = re.match(r"(\d+)\.(\d+)", release)
    if version and (int(version[1]), int(version[2])) < _KERNEL_MIN:
        return f"Linux {release} is older than 5.4; boot a newer kernel or use --driver pyfuse3"
    if not DEVICE.exists():
        return (
            "there is no /dev/fuse: load the module (modprobe fuse), "
            "or give the container the device (--device /dev/fuse)"
        )
    if not has_capability(Capability.SYS_ADMIN):
        return "the daemon lacks CAP_SYS_ADMIN: run it as root, or use --driver pyfuse3"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"cannot open /dev/fuse ({error.strerror}): allow this process to use the device"
    return None


def read_pages_limit() -> int:
    """Return `fs.fuse.max_pages_limit`: the largest request in pages of 4 KiB."""
    try:
        return int(_PAGES_LIMIT.read_text(encoding="ascii"))
    except FileNotFoundError:
        return _PAGES_LIMIT_DEFAULT
