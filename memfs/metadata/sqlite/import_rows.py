"""Rows of an export, column by column, as they are put into the tables of a new state.

Invariant: no value of an export is part of a statement unless it is a number, or a text of letters,
digits and a few marks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from memfs.metadata.columns import Alike, Shape, pick
from memfs.metadata.sqlite.exporting import (
    BATCH_SHAPE,
    BLOB_SHAPE,
    DENTRY_SHAPE,
    DIRECTORY_SHAPE,
    FORM_SHAPE,
    GONE_SHAPE,
    MISSING_SHAPE,
    OBJECT_SHAPE,
    PUBLISHED_SHAPE,
    SYMLINK_SHAPE,
    XATTR_SHAPE,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from memfs.metadata.columns import Columns

    Taker = Callable[[sqlite3.Connection, Columns, str], None]

_LITERAL_NUMBER_MAX = 1 << 62
_LITERAL_TEXT = re.compile(r"[A-Za-z0-9_:./=-]{0,64}")
"""Texts that a statement may have amid it, even from the hand of an attacker."""


def insert_rows(
    connection: sqlite3.Connection, verb: str, columns: Sequence[Sequence[Any]]
) -> None:
    """Insert the rows that some columns make; what is alike in all is in the statement.

    Args:
        verb: Up to the values.
        columns: One of them, at least, is not `Alike`, or has as many values as there are rows.
    """
    texts = [
        _literal(column[0]) if isinstance(column, Alike) and column else None for column in columns
    ]
    bound = [column for column, text in zip(columns, texts, strict=True) if text is None]
    if not bound:
        texts[0], bound = None, [columns[0]]
    values = ", ".join("?" if text is None else text for text in texts)
    connection.executemany(f"{verb} values ({values})", zip(*bound, strict=True))


def alike(value: object, column: Sequence[Any]) -> Alike:
    """Return a column that has one value, as long as another one."""
    return Alike([value] * len(column))


def _literal(value: object) -> str | None:
    """Return how a statement writes a value; None: it does not."""
    if value is None:
        return "null"
    if isinstance(value, int) and abs(value) < _LITERAL_NUMBER_MAX:
        return str(value)
    if isinstance(value, str) and _LITERAL_TEXT.fullmatch(value):
        return f"'{value}'"
    return None


def _take_xattrs(connection: sqlite3.Connection, columns: Columns, name: str) -> None:
    # The mount indexes them while it serves, as those of a state that was migrated.
    picked = pick(columns, list(XATTR_SHAPE.kinds), name)
    key, typed = alike(0, picked[0]), alike(None, picked[0])
    insert_rows(connection, "insert into xattr", [*picked, key, typed])


def _taker(table: str, shape: Shape, verb: str = "insert") -> Taker:
    names = list(shape.kinds)
    text = f"{verb} into {table} ({', '.join(names)})"

    def take(connection: sqlite3.Connection, columns: Columns, name: str) -> None:
        insert_rows(connection, text, pick(columns, names, name))

    return take


# Two files may share a blob, and two parts a batch.
TAKERS: dict[str, Taker] = {
    XATTR_SHAPE.name: _take_xattrs,
    SYMLINK_SHAPE.name: _taker("symlink", SYMLINK_SHAPE),
    DENTRY_SHAPE.name: _taker("dentry", DENTRY_SHAPE),
    BLOB_SHAPE.name: _taker("blob", BLOB_SHAPE, "insert or ignore"),
    FORM_SHAPE.name: _taker("form", FORM_SHAPE, "insert or ignore"),
    BATCH_SHAPE.name: _taker("temp.batch_size", BATCH_SHAPE, "insert or ignore"),
    MISSING_SHAPE.name: _taker("temp.missing", MISSING_SHAPE),
    OBJECT_SHAPE.name: _taker("foreign_object", OBJECT_SHAPE),
    DIRECTORY_SHAPE.name: _taker("foreign_directory", DIRECTORY_SHAPE),
    GONE_SHAPE.name: _taker("foreign_gone", GONE_SHAPE, "insert or ignore"),
    PUBLISHED_SHAPE.name: _taker("published", PUBLISHED_SHAPE),
}
"""What puts the rows of a part into their table, by the name of its shape."""
