"""The index of elements: what is in JSON arrays leads to the files of the oracle."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from memfs.errors import InvalidValueError
from memfs.metadata.records import FileOrder
from memfs.metadata.sqlite.mending import mend
from memfs.query.parsing import parse
from memfs.types import ROOT_INODE, InodeNo
from tests.contract.engine.asking import ask as ask_all
from tests.contract.engine.asking import build
from tests.contract.engine.histories import History, change_in_vain, index, steps_of
from tests.contract.engine.histories import put as put_as
from tests.contract.engine.making import NOW_NS, make_file
from tests.contract.engine.older import change_as_older, change_tables
from tests.contract.engine.site import SqliteSite, local_only, run

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine

TAGS = b"user.tags"
LED = "elements of user.tags"

VALUES = st.sampled_from(
    [
        *(b'["cat", "dog"]', b'["dog", "cat", "dog"]', b'["cat"]', b"[1, 1.0, 2]", b'["1", 2.5]'),
        *(b"[]", b"[cat] x", b'[["cat"]]', b"cat", b"1", b"cats and dogs", b'["\\ud800", "cat"]'),
        *(b"[true]", b'["2025-01-01T00:30:00+02:00"]', b'["2024-12-31T22:30:00Z"]', b"[9e999]"),
        *(b"\xff[", b"[" + b"1, " * 64 + b"1]", b'["' + b"y" * 4096 + b'"]', b"~", b"Zoo", b"true"),
    ]
)
FILTERS = st.sampled_from(
    [
        {"tags": "cat"},
        {"tags": "1"},
        {"tags": {"$in": ["cat", "dog", 2]}},
        {"tags": {"$in": ["dog", 1, "true", "[cat] x", "~"]}, "other": {"$exists": True}},
        {"tags": {"$in": [*range(70), "cat"]}},
        {"tags": {"$contains": "cat"}},
        {"tags": {"$contains": "1"}},
        {"tags": {"$contains": "cat", "$ne": "dog"}},
        {"tags": {"$contains": ""}, "$size": 0},
        {"tags": {"$in": ["cat", 1], "$gt": "a"}},
        {"tags": "2024-12-31T23:30:00+01:00"},
        {"$or": [{"tags": "cat"}, {"other": "cat"}]},
        {"$and": [{"tags": "cat"}, {"tags": "dog"}]},
        {"tags": "dog", "other": "cat"},
        {"tags": {"$nin": ["cat", 1]}},
        {"tags": '["cat"]'},
        {"tags": {"$in": []}},
        {"tags": {"$gt": 1}},
        {"tags": {"$gte": 1, "$lt": 2}},
        {"tags": {"$lte": 1.5}, "other": {"$exists": True}},
        {"tags": {"$gte": "["}},
        {"tags": {"$gt": "cat", "$lt": "dog"}},
        {"tags": {"$lt": "b"}},
        {"tags": {"$gte": "a", "$ne": "dog"}},
        {"tags": {"$regex": "^ca"}},
        {"tags": {"$regex": "^\\[ca"}},
        {"tags": {"$regex": "^(dog|cat)$"}},
        {"tags": {"$regex": "^[cd].g"}, "other": {"$gt": 0}},
        {"tags": {"$regex": "g$"}},
        {"$or": [{"tags": {"$gt": 1}}, {"other": {"$regex": "^ca"}}]},
        {"$not": {"tags": {"$gt": "cat"}}},
        {"tags": {"$gt": 0}, "other": {"$lt": "dog"}},
    ]
)
STEPS = steps_of(TAGS, VALUES, FILTERS)

ask = partial(ask_all, limit=2)


async def put(engine: Engine, ino: InodeNo, value: bytes, name: bytes = TAGS) -> None:
    await put_as(engine, ino, value, name)


@given(STEPS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_happens_meanwhile_elements_lead_to_what_the_oracle_finds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    """Changes, crashes, changes that are undone, mounts without an index and by older versions."""
    History(SqliteSite(tmp_path_factory.mktemp("elements")), TAGS).run(
        steps, ({"tags": "cat"}, {"tags": {"$contains": "cat"}})
    )


async def test_elements_lead_once_their_index_is_whole(engine: Engine) -> None:
    await index(engine)
    inos = [(await make_file(engine, b"f%d" % count)).ino for count in range(6)]
    for ino in inos:
        await put(engine, ino, b'["all", %d]' % (ino % 2))
    await put(engine, inos[4], b"all")
    await put(engine, inos[5], b"overall")
    assert (await ask(engine, {"tags": "all"}))[0]
    await build(engine)
    assert await ask(engine, {"tags": "all"}) == ([inos[4], *inos[:4]], LED)
    found, driver = await ask(engine, {"tags": {"$contains": "all"}})
    assert (sorted(found), driver) == (inos, LED)
    found, driver = await ask(engine, {"tags": {"$in": ["all", 0, 1]}}, FileOrder("$size"))
    assert (found, driver) == (inos[:5], LED)
    odd = [ino for ino in inos[:4] if ino % 2]
    assert await ask(engine, {"tags": {"$gte": 1}}) == (odd, LED)
    assert await ask(engine, {"tags": {"$gte": 0}}, limit=1) == (
        sorted(inos[:4], key=lambda ino: (ino % 2, ino)),
        LED,
    )
    found, driver = await ask(engine, {"tags": {"$regex": "^al?l$"}})
    assert (sorted(found), driver) == (inos[:5], LED)
    # Words are looked for in each array.
    found, driver = await ask(engine, {"tags": {"$text": "ALL"}})
    assert (sorted(found), driver) == (inos, "user.tags")
    await put(engine, inos[0], b"none")
    await engine.unlink(ROOT_INODE, b"f1", NOW_NS)
    await engine.reap([inos[1]])
    assert await ask(engine, {"tags": "all"}) == ([inos[4], *inos[2:4]], LED)
    assert engine.check() == []


async def test_a_snapshot_is_led_by_the_elements_of_now_and_by_what_changed(
    engine: Engine,
) -> None:
    await index(engine)
    await build(engine)
    inos = [(await make_file(engine, b"f%d" % count)).ino for count in range(3)]
    for ino in inos:
        await put(engine, ino, b'["then", "still"]')
    snap = (await engine.create_snapshot("s", NOW_NS)).snap
    await put(engine, inos[0], b'["now", "still"]')
    await engine.remove_xattr(inos[1], TAGS, NOW_NS)
    assert await ask(engine, {"tags": "then"}, snap=snap) == (inos, LED)
    assert await ask(engine, {"tags": "now"}, snap=snap) == ([], LED)
    assert await ask(engine, {"tags": "still"}) == ([inos[0], inos[2]], LED)


async def test_arrays_of_names_without_an_index_yet_are_found(engine: Engine) -> None:
    """The step that gives an xattr its key gives an array its entries."""
    inode = await make_file(engine, b"f")
    await put(engine, inode.ino, b'["a", "b"]')
    await build(engine)
    await index(engine)
    assert await ask(engine, {"tags": "b"}) == ([inode.ino], LED)
    assert engine.check() == []


@pytest.mark.parametrize(
    ("question", "is_found"),
    [
        ({"tags": {"$gt": "cat", "$lt": "dog"}}, False),
        ({"tags": {"$gt": "cat"}}, False),
        ({"tags": {"$lte": "cat"}}, True),
        ({"tags": {"$regex": "."}}, True),
        ({"tags": {"$regex": "[^a-z]"}}, False),
        ({"tags": {"$text": "cat"}}, True),
    ],
)
async def test_an_element_that_is_half_a_letter_is_found_by_nothing(
    engine: Engine, question: dict[str, Any], is_found: bool
) -> None:
    r"""Found by the histories above: `"\ud83d"` lies between the texts of a range."""
    await index(engine)
    inode = await make_file(engine, b"f")
    await put(engine, inode.ino, b'["cat", "c\\ud83d"]')
    wanted = [inode.ino] if is_found else []
    assert (await ask(engine, question))[0] == wanted
    await build(engine)
    assert (await ask(engine, question))[0] == wanted
    assert engine.check() == []


@local_only
async def test_a_page_after_the_entries_have_gone_says_so(engine: Engine) -> None:
    await index(engine)
    await build(engine)
    for count in range(3):
        await put(engine, (await make_file(engine, b"f%d" % count)).ino, b'["a"]')
    node = parse({"tags": "a"})
    page = await engine.find_files(node, None, None, 1, None)
    assert page is not None
    assert page.after is not None
    # Another filter has nothing that the index of elements could be asked for.
    other = parse({"tags": {"$text": "a"}})
    with pytest.raises(InvalidValueError, match=r"elements of user\.tags has gone"):
        await engine.find_files(other, None, page.after, 1, None)


def test_what_changes_amid_the_first_index_is_in_it(tmp_path: Path) -> None:
    """Behind what it has come to, before it, and in a change that is taken back."""
    site = SqliteSite(tmp_path)
    run(index(site.engine))
    inos = [run(make_file(site.engine, b"f%d" % count)).ino for count in range(3)]
    for ino, value in zip(inos, (b'["m", "a"]', b'["z", "a"]', b'["zz"]'), strict=True):
        run(put(site.engine, ino, value))
    site.engine.close()
    change_as_older(site.state_dir, inos[2], TAGS, b'["y", "a"]')
    engine = site.reopen()
    with pytest.raises(ZeroDivisionError):
        run(change_in_vain(engine, TAGS, inos[2], b"[]"))
    # Up to the first array.
    assert run(engine.build_indexes(1))
    run(put(engine, inos[1], b'["a"]'))
    with pytest.raises(ZeroDivisionError):
        run(change_in_vain(engine, TAGS, inos[2], b"[]"))
    assert run(ask(engine, {"tags": "a"}))[1] == "user.tags"
    run(build(engine))
    assert run(ask(engine, {"tags": "a"})) == (inos, LED)
    site.close()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("delete from element where value = 'a'", "lacks 'a' of the array in xattr b'user.tags'"),
        ("update element set value = 'c' where value = 'a'", "has 'c' for an array of inode"),
        ("delete from element where value = x''", "lacks b'' of the array"),
        ("insert into element values (1, 'a', 99)", "has 'a' for an array of inode 99"),
    ],
)
def test_wrong_entries_are_told_and_made_anew(tmp_path: Path, damage: str, sentence: str) -> None:
    """Whatever is derived can be derived again."""
    site = SqliteSite(tmp_path)
    run(index(site.engine))
    run(build(site.engine))
    inos = [run(make_file(site.engine, b"f%d" % count)).ino for count in range(2)]
    for ino, value in zip(inos, (b'["a", "b"]', b"[a"), strict=True):
        run(put(site.engine, ino, value))
    assert site.engine.check() == []
    site.engine.close()
    change_tables(site.state_dir, lambda connection: connection.execute(damage))
    engine = site.reopen()
    assert any(sentence in each for each in engine.check())
    engine.close()
    change_tables(site.state_dir, lambda connection: mend(connection, 1 << 20, NOW_NS))
    engine = site.reopen()
    assert run(ask(engine, {"tags": "a"})) == ([inos[0]], "user.tags")
    run(build(engine))
    assert run(ask(engine, {"tags": "a"})) == ([inos[0]], LED)
    site.close()
