"""Contents: the engine methods that change which raw file and which forms an inode has.

Invariant: a sealed file that is not empty keeps a raw file or a form through every change; what is
detached becomes garbage in the same change, so that no file or object is ever forgotten.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError, NotFoundError
from memfs.metadata.records import Blob, Form, GarbageItem, Inode, Seal
from memfs.metadata.sqlite.attributes import Attributes
from memfs.metadata.sqlite.rows import (
    DURABLE,
    GARBAGE_COUNT,
    KEPT_COLUMNS,
    SELECT_FORMS,
    SELECT_KEPT,
    UNSEALED,
    form_of,
    is_regular,
    kept_of,
)
from memfs.metadata.sqlite.schema import INODE_COLUMNS
from memfs.metadata.sqlite.statements import (
    DELETE_BLOB,
    DELETE_GARBAGE,
    DELETE_INTENT,
    FORGET_BLOB,
    INSERT_BLOB,
    SEAL,
    SET_BLOB,
    SET_DURABLE,
    SET_PACKED,
    SET_RAW,
    UNSEAL,
)
from memfs.types import (
    NO_BLOB,
    NO_RAW,
    NOW,
    OWN_STORE,
    BlobId,
    FormKind,
    Generation,
    InodeNo,
    IntentId,
    RawId,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from memfs.metadata.records import KeptContent


def store_sql(address: str) -> str:
    """Return an expression for the store of an address (`memfs.addresses`)."""
    return f"substr({address}, 1, max(instr({address}, ':') - 1, 0))"


_LIST_GARBAGE = (
    "select item, kind, location from garbage where kind <> 'remote' or (item < ?1"
    f" and (?2 is null or {store_sql('location')} in (select value from json_each(?2))))"
    " order by item limit ?3"
)

# `raw <> 0 and flags <> 2` is the condition of the partial index; it must stand there literally.
_LIST_UNSEALED = (
    f"select {INODE_COLUMNS} from inode where raw <> 0 and flags <> 2 and flags = 1 and ino > ?"
    " order by ino limit ?"
)
_LIST_KEPT = (
    f"select {KEPT_COLUMNS} from kept where (ino, generation) > (?, ?)"
    " order by ino, generation limit ?"
)
_LIST_KEEPERS = (
    f"select {KEPT_COLUMNS} from kept where blob = ? and blob <> 0 order by ino, generation limit ?"
)
# `blob <> 0` is the condition of the partial indexes; it must stand there literally.
_LIST_KEPT_BLOBS = f"""
    select {KEPT_COLUMNS} from kept as k where blob > ? and blob <> 0
        and not exists (
            select 1 from inode as i where i.blob = k.blob and i.blob <> 0 and i.nlink > 0)
        and not exists (
            select 1 from kept as w where w.blob = k.blob and w.blob <> 0
                and (w.ino, w.generation) < (k.ino, k.generation))
    order by blob limit ?
"""
_LIST_NOT_DURABLE = (
    f"select {INODE_COLUMNS} from inode where raw <> 0 and flags <> 2 and flags = 0"
    " order by ino limit ?"
)
_NEEDS_FORM = """
    select 1 from inode as i where blob = ? and blob <> 0 and raw = 0 and not exists (
        select 1 from foreign_object as o where o.ino = i.ino and o.generation = i.generation)
    limit 1
"""
# `blob <> 0` is the condition of the partial index; it must stand there literally.
_LIST_SHARERS = (
    f"select {INODE_COLUMNS} from inode where blob = ? and blob <> 0 order by ino limit ?"
)


class Contents(Attributes):
    """Raw files, blobs and forms."""

    async def unseal(
        self,
        ino: InodeNo,
        raw: RawId,
        generation: Generation | None = None,
        *,
        overwritten: bool = False,
    ) -> Inode:
        self._begin_change()
        inode = self._inode(ino)
        if not is_regular(inode) or raw == NO_RAW:
            raise InvalidValueError(f"inode {ino} cannot be written in raw file {raw}")
        if inode.flags & UNSEALED and inode.raw == raw:
            return inode
        if generation is not None and inode.generation != generation:
            return inode
        if not overwritten:
            self._require_thawed(inode)
        stays = inode.raw == raw
        needed = self._needed(inode)
        if stays and not inode.blob and not overwritten and needed and not self._stands(inode):
            return inode
        after = inode._replace(
            generation=Generation(inode.generation + 1), raw=raw, blob=NO_BLOB, flags=UNSEALED
        )
        if inode.blob:
            self._write(SET_BLOB, (0, 0, ino))
        # The raw file of what stays will not be what it was.
        lost = inode._replace(raw=NO_RAW) if stays else inode
        kept = self._let_go_unless_kept(lost, needed=needed)
        self._save_inode(ino)
        self._write(UNSEAL, (after.generation, raw, ino))
        self._replace(inode, after)
        if not kept:
            self._let_go_copy(inode)
        return after

    async def needs_copy(self, ino: InodeNo) -> bool:
        inode = self._inode(ino)
        if inode.flags & UNSEALED or inode.blob or not inode.raw:
            return False
        return self._needed(inode) and not self._stands(inode)

    async def keep_copy(
        self, ino: InodeNo, generation: Generation, raw: RawId, intent: IntentId
    ) -> bool:
        self._begin_change()
        self._write(DELETE_INTENT, (intent,))
        inode = self._find_sealed(ino, generation)
        if inode is None or inode.blob or not self._needed(inode):
            self._discard_raw(raw)
            return False
        self._keep(inode, raw)
        return True

    async def list_kept(self, after: tuple[InodeNo, Generation], limit: int) -> list[KeptContent]:
        rows = self._rows(_LIST_KEPT, (*after, limit))
        return [kept_of(row) for row in rows]

    async def list_keepers(self, blob: BlobId, limit: int) -> list[KeptContent]:
        return [kept_of(row) for row in self._rows(_LIST_KEEPERS, (blob, limit))]

    async def list_kept_blobs(self, after: BlobId, limit: int) -> list[KeptContent]:
        return [kept_of(row) for row in self._rows(_LIST_KEPT_BLOBS, (after, limit))]

    async def seal(self, seals: Sequence[Seal]) -> None:
        self._begin_change()
        for ino, generation, size, blocks, atime_ns, mtime_ns, ctime_ns in seals:
            inode = self._find_inode(ino)
            if inode is None or inode.generation != generation or not inode.flags & UNSEALED:
                continue
            self._save_inode(ino)
            self._write(SEAL, (size, blocks, atime_ns, mtime_ns, ctime_ns, ino))
            after = Inode._make(
                (
                    *inode[:6],
                    size,
                    blocks,
                    atime_ns,
                    mtime_ns,
                    ctime_ns,
                    *inode[11:15],
                    0,
                    *inode[16:],
                )
            )
            self._replace(inode, after)

    async def list_unsealed(self, after: InodeNo, limit: int) -> list[Inode]:
        inodes = [Inode._make(row) for row in self._rows(_LIST_UNSEALED, (after, limit))]
        for inode in inodes:
            # Most of them are sealed next.
            self._cache.put(inode)
        return inodes

    async def mark_durable(self, files: Sequence[tuple[InodeNo, Generation]]) -> None:
        self._begin_change()
        for ino, generation in files:
            inode = self._find_sealed(ino, generation)
            if inode is not None and inode.raw and not inode.flags & DURABLE:
                self._write(SET_DURABLE, (ino,))
                self._cache.put(inode._replace(flags=DURABLE))

    def _find_sealed(self, ino: InodeNo, generation: Generation) -> Inode | None:
        """Return the inode if it is a sealed regular file of that generation."""
        inode = self._find_inode(ino)
        if inode is None or inode.generation != generation or inode.flags & UNSEALED:
            return None
        return inode if is_regular(inode) else None

    async def list_not_durable(self, limit: int) -> list[Inode]:
        return [Inode._make(row) for row in self._rows(_LIST_NOT_DURABLE, (limit,))]

    # --- blobs and forms -------------------------------------------------------------------------
    async def get_blob(self, blob: BlobId) -> Blob:
        row = self._row("select blob, size, digest from blob where blob = ?", (blob,))
        if row is None:
            raise NotFoundError(f"no blob {blob}")
        return Blob._make(row)

    async def list_forms(self, blob: BlobId) -> list[Form]:
        return [form_of(row) for row in self._rows(SELECT_FORMS, (blob,))]

    async def list_sharers(self, blob: BlobId, limit: int) -> list[Inode]:
        return [Inode._make(row) for row in self._rows(_LIST_SHARERS, (blob, limit))]

    async def share_blob(self, ino: InodeNo, generation: Generation, blob: BlobId) -> bool:
        self._begin_change(grows=True)
        inode = self._find_sealed(ino, generation)
        if inode is None or inode.raw or inode.blob:
            return False
        if self._row("select 1 from blob where blob = ?", (blob,)) is None:
            return False
        packed = self._form(blob, FormKind.PACKED) is not None
        self._write(SET_BLOB, (blob, int(packed), ino))
        self._cache.put(inode._replace(blob=blob))
        return True

    async def publish_form(
        self,
        ino: InodeNo,
        generation: Generation,
        blob: Blob,
        form: Form,
        intent: IntentId | None,
    ) -> bool:
        self._begin_change()
        if form.kind == FormKind.RAW or form.blob != blob.blob:
            raise InvalidValueError(f"form {form} is not one of blob {blob.blob}")
        if form.owned != (intent is not None):
            raise InvalidValueError(f"form {form} must have an intent exactly if memfs wrote it")
        _check_owner(form)
        self._check_not_leaving(form)
        if intent is not None:
            self._write(DELETE_INTENT, (intent,))
        inode = self._find_sealed(ino, generation)
        if self._attach_form(inode, blob, form):
            return True
        former = self._form(blob.blob, form.kind)
        if form.owned and (former is None or former.place != form.place):
            self._add_garbage(form.kind, form.place.key)
        return False

    def _check_not_leaving(self, form: Form) -> None:
        """See that nobody adopts an object that memfs is about to remove."""
        if form.owned or form.place.store != OWN_STORE:
            return
        query = "select 1 from garbage where kind = 'remote' and location = ?"
        if self._row(query, (form.place.key,)):
            raise InvalidValueError(f"{form.place}: memfs is removing it; adopt what is left later")

    def _attach_form(self, inode: Inode | None, blob: Blob, form: Form) -> bool:
        """Give a sealed inode a verified form; False if it has moved on or has one of that kind."""
        former = self._form(blob.blob, form.kind)
        if former is not None and former.place == form.place:
            return inode is not None and inode.blob == blob.blob
        if inode is None or inode.blob not in (NO_BLOB, blob.blob) or former is not None:
            return False
        if self._row("select 1 from blob where blob = ?", (blob.blob,)) is None:
            self._write(INSERT_BLOB, (blob.blob, blob.size, bytes(blob.digest)))
        self._insert_form(form)
        if form.kind == FormKind.PACKED:
            self._write(SET_PACKED, (1, blob.blob))
        if inode.blob == NO_BLOB:
            packed = self._form(blob.blob, FormKind.PACKED) is not None
            self._write(SET_BLOB, (blob.blob, int(packed), inode.ino))
            self._cache.put(inode._replace(blob=blob.blob))
        return True

    async def publish_raw(
        self,
        ino: InodeNo,
        generation: Generation,
        raw: RawId,
        blocks: int,
        intent: IntentId,
        *,
        durable: bool = False,
    ) -> Inode | None:
        self._begin_change()
        self._write(DELETE_INTENT, (intent,))
        inode = self._find_sealed(ino, generation)
        if inode is None or inode.raw:
            if inode is None or inode.raw != raw:
                self._discard_raw(raw)
                return None
            return inode
        self._write(SET_RAW, (raw, blocks, ino))
        if durable:
            self._write(SET_DURABLE, (ino,))
        flags = DURABLE if durable else 0
        after = inode._replace(raw=raw, blocks=blocks, flags=flags)
        self._replace(inode, after)
        return after

    async def drop_raw(
        self, ino: InodeNo, generation: Generation, raw: RawId | None = None
    ) -> bool:
        self._begin_change()
        inode = self._find_sealed(ino, generation)
        if inode is None or not inode.raw:
            return False
        if raw is not None and inode.raw != raw:
            return False
        if not self._has_form(inode) and not self._stands(inode):
            return False
        self._write(SET_RAW, (0, inode.blocks, ino))
        self._discard_raw(inode.raw)
        self._replace(inode, inode._replace(raw=NO_RAW, flags=0))
        return True

    def _has_form(self, inode: Inode) -> bool:
        query = "select 1 from form where blob = ? limit 1"
        return bool(inode.blob) and self._row(query, (inode.blob,)) is not None

    async def drop_form(self, ino: InodeNo, generation: Generation, kind: FormKind) -> bool:
        self._begin_change()
        inode = self._find_sealed(ino, generation)
        # What only snapshots show has its blob there.
        kept = self._row(SELECT_KEPT, (ino, generation)) if inode is None else None
        blob = inode.blob if inode is not None else kept_of(kept).blob if kept else NO_BLOB
        if not blob or (form := self._form(blob, kind)) is None:
            return False
        if self._row("select 1 from form where blob = ? and kind <> ?", (blob, kind.value)):
            self._discard_form(form)
            if kind == FormKind.PACKED:
                self._write(SET_PACKED, (0, blob))
            return True
        # The last form: every inode that shares the blob needs a raw file of its own, or a foreign
        # object, and what snapshots show by it lacks one.
        if self._row("select 1 from kept where blob = ? and blob <> 0", (blob,)):
            return False
        if self._row(_NEEDS_FORM, (blob,)):
            return False
        sharers = self._rows("select ino from inode where blob = ? and blob <> 0", (blob,))
        self._discard_form(form)
        self._write(FORGET_BLOB, (blob,))
        self._write(DELETE_BLOB, (blob,))
        for (sharer,) in sharers:
            self._cache.forget(sharer)
        return True

    # --- garbage ---------------------------------------------------------------------------------
    async def list_garbage(
        self,
        limit: int,
        *,
        remote: bool = True,
        held_from: int | None = None,
        stores: Collection[str] | None = None,
    ) -> list[GarbageItem]:
        until = (NOW if held_from is None else held_from) if remote else 0
        chosen = None if stores is None else json.dumps([*stores])
        rows = self._rows(_LIST_GARBAGE, (until, chosen, limit))
        return [GarbageItem(item, FormKind(kind), location) for item, kind, location in rows]

    async def count_held(self, held_from: int) -> int:
        query = "select count(*) from garbage where kind = 'remote' and item >= ?"
        ((count,),) = self._rows(query, (held_from,))
        return int(count)

    async def last_garbage(self) -> int:
        ((item,),) = self._rows("select coalesce(max(item), 0) from garbage")
        return int(item)

    async def clear_garbage(self, items: Sequence[int]) -> None:
        self._begin_change()
        for item in items:
            if self._row("select 1 from garbage where item = ?", (item,)):
                self._write(DELETE_GARBAGE, (item,))
                self._totals[GARBAGE_COUNT] -= 1


def _check_owner(form: Form) -> None:
    """See that nobody takes what memfs has not written for its own, nor the other way round."""
    place = form.place
    if form.owned and (place.store != OWN_STORE or place.etag or place.version):
        raise InvalidValueError(f"{place}: memfs owns nothing in another store than its own")
    if not form.owned and (form.kind != FormKind.REMOTE or place.offset is not None):
        raise InvalidValueError(f"{place}: only whole objects are adopted")
