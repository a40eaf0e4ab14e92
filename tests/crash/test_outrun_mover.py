"""A program that writes faster than files leave a small disk: it is paced, and loses nothing."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.crash.small_disks import MountOnDisk, make_ext4
from tests.mounting import Mount, run_memfs
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_MIB = 360
FILE_BYTES = 20 << 20
FILE_COUNT = 40
"""800 MiB: more than twice the disk."""

CONFIG = """
[warm]
size = "0"
[glacier]
url = "file://{store}"
[policy]
interval = "100ms"
"""


@pytest.fixture
def small_mount(driver: str, scratch_area: scratch.Scratch) -> Iterator[Mount]:
    """A mount whose state is on an ext4 of its own, with the store beside it."""
    base = scratch_area.directory(f"outrun-{driver}")
    (base / "store").mkdir()
    make_ext4(base, DISK_MIB << 20)
    mount = MountOnDisk(base / "mounted", driver, CONFIG.format(store=base / "store"))
    try:
        mount.start()
        yield mount
        mount.stop()
        mount.check_log()
    finally:
        scratch.remove(base)


def content(number: int) -> bytes:
    """Bytes that nothing makes smaller, different for every file."""
    block = random.Random(number).randbytes(1 << 20)
    return block * (FILE_BYTES >> 20)


def low_watermark_bytes(state: Path) -> int:
    disk = os.statvfs(state)
    usable = disk.f_blocks * disk.f_frsize * 9 // 10
    return usable - usable * 8 // 10


@pytest.mark.slow
def test_what_does_not_fit_the_disk_is_written_without_a_sync(small_mount: Mount) -> None:
    """800 MiB to a disk of 360 MiB, all of which may go to the store; then it drains."""
    root = small_mount.root
    for number in range(FILE_COUNT):
        (root / f"file-{number}").write_bytes(content(number))

    def free_bytes() -> int:
        disk = os.statvfs(small_mount.state)
        return disk.f_bavail * disk.f_frsize

    wait_for(
        lambda: free_bytes() > low_watermark_bytes(small_mount.state),
        lambda: f"{free_bytes()} free: {run_memfs('status', root)}",
    )
    for number in range(FILE_COUNT):
        assert (root / f"file-{number}").read_bytes() == content(number), number


@pytest.mark.any_driver
@pytest.mark.slow
def test_a_file_larger_than_half_of_the_disk_leaves_it(small_mount: Mount) -> None:
    """Its container has no room beside it."""
    path = small_mount.root / "large"
    blocks = DISK_MIB * 6 // 10
    with path.open("wb") as file:
        for number in range(blocks):
            file.write(random.Random(number).randbytes(1 << 20))
    os.setxattr(path, "user.memfs.tier", b"glacier")

    def forms() -> list[str]:
        found: list[str] = json.loads(os.getxattr(path, "user.memfs.residency"))["forms"]
        return found

    wait_for(lambda: forms() == ["remote"], lambda: os.getxattr(path, "user.memfs.why"))
    with path.open("rb") as stored:
        for number in range(blocks):
            assert stored.read(1 << 20) == random.Random(number).randbytes(1 << 20), number
