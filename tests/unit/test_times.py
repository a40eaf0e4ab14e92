"""Times of changes: each is later than what was shown before, by whatever clock that was taken."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from memfs.filesystem.operations import NOW_NS, AttributeRequest
from memfs.linux.times import TIME_NS_MAX, TIME_NS_MIN, Clock, coarse_ns, storable_ns
from memfs.types import ROOT_INODE
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.metadata.records import Inode
    from memfs.types import InodeNo


BEGIN_NS = time.time_ns()
CLOCKS: dict[str, Callable[[], int]] = {
    "of this file system": coarse_ns,
    "stands still": lambda: BEGIN_NS,
    # As the coarse clock is, beside a file system with multigrain timestamps.
    "is behind": lambda: time.time_ns() - 4_000_000,
    "was set back": lambda: BEGIN_NS - 3600 * 10**9,
}


@pytest.fixture(params=CLOCKS)
def coarse(request: pytest.FixtureRequest) -> str:
    """The clock that memfs stamps with; the raw files keep the machine's own."""
    kind: str = request.param
    return kind


@pytest.fixture
def world(tmp_path: Path, coarse: str) -> Iterator[World]:
    stamps = Clock(CLOCKS[coarse])
    opened = World(tmp_path, ROOMY, passthrough=False, stamps=stamps)
    try:
        yield opened
    finally:
        opened.close()


def attributes(world: World, ino: InodeNo) -> Inode:
    return world.run(world.filesystem.get_attributes(ino)).inode


CHANGES: dict[str, Callable[[World, InodeNo], None]] = {
    "chmod": lambda world, ino: _set(world, ino, AttributeRequest(mode=0o600)),
    "chown": lambda world, ino: _set(world, ino, AttributeRequest(uid=7, gid=7)),
    "touch": lambda world, ino: _set(
        world, ino, AttributeRequest(atime_ns=NOW_NS, mtime_ns=NOW_NS)
    ),
    "utime": lambda world, ino: _set(world, ino, AttributeRequest(mtime_ns=5)),
    "setxattr": lambda world, ino: world.request(
        world.filesystem.set_xattr(world.program, ino, b"user.a", b"1", 0, False)
    ),
    "link": lambda world, ino: _discard(
        world.request(world.filesystem.link(ino, ROOT_INODE, b"linked"))
    ),
    "unlink": lambda world, _: world.request(world.filesystem.unlink(ROOT_INODE, b"second")),
    "rename": lambda world, _: world.request(
        world.filesystem.rename(ROOT_INODE, b"file", ROOT_INODE, b"moved", 0)
    ),
    "replace": lambda world, _: world.request(
        world.filesystem.rename(ROOT_INODE, b"other", ROOT_INODE, b"second", 0)
    ),
}


def _set(world: World, ino: InodeNo, request: AttributeRequest) -> None:
    world.request(world.filesystem.set_attributes(world.program, ino, request))


def _discard(_answer: object) -> None:
    pass


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_change_is_later_than_what_was_shown(
    world: World, coarse: str, change: str, sealed: bool
) -> None:
    world.release(world.create(ROOT_INODE, b"other", 0o644, os.O_RDWR))
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.request(world.filesystem.link(file.ino, ROOT_INODE, b"second"))
    world.write(file, 0, b"bytes")
    if sealed:
        world.release(file)
        world.step()
    shown = attributes(world, file.ino)
    for _ in range(3 if change in ("chmod", "touch", "setxattr", "utime", "chown") else 1):
        CHANGES[change](world, file.ino)
        after = attributes(world, file.ino)
        assert after.ctime_ns > shown.ctime_ns
        if change == "touch":
            assert after.mtime_ns > shown.mtime_ns
        shown = after


def test_a_directory_changes_later_than_it_was_shown(
    world: World, coarse: str, request: pytest.FixtureRequest
) -> None:
    if coarse == "was set back":
        pytest.skip("its times go back with the clock, as on any file system")
    directory = world.request(
        world.filesystem.make_directory(world.program, ROOT_INODE, b"d", 0o755)
    ).inode.ino
    shown = attributes(world, directory)
    for serial in range(3):
        name = b"%d" % serial
        world.release(world.create(directory, name, 0o644, os.O_RDWR))
        after = attributes(world, directory)
        assert after.mtime_ns > shown.mtime_ns
        assert after.ctime_ns > shown.ctime_ns
        world.request(world.filesystem.unlink(directory, name))
        shown = attributes(world, directory)
        assert shown.mtime_ns > after.mtime_ns


def test_a_file_made_after_another_was_shown_is_not_older(world: World, coarse: str) -> None:
    if coarse == "was set back":
        pytest.skip("so it is on any file system")
    file = world.create(ROOT_INODE, b"first", 0o644, os.O_RDWR)
    world.write(file, 0, b"bytes")
    shown = attributes(world, file.ino)
    second = world.create(ROOT_INODE, b"second", 0o644, os.O_RDWR)
    assert attributes(world, second.ino).mtime_ns >= shown.mtime_ns


def test_a_time_of_the_future_holds_no_clock_up() -> None:
    clock = Clock()
    clock.note_shown(time.time_ns() + 3600 * 10**9)
    assert clock.now_ns() <= time.time_ns()


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (0, 0),
        (-1, -1),
        (TIME_NS_MAX, TIME_NS_MAX),
        (TIME_NS_MAX + 1, TIME_NS_MAX),
        (TIME_NS_MIN - 1, TIME_NS_MIN),
        (1 << 93, TIME_NS_MAX),
    ],
)
def test_what_can_be_stored(given: int, stored: int) -> None:
    assert storable_ns(given) == stored


@pytest.mark.parametrize("then", ["sealed", "opened again"])
def test_a_file_that_nobody_writes_keeps_its_times(world: World, coarse: str, then: str) -> None:
    """Its raw file stood ready before it, and gets its times when it is sealed."""
    world.run(world.raw_pool.refill())
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    made = attributes(world, file.ino)
    world.release(file)
    world.step()
    if then == "opened again":
        again = world.open(file.ino, os.O_RDWR)
        assert _times(attributes(world, file.ino)) == _times(made)
        world.release(again)
        world.step()
    assert _times(attributes(world, file.ino)) == _times(made)


def _times(inode: Inode) -> tuple[int, int]:
    return inode.mtime_ns, inode.ctime_ns
