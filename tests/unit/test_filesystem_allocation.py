"""Allocation for a program: nothing is taken where not all can be had."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from memfs.filesystem import content
from memfs.types import ROOT_INODE
from tests.property.world import ROOMY, Refusal, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_BYTES = 1 << 20


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    yield opened
    opened.close()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths that the disk, which is full but for one file, was asked for."""
    asked: list[int] = []
    statvfs = os.fstatvfs

    def full(fd: int) -> os.statvfs_result:
        now = statvfs(fd)
        free = FILE_BYTES // now.f_frsize
        return os.statvfs_result((*now[:3], free, free, *now[5:]))

    def allocate(fd: int, mode: int, offset: int, length: int) -> None:
        asked.append(length)
        os.posix_fallocate(fd, offset, length)

    monkeypatch.setattr(os, "fstatvfs", full)
    monkeypatch.setattr(content, "fallocate", allocate)
    return asked


@pytest.mark.parametrize("mode", [0, 1])
def test_what_cannot_be_had_takes_nothing(world: World, taken: list[int], mode: int) -> None:
    """ext4 gives all that it has before ENOSPC, and nobody could write until the file was gone."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    with pytest.raises(Refusal) as refused:
        world.request(world.filesystem.allocate(file.ino, mode, 0, 1 << 40))
    assert (refused.value.errno, taken) == (errno.ENOSPC, [])
    world.release(file)


def test_what_is_allocated_already_is_no_matter_of_room(world: World, taken: list[int]) -> None:
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    for length in (FILE_BYTES, 2 * FILE_BYTES, 2 * FILE_BYTES):
        world.request(world.filesystem.allocate(file.ino, 0, 0, length))
    assert taken == [FILE_BYTES, 2 * FILE_BYTES, 2 * FILE_BYTES]
    world.release(file)


@pytest.mark.parametrize("mode", [0, 1])
def test_what_is_allocated_counts_in_the_cold_tier_as_what_is_written(
    world: World, mode: int
) -> None:
    """A write is not refused at `cold.size`, which the mover relieves; nor is an allocation."""
    used = []
    for name in (b"written", b"allocated"):
        before = world.run(world.engine.usage()).raw_bytes
        file = world.create(ROOT_INODE, name, 0o644, os.O_RDWR)
        if name == b"written":
            world.write(file, 0, bytes(FILE_BYTES))
        else:
            world.request(world.filesystem.allocate(file.ino, mode, 0, FILE_BYTES))
        world.release(file)
        world.step()
        used.append(world.run(world.engine.usage()).raw_bytes - before)
    assert used == [FILE_BYTES, FILE_BYTES]
