"""rename(2) and renameat2(2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.outcomes import error_of
from tests.posix.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.processes import ALICE, BOB, run_as

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_keeps_its_inode_under_a_new_name(place: Path) -> None:
    (place / "a").write_bytes(b"x")
    inode = (place / "a").stat().st_ino
    (place / "a").rename(place / "b")
    assert os.listdir(place) == ["b"]
    assert (inode, b"x") == ((place / "b").stat().st_ino, (place / "b").read_bytes())


def test_an_existing_target_is_replaced(place: Path) -> None:
    (place / "a").write_bytes(b"new")
    (place / "b").write_bytes(b"old")
    old = os.open(place / "b", os.O_RDONLY)
    (place / "a").rename(place / "b")
    assert (place / "b").read_bytes() == b"new"
    assert (os.read(old, 10), os.fstat(old).st_nlink) == (b"old", 0)
    os.close(old)


def test_across_directories_times_and_counts_follow(place: Path) -> None:
    (place / "d1").mkdir()
    (place / "d2").mkdir()
    (place / "d1" / "sub").mkdir()
    for name in ("d1", "d2"):
        os.utime(place / name, ns=(0, 0))
    links = [(place / name).stat().st_nlink for name in ("d1", "d2")]
    (place / "d1" / "sub").rename(place / "d2" / "sub")
    for name in ("d1", "d2"):
        assert (place / name).stat().st_mtime_ns > 0
    assert sum(links) == sum((place / name).stat().st_nlink for name in ("d1", "d2"))
    assert (place / "d2").stat().st_ino == (place / "d2" / "sub" / "..").stat().st_ino


def test_ctime_of_the_renamed_file_does_not_go_back(place: Path) -> None:
    (place / "a").touch()
    before = (place / "a").stat()
    (place / "a").rename(place / "b")
    after = (place / "b").stat()
    assert after.st_ctime_ns >= before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_onto_itself_is_nothing(place: Path) -> None:
    (place / "a").write_bytes(b"x")
    (place / "a").rename(place / "a")
    assert (place / "a").read_bytes() == b"x"


def test_onto_another_link_of_the_same_file_keeps_both(place: Path) -> None:
    """rename(2): "if oldpath and newpath are existing hard links to the same file ... nothing"."""
    (place / "a").write_bytes(b"x")
    os.link(place / "a", place / "b")
    (place / "a").rename(place / "b")
    assert {"a", "b"} == set(os.listdir(place))
    assert (place / "a").stat().st_nlink == 2


def test_replacing_one_link_keeps_the_others(place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    os.link(place / "b", place / "b2")
    (place / "a").rename(place / "b")
    assert ((place / "b2").read_bytes(), (place / "b2").stat().st_nlink) == (b"b", 1)


def test_a_directory_moves_with_all_below(place: Path) -> None:
    (place / "d" / "e").mkdir(parents=True)
    (place / "d" / "e" / "f").write_bytes(b"deep")
    (place / "d").rename(place / "moved")
    assert (place / "moved" / "e" / "f").read_bytes() == b"deep"
    assert not (place / "d").exists()


def test_a_directory_replaces_an_empty_one_only(place: Path) -> None:
    for name in ("d", "empty", "full"):
        (place / name).mkdir()
    (place / "full" / "f").touch()
    assert error_of((place / "d").rename, place / "full") in ("ENOTEMPTY", "EEXIST")
    (place / "d").rename(place / "empty")
    assert {"empty", "full"} == set(os.listdir(place))


def test_a_directory_cannot_move_below_itself(place: Path) -> None:
    (place / "d" / "e").mkdir(parents=True)
    assert error_of((place / "d").rename, place / "d" / "x") == "EINVAL"
    assert error_of((place / "d").rename, place / "d" / "e" / "x") == "EINVAL"
    assert error_of((place / "d" / "e").rename, place / "d") in ("ENOTEMPTY", "EEXIST")


def test_kinds_do_not_replace_each_other(place: Path) -> None:
    (place / "d").mkdir()
    (place / "f").touch()
    assert error_of((place / "d").rename, place / "f") == "ENOTDIR"
    assert error_of((place / "f").rename, place / "d") == "EISDIR"


def test_dot_and_dot_dot_are_refused(place: Path) -> None:
    (place / "d").mkdir()
    for name in ("d/.", "d/.."):
        assert error_of(os.rename, f"{place}/{name}", place / "x") in (
            "EBUSY",
            "EINVAL",
        )


def test_missing_names(place: Path) -> None:
    (place / "f").touch()
    assert error_of((place / "missing").rename, place / "x") == "ENOENT"
    assert error_of((place / "f").rename, place / "missing" / "x") == "ENOENT"
    assert error_of((place / "f").rename, place / "f" / "x") == "ENOTDIR"


def test_a_symlink_itself_is_renamed_and_replaced(place: Path) -> None:
    (place / "f").write_bytes(b"f")
    (place / "link").symlink_to("f")
    (place / "link").rename(place / "moved")
    assert os.readlink(place / "moved") == "f"
    (place / "g").write_bytes(b"g")
    (place / "g").rename(place / "moved")
    assert ((place / "moved").read_bytes(), (place / "f").read_bytes()) == (b"g", b"f")
    assert not (place / "moved").is_symlink()


def test_an_open_handle_follows_the_file(place: Path) -> None:
    fd = os.open(place / "a", os.O_CREAT | os.O_RDWR, 0o600)
    (place / "a").rename(place / "b")
    os.write(fd, b"after")
    assert (place / "b").read_bytes() == b"after"
    os.close(fd)


def test_noreplace_moves_to_a_free_name_only(place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    assert error_of(renameat2, place / "a", place / "b", RENAME_NOREPLACE) == "EEXIST"
    renameat2(place / "a", place / "c", RENAME_NOREPLACE)
    assert {"b", "c"} == set(os.listdir(place))
    assert (place / "b").read_bytes() == b"b"


def test_noreplace_onto_itself_is_refused(place: Path) -> None:
    (place / "a").touch()
    assert error_of(renameat2, place / "a", place / "a", RENAME_NOREPLACE) == "EEXIST"


def test_exchange_swaps_two_files(place: Path) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    inodes = (place / "a").stat().st_ino, (place / "b").stat().st_ino
    renameat2(place / "a", place / "b", RENAME_EXCHANGE)
    assert ((place / "a").read_bytes(), (place / "b").read_bytes()) == (b"b", b"a")
    assert inodes == ((place / "b").stat().st_ino, (place / "a").stat().st_ino)


def test_exchange_swaps_a_file_with_a_full_directory_elsewhere(place: Path) -> None:
    (place / "d1").mkdir()
    (place / "d1" / "f").write_bytes(b"f")
    (place / "d2" / "sub").mkdir(parents=True)
    (place / "d2" / "sub" / "inner").touch()
    renameat2(place / "d1" / "f", place / "d2" / "sub", RENAME_EXCHANGE)
    assert (place / "d2" / "sub").read_bytes() == b"f"
    assert os.listdir(place / "d1" / "f") == ["inner"]
    assert (place / "d1").stat().st_ino == (place / "d1" / "f" / "..").stat().st_ino
    assert ((place / "d1").stat().st_nlink, (place / "d2").stat().st_nlink) in [(3, 2), (1, 1)]


def test_exchange_needs_both(place: Path) -> None:
    (place / "a").touch()
    assert error_of(renameat2, place / "a", place / "b", RENAME_EXCHANGE) == "ENOENT"
    assert error_of(renameat2, place / "b", place / "a", RENAME_EXCHANGE) == "ENOENT"


def test_exchange_of_a_directory_with_its_own_child_is_refused(place: Path) -> None:
    (place / "d" / "e").mkdir(parents=True)
    assert error_of(renameat2, place / "d", place / "d" / "e", RENAME_EXCHANGE) == "EINVAL"
    assert error_of(renameat2, place / "d" / "e", place / "d", RENAME_EXCHANGE) in (
        "EINVAL",
        "ENOTEMPTY",
    )


def test_contradicting_or_unknown_flags_are_refused(place: Path) -> None:
    (place / "a").touch()
    (place / "b").touch()
    for flags in (RENAME_EXCHANGE | RENAME_NOREPLACE, 1 << 10):
        assert error_of(renameat2, place / "a", place / "b", flags) == "EINVAL"


def test_a_sticky_directory_protects_files_of_others(place: Path) -> None:
    place.chmod(0o1777)
    (place / "bob").touch()
    os.chown(place / "bob", BOB.uid, BOB.gid)
    (place / "alice").touch()
    os.chown(place / "alice", ALICE.uid, ALICE.gid)
    for source, target in [("bob", "x"), ("alice", "bob")]:
        assert run_as(ALICE, error_of, os.rename, place / source, place / target) in (
            "EPERM",
            "EACCES",
        )
    run_as(ALICE, os.rename, place / "alice", place / "x")
    assert {"bob", "x"} == set(os.listdir(place))


def test_both_directories_must_be_writable(place: Path) -> None:
    (place / "mine").mkdir()
    os.chown(place / "mine", ALICE.uid, ALICE.gid)
    (place / "theirs").mkdir()
    (place / "theirs" / "f").touch()
    (place / "mine" / "g").touch()
    for source, target in [("theirs/f", "mine/f"), ("mine/g", "theirs/g")]:
        assert run_as(ALICE, error_of, os.rename, place / source, place / target) == "EACCES"


def test_moving_a_directory_to_another_parent_needs_write_permission_on_itself(
    place: Path,
) -> None:
    """Its `..` changes; Linux demands it of every file system that checks permissions."""
    place.chmod(0o777)
    for name in ("source", "target", "source/d"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
    os.chown(place / "source" / "d", BOB.uid, BOB.gid)
    (place / "source" / "d").chmod(0o755)
    assert run_as(ALICE, error_of, os.rename, place / "source/d", place / "target/d") == "EACCES"


def test_a_cached_negative_name_appears_after_rename(place: Path) -> None:
    (place / "a").touch()
    assert not (place / "b").exists()
    (place / "a").rename(place / "b")
    assert (place / "b").exists()
    assert not (place / "a").exists()


def test_deep_paths_stay_reachable_after_renaming_an_ancestor_many_times(place: Path) -> None:
    deep = "/".join(f"level{n}" for n in range(20))
    (place / "top" / deep).mkdir(parents=True)
    (place / "top" / deep / "f").write_bytes(b"x")
    name = "top"
    for number in range(20):
        os.rename(place / name, place / f"top{number}")
        name = f"top{number}"
        assert (place / name / deep / "f").read_bytes() == b"x"
