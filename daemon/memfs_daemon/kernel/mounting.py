"""mount(2) and umount2(2) of FUSE file systems, and what the kernel tells about mounts.

Invariant: nothing here touches a path inside a mount, which may hang while nobody serves it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILESYSTEM_TYPE = "fuse.memfs"

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_ROOT_MODE = "40000"
"""File type of the root in octal; its permissions come with its attributes."""

_MOUNT_FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128,
    "noatime": 1 << 10, "nodiratime": 1 << 11, "relatime": 1 << 21, "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}  # fmt: skip
"""MS_... of mount(2) by the words of mount(8)."""
_CLEARED_FLAGS = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync"}
_IGNORED_OPTIONS = frozenset(
    {
        "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group",
        "_netdev", "atime", "diratime", "norelatime", "allow_other", "default_permissions",
    }
)  # fmt: skip
"""Said to other programs by fstab, or the case anyway."""

_libc = ctypes.CDLL(None, use_errno=True)


class MountEntry(NamedTuple):
    """One line of `/proc/self/mountinfo` (proc(5))."""

    device: str
    """`major:minor`."""
    mountpoint: str
    type: str
    source: str


def parse_options(options: Sequence[str]) -> int:
    """Turn options of mount(8) into flags of mount(2); later words win.

    Raises:
        UsageError: An option that memfs does not know.
    """
    flags = 0
    for option in options:
        if option in _MOUNT_FLAGS:
            flags |= _MOUNT_FLAGS[option]
        elif option in _CLEARED_FLAGS:
            flags &= ~_MOUNT_FLAGS[_CLEARED_FLAGS[option]]
        elif option not in _IGNORED_OPTIONS and not option.startswith(("x-", "comment=")):
            raise UsageError(f"unknown mount option {option!r}; see memfs mount --help")
    return flags


def mount(
    fd: int, mountpoint: Path, source: str, *, flags: int, allow_other: bool, read_bytes_max: int
) -> None:
    """Mount an open `/dev/fuse` descriptor.

    Args:
        fd: Of `/dev/fuse`, not mounted yet.
        mountpoint: An existing directory.
        source: What `/proc/mounts` shows as the device.
        flags: Of mount(2).
        allow_other: Let users other than the mounting one in.
        read_bytes_max: Largest READ.

    Raises:
        OSError: As of mount(2).

    Source: Documentation/filesystems/fuse/fuse.rst, mount options.
    """
    data = (
        f"fd={fd},rootmode={_ROOT_MODE},user_id={os.getuid()},group_id={os.getgid()},"
        f"default_permissions,max_read={read_bytes_max}"
    )
    if allow_other:
        data += ",allow_other"
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(mountpoint),
        FILESYSTEM_TYPE.encode(),
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _check(result, mountpoint)


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount; call it from a thread if this process serves the mount.

    Args:
        mountpoint: Not followed if it is a symbolic link.
        lazy: Take it out of the tree now, and let open files go on (MNT_DETACH).

    Raises:
        OSError: As of umount2(2): EBUSY with open files, EINVAL for no mountpoint.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    _check(_libc.umount2(os.fsencode(mountpoint), flags), mountpoint)


def _check(result: int, path: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(path))


def read_mounts() -> Iterator[MountEntry]:
    """Yield the mounts of this namespace, in the order in which they were made."""
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            before, _, after = line.rstrip(b"\n").partition(b" - ")
            fields, tail = before.split(b" "), after.split(b" ")
            yield MountEntry(
                fields[2].decode(), _unescape(fields[4]), tail[0].decode(), _unescape(tail[1])
            )


def _unescape(field: bytes) -> str:
    """Undo the octal escapes that proc(5) writes for blanks, tabs, line ends and backslashes."""
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
    return os.fsdecode(raw)


def find_mount(mountpoint: Path) -> MountEntry | None:
    """Return what is mounted on a directory, the topmost, without touching it."""
    wanted = os.path.realpath(mountpoint.parent / "") if mountpoint.name else "/"
    path = os.path.join(wanted, mountpoint.name)
    found = None
    for entry in read_mounts():
        if entry.mountpoint == path:
            found = entry
    return found


def detach_stale(mountpoint: Path) -> bool:
    """Remove a memfs mount whose daemon has died (ENOTCONN); return True if there was one.

    Raises:
        OSError: EPERM without the right to unmount.
    """
    entry = find_mount(mountpoint)
    if entry is None or entry.type != FILESYSTEM_TYPE:
        return False
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        unmount(mountpoint, lazy=True)
        return True
    return False


def stack_depth_for(directory: Path) -> int:
    """Return the `max_stack_depth` that passthrough to files in a directory needs.

    1 on a plain file system; 2 on an overlayfs, which counts as one layer itself.
    """
    device = os.stat(directory).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    stacked = any(entry.device == name and entry.type == "overlay" for entry in read_mounts())
    return 2 if stacked else 1


def set_readahead(mountpoint: Path, readahead_bytes: int) -> None:
    """Raise the read-ahead of a mount, which the kernel starts at 128 KiB.

    Raises:
        OSError: Not allowed, or no such device.
    """
    entry = find_mount(mountpoint)
    if entry is None:
        raise FileNotFoundError(errno.ENOENT, "not mounted", os.fspath(mountpoint))
    with open(f"/sys/class/bdi/{entry.device}/read_ahead_kb", "w") as file:
        file.write(str(readahead_bytes >> 10))
