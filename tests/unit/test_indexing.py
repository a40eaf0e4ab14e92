"""The daemon brings an index up to date that was off, and then rests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from memfs.config import MetadataConfig, QueryConfig
from memfs.errors import NoSpaceError
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.query.parsing import parse
from memfs_daemon import indexing
from memfs_daemon.indexing import AttributeIndexer
from tests.contract.engine.making import NOW_NS, make_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from memfs.metadata.records import IndexProgress


async def test_what_was_set_without_the_index_is_found_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(indexing, "STEP_COUNT", 3)
    engine = SqliteEngine.open(tmp_path, MetadataConfig(), query=QueryConfig(enabled=False))
    inos = []
    for index in range(10):
        inos.append((await make_file(engine, b"f%d" % index)).ino)
        await engine.set_xattr(inos[-1], b"user.a", b"x", 0, NOW_NS)
    engine.close()
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    indexer = AttributeIndexer(engine)
    step, failures = indexer.step, [NoSpaceError("the disk is full")]

    async def fail_once() -> IndexProgress:
        if failures:
            raise failures.pop()
        return await step()

    monkeypatch.setattr(indexer, "step", fail_once)
    with trio.fail_after(200):
        await indexer.run()
    assert not engine.uncommitted
    page = await engine.find_files(parse({"a": "x"}), None, None, 100, 1.0)
    assert page is not None
    assert page.inos == inos
    engine.close()
