"""Mounts whose state directory is on a small file system of its own."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.mounting import Mount

if TYPE_CHECKING:
    from pathlib import Path


class MountOnDisk(Mount):
    """A mount whose state directory lies apart from its mountpoint."""

    @property
    def state(self) -> Path:
        """On the small disk."""
        return self.base.parent / "disk" / "state"


def make_tmpfs(base: Path, size_bytes: int, inode_count: int = 0) -> None:
    """Mount a file system in memory at `disk` below `base`; skip the test where that is refused.

    Args:
        inode_count: That it has; 0: without limit.
    """
    options = f"size={size_bytes},nr_inodes={inode_count}"
    _mount(base, "-t", "tmpfs", "-o", options, "memfs-test")


def make_ext4(base: Path, size_bytes: int) -> None:
    """Mount an ext4 in a file at `disk` below `base`; skip the test where that is refused."""
    image = base / "image"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    # No blocks for root alone: it is root who writes here.
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    _mount(base, "-o", "loop", str(image))


XFS_BYTES_MIN = 300 << 20
"""A smaller one is refused by mkfs.xfs; the image has holes."""


def make_xfs(base: Path, size_bytes: int = XFS_BYTES_MIN) -> None:
    """Mount an XFS, which shares blocks between files (FICLONE), as `make_ext4`."""
    image = base / "image"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, capture_output=True)
    _mount(base, "-o", "loop", str(image))


def _mount(base: Path, *arguments: str) -> None:
    """Mount at `disk`, and make the directory `mounted` beside it."""
    for name in ("disk", "mounted"):
        (base / name).mkdir()
    command = ["mount", *arguments, str(base / "disk")]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system takes root, and a loop device for an image")
