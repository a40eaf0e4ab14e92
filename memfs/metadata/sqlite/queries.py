"""Queries: the engine methods that find files by their attributes, and keep the index of these.

Invariant: an answer is complete or refused: while xattrs may be missing in the index, so is it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from memfs.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NotFoundError,
    NotSupportedError,
)
from memfs.metadata.records import (
    EVERYTHING,
    ElementProgress,
    FieldIndex,
    FileOrder,
    FilePage,
    FilePosition,
    FoundInode,
    IndexProgress,
    IndexState,
    Scope,
)
from memfs.metadata.sqlite.attribute_index import NO_KEY, NOT_BEGUN, IndexNote
from memfs.metadata.sqlite.element_index import (
    ELEMENT_NOTE_NAME,
    ElementPosition,
    entries_of,
)
from memfs.metadata.sqlite.field_index import FieldNote, Indexes
from memfs.metadata.sqlite.field_schema import BUILDING, LEAVING, NAME_FIELD, NUMBERS, WHOLE
from memfs.metadata.sqlite.finding import has_steps_without_end
from memfs.metadata.sqlite.published import PublishedRows
from memfs.metadata.sqlite.statements import (
    DELETE_FIELD_INDEX,
    DELETE_TEXT_INDEX,
    FIELD_STATEMENTS,
    NAME_CUT_STATEMENTS,
    PUT_FIELD_INDEX,
    PUT_SETTING,
    PUT_TEXT_INDEX,
    SET_TYPED,
    TEXT_STATEMENTS,
)
from memfs.metadata.sqlite.text_index import (
    FOLDING,
    LETTERS_AN_ENTRY,
    SLOT_COUNT,
    TextNote,
    table_of,
)
from memfs.query.fields import ATTRIBUTE_PREFIX, SYSTEM_FIELDS, attribute_name, is_queryable
from memfs.query.filters import Node, fields_of
from memfs.query.values import stored_value
from memfs.types import ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.sqlite.statements import Row, SqlValue

INTEGER_MAX = (1 << 63) - 1
"""That of SQLite."""

# Names of memfs's own lie between: they have no key, and are passed over.
_LIST_XATTRS = """
    select ino, name, value, key from xattr where (ino, name) > (?, ?) order by ino, name limit ?
"""
_COUNT_NAMED = """
    select count(*) from json_each(?) as asked
    where asked.value = ? or exists (select 1 from dentry where dentry.ino = asked.value)
"""
_NEXT_INODES = """
    select max(ino), count(*) from (select ino from inode where ino > ? order by ino limit ?)
"""
_NEXT_NAMED = """
    select max(ino), count(*) from (select ino from dentry where ino > ? order by ino limit ?)
"""
"""Inodes may have many names each."""
_NEXT_ENTRY = """
    select value, ino from field_value where field = ? order by value, ino limit 1 offset ?
"""
_NEXT_ARRAYS = """
    select typed, ino from xattr where key <> 0 and key = ?
    and (typed, ino) > (?, ?) and typed < '\\' order by typed, ino limit ?
"""
_NEXT_TEXTS = """
    select i.ino, length(x.typed)
    from (select ino from inode where ino > ? order by ino limit ?) as i left join xattr as x
    on x.ino = i.ino and x.name = ? and typeof(x.typed) = 'text' order by i.ino
"""
_HAS_TEXT_SEARCH = "select 1 from pragma_module_list where name = 'fts5'"


class Queries(PublishedRows):
    """Finding files, and the index for it."""

    async def find_files(
        self,
        node: Node,
        order: FileOrder | None,
        after: FilePosition | None,
        limit: int,
        budget_s: float | None,
        scope: Scope = EVERYTHING,
    ) -> FilePage | None:
        self.check_queryable(node, order, scope)
        if budget_s is not None and (has_steps_without_end(node) or scope.caller is not None):
            # For a caller all files are looked at, and not in the loop.
            return None
        until_s = None if budget_s is None else time.perf_counter() + budget_s

        def search(text: str, arguments: Sequence[SqlValue]) -> list[Row] | None:
            return self._database.search(text, arguments, until_s)

        has_elements = self._elements.position is None
        indexes = Indexes(
            self._attributes.keys, self._fields.whole, has_elements, self._texts.whole
        )
        return self._finder.page(node, order, after, limit, indexes, search, scope)

    async def describe_files(
        self, inos: Sequence[InodeNo], scope: Scope, *, with_xattrs: bool = False
    ) -> list[FoundInode]:
        return self._finder.view(scope).describe(inos, with_xattrs=with_xattrs)

    def check_queryable(
        self, node: Node, order: FileOrder | None = None, scope: Scope = EVERYTHING
    ) -> None:
        """See that the index has all that a filter asks for.

        Raises:
            NotSupportedError: It has not.
        """
        index = self._attributes
        names = fields_of(node) | ({order.field} if order is not None else set())
        asked = [name for name in sorted(names) if name not in SYSTEM_FIELDS]
        if not asked:
            return
        index.require_enabled()
        if scope.caller is not None and (not index.note.is_whole or index.note.is_short_of_names):
            # Which names there are, and how many files, is not for everybody.
            raise NotSupportedError("the index of xattrs is not complete: ask again later")
        if not index.note.is_whole:
            progress = self.index_progress()
            raise NotSupportedError(
                f"the index of xattrs is being built: {progress.through} of {progress.last} inodes "
                "are in it; ask again later"
            )
        if index.note.is_short_of_names:
            for name in asked:
                if name.encode() not in index.keys:
                    raise NotSupportedError(
                        f"{name} is not in the index, which is full with {len(index.keys)} names: "
                        "raise query.name_count_max, and mount again"
                    )

    def indexed_names(self) -> list[bytes]:
        return list(self._attributes.keys)

    async def count_named(self, inos: Sequence[InodeNo]) -> int:
        row = self._row(_COUNT_NAMED, (json.dumps(inos), ROOT_INODE))
        return 0 if row is None else int(row[0])

    def index_progress(self) -> IndexProgress:
        index = self._attributes
        last = self._last_inode()
        note = index.note
        return IndexProgress(
            index.enabled and note.is_whole,
            last if note.through is None else note.through,
            last,
            len(index.keys),
            note.is_short_of_names,
        )

    # --- indexes of what memfs knows -------------------------------------------------------------
    async def add_index(self, field: str) -> None:
        statements = FIELD_STATEMENTS.get(field)
        name = _text_name(field)
        if statements is None and name is None:
            known = ", ".join(FIELD_STATEMENTS)
            raise InvalidValueError(
                f"{field} cannot have an index: {known} can, and texts of xattrs of users"
            )
        note = self._note_of(field)
        if note is not None and note.state == LEAVING:
            raise AlreadyExistsError(
                f"the index of {field} before is still being removed: try again later"
            )
        if note is not None:
            return
        if (name or field == NAME_FIELD) and not self._rows(_HAS_TEXT_SEARCH, ()):
            raise NotSupportedError("the SQLite of this Python lacks FTS5, which finds words")
        if name is not None:
            self._add_text_index(name)
        elif statements is not None:
            self._begin_change(grows=True)
            for statement in statements.make:
                self._write(statement, ())
            self._put_note(field, FieldNote(InodeNo(0), BUILDING))

    def _note_of(self, field: str) -> FieldNote | TextNote | None:
        name = _text_name(field)
        return self._fields.notes.get(field) if name is None else self._texts.notes.get(name)

    def _add_text_index(self, name: bytes) -> None:
        index, slot = self._attributes, self._texts.free_slot()
        index.require_enabled()
        if slot is None:
            raise NotSupportedError(
                f"{SLOT_COUNT} xattrs have an index of their texts, which is all that can: "
                "drop one of these before"
            )
        if index.is_full and name not in index.keys:
            raise NotSupportedError(
                f"{name.decode()} is not in the index of xattrs, which is full with "
                f"{len(index.keys)} names: raise query.name_count_max, and mount again"
            )
        self._begin_change(grows=True)
        index.take_key(name)
        self._write(TEXT_STATEMENTS[slot].make, ())
        self._put_text_note(name, TextNote(slot, InodeNo(0), BUILDING))

    async def drop_index(self, field: str) -> None:
        if (name := _text_name(field)) is not None:
            text = self._texts.notes.get(name)
            if text is None or text.state == LEAVING:
                raise NotFoundError(f"texts of {field} have no index")
            self._begin_change()
            self._write(TEXT_STATEMENTS[text.slot].no_merge, ())
            self._write(TEXT_STATEMENTS[text.slot].no_crisis, ())
            self._put_text_note(name, text._replace(state=LEAVING))
            return
        note = self._fields.notes.get(field)
        if note is None or note.state == LEAVING:
            raise NotFoundError(f"{field} has no index")
        self._begin_change()
        for statement in FIELD_STATEMENTS[field].drop_triggers:
            self._write(statement, ())
        if field == NAME_FIELD:
            self._write(NAME_CUT_STATEMENTS.no_merge, ())
            self._write(NAME_CUT_STATEMENTS.no_crisis, ())
        self._put_note(field, note._replace(state=LEAVING))

    async def build_indexes(self, limit: int) -> bool:
        for field, note in self._fields.notes.items():
            if note.state == BUILDING:
                self._build(field, note.through, limit)
                return True
            if note.state == LEAVING:
                self._remove_entries(field, limit)
                return True
        for name, text in self._texts.notes.items():
            if text.state == BUILDING:
                self._build_texts(name, text, limit)
                return True
            if text.state == LEAVING:
                self._cut_texts(name, text, limit)
                return True
        position = self._elements.position
        if position is None or not self._attributes.enabled:
            return False
        self._build_elements(position, limit)
        return True

    def _build_elements(self, position: ElementPosition, limit: int) -> None:
        """Give the next arrays their entries; what is set meanwhile sees to its own.

        Args:
            position: Where to go on.
            limit: Entries, which the last array may exceed, and arrays without an entry.
        """
        self._begin_change(grows=True)
        names = {key: name for name, key in self._attributes.keys.items()}
        later = (key for key in sorted(names) if key >= position.key)
        ended: ElementPosition | None = None
        done_count = array_count = 0
        for key in later:
            if key > position.key:
                position = ElementPosition(key)
            for typed, ino in self._rows(_NEXT_ARRAYS, (*position, limit - done_count)):
                entries = entries_of(typed)
                self._add_elements(ino, names[key], key, entries)
                done_count += max(1, len(entries))
                array_count += 1
                if done_count >= limit:
                    ended = ElementPosition(key, typed, ino)
                    break
            if ended is not None:
                break
        self._database.note_bulk(done_count)
        note = self._elements.take_position(ended, array_count)
        self._write(PUT_SETTING, (ELEMENT_NOTE_NAME, note))

    def _build(self, field: str, begin: InodeNo, limit: int) -> None:
        text = _NEXT_NAMED if field == NAME_FIELD else _NEXT_INODES
        ((through, count),) = self._rows(text, (begin, limit))
        # Those that were made since have their entries by the triggers.
        note = FieldNote(begin if through is None else through, BUILDING)
        if count < limit:
            note = note._replace(state=WHOLE)
        self._begin_change(grows=True)
        if count:
            for statement in FIELD_STATEMENTS[field].add:
                self._write(statement, (begin, note.through))
            self._database.note_bulk(count)
        self._put_note(field, note)

    def _remove_entries(self, field: str, limit: int) -> None:
        statements = FIELD_STATEMENTS[field]
        if statements.remove is None:
            is_last = self._cut_names(limit)
        else:
            last = self._row(_NEXT_ENTRY, (NUMBERS[field], limit - 1))
            is_last = last is None
            self._begin_change()
            value, ino = (INTEGER_MAX, INTEGER_MAX) if last is None else last
            self._write(statements.remove, (value, ino))
            self._database.note_bulk(limit)
        if is_last:
            for statement in statements.end:
                self._write(statement, ())
            self._write(DELETE_FIELD_INDEX, (field,))
            self._fields.forget()

    def _cut_names(self, limit: int) -> bool:
        """Remove the next blocks or entries of the index of names; returns whether these were all.

        The change goes on.
        """
        counts = (
            ("name_text_data where id > 10", NAME_CUT_STATEMENTS.blocks),
            ("name_entry", NAME_CUT_STATEMENTS.entries),
        )
        left = limit
        self._begin_change()
        for rows, statement in counts:
            ((count,),) = self._rows(
                f"select count(*) from (select 1 from {rows} limit ?)", (left,)
            )
            if count:
                self._write(statement, (left,))
                self._database.note_bulk(count)
            left -= count
            if left == 0:
                return False
        return True

    def _build_texts(self, name: bytes, note: TextNote, limit: int) -> None:
        """Give the values of the next inodes their entries.

        Args:
            name: That of the xattr.
            note: How far it is.
            limit: Inodes that are looked at, and `LETTERS_AN_ENTRY`; the last text may exceed it.
        """
        rows = self._rows(_NEXT_TEXTS, (note.through, limit, name))
        through, work = note.through, 0
        for count, (ino, length) in enumerate(rows, 1):
            through = ino
            work += 1 if length is None else 1 + length // LETTERS_AN_ENTRY
            if work >= limit and count < len(rows):
                break
        else:
            if len(rows) < limit:
                note = note._replace(state=WHOLE)
        self._begin_change(grows=True)
        if rows:
            self._write(TEXT_STATEMENTS[note.slot].build, (note.through, through, name))
            self._database.note_bulk(work)
        self._put_text_note(name, note._replace(through=through))

    def _cut_texts(self, name: bytes, note: TextNote, limit: int) -> None:
        """Remove the next blocks of a table, and then itself."""
        blocks = f"select 1 from {table_of(note.slot)}_data where id > 10 limit ?"
        ((count,),) = self._rows(f"select count(*) from ({blocks})", (limit,))
        self._begin_change()
        if count:
            self._write(TEXT_STATEMENTS[note.slot].cut, (limit,))
            self._database.note_bulk(count)
        if count < limit:
            self._write(TEXT_STATEMENTS[note.slot].end, ())
            self._write(DELETE_TEXT_INDEX, (name,))
            self._texts.forget()

    def _put_text_note(self, name: bytes, note: TextNote) -> None:
        self._write(PUT_TEXT_INDEX, (name, *note, FOLDING))
        self._texts.forget()

    def _put_note(self, field: str, note: FieldNote) -> None:
        self._write(PUT_FIELD_INDEX, (field, *note))
        self._fields.forget()

    def field_indexes(self) -> list[FieldIndex]:
        notes: dict[str, FieldNote | TextNote] = {**self._fields.notes}
        notes |= {name.decode(): note for name, note in self._texts.notes.items()}
        last = self._last_inode() if notes else InodeNo(0)
        return [
            FieldIndex(field, IndexState(note.state), note.through, last)
            for field, note in sorted(notes.items())
        ]

    def element_progress(self) -> ElementProgress:
        return self._elements.progress(self._attributes.keys)

    def _last_inode(self) -> InodeNo:
        row = self._row("select max(ino) from inode")
        return InodeNo(0 if row is None else row[0])

    # --- the index of attributes -----------------------------------------------------------------
    async def index_attributes(self, limit: int) -> IndexProgress:
        index = self._attributes
        note = index.note
        if not index.enabled:
            return self.index_progress()
        if note.is_whole and note.is_short_of_names and not index.is_full:
            # There is room for more names since.
            note = NOT_BEGUN
        if note.through is None:
            return self.index_progress()
        self._begin_change()
        rows = self._rows(_LIST_XATTRS, (note.through + 1, note.name, limit))
        written_count = 0
        is_short = note.is_short_of_names
        ended: tuple[int, bytes] | None = None
        for looked_count, (ino, name, value, key) in enumerate(rows, 1):
            if key == NO_KEY and is_queryable(name):
                count = self._index_xattr(ino, name, value)
                is_short = is_short or not count
                written_count += count
            if looked_count + written_count >= limit:
                ended = ino, name
                break
        self._database.note_bulk(written_count)
        if ended is None:
            self._take_note(IndexNote(None, is_short))
        else:
            self._take_note(IndexNote(InodeNo(ended[0] - 1), is_short, ended[1]))
        return self.index_progress()

    def _index_xattr(self, ino: int, name: bytes, value: bytes) -> int:
        """Give an xattr its key; returns how many rows were written, 0: there is no room for it."""
        key = self._attributes.take_key(name)
        if key == NO_KEY:
            return 0
        typed = stored_value(value)
        self._write(SET_TYPED, (key, typed, ino, name))
        entries = entries_of(typed)
        if entries:
            self._add_elements(ino, name, key, entries)
        if name in self._texts.notes:
            self._add_text(ino, name)
        return 1 + len(entries)


def _text_name(field: str) -> bytes | None:
    """Return the name of an xattr whose texts can have an index; None: it is no such field."""
    name = attribute_name(field) if field.startswith(ATTRIBUTE_PREFIX) else None
    return name if name is not None and is_queryable(name) else None
