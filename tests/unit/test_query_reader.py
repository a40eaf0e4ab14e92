"""The reader process: the same answers, of all changes so far, and an end in time."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.errors import QueryTimeoutError
from memfs.metadata.records import FileOrder
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.reader_process import ReaderProcess
from memfs.metadata.sqlite.tree_totals import read_totals
from memfs.query.parsing import parse_text
from memfs.types import ROOT_INODE
from tests.contract.engine.making import NOW_NS, make_directory, make_file, make_sealed
from tests.contract.engine.site import SMALL
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from memfs.types import InodeNo


class Served:
    """An engine with its reader."""

    def __init__(self, engine: SqliteEngine, reader: ReaderProcess) -> None:
        self.engine = engine
        self.reader = reader
        self.inos: list[InodeNo] = []

    async def add(self, value: bytes) -> None:
        inode = await make_file(self.engine, b"f%d" % len(self.inos))
        await self.engine.set_xattr(inode.ino, b"user.a", value, 0, NOW_NS)
        self.inos.append(inode.ino)

    async def find(self, filter_: object) -> list[InodeNo]:
        return (await self.reader.find_files(json.dumps(filter_), None, None, 1000)).inos


@asynccontextmanager
async def served(tmp_path: Path, budget_s: float = WAIT_S) -> AsyncIterator[Served]:
    engine = SqliteEngine.open(tmp_path / "a state?", MetadataConfig(), limits=SMALL)
    await engine.index_attributes(10)
    reader = ReaderProcess(engine, tmp_path / "a state?", os.environ, budget_s)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.run)
            yield Served(engine, reader)
            nursery.cancel_scope.cancel()
        assert reader._process is None
    finally:
        assert engine.check() == []
        engine.close()


async def test_the_reader_sees_every_change_that_was_made(tmp_path: Path) -> None:
    """Also those that no reply has told of yet, and through many checkpoints."""
    async with served(tmp_path) as world:
        for count in range(1, 60):
            await world.add(b"value %d" % count)
            if count % 7 == 0:
                found = await world.find({"a": {"$regex": "^value"}})
                assert world.inos == sorted(found)


async def test_the_log_starts_over_although_there_are_readers(tmp_path: Path) -> None:
    log = tmp_path / "a state?" / "metadata.db-wal"
    async with served(tmp_path) as world:
        sizes = []
        for _ in range(12):
            for _ in range(40):
                await world.add(b"x" * 2000)
                world.engine.commit_nowait()
            assert world.inos == sorted(await world.find({"a": {"$contains": "x"}}))
            sizes.append(log.stat().st_size)
        assert max(sizes[6:]) <= 3 * max(sizes[:6])


async def test_pages_and_orders_are_those_of_the_engine(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        for value in (b"3", b"1", b"x", b"2", b"\xff"):
            await world.add(value)
        text, order = '{"a": {"$exists": true}}', FileOrder("user.a", True)
        node = parse_text(text)
        page = await world.reader.find_files(text, order, None, 2)
        here = await world.engine.find_files(node, order, None, 2, None)
        inos = list(page.inos)
        assert here == page
        while page.after is not None:
            here = await world.engine.find_files(node, order, page.after, 2, None)
            page = await world.reader.find_files(text, order, page.after, 2)
            assert here == page
            inos += page.inos
        assert inos == [world.inos[index] for index in (2, 0, 3, 1, 4)]


async def test_a_pattern_without_end_ends_the_reader_and_not_the_mount(tmp_path: Path) -> None:
    """`re` looks at each way to part the text: nothing interrupts it."""
    async with served(tmp_path, budget_s=0.3) as world:
        await world.add(b"a" * 40 + b"!")
        with pytest.raises(QueryTimeoutError, match=r"longer than 0\.3 s"):
            await world.find({"a": {"$regex": "^(a+)+$"}})
        await world.add(b"b")
        # By the wall clock: a process that a loaded machine lets wait would not answer either.
        world.reader._budget_s = WAIT_S
        assert await world.find({"a": {"$regex": "^b"}}) == [world.inos[1]]


async def test_a_long_scan_is_given_up(tmp_path: Path) -> None:
    async with served(tmp_path, budget_s=0.0) as world:
        for _ in range(300):
            await world.add(b"x")
        with pytest.raises(QueryTimeoutError):
            await world.find({"$not": {"$path": {"$in": [f"*{n}*z" for n in range(100)]}}})


async def test_a_reader_that_was_killed_is_started_anew(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        await world.add(b"x")
        assert await world.find({"a": "x"}) == world.inos
        assert world.reader._process is not None
        world.reader._process.kill()
        await world.reader._process.wait()
        assert await world.find({"a": "x"}) == world.inos


async def test_a_reader_ends_with_the_daemon(tmp_path: Path) -> None:
    """A daemon that is killed closes its end of the pipe, and nothing else."""
    async with served(tmp_path) as world:
        await world.add(b"x")
        assert await world.find({"a": "x"}) == world.inos
        process = world.reader._process
        assert process is not None
        assert process.stdin is not None
        await process.stdin.aclose()
        with trio.fail_after(30):
            assert await process.wait() == 0
        assert await world.find({"a": "x"}) == world.inos


async def test_who_gives_up_waiting_leaves_no_answer_behind(tmp_path: Path) -> None:
    """The next question would get it."""
    async with served(tmp_path) as world:
        await world.add(b"a" * 40 + b"!")
        await world.add(b"b")
        with trio.move_on_after(0.3) as scope:
            await world.find({"a": {"$regex": "^(a+)+$"}})
        assert scope.cancelled_caught
        assert await world.find({"a": "b"}) == [world.inos[1]]


async def test_a_directory_is_told_with_the_sums_of_all_below(tmp_path: Path) -> None:
    """Sizes, files and last uses; what is not a file counts for nothing."""
    async with served(tmp_path) as world:
        engine = world.engine
        outer = await make_directory(engine, b"outer")
        inner = await make_directory(engine, b"inner", outer.ino)
        await make_directory(engine, b"empty")
        big = await make_sealed(engine, b"big", inner.ino, 1000)
        await make_sealed(engine, b"small\xff", outer.ino, 10)
        middle = await make_sealed(engine, b"middle", size=500)
        await engine.link(big.ino, outer.ino, b"again", NOW_NS)
        await engine.record_access([(middle.ino, NOW_NS + 20), (big.ino, NOW_NS + 30)])
        top = await world.reader.read_totals(ROOT_INODE, "bytes", 10)
        assert (top["name_count"], top["file_count"], top["size"]) == (3, 4, 2510)
        assert top["is_summed"]
        shown = [(each["name"], each["kind"], each["file_count"]) for each in top["entries"]]
        assert shown == [
            ("outer", "directory", 3),
            ("middle", "file", 1),
            ("empty", "directory", 0),
        ]
        assert [each["size"] for each in top["entries"]] == [2010, 500, 0]
        below = await world.reader.read_totals(outer.ino, "heat", 2)
        assert (below["name_count"], below["file_count"]) == (3, 3)
        assert [each["name"] for each in below["entries"]] == ["again", "inner"]
        named = await world.reader.read_totals(outer.ino, "name", 10)
        assert [each["name"] for each in named["entries"]] == ["again", "inner", "small\udcff"]
        nothing = await world.reader.read_totals(big.ino, "name", 10)
        assert (nothing["name_count"], nothing["size"], nothing["entries"]) == (0, 0, [])


def test_sums_that_take_too_long_are_left_out(tmp_path: Path) -> None:
    """The names are told in what is left of the time; else nothing is."""
    connection = sqlite3.connect(tmp_path / "tables")
    connection.isolation_level = None
    connection.executescript(
        """
        create table inode (ino integer primary key, mode, size, raw, packed, accessed_ns);
        create table dentry (
            parent, cookie, name, ino, primary key (parent, cookie)
        ) without rowid;
        """
    )
    count = 300_000
    connection.execute("begin")
    # Directories one in another: sums are taken over all of them, and there are two names.
    connection.executemany(
        "insert into inode values (?, ?, ?, 1, 0, 0)",
        [(ino, 0o040755, 0) for ino in range(1, count)] + [(count, 0o100644, 5)],
    )
    connection.executemany(
        "insert into dentry values (?, ?, ?, ?)",
        [(ino, ino + 1, b"d", ino + 1) for ino in range(1, count - 1)]
        + [(1, count, b"file", count)],
    )
    connection.execute("commit")
    told = read_totals(connection, 1, "name", 10, 0.02)
    assert not told["is_summed"]
    assert [(each["name"], each["size"]) for each in told["entries"]] == [("d", 0), ("file", 5)]
    assert read_totals(connection, 1, "name", 10, 60.0)["is_summed"]
    connection.execute("insert into dentry select 0, ino, 'n' || ino, ino from inode")
    assert read_totals(connection, 0, "name", 10, 0.001) == {"late": True}
    connection.close()
