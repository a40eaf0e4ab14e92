"""unlink(2), also of files that are still open."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from tests.outcomes import error_of
from tests.processes import ALICE, BOB, holding, run_as

pytestmark = pytest.mark.data_path


def test_the_name_is_gone_and_the_directory_changed(place: Path) -> None:
    (place / "f").touch()
    os.utime(place, ns=(0, 0))
    (place / "f").unlink()
    assert os.listdir(place) == []
    assert place.stat().st_mtime_ns > 0
    with pytest.raises(FileNotFoundError):
        (place / "f").stat()


def test_directories_and_missing_names_are_refused(place: Path) -> None:
    (place / "d").mkdir()
    assert error_of(os.unlink, place / "d") == "EISDIR"
    assert error_of(os.unlink, place / "missing") == "ENOENT"


def test_ctime_changes_when_a_link_remains(place: Path) -> None:
    (place / "a").touch()
    os.link(place / "a", place / "b")
    before = (place / "b").stat()
    (place / "a").unlink()
    after = (place / "b").stat()
    assert (after.st_nlink, after.st_ctime_ns >= before.st_ctime_ns) == (1, True)


def test_an_open_file_stays_whole_after_unlink(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"before")
    (place / "f").unlink()
    os.write(fd, b"+after")
    assert (os.pread(fd, 100, 0), os.fstat(fd).st_size) == (b"before+after", 12)
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_attributes_of_an_open_unlinked_file_can_change(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    (place / "f").unlink()
    os.fchmod(fd, 0o640)
    os.fchown(fd, 3, 4)
    os.ftruncate(fd, 1000)
    os.utime(fd, ns=(1, 2))
    os.setxattr(fd, "user.k", b"v")
    os.fsync(fd)
    status = os.fstat(fd)
    assert (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_mtime_ns,
    ) == (0o100640, 3, 4, 1000, 2)
    assert os.getxattr(fd, "user.k") == b"v"
    os.close(fd)


def test_the_name_can_be_taken_by_a_new_file(place: Path) -> None:
    old = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(old, b"old")
    (place / "f").unlink()
    (place / "f").write_bytes(b"new")
    assert (os.pread(old, 10, 0), (place / "f").read_bytes()) == (b"old", b"new")
    assert os.fstat(old).st_ino != (place / "f").stat().st_ino
    os.close(old)


def test_an_open_unlinked_file_can_be_opened_again_through_proc(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"content")
    (place / "f").unlink()
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    assert os.read(again, 100) == b"content"
    os.close(again)


def test_a_file_held_by_its_path_alone_outlives_its_name(place: Path) -> None:
    """O_PATH opens nothing in the file system: only the kernel's own inode is held."""
    (place / "f").write_bytes(b"content")
    fd = os.open(place / "f", os.O_PATH)
    try:
        (place / "f").unlink()
        # Many other inodes come, are forgotten, and have the orphans looked through.
        for number in range(50):
            (place / f"other-{number}").write_bytes(b"x")
            (place / f"other-{number}").unlink()
        assert os.fstat(fd).st_nlink == 0
        assert os.fstat(fd).st_size == 7
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        assert os.read(again, 100) == b"content"
        os.close(again)
        assert os.fstat(fd).st_size == 7
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.pwrite(again, b"C", 0)
        os.close(again)
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"Content"
    finally:
        os.close(fd)


def test_another_process_keeps_the_file_that_it_has_open(place: Path) -> None:
    (place / "f").write_bytes(b"shared")
    handles: list[int] = []
    with holding(lambda: handles.append(os.open(place / "f", os.O_RDONLY))):
        fd = os.open(place / "f", os.O_RDONLY)
        (place / "f").unlink()
    assert os.read(fd, 100) == b"shared"
    os.close(fd)


def test_room_of_an_unlinked_file_comes_back_at_close(place: Path) -> None:
    size = 64 << 20
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    os.posix_fallocate(fd, 0, size)
    os.fsync(fd)
    assert os.fstat(fd).st_blocks * 512 >= size
    (place / "f").unlink()
    assert os.fstat(fd).st_blocks * 512 >= size
    os.close(fd)
    assert os.listdir(place) == []


def test_a_mapped_unlinked_file_keeps_its_bytes(place: Path) -> None:
    (place / "f").write_bytes(b"m" * 100_000)
    with (place / "f").open("rb") as file:
        shared = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    (place / "f").unlink()
    (place / "f").write_bytes(b"n" * 100_000)
    assert shared[:] == b"m" * 100_000
    shared.close()


def test_a_sticky_directory_protects_files_of_others(place: Path) -> None:
    place.chmod(0o1777)
    for user in (ALICE, BOB):
        (place / str(user.uid)).touch()
        os.chown(place / str(user.uid), user.uid, user.gid)
    assert run_as(ALICE, error_of, os.unlink, place / str(BOB.uid)) == "EPERM"
    run_as(ALICE, os.unlink, place / str(ALICE.uid))
    assert [str(BOB.uid)] == os.listdir(place)


def test_the_mode_of_the_file_does_not_matter_but_the_directory_s_does(place: Path) -> None:
    (place / "f").touch()
    (place / "f").chmod(0)
    assert run_as(ALICE, error_of, os.unlink, place / "f") == "EACCES"
    place.chmod(0o777)
    run_as(ALICE, os.unlink, place / "f")
    assert os.listdir(place) == []
