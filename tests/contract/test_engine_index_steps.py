"""Steps of indexes that are built: each is bounded, and so is what is moved into the tables."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from blake3 import blake3

from memfs.config import KIB, QueryConfig
from memfs.metadata.records import IndexState
from memfs.metadata.sqlite.element_index import ELEMENT_NOTE_NAME, ElementPosition
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.statements import PUT_SETTING
from memfs.query.values import ELEMENT_COUNT_MAX
from memfs.types import ROOT_INODE
from tests.contract.engine.asking import ask, build
from tests.contract.engine.making import NOW_NS, make_file
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, SqliteSite, run

if TYPE_CHECKING:
    from pathlib import Path

ARRAY = json.dumps([*range(ELEMENT_COUNT_MAX)]).encode()


def test_a_step_is_short_whatever_files_have(tmp_path: Path) -> None:
    """Requests wait for it: a file with many long arrays takes many steps, also over starts."""
    off = QueryConfig(enabled=False)
    engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, SMALL, query=off)
    inos = [run(make_file(engine, b"f%d" % index)).ino for index in range(3)]
    for name in range(30):
        run(engine.set_xattr(inos[1], b"user.a%02d" % name, ARRAY, 0, NOW_NS))
    engine.close()
    for is_prepared in (False, True):
        engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, SMALL)
        if is_prepared:
            # Elements alone: as if a version that did not know them had made the index.
            engine._database.connection.execute("delete from element")
            engine._database.write(PUT_SETTING, (ELEMENT_NOTE_NAME, ElementPosition().encode()))
            engine._elements.forget()
        step_count, is_whole = 0, False
        while not is_whole:
            before = engine._database.connection.total_changes
            if is_prepared:
                is_whole = not run(engine.build_indexes(20))
            else:
                is_whole = run(engine.index_attributes(20)).is_whole
            # Before the commit: it may begin the log anew, which writes all of the journal again.
            written = engine._database.connection.total_changes - before
            # Xattr, entries, the notes; and the key of a name.
            assert written <= 20 + ELEMENT_COUNT_MAX + 3
            engine.commit_nowait()
            step_count += 1
            if step_count == 3 and not is_prepared:
                engine.close()
                engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, SMALL)
        assert step_count > 30
        run(build(engine, 20))
        assert run(ask(engine, {"a29": 5})) == ([inos[1]], "elements of user.a29")
        assert engine.element_progress() == (True, 30, 30, 30)
        assert engine.check() == []
        engine.close()


def test_a_step_takes_so_many_names_although_files_have_several(tmp_path: Path) -> None:
    engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, SMALL)
    for index in range(9):
        ino = run(make_file(engine, b"f%d" % index)).ino
        for name in range(9):
            run(engine.link(ino, ROOT_INODE, b"f%d also %d" % (index, name), NOW_NS))
    run(engine.add_index("$name"))
    counts = [0]
    while run(engine.build_indexes(20)):
        counts.append(engine._rows("select count(*) from name_entry", ())[0][0])
    assert counts[-1] == 90
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 20 + 10
    engine.close()


def test_a_step_removes_so_many_entries_of_names(tmp_path: Path) -> None:
    """And blocks of their table, over a crash between any two of them."""
    limit, site = 30, SqliteSite(tmp_path)
    run(site.engine.add_index("$name"))
    for index in range(1500):
        run(make_file(site.engine, blake3(b"%d" % index).hexdigest().encode()))
    run(build(site.engine))

    def count(rows: str) -> int:
        found: int = site._sqlite._rows(f"select count(*) from {rows}", ())[0][0]
        return found

    block_count = count("name_text_data where id > 10")
    assert block_count > 2 * limit
    run(site.engine.drop_index("$name"))
    step_count = 0
    while True:
        before = site._sqlite._database.connection.total_changes
        if not run(site.engine.build_indexes(limit)):
            break
        assert site._sqlite._database.connection.total_changes - before <= limit + 1
        site.engine.commit_nowait()
        step_count += 1
        if step_count in (1, block_count // limit + 2):
            assert [each.state for each in site.engine.field_indexes()] == [IndexState.LEAVING]
            assert site.crash().check() == []
    assert step_count == (1500 + block_count) // limit + 1
    assert count("sqlite_schema where name like 'name_text%'") == 0
    run(site.engine.add_index("$name"))
    run(build(site.engine))
    assert len(run(ask(site.engine, {"$name": {"$contains": "ab"}}))[0]) > 100
    name = blake3(b"7").hexdigest()
    assert run(ask(site.engine, {"$name": {"$contains": name[20:]}}))[1] == "$name"
    site.close()


def test_what_an_index_writes_is_moved_into_the_tables_by_and_by(tmp_path: Path) -> None:
    """A record is short, and the pages of its row many: all at once they would hold requests up."""
    limits = replace(SMALL, checkpoint_bytes=60 * KIB, checkpoint_page_count=50)
    off = QueryConfig(enabled=False)
    engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, limits, query=off)
    for index in range(5):
        ino = run(make_file(engine, b"f%d" % index)).ino
        run(engine.set_xattr(ino, b"user.a", ARRAY, 0, NOW_NS))
    engine.close()
    engine = SqliteEngine.open(tmp_path, CONFIG, BIRTH_NS, limits)
    files = {engine._database._journals.current}
    while not run(engine.index_attributes(10)).is_whole:
        engine.commit_nowait()
        files.add(engine._database._journals.current)
        engine.wait_for_checkpoint()
        assert not engine.is_settling
    assert len(files) == 2
    engine.close()
