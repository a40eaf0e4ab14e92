"""SQLite keeps databases on the mount, in both journal modes, also when a writer is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import together
from tests.programs.running import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.data_path,
    pytest.mark.parametrize("journal", ["delete", "truncate", "wal"]),
]

# Every transaction writes two equal rows; says which are committed.
WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma synchronous = full")
for number in range(1, 1_000_000):
    connection.execute("begin immediate")
    connection.execute("insert into t values (?, ?)", (number, b"x" * 3000))
    connection.execute("insert into t values (?, ?)", (-number, b"y" * 3000))
    connection.execute("commit")
    print(number, flush=True)
"""


def _connect(path: Path, journal: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
    assert connection.execute(f"pragma journal_mode = {journal}").fetchone() == (journal,)
    return connection


def _create(path: Path, journal: str) -> None:
    with contextlib.closing(_connect(path, journal)) as connection:
        connection.execute("create table t (number integer primary key, payload blob)")


def test_rows_come_back_and_the_file_is_whole(place: Path, journal: str) -> None:
    _create(place / "db", journal)
    with contextlib.closing(_connect(place / "db", journal)) as connection:
        for start in range(0, 2000, 200):
            connection.execute("begin")
            connection.executemany(
                "insert into t values (?, ?)",
                ((number, os.urandom(500)) for number in range(start, start + 200)),
            )
            connection.execute("commit")
        connection.execute("delete from t where number % 3 = 0")
        connection.execute("vacuum")
        assert connection.execute("select count(*) from t").fetchone() == (1333,)
    assert run("sqlite3", place / "db", "pragma integrity_check").strip() == "ok"


def test_processes_write_one_database_at_a_time(place: Path, journal: str) -> None:
    _create(place / "db", journal)

    def write(index: int) -> None:
        with contextlib.closing(_connect(place / "db", journal)) as connection:
            for number in range(40):
                connection.execute("insert into t values (?, 'x')", (index * 1000 + number,))

    together(3, write)
    with contextlib.closing(_connect(place / "db", journal)) as connection:
        assert connection.execute("select count(*) from t").fetchone() == (120,)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_killed_writer_loses_nothing_that_it_committed(place: Path, journal: str) -> None:
    _create(place / "db", journal)
    last = 0
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, place / "db"], stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            last = int(line)
            if last == 30:
                writer.send_signal(signal.SIGKILL)
    assert last >= 30
    with contextlib.closing(_connect(place / "db", journal)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        numbers = {number for (number,) in connection.execute("select number from t")}
    assert numbers >= set(range(1, last + 1))
    assert {-number for number in numbers} == numbers
