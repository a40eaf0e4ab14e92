"""POSIX access control lists (acl(5)), set and read by setfacl(1) and getfacl(1)."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.capabilities import Capability
from tests.processes import ALICE, ALICE_IN_TEAM, BOB, TEAM_GID, run_as

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs(Capability.ACL)


def _setfacl(path: Path, *arguments: str) -> None:
    subprocess.run(["setfacl", *arguments, path], check=True)


def _getfacl(path: Path) -> set[str]:
    done = subprocess.run(
        ["getfacl", "--omit-header", "--numeric", "--absolute-names", path],
        check=True,
        capture_output=True,
        text=True,
    )
    return {line.split("\t")[0] for line in done.stdout.splitlines() if line}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(place: Path) -> Path:
    """A file that only root may use."""
    (place / "f").write_bytes(b"content")
    (place / "f").chmod(0o600)
    return place / "f"


def test_a_named_user_gets_in_and_others_do_not(file: Path) -> None:
    _setfacl(file, "-m", f"u:{ALICE.uid}:r")
    assert run_as(ALICE, file.read_bytes) == b"content"
    assert run_as(ALICE, error_of, file.write_bytes, b"x") == "EACCES"
    assert run_as(BOB, error_of, file.read_bytes) == "EACCES"


def test_a_named_group_gets_in(file: Path) -> None:
    _setfacl(file, "-m", f"g:{TEAM_GID}:rw")
    run_as(ALICE_IN_TEAM, file.write_bytes, b"by alice")
    assert file.read_bytes() == b"by alice"
    assert run_as(ALICE, error_of, file.read_bytes) == "EACCES"


def test_the_list_comes_back(file: Path) -> None:
    _setfacl(file, "-m", f"u:{ALICE.uid}:rwx,g:{TEAM_GID}:r,o::r")
    assert _getfacl(file) == {
        "user::rw-",
        f"user:{ALICE.uid}:rwx",
        "group::---",
        f"group:{TEAM_GID}:r--",
        "mask::rwx",
        "other::r--",
    }


def test_a_long_list_comes_back(file: Path) -> None:
    """500 entries: the kernel's FUSE takes 511 (a page), ext4 a few less (a block)."""
    uids = range(100_000, 100_496)
    _setfacl(file, "-m", ",".join(f"u:{uid}:r" for uid in uids))
    listed = _getfacl(file)
    assert {f"user:{uid}:r--" for uid in uids} <= listed
    assert len(listed) == 500


def test_the_group_bits_of_the_mode_are_the_mask(file: Path) -> None:
    _setfacl(file, "-m", f"u:{ALICE.uid}:rw")
    assert _mode(file) == 0o660
    file.chmod(0o640)
    assert "mask::r--" in _getfacl(file)
    assert run_as(ALICE, error_of, file.write_bytes, b"x") == "EACCES"
    assert run_as(ALICE, file.read_bytes) == b"content"
    _setfacl(file, "-m", "m::rw")
    assert _mode(file) == 0o660
    run_as(ALICE, file.write_bytes, b"now")


def test_a_list_that_says_no_more_than_a_mode_becomes_the_mode(file: Path) -> None:
    _setfacl(file, "-m", "u::rwx,g::rx,o::x")
    assert _mode(file) == 0o751
    assert error_of(os.getxattr, file, "system.posix_acl_access") == "ENODATA"


def test_removing_the_list_shuts_named_users_out(file: Path) -> None:
    _setfacl(file, "-m", f"u:{ALICE.uid}:r")
    _setfacl(file, "-b")
    assert _getfacl(file) == {"user::rw-", "group::---", "other::---"}
    assert run_as(ALICE, error_of, file.read_bytes) == "EACCES"


def test_defaults_are_inherited_by_files_and_directories(place: Path) -> None:
    (place / "d").mkdir()
    _setfacl(place / "d", "-d", "-m", f"u:{ALICE.uid}:rwx,g::rx,o::-")
    old = os.umask(0o077)
    try:
        (place / "d" / "f").touch(0o666)
        (place / "d" / "sub").mkdir(0o777)
    finally:
        os.umask(old)
    # With a default list the umask does not count; the mode that was asked for limits the mask.
    assert _mode(place / "d" / "f") == 0o660
    assert f"user:{ALICE.uid}:rwx" in _getfacl(place / "d" / "f")
    assert "mask::rw-" in _getfacl(place / "d" / "f")
    assert _mode(place / "d" / "sub") == 0o770
    assert f"default:user:{ALICE.uid}:rwx" in _getfacl(place / "d" / "sub")


def test_inherited_defaults_let_the_named_user_in(place: Path) -> None:
    (place / "d").mkdir()
    _setfacl(place / "d", "-d", "-m", f"u:{ALICE.uid}:rw,o::-")
    (place / "d" / "f").write_bytes(b"inherited")
    assert run_as(ALICE, (place / "d" / "f").read_bytes) == b"inherited"
    assert run_as(BOB, error_of, (place / "d" / "f").read_bytes) == "EACCES"


def test_fifos_inherit_and_symlinks_do_not(place: Path) -> None:
    (place / "d").mkdir()
    _setfacl(place / "d", "-d", "-m", f"u:{ALICE.uid}:rw")
    os.mkfifo(place / "d" / "p")
    (place / "d" / "link").symlink_to("p")
    assert f"user:{ALICE.uid}:rw-" in _getfacl(place / "d" / "p")
    assert stat.S_IMODE((place / "d" / "link").lstat().st_mode) == 0o777


def test_a_directory_without_defaults_uses_the_umask(place: Path) -> None:
    (place / "d").mkdir()
    _setfacl(place / "d", "-m", f"u:{ALICE.uid}:rwx")
    old = os.umask(0o027)
    try:
        (place / "d" / "f").touch(0o666)
    finally:
        os.umask(old)
    assert _mode(place / "d" / "f") == 0o640
    assert _getfacl(place / "d" / "f") == {"user::rw-", "group::r--", "other::---"}


def test_search_permission_of_a_named_user(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"inside")
    (place / "d").chmod(0o700)
    assert run_as(ALICE, error_of, (place / "d" / "f").read_bytes) == "EACCES"
    _setfacl(place / "d", "-m", f"u:{ALICE.uid}:x")
    assert run_as(ALICE, (place / "d" / "f").read_bytes) == b"inside"
    assert run_as(ALICE, error_of, os.listdir, place / "d") == "EACCES"


def test_only_the_owner_changes_the_list(file: Path) -> None:
    _setfacl(file, "-m", f"u:{ALICE.uid}:rwx")
    value = os.getxattr(file, "system.posix_acl_access")
    assert run_as(ALICE, error_of, os.setxattr, file, "system.posix_acl_access", value) == "EPERM"


def test_files_and_symlinks_take_no_defaults(place: Path, file: Path) -> None:
    done = subprocess.run(["setfacl", "-d", "-m", "u::rwx", file], capture_output=True, check=False)
    assert done.returncode != 0 or _getfacl(file) == {"user::rw-", "group::---", "other::---"}
    (place / "link").symlink_to("f")
    os.chown(file, BOB.uid, BOB.gid)
    _setfacl(place / "link", "-m", f"u:{ALICE.uid}:r")
    assert f"user:{ALICE.uid}:r--" in _getfacl(file)


def test_malformed_lists_are_refused(file: Path) -> None:
    for value in (b"nonsense", b"\x02\x00\x00\x00" + bytes(7), b"\x09\x00\x00\x00"):
        assert error_of(os.setxattr, file, "system.posix_acl_access", value) in (
            "EINVAL",
            "ENOTSUP",
        )
