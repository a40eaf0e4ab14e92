"""A state that was filled to the last block can be mounted, and things can be removed from it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.crash.small_disks import MountOnDisk, make_ext4
from tests.mounting import run_memfs
from tests.outcomes import error_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounting import Mount

DISK_BYTES = 160 << 20
BIG_BYTES = 48 << 20


@pytest.fixture
def image_mount(driver: str, scratch_area: scratch.Scratch) -> Iterator[Mount]:
    """A mount whose state is on an ext4 of 160 MiB in a file."""
    base = scratch_area.directory(f"image-{driver}")
    make_ext4(base, DISK_BYTES)
    mount = MountOnDisk(base / "mounted", driver)
    try:
        mount.start()
        yield mount
        mount.stop()
    finally:
        scratch.remove(base)


def fill(path: Path) -> None:
    """Write to the disk itself until not even a block is left."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for size in (1 << 20, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, bytes(size))
    finally:
        os.close(fd)


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


@pytest.mark.any_driver
@pytest.mark.parametrize("killed", [True, False])
def test_a_full_state_mounts_and_gives_room_back(image_mount: Mount, killed: bool) -> None:
    root = image_mount.root
    big, small = root / "big", root / "small"
    big.write_bytes(b"b" * BIG_BYTES)
    small.write_bytes(b"s" * 1000)
    fd = os.open(small, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    ballast = image_mount.state.parent / "ballast"
    fill(ballast)
    # The reserve goes with the first change that finds no room.
    for index in range(200):
        if error_of((root / f"empty-{index}").touch) == "ENOSPC":
            break
    if killed:
        image_mount.kill()
    else:
        image_mount.stop()
    (image_mount.state / "reserve").unlink(missing_ok=True)
    fill(ballast)
    image_mount.start()
    assert small.read_bytes() == b"s" * 1000
    assert big.stat().st_size == BIG_BYTES
    big.unlink()
    # At once, but for a move of the mover's that has the file open at this moment.
    wait_for(
        lambda: free_bytes(image_mount.state) > BIG_BYTES // 2,
        lambda: (
            "the room of a removed file",
            run_memfs("status", root),
            image_mount.log.read_text()[-4000:],
        ),
    )
    (root / "after").write_bytes(b"a" * (BIG_BYTES // 4))
    assert (root / "after").read_bytes() == b"a" * (BIG_BYTES // 4)
    ballast.unlink()
