"""Finding files: whatever index leads, the files are those of the oracle, page by page."""

from __future__ import annotations

import sqlite3
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from memfs.config import QueryConfig
from memfs.errors import NotSupportedError
from memfs.metadata.records import EVERYTHING, FileOrder, NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.mending import mend
from memfs.query.matching import matches
from memfs.query.parsing import parse
from memfs.query.values import Value, stored_value
from memfs.types import ROOT_INODE, FormKind, InodeNo
from tests.contract.engine.making import (
    NOW_NS,
    make_directory,
    make_file,
    make_sealed,
    publish,
    seal,
)
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, SqliteSite, run
from tests.queries import FILTERS, STORED

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.query.filters import Node
    from memfs.query.matching import Values

NAMES = [b"user.a", b"user.b", b"user.d"]
HIDDEN = [b"user.memfs.pool", b"security.a", b"system.posix_acl_access"]


class World:
    """Files with attributes, and the same in dicts."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stored: dict[InodeNo, dict[str, bytes]] = {ROOT_INODE: {}}

    async def make(self, count: int) -> None:
        for _ in range(count):
            inode = await make_file(self.engine, b"f%d" % len(self.stored))
            self.stored[inode.ino] = {}

    async def put(self, ino: InodeNo, name: bytes, value: bytes | None) -> None:
        if value is None:
            if self.stored[ino].pop(name.decode(), None) is not None:
                await self.engine.remove_xattr(ino, name, NOW_NS)
        else:
            await self.engine.set_xattr(ino, name, value, 0, NOW_NS)
            self.stored[ino][name.decode()] = value

    def values_of(self, ino: InodeNo, field: str) -> Values:
        stored = self.stored[ino].get(field)
        if stored is None:
            return None
        value = stored_value(stored)
        return () if value is None else (value,)

    def expected(self, node: Node) -> set[InodeNo]:
        return {ino for ino in self.stored if matches(node, partial(self.values_of, ino))}

    async def index(self) -> None:
        while not (await self.engine.index_attributes(7)).is_whole:
            pass
        while await self.engine.build_indexes(7):
            pass


async def found(
    engine: Engine, filter_: object, order: FileOrder | None = None, limit: int = 1000
) -> list[InodeNo]:
    """Every page of a filter, which has to be exact."""
    node, after, inos = parse(filter_), None, []
    while True:
        page = await engine.find_files(node, order, after, limit, None)
        assert page is not None
        assert page.is_exact
        assert len(page.inos) <= limit
        inos += page.inos
        after = page.after
        if after is None:
            return inos


class Change(NamedTuple):
    which: int
    name: bytes
    value: bytes | None


CHANGES = st.builds(
    Change,
    st.integers(0, 11),
    st.sampled_from([*NAMES, *NAMES, *HIDDEN]),
    st.one_of(st.none(), STORED, STORED, STORED),
)


ORDERS = st.one_of(
    st.none(),
    st.builds(FileOrder, st.sampled_from(["user.a", "user.b", "user.gone"]), st.booleans()),
    st.builds(FileOrder, st.sampled_from(["$size", "$mtime"]), st.booleans()),
)


@given(
    st.lists(CHANGES, max_size=40),
    st.lists(st.tuples(FILTERS, ORDERS, st.lists(CHANGES, max_size=2)), min_size=3, max_size=8),
    st.sampled_from([1, 3, 1000]),
    st.booleans(),
)
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_filter_finds_what_the_oracle_finds_page_by_page(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[Change],
    questions: list[tuple[object, FileOrder | None, list[Change]]],
    limit: int,
    has_texts: bool,
) -> None:
    """With changes between the pages, files that keep their values are found once."""
    site = SqliteSite(tmp_path_factory.mktemp("query"))
    world = World(site.engine)

    async def change(each: Change) -> InodeNo:
        ino = sorted(world.stored)[each.which]
        await world.put(ino, each.name, each.value)
        return ino

    async def exercise() -> None:
        await world.make(11)
        if has_texts:
            await site.engine.add_index("user.a")
        await world.index()
        for each in changes:
            await change(each)
        for filter_, order, between in questions:
            node = parse(filter_)
            before = world.expected(node)
            touched: set[InodeNo] = set()
            waiting, after, inos = [*between], None, list[InodeNo]()
            while True:
                page = await site.engine.find_files(node, order, after, limit, None)
                assert page is not None
                assert page.is_exact
                inos += page.inos
                after = page.after
                if after is None:
                    break
                if waiting:
                    touched.add(await change(waiting.pop()))
            assert before - touched == set(inos) - touched
            kept = [ino for ino in inos if ino not in touched]
            assert len(kept) == len(set(kept))
            if not touched and order is not None and order.field in ("user.a", "user.b"):
                assert inos == in_order(world, inos, order)

    try:
        run(exercise())
        site.close()
    finally:
        site.engine.close()


def in_order(world: World, inos: list[InodeNo], order: FileOrder) -> list[InodeNo]:
    """Numbers before texts, what has no value last."""

    def rank(ino: InodeNo) -> tuple[bool, Value, int]:
        (value,) = world.values_of(ino, order.field) or ()
        return isinstance(value, str), value, ino

    valued = [ino for ino in inos if world.values_of(ino, order.field)]
    rest = [ino for ino in inos if not world.values_of(ino, order.field)]
    return sorted(valued, key=rank, reverse=order.descending) + rest


async def test_names_of_the_file_system_are_decided(engine: Engine) -> None:
    data = await make_directory(engine, b"data")
    first = await make_file(engine, b"a.tif", data.ino)
    second = await make_file(engine, b"b.txt", data.ino)
    await engine.link(second.ino, ROOT_INODE, b"c.tif", NOW_NS)
    await engine.index_attributes(100)
    assert await found(engine, {"$path": "*.tif"}) == [second.ino, first.ino]
    assert await found(engine, {"$path": "data/*.tif"}) == [first.ino]
    assert await found(engine, {"$path": "data/"}) == [first.ino, second.ino]
    assert await found(engine, {"$path": {"$in": ["data", "*.txt"]}}) == [data.ino, second.ino]
    assert await found(engine, {"$path": {"$regex": "^d.*f$"}}) == [first.ino]
    assert await found(engine, {"$path": "data\0*.tif"}) == []
    assert await found(engine, {"$path": {"$nin": ["*.tif", "data"]}}) == [ROOT_INODE]


async def test_only_what_has_a_name_is_counted(engine: Engine) -> None:
    kept = await make_file(engine, b"kept")
    await engine.link(kept.ino, ROOT_INODE, b"second", NOW_NS)
    removed = await make_file(engine, b"removed")
    await engine.unlink(ROOT_INODE, b"removed", NOW_NS)
    assert await engine.count_named([ROOT_INODE, kept.ino, removed.ino, InodeNo(4711)]) == 2
    described = await engine.describe_files([kept.ino, removed.ino, ROOT_INODE], EVERYTHING)
    assert [each.paths for each in described] == [(b"kept", b"second"), (b"",)]


async def test_size_time_and_digest_are_decided(engine: Engine) -> None:
    small = await make_sealed(engine, b"small", size=10)
    large = await make_sealed(engine, b"large", size=1 << 40)
    await publish(engine, large, FormKind.REMOTE)
    await engine.index_attributes(100)
    files = {"$size": {"$gt": 0}}
    assert await found(engine, {"$size": {"$gte": "1TiB"}}) == [large.ino]
    assert await found(engine, {"$size": 10}) == [small.ino]
    assert await found(engine, {"$digest": bytes(range(32)).hex()}) == [large.ino]
    assert await found(engine, {"$digest": {"$exists": False}, **files}) == [small.ino]
    assert await found(engine, {"$mtime": {"$gt": 0}, **files}) == [small.ino, large.ino]
    assert await found(engine, files, FileOrder("$size", True), 1) == [large.ino, small.ino]


@pytest.mark.parametrize("field", ["$size", "$mtime", "a"])
async def test_numbers_beyond_those_of_sqlite_are_compared(engine: Engine, field: str) -> None:
    """An integer of SQLite has 64 bits; a filter, and an instant in ns, may have more."""
    inode = await make_file(engine, b"f")
    await engine.set_xattr(inode.ino, b"user.a", b"7", 0, NOW_NS)
    await engine.index_attributes(100)
    far = 10**30
    assert inode.ino in await found(engine, {field: {"$lt": far, "$gt": -far}})
    assert inode.ino in await found(engine, {field: {"$nin": [far, -far]}})
    if field == "$mtime":
        span = {"$gt": "0001-01-01", "$lt": "9999-12-31"}
        assert inode.ino in await found(engine, {field: span})
    if field == "$size":
        assert inode.ino in await found(engine, {field: {"$lt": "99999999PiB"}})


async def test_what_the_engine_does_not_know_may_match(engine: Engine) -> None:
    inode = await make_file(engine, b"f")
    await engine.set_xattr(inode.ino, b"user.a", b"1", 0, NOW_NS)
    await engine.index_attributes(100)
    for filter_ in ({"a": 1, "$tier": "hot"}, {"a": 1, "$not": {"$tier": "hot"}}):
        page = await engine.find_files(parse(filter_), None, None, 10, None)
        assert page is not None
        assert page.inos == [inode.ino]
        assert not page.is_exact
    page = await engine.find_files(parse({"a": 2, "$tier": "hot"}), None, None, 10, None)
    assert page is not None
    assert page.inos == []


async def test_what_takes_too_long_is_given_up_and_nothing_is_lost(engine: Engine) -> None:
    inode = await make_file(engine, b"f")
    await engine.set_xattr(inode.ino, b"user.a", b"x" * 300, 0, NOW_NS)
    await engine.index_attributes(100)
    pattern = parse({"a": {"$regex": "x"}})
    assert await engine.find_files(pattern, None, None, 10, 60.0) is None
    await engine.set_xattr(inode.ino, b"user.b", b"y", 0, NOW_NS)
    for index in range(300):
        await make_file(engine, b"g%d" % index)
    slow = parse({"$not": {"$path": {"$in": [f"*{index}*x" for index in range(100)]}}})
    assert await engine.find_files(slow, None, None, 1000, 0.0) is None
    assert await found(engine, {"b": "y"}) == [inode.ino]


async def test_reaped_files_and_removed_attributes_are_not_found(engine: Engine) -> None:
    inos = [(await make_file(engine, b"f%d" % index)).ino for index in range(3)]
    for ino in inos:
        await engine.set_xattr(ino, b"user.a", b"1", 0, NOW_NS)
    await engine.index_attributes(100)
    await engine.remove_xattr(inos[0], b"user.a", NOW_NS)
    await engine.unlink(ROOT_INODE, b"f1", NOW_NS)
    await engine.reap([inos[1]])
    assert await found(engine, {"a": 1}) == [inos[2]]


async def test_attributes_of_the_first_instant_are_found(engine: Engine) -> None:
    ino, raw = engine.reserve_ids()
    new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, NOW_NS, raw=raw, xattrs=((b"user.a", b"1"),))
    await engine.create(ROOT_INODE, b"f", new)
    await engine.index_attributes(100)
    assert await found(engine, {"a": 1}) == [ino]


def test_the_index_outlives_a_crash(tmp_path: Path) -> None:
    site = SqliteSite(tmp_path)

    async def fill() -> None:
        await site.engine.index_attributes(100)
        for index in range(40):
            inode = await make_file(site.engine, b"f%d" % index)
            await site.engine.set_xattr(inode.ino, b"user.a", b"%d" % index, 0, NOW_NS)
            await site.engine.set_xattr(inode.ino, b"user.b", b"\xc3\xa4 text", 0, NOW_NS)
            await seal(site.engine, inode)
            await site.engine.commit()

    run(fill())
    engine = site.crash()
    assert len(run(found(engine, {"a": {"$gte": 30}}))) == 10
    assert len(run(found(engine, {"b": "ä text"}))) == 40
    site.close()


def test_a_change_that_is_taken_back_leaves_no_name(tmp_path: Path) -> None:
    site = SqliteSite(tmp_path)
    inode = run(make_file(site.engine, b"f"))
    run(site.engine.index_attributes(100))

    async def fail() -> None:
        async with site.engine.change():
            await site.engine.set_xattr(inode.ino, b"user.a", b"1", 0, NOW_NS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(fail())
    assert site.engine.index_progress().name_count == 0
    run(site.engine.set_xattr(inode.ino, b"user.a", b"2", 0, NOW_NS))
    assert run(found(site.engine, {"a": 2})) == [inode.ino]
    site.close()


def open_with(state_dir: Path, *, enabled: bool = True, name_count_max: int = 100) -> SqliteEngine:
    config = QueryConfig(enabled, name_count_max)
    return SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL, query=config)


def test_an_index_that_was_off_is_built_later_in_steps(tmp_path: Path) -> None:
    engine = open_with(tmp_path, enabled=False)
    inos = [run(make_file(engine, b"f%d" % index)).ino for index in range(10)]
    for ino in inos:
        for name in (b"user.a", b"user.b", b"user.memfs.pool", b"security.x"):
            run(engine.set_xattr(ino, name, b"1", 0, NOW_NS))
    with pytest.raises(NotSupportedError, match=r"set query\.enabled"):
        run(found(engine, {"a": 1}))
    assert engine.index_progress().name_count == 0
    assert run(found(engine, {"$size": 0})) == [ROOT_INODE, *inos]
    engine.close()
    engine = open_with(tmp_path)
    with pytest.raises(NotSupportedError, match="is being built: 0 of"):
        run(found(engine, {"a": 1}))
    progress = run(engine.index_attributes(10))
    assert inos[0] <= progress.through < inos[-1]
    engine.close()
    engine = open_with(tmp_path)
    assert engine.index_progress().through == progress.through
    while not run(engine.index_attributes(3)).is_whole:
        # Changes on both sides of where it is.
        run(engine.set_xattr(inos[0], b"user.a", b"2", 0, NOW_NS))
        run(engine.set_xattr(inos[-1], b"user.a", b"2", 0, NOW_NS))
    assert run(found(engine, {"a": 1})) == inos[1:-1]
    assert run(found(engine, {"a": 2})) == [inos[0], inos[-1]]
    assert engine.check() == []
    engine.close()
    engine = open_with(tmp_path, enabled=False)
    run(engine.set_xattr(inos[0], b"user.a", b"3", 0, NOW_NS))
    engine.close()
    engine = open_with(tmp_path)
    assert not engine.index_progress().is_whole
    while not run(engine.index_attributes(1)).is_whole:
        pass
    assert run(found(engine, {"a": 3})) == [inos[0]]
    engine.close()


def test_an_index_that_is_half_built_outlives_crashes(tmp_path: Path) -> None:
    """Killed before a step was committed, and behind it, again and again."""
    engine = open_with(tmp_path / "state", enabled=False)
    inos = [run(make_file(engine, b"f%d" % index)).ino for index in range(30)]
    for ino in inos:
        run(engine.set_xattr(ino, b"user.a", b"%d" % (ino % 3), 0, NOW_NS))
    engine.close()
    site = SqliteSite(tmp_path)
    before = site.engine.index_progress().through
    for round_index in range(100):
        progress = run(site.engine.index_attributes(3))
        if round_index % 2 == 0:
            site.crash()
            # It was never committed.
            assert site.engine.index_progress().through == before
            continue
        site.engine.commit_nowait()
        site.crash()
        assert site.engine.index_progress() == progress
        before = progress.through
        if progress.is_whole:
            break
    assert site.engine.check() == []
    expected = [ino for ino in inos if ino % 3 == 1]
    assert run(found(site.engine, {"a": 1})) == expected
    site.close()


def test_too_many_names_are_told_and_indexed_once_there_is_room(tmp_path: Path) -> None:
    engine = open_with(tmp_path, name_count_max=2)
    inode = run(make_file(engine, b"f"))
    run(engine.index_attributes(10))
    for name in (b"user.a", b"user.b", b"user.c"):
        run(engine.set_xattr(inode.ino, name, b"1", 0, NOW_NS))
    assert engine.index_progress().is_short_of_names
    assert run(found(engine, {"b": 1})) == [inode.ino]
    with pytest.raises(NotSupportedError, match=r"user\.c is not in the index, which is full"):
        run(found(engine, {"c": 1}))
    engine.close()
    engine = open_with(tmp_path, name_count_max=3)
    while not run(engine.index_attributes(2)).is_whole:
        pass
    assert run(found(engine, {"c": 1})) == [inode.ino]
    assert not engine.index_progress().is_short_of_names
    engine.close()


@pytest.mark.parametrize(
    "damage",
    [
        "update xattr set typed = 7 where key <> 0",
        "update xattr set key = 9 where key <> 0",
        "delete from attribute_name",
    ],
)
def test_a_wrong_index_is_told_and_indexed_anew(tmp_path: Path, damage: str) -> None:
    """Whatever is derived can be derived again."""
    engine = open_with(tmp_path)
    inode = run(make_file(engine, b"f"))
    run(engine.index_attributes(10))
    run(engine.set_xattr(inode.ino, b"user.a", b"Ulm", 0, NOW_NS))
    engine.close()
    with sqlite3.connect(tmp_path / "metadata.db") as connection:
        connection.execute(damage)
    connection.close()
    (tmp_path / "metadata.sums").unlink()
    engine = open_with(tmp_path)
    assert any("b'user.a'" in sentence for sentence in engine.check())
    engine.close()
    with sqlite3.connect(tmp_path / "metadata.db", isolation_level=None) as connection:
        assert mend(connection, 1 << 20, NOW_NS) == []
    connection.close()
    (tmp_path / "metadata.sums").unlink()
    engine = open_with(tmp_path)
    assert not engine.index_progress().is_whole
    while not run(engine.index_attributes(10)).is_whole:
        pass
    assert run(found(engine, {"a": "Ulm"})) == [inode.ino]
    assert engine.check() == []
    engine.close()
