"""SIGKILL between all steps of `memfs clone --replace`, and amid its copies of raw files.

The target is the former tree or the whole clone at each instant; the same command goes on, and
nothing is left over.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.jobs.cloning import CloneMethods
from memfs.types import ROOT_INODE
from tests.property.test_restore import POINTS, see, write
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import InodeNo

STEPS_MAX = 40
SOURCE = {b"/one": b"1" * 5000, b"/two": b"2" * 100, b"/deep/three": b"3" * 9000}
FORMER = {b"/one": b"former", b"/other": b"f" * 3000, b"/deep/gone": b"g"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    plant(opened, b"source", SOURCE)
    plant(opened, b"target", FORMER)
    yield opened
    opened.close()


def plant(world: World, name: bytes, files: dict[bytes, bytes]) -> None:
    def make(parent: InodeNo, name: bytes) -> InodeNo:
        made = world.request(world.filesystem.make_directory(world.program, parent, name, 0o755))
        return made.inode.ino

    top = make(ROOT_INODE, name)
    deep = make(top, b"deep")
    for path, content in files.items():
        parent = deep if path.startswith(b"/deep/") else top
        write(world, os.path.basename(path), content, parent)


def clone(world: World, stop_after: int | None = None) -> bool:
    """Clone the source over the target; all of it, or so many steps. Returns whether it ended."""

    async def go_on() -> bool:
        methods = CloneMethods(world.filesystem, world.move_parts, slice_s=0.0)
        steps = 0
        while True:
            report = await methods.clone("source", "target", "work", replace=True)
            assert report["failures"] == []
            steps += 1
            if report["ended"] or steps == stop_after:
                return report["ended"]

    return world.run(go_on())


def contents(world: World, name: bytes) -> dict[bytes, bytes]:
    found = see(world, b"/" + name)
    return {
        path.removeprefix(b"/" + name): seen.content for path, seen in found.items() if seen.content
    }


def check_whole(world: World) -> bool:
    """The target is the one or the other tree; returns whether it is the clone."""
    assert contents(world, b"source") == SOURCE
    found = contents(world, b"target")
    assert found in (FORMER, SOURCE)
    return found == SOURCE


def check_end(world: World) -> None:
    assert clone(world)
    assert contents(world, b"target") == SOURCE
    names = {path.split(b"/")[1] for path in see(world) if path}
    assert names == {b"source", b"target"}
    assert not any(seen.xattrs for seen in see(world).values())
    # It checks that no raw file is left without an owner.
    world.remount()


def test_a_kill_after_any_step_leaves_one_of_both_trees(world: World) -> None:
    """Before the exchange, between it and the removal of the former tree, and amid that."""
    seen = []
    for steps in range(1, STEPS_MAX):
        ended = clone(world, steps)
        world.crash(checked=True)
        seen.append(check_whole(world))
        if ended:
            break
    assert ended
    assert seen == sorted(seen), "a clone that is there stays"
    # Two kills at least lie between the exchange and the end.
    assert 2 < sum(seen) < len(seen)
    check_end(world)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_amid_a_copy_leaves_the_former_tree(world: World, point: str) -> None:
    world.interruptions.arm(point, world.capture)
    clone(world)
    assert world.is_captured
    world.crash(checked=True)
    assert not check_whole(world)
    check_end(world)
