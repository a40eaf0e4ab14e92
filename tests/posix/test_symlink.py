"""symlink(2) and readlink(2)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "target",
    [b"x", b"../../far/away", b"/absolute", b"a" * 4095, b"\xff\xfe not utf-8 \n", b"with space/"],
    ids=["short", "relative", "absolute", "longest", "bytes", "trailing slash"],
)
def test_the_target_comes_back_byte_for_byte(place: Path, target: bytes) -> None:
    link = os.fsencode(place / "link")
    os.symlink(target, link)
    assert target == os.readlink(link)
    assert len(target) == os.lstat(link).st_size


def test_a_symlink_has_mode_0777_and_one_link(place: Path) -> None:
    (place / "link").symlink_to("x")
    status = (place / "link").lstat()
    assert (status.st_mode, status.st_nlink) == (stat.S_IFLNK | 0o777, 1)


def test_symlinks_lead_to_files_and_directories(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"x")
    (place / "to-d").symlink_to("d")
    (place / "chain").symlink_to("to-d")
    assert (place / "chain" / "f").read_bytes() == b"x"
    assert os.listdir(place / "to-d") == ["f"]


def test_a_target_of_4096_bytes_or_none_is_refused(place: Path) -> None:
    assert error_of(os.symlink, "a" * 4096, place / "link") == "ENAMETOOLONG"
    assert error_of(os.symlink, "", place / "link") == "ENOENT"


def test_an_existing_name_is_refused(place: Path) -> None:
    (place / "f").touch()
    assert error_of((place / "f").symlink_to, "x") == "EEXIST"


def test_a_loop_ends_in_eloop(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    assert error_of(os.stat, place / "a") == "ELOOP"


def test_readlink_of_something_else_is_refused(place: Path) -> None:
    (place / "f").touch()
    assert error_of(os.readlink, place / "f") == "EINVAL"
    assert error_of(os.readlink, place) == "EINVAL"


def test_unlink_removes_the_link_and_not_its_target(place: Path) -> None:
    (place / "f").touch()
    (place / "link").symlink_to("f")
    (place / "link").unlink()
    assert os.listdir(place) == ["f"]


def test_owner_and_times_of_the_link_itself_can_be_set(place: Path) -> None:
    (place / "f").touch()
    (place / "link").symlink_to("f")
    before = (place / "f").stat()
    os.chown(place / "link", 7, 8, follow_symlinks=False)
    os.utime(place / "link", ns=(1_000_000_001, 2_000_000_002), follow_symlinks=False)
    status = (place / "link").lstat()
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (7, 8, 2_000_000_002)
    assert (before.st_uid, before.st_mtime_ns) == (
        (place / "f").stat().st_uid,
        (place / "f").stat().st_mtime_ns,
    )


def test_a_replaced_link_leads_to_its_new_target_at_once(place: Path) -> None:
    (place / "one").write_bytes(b"1")
    (place / "two").write_bytes(b"2")
    (place / "link").symlink_to("one")
    assert (place / "link").read_bytes() == b"1"
    (place / "new").symlink_to("two")
    (place / "new").rename(place / "link")
    assert (place / "link").read_bytes() == b"2"
