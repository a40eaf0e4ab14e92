"""What a question costs others: how much is done between two turns of theirs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from memfs.filesystem.querying import (
    DESCRIBED_A_CALL,
    PAGE_BYTES_MAX,
    SLICE_S,
    Querying,
    Question,
    next_size,
)
from memfs.metadata.records import XATTR_BYTES_DESCRIBED_MAX
from memfs.types import ROOT_INODE, XATTR_VALUE_BYTES_MAX
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from memfs.filesystem.querying import FoundFile


def test_a_call_has_fewer_files_after_one_that_took_long() -> None:
    """Tables that are not in memory take a read of the disk for each file."""
    size = DESCRIBED_A_CALL
    for _ in range(3):
        size = next_size(size, size * SLICE_S)
    assert size == 1
    assert next_size(1, 1000 * SLICE_S) == 1


def test_a_call_has_more_files_again_after_one_that_was_quick() -> None:
    size = 1
    for _ in range(10):
        size = next_size(size, 0.0)
    assert size == DESCRIBED_A_CALL


class _Nowhere:
    async def find_files(self, *_: object) -> NoReturn:
        raise AssertionError("the loop finds a few files")


def test_a_page_is_bounded_in_bytes_and_tells_all_files_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a question, a user who set long xattrs would take gigabytes of the daemon.

    One file has what earlier versions of memfs let a user set.
    """
    monkeypatch.setattr("memfs.metadata.sqlite.attributes.XATTRS_BYTES_MAX", 1 << 30)
    # On a busy machine the loop would not find sixty files in its time.
    monkeypatch.setattr("memfs.filesystem.querying.BUDGET_S", 60.0)
    world = World(tmp_path, ROOMY, passthrough=True)
    try:
        value = b"\xff" * XATTR_VALUE_BYTES_MAX
        for number in range(60):
            file = world.create(ROOT_INODE, b"%02d" % number, 0o644, os.O_WRONLY)
            world.release(file)
            count = 17 if number == 7 else 1
            for key in range(count):
                name = b"user.k%d" % key
                world.request(
                    world.filesystem.set_xattr(world.program, file.ino, name, value, 0, False)
                )
        querying = Querying(world.parts, _Nowhere())
        files: list[FoundFile] = []
        token, page_count = None, 0
        while page_count == 0 or token is not None:
            question = Question("{}", token=token, attributes=True)
            answer = world.run(querying.ask(question))
            sent = sum(6 * len(v) for f in answer.files for v in (f.attributes or {}).values())
            assert sent <= PAGE_BYTES_MAX
            files += answer.files
            token, page_count = answer.token, page_count + 1
        assert page_count > 1
        assert [file.path for file in files if file.path] == [f"{n:02}" for n in range(60)]
        known = {file.path: file.attributes for file in files}
        assert 17 * len(value) > XATTR_BYTES_DESCRIBED_MAX
        assert known["07"] is None
        assert known["08"] == {"k0": "\udcff" * len(value)}
    finally:
        world.close()
