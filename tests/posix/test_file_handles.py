"""File handles (name_to_handle_at(2)): they name an inode that the kernel has forgotten, too."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from tests.outcomes import error_of
from tests.posix.calls import name_to_handle, open_by_handle
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory


def _read_by(root: Path, handle: bytes) -> bytes:
    mount_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = open_by_handle(mount_fd, handle, os.O_RDONLY)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)
    finally:
        os.close(mount_fd)


def _names_by(root: Path, handle: bytes) -> list[str]:
    mount_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = open_by_handle(mount_fd, handle, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)
    finally:
        os.close(mount_fd)


def test_handles_survive_a_mount(mount_factory: MountFactory, driver: str) -> None:
    """A mount that is new knows no inode at all, as after its caches were dropped."""
    mount = mount_factory(driver)
    below = mount.root / "a" / "b"
    below.mkdir(parents=True)
    (below / "file").write_bytes(b"content")
    file, directory = name_to_handle(below / "file"), name_to_handle(below)
    assert _read_by(mount.root, file) == b"content"
    (below / "gone").write_bytes(b"gone")
    gone = name_to_handle(below / "gone")
    (below / "gone").unlink()
    mount.stop()
    mount.start()
    assert _read_by(mount.root, file) == b"content"
    # The kernel finds its way up by LOOKUP of "..".
    assert _names_by(mount.root, directory) == ["file"]
    assert error_of(_read_by, mount.root, gone) == "ESTALE"


def test_a_handle_of_any_number_is_stale(mount_factory: MountFactory, driver: str) -> None:
    mount = mount_factory(driver)
    (mount.root / "file").touch()
    handle = bytearray(name_to_handle(mount.root / "file"))
    # struct file_handle, then nodeid in two halves, high first, and generation (fs/fuse/inode.c).
    for node in (1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        struct.pack_into("=II", handle, 8, node >> 32, node & 0xFFFFFFFF)
        assert error_of(_read_by, mount.root, bytes(handle)) == "ESTALE"


def test_handles_follow_names_and_last_as_long_as_somebody_holds_the_file(
    mount_factory: MountFactory, driver: str
) -> None:
    mount = mount_factory(driver)
    directory = mount.root / "a" / "b"
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(b"content")
    handle, place = name_to_handle(directory / "file"), name_to_handle(directory)
    os.link(directory / "file", mount.root / "linked")
    (directory / "file").unlink()
    assert _read_by(mount.root, handle) == b"content"
    (mount.root / "a").rename(mount.root / "renamed")
    (mount.root / "linked").rename(mount.root / "renamed" / "b" / "moved")
    mount.stop()
    mount.start()
    assert _read_by(mount.root, handle) == b"content"
    assert _names_by(mount.root, place) == ["moved"]
    with (mount.root / "renamed" / "b" / "moved").open("rb"):
        (mount.root / "renamed" / "b" / "moved").unlink()
        assert _read_by(mount.root, handle) == b"content"
    # The kernel tells of the last close later, and knows the inode until then.
    wait_for(lambda: error_of(_read_by, mount.root, handle) == "ESTALE", "the end of the inode")
