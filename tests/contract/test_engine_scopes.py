"""Questions in a scope: a caller finds what it may, and a snapshot what was then."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from memfs.config import QueryConfig
from memfs.errors import MemfsError, NotFoundError, NotSupportedError
from memfs.metadata.records import AttributeChanges, FileOrder, NewInode, Scope
from memfs.metadata.sqlite import finding, path_walk
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.namespace.acl import ACCESS_XATTR, AclEntry, serialise
from memfs.namespace.permissions import READ, SEARCH, Credentials, permits
from memfs.query.filters import And, Condition, Not, Or
from memfs.query.matching import matches
from memfs.query.parsing import parse
from memfs.query.values import stored_value
from memfs.types import NOW, ROOT_INODE, InodeNo, SnapshotId
from tests.contract.engine.making import NOW_NS, live_tree, make_file, seal
from tests.contract.engine.site import CONFIG, SMALL, SqliteSite, run
from tests.queries import FILTERS, STORED

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.query.filters import Node
    from memfs.query.matching import Values
    from tests.contract.engine.making import Tree

CALLERS = (
    None,
    Credentials(1000, 100, frozenset()),
    Credentials(2000, 200, frozenset({300})),
    Credentials(3000, 300, frozenset()),
)
MODES = (0o755, 0o755, 0o750, 0o700, 0o711, 0o744, 0o640, 0o604, 0o070)
OPEN = ("$path", "$name", "$size", "$mtime")

QUESTIONS = st.one_of(
    FILTERS,
    FILTERS,
    st.sampled_from(
        [
            {"$path": "d1/**"},
            {"$path": "*a", "a": {"$exists": True}},
            {"$not": {"$path": {"$in": ["d0/*", "a"]}}},
            {"$name": "a", "$path": "d*"},
            {"$not": {"$name": {"$contains": "a"}}},
            {"$name": {"$text": "A"}},
            {"$path": "d0/d1/*", "a": {"$exists": True}},
            {"$path": "d0/**/a"},
            {"$path": {"$in": ["d0/a", "d0/d1/b", "d0/d1/"]}},
            {"$path": {"$in": ["d0/d1/a", "d1/a", "*"]}},
            {"$path": "d0/", "$name": {"$in": ["a", "d", "f1"]}},
            {"$path": {"$nin": ["d0/"]}, "$name": {"$regex": "[af]"}},
            {"$name": {"$contains": "f"}, "$path": {"$contains": "d0/"}},
            {"$path": {"$in": []}},
            {"$size": {"$gte": 10}},
            {"$or": [{"$size": 10}, {"a": {"$exists": False}}]},
            {"$path": {"$exists": True}},
            {"$digest": {"$exists": False}},
        ]
    ),
)
ORDERS = st.one_of(
    st.none(),
    st.none(),
    st.builds(FileOrder, st.sampled_from(["user.a", "user.b", "$size", "$mtime"]), st.booleans()),
)


class Change(NamedTuple):
    """One change of a random inode; what is not possible changes nothing."""

    kind: str
    which: int
    where: int
    name: bytes
    value: bytes | None
    mode: int


CHANGES = st.builds(
    Change,
    st.sampled_from(
        ["xattr", "xattr", "xattr", "mode", "move", "link", "unlink", "create", "seal", "acl"]
    ),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sampled_from([b"a", b"b", b"d"]),
    st.one_of(st.none(), STORED, STORED),
    st.sampled_from(MODES),
)


class World:
    """An engine with names, and the trees of the snapshots that were made of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.inos: list[InodeNo] = [ROOT_INODE]
        self.directories: list[InodeNo] = [ROOT_INODE]
        self.trees: dict[SnapshotId, Tree] = {}

    async def begin(self) -> None:
        for number in range(3):
            parent = self.directories[number // 2]
            ino, _raw = self.engine.reserve_ids()
            new = NewInode(ino, stat.S_IFDIR | 0o755, 1000, 100, NOW_NS)
            await self.engine.create(parent, b"d%d" % number, new)
            self.directories.append(ino)
            self.inos.append(ino)
        for number in range(6):
            inode = await make_file(
                self.engine, b"f%d" % number, self.directories[number % len(self.directories)]
            )
            self.inos.append(inode.ino)
        while not (await self.engine.index_attributes(50)).is_whole:
            pass
        while await self.engine.build_indexes(50):
            pass

    async def change(self, change: Change) -> None:
        ino = self.inos[change.which % len(self.inos)]
        where = self.directories[change.where % len(self.directories)]
        engine, name = self.engine, b"user." + change.name
        try:
            match change.kind:
                case "xattr" if change.value is None:
                    await engine.remove_xattr(ino, name, NOW_NS)
                case "xattr":
                    assert change.value is not None
                    await engine.set_xattr(ino, name, change.value, 0, NOW_NS)
                case "mode":
                    changes = AttributeChanges(mode=change.mode, uid=1000 * (1 + change.where % 3))
                    await engine.set_attributes(ino, changes)
                case "acl":
                    entries = [
                        AclEntry(1, 7),
                        AclEntry(2, change.which & 7, 2000),
                        AclEntry(4, change.where & 7),
                        AclEntry(16, 5),
                        AclEntry(32, 0),
                    ]
                    await engine.set_mode_and_xattrs(
                        ino, 0o750, [(ACCESS_XATTR, serialise(entries))], NOW_NS
                    )
                case "create":
                    self.inos.append((await make_file(engine, change.name, where)).ino)
                case "seal":
                    await seal(engine, await engine.get_inode(ino), size=5 * change.where)
                case _:
                    await self._change_names(change.kind, ino, where, change.name)
        except MemfsError:
            pass

    async def _change_names(self, kind: str, ino: InodeNo, where: InodeNo, name: bytes) -> None:
        found = await self.engine.get_dentry(ino)
        if kind == "link":
            await self.engine.link(ino, where, name, NOW_NS)
        elif found is not None and kind == "move":
            await self.engine.rename(*found, where, name, 0, NOW_NS)
        elif found is not None and kind == "unlink":
            await self.engine.unlink(*found, NOW_NS)
            await self.engine.reap([ino])

    async def snapshot(self) -> None:
        tree = await live_tree(self.engine)
        made = await self.engine.create_snapshot(f"s{len(self.trees)}", NOW_NS)
        self.trees[made.snap] = tree


class Oracle:
    """What a tree shows to a caller, by walking it."""

    def __init__(self, tree: Tree, caller: Credentials | None) -> None:
        self.tree = tree
        self.caller = caller
        self.paths: dict[InodeNo, list[str]] = {}
        self.seen = {seen.inode.ino: seen for seen in tree.values()}
        for path, seen in tree.items():
            above = [path[:at] for at in range(len(path)) if path[at : at + 1] == b"/"]
            if all(self.permits(each, READ | SEARCH) for each in above):
                self.paths.setdefault(seen.inode.ino, []).append(os.fsdecode(path).lstrip("/"))

    def permits(self, path: bytes, wanted: int) -> bool:
        return self.permits_inode(self.tree[path].inode.ino, wanted)

    def permits_inode(self, ino: InodeNo, wanted: int) -> bool:
        if self.caller is None:
            return True
        seen = self.seen[ino]
        inode = seen.inode
        access_acl = dict(seen.xattrs).get(ACCESS_XATTR)
        return permits(self.caller, inode.mode, inode.uid, inode.gid, access_acl, wanted)

    def value_of(self, ino: InodeNo, field: str) -> Values:
        seen = self.seen[ino]
        if field == "$path":
            return tuple(self.paths[ino])
        if field == "$name":
            return tuple(path.rpartition("/")[2] for path in self.paths[ino])
        if field == "$size":
            return (seen.inode.size,)
        if field == "$mtime":
            return (seen.inode.mtime_ns,)
        if field == "$digest":
            return None
        stored = dict(seen.xattrs).get(field.encode())
        if stored is None:
            return None
        value = stored_value(stored)
        return () if value is None else (value,)

    def finds(self, node: Node, ino: InodeNo, positive: bool = True) -> bool:
        """Tell whether a filter finds a file; what is not to be read decides for no file."""
        if isinstance(node, Condition):
            if node.field not in OPEN and not self.permits_inode(ino, READ):
                return not positive
            return matches(node, lambda field: self.value_of(ino, field))
        if isinstance(node, Not):
            return not self.finds(node.part, ino, not positive)
        assert isinstance(node, And | Or)
        parts = [self.finds(part, ino, positive) for part in node.parts]
        return all(parts) if isinstance(node, And) else any(parts)

    def expected(self, node: Node) -> list[InodeNo]:
        return sorted(ino for ino in self.paths if self.finds(node, ino))

    def rank(self, ino: InodeNo, field: str) -> tuple[object, ...] | None:
        if field not in OPEN and not self.permits_inode(ino, READ):
            return None
        values = self.value_of(ino, field)
        return None if not values else (isinstance(values[0], str), values[0], ino)


async def found(
    engine: Engine, node: Node, order: FileOrder | None, scope: Scope, limit: int = 1000
) -> list[InodeNo]:
    """Every page."""
    after, inos = None, list[InodeNo]()
    while True:
        page = await engine.find_files(node, order, after, limit, None, scope)
        assert page is not None
        assert page.is_exact
        assert len(page.inos) <= limit
        inos += page.inos
        after = page.after
        if after is None:
            return inos


def test_the_root_is_found_by_who_may_not_list_it(tmp_path: Path) -> None:
    site = SqliteSite(tmp_path)
    world = World(site.engine)

    async def exercise() -> None:
        await world.begin()
        await site.engine.set_attributes(ROOT_INODE, AttributeChanges(mode=0o700))
        stranger = CALLERS[-1]
        for filter_ in ({"$path": "*"}, {"$path": {"$in": ["d1/a", "*"]}}):
            for limit in (1, 1000):
                inos = await found(site.engine, parse(filter_), None, Scope(NOW, stranger), limit)
                assert inos == [ROOT_INODE]
        inos = await found(site.engine, parse({"$path": "d1/*"}), None, Scope(NOW, stranger))
        assert inos == []

    run(exercise())
    site.close()


@given(
    st.lists(CHANGES, max_size=25),
    st.lists(CHANGES, max_size=25),
    st.lists(st.tuples(QUESTIONS, ORDERS, st.integers(0, 2)), min_size=4, max_size=8),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([7, 1000]),
)
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_scope_finds_what_a_walk_through_its_tree_finds(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[Change],
    after: list[Change],
    questions: list[tuple[object, FileOrder | None, int]],
    limit: int,
    scan_count: int,
) -> None:
    """Whatever changed since, page by page, for each caller."""
    site = SqliteSite(tmp_path_factory.mktemp("scope"))
    world = World(site.engine)

    async def exercise() -> None:
        await world.begin()
        if len(before) % 2:
            await site.engine.add_index("user.a")
            while await site.engine.build_indexes(100):
                pass
        for index, each in enumerate((*before, *after)):
            if index in (len(before), len(before) + len(after) // 2):
                await world.snapshot()
            await world.change(each)
        world.trees[NOW] = await live_tree(site.engine)
        snaps = list(world.trees)
        for filter_, order, which in questions:
            node, snap = parse(filter_), snaps[which % len(snaps)]
            for caller in CALLERS:
                scope = Scope(snap, caller)
                oracle = Oracle(world.trees[snap], caller)
                inos = await found(site.engine, node, order, scope, limit)
                assert oracle.expected(node) == sorted(inos)
                if order is not None:
                    assert in_order(oracle, inos, order) == inos
                described = await site.engine.describe_files(world.inos, scope, with_xattrs=True)
                for file in described:
                    paths = sorted(map(os.fsdecode, file.paths))
                    assert sorted(oracle.paths[file.ino]) == paths
                    may_read = oracle.permits_inode(file.ino, READ)
                    assert file.xattrs == (oracle.seen[file.ino].xattrs if may_read else None)
                assert {file.ino for file in described} == oracle.paths.keys()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "SCAN_COUNT", scan_count)
        patch.setattr(path_walk, "NAME_COUNT", scan_count)
        patch.setattr(path_walk, "CHUNK_COUNT", max(2, scan_count // 3))
        try:
            run(exercise())
            site.close()
        finally:
            site.engine.close()


def test_a_file_that_is_open_without_a_name_is_not_found(tmp_path: Path) -> None:
    """Neither by an index nor by a look at all files: rename(2) has taken its only name."""
    site = SqliteSite(tmp_path)
    world = World(site.engine)

    async def exercise() -> None:
        await world.begin()
        for which in (4, 5):
            await world.change(Change("xattr", which, 0, b"a", b"1", 0))
        names = [await site.engine.get_dentry(world.inos[which]) for which in (4, 5)]
        [kept, replaced] = names
        assert kept is not None
        assert replaced is not None
        await site.engine.rename(*kept, *replaced, 0, NOW_NS)
        for filter_ in ({}, {"a": 1}, {"a": {"$exists": True}}, {"$size": {"$gte": 0}}):
            for order in (None, FileOrder("user.a", descending=False)):
                for caller in CALLERS:
                    inos = await found(site.engine, parse(filter_), order, Scope(NOW, caller))
                    assert world.inos[5] not in inos
                inos = await found(site.engine, parse(filter_), order, Scope(NOW, None))
                assert world.inos[4] in inos

    try:
        run(exercise())
        site.close()
    finally:
        site.engine.close()


def in_order(oracle: Oracle, inos: list[InodeNo], order: FileOrder) -> list[InodeNo]:
    """What has nothing to be sorted by comes last."""
    ranks = {ino: oracle.rank(ino, order.field) for ino in inos}
    valued = [ino for ino in inos if ranks[ino] is not None]
    rest = [ino for ino in inos if ranks[ino] is None]

    def key(ino: InodeNo) -> tuple[object, ...]:
        rank = ranks[ino]
        assert rank is not None
        return rank

    return sorted(valued, key=key, reverse=order.descending) + sorted(rest)


HIDDEN_QUESTIONS = (
    ({"secret": "7"}, None),
    ({"secret": {"$gte": 0}}, None),
    ({"$not": {"secret": "7"}}, None),
    ({"gone": 1}, None),
    ({"a": {"$exists": True}}, FileOrder("user.secret")),
    ({"$path": "hidden/**"}, None),
    ({"$name": {"$text": "f1"}}, None),
)


def test_no_step_is_made_for_what_is_hidden(tmp_path: Path) -> None:
    """Two mounts that differ in what a caller may not see take the same steps of SQLite."""
    counts = [
        _steps(tmp_path / name, hidden)
        for name, hidden in (("empty", []), ("full", [b"7"] * 40), ("other", [b"8", b"x"] * 20))
    ]
    assert counts[0] == counts[1] == counts[2]


def _steps(state_dir: Path, hidden: Sequence[bytes]) -> list[tuple[list[InodeNo], int]]:
    engine = SqliteEngine.open(state_dir, CONFIG, 1, SMALL)
    shut = NewInode(engine.reserve_ids()[0], stat.S_IFDIR | 0o700, 0, 0, NOW_NS)
    run(engine.create(ROOT_INODE, b"hidden", shut))
    run(engine.index_attributes(10))
    for number in range(40):
        inode = run(make_file(engine, b"h%d" % number, shut.ino))
        if hidden:
            run(engine.set_xattr(inode.ino, b"user.secret", hidden[number], 0, NOW_NS))
    for number in range(10):
        inode = run(make_file(engine, b"f%d" % number))
        run(engine.set_xattr(inode.ino, b"user.a", b"7", 0, NOW_NS))
        # Its owner may not read it either.
        run(engine.set_attributes(inode.ino, AttributeChanges(mode=0o644)))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    answers = []
    scope = Scope(NOW, CALLERS[1])
    connection: sqlite3.Connection = engine._database.connection
    for filter_, order in HIDDEN_QUESTIONS:
        run(found(engine, parse(filter_), order, scope, 3))
        steps = 0
        connection.set_progress_handler(count, 1)
        inos = run(found(engine, parse(filter_), order, scope, 3))
        connection.set_progress_handler(None, 0)
        answers.append((inos, steps))
    engine.close()
    return answers


async def test_a_caller_is_told_nothing_of_names_that_others_use(tmp_path: Path) -> None:
    """An index that is full refuses every name alike."""
    engine = SqliteEngine.open(tmp_path, CONFIG, 1, SMALL, query=QueryConfig(name_count_max=1))
    inode = await make_file(engine, b"f")
    await engine.index_attributes(10)
    for name in (b"user.a", b"user.b"):
        await engine.set_xattr(inode.ino, name, b"1", 0, NOW_NS)
    told = set()
    for field in ("a", "b", "gone"):
        with pytest.raises(NotSupportedError) as refused:
            await found(engine, parse({field: 1}), None, Scope(NOW, CALLERS[1]))
        told.add(str(refused.value))
    assert len(told) == 1
    assert await found(engine, parse({}), None, Scope(NOW, CALLERS[1])) == [ROOT_INODE, inode.ino]
    engine.close()


async def test_a_snapshot_that_is_gone_is_told(engine: Engine) -> None:
    await engine.index_attributes(10)
    made = await engine.create_snapshot("s", NOW_NS)
    assert await found(engine, parse({}), None, Scope(made.snap)) == [ROOT_INODE]
    await engine.delete_snapshot(made.snap)
    for call in (_find_at, _describe_at):
        with pytest.raises(NotFoundError, match="there is no snapshot of number"):
            await call(engine, made.snap)


async def _find_at(engine: Engine, snap: SnapshotId) -> object:
    return await found(engine, parse({}), None, Scope(snap))


async def _describe_at(engine: Engine, snap: SnapshotId) -> object:
    return await engine.describe_files([ROOT_INODE], Scope(snap))
