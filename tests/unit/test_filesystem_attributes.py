"""What a change of attributes asks the disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.filesystem.operations import AttributeRequest
from memfs.types import ROOT_INODE
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.types import RawId

SET_NS = 1_000_000_000_000_000_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    opened = World(tmp_path, ROOMY, passthrough=True)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("request_", "open_count", "closed_count"),
    [
        (AttributeRequest(mode=0o600), 1, 0),
        (AttributeRequest(mtime_ns=SET_NS), 2, 2),
        (AttributeRequest(size=100), 2, 2),
    ],
    ids=["chmod", "utimensat", "truncate"],
)
def test_a_raw_file_is_asked_once_before_it_is_changed_and_once_after(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    request_: AttributeRequest,
    open_count: int,
    closed_count: int,
) -> None:
    """Each of them costs as much as a statement of the engine."""
    filesystem, program = world.filesystem, world.program
    file = world.create(ROOT_INODE, b"f", 0o644, os.O_RDWR)
    world.write(file, 0, b"content")
    asked = 0
    stat = world.raw_store.stat

    def count(raw: RawId) -> os.stat_result:
        nonlocal asked
        asked += 1
        return stat(raw)

    monkeypatch.setattr(world.raw_store, "stat", count)
    world.request(filesystem.set_attributes(program, file.ino, request_))
    assert asked == open_count
    world.release(file)
    world.run(filesystem.finish_requests())
    asked = 0
    world.request(filesystem.set_attributes(program, file.ino, request_))
    assert asked == closed_count
    answer = world.request(filesystem.get_attributes(file.ino)).inode
    assert (answer.mode & 0o777 == 0o600) == (request_.mode is not None)
    assert (answer.mtime_ns == SET_NS) == request_.sets_times
    assert (answer.size == 100) == (request_.size is not None)
