"""What passthrough does on this kernel: facts that the file system stands on."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from memfs.config import MountConfig
from memfs.types import ROOT_INODE
from memfs_daemon.kernel.backing import BackingRegistry
from memfs_daemon.kernel.probe import probe
from tests.unit.fakes.kernel_mount import KernelMount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(probe() is not None, reason=str(probe())),
]

NOBODY = 65534


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[KernelMount]:
    with KernelMount(tmp_path) as mounted:
        if not mounted.backing.available:
            pytest.skip(f"no passthrough: {mounted.backing.reason}")
        yield mounted


def has_writer(mount: KernelMount, ino: InodeNo) -> bool:
    """Ask the kernel by a read lease on the raw file (fcntl(2), F_SETLEASE)."""
    fd = os.open(mount.filesystem.path(ino), os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def make_file(mount: KernelMount, content: bytes = b"content" * 1000) -> tuple[Path, InodeNo]:
    path = mount.root / "file"
    path.write_bytes(content)
    return path, mount.filesystem.inodes[ROOT_INODE].children[b"file"]


def test_an_id_from_a_read_only_descriptor_serves_writers(mount: KernelMount) -> None:
    """The fake registers an O_RDONLY descriptor and closes it at once."""
    path, ino = make_file(mount)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"CHANGED", 0)
    assert os.pread(fd, 7, 0) == b"CHANGED"
    os.close(fd)
    assert mount.filesystem.path(ino).read_bytes()[:7] == b"CHANGED"
    assert (mount.filesystem.calls["read"], mount.filesystem.calls["write"]) == (0, 0)


def test_a_lease_is_granted_while_only_the_id_lives(mount: KernelMount) -> None:
    _, ino = make_file(mount)
    assert mount.filesystem.inodes[ino].backing
    assert not has_writer(mount, ino)


def test_a_lease_is_granted_beside_passed_through_readers(mount: KernelMount) -> None:
    path, ino = make_file(mount)
    with path.open("rb"):
        assert not has_writer(mount, ino)


def test_a_lease_is_refused_while_a_writer_is_open(mount: KernelMount) -> None:
    path, ino = make_file(mount)
    fd = os.open(path, os.O_WRONLY)
    assert has_writer(mount, ino)
    os.close(fd)
    assert not has_writer(mount, ino)


def test_a_lease_is_refused_while_a_shared_writable_map_lives(mount: KernelMount) -> None:
    """RELEASE has come by then: only the lease tells of the map."""
    path, ino = make_file(mount)
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 4096) as mapped:
        os.close(fd)
        assert has_writer(mount, ino)
        mapped[:7] = b"MAPPED!"
    assert not has_writer(mount, ino)
    assert mount.filesystem.path(ino).read_bytes()[:7] == b"MAPPED!"


def test_writes_ask_for_file_capabilities_once(mount: KernelMount) -> None:
    """HANDLE_KILLPRIV_V2; without it each write costs a GETXATTR of security.capability."""
    path, _ = make_file(mount)
    before = mount.filesystem.calls["get_xattr"]
    fd = os.open(path, os.O_WRONLY)
    for index in range(100):
        os.pwrite(fd, b"x" * 4096, index * 4096)
    os.close(fd)
    assert mount.filesystem.calls["get_xattr"] - before <= 1


def test_a_passed_through_write_of_an_ordinary_user_clears_setuid(mount: KernelMount) -> None:
    """The kernel asks for it by a SETATTR without fields before the write."""
    path, ino = make_file(mount)
    path.chmod(0o4777)
    fd = os.open(path, os.O_WRONLY)
    subprocess.run(["printf", "x"], stdout=fd, check=True, user=NOBODY)
    os.close(fd)
    assert mount.filesystem.last_attribute_request.kill_suidgid
    assert not mount.filesystem.inodes[ino].mode & stat.S_ISUID
    assert not path.stat().st_mode & stat.S_ISUID


def test_a_write_of_root_keeps_setuid(mount: KernelMount) -> None:
    path, _ = make_file(mount)
    path.chmod(0o4777)
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)
    assert path.stat().st_mode & stat.S_ISUID


def test_a_removed_raw_file_is_still_read_by_who_has_it_open(mount: KernelMount) -> None:
    path, ino = make_file(mount)
    with path.open("rb") as file:
        mount.filesystem.path(ino).unlink()
        assert file.read() == b"content" * 1000
        mount.filesystem.path(ino).touch()


def test_a_released_id_is_unknown(mount: KernelMount) -> None:
    fd = os.open(mount.raw / "other", os.O_RDONLY | os.O_CREAT)
    backing = mount.backing.register(fd)
    os.close(fd)
    mount.backing.release(backing)
    with pytest.raises(FileNotFoundError):
        mount.backing.release(backing)


def test_without_passthrough_nothing_is_registered(tmp_path: Path) -> None:
    with KernelMount(tmp_path, MountConfig(passthrough=False)) as mount:
        assert (mount.backing.available, mount.backing.reason) == (
            False,
            "switched off by mount.passthrough",
        )
        with pytest.raises(OSError, match="switched off") as refused:
            mount.backing.register(0)
        assert refused.value.errno == errno.ENOTSUP


def test_before_the_mount_nothing_is_registered() -> None:
    with pytest.raises(OSError, match="has not answered yet"):
        BackingRegistry().register(0)
