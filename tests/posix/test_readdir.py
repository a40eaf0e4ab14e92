"""getdents64(2), and readdir(3) on top of it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from memfs.config import MetadataConfig
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.types import ROOT_INODE
from tests.contract.engine.site import run
from tests.posix.calls import getdents
from tests.processes import holding, in_child

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory


LARGE_COUNT = 30_000
"""Some hundred answers hold them."""


def _fill(directory: Path, count: int) -> set[bytes]:
    names = {b"entry-%06d" % number for number in range(count)}
    fd = os.open(directory, os.O_RDONLY)
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.close(fd)
    return names


def _records(directory: Path) -> list[bytes]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return [record.name for record in getdents(fd)]
    finally:
        os.close(fd)


def test_an_empty_directory_holds_itself_and_its_parent(place: Path) -> None:
    (place / "d").mkdir()
    fd = os.open(place / "d", os.O_RDONLY)
    records = {record.name: record for record in getdents(fd)}
    os.close(fd)
    assert set(records) == {b".", b".."}
    assert records[b"."].inode == (place / "d").stat().st_ino
    assert {record.type for record in records.values()} <= {4, 0}  # DT_DIR or DT_UNKNOWN


def test_every_entry_comes_exactly_once(place: Path) -> None:
    names = _fill(place, 3000)
    assert sorted(_records(place)) == sorted(names | {b".", b".."})


def _plant_fifos(state_dir: Path, count: int) -> set[bytes]:
    """Make named pipes in the root of an unmounted state directory; returns their names.

    Through the engine, in a fiftieth of what requests take; pipes, for they have no raw file.
    """
    names = [b"entry-%06d" % number for number in range(count)]
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    try:
        for name in names:
            ino, _ = engine.reserve_ids()
            run(engine.create(ROOT_INODE, name, NewInode(ino, stat.S_IFIFO | 0o600, 0, 0, ino)))
            engine.commit_nowait()
    finally:
        engine.close()
    return set(names)


@pytest.mark.slow
def test_tens_of_thousands_of_entries_come_exactly_once(
    mount_factory: MountFactory, driver: str
) -> None:
    """Also while some of them are removed, as `rm -r` does."""
    mount = mount_factory(driver)
    mount.stop()
    names = _plant_fifos(mount.state, LARGE_COUNT)
    mount.start()
    assert sorted(_records(mount.root)) == sorted(names | {b".", b".."})
    for number in range(0, LARGE_COUNT, 97):
        assert (mount.root / f"entry-{number:06}").is_fifo()
    fd = os.open(mount.root, os.O_RDONLY)
    seen, removed = [], set()
    for number, record in enumerate(getdents(fd)):
        seen.append(record.name)
        if number % 97 == 50:
            os.unlink(record.name, dir_fd=fd)
            removed.add(record.name)
    os.close(fd)
    assert sorted(seen) == sorted(names | {b".", b".."})
    assert set(os.listdir(os.fsencode(mount.root))) == names - removed


def test_types_and_inodes_agree_with_stat(place: Path) -> None:
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "link").symlink_to("file")
    os.mkfifo(place / "fifo")
    os.mknod(place / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(place / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    fd = os.open(place, os.O_RDONLY)
    records = {record.name.decode(): record for record in getdents(fd)}
    os.close(fd)
    for name in os.listdir(place):
        status = (place / name).lstat()
        assert records[name].inode == status.st_ino
        # DT_* is the file type of st_mode, shifted; DT_UNKNOWN (0) is always allowed.
        assert records[name].type in (0, stat.S_IFMT(status.st_mode) >> 12)


def test_scandir_tells_kinds(place: Path) -> None:
    (place / "f").touch()
    (place / "d").mkdir()
    (place / "link").symlink_to("d")
    with os.scandir(place) as entries:
        kinds = {entry.name: (entry.is_dir(follow_symlinks=False)) for entry in entries}
    assert kinds == {"f": False, "d": True, "link": False}


def test_seeking_to_a_position_continues_right_behind_it(place: Path) -> None:
    _fill(place, 500)
    fd = os.open(place, os.O_RDONLY)
    records = list(getdents(fd, buffer_bytes=4096))
    for index in (0, 1, 2, 57, 250, 499, len(records) - 1):
        os.lseek(fd, records[index].offset, os.SEEK_SET)
        rest = [record.name for record in getdents(fd)]
        assert rest == [record.name for record in records[index + 1 :]]
    os.close(fd)


def test_rewinding_shows_what_changed(place: Path) -> None:
    (place / "old").touch()
    fd = os.open(place, os.O_RDONLY)
    assert {record.name for record in getdents(fd)} == {b".", b"..", b"old"}
    (place / "new").touch()
    (place / "old").unlink()
    os.lseek(fd, 0, os.SEEK_SET)
    assert {record.name for record in getdents(fd)} == {b".", b"..", b"new"}
    os.close(fd)


def test_changes_during_a_reading_lose_and_repeat_nothing_else(place: Path) -> None:
    """POSIX leaves open only whether the changed entries themselves show up."""
    names = _fill(place, 1500)
    fd = os.open(place, os.O_RDONLY)
    seen: list[bytes] = []
    changed: set[bytes] = set()
    for number, record in enumerate(getdents(fd, buffer_bytes=2048)):
        seen.append(record.name)
        if number % 10 == 0:
            victim = b"entry-%06d" % (number % 1500)
            if victim not in changed:
                os.unlink(os.fsencode(place) + b"/" + victim)
                changed.add(victim)
            (place / f"new-{number}").touch()
            changed.add(b"new-%d" % number)
    os.close(fd)
    stable = (names | {b".", b".."}) - changed
    assert sorted(name for name in seen if name not in changed) == sorted(stable)
    assert len(seen) == len(set(seen))


def test_removing_all_while_reading_leaves_an_empty_directory(place: Path) -> None:
    _fill(place, 2000)
    fd = os.open(place, os.O_RDONLY)
    for record in getdents(fd, buffer_bytes=4096):
        if record.name not in (b".", b".."):
            os.unlink(record.name, dir_fd=fd)
    os.close(fd)
    assert os.listdir(place) == []


def test_a_listing_shows_at_once_what_another_process_did(place: Path) -> None:
    for number in range(20):
        in_child((place / f"{number}").touch)
        assert len(os.listdir(place)) == number + 1


def test_two_readers_do_not_share_a_position(place: Path) -> None:
    _fill(place, 300)
    expected = sorted(_records(place))
    with holding(lambda: os.open(place, os.O_RDONLY)):
        first, second = os.open(place, os.O_RDONLY), os.open(place, os.O_RDONLY)
        one = getdents(first, 2048)
        two = getdents(second, 2048)
        both = [[next(one).name], [next(two).name]]
        both[0] += [record.name for record in one]
        both[1] += [record.name for record in two]
        os.close(first)
        os.close(second)
    assert [sorted(names) for names in both] == [expected, expected]


def test_listing_updates_no_modification_time(place: Path) -> None:
    (place / "f").touch()
    before = place.stat()
    os.listdir(place)
    assert (place.stat().st_mtime_ns, place.stat().st_ctime_ns) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
