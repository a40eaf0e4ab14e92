"""Whether the pyfuse3 driver can run here.

Invariant: a refusal is one sentence with its remedy; nothing here needs the library to be there.
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")


def probe() -> str | None:
    """Return why the pyfuse3 driver cannot run here, or None if it can."""
    try:
        importlib.import_module("pyfuse3")
    except ModuleNotFoundError:
        return "the library pyfuse3 is missing: pip install 'memfs-tiers[pyfuse3]'"
    except ImportError as error:
        return f"the library pyfuse3 does not load ({error}): install libfuse3 (apt install fuse3)"
    if not _DEVICE.exists():
        return (
            "there is no /dev/fuse: load the module (modprobe fuse), "
            "or give the container the device (--device /dev/fuse)"
        )
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "there is no fusermount3, which mounts for ordinary users: apt install fuse3"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return "this user may not open /dev/fuse: as root, chmod 666 /dev/fuse"
    return None


def may_allow_other() -> bool:
    """Return True if other users may be let in: by root, or as fuse.conf permits (mount.fuse3(8)).

    A fuse.conf that cannot be read permits nothing.
    """
    if os.geteuid() == 0:
        return True
    try:
        lines = _FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
