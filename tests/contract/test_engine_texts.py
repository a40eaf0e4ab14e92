"""The index of the texts of one xattr: it leads to the files of the oracle, whatever happens."""

from __future__ import annotations

import itertools
import json
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from memfs.config import QueryConfig
from memfs.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NotFoundError,
    NotSupportedError,
)
from memfs.metadata.records import FileOrder, IndexState, Scope
from memfs.metadata.sqlite import text_index
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.mending import mend
from memfs.metadata.sqlite.statements import KEEPS_ELEMENTS, KEEPS_TEXTS
from memfs.namespace.permissions import Credentials
from memfs.query.matching import matches
from memfs.query.parsing import parse
from memfs.types import NOW, ROOT_INODE, InodeNo
from tests.contract.engine.asking import ask as ask_all
from tests.contract.engine.asking import build
from tests.contract.engine.histories import History, expected, index, steps_of
from tests.contract.engine.histories import put as put_as
from tests.contract.engine.making import NOW_NS, make_file
from tests.contract.engine.older import change_as_older, change_tables
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, SqliteSite, local_only, run

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.metadata.engine import Engine

NOTE = b"user.note"
LED = "texts of user.note"

VALUES = st.sampled_from(
    [
        *(
            b"ships and boats",
            b"SHIPS",
            b"Ship number 1999",
            b"1999",
            b"-1.5e3",
            b"sh",
            b"",
            b"ips",
        ),
        *("Straße 7, Köln".encode(), b"STRASSE", "日本語のテキスト".encode(), b"\xff ships"),
        *(
            b"a\0b ships",
            b"ship\0s",
            "x\ufffeyz ships \U0001f6a2".encode(),
            b"quo\"te ' AND OR ( *",
        ),
        *(b'["ships", "boats"]', b'["Stra\\u00dfe", "sh\\u0069ps"]', b"[1999, 2.50, 1e3]"),
        *(b'["1999", true]', b"[ships] x", b'["ship", "s"]', b'["\\ud800ships", "a\\u0000bcd"]'),
        *(b'["2025-01-01T00:30:00+02:00"]', b"2025-01-01T00:30:00+02:00", b"y" * 4097),
        *("\u017fhips Kelvin \u212a İi ﬁne".encode(), b"true story", b"x" * 700 + b" ships"),
    ]
)
FILTERS = st.sampled_from(
    [
        {"note": {"$contains": "ship"}},
        {"note": {"$contains": "ships"}},
        {"note": {"$contains": "Straße"}},
        {"note": {"$contains": "1999"}},
        {"note": {"$contains": "2.5"}},
        {"note": {"$contains": "1000"}},
        {"note": {"$contains": "true"}},
        {"note": {"$contains": "sh"}},
        {"note": {"$contains": "本語の"}},
        {"note": {"$contains": "b\0 s"}},
        {"note": {"$contains": "ship\0s"}},
        {"note": {"$contains": "a\0bcd"}},
        {"note": {"$contains": "\ufffdyz"}},
        {"note": {"$contains": "quo\"te ' AND OR ( *"}},
        {"note": {"$contains": "2024-12-31T22:30"}},
        {"note": {"$contains": "[ships"}},
        {"note": {"$text": "SHIPS and"}},
        {"note": {"$text": "strasse"}},
        {"note": {"$text": 'AND "te NOT* NEAR('}},
        {"note": {"$text": "kelvin ﬁne shIPs"}},
        {"note": {"$regex": "ship.*s$"}},
        {"note": {"$regex": "^Ship n"}},
        {"note": {"$regex": "hip(s|\\d)"}},
        {"note": {"$regex": "(?i)SHIP"}},
        {"note": {"$regex": "[Ss]tra(ß|ss)e"}},
        {"note": {"$contains": "ship", "$text": "BOATS"}, "$size": 0},
        {"note": {"$contains": "ship", "$gt": "a"}},
        {"note": {"$contains": "ship"}, "other": {"$text": "ships"}},
        {"note": {"$in": ["SHIPS", 1999], "$contains": "SHI"}},
        {"$or": [{"note": {"$contains": "ship"}}, {"other": "sh"}]},
        {"$not": {"note": {"$contains": "ships"}}},
    ]
)
STEPS = steps_of(NOTE, VALUES, FILTERS, "make", "add", "drop")

ask = partial(ask_all, limit=2)


async def put(engine: Engine, ino: InodeNo, value: bytes, name: bytes = NOTE) -> None:
    await put_as(engine, ino, value, name)


@given(STEPS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_happens_meanwhile_texts_lead_to_what_the_oracle_finds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    """Changes, crashes, changes that are undone, mounts without an index and by older versions."""
    History(SqliteSite(tmp_path_factory.mktemp("texts")), NOTE).run(
        steps, ({"note": {"$contains": "ship"}}, {"other": {"$text": "ships"}})
    )


async def make_notes(engine: Engine, count: int) -> list[InodeNo]:
    """Make files with notes of their own."""
    await index(engine)
    inos = [(await make_file(engine, b"f%d" % number)).ino for number in range(count)]
    for number, ino in enumerate(inos):
        await put(engine, ino, b"Note of number%d, of ships" % number)
    return inos


async def test_texts_lead_once_their_index_is_whole(engine: Engine) -> None:
    inos = await make_notes(engine, 40)
    await put(engine, inos[7], '["Straße", 1999, "numb\\u0065r12, of"]'.encode())
    rare: list[tuple[object, list[InodeNo]]] = [
        ({"note": {"$contains": "number12,"}}, [inos[12]]),
        ({"note": {"$contains": "numb", "$text": "UMBER12, ships"}}, [inos[12]]),
        ({"note": {"$text": "STRASSE"}}, [inos[7]]),
        ({"note": {"$text": "NUMBER12,"}}, [inos[7], inos[12]]),
        ({"note": {"$contains": "Straße"}}, [inos[7]]),
        # An element is found as a whole, and a number by what it is.
        ({"note": {"$contains": "number12, of"}}, [inos[7], inos[12]]),
        ({"note": {"$contains": "1999.0"}}, [inos[7]]),
        ({"note": {"$regex": "ber1[2].*sh.ps$"}}, [inos[12]]),
        ({"note": {"$contains": "nowhere"}}, []),
    ]
    for filter_, found in rare:
        assert sorted((await ask(engine, filter_))[0]) == found
    await engine.add_index("user.note")
    assert await engine.build_indexes(4)
    (report,) = engine.field_indexes()
    assert (report.field, report.state) == ("user.note", IndexState.BUILDING)
    assert inos[0] < report.through < report.last == inos[-1]
    assert not (await ask(engine, rare[0][0]))[1].startswith("texts")
    await build(engine)
    assert [each.state for each in engine.field_indexes()] == [IndexState.WHOLE]
    for filter_, found in rare[:-2]:
        assert await ask(engine, filter_) == (found, LED)
        for order in (FileOrder("$size"), FileOrder("user.note", True), FileOrder("user.other")):
            listed, driver = await ask_all(engine, filter_, order, 1)
            assert (sorted(listed), driver) == (found, LED)
    assert len((await ask(engine, {"note": {"$contains": "ships"}}))[0]) == 39
    # Less than three letters lead nowhere, and a span of fewer values leads better.
    for other in ({"$contains": "1"}, {"$regex": "^\\w\\w\\w"}, {"$contains": "Note", "$gt": "O"}):
        assert (await ask(engine, {"note": other}))[1] != LED
    # Equality finds fewer.
    exact = "Note of number5, of ships"
    assert await ask(engine, {"note": {"$eq": exact, "$text": "number5,"}}) == (
        [inos[5]],
        "elements of user.note",
    )
    await engine.set_xattr(inos[1], b"user.kind", b"x", 0, NOW_NS)
    both = {"kind": "x", "note": {"$contains": "number1,"}}
    assert (await ask(engine, both))[0] == [inos[1]]
    await engine.unlink(ROOT_INODE, b"f12", NOW_NS)
    await engine.reap([inos[12]])
    await put(engine, inos[3], b"number12, at last")
    await engine.remove_xattr(inos[7], NOTE, NOW_NS)
    assert await ask(engine, rare[0][0]) == ([inos[3]], LED)
    assert await ask(engine, {"note": {"$text": "strasse"}}) == ([], LED)
    await engine.drop_index("user.note")
    with pytest.raises(AlreadyExistsError, match="still being removed"):
        await engine.add_index("user.note")
    with pytest.raises(NotFoundError):
        await engine.drop_index("user.note")
    found, driver = await ask(engine, rare[0][0])
    assert (found, driver) == ([inos[3]], "user.note")
    await build(engine)
    assert engine.field_indexes() == []
    assert engine.check() == []


async def test_a_snapshot_is_led_by_the_texts_of_now_and_by_what_changed(engine: Engine) -> None:
    inos = await make_notes(engine, 40)
    await engine.add_index("user.note")
    await build(engine)
    snap = (await engine.create_snapshot("then", NOW_NS)).snap
    await put(engine, inos[11], b"changed")
    await put(engine, inos[2], b"number11, now")
    await engine.remove_xattr(inos[12], NOTE, NOW_NS)
    await engine.unlink(ROOT_INODE, b"f13", NOW_NS)
    await engine.reap([inos[13]])
    pattern = {"note": {"$regex": "number1[1-3],"}}
    assert await ask(engine, {"note": {"$contains": "number11,"}}, snap=snap) == ([inos[11]], LED)
    assert await ask(engine, {"note": {"$contains": "number13,"}}, snap=snap) == ([inos[13]], LED)
    assert (await ask(engine, pattern, snap=snap))[0] == inos[11:14]
    assert (await ask(engine, pattern))[0] == [inos[2]]


async def test_a_caller_finds_by_texts_what_it_may_read(engine: Engine) -> None:
    """The index tells nothing of what is hidden, and is not even asked."""
    inos = await make_notes(engine, 40)
    await engine.add_index("user.note")
    await build(engine)
    await engine.set_mode_and_xattrs(inos[11], 0o600, [], NOW_NS)
    await engine.set_mode_and_xattrs(inos[12], 0o644, [], NOW_NS)
    await engine.set_mode_and_xattrs(ROOT_INODE, 0o755, [], NOW_NS)
    node = parse({"note": {"$regex": "number1[12],"}})
    scope = Scope(NOW, Credentials(4711, 4711, frozenset()))
    page = await engine.find_files(node, None, None, 100, None, scope)
    assert page is not None
    assert (page.inos, page.driver) == ([inos[12]], "")


async def test_only_texts_of_xattrs_of_users_can_have_an_index(engine: Engine) -> None:
    await index(engine)
    for field in ("user.memfs.pool", "security.a", "user.", "note", f"user.{'x' * 300}"):
        with pytest.raises(InvalidValueError, match="texts of xattrs of users"):
            await engine.add_index(field)
        with pytest.raises(NotFoundError):
            await engine.drop_index(field)
    await engine.add_index("user.later")
    await engine.add_index("user.later")
    await build(engine)
    inode = await make_file(engine, b"f")
    await put(engine, inode.ino, b"a later text", b"user.later")
    assert (await ask(engine, {"later": {"$contains": "late"}}))[0] == [inode.ino]


WRITTEN = st.text(
    st.one_of(
        st.sampled_from("\"'*:^+-(){}[]\\%_?., \0\n\t\ufffd\uffff\u0130\xdfaAbBN"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=9,
)
"""Letters that mean something to FTS5, to SQLite, to JSON, or when case is folded."""


@given(st.lists(WRITTEN, min_size=1, max_size=3), st.lists(WRITTEN, min_size=1, max_size=2))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_asked_for_is_quoted(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], asked: list[str]
) -> None:
    """What users write is never read as the language of FTS5; also words of it, and parts."""
    site = SqliteSite(tmp_path_factory.mktemp("quoted"))
    engine = site.engine
    stored: dict[InodeNo, dict[str, bytes]] = {ROOT_INODE: {}}
    names: dict[InodeNo, str] = {}
    try:
        run(index(engine))
        for field in ("user.note", "$name"):
            run(engine.add_index(field))
        run(build(engine, 100))
        for number, value in enumerate(values):
            text = f"{value} AND NOT x OR NEAR({value}, 2) {number}"
            name = text.replace("/", "").replace("\0", "")
            ino = run(make_file(engine, name.encode())).ino
            run(put(engine, ino, text.encode()))
            stored[ino], names[ino] = {"user.note": text.encode()}, name
        for part in asked:
            words = f"{part} OR", f"NOT x OR NEAR({part}", f'{part}"', f"*{part}*", f"- {part}"
            for word in (part, *values, *words):
                for operator in ("$contains", "$text"):
                    if operator == "$text" and not word.split():
                        continue
                    filter_ = {"note": {operator: word}}
                    assert sorted(run(ask(engine, filter_))[0]) == expected(stored, filter_)
                    node = parse({"$name": {operator: word}})
                    by_name = [i for i in names if matches(node, lambda _, i=i: (names[i],))]  # type: ignore[misc]
                    found = run(ask(engine, {"$name": {operator: word}, "$size": 0}))[0]
                    assert sorted(set(found) - {ROOT_INODE}) == by_name
        site.close()
    finally:
        site.engine.close()


def test_as_many_xattrs_have_an_index_of_texts_as_there_are_tables(tmp_path: Path) -> None:
    site = SqliteSite(tmp_path)
    engine = site.engine
    for number in range(text_index.SLOT_COUNT):
        run(engine.add_index(f"user.a{number}"))
    with pytest.raises(NotSupportedError, match="16 xattrs have an index of their texts"):
        run(engine.add_index("user.b"))
    run(engine.drop_index("user.a3"))
    with pytest.raises(NotSupportedError, match="drop one"):
        run(engine.add_index("user.b"))
    run(build(engine))
    run(engine.add_index("user.b"))
    site.close()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (QueryConfig(enabled=False), r"set query\.enabled"),
        (QueryConfig(name_count_max=1), r"full with 1 names: raise query\.name_count_max"),
    ],
)
def test_an_xattr_that_is_not_indexed_has_no_index_of_texts(
    tmp_path: Path, config: QueryConfig, reason: str
) -> None:
    engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, SMALL, query=config)
    run(put(engine, ROOT_INODE, b"x", b"user.first"))
    with pytest.raises(NotSupportedError, match=reason):
        run(engine.add_index("user.note"))
    engine.close()


@local_only
async def test_a_page_after_the_index_of_texts_has_gone_says_so(engine: Engine) -> None:
    await make_notes(engine, 5)
    await engine.add_index("user.note")
    await build(engine)
    node = parse({"note": {"$contains": "ships"}})
    page = await engine.find_files(node, None, None, 2, None)
    assert page is not None
    assert page.driver == LED
    await engine.drop_index("user.note")
    with pytest.raises(InvalidValueError, match=r"texts of user\.note has gone meanwhile"):
        await engine.find_files(node, None, page.after, 2, None)


def test_a_step_is_short_whatever_texts_there_are(tmp_path: Path) -> None:
    """Requests wait for it: long texts take more steps, and so do the blocks of a large index."""
    site = SqliteSite(tmp_path)
    engine = site.engine
    run(index(engine))
    inos = [run(make_file(engine, b"f%d" % number)).ino for number in range(60)]
    for number, ino in enumerate(inos):
        run(put(engine, ino, json.dumps([number] * 700).encode()[:4096] + b"%d" % number))
    run(engine.add_index("user.note"))
    through = []
    while run(engine.build_indexes(70)):
        through.append(engine.field_indexes()[0].through)
    # A text of 4 KiB counts as 64.
    assert len(through) >= 30
    blocks = "select count(*) from xattr_text_0_data"
    run(engine.drop_index("user.note"))
    counts = [site._sqlite._rows(blocks, ())[0][0]]
    while run(engine.build_indexes(2)) and engine.field_indexes():
        counts.append(site._sqlite._rows(blocks, ())[0][0])
        assert engine.check() == []
    assert len(counts) > 3
    assert all(before - after <= 2 for before, after in itertools.pairwise(counts))
    site.close()


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("count", [3, 15])
def test_what_fts5_has_in_memory_is_written_though_blocks_have_gone(
    count: int, *, is_told: bool
) -> None:
    """It would merge sixteen segments when it writes the last one, and find them gone."""
    texts = text_index.texts_of(0)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(texts.make)
    put = "insert into xattr_text_0 (rowid, text) values (?, ?)"
    for number in range(count):
        connection.execute(put, (number, f"some text {number:08x}"))
    connection.execute("begin")
    connection.execute(put, (count, "the last one"))
    if is_told:
        connection.execute(texts.no_merge)
        connection.execute(texts.no_crisis)
    connection.execute(texts.cut, (2,))
    if not is_told and count == 15:
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute("commit")
        return
    connection.execute("commit")
    connection.execute(texts.end)
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            "insert into xattr_text_0 (xattr_text_0, rowid, text)"
            " select 'delete', ino, fold_text(typed) from xattr limit 1",
            "the index of texts of b'user.note' has other entries",
        ),
        ("update xattr set typed = 'other', value = x'6f74686572'", "has other entries"),
        ("insert into xattr_text_0 (rowid, text) values (99, 'abc')", "has other entries"),
        ("drop table xattr_text_0", "the index of texts of b'user.note' has no table"),
        (
            "insert into text_index select x'757365722e62', slot, through, state, folding"
            " from text_index",
            "two indexes of texts have the number 0",
        ),
        ("update text_index set slot = 99", "the index of texts of b'user.note' has the number 99"),
    ],
)
def test_a_wrong_index_of_texts_is_told_and_built_anew(
    tmp_path: Path, damage: str, sentence: str
) -> None:
    site = SqliteSite(tmp_path)
    inos = run(make_notes(site.engine, 3))
    run(site.engine.add_index("user.note"))
    run(build(site.engine))
    assert site.engine.check() == []
    site.engine.close()

    def harm(connection: Any) -> None:  # noqa: ANN401 - of SQLite
        connection.create_function("fold_text", 1, text_index.fold_text)
        connection.execute(damage)

    change_tables(site.state_dir, harm)
    engine = site.reopen()
    assert any(sentence in each for each in engine.check())
    engine.close()
    change_tables(site.state_dir, lambda connection: mend(connection, 1 << 20, NOW_NS))
    engine = site.reopen()
    assert {each.state for each in engine.field_indexes()} <= {IndexState.BUILDING}
    run(build(engine))
    found = run(ask(engine, {"note": {"$exists": True}}))[0]
    assert found == inos
    site.close()


def test_texts_that_an_older_version_has_changed_are_indexed_anew(tmp_path: Path) -> None:
    site = SqliteSite(tmp_path)
    inos = run(make_notes(site.engine, 3))
    for field in ("user.note", "user.gone"):
        run(site.engine.add_index(field))
    run(build(site.engine))
    run(site.engine.drop_index("user.gone"))
    site.engine.close()
    assert KEEPS_TEXTS < KEEPS_ELEMENTS
    change_as_older(site.state_dir, inos[1], NOTE, b"something else", KEEPS_TEXTS)
    engine = site.reopen()
    (report,) = engine.field_indexes()
    assert (report.field, report.state, report.through) == ("user.note", IndexState.BUILDING, 0)
    run(build(engine))
    assert run(ask(engine, {"note": {"$contains": "thing e"}})) == ([inos[1]], LED)
    site.close()


def test_another_version_of_unicode_folds_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = SqliteSite(tmp_path)
    inos = run(make_notes(site.engine, 3))
    with monkeypatch.context() as patch:
        patch.setattr("memfs.metadata.sqlite.queries.FOLDING", "1 of long ago")
        run(site.engine.add_index("user.note"))
        run(build(site.engine))
    engine = site.reopen()
    assert [each.state for each in engine.field_indexes()] == [IndexState.BUILDING]
    run(build(engine))
    engine = site.reopen()
    assert [each.state for each in engine.field_indexes()] == [IndexState.WHOLE]
    assert run(ask(engine, {"note": {"$contains": "number1"}})) == ([inos[1]], LED)
    site.close()
