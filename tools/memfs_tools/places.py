"""Where things are by default.

Invariant: two mountpoints never share a state directory by default.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SYSTEM_STATES = Path("/var/lib/memfs")


def default_state_dir(mountpoint: Path, uid: int | None = None) -> Path:
    """Return the state directory of a mountpoint for which no state directory was named.

    Args:
        mountpoint: Absolute.
        uid: Who mounts there; None: the user of this process.
    """
    if (os.geteuid() if uid is None else uid) == 0:
        return SYSTEM_STATES / escape_path(mountpoint)
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser() / "memfs" / escape_path(mountpoint)


def escape_path(path: Path) -> str:
    r"""Return an absolute path as one name, as `systemd-escape --path` does: `mnt-data\x2d1`.

    So the unit `memfs@NAME.service` and the state directory of a mountpoint have one name.
    """
    name = os.fsencode(path).strip(b"/")
    if not name:
        return "-"
    escaped = re.sub(
        rb"[^A-Za-z0-9:_./]|^\.", lambda match: b"\\x%02x" % match[0][0], name, flags=re.DOTALL
    )
    return escaped.replace(b"/", b"-").decode("ascii")
