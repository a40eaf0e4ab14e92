"""Bytes before names: what a rename put in another's place, and when it is on stable storage."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from memfs.config import MetadataConfig
from memfs.content.syncer import FAILED_COUNT_MAX, QUEUED_COUNT_MAX, Syncer
from memfs.errors import StoreError
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.stores.raw import RawStore
from memfs.types import ROOT_INODE, RawId
from tests.disk_calls import intercept
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOURNAL = "journal"


class Disk:
    """A state directory with a spy on the disk.

    Args:
        state_dir: Empty.
    """

    def __init__(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = SqliteEngine.open(state_dir, MetadataConfig())
        self.engine.sync()
        self.raw_store = RawStore(state_dir)
        self.syncer = Syncer(self.engine, self.raw_store)
        self.spy = DiskSpy(monkeypatch)

    def close(self) -> None:
        self.engine.close()
        self.raw_store.close()

    def write(self, *ids: int) -> None:
        """Make raw files with bytes that nobody synced."""
        for raw in ids:
            fd = self.raw_store.create(RawId(raw))
            os.write(fd, b"new")
            os.close(fd)

    async def change(self) -> None:
        """Commit something, so that the journal has an entry to sync."""
        ino, _ = self.engine.reserve_ids()
        name = str(ino).encode()
        await self.engine.create(ROOT_INODE, name, NewInode(ino, 0o40755, 0, 0, 1))
        self.engine.commit_nowait()


class DiskSpy:
    """Notes each sync of the disk, in order; fails those of `broken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.broken: set[str] = set()
        self.then: Callable[[str], None] = lambda _name: None
        """Called with what was synced."""
        names = ("fsync", "fdatasync", "syncfs")
        intercept(monkeypatch, *names, before=self._note, after=self._tell)

    def _tell(self, _call: str, fd: int) -> None:
        self.then(_name(fd))

    def _note(self, call: str, fd: int) -> None:
        name = "disk" if call == "syncfs" else _name(fd)
        self.events.append(name)
        if name in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _name(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    directory, name = os.path.split(path)
    if JOURNAL in name:
        return JOURNAL
    is_directory = name == "raw" or os.path.basename(directory) == "raw"
    return f"{name}/" if is_directory else name


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    opened = Disk(tmp_path, monkeypatch)
    yield opened
    opened.close()


async def test_bytes_and_name_of_an_added_file_are_synced_before_the_journal(disk: Disk) -> None:
    disk.write(1, 2)
    await disk.change()
    disk.syncer.add(RawId(1))
    disk.syncer.add(RawId(2))
    disk.syncer.sync()
    assert disk.spy.events == ["1", "2", "0/", "raw/", JOURNAL]
    assert not disk.syncer.queued_count


async def test_a_file_is_synced_once(disk: Disk) -> None:
    disk.write(1)
    disk.syncer.add(RawId(1))
    disk.syncer.add(RawId(1))
    disk.syncer.sync()
    disk.syncer.sync()
    assert disk.spy.events.count("1") == 1


async def test_a_file_that_is_gone_is_passed_over(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    await disk.change()
    disk.syncer.add(RawId(1))
    disk.syncer.sync()
    assert disk.spy.events == [JOURNAL]
    assert not disk.syncer.queued_count
    assert not caplog.records


@pytest.mark.parametrize("broken", ["1", "0/"])
async def test_a_file_that_cannot_be_synced_stays_queued_and_holds_up_no_names(
    disk: Disk, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    disk.write(1)
    disk.spy.broken.add(broken)
    disk.syncer.add(RawId(1))
    for _ in range(2):
        await disk.change()
        disk.syncer.sync()
        assert disk.spy.events[-1] == JOURNAL
        assert disk.syncer.queued_count == 1
    assert [record.getMessage() for record in caplog.records if "raw file 1" in record.message]
    assert len(caplog.records) == 1
    disk.spy.broken.clear()
    disk.syncer.sync()
    assert not disk.syncer.queued_count


async def test_one_bad_file_does_not_keep_the_others_queued(disk: Disk) -> None:
    disk.write(1, 2)
    disk.spy.broken.add("1")
    disk.syncer.add(RawId(1))
    disk.syncer.add(RawId(2))
    disk.syncer.sync()
    assert disk.syncer.queued_count == 1
    assert "2" in disk.spy.events


async def test_more_files_than_the_queue_holds_are_synced_with_the_whole_disk(disk: Disk) -> None:
    await disk.change()
    for raw in range(1, QUEUED_COUNT_MAX + 2):
        disk.syncer.add(RawId(raw))
    assert disk.syncer.queued_count == QUEUED_COUNT_MAX
    disk.syncer.sync()
    assert disk.spy.events == ["disk", JOURNAL]
    await disk.change()
    disk.syncer.sync()
    assert disk.spy.events == ["disk", JOURNAL, JOURNAL]


async def test_the_whole_disk_is_tried_again_until_it_can_be_synced(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.spy.broken.add("disk")
    for raw in range(1, QUEUED_COUNT_MAX + 2):
        disk.syncer.add(RawId(raw))
    disk.syncer.sync()
    disk.syncer.sync()
    assert len(caplog.records) == 1
    disk.spy.broken.clear()
    disk.spy.events.clear()
    disk.syncer.sync()
    disk.syncer.sync()
    assert disk.spy.events == ["disk"]


async def test_a_file_that_is_added_again_while_it_is_synced_is_synced_again(disk: Disk) -> None:
    """Between its two renames it was written to."""
    disk.write(1)
    disk.syncer.add(RawId(1))
    again = [RawId(1)]

    def add_once(_name: str) -> None:
        while again:
            disk.syncer.add(again.pop())

    disk.spy.then = add_once
    disk.syncer.sync()
    assert disk.spy.events.count("1") == 2
    assert not disk.syncer.queued_count


def _replace(world: World, flags: int = 0) -> tuple[str, str]:
    """Rename a file just written over another; returns the names of their raw files."""
    raws = []
    for name in (b"new", b"old"):
        file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
        world.write(file, 0, name)
        world.release(file)
        raws.append(f"{world.run(world.engine.get_inode(file.ino)).raw:x}")
    world.request(world.filesystem.rename(ROOT_INODE, b"new", ROOT_INODE, b"old", flags))
    return raws[0], raws[1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("step", ["round", "fsync of another", "fsync of a directory", "open"])
def test_a_file_renamed_over_another_is_on_disk_before_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Write, close and rename without fsync: power loss leaves the old bytes or the new ones."""
    other = world.create(ROOT_INODE, b"other", 0o644, os.O_RDWR)
    new, _ = _replace(world)
    filesystem, program = world.filesystem, world.program
    with monkeypatch.context() as patched:
        spy = DiskSpy(patched)
        if step == "round":
            world.step()
        elif step == "fsync of another":
            world.run(filesystem.fsync(program, other.ino, data_only=True))
        elif step == "fsync of a directory":
            world.run(filesystem.fsync_directory(program, ROOT_INODE))
        else:
            world.release(world.open(other.ino, os.O_RDWR | os.O_SYNC))
    assert spy.events.index(new) < spy.events.index(JOURNAL)


def test_the_replaced_bytes_are_removed_only_after_the_new_are_on_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = _replace(world)
    replaced = world.raw_store.path(RawId(int(old, 16)))
    there: list[bool] = []

    def look(name: str) -> None:
        if name == new:
            there.append(replaced.exists())

    with monkeypatch.context() as patched:
        DiskSpy(patched).then = look
        world.filesystem.forget([world.run(world.engine.list_orphans(1))[0]])
        world.step()
        world.step()
    assert there == [True]
    assert not replaced.exists()


def test_both_files_of_an_exchange_are_on_disk_before_their_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename_exchange = 2
    raws = _replace(world, rename_exchange)
    with monkeypatch.context() as patched:
        spy = DiskSpy(patched)
        world.run(world.filesystem.fsync_directory(world.program, ROOT_INODE))
    assert set(raws) <= set(spy.events[: spy.events.index(JOURNAL)])


def test_a_file_that_was_durable_is_not_synced_for_its_rename(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"new", b"old"):
        world.release(world.create(ROOT_INODE, name, 0o644, os.O_RDWR))
    world.step()
    durable = world.run(world.engine.list_not_durable(9))
    world.run(world.engine.mark_durable([(inode.ino, inode.generation) for inode in durable]))
    world.request(world.filesystem.rename(ROOT_INODE, b"new", ROOT_INODE, b"old", 0))
    with monkeypatch.context() as patched:
        spy = DiskSpy(patched)
        world.run(world.filesystem.fsync_directory(world.program, ROOT_INODE))
    assert not [event for event in spy.events if event != JOURNAL and "/" not in event]


# --- failures ------------------------------------------------------------------------------------
REFUSED = StoreError("input/output error")


def test_a_failure_is_told_once_and_held_against_the_file_until_it_is_written_anew(
    disk: Disk,
) -> None:
    syncer, raw = disk.syncer, RawId(1)
    syncer.note_failure(raw, REFUSED)
    assert [syncer.take_failure(raw), syncer.take_failure(raw)] == [errno.EIO, 0]
    assert "input/output error" in str(syncer.refusal(raw))
    syncer.renew(raw)
    assert syncer.refusal(raw) is None
    assert syncer.refusal(RawId(2)) is None


def test_a_failure_that_nobody_heard_of_is_told_to_who_writes_anew(disk: Disk) -> None:
    """As the kernel tells the first descriptor that is opened after it."""
    syncer, raw = disk.syncer, RawId(1)
    syncer.note_failure(raw, REFUSED)
    syncer.renew(raw)
    assert syncer.refusal(raw) is None
    assert [syncer.take_failure(raw), syncer.take_failure(raw)] == [errno.EIO, 0]


def test_too_many_failures_are_held_against_all_files(disk: Disk) -> None:
    """Memory is bounded, and nobody knows any more which files are sound."""
    sound = RawId(FAILED_COUNT_MAX + 2)
    for raw in range(1, FAILED_COUNT_MAX + 1):
        disk.syncer.note_failure(RawId(raw), REFUSED)
    assert disk.syncer.refusal(sound) is None
    disk.syncer.note_failure(RawId(FAILED_COUNT_MAX + 1), REFUSED)
    assert "mount again" in str(disk.syncer.refusal(sound))
