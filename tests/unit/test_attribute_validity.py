"""How long the kernel may believe the attributes of a file that somebody has open for writing."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from memfs.content.opentable import SAME_ANSWERS_MIN
from memfs.filesystem.validity import UNSEALED_VALID_S
from memfs.types import ROOT_INODE
from tests.property.world import ROOMY, World
from tests.unit.fakes.kernel_notices import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo
    from tests.property.world import OpenFile


@pytest.fixture(params=[True, False], ids=["passthrough", "served"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=request.param)
    try:
        yield opened
    finally:
        opened.close()


def valid_s(world: World, ino: InodeNo) -> float:
    return world.request(world.filesystem.get_attributes(ino)).valid_s


def steady(world: World) -> OpenFile:
    """Return a file that is open for writing, and was asked about until the answer holds."""
    file = world.create(ROOT_INODE, b"table", 0o644, os.O_RDWR)
    world.write(file, 0, b"row" * 1000)
    assert [valid_s(world, file.ino) for _ in range(SAME_ANSWERS_MIN)] == [0.0] * SAME_ANSWERS_MIN
    assert valid_s(world, file.ino) == UNSEALED_VALID_S
    return file


def test_attributes_that_never_change_are_not_asked_for_each_time(world: World) -> None:
    """A database has its files open for writing, and asks for their size for each statement."""
    file = steady(world)
    assert valid_s(world, file.ino) == UNSEALED_VALID_S


@pytest.mark.parametrize("change", ["size", "mtime"])
def test_attributes_that_have_changed_are_asked_for_again(world: World, change: str) -> None:
    """What changed once may be written by a mapping, of which nobody is told."""
    file = steady(world)
    raw = world.raw_store.path(world.run(world.engine.get_inode(file.ino)).raw)
    if change == "size":
        os.truncate(raw, 7)
    else:
        os.utime(raw, (5, 5))
    assert valid_s(world, file.ino) == 0.0


@contextlib.contextmanager
def told(world: World) -> Iterator[list[tuple[object, ...]]]:
    """Collect in the block, and up to its end, what the kernel is told."""
    recorder = Recorder()
    with world.filesystem.invalidations.kernel_cache.told_by(recorder):
        yield recorder.told


def test_the_kernel_forgets_what_it_may_believe_with_the_last_writer(world: World) -> None:
    """Unmapped and closed, a file shows what a mapping wrote."""
    file = steady(world)
    second = world.open(file.ino, os.O_RDWR)
    with told(world) as forgotten:
        world.release(second)
    assert forgotten == []
    with told(world) as forgotten:
        world.release(file)
    assert forgotten == [("attributes", file.ino)]


def test_nothing_is_forgotten_where_nothing_is_believed(world: World) -> None:
    """A notification costs the kernel and a thread some work for each file that is written."""
    with told(world) as forgotten:
        file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
        world.write(file, 0, b"content")
        assert valid_s(world, file.ino) == 0.0
        world.release(file)
    assert forgotten == []
