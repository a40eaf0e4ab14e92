"""The shared tables of PostgreSQL beside the tables of SQLite that they are projections of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.shared.tables import TABLES, stored_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from memfs.metadata.shared.client import Client
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row, SqlValue

    Rows = dict[tuple[SqlValue, ...], Row]
    """By key."""

LINES_MAX = 30
"""The first differences tell what is wrong."""


class Tables(NamedTuple):
    """The rows of all shared tables by name, in one of the two databases."""

    rows: Mapping[str, Rows]


def local_tables(ask: Callable[[str], list[Row]]) -> Tables:
    """Return what the shared tables have to have.

    Args:
        ask: Returns the rows of a query of SQLite.
    """
    return Tables(
        {table.name: _keyed(table, map(stored_row, ask(table.select_local))) for table in TABLES}
    )


def shared_tables(client: Client) -> Tables:
    """Return what they have, as of one instant."""
    statements = [(table.select_shared, ()) for table in TABLES]
    isolation = ("set transaction isolation level repeatable read", ())
    _, *answers = client.transact_blocking([isolation, *statements])
    return Tables(
        {table.name: _keyed(table, iter(rows)) for table, rows in zip(TABLES, answers, strict=True)}
    )


def assert_same(local: Tables, shared: Tables, where: str = "") -> None:
    """See that both have the same rows; tells which ones differ, and in which columns.

    Args:
        local: What they have to have.
        shared: What they have.
        where: What was done, for the message.
    """
    lines = [
        line
        for table in TABLES
        for line in _differences(table, local.rows[table.name], shared.rows[table.name])
    ]
    more = [f"and {len(lines) - LINES_MAX} more"] if len(lines) > LINES_MAX else []
    assert not lines, "\n".join([f"PostgreSQL differs: {where}", *lines[:LINES_MAX], *more])


def _keyed(table: SharedTable, rows: Iterator[Row]) -> Rows:
    found: Rows = {}
    for row in rows:
        key = table.key_of(row)
        assert key not in found, f"{table.name} has two rows of {key}"
        found[key] = row
    return found


def _differences(table: SharedTable, local: Rows, shared: Rows) -> Iterator[str]:
    for key in sorted({*local, *shared}, key=repr):
        names = zip(table.key, key, strict=True)
        place = f"{table.name} {' '.join(f'{name}={value!r}' for name, value in names)}"
        here, there = local.get(key), shared.get(key)
        if here is None:
            yield f"{place}: in PostgreSQL alone: {there}"
        elif there is None:
            yield f"{place}: in SQLite alone: {here}"
        elif here != there:
            columns = zip(table.columns, here, there, strict=True)
            told = [
                f"{column.name} {one!r} in SQLite, {other!r} in PostgreSQL"
                for column, one, other in columns
                if one != other
            ]
            yield f"{place}: {'; '.join(told)}"
