"""mount(2) of a FUSE file system.

Invariant: nothing here touches a path inside a mount, which may hang while nobody serves it.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.linux.libc import LIBC, last_error
from memfs.linux.mounts import list_mounts
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
_CLEARED_FLAGS = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync"}
_IGNORED_OPTIONS = frozenset(
    {
        "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group",
        "_netdev", "atime", "diratime", "norelatime", "allow_other", "default_permissions",
    }
)  # fmt: skip
"""Said to other programs by fstab, or the case anyway."""

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
