"""Indexes of size and time: they lead to the files of the oracle while they are built and after."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from memfs.errors import AlreadyExistsError, InvalidValueError, NotFoundError
from memfs.metadata.records import AttributeChanges, FileOrder, IndexState, Usage
from memfs.metadata.sqlite.check import find_damage
from memfs.metadata.sqlite.mending import mend
from memfs.query.matching import matches
from memfs.query.parsing import parse
from memfs.types import ROOT_INODE, InodeNo
from tests.contract.engine.asking import ask, build
from tests.contract.engine.making import NOW_NS, make_file
from tests.contract.engine.site import SqliteSite, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.metadata.engine import Engine
    from memfs.query.matching import Values

SIZES = st.integers(0, 6)
FILTERS = st.sampled_from(
    [
        {"$size": 3},
        {"$size": {"$in": [1, 4, 5]}},
        {"$size": {"$gt": 2, "$lte": 5}},
        {"$size": {"$gte": 2}, "$mtime": {"$lt": 4e-9}},
        {"$mtime": {"$in": [1e-9, 5e-9]}, "a": "x"},
        {"a": "x", "$size": {"$lt": 4}},
        {"$or": [{"$size": 1}, {"$mtime": 2e-9}]},
        {"$size": {"$ne": 3, "$lt": 6}},
        {"$size": {"$exists": True}},
        {"$not": {"$size": {"$gt": 1}}},
        {"$path": "f*", "$size": {"$gt": 0}},
        {"$name": {"$text": "FILE äö"}},
        {"$name": {"$contains": "file"}, "$size": {"$lt": 4}},
        {"$name": "file 12"},
        {"$name": {"$contains": "ile", "$text": "2"}, "a": "x"},
        {"$or": [{"$name": {"$contains": "Äö"}}, {"$size": 2}]},
        {"$not": {"$name": {"$text": "le 1"}}},
    ]
)
ORDERS = st.one_of(
    st.none(),
    st.builds(FileOrder, st.sampled_from(["$size", "$mtime", "user.a"]), st.booleans()),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), SIZES, SIZES),
        st.tuples(st.just("change"), st.integers(0, 9), SIZES),
        st.tuples(st.just("unlink"), st.integers(0, 9), SIZES),
        st.tuples(st.just("add"), st.sampled_from(["$size", "$mtime", "$name"]), SIZES),
        st.tuples(st.just("drop"), st.sampled_from(["$size", "$mtime", "$name"]), SIZES),
        st.tuples(st.just("rename"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("link"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("build"), st.integers(1, 4), SIZES),
        st.tuples(st.just("crash"), st.booleans(), SIZES),
        st.tuples(st.just("undo"), st.integers(0, 9), SIZES),
        st.tuples(st.just("ask"), FILTERS, ORDERS),
    ),
    min_size=10,
    max_size=60,
)


async def set_numbers(engine: Engine, ino: InodeNo, size: int, mtime_ns: int) -> None:
    await engine.set_attributes(
        ino, AttributeChanges(ctime_ns=NOW_NS, size=size, mtime_ns=mtime_ns)
    )


async def test_an_index_leads_once_it_is_whole(engine: Engine) -> None:
    inos = []
    for size in range(8):
        inode = await make_file(engine, b"f%d" % size)
        await set_numbers(engine, inode.ino, size, size)
        inos.append(inode.ino)
    assert await ask(engine, {"$size": {"$gt": 5}}) == (inos[6:], "")
    await engine.add_index("$size")
    assert await engine.build_indexes(4)
    (index,) = engine.field_indexes()
    assert (index.state, index.through) == (IndexState.BUILDING, inos[2])
    assert (index.last, index.field) == (inos[-1], "$size")
    assert await ask(engine, {"$size": {"$gt": 5}}) == (inos[6:], "")
    await build(engine)
    assert [each.state for each in engine.field_indexes()] == [IndexState.WHOLE]
    assert await ask(engine, {"$size": {"$gt": 5}}) == (inos[6:], "$size")
    assert await ask(engine, {"$path": "f*"}, FileOrder("$size", True), 3) == (inos[::-1], "$size")
    # Few files are found and sorted, rather than looked for in the order of an index.
    await engine.set_xattr(inos[3], b"user.a", b"x", 0, NOW_NS)
    await engine.index_attributes(100)
    assert await ask(engine, {"a": "x"}, FileOrder("$size")) == ([inos[3]], "user.a")
    # Every file has a size, so that this is no way to a few.
    assert (await ask(engine, {"$size": {"$exists": True}}))[1] == ""
    await engine.drop_index("$size")
    assert await ask(engine, {"$size": {"$gt": 5}}) == (inos[6:], "")
    with pytest.raises(AlreadyExistsError, match="still being removed"):
        await engine.add_index("$size")
    with pytest.raises(NotFoundError):
        await engine.drop_index("$size")
    await build(engine)
    assert engine.field_indexes() == []
    assert not await engine.build_indexes(1)
    await engine.add_index("$size")
    await engine.add_index("$size")
    await build(engine)
    assert await ask(engine, {"$size": 7}) == ([inos[7]], "$size")


async def test_only_numbers_of_inodes_can_have_an_index(engine: Engine) -> None:
    for field in ("$tier", "$path", "size", ""):
        with pytest.raises(InvalidValueError, match=r"\$size, \$mtime, \$name can"):
            await engine.add_index(field)
        with pytest.raises(NotFoundError):
            await engine.drop_index(field)


async def test_names_are_found_by_words(engine: Engine) -> None:
    await engine.index_attributes(100)
    names = (b"Holiday in Ulm.tif", b"holiday-2024.txt", "Stra\u00dfe 7".encode(), b"ab")
    inos = [(await make_file(engine, name)).ino for name in names]
    await engine.link(inos[0], ROOT_INODE, b"my holiday", NOW_NS)
    asked: list[tuple[object, list[InodeNo], bool]] = [
        ({"$name": {"$text": "HOLIDAY"}}, inos[:2], True),
        ({"$name": {"$text": "holi ulm"}}, inos[:1], True),
        ({"$name": {"$text": "STRASSE"}}, inos[2:3], True),
        ({"$name": {"$contains": "holi"}}, inos[:2], True),
        ({"$name": {"$contains": "Holi"}}, inos[:1], True),
        ({"$name": "my holiday"}, inos[:1], True),
        ({"$name": {"$contains": "ol", "$text": "lid my"}}, inos[:1], True),
        ({"$name": {"$text": 'quo"te AND'}}, [], True),
        # Fewer than three letters are no way to a few.
        ({"$name": {"$text": "ab"}}, inos[3:], False),
        ({"$name": {"$contains": ""}}, [ROOT_INODE, *inos], False),
    ]
    for filter_, expected, _ in asked:
        found, driver = await ask(engine, filter_)
        assert (sorted(found), driver) == (expected, "$path")
    await engine.add_index("$name")
    await build(engine, 2)
    for filter_, expected, is_led in asked:
        found, driver = await ask(engine, filter_)
        assert (sorted(found), driver) == (expected, "$name" if is_led else "$path")
        for order in (FileOrder("$size"), FileOrder("user.a", True)):
            assert sorted((await ask(engine, filter_, order, 1))[0]) == expected
    assert len((await ask(engine, {"$name": {"$contains": "holiday"}}, None, 1))[0]) == 2
    snap = (await engine.create_snapshot("then", NOW_NS)).snap
    await engine.rename(ROOT_INODE, b"ab", ROOT_INODE, b"holiday-2025", 0, NOW_NS)
    await engine.rename(ROOT_INODE, b"holiday-2024.txt", ROOT_INODE, b"gone", 0, NOW_NS)
    holidays = {"$name": {"$text": "holiday"}}
    assert await ask(engine, holidays) == ([inos[0], inos[3]], "$name")
    assert await ask(engine, holidays, snap=snap) == (inos[:2], "$name")
    await engine.drop_index("$name")
    await build(engine)
    found, driver = await ask(engine, holidays)
    assert (sorted(found), driver) == ([inos[0], inos[3]], "$path")
    assert engine.field_indexes() == []


async def test_a_page_after_the_index_has_gone_says_so(engine: Engine) -> None:
    for size in range(6):
        inode = await make_file(engine, b"f%d" % size)
        await set_numbers(engine, inode.ino, size, 1)
    await engine.add_index("$size")
    await build(engine)
    ranged, ordered = parse({"$size": {"$gte": 0}}), FileOrder("$size")
    first = await engine.find_files(ranged, None, None, 3, None)
    sorted_first = await engine.find_files(parse({}), ordered, None, 3, None)
    assert first is not None
    assert sorted_first is not None
    await engine.drop_index("$size")
    with pytest.raises(InvalidValueError, match=r"the index of \$size has gone meanwhile"):
        await engine.find_files(ranged, None, first.after, 3, None)
    # Without the index the order is the same.
    rest = await engine.find_files(parse({}), ordered, sorted_first.after, 100, None)
    assert rest is not None
    assert len({*sorted_first.inos, *rest.inos}) == len(sorted_first.inos) + len(rest.inos) == 7


async def test_a_snapshot_is_led_by_the_index_of_now_and_by_what_changed(engine: Engine) -> None:
    inos = []
    for size in range(6):
        inode = await make_file(engine, b"f%d" % size)
        await set_numbers(engine, inode.ino, size, 1)
        inos.append(inode.ino)
    await engine.add_index("$size")
    await build(engine)
    snap = (await engine.create_snapshot("then", NOW_NS)).snap
    await set_numbers(engine, inos[5], 0, 1)
    await set_numbers(engine, inos[0], 5, 1)
    await engine.unlink(ROOT_INODE, b"f4", NOW_NS)
    await engine.reap([inos[4]])
    assert await ask(engine, {"$size": {"$gte": 4}}, snap=snap) == (inos[4:], "$size")
    assert await ask(engine, {"$size": {"$gte": 4}}) == ([inos[0]], "$size")


class Model:
    """Files with size and time, and indexes, as they should be."""

    def __init__(self) -> None:
        self.numbers: dict[InodeNo, tuple[int, int]] = {}
        self.names: dict[InodeNo, list[bytes]] = {}
        self.xattrs: dict[InodeNo, str] = {}
        self.fields: dict[str, bool] = {}

    def values_of(self, ino: InodeNo, field: str) -> Values:
        if field == "$size":
            return (self.numbers[ino][0],)
        if field == "$mtime":
            return (self.numbers[ino][1],)
        if field in ("$path", "$name"):
            return tuple(os.fsdecode(name) for name in self.names[ino])
        found = self.xattrs.get(ino)
        return None if found is None else (found,)


@given(STEPS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_happens_meanwhile_an_index_finds_what_the_oracle_finds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    """Changes, crashes and undone changes before, while and after an index is built or dropped."""
    site, model = SqliteSite(tmp_path_factory.mktemp("indexes")), Model()
    try:
        run(site.engine.index_attributes(100))
        for count, (step, first, second) in enumerate(steps):
            take(site, model, count, step, first, second)
        while run(site.engine.build_indexes(2)):
            pass
        assert set(model.fields) == {index.field for index in site.engine.field_indexes()}
        site.close()
    finally:
        site.engine.close()


def take(site: SqliteSite, model: Model, count: int, step: str, *taken: Any) -> None:  # noqa: ANN401 - by step
    """Take one step on both sides."""
    engine, (first, second) = site.engine, taken
    inos = sorted(model.numbers)
    if step == "make":
        name = a_name(first % 4, count)
        ino = run(make_file(engine, name)).ino
        run(set_numbers(engine, ino, first, second))
        model.numbers[ino], model.names[ino] = (first, second), [name]
        if count % 2:
            run(engine.set_xattr(ino, b"user.a", b"x", 0, NOW_NS))
            model.xattrs[ino] = "x"
    elif step == "change" and inos:
        ino = inos[first % len(inos)]
        run(set_numbers(engine, ino, second, second))
        model.numbers[ino] = (second, second)
    elif step == "unlink" and inos:
        ino = inos[first % len(inos)]
        run(engine.unlink(ROOT_INODE, model.names[ino].pop(0), NOW_NS))
        if not model.names[ino]:
            run(engine.reap([ino]))
            del model.numbers[ino]
    elif step == "rename" and inos:
        ino, name = inos[first % len(inos)], a_name(second, count)
        # Half of them onto another file, which loses that name.
        other = inos[(first + count) % len(inos)]
        if other != ino and count % 2:
            name = model.names[other].pop(0)
        run(engine.rename(ROOT_INODE, model.names[ino][0], ROOT_INODE, name, 0, NOW_NS))
        model.names[ino][0] = name
        if not model.names[other]:
            run(engine.reap([other]))
            del model.numbers[other]
    elif step == "link" and inos:
        ino, name = inos[first % len(inos)], a_name(second, count)
        run(engine.link(ino, ROOT_INODE, name, NOW_NS))
        model.names[ino].append(name)
    elif step == "add":
        try:
            run(engine.add_index(first))
        except AlreadyExistsError:
            assert first not in model.fields
        else:
            model.fields[first] = True
    elif step == "drop":
        if model.fields.pop(first, False):
            run(engine.drop_index(first))
    elif step == "build":
        run(engine.build_indexes(first))
    elif step == "undo" and inos:
        with pytest.raises(ZeroDivisionError):
            run(fail(engine, inos[first % len(inos)], count))
    elif step == "crash":
        if first:
            engine.commit_nowait()
            site.crash()
    elif step == "ask":
        node = parse(first)
        found, _ = run(ask(engine, first, second, 2))
        found = [ino for ino in found if ino != ROOT_INODE]
        expected = [i for i in inos if matches(node, lambda field: model.values_of(i, field))]  # noqa: B023
        assert sorted(found) == expected


async def fail(engine: Engine, ino: InodeNo, count: int) -> None:
    """Change a file in a step that is taken back."""
    async with engine.change():
        await engine.build_indexes(3)
        await set_numbers(engine, ino, 99, 99)
        await engine.link(ino, ROOT_INODE, b"file never %d" % count, NOW_NS)
        await engine.build_indexes(3)
        raise ZeroDivisionError


def a_name(kind: int, count: int) -> bytes:
    """A name that is not taken; of four kinds, one of them no text."""
    return (b"f%d", "Datei ÄÖ %d".encode(), b"File %d", b"file\xff %d")[kind] % count


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("delete from field_value where value = 3", "lacks inode"),
        ("update field_value set value = 9 where value = 3", "with the value 9, which it has not"),
        ("drop trigger size_changes", "has 2 of 3 triggers"),
        ("delete from name_entry", "lacks the name b'f'"),
        ("update name_entry set cookie = cookie + 1", "a name of inode"),
    ],
)
def test_a_wrong_index_is_told_and_built_anew(tmp_path: Path, damage: str, sentence: str) -> None:
    """Whatever is derived can be derived again."""
    site = SqliteSite(tmp_path)
    inode = run(make_file(site.engine, b"f"))
    run(set_numbers(site.engine, inode.ino, 3, 1))
    for field in ("$size", "$name"):
        run(site.engine.add_index(field))
    while run(site.engine.build_indexes(2)):
        pass
    assert site.engine.check() == []
    site.engine.close()
    path = site.state_dir / "metadata.db"

    def change(what: Callable[[sqlite3.Connection], object]) -> None:
        with sqlite3.connect(path, isolation_level=None) as connection:
            what(connection)
        connection.close()
        (site.state_dir / "metadata.sums").unlink(missing_ok=True)

    change(lambda connection: connection.execute(damage))
    connection = sqlite3.connect(path)
    found = find_damage(
        lambda text, parameters: connection.execute(text, parameters).fetchall(), Usage(*[0] * 9), 1
    )
    connection.close()
    assert any(sentence in each for each in found)
    change(lambda connection: mend(connection, 1 << 20, NOW_NS))
    engine = site.reopen()
    assert [index.state for index in engine.field_indexes()] == [IndexState.BUILDING] * 2
    while run(engine.build_indexes(2)):
        pass
    assert run(ask(engine, {"$size": 3})) == ([inode.ino], "$size")
    run(engine.rename(ROOT_INODE, b"f", ROOT_INODE, b"later", 0, NOW_NS))
    assert run(ask(engine, {"$name": "later"})) == ([inode.ino], "$name")
    site.close()
