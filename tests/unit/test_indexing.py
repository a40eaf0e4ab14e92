"""The daemon brings an index up to date that was off, or is asked for, and then rests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.config import MetadataConfig, QueryConfig
from memfs.errors import NoSpaceError
from memfs.metadata.records import IndexState
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.query.parsing import parse
from memfs_daemon.indexing import AGAIN_S, SETTLING_S, AttributeIndexer, FieldIndexer, rest
from tests.contract.engine.making import NOW_NS, make_file

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.records import IndexProgress


async def test_what_was_set_without_the_index_is_found_later(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    engine = SqliteEngine.open(tmp_path, MetadataConfig(), query=QueryConfig(enabled=False))
    inos = []
    for index in range(10):
        inos.append((await make_file(engine, b"f%d" % index)).ino)
        await engine.set_xattr(inos[-1], b"user.a", b"x", 0, NOW_NS)
    engine.close()
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    failures = [NoSpaceError("the disk is full")]

    class FailingOnce(AttributeIndexer):
        async def step(self) -> IndexProgress:
            if failures:
                raise failures.pop()
            return await super().step()

    with trio.fail_after(200):
        await FailingOnce(engine, step_count=3).run()
    assert not failures
    assert not engine.uncommitted
    page = await engine.find_files(parse({"a": "x"}), None, None, 100, 1.0)
    assert page is not None
    assert page.inos == inos
    engine.close()


async def test_an_index_is_built_when_it_is_asked_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A full disk lets it wait; another start goes on with it."""
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    for index in range(10):
        await make_file(engine, b"f%d" % index)
    await FieldIndexer(engine).add("$mtime")
    engine.close()
    engine = SqliteEngine.open(tmp_path, MetadataConfig())
    failures = [NoSpaceError("the disk is full")]

    class FailingOnce(FieldIndexer):
        async def step(self) -> bool:
            if failures:
                raise failures.pop()
            return await super().step()

    indexer = FailingOnce(engine, step_count=3)

    async def after(seconds: float) -> list[tuple[str, IndexState]]:
        # The clock jumps whenever the indexer rests.
        await trio.sleep(seconds)
        return [(index.field, index.state) for index in engine.field_indexes()]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(indexer.run)
        assert await after(2 * AGAIN_S) == [("$mtime", IndexState.WHOLE)]
        await indexer.add("$size")
        assert await after(100) == [("$mtime", IndexState.WHOLE), ("$size", IndexState.WHOLE)]
        await indexer.drop("$mtime")
        assert await after(100) == [("$size", IndexState.WHOLE)]
        assert not engine.uncommitted
        nursery.cancel_scope.cancel()
    engine.close()


async def test_no_step_is_made_while_the_engine_settles(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """What comes meanwhile makes the next checkpoint long, which requests wait for."""
    looks = [True, True, True, False]

    class Settling(SqliteEngine):
        @property
        def is_settling(self) -> bool:
            return looks.pop(0)

    engine = Settling.open(tmp_path, MetadataConfig())
    begun_s = trio.current_time()
    await rest(engine, time.monotonic())
    assert looks == []
    assert trio.current_time() - begun_s >= 3 * SETTLING_S
    engine.close()
