"""The indexes of fields that there are, kept in memory."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.sqlite.field_schema import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.metadata.sqlite.database import Database
    from memfs.types import InodeNo

_SELECT = "select field, through, state from field_index"
SELECT_WHOLE = f"select field from field_index where state = '{WHOLE}'"


class FieldNote(NamedTuple):
    """How much of one index is there."""

    through: InodeNo
    state: str


class Indexes(NamedTuple):
    """What filters can be led by."""

    keys: Mapping[bytes, int]
    """Those of the names of xattrs."""
    fields: frozenset[str]
    """Fields of memfs that have a whole index."""
    elements: bool = False
    """The index of elements of arrays is whole."""
    texts: Mapping[str, int] = MappingProxyType({})
    """Slots of the whole indexes of texts, by the name of the xattr."""


class FieldIndexes:
    """Notes by field; bound to the database after it was opened."""

    def __init__(self) -> None:
        self._database: Database | None = None
        self._notes: dict[str, FieldNote] | None = None
        self._whole: frozenset[str] | None = None

    def bind(self, database: Database) -> None:
        """Take the database that has the indexes."""
        self._database = database

    def forget(self) -> None:
        """Read the notes again when they are needed: they were changed, or changes were undone."""
        self._notes = None
        self._whole = None

    @property
    def notes(self) -> Mapping[str, FieldNote]:
        """Notes by field."""
        if self._notes is None:
            assert self._database is not None, "bound when the engine was opened"
            rows = self._database.rows(_SELECT)
            self._notes = {field: FieldNote(*rest) for field, *rest in rows}
        return self._notes

    @property
    def whole(self) -> frozenset[str]:
        """Fields of which the index is whole."""
        if self._whole is None:
            self._whole = frozenset(
                field for field, note in self.notes.items() if note.state == WHOLE
            )
        return self._whole
