"""Batches: the engine methods for objects that hold the remote forms of many small files.

Invariant: a batch lives exactly as long as a form lies in it; when the last one goes, its object
becomes garbage in the same change.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError
from memfs.metadata.records import Batch, Form, FormReplacement, MoveKind
from memfs.metadata.sqlite.contents import Contents
from memfs.metadata.sqlite.statements import (
    DELETE_INTENT,
    INSERT_BATCH,
    INSERT_INTENT,
    MOVE_FORM,
    SET_BATCH,
)
from memfs.types import BATCH_SEPARATOR, NO_INODE, FormKind, IntentId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import BatchMember

_AFTER_SEPARATOR = chr(ord(BATCH_SEPARATOR) + 1)
_SELECT_FORMS = (
    "select blob, kind, location, codec, stored_bytes from form"
    " where kind = 'remote' and location >= ? and location < ? order by location"
)
_SELECT_SPARSE = (
    "select key, size_bytes, live_count, live_bytes from batch"
    " where live_bytes * 100 < size_bytes * ? order by live_bytes * 1.0 / size_bytes limit ?"
)

# The lists in parentheses are read once for each call; only `garbage` and `intent` are.
_UNREFERENCED = """
    select value from json_each(?)
    where not exists (select 1 from form where kind = ? and location = value)
        and not exists (select 1 from batch where key = value)
        and value not in (select location from garbage where kind = ?)
        and value not in (select location from intent)
"""


class Batches(Contents):
    """Remote forms that share an object."""

    async def begin_batch(self, key: str, now_ns: int) -> IntentId:
        """See `Engine`."""
        self._begin_change()
        intent = IntentId(self._take_id())
        self._write(INSERT_INTENT, (intent, MoveKind.BATCH.value, NO_INODE, 0, key, now_ns))
        return intent

    async def publish_batch(
        self, intent: IntentId, key: str, size_bytes: int, members: Sequence[BatchMember]
    ) -> list[bool]:
        """See `Engine`."""
        self._begin_change()
        for member in members:
            _check_location(member.form, key)
        self._write(DELETE_INTENT, (intent,))
        self._write(INSERT_BATCH, (key, size_bytes, 0, 0))
        published = [
            self._attach_form(self._find_sealed(member.ino, member.generation), *member[2:])
            for member in members
        ]
        self._settle_batch(
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
        """See `Engine`."""
        self._begin_change()
        for replacement in replacements:
            _check_location(replacement.form, key)
        self._write(DELETE_INTENT, (intent,))
        self._write(INSERT_BATCH, (key, size_bytes, 0, 0))
        replaced = [self._replace_form(replacement) for replacement in replacements]
        self._settle_batch(
            key, [each.form for each, yes in zip(replacements, replaced, strict=True) if yes]
        )
        return replaced

    async def replace_form(self, intent: IntentId, replacement: FormReplacement) -> bool:
        """See `Engine`."""
        self._begin_change()
        former, form = replacement
        if former.blob != form.blob or {former.kind, form.kind} != {FormKind.REMOTE}:
            raise InvalidValueError(f"form {form} cannot take the place of {former}")
        self._write(DELETE_INTENT, (intent,))
        if self._replace_form(replacement):
            return True
        self._add_garbage(FormKind.REMOTE, form.location)
        return False

    async def list_sparse_batches(self, live_percent: int, limit: int) -> list[Batch]:
        """See `Engine`."""
        return [Batch._make(row) for row in self._rows(_SELECT_SPARSE, (live_percent, limit))]

    async def list_batched(self, key: str) -> list[Form]:
        """See `Engine`."""
        rows = self._rows(_SELECT_FORMS, (key + BATCH_SEPARATOR, key + _AFTER_SEPARATOR))
        return [Form(row[0], FormKind(row[1]), *row[2:]) for row in rows]

    async def find_unreferenced(self, kind: FormKind, locations: Sequence[str]) -> list[str]:
        """See `Engine`."""
        rows = self._rows(_UNREFERENCED, (json.dumps([*locations]), kind.value, kind.value))
        return [row[0] for row in rows]

    def _replace_form(self, replacement: FormReplacement) -> bool:
        former, form = replacement
        row = self._row(
            "select location from form where blob = ? and kind = 'remote'", (former.blob,)
        )
        if row is None or row[0] != former.location:
            return False
        self._write(MOVE_FORM, (form.location, form.codec, form.stored_bytes, form.blob))
        self._account_form(FormKind.REMOTE, former.stored_bytes, -1)
        self._account_form(FormKind.REMOTE, form.stored_bytes, 1)
        self._release_object(former.location, former.stored_bytes)
        return True

    def _settle_batch(self, key: str, forms: Sequence[Form]) -> None:
        """Give a batch just inserted its counts; one that got no form is gone at once."""
        if not forms:
            self._discard_batch(key)
            return
        live_bytes = sum(form.stored_bytes for form in forms)
        self._write(SET_BATCH, (len(forms), live_bytes, key))


def _check_location(form: Form, key: str) -> None:
    batch_key, separator, offset = form.location.partition(BATCH_SEPARATOR)
    if form.kind != FormKind.REMOTE or batch_key != key or not separator or not offset.isdigit():
        raise InvalidValueError(f"{form.location!r} is no place in the batch {key!r}")
