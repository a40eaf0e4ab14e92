"""What an fsync has promised is on the disk, whichever way it went: bytes, name, and inode.

The disk is watched: what was not synced when power fails is taken to be lost.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from memfs.types import ROOT_INODE
from tests.disk_calls import intercept
from tests.property.world import ROOMY, ToldSyncs, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.property.world import OpenFile

STEP_COUNT = 120
NOTES_OFFSET, ENTRIES_OFFSET = 512, 1536
"""See `memfs.metadata.sqlite.journal`."""


class WatchedDisk:
    """Knows what power loss would leave of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._journals = [state_dir / name for name in ("journal.0", "journal.1")]
        self.contents = {str(path): path.read_bytes() for path in self._journals}
        """Those of raw files and journals, as they were last synced, by path."""
        self.names: set[str] = set()
        """Those of raw files, as of the last sync of their directory."""
        self.sync_count = 0

    def note_sync(self, _call: str, fd: int) -> None:
        self.sync_count += 1
        path = os.readlink(f"/proc/self/fd/{fd}")
        if os.path.isdir(path):
            self.names |= {f"{path}/{name}" for name in os.listdir(path)}
        else:
            with open(path, "rb") as file:
                self.contents[path] = file.read()

    def journals_are_whole(self) -> bool:
        """Return whether no header and no entry of the journals is in the page cache alone."""
        return all(
            _without_notes(path.read_bytes()) == _without_notes(self.contents[str(path)])
            for path in self._journals
        )


def _without_notes(journal: bytes) -> bytes:
    """Return a journal without its notes of what was synced: they may be lost with power."""
    return journal[:NOTES_OFFSET] + journal[ENTRIES_OFFSET:]


class Programs:
    """A program that changes files at random, and the file that it syncs."""

    def __init__(self, world: World, choices: random.Random) -> None:
        self.world = world
        self.choices = choices
        self.files: dict[bytes, OpenFile] = {}
        self._count = 0

    def create(self) -> None:
        self._count += 1
        name = b"%d" % self._count
        self.files[name] = self.world.create(ROOT_INODE, name, 0o644, os.O_RDWR)

    def write(self, name: bytes) -> None:
        data = self.choices.randbytes(self.choices.choice([1, 100, 5000]))
        self.world.write(self.files[name], self.choices.randrange(4000), data)

    def rename(self, name: bytes) -> None:
        self._count += 1
        target = self.choices.choice([*self.files, b"%d" % self._count])
        if target == name:
            return
        filesystem = self.world.filesystem
        self.world.request(filesystem.rename(ROOT_INODE, name, ROOT_INODE, target, 0))
        if (replaced := self.files.pop(target, None)) is not None:
            self.world.release(replaced)
        self.files[target] = self.files.pop(name)

    def link(self, name: bytes) -> None:
        self._count += 1
        ino = self.files[name].ino
        self.world.request(self.world.filesystem.link(ino, ROOT_INODE, b"%d" % self._count))

    def reopen(self, name: bytes) -> None:
        file = self.files[name]
        self.world.release(file)
        self.world.step()
        self.files[name] = self.world.open(file.ino, os.O_RDWR)

    def sync(self, name: bytes) -> None:
        world = self.world
        data_only = self.choices.random() < 0.7
        world.request(world.filesystem.fsync(world.program, self.files[name].ino, data_only))


@pytest.fixture
def quick() -> ToldSyncs:
    return ToldSyncs()


@pytest.fixture
def world(tmp_path: Path, quick: ToldSyncs) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True, quick=quick)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("seed", range(12))
def test_what_was_synced_is_on_the_disk(
    world: World, quick: ToldSyncs, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    disk = WatchedDisk(world.state_dir)
    intercept(monkeypatch, "fsync", "fdatasync", before=disk.note_sync)
    # Each sync is taken to be quick, so that chance alone decides how it goes.
    quick.expected = seed % 4 != 0
    programs = Programs(world, random.Random(seed))
    programs.create()
    short_count = 0
    for _ in range(STEP_COUNT):
        name = programs.choices.choice(list(programs.files))
        step = programs.choices.choices(
            ["create", "write", "rename", "link", "reopen", "sync"], [1, 4, 1, 1, 0.5, 6]
        )[0]
        if step == "create":
            programs.create()
        elif step != "sync":
            getattr(programs, step)(name)
        else:
            before = disk.sync_count
            programs.sync(name)
            short_count += disk.sync_count == before + 1
            _assert_durable(world, disk, programs.files[name])
    assert short_count > 10, "no sync was of the bytes alone: nothing was tested"


def _assert_durable(world: World, disk: WatchedDisk, file: OpenFile) -> None:
    inode = world.run(world.engine.get_inode(file.ino))
    path = world.raw_store.path(inode.raw)
    assert str(path) in disk.names
    assert disk.contents[str(path)] == path.read_bytes()
    assert disk.journals_are_whole()
