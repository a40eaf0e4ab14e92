"""Numbers at the limits of their types, through system calls: the daemon lives and tells errors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.capabilities import Capability

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory

pytestmark = pytest.mark.data_path

YEAR_2300_S = 10_413_792_000
TIMES_S = (
    *(-(1 << 63) // 10**9 - 1, -(1 << 40), -(1 << 31) - 1, -(1 << 31), -1, 0),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *((1 << 63) // 10**9, (1 << 63) // 10**9 + 1, YEAR_2300_S, 1 << 40, (1 << 62), (1 << 63) - 1),
)
EARLIEST_S, LATEST_S = -(1 << 31), ((1 << 63) - 1) // 10**9


@pytest.mark.parametrize("seconds", TIMES_S)
@pytest.mark.parametrize("what", ["file", "open", "directory", "symlink"])
def test_times_are_cut_and_never_refused(place: Path, seconds: int, what: str) -> None:
    path = place / "it"
    writer = -1
    if what == "directory":
        path.mkdir()
    elif what == "symlink":
        path.symlink_to("nowhere")
    else:
        path.touch()
        if what == "open":
            writer = os.open(path, os.O_WRONLY)
    os.utime(path, ns=(seconds * 10**9 + 5, seconds * 10**9 + 7), follow_symlinks=False)
    status = path.lstat()
    if writer >= 0:
        os.close(writer)
    if EARLIEST_S < seconds < LATEST_S:
        assert (status.st_atime_ns, status.st_mtime_ns) == (
            seconds * 10**9 + 5,
            seconds * 10**9 + 7,
        )
    elif seconds <= EARLIEST_S:
        assert status.st_mtime_ns // 10**9 == EARLIEST_S
    else:
        assert status.st_mtime_ns // 10**9 >= LATEST_S


@pytest.mark.needs(Capability.SEEK_HOLE)
@pytest.mark.parametrize("offset", [-1, -(1 << 63), (1 << 63) - 1, 4096])
@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
def test_data_and_holes_are_sought_within_the_file(place: Path, offset: int, whence: int) -> None:
    (place / "f").write_bytes(b"data")
    fd = os.open(place / "f", os.O_RDONLY)
    assert error_of(os.lseek, fd, offset, whence) == "ENXIO"
    os.close(fd)


def test_sizes_beyond_the_limit_are_told(place: Path) -> None:
    (place / "f").write_bytes(b"data")
    assert error_of(os.truncate, place / "f", (1 << 63) - 1) in ("EFBIG", "EINVAL")
    assert error_of(os.truncate, place / "f", -1) == "EINVAL"
    assert (place / "f").read_bytes() == b"data"


def test_owners_modes_and_devices_of_any_size(place: Path) -> None:
    path = place / "f"
    path.touch()
    for owner in (0, (1 << 31) - 1, 1 << 31, (1 << 32) - 2):
        os.chown(path, owner, owner)
        assert (path.stat().st_uid, path.stat().st_gid) == (owner, owner)
    os.chmod(path, 0o7777)
    assert path.stat().st_mode & 0o7777 == 0o7777
    for serial, device in enumerate((0, 0xFFFFFFFF, os.makedev(4095, (1 << 20) - 1))):
        node = place / f"node{serial}"
        os.mknod(node, 0o020600, device)
        assert node.stat().st_rdev == device


def test_after_a_time_of_the_year_2300_the_state_is_mounted_again(
    mount_factory: MountFactory, driver: str
) -> None:
    mount = mount_factory(driver)
    for name in ("sealed", "written"):
        (mount.root / name).write_bytes(b"content")
    for name in ("sealed", "written"):
        path = mount.root / name
        with path.open("ab", buffering=0) as writer:
            os.utime(path, (YEAR_2300_S, YEAR_2300_S))
            writer.write(b"more")
            if name == "written":
                os.utime(path, (YEAR_2300_S, YEAR_2300_S))
        os.utime(path, (YEAR_2300_S, YEAR_2300_S))
    mount.stop()
    mount.start()
    for name in ("sealed", "written"):
        assert (mount.root / name).read_bytes() == b"contentmore"
        assert (mount.root / name).stat().st_mtime >= LATEST_S
