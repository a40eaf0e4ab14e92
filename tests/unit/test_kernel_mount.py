"""The kernel driver on real mounts: each opcode, over a fake file system."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.config import MountConfig
from memfs.content.opening import OpenMode
from memfs.filesystem.operations import NOW_NS
from memfs.linux import mounts
from memfs.types import ROOT_INODE
from memfs_daemon.kernel import mounting
from memfs_daemon.kernel.probe import DEVICE, probe
from tests.unit.fakes.kernel_mount import KernelMount
from tests.waiting import join, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(probe() is not None, reason=str(probe())),
]

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[KernelMount]:
    with KernelMount(tmp_path) as mounted:
        yield mounted


@pytest.fixture
def served(tmp_path: Path) -> Iterator[KernelMount]:
    """Without passthrough: the daemon reads and writes."""
    with KernelMount(tmp_path, MountConfig(passthrough=False)) as mounted:
        yield mounted


def rename_with_flags(source: Path, target: Path, flags: int) -> None:
    if _libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


# --- names ---------------------------------------------------------------------------------------
def test_directories_are_made_and_removed(mount: KernelMount) -> None:
    """MKDIR, RMDIR, with the umask of the caller applied by the file system."""
    directory = mount.root / "directory"
    directory.mkdir(0o777)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o777 & ~umask
    (directory / "inner").mkdir()
    with pytest.raises(OSError, match="not empty") as refused:
        directory.rmdir()
    assert refused.value.errno == errno.ENOTEMPTY
    (directory / "inner").rmdir()
    directory.rmdir()
    assert not directory.exists()


def test_links_of_both_kinds(mount: KernelMount) -> None:
    """SYMLINK, READLINK, LINK, UNLINK."""
    (mount.root / "file").write_bytes(b"content")
    (mount.root / "symlink").symlink_to("file")
    assert os.readlink(mount.root / "symlink") == "file"
    assert (mount.root / "symlink").read_bytes() == b"content"
    os.link(mount.root / "file", mount.root / "second")
    assert (mount.root / "file").stat().st_nlink == 2
    (mount.root / "file").unlink()
    assert (mount.root / "second").read_bytes() == b"content"


def test_renames_with_and_without_flags(mount: KernelMount) -> None:
    """RENAME, RENAME2."""
    first, second, third = (mount.root / name for name in ("first", "second", "third"))
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    with pytest.raises(OSError, match="renameat2") as refused:
        rename_with_flags(first, second, RENAME_NOREPLACE)
    assert refused.value.errno == errno.EEXIST
    rename_with_flags(first, second, RENAME_EXCHANGE)
    assert (first.read_bytes(), second.read_bytes()) == (b"2", b"1")
    first.rename(third)
    third.replace(second)
    assert os.listdir(mount.root) == ["second"]
    assert second.read_bytes() == b"2"


def test_nodes_keep_type_and_device_number(mount: KernelMount) -> None:
    """MKNOD: large numbers are coded differently in the kernel and in glibc."""
    os.mkfifo(mount.root / "fifo")
    device = os.makedev(259, 70000)
    os.mknod(mount.root / "device", stat.S_IFBLK | 0o600, device)
    assert stat.S_ISFIFO((mount.root / "fifo").stat().st_mode)
    assert (mount.root / "device").stat().st_rdev == device


def test_a_missing_name_is_asked_for_once(mount: KernelMount) -> None:
    """The kernel believes it for as long as it is told."""
    for _ in range(5):
        assert not (mount.root / "missing").exists()
    assert mount.filesystem.calls["lookup"] == 1


def test_names_are_any_bytes_but_slash_and_nul(mount: KernelMount) -> None:
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    path = os.path.join(os.fsencode(mount.root), name)
    os.mkdir(path)
    assert os.listdir(os.fsencode(mount.root)) == [name]


def test_a_removed_inode_is_forgotten(mount: KernelMount) -> None:
    """FORGET tells the file system that an orphan can go."""
    (mount.root / "gone").mkdir()
    ino = (mount.root / "gone").stat().st_ino
    (mount.root / "gone").rmdir()
    wait_for(lambda: mount.filesystem.forgotten, "no FORGET")
    assert mount.filesystem.forgotten == [ino]


# --- directories ---------------------------------------------------------------------------------
def test_a_large_directory_is_listed_whole(mount: KernelMount) -> None:
    """READDIR, READDIRPLUS over many buffers: nothing twice, nothing left out."""
    count = 100_000
    (mount.root / "large").mkdir()
    mount.filesystem.add_fifos(mount.filesystem.inodes[ROOT_INODE].children[b"large"], count)
    with os.scandir(mount.root / "large") as entries:
        names = [entry.name for entry in entries if not entry.is_dir()]
    assert len(names) == count
    assert set(names) == {str(index) for index in range(count)}


def test_dots_name_the_directory_and_its_parent(mount: KernelMount) -> None:
    (mount.root / "outer" / "inner").mkdir(parents=True)
    output = subprocess.run(
        ["ls", "-ai", mount.root / "outer" / "inner"], check=True, capture_output=True, text=True
    ).stdout
    listed = {name: int(ino) for ino, name in map(str.split, output.splitlines())}
    assert listed == {
        ".": (mount.root / "outer" / "inner").stat().st_ino,
        "..": (mount.root / "outer").stat().st_ino,
    }


# --- attributes ----------------------------------------------------------------------------------
def test_attributes_are_set_field_by_field(mount: KernelMount) -> None:
    """SETATTR, with times before 1970 and to the nanosecond."""
    path = mount.root / "file"
    path.write_bytes(b"0123456789")
    path.chmod(0o640)
    os.chown(path, 7, 8)
    os.truncate(path, 4)
    os.utime(path, ns=(-5_000_000_001, 1_234_567_890_123_456_789))
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 7, 8)
    assert (status.st_size, status.st_atime_ns) == (4, -5_000_000_001)
    assert status.st_mtime_ns == 1_234_567_890_123_456_789
    before = time.time_ns()
    os.utime(path)
    assert path.stat().st_mtime_ns >= before
    assert mount.filesystem.last_attribute_request.mtime_ns == NOW_NS


def test_birth_time_reaches_statx(mount: KernelMount) -> None:
    """STATX is the only reply that carries it; the kernel asks by it since Linux 6.6."""
    (mount.root / "directory").mkdir()
    ino = mount.filesystem.inodes[ROOT_INODE].children[b"directory"]
    mount.filesystem.inodes[ino].btime_ns = 1_234_567_890 * 10**9
    command = ["stat", "--format=%W %s %F", os.fspath(mount.root / "directory")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output == "1234567890 0 directory\n"


def test_statfs_is_the_file_systems(mount: KernelMount) -> None:
    status = os.statvfs(mount.root)
    assert (status.f_frsize, status.f_blocks, status.f_bfree, status.f_bavail) == (
        4096,
        1000,
        600,
        500,
    )
    assert (status.f_files, status.f_ffree, status.f_namemax) == (100, 90, 255)


def test_extended_attributes(mount: KernelMount) -> None:
    """SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, with the largest value."""
    path = mount.root / "file"
    path.touch()
    value = bytes(range(256)) * 256
    os.setxattr(path, "user.large", value)
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.large") == value
    assert os.getxattr(path, "user.empty") == b""
    assert os.listxattr(path) == ["user.large", "user.empty"]
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.empty", b"", os.XATTR_CREATE)
    os.removexattr(path, "user.large")
    with pytest.raises(OSError, match="No data") as missing:
        os.getxattr(path, "user.large")
    assert missing.value.errno == errno.ENODATA
    buffer = ctypes.create_string_buffer(1)
    os.setxattr(path, "user.two", b"22")
    assert _libc.getxattr(os.fsencode(path), b"user.two", buffer, 1) == -1
    assert ctypes.get_errno() == errno.ERANGE


# --- content -------------------------------------------------------------------------------------
def test_the_daemon_serves_bytes_without_passthrough(served: KernelMount) -> None:
    """OPEN, READ, WRITE in large requests, O_TRUNC, O_APPEND."""
    path = served.root / "file"
    content = os.urandom(5 << 20)
    path.write_bytes(content)
    assert path.read_bytes() == content
    assert served.filesystem.calls["write"] <= 10
    with path.open("ab") as file:
        file.write(b"end")
    assert path.read_bytes() == content + b"end"
    path.write_bytes(b"short")
    assert path.read_bytes() == b"short"


def test_ranges_holes_and_copies(mount: KernelMount) -> None:
    """FALLOCATE, LSEEK, COPY_FILE_RANGE."""
    source = os.open(mount.root / "source", os.O_RDWR | os.O_CREAT)
    target = os.open(mount.root / "target", os.O_RDWR | os.O_CREAT)
    os.pwrite(source, b"data", 1 << 20)
    assert os.lseek(source, 0, os.SEEK_DATA) == 1 << 20
    assert os.lseek(source, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4
    with pytest.raises(OSError, match="No such device") as beyond:
        os.lseek(source, 1 << 21, os.SEEK_DATA)
    assert beyond.value.errno == errno.ENXIO
    os.posix_fallocate(target, 0, 8192)
    assert os.fstat(target).st_size == 8192
    assert os.copy_file_range(source, target, 4, 1 << 20, 4096) == 4
    assert os.pread(target, 4, 4096) == b"data"
    os.close(source)
    os.close(target)


def test_fsync_of_files_and_directories(mount: KernelMount) -> None:
    """FSYNC detaches in the fake; FSYNCDIR."""
    fd = os.open(mount.root / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"1")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    directory = os.open(mount.root, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    calls = mount.filesystem.calls
    assert (calls["fsync"], calls["fdatasync"], calls["fsync_directory"]) == (1, 1, 1)


def test_an_unnamed_file_gets_its_name_later(mount: KernelMount) -> None:
    """TMPFILE (Linux 6.1), LINK."""
    fd = os.open(mount.root, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"late")
    os.link(f"/proc/self/fd/{fd}", mount.root / "named", src_dir_fd=fd)
    os.close(fd)
    assert (mount.root / "named").read_bytes() == b"late"


def test_locks_stay_in_the_kernel(mount: KernelMount) -> None:
    first = os.open(mount.root / "file", os.O_RDWR | os.O_CREAT)
    second = os.open(mount.root / "file", os.O_RDWR)
    fcntl.flock(first, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    os.close(second)


def test_each_open_is_released(mount: KernelMount) -> None:
    """RELEASE is queued by close(2) and sent later; unmounting drops what is still queued."""
    (mount.root / "file").write_bytes(b"1")
    (mount.root / "file").read_bytes()
    wait_for(lambda: len(mount.filesystem.released) == 2, "an open file is not released")


def test_a_killed_reader_does_not_wait_for_its_answer(served: KernelMount) -> None:
    """INTERRUPT: without it, a process in a slow read could not even be killed."""
    path = served.root / "slow"
    path.write_bytes(b"content")
    os.setxattr(path, "user.test.slow", b"1")
    # Not through the page cache, where the daemon's answer would be waited for by read-ahead.
    served.filesystem.mode = OpenMode.DIRECT
    with subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) as reader:
        served.wait_until_waiting()
        reader.terminate()
        assert reader.wait(30) == -15
    assert (served.root / "missing").exists() is False


def test_others_are_served_while_one_waits(served: KernelMount) -> None:
    path = served.root / "slow"
    path.write_bytes(b"content")
    os.setxattr(path, "user.test.slow", b"1")
    served.filesystem.mode = OpenMode.DIRECT
    contents: list[bytes] = []
    reader = threading.Thread(target=lambda: contents.append(path.read_bytes()))
    reader.start()
    served.wait_until_waiting()
    (served.root / "other").write_bytes(b"other")
    assert (served.root / "other").read_bytes() == b"other"
    served.call(served.filesystem.gate.set)
    join(reader)
    assert contents == [b"content"]


# --- failures ------------------------------------------------------------------------------------
def test_a_bug_is_eio_and_the_mount_goes_on(mount: KernelMount) -> None:
    with pytest.raises(OSError, match="Input/output error") as failed:
        (mount.root / "bug").stat()
    assert failed.value.errno == errno.EIO
    assert not (mount.root / "missing").exists()


def test_a_failed_commit_reaches_the_program(mount: KernelMount) -> None:
    mount.filesystem.commit_error = OSError(errno.ENOSPC, "disk full")
    with pytest.raises(OSError, match="No space left"):
        (mount.root / "directory").mkdir()
    mount.filesystem.commit_error = None


# --- the mount itself ----------------------------------------------------------------------------
def test_a_mount_is_shown_with_its_type_and_source(mount: KernelMount) -> None:
    entry = mounts.find_mount(mount.root)
    assert entry is not None
    assert (entry.type, entry.source) == ("fuse.memfs", os.fspath(mount.raw))
    bdi = Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb")
    assert bdi.read_text() == f"{mount.config.readahead_bytes >> 10}\n"


def test_options_of_the_mount_are_kept(tmp_path: Path) -> None:
    with KernelMount(tmp_path, options=("ro", "nodev")) as mount:
        with pytest.raises(OSError, match="Read-only"):
            (mount.root / "directory").mkdir()
        assert os.statvfs(mount.root).f_flag & (os.ST_RDONLY | os.ST_NODEV) == (
            os.ST_RDONLY | os.ST_NODEV
        )


def test_the_mount_of_a_dead_daemon_can_be_taken_away(tmp_path: Path) -> None:
    """SIGKILL closes the descriptor and leaves the mountpoint answering ENOTCONN."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    root = tmp_path / "with blank"
    root.mkdir()
    mounting.mount(fd, root, "state", flags=0, allow_other=True, read_bytes_max=1 << 20)
    os.close(fd)
    assert mounts.find_mount(root) is not None
    mounts.unmount(root, lazy=True)
    assert mounts.find_mount(root) is None
