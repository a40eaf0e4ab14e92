"""Batches: the engine methods for objects that hold the remote forms of many small files.

Invariant: a batch lives exactly as long as a form lies in it; when the last one goes, its object
becomes garbage in the same change.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memfs.addresses import address_of, store_of
from memfs.errors import InvalidValueError
from memfs.metadata.records import (
    Batch,
    Form,
    FormReplacement,
    MoveKind,
    PlacedObject,
    StoredCount,
    StoredUntil,
)
from memfs.metadata.sqlite.contents import Contents, store_sql
from memfs.metadata.sqlite.rows import form_of
from memfs.metadata.sqlite.schema import FORM_COLUMNS
from memfs.metadata.sqlite.statements import (
    DELETE_INTENT,
    INSERT_BATCH,
    INSERT_INTENT,
    SET_BATCH,
)
from memfs.types import NO_INODE, BlobId, FormKind, IntentId, Place

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from memfs.metadata.records import BatchMember

# `owned = 1` is the condition of the partial index; it must stand there literally.
_SELECT_BATCHED = (
    f"select {FORM_COLUMNS} from form where kind = 'remote' and key = ? and owned = 1"
    " and offset is not null order by offset"
)
_SELECT_SPARSE = (
    "select key, size_bytes, live_count, live_bytes from batch"
    " where live_bytes * 100 < size_bytes * ?1"
    f" and (?3 is null or {store_sql('key')} in (select value from json_each(?3)))"
    " order by live_bytes * 1.0 / size_bytes limit ?2"
)
_NEXT_REMOTE = "select min(key) from form where kind = 'remote' and owned = 1 and key >= ?"
_STORED = """
    select key, ifnull(offset, 0), stored_bytes from form
    where kind = 'remote' and owned = 1 and (key, ifnull(offset, 0)) > (?, ?) and key < ?
    order by key, ifnull(offset, 0) limit ?
"""

_PLACED = """
    select key, ifnull((select size_bytes from batch where batch.key = form.key), stored_bytes)
    from form where kind = 'remote' and owned = 1 and key > ? group by key order by key limit ?
"""
_BLOBS_AT = "select blob from form where kind = 'remote' and owned = 1 and key = ? order by blob"

# The lists in parentheses are read once for each call; only `garbage` and `intent` are.
_UNREFERENCED = """
    select value from json_each(?)
    where not exists (select 1 from form where kind = ? and key = value and owned = 1)
        and not exists (select 1 from form where store = '' and key = value and owned = 0)
        and not exists (select 1 from batch where key = value)
        and value not in (select location from garbage where kind = ?)
        and value not in (select location from intent)
"""


class Batches(Contents):
    """Remote forms that share an object."""

    async def begin_batch(self, key: str, now_ns: int) -> IntentId:
        self._begin_change()
        intent = IntentId(self._take_id())
        self._write(INSERT_INTENT, (intent, MoveKind.BATCH.value, NO_INODE, 0, key, now_ns))
        return intent

    async def publish_batch(
        self, intent: IntentId, key: str, size_bytes: int, members: Sequence[BatchMember]
    ) -> list[bool]:
        self._begin_change()
        for member in members:
            _check_place(member.form, key)
        self._write(DELETE_INTENT, (intent,))
        self._write(INSERT_BATCH, (key, size_bytes, 0, 0))
        published = [
            self._attach_form(self._find_sealed(member.ino, member.generation), *member[2:])
            for member in members
        ]
        self._count_batch(
            key, [member.form for member, yes in zip(members, published, strict=True) if yes]
        )
        return published

    async def replace_batched(
        self,
        intent: IntentId,
        key: str,
        size_bytes: int,
        replacements: Sequence[FormReplacement],
    ) -> list[bool]:
        self._begin_change()
        for replacement in replacements:
            _check_owned(replacement)
            _check_place(replacement.form, key)
        self._write(DELETE_INTENT, (intent,))
        self._write(INSERT_BATCH, (key, size_bytes, 0, 0))
        replaced = [self._replace_form(replacement) for replacement in replacements]
        self._count_batch(
            key, [each.form for each, yes in zip(replacements, replaced, strict=True) if yes]
        )
        return replaced

    async def replace_form(self, intent: IntentId, replacement: FormReplacement) -> bool:
        self._begin_change()
        former, form = replacement
        _check_owned(replacement)
        if form.place.offset is not None:
            raise InvalidValueError(f"form {form} cannot take the place of {former}")
        self._write(DELETE_INTENT, (intent,))
        if self._replace_form(replacement):
            return True
        self._release_place(form)
        return False

    async def list_sparse_batches(
        self, live_percent: int, limit: int, stores: Collection[str] | None = None
    ) -> list[Batch]:
        chosen = None if stores is None else json.dumps([*stores])
        rows = self._rows(_SELECT_SPARSE, (live_percent, limit, chosen))
        return [Batch._make(row) for row in rows]

    async def list_stores(self) -> list[str]:
        found, key = [], ""
        while (row := self._row(_NEXT_REMOTE, (key,))) is not None and row[0] is not None:
            if store := store_of(row[0]):
                found.append(store)
                key = _end_of(store)
            else:
                # All keys of the default store that begin with the same directory are passed over.
                head, slash, _ = str(row[0]).partition("/")
                key = f"{head}0" if slash else f"{head}\0"
        return found

    async def list_placed(self, after: str, limit: int) -> list[PlacedObject]:
        return [PlacedObject._make(row) for row in self._rows(_PLACED, (after, limit))]

    async def list_blobs_at(self, key: str) -> list[BlobId]:
        return [BlobId(row[0]) for row in self._rows(_BLOBS_AT, (key,))]

    async def count_stored(self, store: str, after: StoredUntil | None, limit: int) -> StoredCount:
        begin = after or StoredUntil(address_of(store, ""), -1)
        rows = self._rows(_STORED, (*begin, _end_of(store), limit))
        until = StoredUntil(*rows[-1][:2]) if len(rows) == limit else None
        return StoredCount(len(rows), sum(row[2] for row in rows), until)

    async def list_batched(self, key: str) -> list[Form]:
        return [form_of(row) for row in self._rows(_SELECT_BATCHED, (key,))]

    async def find_unreferenced(self, kind: FormKind, locations: Sequence[str]) -> list[str]:
        rows = self._rows(_UNREFERENCED, (json.dumps([*locations]), kind.value, kind.value))
        return [row[0] for row in rows]

    def _replace_form(self, replacement: FormReplacement) -> bool:
        former, form = replacement
        present = self._form(former.blob, former.kind)
        if present is None or present.place != former.place:
            return False
        self._discard_form(present)
        self._insert_form(form)
        return True

    def _count_batch(self, key: str, forms: Sequence[Form]) -> None:
        """Give a batch just inserted its counts; one that got no form is gone at once."""
        if not forms:
            self._discard_batch(key)
            return
        live_bytes = sum(form.stored_bytes for form in forms)
        self._write(SET_BATCH, (len(forms), live_bytes, key))


def _end_of(store: str) -> str:
    """Return what follows all addresses of a store: `;` comes after `:`."""
    return f"{store};"


def _check_place(form: Form, key: str) -> None:
    place = form.place
    if form.kind != FormKind.REMOTE or not form.owned or place != Place(key, place.offset):
        raise InvalidValueError(f"{place} is no place in the batch {key!r}")
    if place.offset is None or place.offset < 0:
        raise InvalidValueError(f"{place} is no place in the batch {key!r}")


def _check_owned(replacement: FormReplacement) -> None:
    """See that both forms are memfs's own, and of one content."""
    former, form = replacement
    if not (former.owned and form.owned):
        raise InvalidValueError(f"{former.place}: what memfs does not own is never moved")
    if former.blob != form.blob or former.kind != form.kind or former.kind == FormKind.RAW:
        raise InvalidValueError(f"form {form} cannot take the place of {former}")
