"""The index of elements: which xattrs are JSON arrays, and what is in them.

A condition on an xattr is met by any element of an array, which the typed value of the whole does
not lead to. So each array has an entry for each of its elements, made and removed in the same
change as its value. A text that begins like an array and is not one has a single mark instead.

Invariant: once it is whole, the entries are those of `entries_of` for each xattr that has a key.
Until then arrays behind its position may lack theirs, unless they were set since.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.records import ElementProgress
from memfs.query.values import elements_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from memfs.metadata.sqlite.database import Database
    from memfs.metadata.sqlite.statements import SqlValue
    from memfs.query.values import Value

ELEMENT_NOTE_NAME = "query.elements"
"""The setting that tells how far arrays have their entries."""

NO_ARRAY = b""
"""The mark; no operand is a blob."""

MAY_BE_ARRAY = "{0} >= '[' and {0} < '\\'"
"""Texts that begin with a bracket."""

SELECT_ELEMENT_NOTE = f"select value from setting where name = '{ELEMENT_NOTE_NAME}'"

TABLE = """
    create table if not exists element (
        key integer not null,           -- attribute_name.key
        value any not null,             -- of an element of an array; x'': what looks like an array
                                        -- is a text
        ino integer not null,           -- inode.ino
        primary key (key, value, ino)
    ) without rowid, strict
"""

_WHOLE = b"whole"
_NAMES = """
    select name from attribute_name as a where exists (select 1 from element where key = a.key)
"""


class ElementPosition(NamedTuple):
    """How far arrays have their entries: up to this one, in the order of the typed index."""

    key: int = 0
    typed: str = "["
    ino: int = 0

    def encode(self) -> bytes:
        """Return it as the setting has it."""
        return json.dumps(self, ensure_ascii=False).encode()


def decode_position(content: bytes | None) -> ElementPosition | None:
    """Return the position that a setting tells; None: all arrays have their entries."""
    if content == _WHOLE:
        return None
    return ElementPosition() if content is None else ElementPosition(*json.loads(content))


def encode_position(position: ElementPosition | None) -> bytes:
    """Return what `decode_position` takes."""
    return _WHOLE if position is None else position.encode()


def entries_of(typed: Value | None) -> tuple[SqlValue, ...]:
    """Return the entries of an xattr by its typed value; only texts like arrays have some."""
    if not isinstance(typed, str) or not typed.startswith("["):
        return ()
    elements = elements_of(typed)
    if elements is None:
        return (NO_ARRAY,)
    return tuple(dict.fromkeys(elements))


def empty_elements(connection: sqlite3.Connection) -> None:
    """Remove all entries, in the open transaction; the next mount makes them anew."""
    connection.execute("delete from element")
    connection.execute("delete from setting where name = ?", (ELEMENT_NOTE_NAME,))


class ElementIndex:
    """What is known of the index, kept in memory; bound to the database after it was opened."""

    def __init__(self) -> None:
        self._database: Database | None = None
        self._names: set[bytes] | None = None
        self._content: bytes | None = None
        self._is_known = False
        self._array_count = 0
        """Arrays that have got their entries since the mount began, but for those just set."""

    def bind(self, database: Database) -> None:
        """Take the database that has the entries."""
        self._database = database

    def forget(self) -> None:
        """Read again what is needed: changes were undone."""
        self._names = None
        self._is_known = False

    @property
    def names(self) -> set[bytes]:
        """Names of xattrs that may have entries; only for these are entries to be removed."""
        if self._names is None:
            assert self._database is not None, "bound when the engine was opened"
            self._names = {name for (name,) in self._database.rows(_NAMES)}
        return self._names

    @property
    def position(self) -> ElementPosition | None:
        """How far arrays have their entries; None: all have."""
        if not self._is_known:
            assert self._database is not None, "bound when the engine was opened"
            row = self._database.row(SELECT_ELEMENT_NOTE)
            self._content = None if row is None else row[0]
            self._is_known = True
        return decode_position(self._content)

    def take_position(self, position: ElementPosition | None, array_count: int) -> bytes:
        """Remember a position, and return what its setting is to hold from now on.

        Args:
            position: How far arrays have their entries now.
            array_count: Those that have got theirs since the position before.
        """
        self._content, self._is_known = encode_position(position), True
        self._array_count += array_count
        return self._content

    def progress(self, keys: Mapping[bytes, int]) -> ElementProgress:
        """Return how complete it is.

        Args:
            keys: Those of the index of attributes.
        """
        position = self.position
        if position is None:
            return ElementProgress(True, self._array_count, len(keys), len(keys))
        done_count = sum(key < position.key for key in keys.values())
        return ElementProgress(False, self._array_count, done_count, len(keys))
