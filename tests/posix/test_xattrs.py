"""setxattr(2), getxattr(2), listxattr(2), removexattr(2)."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of, outcome
from tests.posix.capabilities import Capability
from tests.processes import ALICE, run_as

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(place: Path) -> Path:
    """An empty file."""
    (place / "f").touch()
    return place / "f"


@pytest.mark.parametrize(
    "value",
    [b"", b"v", bytes(range(256)), b"x" * 3000],
    ids=["empty", "short", "every byte", "3000 bytes"],
)
def test_a_value_comes_back_byte_for_byte(file: Path, value: bytes) -> None:
    os.setxattr(file, "user.key", value)
    assert os.getxattr(file, "user.key") == value


def test_names_of_255_bytes_and_odd_bytes_are_kept(file: Path) -> None:
    names = ["user." + "n" * 250, "user.with space", "user.naïve", "user.a.b.c", "user.UPPER"]
    for name in names:
        os.setxattr(file, name, name.encode())
    assert set(os.listxattr(file)) == set(names)
    assert [os.getxattr(file, name).decode() for name in names] == names


def test_names_beyond_255_bytes_are_refused(file: Path) -> None:
    assert error_of(os.setxattr, file, "user." + "n" * 251, b"") == "ERANGE"
    assert error_of(os.setxattr, file, "user.", b"") in ("EINVAL", "ENOTSUP")


def test_values_beyond_64_kib_are_refused(file: Path) -> None:
    assert error_of(os.setxattr, file, "user.k", bytes(65537)) == "E2BIG"


def test_create_and_replace_flags(file: Path) -> None:
    assert error_of(os.setxattr, file, "user.k", b"1", os.XATTR_REPLACE) == "ENODATA"
    os.setxattr(file, "user.k", b"1", os.XATTR_CREATE)
    assert error_of(os.setxattr, file, "user.k", b"2", os.XATTR_CREATE) == "EEXIST"
    os.setxattr(file, "user.k", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.k") == b"3"


def test_a_missing_name_is_enodata(file: Path) -> None:
    assert error_of(os.getxattr, file, "user.missing") == "ENODATA"
    assert error_of(os.removexattr, file, "user.missing") == "ENODATA"


def test_removing_one_leaves_the_others(file: Path) -> None:
    for name in ("user.a", "user.b", "user.c"):
        os.setxattr(file, name, b"v")
    os.removexattr(file, "user.b")
    assert set(os.listxattr(file)) == {"user.a", "user.c"}


def test_a_new_file_has_none(file: Path) -> None:
    assert [name for name in os.listxattr(file) if not name.startswith("security.")] == []


def test_many_attributes_of_one_file(file: Path) -> None:
    expected = {f"user.key{number}": b"%d" % number for number in range(60)}
    for name, value in expected.items():
        os.setxattr(file, name, value)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == expected


def test_attributes_follow_rename_and_links_and_die_with_the_file(place: Path, file: Path) -> None:
    os.setxattr(file, "user.k", b"v")
    os.link(file, place / "link")
    file.rename(place / "moved")
    assert os.getxattr(place / "moved", "user.k") == os.getxattr(place / "link", "user.k") == b"v"
    (place / "moved").unlink()
    (place / "link").unlink()
    file.touch()
    assert error_of(os.getxattr, file, "user.k") == "ENODATA"


def test_attributes_survive_rewriting_the_content(file: Path) -> None:
    os.setxattr(file, "user.k", b"v")
    file.write_bytes(b"new content")
    with file.open("r+b") as handle:
        handle.truncate(0)
    assert os.getxattr(file, "user.k") == b"v"


def test_directories_have_attributes_too(place: Path) -> None:
    (place / "d").mkdir()
    os.setxattr(place / "d", "user.k", b"v")
    assert (os.getxattr(place / "d", "user.k"), os.listxattr(place / "d")) == (b"v", ["user.k"])


def test_handles_work_like_paths(file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    os.setxattr(fd, "user.k", b"v")
    assert (os.getxattr(file, "user.k"), os.listxattr(fd)) == (b"v", ["user.k"])
    os.removexattr(fd, "user.k")
    os.close(fd)
    assert os.listxattr(file) == []


def test_user_attributes_are_for_files_and_directories_only(place: Path) -> None:
    (place / "link").symlink_to("nowhere")
    os.mkfifo(place / "p")
    assert error_of(_set_on_link, place / "link", "user.k") == "EPERM"
    assert error_of(os.setxattr, place / "p", "user.k", b"v") == "EPERM"


def _set_on_link(path: Path, name: str) -> None:
    os.setxattr(path, name, b"v", follow_symlinks=False)


def test_trusted_attributes_are_root_s_even_on_symlinks(place: Path, file: Path) -> None:
    (place / "link").symlink_to("f")
    _set_on_link(place / "link", "trusted.k")
    assert os.getxattr(place / "link", "trusted.k", follow_symlinks=False) == b"v"
    assert error_of(os.getxattr, file, "trusted.k") == "ENODATA"
    os.setxattr(file, "trusted.k", b"v")
    file.chmod(0o666)
    assert run_as(ALICE, error_of, os.setxattr, file, "trusted.k", b"w") == "EPERM"
    assert run_as(ALICE, error_of, os.getxattr, file, "trusted.k") == "ENODATA"
    os.setxattr(file, "user.k", b"v")
    assert sorted(os.listxattr(file)) == ["trusted.k", "user.k"]
    assert run_as(ALICE, os.listxattr, file) == ["user.k"]


def test_security_attributes_are_kept(file: Path) -> None:
    os.setxattr(file, "security.memfs-test", b"v")
    assert os.getxattr(file, "security.memfs-test") == b"v"
    assert "security.memfs-test" in os.listxattr(file)


def test_file_capabilities_are_kept_and_lost_by_a_write(file: Path) -> None:
    # struct vfs_cap_data, revision 2 (linux/capability.h): CAP_NET_BIND_SERVICE permitted.
    capability = bytes.fromhex("0000000200040000000000000000000000000000")
    os.setxattr(file, "security.capability", capability)
    assert os.getxattr(file, "security.capability") == capability
    file.chmod(0o777)
    run_as(ALICE, file.write_bytes, b"replaced")
    assert error_of(os.getxattr, file, "security.capability") == "ENODATA"


def test_an_unknown_namespace_is_refused(file: Path) -> None:
    assert error_of(os.setxattr, file, "nonsense.k", b"v") == "ENOTSUP"
    assert error_of(os.setxattr, file, "nonsense", b"v") == "ENOTSUP"


def test_permissions_follow_the_mode(file: Path) -> None:
    os.setxattr(file, "user.k", b"v")
    file.chmod(0o644)
    assert run_as(ALICE, os.getxattr, file, "user.k") == b"v"
    assert run_as(ALICE, error_of, os.setxattr, file, "user.k", b"w") == "EACCES"
    file.chmod(0o600)
    assert run_as(ALICE, error_of, os.getxattr, file, "user.k") == "EACCES"


def test_setting_changes_ctime_and_not_mtime(file: Path) -> None:
    os.utime(file, ns=(1, 1))
    before = file.stat().st_ctime_ns
    os.setxattr(file, "user.k", b"v")
    assert (file.stat().st_mtime_ns, file.stat().st_ctime_ns >= before) == (1, True)


@pytest.mark.needs(Capability.LARGE_XATTRS)
def test_values_of_64_kib_are_kept(file: Path) -> None:
    """One after the other: those of a user have a bound together."""
    for size in (65536, 65535, 65536, 1):
        value = random.Random(size).randbytes(size)
        os.setxattr(file, "user.k", value)
        assert os.getxattr(file, "user.k") == value


@pytest.mark.needs(Capability.LARGE_XATTRS)
def test_a_list_of_names_beyond_64_kib_is_refused_or_whole(file: Path) -> None:
    """XATTR_LIST_MAX: the kernel answers E2BIG for what it cannot pass on (listxattr(2))."""
    names = {"user." + "n" * 240 + f"{number:03}" for number in range(300)}
    made = {name for name in names if error_of(os.setxattr, file, name, b"") is None}
    listed = outcome(lambda: set(os.listxattr(file)))
    assert listed.value == made or listed.error == "E2BIG"


@pytest.mark.needs(Capability.MEMFS_XATTRS)
def test_what_memfs_tells_by_attributes_is_not_listed(place: Path, file: Path) -> None:
    """Else every `cp -a` would try to set what cannot be set."""
    file.write_bytes(b"content")
    os.setxattr(file, "user.mine", b"v")
    for name in ("tier", "pin", "state", "residency", "why"):
        assert os.getxattr(file, f"user.memfs.{name}")
    assert os.listxattr(file) == ["user.mine"]
    subprocess.run(["cp", "-a", file, place / "copy"], check=True)
    assert os.listxattr(place / "copy") == ["user.mine"]


@pytest.mark.needs(Capability.MEMFS_XATTRS)
def test_a_pin_is_set_read_and_taken_back(file: Path) -> None:
    file.write_bytes(b"content")
    assert os.getxattr(file, "user.memfs.pin") == b"auto"
    os.setxattr(file, "user.memfs.tier", b"cold")
    assert os.getxattr(file, "user.memfs.pin") == b"cold"
    os.removexattr(file, "user.memfs.tier")
    assert os.getxattr(file, "user.memfs.pin") == b"auto"
    assert error_of(os.setxattr, file, "user.memfs.tier", b"lukewarm") == "EINVAL"


@pytest.mark.needs(Capability.MEMFS_XATTRS)
def test_read_only_names_cannot_be_set(file: Path) -> None:
    for name in ("pin", "state", "residency", "why", "digest"):
        assert error_of(os.setxattr, file, f"user.memfs.{name}", b"x") in ("EPERM", "EACCES")
