"""Parsing of mountinfo, and taking mounts away."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.linux import mounts
from memfs.linux.mounts import (
    Mount,
    find_containing_mount,
    find_mount,
    parse_mounts,
    set_readahead,
    unmount,
)
from memfs.linux.privileges import has_cap_sys_admin

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNTINFO = rb"""21 1 8:1 / / rw,relatime shared:1 master:7 - ext4 /dev/sda1 rw,errors=remount-ro
30 21 0:25 / /tmp rw - tmpfs tmpfs rw
31 30 0:26 / /tmp/a\040b\134c rw,nosuid - fuse.memfs mem\011fs rw,user_id=0
32 30 0:27 / /tmp/a\040b\134c ro - tmpfs over
33 30 0:28 / /tmp/%s rw - tmpfs none rw
34 30 0:29 / /tmp/%s rw - tmpfs none rw
""" % (b"\xff", b"a\rb\x0b")


@pytest.fixture
def parsed() -> list[Mount]:
    return parse_mounts(MOUNTINFO)


def test_mountinfo_is_parsed(parsed: list[Mount]) -> None:
    assert parsed[0] == Mount(
        Path("/"),
        "/dev/sda1",
        "ext4",
        frozenset({"rw", "relatime", "errors=remount-ro"}),
        "8:1",
    )


def test_escaped_names_are_decoded(parsed: list[Mount]) -> None:
    assert parsed[2].mountpoint == Path("/tmp/a b\\c")
    assert parsed[2].source == "mem\tfs"


def test_names_that_are_not_utf_8_survive(parsed: list[Mount]) -> None:
    assert os.fsencode(parsed[4].mountpoint) == b"/tmp/\xff"


def test_only_a_newline_ends_a_mount(parsed: list[Mount]) -> None:
    """Others that Python takes for ends of lines may stand in a path, which anybody chooses."""
    assert os.fsencode(parsed[5].mountpoint) == b"/tmp/a\rb\x0b"
    assert len(parsed) == 6


def test_a_mount_without_superblock_options_is_parsed(parsed: list[Mount]) -> None:
    assert parsed[3].source == "over"


def test_the_topmost_of_several_mounts_is_found(parsed: list[Mount]) -> None:
    found = find_mount(Path("/tmp/a b\\c"), parsed)
    assert found is not None
    assert found.source == "over"
    assert find_mount(Path("/tmp/a b"), parsed) is None


def test_the_containing_mount_is_the_deepest() -> None:
    assert find_containing_mount(Path("/proc/self/status")).type == "proc"
    assert find_containing_mount(Path("/")).mountpoint == Path("/")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    if not has_cap_sys_admin():
        pytest.skip("mounting needs CAP_SYS_ADMIN")
    mountpoint = tmp_path / "a mount"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "memfs-test", mountpoint], check=True)
    yield mountpoint
    while find_mount(mountpoint):
        subprocess.run(["umount", "-l", mountpoint], check=True)


def test_unmount_takes_a_mount_away(mounted: Path) -> None:
    assert find_mount(mounted) is not None
    unmount(mounted)
    assert find_mount(mounted) is None
    with pytest.raises(OSError, match="Invalid argument") as caught:
        unmount(mounted)
    assert caught.value.errno == errno.EINVAL


def test_unmount_refuses_a_mount_in_use_unless_lazy(mounted: Path) -> None:
    with (mounted / "file").open("wb"):
        with pytest.raises(OSError, match="busy") as caught:
            unmount(mounted)
        assert caught.value.errno == errno.EBUSY
        unmount(mounted, lazy=True)
        assert find_mount(mounted) is None


def test_a_mount_without_a_backing_device_has_no_readahead() -> None:
    mount = mounts.Mount(Path("/nowhere"), "none", "tmpfs", frozenset(), "0:99999")
    assert not set_readahead(mount, 1 << 20)
