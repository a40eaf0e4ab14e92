"""The programs that keep a mount busy or alive, to tell a user who is in the way.

Invariant: only links and tables of /proc are read, never a path in the mount, which may hang.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.linux.namespaces import Resident, list_residents
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from memfs.linux.mounts import Mount

TRIES_MAX = 40
PAUSE_S = 0.05
"""Between two of them: 2 s in all, a hundred times what was seen, and longer where the machine is
so busy that looking through /proc takes its time."""

_SHOWN_COUNT_MAX = 10


class MountUser(NamedTuple):
    """A process with something of the mount open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


def list_users(mountpoint: Path) -> list[MountUser]:
    """Return the processes with an open file, a mapping or a directory in a mount.

    Only those that this user may look into; the others stay unnamed.
    """
    root = os.fspath(mountpoint)
    users = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if any(path == root or path.startswith(root + "/") for path in _paths_in_use(entry)):
                name = os.fsdecode((entry / "comm").read_bytes()).strip()
                users.append(MountUser(int(entry.name), name))
    return users


def unmount_unused(
    unmount: Callable[[], None],
    mountpoint: Path,
    *,
    tries_max: int = TRIES_MAX,
    pause_s: float = PAUSE_S,
) -> None:
    """Unmount; where it is busy and nobody uses it, try again, `tries_max` times in all.

    The kernel lets go of what a program had open a moment after the program's end
    (`task_work_add`, fs/file_table.c); on a loaded machine that takes milliseconds.

    Raises:
        OSError: As of `unmount`; EBUSY where a program uses it, or one that cannot be seen.
    """
    for tried_count in range(1, tries_max + 1):
        try:
            unmount()
        except OSError as error:
            if error.errno != errno.EBUSY or tried_count == tries_max or list_users(mountpoint):
                raise
            time.sleep(pause_s)
        else:
            return


def describe_users(mountpoint: Path) -> str:
    """Return the same as a list for a message: `bash (17), python3 (18)`."""
    users = list_users(mountpoint)
    return _enumerate(users) if users else "programs that only root may see"


def list_copies(
    state_dir: Path,
    residents: Callable[[Callable[[Mount], bool]], list[Resident]] = list_residents,
) -> list[Resident]:
    """Return the processes of other mount namespaces that have a mount of a state directory."""
    source = os.fspath(state_dir)
    return residents(lambda mount: mount.type == FILESYSTEM_TYPE and mount.source == source)


def describe_copies(copies: Sequence[Resident]) -> str:
    """Return what is to be known of copies of a mount, for a message."""
    return f"copies of it are in other mount namespaces, those of {_enumerate(copies)}"


def _enumerate(users: Sequence[object]) -> str:
    more = len(users) - _SHOWN_COUNT_MAX
    shown = ", ".join(str(user) for user in users[:_SHOWN_COUNT_MAX])
    return f"{shown} and {more} more" if more > 0 else shown


def _paths_in_use(process: Path) -> Iterator[str]:
    """Yield what a process of /proc holds: directories, program, descriptors, mappings."""
    for name in ("cwd", "root", "exe"):
        with contextlib.suppress(OSError):
            yield os.readlink(process / name)
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            yield os.readlink(link)
    for line in os.fsdecode((process / "maps").read_bytes()).split("\n"):
        _, slash, rest = line.partition("/")
        yield slash + rest
