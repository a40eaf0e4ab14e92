"""open(2) and its flags."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix import calls
from tests.posix.capabilities import Capability
from tests.processes import ALICE, run_as

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path

BLOCK = 4096


def test_creat_makes_an_empty_file_with_the_umask_applied(place: Path) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(old)
    status = (place / "f").stat()
    assert (status.st_mode, status.st_size) == (stat.S_IFREG | 0o640, 0)


def test_creat_of_an_existing_file_keeps_mode_and_content(place: Path) -> None:
    (place / "f").write_bytes(b"old")
    (place / "f").chmod(0o604)
    os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o777))
    assert (place / "f").read_bytes() == b"old"
    assert stat.S_IMODE((place / "f").stat().st_mode) == 0o604


def test_creat_with_mode_zero_gives_a_writable_handle(place: Path) -> None:
    """The mode governs later opens, not the handle that creates the file."""
    place.chmod(0o777)

    def create() -> int:
        fd = os.open(place / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0)
        return os.write(fd, b"bytes")

    assert run_as(ALICE, create) == 5
    assert (place / "f").read_bytes() == b"bytes"


def test_excl_refuses_what_exists_even_a_dangling_symlink(place: Path) -> None:
    (place / "f").touch()
    (place / "dangling").symlink_to("nowhere")
    for name in ("f", "dangling"):
        with pytest.raises(FileExistsError):
            os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not (place / "nowhere").exists()


def test_creat_through_a_dangling_symlink_makes_its_target(place: Path) -> None:
    (place / "link").symlink_to("target")
    os.close(os.open(place / "link", os.O_CREAT | os.O_WRONLY, 0o600))
    assert (place / "target").is_file()


def test_trunc_empties_the_file_and_keeps_its_inode(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 100_000)
    inode = (place / "f").stat().st_ino
    fd = os.open(place / "f", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    assert (inode, 0) == ((place / "f").stat().st_ino, (place / "f").stat().st_size)


def test_trunc_shows_through_a_handle_that_was_open_before(place: Path) -> None:
    (place / "f").write_bytes(b"before")
    reader = os.open(place / "f", os.O_RDONLY)
    (place / "f").write_bytes(b"new")
    assert os.pread(reader, 100, 0) == b"new"
    os.close(reader)


def test_trunc_updates_mtime_and_ctime(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", ns=(0, 0))
    before = (place / "f").stat()
    os.close(os.open(place / "f", os.O_WRONLY | os.O_TRUNC))
    after = (place / "f").stat()
    assert after.st_mtime_ns > 0
    assert after.st_ctime_ns >= before.st_ctime_ns


def test_append_writes_at_the_end_wherever_the_position_is(place: Path) -> None:
    (place / "f").write_bytes(b"start")
    fd = os.open(place / "f", os.O_WRONLY | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"+1")
    with (place / "f").open("ab") as other:
        other.write(b"+2")
    os.write(fd, b"+3")
    assert os.lseek(fd, 0, os.SEEK_CUR) == 11
    os.close(fd)
    assert (place / "f").read_bytes() == b"start+1+2+3"


def test_append_can_be_switched_on_and_off_by_fcntl(place: Path) -> None:
    (place / "f").write_bytes(b"12345")
    fd = os.open(place / "f", os.O_WRONLY)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b"67")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"X")
    os.close(fd)
    assert (place / "f").read_bytes() == b"X234567"


def test_directory_flag_accepts_only_directories(place: Path) -> None:
    (place / "d").mkdir()
    (place / "f").touch()
    (place / "link").symlink_to("d")
    os.close(os.open(place / "d", os.O_RDONLY | os.O_DIRECTORY))
    os.close(os.open(place / "link", os.O_RDONLY | os.O_DIRECTORY))
    with pytest.raises(NotADirectoryError):
        os.open(place / "f", os.O_RDONLY | os.O_DIRECTORY)


def test_a_directory_cannot_be_opened_for_writing(place: Path) -> None:
    (place / "d").mkdir()
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT | os.O_RDONLY):
        with pytest.raises(IsADirectoryError):
            os.open(place / "d", flags)


def test_nofollow_refuses_a_symlink_at_the_end_only(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d" / "f").touch()
    (place / "to-directory").symlink_to("d")
    (place / "to-file").symlink_to("d/f")
    os.close(os.open(place / "to-directory" / "f", os.O_RDONLY | os.O_NOFOLLOW))
    assert error_of(os.open, place / "to-file", os.O_RDONLY | os.O_NOFOLLOW) == "ELOOP"


def test_path_handle_names_a_file_but_reads_nothing(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    fd = os.open(place / "f", os.O_PATH)
    assert (place / "f").stat().st_ino == os.fstat(fd).st_ino
    assert error_of(os.read, fd, 1) == "EBADF"
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    assert os.read(again, 1) == b"x"
    os.close(again)
    os.close(fd)


def test_path_handle_of_a_symlink_reads_the_link_itself(place: Path) -> None:
    (place / "link").symlink_to("target")
    fd = os.open(place / "link", os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(fd).st_mode)
    assert os.readlink("", dir_fd=fd) == "target"
    os.close(fd)


@pytest.mark.needs(Capability.TMPFILE)
def test_tmpfile_has_no_name_until_it_is_linked(place: Path) -> None:
    fd = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"nameless")
    assert (os.fstat(fd).st_nlink, os.listdir(place)) == (0, [])
    calls.link_fd(fd, place / "named")
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
    assert (place / "named").read_bytes() == b"nameless"
    assert stat.S_IMODE((place / "named").stat().st_mode) == 0o640


@pytest.mark.needs(Capability.TMPFILE)
def test_tmpfile_with_excl_can_never_be_linked(place: Path) -> None:
    fd = os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    assert error_of(calls.link_fd, fd, place / "named") == "ENOENT"
    os.close(fd)


@pytest.mark.needs(Capability.TMPFILE)
def test_tmpfile_of_another_user_belongs_to_that_user(place: Path) -> None:
    place.chmod(0o777)

    def make() -> None:
        fd = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, b"mine")
        calls.link_fd(fd, place / "named")

    run_as(ALICE, make)
    status = (place / "named").stat()
    assert (ALICE.uid, ALICE.gid) == (status.st_uid, status.st_gid)


def test_direct_writes_are_seen_by_buffered_reads_and_back(place: Path) -> None:
    """O_DIRECT may bypass caches, never coherence."""
    buffer = mmap.mmap(-1, 4 * BLOCK)
    buffer.write(b"d" * 4 * BLOCK)
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
    assert os.pwrite(fd, buffer, 0) == 4 * BLOCK
    assert (place / "f").read_bytes() == b"d" * 4 * BLOCK
    with (place / "f").open("r+b") as buffered:
        buffered.seek(BLOCK)
        buffered.write(b"b" * BLOCK)
    assert os.preadv(fd, [buffer], 0) == 4 * BLOCK
    os.close(fd)
    assert buffer[:] == b"d" * BLOCK + b"b" * BLOCK + b"d" * 2 * BLOCK


def test_read_only_and_write_only_handles_refuse_the_other(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    reader = os.open(place / "f", os.O_RDONLY)
    writer = os.open(place / "f", os.O_WRONLY)
    assert error_of(os.write, reader, b"x") == "EBADF"
    assert error_of(os.read, writer, 1) == "EBADF"
    os.close(reader)
    os.close(writer)


def test_open_of_a_missing_file_or_in_a_missing_directory(place: Path) -> None:
    for path in ("missing", "missing/f"):
        with pytest.raises(FileNotFoundError):
            os.open(place / path, os.O_RDONLY)
    with pytest.raises(FileNotFoundError):
        os.open(place / "missing" / "f", os.O_CREAT | os.O_WRONLY)


def test_open_relative_to_a_directory_handle_follows_its_rename(place: Path) -> None:
    (place / "a").mkdir()
    directory = os.open(place / "a", os.O_RDONLY)
    (place / "a").rename(place / "b")
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=directory))
    os.close(directory)
    assert (place / "b" / "f").is_file()


def test_a_duplicate_shares_the_position_and_a_second_open_does_not(place: Path) -> None:
    (place / "f").write_bytes(b"0123456789")
    fd = os.open(place / "f", os.O_RDONLY)
    twin = os.dup(fd)
    other = os.open(place / "f", os.O_RDONLY)
    os.read(fd, 4)
    assert (os.read(twin, 1), os.read(other, 1)) == (b"4", b"0")
    for each in (fd, twin, other):
        os.close(each)


def test_many_handles_of_one_file_are_independent(place: Path) -> None:
    (place / "f").write_bytes(bytes(range(200)))
    fds = [os.open(place / "f", os.O_RDWR) for _ in range(200)]
    for index, fd in enumerate(fds):
        os.lseek(fd, index, os.SEEK_SET)
    assert bytes(range(200)) == b"".join(os.read(fd, 1) for fd in fds)
    for fd in fds:
        os.close(fd)


def test_opening_a_socket_is_refused(place: Path) -> None:
    os.mknod(place / "s", stat.S_IFSOCK | 0o600)
    with pytest.raises(OSError, match="No such device or address") as caught:
        os.open(place / "s", os.O_RDONLY)
    assert caught.value.errno == errno.ENXIO
