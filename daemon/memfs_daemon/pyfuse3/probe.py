"""Whether the pyfuse3 driver can run here.

Invariant: a refusal is one sentence with its remedy; nothing here needs the library to be there.
"""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")


def probe(
    device: Path = DEVICE,
    *,
    privileged: bool | None = None,
    load: Callable[[str], object] = importlib.import_module,
    find_program: Callable[[str], str | None] = shutil.which,
) -> str | None:
    """Return why the pyfuse3 driver cannot run here, or None if it can.

    Args:
        device: That of FUSE.
        privileged: This is root; None: asked of the kernel.
        load: Imports a module.
        find_program: Returns the path of a program, or None.
    """
    try:
        load("pyfuse3")
    except ModuleNotFoundError:
        return "the library pyfuse3 is missing: pip install 'memfs-tiers[pyfuse3]'"
    except ImportError as error:
        return f"the library pyfuse3 does not load ({error}): install libfuse3 (apt install fuse3)"
    if not device.exists():
        return (
            "there is no /dev/fuse: load the module (modprobe fuse), "
            "or give the container the device (--device /dev/fuse)"
        )
    if not _is_root(privileged) and find_program("fusermount3") is None:
        return "there is no fusermount3, which mounts for ordinary users: apt install fuse3"
    if not os.access(device, os.R_OK | os.W_OK):
        return "this user may not open /dev/fuse: as root, chmod 666 /dev/fuse"
    return None


def may_allow_other(conf: Path = FUSE_CONF, *, privileged: bool | None = None) -> bool:
    """Return True if other users may be let in: by root, or as fuse.conf permits (mount.fuse3(8)).

    A fuse.conf that cannot be read permits nothing.

    Args:
        conf: The file.
        privileged: This is root; None: asked of the kernel.
    """
    if _is_root(privileged):
        return True
    try:
        lines = conf.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _is_root(privileged: bool | None) -> bool:
    return os.geteuid() == 0 if privileged is None else privileged
