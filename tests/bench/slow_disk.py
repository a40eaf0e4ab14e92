"""A disk whose flushes take their time: one image file, served over FUSE for a loop device.

Invariant: each fsync of the image, which is what a flush of the loop device comes to, takes at
least as long as was asked for; nothing else is slowed down on purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyfuse3
import trio

from tests import scratch
from tests.bench.disk import format_and_mount
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = b"image"
_IMAGE = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
_VALID_S = 3600.0


class _Image(pyfuse3.Operations):
    """A directory with one file.

    Args:
        fd: Open at what the file holds.
        flush_s: What each fsync takes longer.
    """

    enable_writeback_cache = True

    def __init__(self, fd: int, flush_s: float) -> None:
        super().__init__()
        self._fd = fd
        self._flush_s = flush_s

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_nlink = 1
        attributes.entry_timeout = attributes.attr_timeout = _VALID_S
        if inode == _IMAGE:
            attributes.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o600)
            attributes.st_size = os.fstat(self._fd).st_size
        else:
            attributes.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o700)
        return attributes

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        # Times that the kernel flushes.
        return await self.getattr(inode)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(_IMAGE)

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(0), keep_cache=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self._fd, size, off)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        return os.pwrite(self._fd, buf, off)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        await trio.sleep(self._flush_s)


@contextlib.contextmanager
def mounted_slow_image(base: Path, size_bytes: int, flush_s: float) -> Iterator[Path]:
    """Mount a fresh ext4 on a disk whose flushes take at least so long, for the block.

    Args:
        base: Empty directory for the image, which is as large as what is written, and the mounts.
        size_bytes: That of the disk.
        flush_s: The time.

    Raises:
        DiskError: As `mount_image`.
    """
    held, slow, disk = base / "held", base / "slow", base / "disk"
    with held.open("wb") as file:
        file.truncate(size_bytes)
    slow.mkdir()
    command: list[str | Path] = [sys.executable, "-m", "tests.bench.slow_disk"]
    command += [held, slow, str(flush_s)]
    with subprocess.Popen(command) as server:
        try:
            image = slow / os.fsdecode(NAME)
            wait_for(image.exists, "the slow disk")
            format_and_mount(image, disk)
            try:
                yield disk
            finally:
                # Before what it lies on.
                subprocess.run(["umount", disk], check=True)
        finally:
            scratch.detach(slow)
            server.wait()


def main() -> None:
    """Serve until the end of the mount."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("flush_s", type=float)
    arguments = parser.parse_args()
    fd = os.open(arguments.held, os.O_RDWR)
    options = {*pyfuse3.default_options, "fsname=slow-disk"}
    pyfuse3.init(_Image(fd, arguments.flush_s), str(arguments.root), options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
