"""Time questions to many files, and what their index costs a setxattr, in CPU time.

Run: python -m tests.bench.queries [--count N] [--state DIR] [--json]

Files have five attributes each: a city of 50, a date, a source of 8, a number, a text of 45
characters. The state is made once in `--state`, and found there by the next run. Answers are timed
inside the engine, as the daemon asks it; plain SQLite has the same statements on a copy of the same
rows. Writes are timed in turns, with the index and without it, on files in order and at random.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import stat
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.config import MetadataConfig, QueryConfig
from memfs.metadata.records import EVERYTHING, FileOrder, NewInode, Scope
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.lease import IdLease
from memfs.namespace.permissions import Credentials
from memfs.query.parsing import parse
from memfs.query.values import stored_value
from memfs.types import NOW, ROOT_INODE, InodeNo
from memfs_daemon.indexing import ENTRY_STEP_COUNT as STEP_COUNT
from tests.bench.engine_ops import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = (b"user.city", b"user.cloud", b"user.date", b"user.note", b"user.source")
FIRST = 1000
"""Number of the first file."""
DIRECTORY_COUNT = 1000
MANY_MS = 60_000.0
WRITE_CHUNK = 2000


class Question(NamedTuple):
    """One row of the table."""

    name: str
    filter: object
    order: FileOrder | None = None
    limit: int = 1000
    is_whole: bool = False
    """All pages are read."""
    scope: Scope = EVERYTHING


USER = Scope(NOW, Credentials(1000, 1000, frozenset()))

QUESTIONS = (
    Question("equality, 1 file", {"note": None}),
    Question("equality, first 1000 of 20 k", {"city": "San Francisco"}),
    Question("range, about 1000 files", {"cloud": {"$gte": 40, "$lt": 40.1}}, limit=2000),
    Question(
        "and: city, date >= 2025; first 1000",
        {"city": "San Francisco", "date": {"$gte": "2025-01-01"}},
    ),
    Question(
        "and: city, date >= 2025; all",
        {"city": "San Francisco", "date": {"$gte": "2025-01-01"}},
        is_whole=True,
    ),
    Question(
        "city, sorted by number; first 1000", {"city": "San Francisco"}, FileOrder("user.cloud")
    ),
    Question("all, sorted by number; first 1000", {}, FileOrder("user.cloud")),
    Question("range, all 600 k, by pages", {"cloud": {"$gte": 20, "$lt": 80}}, is_whole=True),
    Question("substring of the text, all", {"note": {"$contains": "word1999"}}, is_whole=True),
    Question("regex on the text, all", {"note": {"$regex": "word1999$"}}, is_whole=True),
    Question("regex with a prefix, all", {"note": {"$regex": "^S00[0-9]+ word1"}}, is_whole=True),
    Question("glob below a directory", {"$path": "d500/*1"}, is_whole=True),
    Question("glob of all names", {"$path": "**/f*77"}, is_whole=True),
    Question("the same, by a user", {"$path": "**/f*77"}, is_whole=True, scope=USER),
    Question("word of all names, by a user", {"$name": {"$text": "F77"}}, None, 1000, True, USER),
)


def values(rng: random.Random, number: int) -> tuple[bytes, ...]:
    """Return the attributes of a file, in order of `NAMES`."""
    city = rng.randrange(50)
    date = f"{2016 + rng.randrange(10)}-{1 + rng.randrange(12):02}-{1 + rng.randrange(28):02}"
    words = " ".join(f"word{rng.randrange(2000)}" for _ in range(4))
    return (
        b"San Francisco" if city == 0 else b"City %d" % city,
        b"%.6f" % (rng.random() * 100),
        date.encode(),
        f"S{number:07} {words}".encode(),
        b"sentinel-%d" % rng.randrange(8),
    )


def build(state_dir: Path, count: int) -> None:
    """Make a state with so many files: rows by SQL, since the engine would take minutes."""
    SqliteEngine.open(state_dir, MetadataConfig()).close()
    connection = sqlite3.connect(state_dir / "metadata.db", isolation_level=None)
    connection.execute("pragma synchronous = off")
    connection.execute("begin")
    connection.execute("drop index xattr_typed")
    connection.executemany(
        "insert into attribute_name values (?, ?)",
        [(key, name) for key, name in enumerate(NAMES, 1)],
    )
    inode = (
        "insert into inode values"
        " (?, ?, 0, 0, ?, 0, 4096, 8, 1, ?, 1, 1, 1, 0, 0, 0, 0, null, 1, 0)"
    )
    directories = range(FIRST - DIRECTORY_COUNT + 17, FIRST)
    for ino in directories:
        connection.execute(inode, (ino, stat.S_IFDIR | 0o755, 2, 1))
        connection.execute("insert into dentry values (1, ?, ?, ?)", (ino, b"d%d" % ino, ino))
    files = range(FIRST, FIRST + count)
    connection.executemany(inode, ((ino, stat.S_IFREG | 0o644, 1, ino) for ino in files))
    connection.executemany(
        "insert into dentry values (?, ?, ?, ?)",
        ((directories[ino % len(directories)], ino, b"f%d" % ino, ino) for ino in files),
    )
    connection.executemany("insert into xattr values (?, ?, ?, ?, ?)", _xattrs(files))
    connection.execute("create index xattr_typed on xattr (key, typed, ino) where key <> 0")
    connection.execute("insert or replace into setting values ('query.index', x'77686f6c65')")
    connection.execute("update state set inode_count = (select count(*) from inode)")
    connection.execute("update inode set nlink = nlink + ? where ino = 1", (len(directories),))
    connection.execute("commit")
    connection.close()
    (state_dir / "metadata.sums").unlink()
    (state_dir / "ids").unlink()
    IdLease.format(state_dir / "ids", FIRST + 2 * count, 1000)


def _xattrs(files: range) -> Iterator[tuple[Any, ...]]:
    rng = random.Random(7)
    for ino in files:
        for key, (name, value) in enumerate(zip(NAMES, values(rng, ino), strict=True), 1):
            yield ino, name, value, key, stored_value(value)


TEXT_QUESTIONS = (
    Question("a part of a value of 500", {"note": {"$contains": "word1999"}}),
    Question("a part of 10 files", {"note": {"$contains": "S000471"}}),
    Question("two parts", {"note": {"$text": "WORD1999 S0004"}}),
    Question("pattern with a part", {"note": {"$regex": "word1999$"}}),
    Question("a part that all have", {"note": {"$contains": "word1"}}),
    Question(
        "a part of a value of 500, sorted by number",
        {"note": {"$contains": "word1999"}},
        FileOrder("user.cloud"),
    ),
)
"""Asked with the index of the texts of the note, and without it; all pages are read."""


class Timing(NamedTuple):
    """For one question."""

    row_count: int
    first_ms: float
    wall_ms: float
    cpu_ms: float


def timed(answer: Callable[[], int], times: int) -> Timing:
    """Time an answer; its first time by itself, of the others the medians."""
    walls, cpus, count = list[float](), list[float](), 0
    for _ in range(times + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        count = answer()
        cpus.append((time.process_time() - cpu) * 1e3)
        walls.append((time.perf_counter() - wall) * 1e3)
    later = slice(min(1, times), None)
    return Timing(count, walls[0], statistics.median(walls[later]), statistics.median(cpus[later]))


def ask(engine: SqliteEngine, question: Question) -> int:
    """Return how many files a question finds."""
    node, after, count = parse(question.filter), None, 0
    while True:
        limit, scope = question.limit, question.scope
        page = run(engine.find_files(node, question.order, after, limit, None, scope))
        assert page is not None
        count += len(page.inos)
        after = page.after
        if after is None or not question.is_whole:
            return count


def ask_all(state_dir: Path, times: int) -> dict[str, Timing]:
    """Time all questions."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    note = run(engine.get_xattr(InodeNo(FIRST + 4711), b"user.note")).decode()
    rows = {}
    for question in QUESTIONS:
        asked = question._replace(filter={"note": note}) if "1 file" in question.name else question
        rows[question.name] = timed(lambda asked=asked: ask(engine, asked), times)  # type: ignore[misc]
    rows["paths of 1000 files"] = timed(lambda: _paths(engine), times)
    engine.close()
    rows.update(ask_sqlite(state_dir, times))
    return rows


def ask_texts(state_dir: Path, times: int) -> dict[str, Timing]:
    """Time questions to texts without and with an index of these, and its building and going."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    rows = {}
    for name in ("without", "with"):
        if name == "with":
            run(engine.add_index("user.note"))
            rows["building the index of texts"] = timed(lambda: _work(engine), 0)
        for question in TEXT_QUESTIONS:
            whole = question._replace(is_whole=True)
            rows[f"{question.name}; {name}"] = timed(lambda whole=whole: ask(engine, whole), times)  # type: ignore[misc]
    pages = "select sum(pgsize) from dbstat where name like 'xattr_text_0_%'"
    rows["bytes of the index of texts"] = Timing(engine._rows(pages, ())[0][0], 0, 0, 0)
    run(engine.drop_index("user.note"))
    rows["removing the index of texts"] = timed(lambda: _work(engine), 0)
    engine.close()
    return rows


def _work(engine: SqliteEngine) -> int:
    """Take all steps of the indexes; returns how many there were."""
    count = 0
    while run(engine.build_indexes(STEP_COUNT)):
        engine.commit_nowait()
        count += 1
    engine.commit_nowait()
    return count


def _paths(engine: SqliteEngine) -> int:
    page = run(engine.find_files(parse({"city": "San Francisco"}), None, None, 1000, None))
    assert page is not None
    return len([run(engine.get_path(ino)) for ino in page.inos])


def ask_sqlite(state_dir: Path, times: int) -> dict[str, Timing]:
    """Time what plain SQLite takes for the same, with a table that was made for it."""
    connection = sqlite3.connect(state_dir / "metadata.db", isolation_level=None)
    connection.execute("pragma cache_size = -32768")
    statements = {
        "SQLite: equality, first 1000": (
            "select ino from xattr where key <> 0 and key = 1 and typed = 'San Francisco'"
            " order by ino limit 1000"
        ),
        "SQLite: range, about 1000": (
            "select ino from xattr where key <> 0 and key = 2 and typed >= 40 and typed < 40.1"
        ),
    }
    return {
        name: timed(lambda text=text: len(connection.execute(text).fetchall()), times)  # type: ignore[misc]
        for name, text in statements.items()
    }


def time_writes(scratch: Path, count: int, *, is_random: bool) -> dict[str, float]:
    """Return us of CPU of a first setxattr with its commit, without indexes and with them."""
    sides: dict[str, tuple[SqliteEngine, list[InodeNo], random.Random]] = {}
    for name in ("without", "with", "with texts"):
        config = QueryConfig(enabled=name != "without")
        engine = SqliteEngine.open(scratch / name, MetadataConfig(), query=config)
        inos = []
        for index in range(count):
            ino, raw = engine.reserve_ids()
            new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, 1, raw=raw)
            run(engine.create(ROOT_INODE, b"f%d" % index, new))
            inos.append(ino)
            if index % 50 == 0:
                engine.commit_nowait()
        if name == "with texts":
            # One of the five.
            run(engine.add_index("user.note"))
            _work(engine)
        engine.commit_nowait()
        if is_random:
            random.Random(5).shuffle(inos)
        sides[name] = (engine, inos, random.Random(3))
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for begin in range(0, count, WRITE_CHUNK):
        for name, (engine, inos, rng) in sides.items():
            jobs = [
                (ino, *pair)
                for ino in inos[begin : begin + WRITE_CHUNK]
                for pair in zip(NAMES, values(rng, ino), strict=True)
            ]
            cpu = time.process_time()
            for ino, field, value in jobs:
                run(engine.set_xattr(ino, field, value, 0, begin + 2))
                engine.commit_nowait()
            spent[name].append((time.process_time() - cpu) / len(jobs) * 1e6)
    for engine, _inos, _rng in sides.values():
        engine.close()
    return {name: round(statistics.fmean(each), 1) for name, each in spent.items()}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="files with attributes")
    parser.add_argument("--written", type=int, default=100_000, help="files that are written to")
    parser.add_argument("--times", type=int, default=9, help="of each question")
    parser.add_argument("--state", type=Path, help="where the state is kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        state_dir = options.state or Path(scratch) / "state"
        if not (state_dir / "format").exists():
            build(state_dir, options.count)
        asked = ask_all(state_dir, options.times) | ask_texts(state_dir, options.times)
        written = {}
        for name, is_random in (("in order", False), ("at random", True)):
            folder = Path(scratch) / name
            written[name] = time_writes(folder, options.written, is_random=is_random)
            shutil.rmtree(folder)
    if options.json:
        rows = {name: timing._asdict() for name, timing in asked.items()}
        print(json.dumps({"count": options.count, "questions": rows, "setxattr_us": written}))
        return
    print(f"{'question':40} {'files':>7} {'first':>9} {'wall':>9} {'CPU':>9}  ms")
    for name, timing in asked.items():
        numbers = " ".join(f"{value:9.2f}" for value in timing[1:])
        print(f"{name:40} {timing.row_count:7} {numbers}")
    for name, each in written.items():
        print(f"setxattr, files {name}: " + ", ".join(f"{k} {v} us" for k, v in each.items()))


if __name__ == "__main__":
    main()
