"""What words of mount(8) mean for access times, and that attributes outlive a mount."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.mounting import run_memfs
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory


def _read(path: Path) -> int:
    """Read a file whose times lie behind the clock; return its access time afterwards."""
    before_ns = max(path.stat().st_atime_ns, path.stat().st_ctime_ns)
    coarse = 5  # CLOCK_REALTIME_COARSE
    wait_for(lambda: time.clock_gettime_ns(coarse) > before_ns, "a tick of the clock")
    path.read_bytes()
    return path.stat().st_atime_ns


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [
        ("relatime", True, False),
        ("noatime", False, False),
        ("strictatime", True, True),
        ("ro,strictatime", False, False),
        ("ro", False, False),
    ],
)
def test_access_times_are_kept_as_the_mount_says(
    mount_factory: MountFactory, driver: str, words: str, first: bool, second: bool
) -> None:
    mount = mount_factory(driver)
    path = mount.root / "file"
    path.write_bytes(b"content")
    mount.stop()
    mount.options = ("-o", words)
    mount.start()
    before_ns = path.stat().st_atime_ns
    once_ns = _read(path)
    assert (once_ns > before_ns) is first
    twice_ns = _read(path)
    if second:
        # The kernel is told by a thread of its own.
        wait_for(lambda: path.stat().st_atime_ns > once_ns, "the second access", 5.0)
    else:
        assert twice_ns == once_ns


def test_a_remount_changes_how_access_times_are_kept(mount_factory: MountFactory) -> None:
    mount = mount_factory("kernel")
    path = mount.root / "file"
    path.write_bytes(b"content")
    _read(path)
    run_memfs("mount", "-o", "remount,strictatime", mount.root)
    assert _read(path) > path.stat().st_mtime_ns
    before_ns = path.stat().st_atime_ns
    assert _read(path) > before_ns
    run_memfs("mount", "-o", "remount,ro", mount.root)
    before_ns = path.stat().st_atime_ns
    assert _read(path) == before_ns


def test_values_of_any_length_outlive_the_mount(mount_factory: MountFactory, driver: str) -> None:
    mount = mount_factory(driver)
    path = mount.root / "file"
    path.touch()
    values = {"user.empty": b"", "user.0": b"\n".join(b"%d" % n for n in range(81))}
    for name, value in values.items():
        os.setxattr(path, name, value)
    mount.stop()
    mount.start()
    assert {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))} == dict(
        sorted(values.items())
    )
