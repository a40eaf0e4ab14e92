"""Mount namespaces of other processes, where copies of a mount live on.

A container, or a service with a private /tmp, begins with a copy of every mount. A file system is
gone when the last copy of its mount is.

Invariant: only links and tables of /proc are read, never a path in a mount, which may hang; a
process that is gone, or not to be looked at, is left out.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.linux.mounts import Mount, parse_mounts

if TYPE_CHECKING:
    from collections.abc import Callable


class Resident(NamedTuple):
    """A process in another mount namespace that has a mount."""

    pid: int
    name: str
    mount: Mount
    """As that namespace sees it."""

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


def list_residents(wanted: Callable[[Mount], bool]) -> list[Resident]:
    """Return the processes of other mount namespaces where a mount is that is wanted.

    Some 20 us a process (proc_pid_ns(5), proc_pid_mountinfo(5)). A namespace that only an open file
    or a bind mount keeps alive has no process, and is not found.
    """
    own = os.readlink("/proc/self/ns/mnt")
    found: dict[str, Mount | None] = {own: None}
    residents = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            namespace = os.readlink(entry / "ns/mnt")
            if namespace not in found:
                mounts = parse_mounts((entry / "mountinfo").read_bytes())
                found[namespace] = next(filter(wanted, mounts), None)
            if (mount := found[namespace]) is not None:
                name = os.fsdecode((entry / "comm").read_bytes()).strip()
                residents.append(Resident(int(entry.name), name, mount))
    return residents
