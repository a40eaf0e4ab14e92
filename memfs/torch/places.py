"""Places: the inode numbers of many files, by index, on whatever mounts of memfs they are.

Invariant: a number is that of the name when its directory was last looked at; a directory is looked
at again when its modification time is another one.

One look at a directory gives the numbers of all its files; asking for each by its path would cost
the program and the daemon more than reading a small file does.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.client.mount import Mount
from memfs.linux.mounts import list_mounts
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LISTED_COUNT_MIN = 8
"""A directory with fewer files of ours is not listed: it may have millions of others."""

NOWHERE = 0
"""The number of a file that is not on memfs, or not there."""


def mounts_by_device() -> dict[int, Mount]:
    """Return the mounts of memfs."""
    found = {}
    for mount in list_mounts():
        if mount.type == FILESYSTEM_TYPE:
            major, _, minor = mount.device.partition(":")
            device = os.makedev(int(major), int(minor))
            found[device] = Mount(mount.mountpoint, Path(mount.source))
    return found


class MountedFiles(NamedTuple):
    """Files of one mount, in an order."""

    mount: Mount
    inos: array[int]
    positions: Sequence[int]
    """Those of each in the order that was asked for, ascending."""


class _Directory:
    """Files of one directory."""

    def __init__(self) -> None:
        self.indices = array("Q")
        self.mtime_ns = -1
        self.device = -1


class Places:
    """Finds files.

    Args:
        paths: By index.
        find_mounts: Returns the mounts of memfs by device.
    """

    def __init__(
        self,
        paths: Sequence[str],
        find_mounts: Callable[[], dict[int, Mount]] = mounts_by_device,
    ) -> None:
        self._paths = paths
        self._find_mounts = find_mounts
        self._directories: dict[str, _Directory] | None = None
        self._inos = array("Q")
        self._devices = array("q")
        """Those of each file's directory; -1: it is not on memfs."""

    def locate(self, order: Sequence[int]) -> list[MountedFiles]:
        """Return where files are, by mount; those that are not on memfs are left out.

        Args:
            order: Indices of paths.
        """
        mounts = self._find_mounts()
        self._refresh(mounts)
        inos, devices = self._inos, self._devices
        found = []
        for device, mount in mounts.items():
            here = [at for at, index in enumerate(order) if devices[index] == device]
            if here:
                numbers = array("Q", [inos[order[at]] for at in here])
                found.append(MountedFiles(mount, numbers, here))
        return found

    def _refresh(self, mounts: dict[int, Mount]) -> None:
        if self._directories is None:
            self._directories = _group(self._paths)
            self._inos = array("Q", bytes(8 * len(self._paths)))
            self._devices = array("q", [-1]) * len(self._paths)
        for path, directory in self._directories.items():
            try:
                status = os.stat(path)
            except OSError:
                self._forget(directory)
                continue
            if status.st_dev not in mounts:
                self._forget(directory)
            elif (status.st_dev, status.st_mtime_ns) != (directory.device, directory.mtime_ns):
                # As it was before it is listed: what changes meanwhile is seen the next time.
                directory.device, directory.mtime_ns = status.st_dev, status.st_mtime_ns
                self._look(path, directory)

    def _look(self, path: str, directory: _Directory) -> None:
        names = [os.path.basename(self._paths[index]) for index in directory.indices]
        for index, number in zip(directory.indices, _numbers_of(path, names), strict=True):
            self._inos[index] = number
            self._devices[index] = -1 if number == NOWHERE else directory.device

    def _forget(self, directory: _Directory) -> None:
        if directory.device != -1:
            directory.device = -1
            for index in directory.indices:
                self._devices[index] = -1


def _group(paths: Sequence[str]) -> dict[str, _Directory]:
    found: dict[str, _Directory] = {}
    for index, path in enumerate(paths):
        parent = os.path.dirname(path) or "."
        directory = found.get(parent)
        if directory is None:
            directory = found[parent] = _Directory()
        directory.indices.append(index)
    return found


def _numbers_of(path: str, names: Sequence[str]) -> list[int]:
    """Return the inode numbers of names in a directory."""
    if len(names) < LISTED_COUNT_MIN:
        return [_number_of(os.path.join(path, name)) for name in names]
    wanted = dict.fromkeys(names, NOWHERE)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name in wanted:
                    wanted[entry.name] = entry.inode()
    except OSError:
        # It went away meanwhile, or may not be listed.
        return [_number_of(os.path.join(path, name)) for name in names]
    return [wanted[name] for name in names]


def _number_of(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return NOWHERE
