"""The pyfuse3 driver on real mounts: each request, over a fake file system."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from memfs.content.opening import OpenMode
from memfs.errors import NoSpaceError, UsageError
from memfs.linux import mounts
from memfs.types import InodeNo
from memfs_daemon.pyfuse3.probe import probe

if (refusal := probe()) is not None:
    pytest.skip(refusal, allow_module_level=True)

from tests.unit.fakes.pyfuse3_mount import Pyfuse3Mount
from tests.waiting import join

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.mount
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Pyfuse3Mount]:
    # Other users take part in the tests of permissions.
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o011)
    with Pyfuse3Mount(tmp_path) as mounted:
        yield mounted


def inode_number(path: Path) -> InodeNo:
    return InodeNo(os.stat(path).st_ino)


def run_as_nobody(
    code: str, *arguments: str | os.PathLike[str]
) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    return subprocess.run(
        [*command, code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_file_reads_back_what_was_written(mount: Pyfuse3Mount) -> None:
    data = os.urandom(3 << 20)
    path = mount.root / "file"
    path.write_bytes(data)
    assert path.read_bytes() == data
    assert os.listdir(mount.root) == ["file"]


def test_a_cached_file_is_not_read_again_when_it_is_opened_again(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"x" * 8192)
    os.stat(path)
    path.read_bytes()
    reads = mount.filesystem.calls["read"]
    assert path.read_bytes() == b"x" * 8192
    assert mount.filesystem.calls["read"] == reads


def test_a_direct_file_is_read_past_the_page_cache(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"x" * 8192)
    mount.filesystem.mode = OpenMode.DIRECT
    for expected in (1, 2):
        with path.open("rb", buffering=0) as file:
            assert file.read(4096) == b"x" * 4096
        assert mount.filesystem.calls["read"] == expected


def test_mapped_bytes_reach_the_raw_file_before_an_unmount_ends(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(bytes(8192))
    code = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapping = mmap.mmap(file.fileno(), 0)
    mapping[4096:4101] = b"hello"
    mapping.close()
"""
    subprocess.run([sys.executable, "-c", code, path], check=True)
    ino = inode_number(path)
    mount.driver.unmount()
    assert (
        mount.filesystem.path(mount.filesystem.inode(ino).ino).read_bytes()[4096:4101] == b"hello"
    )


def test_a_missing_name_is_asked_for_once(mount: Pyfuse3Mount) -> None:
    for _ in range(3):
        assert not os.path.exists(mount.root / "missing")
    assert mount.filesystem.calls["lookup"] == 1


def test_directories_list_dots_and_any_number_of_names(mount: Pyfuse3Mount) -> None:
    names = [f"{number:04}-{'x' * (number % 200)}" for number in range(500)]
    for name in names:
        (mount.root / name).touch()
    listed = subprocess.run(["ls", "-aU", mount.root], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [".", "..", *names]
    assert os.listdir(mount.root) == names


def test_a_listing_gives_types_and_inodes(mount: Pyfuse3Mount) -> None:
    (mount.root / "directory").mkdir()
    (mount.root / "file").touch()
    (mount.root / "link").symlink_to("file")
    with os.scandir(mount.root) as entries:
        found = {entry.name: entry for entry in entries}
    assert found["directory"].is_dir(follow_symlinks=False)
    assert found["file"].is_file(follow_symlinks=False)
    assert found["link"].is_symlink()
    assert found["file"].inode() == os.stat(mount.root / "file").st_ino


def test_names_of_any_bytes_survive(mount: Pyfuse3Mount) -> None:
    name = b"\xff\xfe \n\\" + b"x" * 250
    os.close(os.open(os.fsencode(mount.root) + b"/" + name, os.O_CREAT))
    assert os.listdir(os.fsencode(mount.root)) == [name]


def test_a_tree_is_made_moved_and_removed(mount: Pyfuse3Mount) -> None:
    root = mount.root
    (root / "a").mkdir()
    (root / "a" / "file").write_text("text")
    os.link(root / "a" / "file", root / "linked")
    assert os.stat(root / "linked").st_nlink == 2
    os.rename(root / "a", root / "b")
    assert (root / "b" / "file").read_text() == "text"
    with pytest.raises(OSError, match="not empty"):
        os.rmdir(root / "b")
    os.unlink(root / "b" / "file")
    os.rmdir(root / "b")
    assert os.listdir(root) == ["linked"]


@pytest.mark.parametrize(("flag", "renamed"), [("--no-clobber", False), ("--exchange", True)])
def test_flags_of_rename_arrive(mount: Pyfuse3Mount, flag: str, renamed: bool) -> None:
    code = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), int(sys.argv[3])))
"""
    (mount.root / "a").write_text("a")
    (mount.root / "b").write_text("b")
    number = {"--no-clobber": "1", "--exchange": "2"}[flag]
    paths = [os.fspath(mount.root / name) for name in "ab"]
    command = [sys.executable, "-c", code, *paths, number]
    assert (subprocess.run(command, check=False).returncode == 0) == renamed
    assert (mount.root / "a").read_text() == ("b" if renamed else "a")


def test_symbolic_links_and_special_files_are_made(mount: Pyfuse3Mount) -> None:
    os.symlink("target/é", mount.root / "link")
    assert os.readlink(mount.root / "link") == "target/é"
    os.mkfifo(mount.root / "fifo")
    assert stat.S_ISFIFO(os.stat(mount.root / "fifo").st_mode)


@as_root
def test_device_nodes_keep_their_number_and_work_for_root(mount: Pyfuse3Mount) -> None:
    os.mknod(mount.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert os.stat(mount.root / "null").st_rdev == os.makedev(1, 3)
    assert (mount.root / "null").read_bytes() == b""


def test_the_umask_is_applied_once(mount: Pyfuse3Mount) -> None:
    before = os.umask(0o027)
    try:
        (mount.root / "file").touch(0o666)
        (mount.root / "directory").mkdir(0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(mount.root / "file").st_mode) == 0o640
    assert stat.S_IMODE(os.stat(mount.root / "directory").st_mode) == 0o750


def test_attributes_change_one_by_one(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"x" * 100)
    os.chmod(path, 0o604)
    os.truncate(path, 50)
    os.utime(path, ns=(-1_500_000_001, 2_000_000_003))
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o604
    assert status.st_size == 50
    assert (status.st_atime_ns, status.st_mtime_ns) == (-1_500_000_001, 2_000_000_003)


def test_setting_one_time_leaves_the_other(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch()
    os.utime(path, ns=(5, 7))
    subprocess.run(["touch", "-m", path], check=True)
    status = os.stat(path)
    assert status.st_atime_ns == 5
    assert status.st_mtime_ns > 7


def test_an_open_file_can_be_truncated_and_emptied(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"x" * 100)
    with path.open("r+b") as file:
        os.ftruncate(file.fileno(), 10)
    assert path.read_bytes() == b"x" * 10
    path.write_bytes(b"")
    assert os.stat(path).st_size == 0


def test_extended_attributes_are_set_listed_and_removed(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch()
    value = os.urandom(65536)
    os.setxattr(path, "user.a", value)
    assert os.getxattr(path, "user.a") == value
    assert os.listxattr(path) == ["user.a"]
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data"):
        os.setxattr(path, "user.b", b"", os.XATTR_REPLACE)
    os.setxattr(path, "user.b", b"new", os.XATTR_CREATE)
    os.removexattr(path, "user.a")
    assert os.listxattr(path) == ["user.b"]
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.a")


ACL = b"\2\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + identity.to_bytes(4, "little")
    for tag, permissions, identity in [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 0, 65534),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 4, 0xFFFFFFFF),
    ]
)
"""user::rw- user:nobody:--- group::r-- mask::rw- other::r-- (acl(5), linux/posix_acl_xattr.h)."""


def test_access_control_lists_cannot_be_changed(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch()
    with pytest.raises(OSError, match="not supported") as caught:
        os.setxattr(path, "system.posix_acl_access", ACL)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert mount.filesystem.calls["set_xattr"] == 0


@as_root
def test_access_control_lists_of_another_driver_stay_in_force(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch()
    path.chmod(0o664)
    ino = inode_number(path)
    code = "import sys; open(sys.argv[1]).close()"
    assert run_as_nobody(code, path).returncode == 0
    mount.filesystem.inodes[ino].xattrs[b"system.posix_acl_access"] = ACL
    # The kernel keeps that there was no ACL until the mode changes.
    path.chmod(0o664)
    assert "PermissionError" in run_as_nobody(code, path).stderr


@as_root
def test_permissions_are_checked_by_the_kernel(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch(0o600)
    assert "PermissionError" in run_as_nobody("import sys; open(sys.argv[1])", path).stderr


@as_root
def test_new_files_belong_to_who_made_them(mount: Pyfuse3Mount) -> None:
    mount.root.chmod(0o777)
    done = run_as_nobody("import sys; open(sys.argv[1], 'w').close()", mount.root / "file")
    assert done.returncode == 0, done.stderr
    status = os.stat(mount.root / "file")
    assert (status.st_uid, status.st_gid) == (65534, 65534)


WRITES = {
    "write": "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b'x')",
    "truncate": "import os, sys; os.truncate(sys.argv[1], 1)",
}


@as_root
@pytest.mark.parametrize("mode", [OpenMode.CACHED, OpenMode.DIRECT])
@pytest.mark.parametrize("way", WRITES)
def test_an_ordinary_users_change_clears_setuid(
    mount: Pyfuse3Mount, mode: OpenMode, way: str
) -> None:
    path = mount.root / "file"
    path.write_bytes(b"program")
    path.chmod(0o4777)
    mount.filesystem.mode = mode
    done = run_as_nobody(WRITES[way], path)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o777


@as_root
@pytest.mark.parametrize("mode", [OpenMode.CACHED, OpenMode.DIRECT])
def test_roots_write_keeps_setuid(mount: Pyfuse3Mount, mode: OpenMode) -> None:
    path = mount.root / "file"
    path.touch()
    path.chmod(0o4755)
    mount.filesystem.mode = mode
    with path.open("r+b") as file:
        file.write(b"x")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o4755


@as_root
def test_chown_clears_setuid(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch()
    path.chmod(0o4755)
    os.chown(path, 1, -1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755


def test_statistics_are_shown(mount: Pyfuse3Mount) -> None:
    found = os.statvfs(mount.root)
    assert (found.f_bsize, found.f_frsize, found.f_blocks) == (4096, 4096, 1000)
    assert (found.f_bfree, found.f_bavail, found.f_files) == (600, 500, 100)
    assert (found.f_ffree, found.f_namemax) == (90, 255)


def test_fsync_and_fdatasync_arrive_as_such(mount: Pyfuse3Mount) -> None:
    with (mount.root / "file").open("wb") as file:
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    directory = os.open(mount.root, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    calls = mount.filesystem.calls
    assert (calls["fsync"], calls["fdatasync"], calls["fsync_directory"]) == (1, 1, 1)


def test_handles_and_inodes_are_given_back(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.touch()
    ino = inode_number(path)
    os.unlink(path)
    # Neither is waited for by anybody, but both are in the kernel's queue by now.
    for number in range(100):
        os.path.exists(mount.root / f"{number}")
        if ino in mount.filesystem.forgotten and ino in mount.filesystem.released:
            break
    assert mount.filesystem.released == [ino]
    assert ino in mount.filesystem.forgotten


def test_every_change_is_committed_before_its_reply(mount: Pyfuse3Mount) -> None:
    for number in range(3):
        (mount.root / f"{number}").mkdir()
        assert mount.filesystem.commit_count == number + 1
        assert not mount.filesystem.uncommitted


def test_a_failed_commit_is_the_answer(mount: Pyfuse3Mount) -> None:
    mount.filesystem.commit_error = NoSpaceError("the disk is full")
    with pytest.raises(OSError, match="No space") as caught:
        (mount.root / "directory").mkdir()
    assert caught.value.errno == errno.ENOSPC
    mount.filesystem.commit_error = None


def test_a_bug_is_eio_and_one_traceback(
    mount: Pyfuse3Mount, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            os.stat(mount.root / "bug")
    bugs = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in bugs] == [True, False]
    assert os.listdir(mount.root) == []


def test_an_errno_of_the_raw_file_is_passed_on(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"content")
    mount.filesystem.mode = OpenMode.DIRECT
    with path.open("rb", buffering=0) as file:
        mount.filesystem.path(inode_number(path)).rename(mount.raw / "gone")
        with pytest.raises(FileNotFoundError):
            file.read()


def test_a_request_that_waits_holds_no_other_up(mount: Pyfuse3Mount) -> None:
    path = mount.root / "slow"
    path.write_bytes(b"content")
    os.setxattr(path, "user.test.slow", b"1")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    mount.wait_until_waiting()
    (mount.root / "other").write_bytes(b"quick")
    assert got == []
    mount.open_gate()
    join(reader)
    assert got == [b"content"]


def test_a_busy_mount_is_not_taken_away_unless_lazily(mount: Pyfuse3Mount) -> None:
    with (mount.root / "file").open("wb", buffering=0) as file:
        with pytest.raises(OSError, match="busy"):
            mount.driver.unmount()
        mount.driver.unmount(lazy=True)
        assert mounts.find_mount(mount.root) is None
        file.write(b"still served")
    mount.await_end()


def test_cancelling_the_driver_takes_its_mount_away(mount: Pyfuse3Mount) -> None:
    mount.cancel()
    assert mounts.find_mount(mount.root) is None


@as_root
def test_cancelling_the_driver_leaves_a_later_mount_alone(mount: Pyfuse3Mount) -> None:
    with (mount.root / "file").open("wb", buffering=0):
        mount.driver.unmount(lazy=True)
        subprocess.run(["mount", "-t", "tmpfs", "memfs-test", mount.root], check=True)
        try:
            mount.cancel()
            found = mounts.find_mount(mount.root)
            assert found is not None
            assert found.type == "tmpfs"
        finally:
            subprocess.run(["umount", mount.root], check=True)


def test_the_mount_names_its_source_and_options(tmp_path: Path) -> None:
    base = tmp_path / "a,b\\c é"
    base.mkdir()
    with Pyfuse3Mount(base, options=["ro", "rw", "noatime", "nodev", "ro", "relatime"]) as mount:
        found = mounts.find_mount(mount.root)
        assert found is not None
        assert found.type == "fuse.memfs"
        assert found.source == os.fspath(mount.raw)
        assert {"ro", "noatime", "nodev", "default_permissions"} <= found.options
        with pytest.raises(OSError, match="Read-only"):
            (mount.root / "file").touch()


def test_an_unknown_option_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such mount option"):
        Pyfuse3Mount(tmp_path, options=["bogus"])


def test_a_missing_mountpoint_is_one_sentence(tmp_path: Path) -> None:
    mount = Pyfuse3Mount(tmp_path)
    mount.root.rmdir()
    with pytest.raises(UsageError, match=r"cannot mount at .*No such file"):
        mount.driver.mount()


def test_a_file_can_be_mapped_for_reading(mount: Pyfuse3Mount) -> None:
    path = mount.root / "file"
    path.write_bytes(b"hello" * 1000)
    code = f"""
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapping = mmap.mmap(file.fileno(), 0, prot={mmap.PROT_READ})
    assert mapping[:] == b"hello" * 1000
"""
    subprocess.run([sys.executable, "-c", code, path], check=True)
