"""Modes, owners, times and counts: chmod(2), chown(2), utimensat(2), stat(2), statx(2)."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.posix.calls import STATX_BTIME, UTIME_NOW, UTIME_OMIT, statx_times, utimens
from tests.posix.capabilities import Capability
from tests.processes import ALICE, ALICE_IN_TEAM, BOB, TEAM_GID, User, run_as

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.data_path

CLOCK_REALTIME_COARSE = 5  # linux/time.h; Python has no name for it
SET_IDS = stat.S_ISUID | stat.S_ISGID


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _make(path: Path, mode: int, owner: User = ALICE) -> Path:
    path.write_bytes(b"content")
    os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0, 0o777, 0o7777, 0o4711, 0o2755, 0o1000])
def test_chmod_keeps_all_twelve_bits(place: Path, mode: int) -> None:
    (place / "f").touch()
    (place / "d").mkdir()
    for name in "fd":
        (place / name).chmod(mode)
        assert _mode(place / name) == mode


def test_chmod_changes_ctime_and_not_mtime(place: Path) -> None:
    (place / "f").touch()
    os.utime(place / "f", ns=(5, 5))
    before = (place / "f").stat()
    (place / "f").chmod(0o600)
    after = (place / "f").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns >= before.st_ctime_ns) == (5, True)


def test_chown_with_minus_one_leaves_that_id(place: Path) -> None:
    (place / "f").touch()
    os.chown(place / "f", 11, 22)
    os.chown(place / "f", -1, 33)
    assert ((place / "f").stat().st_uid, (place / "f").stat().st_gid) == (11, 33)
    os.chown(place / "f", 44, -1)
    assert ((place / "f").stat().st_uid, (place / "f").stat().st_gid) == (44, 33)


def test_chown_takes_ids_beyond_31_bits(place: Path) -> None:
    (place / "f").touch()
    os.chown(place / "f", 4_000_000_000, 4_000_000_001)
    status = (place / "f").stat()
    assert (status.st_uid, status.st_gid) == (4_000_000_000, 4_000_000_001)


def test_new_files_belong_to_their_maker(place: Path) -> None:
    place.chmod(0o777)
    run_as(ALICE, (place / "f").touch)
    run_as(ALICE, (place / "d").mkdir)
    run_as(ALICE, (place / "link").symlink_to, "f")
    run_as(ALICE, os.mkfifo, place / "p")
    for name in ("f", "d", "link", "p"):
        status = (place / name).lstat()
        assert (status.st_uid, status.st_gid) == (ALICE.uid, ALICE.gid)


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nanoseconds",
    [0, 1, 999_999_999, 1_234_567_890_123_456_789, -1, -5_000_000_001, 4_294_967_296 * 10**9],
    ids=["epoch", "1 ns", "almost 1 s", "now-ish", "-1 ns", "before 1970", "after 2106"],
)
def test_times_are_kept_to_the_nanosecond(place: Path, nanoseconds: int) -> None:
    (place / "f").touch()
    os.utime(place / "f", ns=(nanoseconds, nanoseconds + 2))
    status = (place / "f").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (nanoseconds, nanoseconds + 2)


def test_omitted_times_stay_and_now_is_now(place: Path) -> None:
    (place / "f").touch()
    os.utime(place / "f", ns=(10, 20))
    utimens(place / "f", (0, UTIME_OMIT), (3, 4))
    assert (place / "f").stat().st_atime_ns == 10
    assert (place / "f").stat().st_mtime_ns == 3_000_000_004
    floor = time.time_ns() - 10**9
    utimens(place / "f", (0, UTIME_NOW), (0, UTIME_OMIT))
    status = (place / "f").stat()
    assert floor < status.st_atime_ns < time.time_ns() + 10**9
    assert status.st_mtime_ns == 3_000_000_004


def test_setting_times_changes_ctime(place: Path) -> None:
    (place / "f").touch()
    before = (place / "f").stat().st_ctime_ns
    os.utime(place / "f", ns=(0, 0))
    assert (place / "f").stat().st_ctime_ns >= before > 0


def test_ctime_is_never_settable(place: Path) -> None:
    (place / "f").touch()
    os.utime(place / "f", ns=(0, 0))
    assert (place / "f").stat().st_ctime_ns > 10**18


def test_explicit_times_are_for_the_owner_and_now_for_writers(place: Path) -> None:
    file = _make(place / "f", 0o666, BOB)
    assert run_as(ALICE, error_of, os.utime, file, (1, 1)) == "EPERM"
    assert run_as(ALICE, error_of, os.utime, file) is None
    file.chmod(0o644)
    assert run_as(ALICE, error_of, os.utime, file) == "EACCES"


@pytest.mark.parametrize(
    ("change", "changes_mtime"),
    [
        (lambda path: path.chmod(0o600), False),
        (lambda path: os.chown(path, 1, 1), False),
        (lambda path: os.setxattr(path, "user.k", b"v"), False),
        (lambda path: os.link(path, path.with_name("l")), False),
        (lambda path: os.truncate(path, 3), True),
        (lambda path: path.write_bytes(b"new"), True),
    ],
    ids=["chmod", "chown", "setxattr", "link", "truncate", "write"],
)
def test_a_change_moves_ctime_on_and_mtime_only_with_content(
    place: Path, change: Callable[[Path], object], changes_mtime: bool
) -> None:
    (place / "f").write_bytes(b"content")
    os.utime(place / "f", ns=(1, 1))
    before = (place / "f").stat()
    # The clock that stamps files is coarse (4 ms at HZ=250): step over one tick of it.
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= before.st_ctime_ns:
        pass
    change(place / "f")
    after = (place / "f").stat()
    assert after.st_ctime_ns > before.st_ctime_ns
    assert (after.st_mtime_ns != 1) == changes_mtime


def test_a_write_through_an_open_handle_shows_in_the_times_at_once(place: Path) -> None:
    (place / "f").write_bytes(b"content")
    os.utime(place / "f", ns=(1, 1))
    fd = os.open(place / "f", os.O_WRONLY)
    os.write(fd, b"x")
    assert (place / "f").stat().st_mtime_ns > 1
    assert os.fstat(fd).st_mtime_ns == (place / "f").stat().st_mtime_ns
    os.close(fd)


def test_times_set_on_an_open_written_handle_survive_its_close(place: Path) -> None:
    """What cp -p, tar and rsync do: a late time of the last write must not win."""
    fd = os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, b"content")
    os.utime(fd, ns=(111, 222))
    os.close(fd)
    assert (place / "f").stat().st_mtime_ns == 222
    assert (place / "f").read_bytes() == b"content"
    assert (place / "f").stat().st_mtime_ns == 222


def test_times_of_a_new_file_stay_when_its_unused_handle_is_closed(place: Path) -> None:
    """Closing is no change, however late the file system hears of it."""
    seen = {}
    for number in range(100):
        os.close(os.open(place / f"{number}", os.O_CREAT | os.O_WRONLY, 0o600))
        seen[number] = (place / f"{number}").stat().st_mtime_ns
        (place / f"{number}").rename(place / f"renamed-{number}")
    assert seen == {n: (place / f"renamed-{n}").stat().st_mtime_ns for n in range(100)}


def test_a_read_changes_no_time_but_atime(place: Path) -> None:
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", ns=(1, 2))
    before = (place / "f").stat()
    (place / "f").read_bytes()
    after = (place / "f").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (2, before.st_ctime_ns)
    assert after.st_atime_ns == 1 or after.st_atime_ns > 10**18


@pytest.mark.needs(Capability.BIRTH_TIME)
def test_the_time_of_birth_never_changes(place: Path) -> None:
    floor = time.time_ns() - 10**9
    (place / "f").write_bytes(b"x")
    born = statx_times(place / "f")
    assert born.mask & STATX_BTIME
    assert floor < born.btime_ns < time.time_ns() + 10**9
    os.utime(place / "f", ns=(1, 1))
    (place / "f").write_bytes(b"rewritten")
    (place / "f").rename(place / "g")
    assert statx_times(place / "g").btime_ns == born.btime_ns


# --- set-id bits ---------------------------------------------------------------------------------


def test_a_write_by_another_user_clears_the_set_id_bits(place: Path) -> None:
    file = _make(place / "f", 0o6777, BOB)

    def write() -> None:
        with file.open("r+b") as handle:
            handle.write(b"x")

    run_as(ALICE, write)
    assert _mode(file) == 0o777


def test_a_write_by_the_owner_clears_them_too(place: Path) -> None:
    file = _make(place / "f", 0o6777, ALICE)

    def write() -> None:
        with file.open("r+b") as handle:
            handle.write(b"x")

    run_as(ALICE, write)
    assert _mode(file) == 0o777


def test_a_write_by_root_keeps_them(place: Path) -> None:
    """Root holds CAP_FSETID (capabilities(7))."""
    file = _make(place / "f", 0o6777)
    with file.open("r+b") as handle:
        handle.write(b"x")
    assert _mode(file) == 0o6777


@pytest.mark.parametrize("how", ["truncate", "open"])
def test_truncating_by_a_user_clears_the_set_id_bits(place: Path, how: str) -> None:
    file = _make(place / "f", 0o6777)
    if how == "truncate":
        run_as(ALICE, os.truncate, file, 1)
    else:
        run_as(ALICE, file.write_bytes, b"")
    assert _mode(file) == 0o777


def test_chown_by_a_user_clears_the_set_id_bits(place: Path) -> None:
    file = _make(place / "f", 0o6755)
    run_as(ALICE_IN_TEAM, os.chown, file, -1, TEAM_GID)
    assert (_mode(file), file.stat().st_gid) == (0o755, TEAM_GID)


def test_chown_by_root_clears_them_on_files_that_can_be_run(place: Path) -> None:
    """chown(2) on Linux: cleared for root as well, except setgid without group execute."""
    file = _make(place / "f", 0o6755)
    os.chown(file, BOB.uid, BOB.gid)
    assert _mode(file) == 0o755
    locked = _make(place / "locked", 0o2745)
    os.chown(locked, BOB.uid, BOB.gid)
    assert _mode(locked) == 0o2745


def test_chown_keeps_the_setgid_bit_of_a_directory(place: Path) -> None:
    (place / "d").mkdir()
    (place / "d").chmod(0o2755)
    os.chown(place / "d", BOB.uid, BOB.gid)
    assert _mode(place / "d") == 0o2755


def test_chown_to_the_same_ids_still_clears_those_of_files_and_not_of_directories(
    place: Path,
) -> None:
    (place / "d").mkdir()
    (place / "d").chmod(0o7777)
    os.chown(place / "d", -1, -1)
    assert _mode(place / "d") == 0o7777
    file = _make(place / "f", 0o6755)
    os.chown(file, -1, -1)
    assert _mode(file) == 0o755


def test_chmod_by_a_user_outside_the_group_drops_setgid(place: Path) -> None:
    file = _make(place / "f", 0o755, User(ALICE.uid, TEAM_GID))
    run_as(ALICE, file.chmod, 0o6755)
    assert _mode(file) == 0o4755
    run_as(ALICE_IN_TEAM, file.chmod, 0o6755)
    assert _mode(file) == 0o6755


def test_a_setgid_directory_hands_down_its_group_and_to_directories_the_bit(
    place: Path,
) -> None:
    (place / "d").mkdir()
    os.chown(place / "d", 0, TEAM_GID)
    (place / "d").chmod(0o2777)
    run_as(ALICE, (place / "d" / "f").touch)
    run_as(ALICE, (place / "d" / "sub").mkdir)
    run_as(ALICE, (place / "d" / "link").symlink_to, "f")
    run_as(ALICE, os.mkfifo, place / "d" / "p")
    for name in ("f", "sub", "link", "p"):
        assert (place / "d" / name).lstat().st_gid == TEAM_GID
    assert _mode(place / "d" / "sub") & SET_IDS == stat.S_ISGID
    assert _mode(place / "d" / "f") & SET_IDS == 0


def test_a_setgid_file_in_a_foreign_setgid_directory_loses_the_bit(place: Path) -> None:
    """inode_init_owner in Linux: no setgid program for a group that the maker is not in."""
    (place / "d").mkdir()
    os.chown(place / "d", 0, TEAM_GID)
    (place / "d").chmod(0o2777)

    def create() -> None:
        old = os.umask(0)
        os.close(os.open(place / "d" / "f", os.O_CREAT | os.O_WRONLY, 0o2775))
        os.umask(old)

    run_as(ALICE, create)
    assert _mode(place / "d" / "f") == 0o775


# --- counts --------------------------------------------------------------------------------------


def test_blocks_count_what_the_file_takes(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 1_000_000)
    fd = os.open(place / "f", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    assert 1_000_000 <= (place / "f").stat().st_blocks * 512 < 1_200_000


def test_the_size_shows_at_once_through_path_and_handle(place: Path) -> None:
    fd = os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o600)
    for count in range(1, 50):
        os.write(fd, b"x" * 100)
        assert (os.fstat(fd).st_size, (place / "f").stat().st_size) == (count * 100, count * 100)
    os.close(fd)


def test_inode_numbers_are_unique_and_lasting(place: Path) -> None:
    for number in range(200):
        (place / f"{number}").touch()
    numbers = {name: (place / name).stat().st_ino for name in os.listdir(place)}
    assert len(set(numbers.values())) == 200
    assert numbers == {name: (place / name).stat().st_ino for name in os.listdir(place)}
    assert len({(place / name).stat().st_dev for name in numbers} | {place.stat().st_dev}) == 1


def test_permissions_to_change_attributes(place: Path) -> None:
    file = _make(place / "f", 0o666, BOB)
    assert run_as(ALICE, error_of, file.chmod, 0o777) == "EPERM"
    assert run_as(ALICE, error_of, os.chown, file, ALICE.uid, -1) == "EPERM"
    assert run_as(BOB, error_of, os.chown, file, ALICE.uid, -1) == "EPERM"
    assert run_as(BOB, error_of, os.chown, file, -1, TEAM_GID) == "EPERM"
    assert run_as(BOB, error_of, file.chmod, 0o700) is None


def test_directories_have_a_size(place: Path) -> None:
    (place / "d").mkdir()
    sizes = {(place / "d").stat().st_size, os.stat(place / "d").st_size}
    with os.scandir(place) as entries:
        sizes |= {entry.stat().st_size for entry in entries}
    assert len(sizes) == 1
    assert sizes.pop() > 0
    assert (place / "d").stat().st_blocks > 0
