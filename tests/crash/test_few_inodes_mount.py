"""A disk with bytes and without inodes: small files leave it as large ones leave a full disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.crash.small_disks import MountOnDisk, make_tmpfs
from tests.mounting import UNDISTURBED, MountError, run_memfs
from tests.outcomes import error_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounting import Mount

INODE_COUNT = 1500

CONFIG = """
[warm]
size = "0"
[glacier]
url = "file://{store}"
batch_idle = "100ms"
[policy]
interval = "100ms"
"""


@pytest.fixture
def few_inodes(driver: str, scratch_area: scratch.Scratch) -> Iterator[Mount]:
    """A mount whose state is on a file system of few inodes, with the store beside it."""
    base = scratch_area.directory(f"inodes-{driver}")
    (base / "store").mkdir()
    make_tmpfs(base, 256 << 20, INODE_COUNT)
    config = CONFIG.format(store=base / "store")
    mount = MountOnDisk(base / "mounted", driver, config, UNDISTURBED)
    try:
        mount.start()
        yield mount
        mount.stop()
        mount.check_log((r"is full: only removing works", r"no inodes left"))
        mount.fsck()
    finally:
        scratch.remove(base)


@pytest.mark.any_driver
def test_small_files_leave_a_disk_that_has_few_inodes(few_inodes: Mount) -> None:
    """The disk is 2 % full by its bytes."""
    root, written = few_inodes.root, {}
    for number in range(INODE_COUNT):
        path, content = root / f"file-{number}", os.urandom(3000)
        if (refusal := error_of(path.write_bytes, content)) is not None:
            assert refusal == "ENOSPC"
            break
        written[path] = content
    assert len(written) > INODE_COUNT * 0.8

    def free_count() -> int:
        return os.statvfs(few_inodes.state).f_favail

    wait_for(
        lambda: free_count() > INODE_COUNT * 0.08,
        lambda: f"{free_count()} inodes: {run_memfs('status', root)}",
    )
    # `df -i` tells what there is.
    assert os.statvfs(root).f_favail <= INODE_COUNT
    for number in range(40):
        written[root / f"later-{number}"] = content
        (root / f"later-{number}").write_bytes(content)
    for path, expected in written.items():
        assert path.read_bytes() == expected


@pytest.mark.any_driver
def test_a_mount_says_that_the_disk_has_no_inodes(few_inodes: Mount) -> None:
    """Others have taken the last ones, and SQLite says only that it cannot open a file."""
    few_inodes.stop()
    disk = few_inodes.state.parent
    taken: list[Path] = []
    while os.statvfs(disk).f_favail:
        taken.append(disk / f"taken-{len(taken)}")
        taken[-1].touch()
    with pytest.raises(MountError, match="no inodes left; remove files"):
        few_inodes.start()
    for path in taken:
        path.unlink()
    few_inodes.start()
