"""The mounts of this process's namespace: finding them, tuning them, taking them away.

Invariant: nothing here touches a mounted directory itself, so a dead or hanging mount does no harm.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.linux.libc import LIBC, last_error

if TYPE_CHECKING:
    from collections.abc import Sequence

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
"""sys/mount.h."""
_OCTAL = re.compile(rb"\\([0-7]{3})")

_umount2 = LIBC.umount2
_umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)

_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
"""fcntl.h; include/uapi/linux/fcntl.h."""
_STATX_BYTES = 256
_STATX_DEVICE = struct.Struct("136xII")
"""`stx_dev_major` and `stx_dev_minor` of `struct statx` (include/uapi/linux/stat.h)."""

_statx = LIBC.statx
_statx.argtypes = (
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
)  # fmt: skip


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    mountpoint: Path
    source: str
    """What was mounted, as the file system calls it."""
    type: str
    """`ext4`, `tmpfs`, `fuse.memfs`, ..."""
    options: frozenset[str]
    """Those of the mount and of its superblock: `ro`, `nosuid`, `user_id=0`, ..."""
    device: str
    """`major:minor`, as in /sys/class/bdi."""


def list_mounts() -> list[Mount]:
    """Return all mounts, each after those that it covers."""
    return parse_mounts(Path("/proc/self/mountinfo").read_bytes())


def parse_mounts(table: bytes) -> list[Mount]:
    """Return the mounts of a mountinfo table (proc_pid_mountinfo(5)), in its order."""
    # By newlines alone: the kernel escapes those in paths, and carriage returns not.
    return [_parse(line) for line in table.split(b"\n") if line]


def find_mount(mountpoint: Path, mounts: Sequence[Mount] | None = None) -> Mount | None:
    """Return the topmost mount at exactly this directory, or None.

    Only the parent directories are resolved: asking for the directory itself could hang.

    Args:
        mountpoint: The directory.
        mounts: Where it is looked for; None: in all mounts.
    """
    wanted = Path(os.path.realpath(mountpoint.parent)) / mountpoint.name
    mounts = list_mounts() if mounts is None else mounts
    return next((each for each in reversed(mounts) if each.mountpoint == wanted), None)


def find_containing_mount(path: Path) -> Mount:
    """Return the mount that an existing path lies on.

    Raises:
        OSError: The path does not exist.
    """
    return topmost_mount(path.resolve(strict=True))


def device_of(fd: int) -> str:
    """Return the device of an open file, as `Mount.device` has it; its file system is not asked.

    Raises:
        OSError: As of statx(2).
    """
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0, found):
        raise last_error()
    major, minor = _STATX_DEVICE.unpack_from(found)
    return f"{major}:{minor}"


def topmost_mount(path: Path) -> Mount:
    """Return the mount that an absolute path lies on as it is written; it need not exist."""
    above = {path, *path.parents}
    candidates = [each for each in list_mounts() if each.mountpoint in above]
    # The later of two at one directory covers the earlier; max() would return the earlier.
    return max(reversed(candidates), key=lambda each: len(each.mountpoint.parts))


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Take a mount away; through fusermount3 where this process may not.

    Blocks: while the kernel writes dirty pages, which a FUSE daemon must serve meanwhile: call it
    from another thread or process than the one that serves.

    Args:
        mountpoint: That of the mount; not followed if it is a symbolic link.
        lazy: Take it from the tree at once even if it is in use (`MNT_DETACH`).

    Raises:
        OSError: EBUSY while in use, EINVAL if nothing is mounted there, EPERM if it is not ours.

    Source: umount(2), fusermount3(1).
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if _umount2(os.fsencode(mountpoint), flags) == 0:
        return
    error = last_error(str(mountpoint))
    if error.errno != errno.EPERM:
        raise error
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as missing:
        raise error from missing
    if done.returncode != 0:
        # fusermount3 tells the reason in words only.
        code = errno.EBUSY if "busy" in done.stderr else errno.EPERM
        raise OSError(code, done.stderr.strip() or os.strerror(code), str(mountpoint))


def set_readahead(mount: Mount, readahead_bytes: int) -> bool:
    """Set how far the kernel reads ahead in cached files of a mount; needs root.

    Returns:
        False if this process may not, or the mount has no backing device of its own.

    Source: Documentation/ABI/testing/sysfs-class-bdi, read_ahead_kb.
    """
    try:
        Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(
            f"{readahead_bytes // 1024}"
        )
    except OSError:
        return False
    return True


def _parse(line: bytes) -> Mount:
    """Parse one line; fields are separated by one space, a lone `-` ends the optional ones."""
    fields = line.split(b" ")
    separator = fields.index(b"-", 6)
    kind, source, *super_options = fields[separator + 1 :]
    options = {*fields[5].split(b","), *b"".join(super_options).split(b",")}
    return Mount(
        mountpoint=Path(_text(fields[4])),
        source=_text(source),
        type=_text(kind),
        options=frozenset(_text(option) for option in options),
        device=_text(fields[2]),
    )


def _text(field: bytes) -> str:
    r"""Undo the escapes of blanks and backslashes (`\040`), which leave other bytes alone."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
