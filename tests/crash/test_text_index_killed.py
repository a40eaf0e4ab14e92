"""SIGKILL at each statement of an index of texts that is built, kept up to date, and removed."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

from memfs.errors import NoXattrError
from memfs.metadata.records import IndexState
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.query.matching import matches
from memfs.query.parsing import parse
from memfs.query.values import stored_value
from memfs.types import ROOT_INODE, InodeNo
from tests.contract.engine.asking import ask, build
from tests.contract.engine.making import NOW_NS, make_file
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run
from tests.processes import outlived

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.query.matching import Values

NOTE = b"user.note"
FILE_COUNT = 3
FILTERS = ({"note": {"$contains": "ships"}}, {"note": {"$text": "NUMBER3"}})
STEP_COUNT_MAX = 300


def prepare(state_dir: Path) -> list[InodeNo]:
    """Make files with notes."""
    engine = SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL)
    while not run(engine.index_attributes(100)).is_whole:
        pass
    inos = [run(make_file(engine, b"f%d" % number)).ino for number in range(FILE_COUNT)]
    for number, ino in enumerate(inos):
        run(engine.set_xattr(ino, NOTE, b"ships of number%d" % number, 0, NOW_NS))
    engine.close()
    return inos


def live(state_dir: Path, inos: list[InodeNo], killed_at: int) -> None:
    """Go on with the index from where it is to its end; dies before that statement of it."""
    engine = SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL)
    real, count = engine._database._tables.execute, 0

    def execute(text: str, parameters: Any = ()) -> Any:  # noqa: ANN401 - as of SQLite
        nonlocal count
        if "xattr_text" in text and not text.startswith("select"):
            count += 1
            if count == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(text, parameters)

    engine._database._tables.execute = execute
    run(engine.add_index("user.note"))
    turn = 0
    while run(engine.build_indexes(2)):
        engine.commit_nowait()
        # Before and behind what is built.
        ino = inos[-turn % FILE_COUNT]
        run(engine.set_xattr(ino, NOTE, b'["sh\\u0069ps", "of %d"]' % turn, 0, NOW_NS))
        engine.commit_nowait()
        turn += 1
    if engine._find_inode(inos[0]) is not None:
        run(engine.unlink(ROOT_INODE, b"f0", NOW_NS))
        run(engine.reap([inos[0]]))
    run(engine.drop_index("user.note"))
    engine.commit_nowait()
    while run(engine.build_indexes(2)):
        engine.commit_nowait()
    engine.close()


def check(state_dir: Path, inos: list[InodeNo]) -> None:
    """See that the index finds what is there, while it is built and once it is whole."""
    engine = SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL)
    assert engine.check() == []
    notes: dict[InodeNo, bytes] = {}
    for ino in inos:
        if engine._find_inode(ino) is not None:
            try:
                notes[ino] = run(engine.get_xattr(ino, NOTE))
            except NoXattrError:
                continue

    def values_of(ino: InodeNo) -> Values:
        value = stored_value(notes[ino])
        return () if value is None else (value,)

    for is_built in (False, True):
        states = [each.state for each in engine.field_indexes()]
        for filter_ in FILTERS:
            node = parse(filter_)
            expected = [ino for ino in notes if matches(node, lambda _, ino=ino: values_of(ino))]  # type: ignore[misc]
            found, driver = run(ask(engine, filter_))
            assert sorted(found) == sorted(expected)
            assert (driver == "texts of user.note") == (states == [IndexState.WHOLE])
        if not is_built:
            run(build(engine, 2))
            assert engine.check() == []
    engine.close()


def test_a_kill_at_any_statement_leaves_an_index_that_goes_on(tmp_path: Path) -> None:
    inos = prepare(tmp_path / "state")
    for killed_at in range(1, STEP_COUNT_MAX):
        copy = tmp_path / f"killed-{killed_at}"
        shutil.copytree(tmp_path / "state", copy)
        ended = outlived(lambda copy=copy, at=killed_at: live(copy, inos, at))  # type: ignore[misc]
        check(copy, inos)
        if ended == 0:
            break
        assert ended == signal.SIGKILL
    assert 20 < killed_at < STEP_COUNT_MAX - 1
