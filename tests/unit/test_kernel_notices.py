"""What changes behind the kernel's back shows once the kernel is told; on real mounts."""

from __future__ import annotations

import logging
import os
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from memfs.config import MountConfig
from memfs.filesystem.validity import ValidityLimits
from memfs.types import ROOT_INODE, InodeNo
from memfs_daemon.kernel.probe import probe as probe_kernel
from memfs_daemon.kernel.protocol import MINOR_INC_EPOCH
from memfs_daemon.pyfuse3.probe import probe as probe_pyfuse3
from tests.unit.fakes.file_system import FakeValidity
from tests.unit.fakes.kernel_mount import KernelMount
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.fakes.file_system import FakeInode
    from tests.unit.fakes.pyfuse3_mount import Pyfuse3Mount

pytestmark = pytest.mark.mount


@pytest.fixture(params=["kernel", "pyfuse3"])
def mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KernelMount | Pyfuse3Mount]:
    """Without passthrough: the kernel keeps pages of its own."""
    probe = probe_kernel if request.param == "kernel" else probe_pyfuse3
    if (refusal := probe()) is not None:
        pytest.skip(refusal)
    config = MountConfig(passthrough=False)
    if request.param == "kernel":
        with KernelMount(tmp_path, config) as kernel_mount:
            yield kernel_mount
        return
    from tests.unit.fakes.pyfuse3_mount import Pyfuse3Mount

    with Pyfuse3Mount(tmp_path, config) as pyfuse3_mount:
        yield pyfuse3_mount


def behind_its_back(mount: KernelMount | Pyfuse3Mount, change: Callable[[], object]) -> None:
    """Change the file system as another node would."""
    mount.call(change)


def node_of(mount: KernelMount | Pyfuse3Mount, path: Path) -> FakeInode:
    return mount.filesystem.inode(InodeNo(path.stat().st_ino))


def test_a_name_that_was_made_elsewhere_is_seen(mount: KernelMount | Pyfuse3Mount) -> None:
    path = mount.root / "new"
    assert not path.exists()
    behind_its_back(mount, lambda: mount.filesystem.add_file(b"new", b"content"))
    assert not path.exists(), "the kernel believes for an hour that it is missing"
    mount.kernel_cache.forget_name(ROOT_INODE, b"new")
    wait_for(path.exists, "the name is not seen")
    assert path.read_bytes() == b"content"


@pytest.mark.parametrize("kind", ["made", "removed"])
def test_a_listing_that_the_kernel_keeps_is_of_now(
    mount: KernelMount | Pyfuse3Mount, kind: str
) -> None:
    """Also where it has never looked for the name, and the time of the directory is the same."""
    filesystem = mount.filesystem
    for name in (b"0", b"1", b"2"):
        behind_its_back(mount, partial(filesystem.add_file, name, b""))
    root = filesystem.inode(ROOT_INODE)
    ino, mtime_ns = root.children[b"1"], root.mtime_ns

    def change() -> None:
        if kind == "made":
            filesystem.add_file(b"new", b"")
        else:
            filesystem._drop_name(ROOT_INODE, b"1")
        root.mtime_ns = mtime_ns

    for _ in range(2):
        assert sorted(os.listdir(mount.root)) == ["0", "1", "2"]
    behind_its_back(mount, change)
    if kind == "made":
        mount.kernel_cache.forget_name(ROOT_INODE, b"new")
    else:
        mount.kernel_cache.forget_removed(ROOT_INODE, b"1", ino)
    names = ["0", "1", "2", "new"] if kind == "made" else ["0", "2"]
    wait_for(lambda: sorted(os.listdir(mount.root)) == names, "the former listing is shown")


def test_a_name_that_leads_elsewhere_is_followed(mount: KernelMount | Pyfuse3Mount) -> None:
    path = mount.root / "name"
    path.write_bytes(b"old")
    children = mount.filesystem.inodes[ROOT_INODE].children

    def replace() -> None:
        mount.filesystem.add_file(b"other", b"new")
        children[b"name"] = children.pop(b"other")

    behind_its_back(mount, replace)
    assert path.read_bytes() == b"old"
    mount.kernel_cache.forget_name(ROOT_INODE, b"name")
    wait_for(lambda: path.read_bytes() == b"new", "the former file is opened")


def test_a_name_that_was_removed_elsewhere_is_gone(mount: KernelMount | Pyfuse3Mount) -> None:
    """Who has the directory as its own sees it empty and dead, as after a local rmdir."""
    path = mount.root / "directory"
    path.mkdir()
    ino = node_of(mount, path).ino
    directory_fd = os.open(path, os.O_RDONLY)
    try:
        behind_its_back(mount, lambda: mount.filesystem._drop_name(ROOT_INODE, b"directory"))
        assert path.exists()
        mount.kernel_cache.forget_removed(ROOT_INODE, b"directory", ino)
        wait_for(lambda: not path.exists(), "the name is still there")
        with pytest.raises(FileNotFoundError):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory_fd)
    finally:
        os.close(directory_fd)


def test_attributes_that_were_changed_elsewhere_are_shown(
    mount: KernelMount | Pyfuse3Mount,
) -> None:
    path = mount.root / "fifo"
    os.mkfifo(path, 0o600)
    node = node_of(mount, path)

    def change() -> None:
        node.mode = stat.S_IFIFO | 0o640

    behind_its_back(mount, change)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    mount.kernel_cache.forget_attributes(node.ino)
    wait_for(lambda: stat.S_IMODE(path.stat().st_mode) == 0o640, "the former mode is shown")


def test_bytes_that_were_changed_elsewhere_are_read(mount: KernelMount | Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"a" * 8192)
    node = node_of(mount, path)
    with path.open("rb", buffering=0) as file:
        assert file.read(10) == b"a" * 10
        raw = mount.filesystem.path(node.ino)
        status = raw.stat()
        raw.write_bytes(b"b" * 8192)
        # By another time libfuse's mounts would see it themselves.
        os.utime(raw, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert os.pread(file.fileno(), 10, 0) == b"a" * 10
        mount.kernel_cache.forget_content(node.ino)
        wait_for(lambda: os.pread(file.fileno(), 10, 0) == b"b" * 10, "cached pages are read")


def test_all_names_can_be_forgotten_at_once(
    mount: KernelMount | Pyfuse3Mount, caplog: pytest.LogCaptureFixture
) -> None:
    """Linux 6.16 and later; else it is said that old names may stay."""
    path = mount.root / "fifo"
    os.mkfifo(path, 0o600)
    node = node_of(mount, path)
    node.mode = stat.S_IFIFO | 0o640
    looked_up = mount.filesystem.calls["lookup"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert mount.filesystem.calls["lookup"] == looked_up
    if not mount.kernel_cache.can_forget_all:
        is_older = isinstance(mount, KernelMount) and (
            mount.driver.negotiated is None
            or mount.driver.negotiated.kernel_minor < MINOR_INC_EPOCH
        )
        assert is_older or not isinstance(mount, KernelMount)
        with caplog.at_level(logging.ERROR):
            mount.kernel_cache.forget_all()
        assert "may believe old names" in caplog.text
        caplog.clear()
        return
    mount.kernel_cache.forget_all()
    wait_for(lambda: stat.S_IMODE(path.stat().st_mode) == 0o640, "the former mode is shown")
    assert mount.filesystem.calls["lookup"] > looked_up


def test_a_missing_name_is_believed_for_as_long_as_the_file_system_says(
    mount: KernelMount | Pyfuse3Mount,
) -> None:
    """A node that is not alone may not let the kernel believe it at all."""
    mount.filesystem.validity = FakeValidity(ValidityLimits(missing_s=0.0))
    path = mount.root / "new"
    assert not path.exists()
    behind_its_back(mount, lambda: mount.filesystem.add_file(b"new", b"content"))
    assert path.exists()


def test_a_listed_name_is_believed_for_as_long_as_the_file_system_says(
    mount: KernelMount | Pyfuse3Mount,
) -> None:
    """READDIRPLUS sends no entry of its own making."""
    mount.filesystem.validity = FakeValidity(ValidityLimits(name_s=0.0))
    mount.filesystem.add_fifos(ROOT_INODE, 3)
    assert sorted(os.listdir(mount.root)) == ["0", "1", "2"]
    looked_up = mount.filesystem.calls["lookup"]
    for _ in range(2):
        (mount.root / "1").stat()
    assert mount.filesystem.calls["lookup"] == looked_up + 2


def test_a_notice_that_waits_for_a_request_holds_up_nothing_else(
    mount: KernelMount | Pyfuse3Mount,
) -> None:
    """The kernel keeps the notice waiting for the lock of the directory, which a CREATE holds."""
    directory = mount.root / "directory"
    directory.mkdir()
    os.setxattr(directory, b"user.test.slow", b"1")
    ino = node_of(mount, directory).ino
    fifo = mount.root / "fifo"
    os.mkfifo(fifo, 0o600)
    node = node_of(mount, fifo)
    creating = threading.Thread(target=(directory / "file").touch, daemon=True)
    creating.start()
    mount.wait_until_waiting()
    mount.kernel_cache.forget_name(ino, b"other")
    mount.kernel_cache.forget_name(ROOT_INODE, b"missing")
    node.mode = stat.S_IFIFO | 0o640
    mount.kernel_cache.forget_attributes(node.ino)
    wait_for(lambda: stat.S_IMODE(fifo.stat().st_mode) == 0o640, "the former mode is shown")
    assert not (mount.root / "missing").exists(), "requests are served"
    behind_its_back(mount, lambda: mount.filesystem.add_file(b"missing", b""))
    assert not (mount.root / "missing").exists(), "its notice waits behind the other one"
    assert creating.is_alive()
    mount.kernel_cache.forget_name(ROOT_INODE, b"missing")
    mount.open_gate()
    wait_for((mount.root / "missing").exists, "a notice never came to its end")
    creating.join(30)
    assert not creating.is_alive()


def test_pages_are_forgotten_while_a_read_of_them_waits(
    mount: KernelMount | Pyfuse3Mount,
) -> None:
    """The kernel has the pages locked until the read is answered."""
    path = mount.root / "file"
    # Written elsewhere: the kernel has no pages of it, so the read comes to the file system.
    behind_its_back(mount, lambda: mount.filesystem.add_file(b"file", b"a" * 8192))
    node = node_of(mount, path)
    os.setxattr(path, b"user.test.slow", b"1")
    content: list[bytes] = []
    reading = threading.Thread(target=lambda: content.append(path.read_bytes()), daemon=True)
    reading.start()
    mount.wait_until_waiting()
    mount.kernel_cache.forget_content(node.ino)
    assert os.listdir(mount.root) == ["file"], "requests are served"
    mount.open_gate()
    reading.join(30)
    assert content == [b"a" * 8192]
