"""statfs(2) and statvfs(3)."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory


def test_the_numbers_are_consistent(place: Path) -> None:
    status = os.statvfs(place)
    assert status.f_bsize >= 512
    assert status.f_frsize >= 512
    assert 0 < status.f_bavail <= status.f_bfree <= status.f_blocks
    assert 0 <= status.f_ffree <= status.f_files
    assert status.f_favail <= status.f_ffree


def test_every_path_and_handle_of_the_mount_tells_the_same(place: Path) -> None:
    (place / "f").touch()
    fd = os.open(place / "f", os.O_RDONLY)
    sizes = {
        (status.f_blocks, status.f_frsize)
        for status in (os.statvfs(place), os.statvfs(place / "f"), os.statvfs(fd))
    }
    os.close(fd)
    assert len(sizes) == 1


def test_written_bytes_are_taken_from_the_free_room(place: Path) -> None:
    """Others may free room of the same disk meanwhile, so one of several tries must show it."""
    size = 64 << 20

    def taken(number: int) -> int:
        before = os.statvfs(place)
        fd = os.open(place / f"{number}", os.O_CREAT | os.O_RDWR, 0o600)
        os.posix_fallocate(fd, 0, size)
        os.fsync(fd)
        after = os.statvfs(place)
        os.close(fd)
        (place / f"{number}").unlink()
        return before.f_bfree * before.f_frsize - after.f_bfree * after.f_frsize

    assert any(taken(number) > size // 2 for number in range(10))


def test_df_prints_the_mount(place: Path) -> None:
    done = subprocess.run(
        ["df", "--output=size,avail", "-B1", place], check=True, capture_output=True, text=True
    )
    size, available = map(int, done.stdout.splitlines()[1].split())
    assert 0 < available <= size


def test_df_shows_the_capacity_where_one_is_set(mount_factory: MountFactory, driver: str) -> None:
    capacity = 64 << 20
    mount = mount_factory(driver, config='[cold]\nsize = "64MiB"\n')
    empty = os.statvfs(mount.root)
    assert empty.f_blocks * empty.f_frsize == capacity
    assert empty.f_bavail == empty.f_blocks
    (mount.root / "f").write_bytes(os.urandom(4 << 20))
    os.getxattr(mount.root / "f", "user.memfs.tier")  # what is closed is counted
    used = os.statvfs(mount.root)
    assert (used.f_blocks - used.f_bfree) * used.f_frsize == (
        mount.root / "f"
    ).stat().st_blocks * 512
    assert used.f_bavail == used.f_bfree
