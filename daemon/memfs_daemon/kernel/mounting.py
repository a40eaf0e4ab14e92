"""mount(2) of a FUSE file system.

Invariant: nothing here touches a path inside a mount, which may hang while nobody serves it.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.linux.libc import LIBC, last_error
from memfs.linux.mounts import Mount, list_mounts
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ROOT_MODE = "40000"
"""File type of the root in octal; its permissions come with its attributes."""

_MOUNT_FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128,
    "noatime": 1 << 10, "nodiratime": 1 << 11, "relatime": 1 << 21, "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}  # fmt: skip
"""MS_... of mount(2) by the words of mount(8)."""
_CLEARED_FLAGS = {
    "rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync",
    "atime": "noatime", "norelatime": "relatime", "nostrictatime": "strictatime",
    "diratime": "nodiratime", "nolazytime": "lazytime",
}  # fmt: skip
_FOR_SECURITY = ("context=", "fscontext=", "defcontext=", "rootcontext=")
_ATIME_FLAGS = (1 << 10) | (1 << 21) | (1 << 24)
"""That of `noatime`, `relatime` and `strictatime`, of which one holds."""
_MS_REMOUNT = 32

_mount = LIBC.mount
_mount.argtypes = (
    *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p),
    *(ctypes.c_ulong, ctypes.c_char_p),
)


def parse_options(options: Sequence[str]) -> int:
    """Turn options of mount(8) into flags of mount(2); later words win.

    Raises:
        UsageError: An option that memfs does not know.
    """
    flags = 0
    for option in options:
        if option in _MOUNT_FLAGS:
            if _MOUNT_FLAGS[option] & _ATIME_FLAGS:
                flags &= ~_ATIME_FLAGS
            flags |= _MOUNT_FLAGS[option]
        elif option in _CLEARED_FLAGS:
            flags &= ~_MOUNT_FLAGS[_CLEARED_FLAGS[option]]
        elif not option.startswith(_FOR_SECURITY):
            raise UsageError(f"unknown mount option {option!r}; see memfs mount --help")
    return flags


def words_of(mount: Mount) -> tuple[str, ...]:
    """Return the options of mount(8) that a mount has and that are flags."""
    return tuple(word for word in _MOUNT_FLAGS if word in mount.options)


def remount(mountpoint: Path, flags: int) -> None:
    """Give a mount, and its file system, other flags of mount(2).

    Args:
        mountpoint: Where a FUSE file system is mounted.
        flags: All that are to hold from now on.

    Raises:
        OSError: As of mount(2): EPERM for others than root, EBUSY if `ro` is asked for while files
            are open for writing.
    """
    target = os.fsencode(mountpoint)
    if _mount(None, target, None, _MS_REMOUNT | flags, None) != 0:
        raise last_error(os.fspath(mountpoint))


def mount(
    fd: int,
    mountpoint: Path,
    source: str,
    *,
    flags: int,
    allow_other: bool,
    read_bytes_max: int,
    options: Sequence[str] = (),
) -> None:
    """Mount an open `/dev/fuse` descriptor.

    Args:
        fd: That of `/dev/fuse`, not mounted yet.
        mountpoint: An existing directory.
        source: What `/proc/mounts` shows as the device.
        flags: Those of mount(2).
        allow_other: Let users other than the mounting one in.
        read_bytes_max: Largest READ.
        options: As of `parse_options`, for those that are no flags: SELinux contexts.

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
    for option in options:
        if option.startswith(_FOR_SECURITY):
            name, _, context = option.partition("=")
            data += f',{name}="{context}"'
    target = os.fsencode(mountpoint)
    if _mount(os.fsencode(source), target, FILESYSTEM_TYPE.encode(), flags, data.encode()) != 0:
        raise last_error(os.fspath(mountpoint))


def stack_depth_for(directory: Path) -> int:
    """Return the `max_stack_depth` that passthrough to files in a directory needs.

    1 on a plain file system; 2 on an overlayfs, which counts as one layer itself.
    """
    device = os.stat(directory).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    stacked = any(entry.device == name and entry.type == "overlay" for entry in list_mounts())
    return 2 if stacked else 1
