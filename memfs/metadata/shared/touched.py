"""Which shared rows some changes may change: those in which two sides may differ by them.

A change of the log tells by its statements which numbers, directories, keys and tables it touches
(`statements`). A row counts as touched by any of them: more rows than are changed, and never fewer.

Invariant: a row that a change makes, changes or removes is touched by it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memfs.metadata.shared.statements import LOCAL, SHARED
from memfs.metadata.shared.tables import TABLES, stored_text
from memfs.metadata.sqlite import statements as sqlite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row, SqlValue
    from memfs.metadata.sqlite.tables import Record

_BY_KEY = {
    sqlite.INSERT_FORM: ("form", 0),
    sqlite.DELETE_FORM: ("form", 0),
    sqlite.INSERT_BATCH: ("batch", 0),
    sqlite.SET_BATCH: ("batch", 2),
    sqlite.DELETE_BATCH: ("batch", 0),
    sqlite.PUT_SETTING: ("setting", 0),
    sqlite.DELETE_SETTING: ("setting", 0),
    sqlite.INSERT_OBJECT: ("foreign_object", 0),
    sqlite.DELETE_OBJECT: ("foreign_object", 0),
    sqlite.RETIRE_OBJECT: ("foreign_object", 0),
    sqlite.PUT_PUBLISHED: ("published", 0),
    sqlite.DELETE_PUBLISHED: ("published", 0),
    # All inodes that have a blob.
    sqlite.FORGET_BLOB: ("inode", 0),
}
"""Statements that say more of a table than `SharedStatement.touches` does: the table, and which
parameter has the value of the column that leads to the row (`_KEYS`)."""

_KEYS = {
    "form": "blob",
    "batch": "key",
    "setting": "name",
    "foreign_object": "ino",
    "published": "url",
    "inode": "blob",
}

_AS_BYTES = frozenset({"setting", "published"})
"""Tables of these whose keys are texts that are stored as bytes."""

_NUMBERS = {
    **dict.fromkeys(("inode", "symlink", "xattr", "inode_was", "xattr_was"), "ino"),
    **dict.fromkeys(("symlink_was", "kept"), "ino"),
    "blob": "blob",
    "garbage": "item",
    "dentry_was": "cookie",
}
"""Columns that lead to rows by a number which a statement touches."""

_DIRECTORIES = {"dentry": "parent"}

_TABLE = re.compile(r"\b(?:insert into|update|delete from) (\w+)")


_PLACES = {
    (table.name, column.name): at for table in TABLES for at, column in enumerate(table.columns)
}


class Touched:
    """What some changes touch; grows with them."""

    def __init__(self) -> None:
        self._numbers: set[SqlValue] = set()
        self._directories: set[SqlValue] = set()
        self._keys: set[tuple[str, SqlValue]] = set()
        self._tables: set[str] = set()

    def add(self, records: Iterable[Record]) -> None:
        """Add the statements of a change."""
        for number, parameters in records:
            shared = None if number in LOCAL else SHARED[number]
            if shared is None or (shared.applies is not None and not shared.applies(parameters)):
                continue
            known = _BY_KEY.get(number)
            if known is not None:
                table, place = known
                value = parameters[place]
                if isinstance(value, str):
                    value = value.encode() if table in _AS_BYTES else stored_text(value)
                self._keys.add((table, value))
            elif shared.touches is None:
                self._tables.update(_TABLE.findall(shared.text))
            else:
                for each in shared.touches(parameters):
                    self._add(each)

    def _add(self, touched: object) -> None:
        if isinstance(touched, tuple):
            self._directories.add(touched[1])
        elif isinstance(touched, str):
            self._tables.add(touched)
        else:
            assert isinstance(touched, int), touched
            self._numbers.add(touched)

    def has(self, table: SharedTable, row: Row) -> bool:
        """Return whether a row of `SharedTable.select_shared` is touched."""
        name = table.name
        if name in self._tables:
            return True

        def value(column: str) -> SqlValue:
            found: SqlValue = row[_PLACES[name, column]]
            return found

        return bool(
            (name in _NUMBERS and value(_NUMBERS[name]) in self._numbers)
            or (name in _DIRECTORIES and value(_DIRECTORIES[name]) in self._directories)
            or (name in _KEYS and (name, value(_KEYS[name])) in self._keys)
        )
