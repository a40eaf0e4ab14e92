"""The indexes of fields that there are, kept in memory."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from memfs.metadata.sqlite.field_schema import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memfs.metadata.sqlite.database import Database
    from memfs.types import InodeNo

Key = TypeVar("Key")
Note = TypeVar("Note")
Whole = TypeVar("Whole")

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


class IndexNotes(Generic[Key, Note, Whole]):
    """Notes of indexes, kept in memory; bound to the database after it was opened.

    Args:
        select: Returns rows of a key and what its note is made of.
        note: Makes a note.
        whole_of: Returns what questions need to know of the notes.
    """

    def __init__(
        self,
        select: str,
        note: Callable[..., Note],
        whole_of: Callable[[Mapping[Key, Note]], Whole],
    ) -> None:
        self._select = select
        self._note = note
        self._whole_of = whole_of
        self._database: Database | None = None
        self._notes: dict[Key, Note] | None = None
        self._whole: Whole | None = None

    def bind(self, database: Database) -> None:
        """Take the database that has the indexes."""
        self._database = database

    def forget(self) -> None:
        """Read the notes again when they are needed: they were changed, or changes were undone."""
        self._notes = None
        self._whole = None

    @property
    def notes(self) -> Mapping[Key, Note]:
        """Notes by key, in the order of the select."""
        if self._notes is None:
            assert self._database is not None, "bound when the engine was opened"
            rows = self._database.rows(self._select)
            self._notes = {key: self._note(*rest) for key, *rest in rows}
        return self._notes

    @property
    def whole(self) -> Whole:
        """Those indexes that are whole."""
        if self._whole is None:
            self._whole = self._whole_of(self.notes)
        return self._whole


class FieldIndexes(IndexNotes[str, FieldNote, "frozenset[str]"]):
    """Notes by field."""

    def __init__(self) -> None:
        super().__init__(_SELECT, FieldNote, _whole_fields)


def _whole_fields(notes: Mapping[str, FieldNote]) -> frozenset[str]:
    return frozenset(field for field, note in notes.items() if note.state == WHOLE)
