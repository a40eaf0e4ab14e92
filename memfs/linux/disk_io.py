"""What passes between memory and a disk, for the whole machine and for this process alone.

Invariant: numbers only grow, and reading them costs no I/O.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from memfs.linux.mounts import find_containing_mount

_SECTOR_BYTES = 512
"""Bytes of /proc/diskstats, whatever the disk's own sectors are (iostats.rst in the kernel's
docs)."""


class DiskIo(NamedTuple):
    """Bytes since some beginning."""

    read_bytes: int
    written_bytes: int


def find_device(path: Path) -> tuple[int, int] | None:
    """Return major and minor number of the disk or partition that holds a path.

    None if no single one does: a file system in memory, on a network, or on several disks.
    """
    number = os.stat(path).st_dev
    if os.major(number):
        return os.major(number), os.minor(number)
    # btrfs and overlayfs have numbers of their own; the former names its first disk as source.
    source = find_containing_mount(path).source
    if not source.startswith("/dev/"):
        return None
    try:
        number = os.stat(source).st_rdev
    except OSError:
        return None
    return (os.major(number), os.minor(number)) if number else None


def read_disk_io(device: tuple[int, int]) -> DiskIo | None:
    """Return what all programs of the machine have moved; None if the disk is gone."""
    for line in Path("/proc/diskstats").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == device:
            return DiskIo(int(fields[5]) * _SECTOR_BYTES, int(fields[9]) * _SECTOR_BYTES)
    return None


def read_own_io() -> DiskIo:
    """Return what this process has moved; writes count when they reach the page cache.

    Source: /proc/PID/io in proc_pid_io(5).
    """
    fields = {}
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value)
    return DiskIo(fields["read_bytes"], fields["write_bytes"] - fields["cancelled_write_bytes"])
