"""link(2): hard links."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.outcomes import error_of
from tests.posix import calls
from tests.processes import ALICE, run_as

if TYPE_CHECKING:
    from pathlib import Path


def test_a_link_is_the_same_file(place: Path) -> None:
    (place / "a").write_bytes(b"x")
    os.link(place / "a", place / "b")
    a, b = (place / "a").stat(), (place / "b").stat()
    assert (a.st_ino, 2) == (b.st_ino, b.st_nlink)
    (place / "b").write_bytes(b"through b")
    assert (place / "a").read_bytes() == b"through b"


def test_attributes_are_shared(place: Path) -> None:
    (place / "a").touch()
    os.link(place / "a", place / "b")
    (place / "a").chmod(0o604)
    os.setxattr(place / "b", "user.k", b"v")
    assert (place / "a").stat() == (place / "b").stat()
    assert os.getxattr(place / "a", "user.k") == b"v"


def test_the_count_follows_links_and_unlinks_and_changes_ctime(place: Path) -> None:
    (place / "a").touch()
    for number in range(10):
        before = (place / "a").stat()
        os.link(place / "a", place / f"link{number}")
        after = (place / "a").stat()
        assert number + 2 == after.st_nlink
        assert after.st_ctime_ns >= before.st_ctime_ns
        assert after.st_mtime_ns == before.st_mtime_ns
    for number in range(10):
        (place / f"link{number}").unlink()
        assert 10 - number == (place / "a").stat().st_nlink


def test_content_lives_until_the_last_name_is_gone(place: Path) -> None:
    (place / "d").mkdir()
    (place / "a").write_bytes(b"alive")
    os.link(place / "a", place / "d" / "b")
    (place / "a").unlink()
    assert (place / "d" / "b").read_bytes() == b"alive"


def test_an_existing_name_is_refused(place: Path) -> None:
    (place / "a").touch()
    (place / "b").write_bytes(b"b")
    assert error_of(os.link, place / "a", place / "b") == "EEXIST"
    assert error_of(os.link, place / "a", place / "a") == "EEXIST"
    assert (place / "b").read_bytes() == b"b"


def test_directories_cannot_be_linked(place: Path) -> None:
    (place / "d").mkdir()
    assert error_of(os.link, place / "d", place / "e") == "EPERM"


def test_a_symlink_can_be_linked_itself(place: Path) -> None:
    (place / "f").touch()
    (place / "link").symlink_to("f")
    os.link(place / "link", place / "twin", follow_symlinks=False)
    assert os.readlink(place / "twin") == "f"
    assert (place / "link").lstat().st_ino == (place / "twin").lstat().st_ino


def test_a_fifo_can_be_linked(place: Path) -> None:
    os.mkfifo(place / "p")
    os.link(place / "p", place / "q")
    assert (place / "q").stat().st_nlink == 2


def test_missing_names(place: Path) -> None:
    (place / "f").touch()
    assert error_of(os.link, place / "missing", place / "x") == "ENOENT"
    assert error_of(os.link, place / "f", place / "missing" / "x") == "ENOENT"
    assert error_of(os.link, place / "f", place / "f" / "x") == "ENOTDIR"


def test_an_unlinked_file_cannot_get_a_name_again(place: Path) -> None:
    """Only a file made by O_TMPFILE may come back from zero links."""
    fd = os.open(place / "f", os.O_CREAT | os.O_RDWR, 0o600)
    (place / "f").unlink()
    assert error_of(calls.link_fd, fd, place / "again") == "ENOENT"
    os.close(fd)


def test_the_directory_must_be_writable(place: Path) -> None:
    (place / "f").touch()
    os.chown(place / "f", ALICE.uid, ALICE.gid)
    assert run_as(ALICE, error_of, os.link, place / "f", place / "g") == "EACCES"


def test_a_thousand_links_of_one_file(place: Path) -> None:
    (place / "f").touch()
    for number in range(1000):
        os.link(place / "f", place / f"{number}")
    assert (place / "f").stat().st_nlink == 1001
