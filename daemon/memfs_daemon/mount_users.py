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

from memfs.linux.mounts import device_of, parse_mounts
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
    """Return the users of a mount as a list for a message."""
    users = list_users(mountpoint)
    return enumerate_users(users) if users else "programs that only root may see"


def list_copies(
    state_dir: Path,
    residents: Callable[[Callable[[Mount], bool]], list[Resident]] = list_residents,
) -> list[Resident]:
    """Return the processes of other mount namespaces that have a mount of a state directory."""
    source = os.fspath(state_dir)
    return residents(lambda mount: mount.type == FILESYSTEM_TYPE and mount.source == source)


def describe_copies(copies: Sequence[Resident]) -> str:
    """Return what is to be known of copies of a mount, for a message."""
    return f"copies of it are in other mount namespaces, those of {enumerate_users(copies)}"


def list_holders(device: str | None) -> list[MountUser]:
    """Return the processes that keep a mount alive which was taken from the tree (`umount -l`).

    Their links in /proc name paths from the root of that mount, as if it were that of all.

    Args:
        device: That of the mount, `major:minor`; None: it is not known, and nobody is found.
    """
    users: list[MountUser] = []
    if device is None:
        return users
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if device in _devices_in_use(entry):
                name = os.fsdecode((entry / "comm").read_bytes()).strip()
                users.append(MountUser(int(entry.name), name))
    return users


def enumerate_users(users: Sequence[object]) -> str:
    """Return the same as a list for a message: `bash (17), python3 (18)`."""
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


def _devices_in_use(process: Path) -> Iterator[str]:
    """Yield the devices of what a process has mapped, and of all else on mounts out of its sight.

    What is on a mount that it sees is passed over: to look at that could hang, as on a dead server.
    """
    for line in os.fsdecode((process / "maps").read_bytes()).splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6:
            major, _, minor = fields[3].partition(":")
            yield f"{int(major, 16)}:{int(minor, 16)}"
    table = (process / "mountinfo").read_bytes()
    seen = {line.split(b" ", 1)[0] for line in table.splitlines()}
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            info = (process / "fdinfo" / link.name).read_bytes()
            if _mount_id(info) not in seen and os.readlink(link).startswith("/"):
                yield _device_at(link)
    mountpoints = {mount.mountpoint for mount in parse_mounts(table)} - {Path("/")}
    for name in ("cwd", "root"):
        with contextlib.suppress(OSError):
            # The number of its mount is told of what is open alone.
            path = Path(os.readlink(process / name))
            if mountpoints.isdisjoint((path, *path.parents)):
                yield _device_at(process / name)


def _mount_id(info: bytes) -> bytes:
    """Return the number of the mount that an open file is on (proc_pid_fdinfo(5))."""
    fields = (line.partition(b":") for line in info.splitlines())
    return next((value.strip() for name, _, value in fields if name == b"mnt_id"), b"")


def _device_at(link: Path) -> str:
    fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        return device_of(fd)
    finally:
        os.close(fd)
