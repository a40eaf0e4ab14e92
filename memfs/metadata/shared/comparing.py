"""The shared tables beside those of a state directory: all rows of both, in one order.

Rows of a table come by its key, in an order that both databases know: numbers, bytes and texts of
the form that PostgreSQL stores, and the SHA-256 of a key that may be too long for an index. So
PostgreSQL reads pages of them by the index that it has anyway, and no query stays open meanwhile.

Invariant: `differences` tells each row that is missing on either side or not the same, and no
other, if nobody changes the tables meanwhile but by what it told.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.shared import instant
from memfs.metadata.shared.tables import TABLES, TYPES, stored_row, stored_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from memfs.metadata.shared.instant import Session
    from memfs.metadata.shared.tables import Column, SharedTable
    from memfs.metadata.sqlite.statements import Row, SqlValue

TIMEOUT_S = 60.0
"""For each page. Guess."""
SHOWN_COUNT = 3
"""Differences that a message tells."""

_DIGEST, _STORED = "memfs_digest", "memfs_stored"
"""Functions that SQLite gets from here."""

Key = tuple["SqlValue", ...]


class Difference(NamedTuple):
    """A key whose rows are not the same."""

    key: Key
    """What the order goes by."""
    here: Row | None
    """The row of the state directory, as PostgreSQL stores it; None: it has no such row."""
    there: Row | None
    """That of PostgreSQL; None: it has no such row."""


class Counter:
    """Told how many rows more are done, and shows how far a stage is.

    Args:
        stage: Its name.
        total: Rows in all.
        show: Told the stage, rows done, and rows in all.
    """

    def __init__(self, stage: str, total: int, show: Callable[[str, int, int], None]) -> None:
        self._stage = stage
        self._total = total
        self._show = show
        self._done = 0
        self(0)

    def __call__(self, count: int) -> None:
        """Note that so many more are done."""
        self._done += count
        self._show(self._stage, self._done, self._total)


def prepare(connection: sqlite3.Connection) -> None:
    """Let `local_rows` be asked of a connection to the tables of a state directory."""
    connection.create_function(_DIGEST, 1, _digest, deterministic=True)
    connection.create_function(_STORED, 1, stored_text, deterministic=True)


def count_local(connection: sqlite3.Connection) -> int:
    """Return how many rows all shared tables have to have."""
    return sum(
        connection.execute(
            f"select count(*) from {table.name} where {table.where or 'true'}"
        ).fetchone()[0]
        for table in TABLES
    )


def local_rows(connection: sqlite3.Connection, table: SharedTable) -> Iterator[tuple[Key, Row]]:
    """Yield the rows that a shared table has to have, as PostgreSQL stores them, by key.

    Args:
        connection: `prepare` was called for it.
        table: Which one.
    """
    order = ", ".join(_local_order(table, column) for column in _key_columns(table))
    key_of = _key_reader(table)
    has_texts = any(column.letter == "t" for column in table.columns)
    for row in connection.execute(f"{table.select_local} order by {order}"):
        stored = stored_row(row) if has_texts else row
        yield key_of(stored), stored


def shared_rows(session: Session, table: SharedTable) -> Iterator[tuple[Key, Row]]:
    """Yield the rows that a shared table has, by key."""
    order = key_expressions(table)
    types = [TYPES[column.letter] for column in _key_columns(table)]
    # The types say so for a first parameter, too, that no statement before has used.
    after = ", ".join(f"${at}::{kind}" for at, kind in enumerate(types, 1))
    key_of, count = _key_reader(table), instant.rows_a_step(table)
    first = f"{table.select_shared} order by {', '.join(order)} limit {count}"
    further = (
        f"{table.select_shared} where ({', '.join(order)}) > ({after})"
        f" order by {', '.join(order)} limit {count}"
    )
    (rows,) = session.transact_blocking([(first, ())], TIMEOUT_S)
    while rows:
        for row in rows:
            yield key_of(row), row
        if len(rows) < count:
            return
        (rows,) = session.transact_blocking([(further, key_of(rows[-1]))], TIMEOUT_S)


def differences(
    connection: sqlite3.Connection,
    session: Session,
    table: SharedTable,
    note: Callable[[int], None],
) -> Iterator[Difference]:
    """Yield where a shared table has not just the rows that it has to have, by key.

    Args:
        connection: That of the state directory; `prepare` was called for it.
        session: That to PostgreSQL.
        table: Which one.
        note: Told how many rows of the state directory were looked at since it was told last.
    """
    there = shared_rows(session, table)
    other = next(there, None)
    count = 0
    for key, here in local_rows(connection, table):
        while other is not None and other[0] < key:
            yield Difference(other[0], None, other[1])
            other = next(there, None)
        if other is None or other[0] != key:
            yield Difference(key, here, None)
        else:
            if other[1] != here:
                yield Difference(key, here, other[1])
            other = next(there, None)
        count += 1
        if count == instant.ROWS_A_STEP:
            note(count)
            count = 0
    while other is not None:
        yield Difference(other[0], None, other[1])
        other = next(there, None)
    note(count)


def describe(table: SharedTable, difference: Difference) -> str:
    """Return a difference in words."""
    row = difference.here or difference.there
    assert row is not None
    values = zip(_key_columns(table), table.key_of(row), strict=True)
    place = f"{table.name} {' '.join(f'{column.name}={value!r}' for column, value in values)}"
    if difference.here is None:
        return f"{place}: in PostgreSQL alone"
    if difference.there is None:
        return f"{place}: not in PostgreSQL"
    columns = zip(table.columns, difference.here, difference.there, strict=True)
    names = [column.name for column, here, there in columns if here != there]
    return f"{place}: another {', '.join(names)} in PostgreSQL"


def first_differences(
    connection: sqlite3.Connection,
    session: Session,
    note: Callable[[int], None],
    count: int,
) -> list[str]:
    """Compare all tables; returns the first differences in words, if there are any."""
    found: list[str] = []
    for table in TABLES:
        some = islice(differences(connection, session, table, note), count - len(found))
        found += [describe(table, each) for each in some]
        if len(found) == count:
            break
    return found


def key_expressions(table: SharedTable) -> list[str]:
    """Return what PostgreSQL orders rows by, as an index of the table has it."""
    return [
        f"sha256({column.quoted})" if column.name == table.long_key else column.quoted
        for column in _key_columns(table)
    ]


def _key_columns(table: SharedTable) -> list[Column]:
    """Return the columns of the key, in the order of the table."""
    return [column for column in table.columns if column.name in table.key]


def _local_order(table: SharedTable, column: Column) -> str:
    if column.name == table.long_key:
        return f"{_DIGEST}({column.local})"
    return f"{_STORED}({column.local})" if column.letter == "t" else column.local


def _key_reader(table: SharedTable) -> Callable[[Row], Key]:
    """Return what finds the key that rows are ordered by in a row."""
    places = [at for at, column in enumerate(table.columns) if column.name in table.key]
    long_place = next(
        (at for at, column in enumerate(table.columns) if column.name == table.long_key), None
    )
    if long_place is not None:
        return lambda row: tuple(_digest(row[at]) if at == long_place else row[at] for at in places)
    if len(places) == 1:
        (only,) = places
        return lambda row: (row[only],)
    read: Callable[[Row], Key] = itemgetter(*places)
    return read


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
