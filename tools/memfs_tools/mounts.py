"""The memfs mounts of this machine, as the kernel lists them.

Invariant: nothing here asks a daemon anything, so nothing here hangs on a dead or a busy one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.client.mount import Mount
from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.mounts import find_mount, list_mounts
from memfs.linux.namespaces import list_residents
from memfs.types import FILESYSTEM_TYPE
from memfs_daemon.state_lock import find_holder

if TYPE_CHECKING:
    from memfs.linux.mounts import Mount as KernelMount


def find_mount_at(path: Path) -> Mount | None:
    """Return the memfs mount whose root is the topmost at a path; None without one."""
    mount = find_mount(Path(os.path.abspath(path)))
    if mount is None or mount.type != FILESYSTEM_TYPE:
        return None
    return _served(mount)


def find_mount_of(path: Path) -> Mount | None:
    """Return the mount at a path, or the last one of the state directory that the path is."""
    if (found := find_mount_at(path)) is not None:
        return found
    state_dir = Path(os.path.realpath(path))
    return next((each for each in reversed(list_served()) if each.state_dir == state_dir), None)


def find_mount_elsewhere(path: Path) -> Mount | None:
    """Return a mount that is in other mount namespaces only, by mountpoint or state directory."""
    places = {Path(os.path.abspath(path)), Path(os.path.realpath(path))}

    def wanted(mount: KernelMount) -> bool:
        is_memfs = mount.type == FILESYSTEM_TYPE
        return is_memfs and bool(places & {mount.mountpoint, Path(mount.source)})

    found = next((_served(each.mount) for each in list_residents(wanted)), None)
    return None if found is None else found._replace(is_here=False)


def find_detached_mount(path: Path) -> Mount | None:
    """Return the mount of a state directory that was taken from the tree and is served still.

    Raises:
        UsageError: Only the user who mounted it, or root, may know.
    """
    state_dir = Path(os.path.realpath(path))
    try:
        holder = find_holder(state_dir)
    except PermissionError:
        raise UsageError(f"{path} is of another user; unmount it as that user or as root") from None
    except OSError:
        return None
    if holder is None or holder.mountpoint is None or holder.device is None:
        return None
    return Mount(Path(holder.mountpoint), state_dir, holder.device, is_here=False)


def find_mount_above(path: Path) -> Mount | None:
    """Return the memfs mount that a path, existing or not, lies in."""
    place = Path(os.path.abspath(path))
    for candidate in (place, *place.parents):
        if (found := find_mount_at(candidate)) is not None:
            return found
    return None


def list_served() -> list[Mount]:
    """Return all mounts of memfs."""
    return [_served(mount) for mount in list_mounts() if mount.type == FILESYSTEM_TYPE]


def _served(mount: KernelMount) -> Mount:
    return Mount(mount.mountpoint, Path(mount.source), mount.device)


def require_mount(path: Path) -> Mount:
    """Return the memfs mount that is at a path.

    Raises:
        UsageError: No mount is; the message names the one that the path lies in, or all there are.
    """
    if (found := find_mount_at(path)) is not None:
        return found
    if (above := find_mount_above(path)) is not None:
        hint = f"it lies in the mount {above.mountpoint}"
    else:
        known = [str(mount.mountpoint) for mount in list_served()]
        hint = f"memfs is mounted at {', '.join(known)}" if known else "no memfs is mounted at all"
    raise UsageError(f"{path} is no mountpoint of memfs; {hint}", ExitCode.NOT_MOUNTED)


def choose_mount(place: Path | None) -> Mount:
    """Return the mount that is meant: that of a path, of the working directory, or the only one.

    Raises:
        UsageError: No mount is, or several could be.
    """
    found = find_mount_above(place if place is not None else Path(os.getcwd()))
    if found is not None:
        return found
    if place is not None:
        raise UsageError(f"{place} does not lie in a mount of memfs", ExitCode.NOT_MOUNTED)
    served = list_served()
    if len(served) == 1:
        return served[0]
    known = ", ".join(str(mount.mountpoint) for mount in served)
    hint = f"there are {known}; name one with --mount" if served else "no memfs is mounted at all"
    raise UsageError(f"which mount? {hint}", ExitCode.NOT_MOUNTED)


def meant_mount(mountpoint: Path | None, place: Path | None) -> Mount:
    """Return the mount of a command that takes it as an argument, by `--mount`, or not at all.

    Args:
        mountpoint: The argument.
        place: That of the option, any path in the mount.

    Raises:
        UsageError: No mount is there, several could be meant, or it is named twice.
    """
    if mountpoint is None:
        return choose_mount(place)
    if place is not None:
        raise UsageError(f"{mountpoint} and --mount {place}: name the mount once")
    return require_mount(mountpoint)


def find_daemon(served: Mount) -> int | None:
    """Return the process id of the daemon that serves a mount; None if it has died.

    Raises:
        UsageError: Only the user who mounted it, or root, may know.
    """
    try:
        holder = find_holder(served.state_dir)
    except PermissionError:
        raise UsageError(
            f"{served.mountpoint} was mounted by another user; unmount it as that user or as root"
        ) from None
    if holder is None or holder.mountpoint is None:
        return None
    if not served.is_here:
        return holder.pid
    return holder.pid if holder.mountpoint == os.fspath(served.mountpoint) else None
