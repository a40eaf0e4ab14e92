"""The tables of a node beside those of the database, row by row, in sentences.

Where one side has changes that the other one lacks, the rows that these touch are passed over, and
counted (`touched`).

Invariant: reads only; memory does not grow with the tables; no difference is told that changes
between both sides explain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.shared.applying import is_followed_setting
from memfs.metadata.shared.comparing import Difference, differences, prepare
from memfs.metadata.shared.tables import TABLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from memfs.metadata.shared.instant import Session
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.shared.touched import Touched
    from memfs.metadata.sqlite.statements import Row, SqlValue

DIFFERENCE_COUNT_MAX = 20
"""Differences of one table that are told; one that lacks its rows has millions."""
SHOWN_LETTERS_MAX = 60
"""Those of one value."""

_OWN_COLUMNS = frozenset({"blocks"})
"""Where a node has a raw file of its own, it has its size from that."""


class Fault(NamedTuple):
    """A row that is not the same on both sides."""

    row: str
    """Which one: table and key."""
    fault: str
    """What is different about it, a phrase."""


class Compared(NamedTuple):
    """How tables compare."""

    faults: list[Fault]
    """The first `DIFFERENCE_COUNT_MAX` of each table, and how many more there are."""
    row_count: int
    """Rows of this node that were compared."""
    passed_count: int
    """Rows that differ, and that changes touch which one side lacks."""


def compare(
    connection: sqlite3.Connection,
    session: Session,
    touched: Touched,
    *,
    is_reader: bool,
    is_heir: bool,
    progress: Callable[[int], None],
) -> Compared:
    """Compare all shared tables. Blocks.

    Args:
        connection: To this node's tables.
        session: The shared tables, as of one instant (`Instant`).
        touched: By changes that one side lacks.
        is_reader: This node reads: it has no garbage, and few settings.
        is_heir: It has been one that reads.
        progress: Told how many rows were looked at so far.

    Raises:
        DatabaseError, DisconnectedError: As of the session.
    """
    passes = frozenset[str](_OWN_COLUMNS if is_reader or is_heir else ())
    faults: list[Fault] = []
    row_count = passed_count = 0

    def note(count: int) -> None:
        nonlocal row_count
        row_count += count
        progress(row_count)

    prepare(connection)
    for table in TABLES:
        if is_reader and table.name == "garbage":
            continue
        count = 0
        for each in differences(connection, session, table, note):
            row = each.here or each.there
            assert row is not None
            if is_reader and table.name == "setting" and not _is_followed(row):
                continue
            fault = _fault(table, each, passes)
            if not fault:
                continue
            if any(side is not None and touched.has(table, side) for side in each[1:]):
                passed_count += 1
                continue
            count += 1
            if count <= DIFFERENCE_COUNT_MAX:
                faults.append(Fault(_place(table, row), fault))
        if count > DIFFERENCE_COUNT_MAX:
            more = count - DIFFERENCE_COUNT_MAX
            faults.append(Fault(f"table {table.name}", f"{more} more rows are different"))
    return Compared(faults, row_count, passed_count)


def _is_followed(row: Row) -> bool:
    return is_followed_setting(row[0].decode("utf-8", "replace"))


def _fault(table: SharedTable, difference: Difference, passes: frozenset[str]) -> str:
    """Return how two rows differ, a phrase; empty: in nothing that counts."""
    _, here, there = difference
    if here is None:
        return "the database has it, and this state directory has not"
    if there is None:
        return "this state directory has it, and the database has not"
    told = [
        f"{column.name} is {_shown(one)} here, and {_shown(other)} in the database"
        for column, one, other in zip(table.columns, here, there, strict=True)
        if one != other and column.name not in passes
    ]
    return "; ".join(told)


def _place(table: SharedTable, row: Row) -> str:
    names = [column.name for column in table.columns if column.name in table.key]
    values = zip(names, table.key_of(row), strict=True)
    return f"table {table.name}, {', '.join(f'{name} {_shown(value)}' for name, value in values)}"


def _shown(value: SqlValue) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_LETTERS_MAX else f"{text[:SHOWN_LETTERS_MAX]}..."
