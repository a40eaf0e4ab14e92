"""The file system below all places: a fresh ext4 in an image file, so that history does not matter.

A used one does: ext4 without a journal, as cloud images have it, looks at every inode that was
deleted in the last minutes before it creates one (`recently_deleted` in fs/ext4/ialloc.c). Measured
on such a disk: 54 k creates per second at first, 3 k after a few thousand files had been unlinked,
75 k in a fresh image (2 vCPU, kernel 6.18), whatever file system was mounted on top.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BYTES_PER_INODE = 8192
"""So that an image of 12 GiB has room for the million inodes of the memory figure."""


class DiskError(Exception):
    """The image could not be made or mounted; carries the program's words."""


def mount_image(base: Path, size_bytes: int) -> Path:
    """Make a sparse image in `base`, mount it there, and return the root of it.

    `scratch.remove(base)` unmounts it, which also frees the loop device, and deletes it.

    Raises:
        DiskError: mkfs.ext4(8) is missing, or the kernel lends no loop device.
    """
    image, root = base / "image", base / "disk"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    format_and_mount(image, root)
    return root


def format_and_mount(image: Path, root: Path) -> None:
    """Make an ext4 in an image and mount it; `root` must not exist.

    Raises:
        DiskError: As `mount_image`.
    """
    root.mkdir()
    # No reserved share and no thread that fills inode tables beside the samples.
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-i", str(BYTES_PER_INODE), image)
    _run("mount", "-o", "loop,noinit_itable", image, root)


def _run(*command: str | Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DiskError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        raise DiskError(done.stderr.strip() or f"{command[0]} failed")
