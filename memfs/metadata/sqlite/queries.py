"""Queries: the engine methods that find files by their attributes, and keep the index of these.

Invariant: an answer is complete or refused: while xattrs may be missing in the index, so is it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from memfs.errors import NotSupportedError
from memfs.metadata.records import (
    EVERYTHING,
    FileOrder,
    FilePage,
    FilePosition,
    FoundInode,
    IndexProgress,
    Scope,
)
from memfs.metadata.sqlite.attribute_index import NO_KEY
from memfs.metadata.sqlite.finding import has_steps_without_end
from memfs.metadata.sqlite.settings import Settings
from memfs.metadata.sqlite.statements import SET_TYPED
from memfs.query.fields import SYSTEM_FIELDS, is_queryable
from memfs.query.filters import Node, fields_of
from memfs.query.values import stored_value
from memfs.types import ROOT_INODE, InodeNo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.sqlite.attribute_index import IndexNote
    from memfs.metadata.sqlite.database import Row
    from memfs.metadata.sqlite.statements import SqlValue

# Names of memfs's own lie between: they have no key, and are passed over.
_LIST_XATTRS = "select ino, name, value, key from xattr where ino > ? order by ino, name limit ?"
_COUNT_NAMED = """
    select count(*) from json_each(?) as asked
    where asked.value = ? or exists (select 1 from dentry where dentry.ino = asked.value)
"""
_XATTRS_OF = "select ino, name, value, key from xattr where ino = ?"


class Queries(Settings):
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

        keys = self._attributes.keys
        return self._finder.page(node, order, after, limit, keys, search, scope)

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
        if not index.enabled:
            raise NotSupportedError(
                "xattrs are not indexed on this mount: set query.enabled, and mount again"
            )
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
        row = self._row("select max(ino) from inode")
        last = InodeNo(0 if row is None else row[0])
        note = index.note
        return IndexProgress(
            index.enabled and note.is_whole,
            last if note.through is None else note.through,
            last,
            len(index.keys),
            note.is_short_of_names,
        )

    async def index_attributes(self, limit: int) -> IndexProgress:
        index = self._attributes
        note = index.note
        if not index.enabled:
            return self.index_progress()
        if note.is_whole and note.is_short_of_names and not index.is_full:
            # There is room for more names since.
            note = note._replace(through=InodeNo(0), is_short_of_names=False)
        if note.through is None:
            return self.index_progress()
        self._begin_change()
        rows = self._rows(_LIST_XATTRS, (note.through, limit))
        through: InodeNo | None = None
        if len(rows) == limit:
            # The last inode may have more xattrs, which the next step would pass over.
            through = InodeNo(rows[-1][0] - 1)
            if rows[0][0] == rows[-1][0]:
                through = InodeNo(rows[-1][0])
                rows = self._rows(_XATTRS_OF, (through,))
            else:
                rows = [row for row in rows if row[0] <= through]
        for ino, name, value, key in rows:
            if key == NO_KEY:
                note = self._index_xattr(note, ino, name, value)
        self._take_note(note._replace(through=through))
        return self.index_progress()

    def _index_xattr(self, note: IndexNote, ino: int, name: bytes, value: bytes) -> IndexNote:
        """Give an xattr its key, if it gets one; returns the note with what came of it."""
        if not is_queryable(name):
            return note
        key = self._attributes.take_key(name)
        if key == NO_KEY:
            return note._replace(is_short_of_names=True)
        self._write(SET_TYPED, (key, stored_value(value), ino, name))
        return note
