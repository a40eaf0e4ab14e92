"""What the mover hears of the names that clones and restores change: only what may move files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.filesystem.tree_changes import Name
from memfs.jobs.cloning import CloneMethods
from memfs.types import ROOT_INODE
from tests.property.test_restore import restore, snapshot
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    yield opened
    opened.close()


@pytest.fixture
def directory(world: World) -> InodeNo:
    """One with three files that are sealed."""
    made = world.request(world.filesystem.make_directory(world.program, ROOT_INODE, b"a", 0o755))
    for name in (b"one", b"two", b"three"):
        file = world.create(made.inode.ino, name, 0o644, os.O_RDWR)
        world.write(file, 0, name)
        world.release(file)
    world.step()
    return made.inode.ino


def hears_of(world: World) -> list[InodeNo]:
    """Return inodes whose pin may have changed since the last call."""
    return world.activity.take_pinned()


def clone(world: World, *, replace: bool = False) -> None:
    async def go_on() -> None:
        methods = CloneMethods(world.filesystem, world.move_parts)
        while not (await methods.clone("a", "copy", "work", replace=replace))["ended"]:
            pass

    world.run(go_on())


@pytest.mark.usefixtures("directory")
def test_a_clone_is_no_change_of_a_pin(world: World) -> None:
    """For each such change a round of the mover begins, which costs more than to copy a file."""
    clone(world)
    clone(world, replace=True)
    assert hears_of(world) == []
    assert not world.access_stats.marked, "else the mover looks for marks from then on"


def test_a_restore_is_no_change_of_a_pin(world: World, directory: InodeNo) -> None:
    snapshot(world)
    world.request(world.filesystem.unlink(directory, b"one"))
    file = world.open(world.run(world.engine.lookup(directory, b"two")).ino, os.O_RDWR | os.O_TRUNC)
    world.write(file, 0, b"new")
    world.release(file)
    hears_of(world)
    assert restore(world)["file_count"] == 2
    assert hears_of(world) == []


def test_another_directory_may_have_another_pin(world: World, directory: InodeNo) -> None:
    """A name that comes, that goes beside another one, or that a directory gets elsewhere."""
    ino = world.run(world.engine.lookup(directory, b"one")).ino
    second = Name(ROOT_INODE, b"second")
    world.run(world.filesystem.link_names(ino, [second], {}))
    assert hears_of(world) == [ino]
    assert world.run(world.filesystem.remove_name(second))
    assert hears_of(world) == [ino]
    made = world.request(world.filesystem.make_directory(world.program, ROOT_INODE, b"b", 0o755))
    place = Name(made.inode.ino, b"moved")
    world.run(world.filesystem.move_name(Name(ROOT_INODE, b"a"), place, {}))
    assert hears_of(world) == [directory]
