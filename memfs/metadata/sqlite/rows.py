"""Rows: what every group of engine methods does with inodes, contents and totals.

Invariant: a change of an inode's row goes with the same change of the cache and of the totals.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

from memfs.errors import MetadataError, NotADirectoryInodeError, StaleInodeError
from memfs.metadata.records import Form, Inode, InodeFlags, KeptContent
from memfs.metadata.sqlite.attribute_index import NO_KEY, NOT_BEGUN, NOTE_NAME
from memfs.metadata.sqlite.change import Change
from memfs.metadata.sqlite.element_index import MAY_BE_ARRAY, entries_of
from memfs.metadata.sqlite.finding import Finder
from memfs.metadata.sqlite.left_out import LeftOut
from memfs.metadata.sqlite.schema import FORM_COLUMNS, INODE_COLUMNS, TOTALS_END
from memfs.metadata.sqlite.statements import (
    DELETE_BATCH,
    DELETE_BLOB,
    DELETE_DIRECTORY,
    DELETE_ELEMENT,
    DELETE_FORM,
    DELETE_KEPT,
    DELETE_SETTING,
    DELETE_XATTR,
    INSERT_ELEMENT,
    INSERT_FORM,
    INSERT_GARBAGE,
    INSERT_KEPT,
    PUT_GONE,
    PUT_SETTING,
    PUT_TEXT_XATTR,
    PUT_TYPED_XATTR,
    PUT_XATTR,
    RETIRE_OBJECT,
    SAVE_DENTRY,
    SAVE_INODE,
    SAVE_TARGET,
    SAVE_XATTR,
    SAVE_XATTRS,
    SET_BATCH,
    SET_LINKS,
    SET_TIMES,
    TEXT_STATEMENTS,
)
from memfs.policy.marks import MARKED_SETTING, SNAPSHOT_XATTR
from memfs.query.fields import is_queryable
from memfs.query.values import is_plain_text, stored_value
from memfs.types import (
    BLOCK_BYTES,
    NO_RAW,
    OWN_STORE,
    ROOT_INODE,
    BlobId,
    FormCoding,
    FormKind,
    InodeNo,
    Layout,
    Place,
    RawId,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memfs.metadata.sqlite.attribute_index import AttributeIndex, IndexNote
    from memfs.metadata.sqlite.database import Database, Savepoint
    from memfs.metadata.sqlite.field_index import FieldIndexes
    from memfs.metadata.sqlite.inode_cache import InodeCache
    from memfs.metadata.sqlite.lease import IdLease
    from memfs.metadata.sqlite.statements import SqlValue
    from memfs.types import StateId

UNSEALED, DURABLE = InodeFlags.UNSEALED, InodeFlags.DURABLE

(
    INODE_COUNT,
    LOGICAL_BYTES,
    RAW_COUNT,
    RAW_BYTES,
    PACKED_COUNT,
    PACKED_BYTES,
    REMOTE_COUNT,
    REMOTE_BYTES,
    GARBAGE_COUNT,
) = range(9)
"""Positions in `Database.totals`, which are those of `records.Usage`."""

_COUNT_OF_KIND = {FormKind.PACKED: PACKED_COUNT, FormKind.REMOTE: REMOTE_COUNT}

_ROOT_UID = 0
_BLOB_IN_USE = """
    select 1 from inode where blob = ? and blob <> 0
    union all select 1 from kept where blob = ? and blob <> 0 limit 1
"""
KEPT_COLUMNS = ", ".join(KeptContent._fields)
SELECT_KEPT = f"select {KEPT_COLUMNS} from kept where ino = ? and generation = ?"
SELECT_XATTR = "select value from xattr where ino = ? and name = ?"
_SELECT_TYPED = "select typed from xattr where ino = ? and name = ? and key <> 0"
_SELECT_ARRAYS = f"""
    select key, typed from xattr where ino = ? and key <> 0 and {MAY_BE_ARRAY.format("typed")}
"""
_HEAD = "select snap, exists (select 1 from snapshot as s where s.snap > head.snap) from head"
_IS_KEPT = "select 1 from kept where ino = ? and generation = ?"
_SHOWING = """
    select exists (select 1 from inode_was where ino = ?1 and generation = ?2 and nlink > 0),
        exists (select 1 from inode_was where ino = ?1 and snap >= ?3)
"""
_HAS_XATTRS = "select 1 from xattr where ino = ? limit 1"
_UNSHOWN = f"""
    select {KEPT_COLUMNS} from kept as k where ino in (select value from json_each(?))
    and not exists (select 1 from inode_was as w
        where w.ino = k.ino and w.generation = k.generation and w.nlink > 0)
    and not exists (select 1 from inode as i
        where i.ino = k.ino and i.generation = k.generation and exists (select 1 from head))
    order by ino, generation
"""
SELECT_INODE = f"select {INODE_COLUMNS} from inode where ino = ?"


_SELECT_ADOPTED = "select 1 from form where owned = 0 and store = ? and key = ?"
SELECT_STANDING = "select 1 from foreign_object where ino = ? and generation = ?"
_SELECT_CURRENT = "select source, key from foreign_object where ino = ? and current = 1"
# The last one is LISTED or UNLISTED of `source_tallies`.
_SELECT_PREFIX = "select source, prefix, listed_ns = 0 from foreign_directory where ino = ?"
SELECT_FORM = f"select {FORM_COLUMNS} from form where blob = ? and kind = ?"
SELECT_FORMS = f"select {FORM_COLUMNS} from form where blob = ? order by kind"


def form_of(row: tuple[Any, ...]) -> Form:
    """Return the record of a row with `FORM_COLUMNS`."""
    blob, kind, store, key, offset, etag, version, stored_bytes, layout, *coding, owned = row
    return Form(
        blob,
        FormKind(kind),
        Place(key, offset, store, etag, version),
        FormCoding(*coding),
        stored_bytes,
        Layout(layout),
        owned=owned == 1,
    )


def row_of(form: Form) -> tuple[SqlValue, ...]:
    """Return the row of a form, `FORM_COLUMNS`."""
    key, offset, store, etag, version = form.place
    return (
        form.blob,
        form.kind.value,
        store,
        key,
        offset,
        etag,
        version,
        form.stored_bytes,
        form.layout.value,
        *form.coding,
        int(form.owned),
    )


def is_directory(inode: Inode) -> bool:
    """Tell a directory by its mode."""
    return inode[1] & 0o170000 == stat.S_IFDIR


def is_regular(inode: Inode) -> bool:
    """Tell a regular file by its mode."""
    return inode[1] & 0o170000 == stat.S_IFREG


def rules(above: Inode, inode: Inode) -> bool:
    """Return whether what is set on a directory holds for an inode below: by its own user or root.

    In a directory that all may write to, its owner would else send others' files to the store.
    """
    return above.uid in (_ROOT_UID, inode.uid) or above.ino == inode.ino


def with_links(inode: Inode, nlink: int, mtime_ns: int, ctime_ns: int) -> Inode:
    """Return the inode with these; a quarter of the time of `_replace`."""
    return tuple.__new__(Inode, (*inode[:4], nlink, *inode[5:9], mtime_ns, ctime_ns, *inode[11:]))


def kept_of(row: tuple[Any, ...]) -> KeptContent:
    """Return the record of a row of `KEPT_COLUMNS`."""
    return KeptContent._make((*row[:-1], bool(row[-1])))


class Rows:
    """The tables with their cache; the groups of engine methods inherit it."""

    def __init__(
        self,
        database: Database,
        lease: IdLease,
        cache: InodeCache,
        state_id: StateId,
        attributes: AttributeIndex,
        fields: FieldIndexes,
    ) -> None:
        self._database = database
        self._lease = lease
        self._cache = cache
        self._state_id = state_id
        self._attributes = attributes
        self._elements = attributes.elements
        self._texts = attributes.texts
        self._fields = fields
        self._finder = Finder(database.connection)
        self._row = database.row
        self._rows = database.rows
        self._write = database.write
        self._begin_change = database.begin_change
        savepoints: list[Savepoint] = []
        self._changes = Change(database, savepoints, commits=True)
        self._deferred_changes = Change(database, savepoints, commits=False)
        self._totals = database.totals
        self._left_out = LeftOut(database, cache)

    def _take_id(self) -> int:
        if self._lease.is_spent:
            # Durable first: what older ids were used for is not looked at after a crash any more.
            self._database.sync()
            try:
                self._lease.renew()
            except OSError as error:
                self._database.undo(error)
        return self._lease.take()

    def _newest_snapshot(self) -> int:
        """Return the number of the newest snapshot; 0: there is no snapshot."""
        newest = self._cache.newest_snapshot
        if newest is None:
            newest, newer_leaves = self._row(_HEAD) or (0, False)
            self._cache.newest_snapshot, self._cache.newer_leaves = newest, bool(newer_leaves)
        return newest

    # --- inodes ----------------------------------------------------------------------------------
    def _inode(self, ino: int) -> Inode:
        inode = self._cache.get(ino)
        return inode if inode is not None else self._load_inode(ino)

    def _load_inode(self, ino: int) -> Inode:
        inode = self._find_inode(ino)
        if inode is None:
            raise StaleInodeError(f"inode {ino} does not exist")
        return inode

    def _find_inode(self, ino: int) -> Inode | None:
        inode = self._cache.get(ino)
        if inode is None:
            row = self._row(SELECT_INODE, (ino,))
            if row is not None:
                inode = Inode._make(row)
                self._cache.put(inode)
        return inode

    def _directory(self, ino: InodeNo) -> Inode:
        inode = self._cache.get(ino)
        if inode is None:
            inode = self._load_inode(ino)
        if inode[1] & 0o170000 != stat.S_IFDIR:
            raise NotADirectoryInodeError(f"inode {ino} is not a directory")
        return inode

    # --- places ----------------------------------------------------------------------------------
    def _parent(self, ino: int) -> InodeNo:
        row = self._row("select parent from dentry where ino = ? limit 1", (ino,))
        return ROOT_INODE if row is None else InodeNo(row[0])

    def _path(self, ino: int) -> bytes:
        names: list[bytes] = []
        while ino != ROOT_INODE:
            row = self._row("select parent, name from dentry where ino = ? limit 1", (ino,))
            if row is None:
                orphan = b"<inode %d>" % ino
                return b"/".join([orphan, *reversed(names)])
            names.append(row[1])
            ino = row[0]
        return b"/" + b"/".join(reversed(names))

    # --- changing inodes -------------------------------------------------------------------------
    def _set_links(self, inode: Inode, nlink: int, mtime_ns: int, ctime_ns: int) -> Inode:
        """Store link count and times, and return the inode after it."""
        same_times = mtime_ns == inode.mtime_ns and ctime_ns == inode.ctime_ns
        if same_times and nlink == inode.nlink and inode.ino in self._cache.touched:
            # A directory that changes often: the clock has a grain of milliseconds.
            return inode
        is_saved = self._save_inode(inode.ino)
        if nlink == inode.nlink:
            self._write(SET_TIMES, (mtime_ns, ctime_ns, inode.ino))
        else:
            self._write(SET_LINKS, (nlink, mtime_ns, ctime_ns, inode.ino))
            if is_saved and inode.nlink:
                self._cache.shown[inode.ino] = inode.generation
        changed = with_links(inode, nlink, mtime_ns, ctime_ns)
        self._cache.put(changed)
        return changed

    def _account(self, inode: Inode, sign: int) -> None:
        """Add (1) or take away (-1) an inode's share of the totals."""
        totals = self._totals
        totals[INODE_COUNT] += sign
        if is_regular(inode):
            if not inode.flags & UNSEALED:
                totals[LOGICAL_BYTES] = (totals[LOGICAL_BYTES] + sign * inode.size) % TOTALS_END
            if inode.raw:
                totals[RAW_COUNT] += sign
                totals[RAW_BYTES] += sign * inode.blocks * BLOCK_BYTES

    def _replace(self, before: Inode, after: Inode) -> Inode:
        """Follow a stored change of an inode in cache and totals."""
        self._account(before, -1)
        self._account(after, 1)
        self._cache.put(after)
        return after

    # --- xattrs ----------------------------------------------------------------------------------
    def _put_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Set an xattr, which the newest snapshot knows as it was."""
        self._save_xattr(ino, name)
        if name == SNAPSHOT_XATTR and not self._cache.may_be_marked:
            self._write(PUT_SETTING, (MARKED_SETTING, b"1"))
            self._cache.may_be_marked = True
        self._store_xattr(ino, name, value)

    def _store_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Store an xattr, in the index too if filters can ask for it."""
        index = self._attributes
        key = index.take_key(name) if index.enabled else NO_KEY
        if value[:1] == b"[" or name in self._elements.names:
            self._put_elements(ino, name, key, value)
        has_text = name in self._texts.notes
        if has_text:
            self._delete_text(ino, name)
        if key:
            if is_plain_text(value):
                # Most are, which the journal need not have twice.
                self._write(PUT_TEXT_XATTR, (ino, name, value, key))
            else:
                typed = stored_value(value)
                self._write(PUT_TYPED_XATTR, (ino, name, value, key, typed))
            if has_text:
                self._add_text(ino, name)
            return
        if index.enabled:
            if index.is_full and is_queryable(name):
                self._take_note(index.note._replace(is_short_of_names=True))
        elif index.note != NOT_BEGUN and is_queryable(name):
            self._take_note(NOT_BEGUN)
        self._write(PUT_XATTR, (ino, name, value))

    def _delete_xattr(self, ino: int, name: bytes) -> None:
        self._save_xattr(ino, name)
        self._forget_xattr(ino, name)

    def _forget_xattr(self, ino: int, name: bytes) -> None:
        """Remove an xattr with its entries in indexes."""
        if name in self._elements.names:
            self._put_elements(ino, name, NO_KEY, b"")
        if name in self._texts.notes:
            self._delete_text(ino, name)
        self._write(DELETE_XATTR, (ino, name))

    def _put_elements(self, ino: int, name: bytes, key: int, value: bytes) -> None:
        """Give an xattr the entries of a value that it is about to get.

        Args:
            key: That of the name; `NO_KEY`: the xattr is to have no entries.
        """
        row = self._row(_SELECT_TYPED, (ino, name))
        before = set() if row is None else {*entries_of(row[0])}
        after = entries_of(stored_value(value)) if key else ()
        for entry in before.difference(after):
            self._write(DELETE_ELEMENT, (self._attributes.keys[name], entry, ino))
        if after:
            if self._elements.position is not None:
                # The entries of the value before may not be there yet.
                before.clear()
            self._add_elements(ino, name, key, [each for each in after if each not in before])

    def _add_elements(self, ino: int, name: bytes, key: int, entries: Iterable[SqlValue]) -> None:
        self._elements.names.add(name)
        for entry in entries:
            self._write(INSERT_ELEMENT, (key, entry, ino))

    def _add_text(self, ino: int, name: bytes) -> None:
        """Give an xattr of a name that has an index of texts its entry there."""
        note = self._texts.notes[name]
        if note.has(ino):
            self._write(TEXT_STATEMENTS[note.slot].insert, (ino, name))

    def _delete_text(self, ino: int, name: bytes) -> None:
        """Remove the entry of a value that is about to go."""
        note = self._texts.notes[name]
        if note.has(ino):
            self._write(TEXT_STATEMENTS[note.slot].delete, (ino, name))

    def _delete_entries(self, ino: int) -> None:
        """Remove the entries of elements and texts of an inode that goes."""
        for name in self._texts.notes:
            self._delete_text(ino, name)
        if self._elements.names:
            for key, typed in self._rows(_SELECT_ARRAYS, (ino,)):
                for entry in entries_of(typed):
                    self._write(DELETE_ELEMENT, (key, entry, ino))

    def _take_note(self, note: IndexNote) -> None:
        """Store how complete the index of attributes is, if that has changed."""
        if note == self._attributes.note:
            return
        content = self._attributes.take_note(note)
        if content is None:
            self._write(DELETE_SETTING, (NOTE_NAME,))
        else:
            self._write(PUT_SETTING, (NOTE_NAME, content))

    # --- contents --------------------------------------------------------------------------------
    def _add_garbage(self, kind: FormKind, location: str) -> None:
        """Record a file or an object that is to be removed, which is the one place where that is.

        An object that a form adopted is left alone, whatever else names it: memfs never owned it.
        """
        if kind == FormKind.REMOTE and self._row(_SELECT_ADOPTED, (OWN_STORE, location)):
            return
        self._write(INSERT_GARBAGE, (self._take_id(), kind.value, location))
        self._totals[GARBAGE_COUNT] += 1

    def _discard_raw(self, raw: RawId) -> None:
        self._add_garbage(FormKind.RAW, str(raw))

    def _form(self, blob: BlobId, kind: FormKind) -> Form | None:
        row = self._row(SELECT_FORM, (blob, kind.value))
        return None if row is None else form_of(row)

    def _insert_form(self, form: Form) -> None:
        self._write(INSERT_FORM, row_of(form))
        self._account_form(form, 1)

    def _account_form(self, form: Form, sign: int) -> None:
        count = _COUNT_OF_KIND[form.kind]
        self._totals[count] += sign
        self._totals[count + 1] += sign * form.stored_bytes

    def _discard_form(self, form: Form) -> None:
        self._write(DELETE_FORM, (form.blob, form.kind.value))
        self._account_form(form, -1)
        self._release_place(form)

    def _release_place(self, form: Form) -> None:
        """Let go of what a form lay in: its file, its object, or its part of a batch.

        What memfs does not own stays as it is.
        """
        key = form.place.key
        if not form.owned:
            return
        if form.place.offset is None:
            self._add_garbage(form.kind, key)
            return
        row = self._row("select live_count, live_bytes from batch where key = ?", (key,))
        if row is None:
            raise MetadataError(f"the remote form {form.place} lies in a batch that does not exist")
        if row[0] == 1:
            self._discard_batch(key)
        else:
            self._write(SET_BATCH, (row[0] - 1, row[1] - form.stored_bytes, key))

    def _discard_batch(self, key: str) -> None:
        self._write(DELETE_BATCH, (key,))
        self._add_garbage(FormKind.REMOTE, key)

    # --- foreign objects -------------------------------------------------------------------------
    def _has_objects(self) -> bool:
        """Tell whether any inode may have a foreign object: most states have no such row."""
        known = self._cache.has_objects
        if known is None:
            known = self._row("select 1 from foreign_object limit 1") is not None
            self._cache.has_objects = known
        return known

    def _stands(self, inode: Inode) -> bool:
        """Tell whether an inode has the bytes of a foreign object."""
        if not self._has_objects():
            return False
        return self._row(SELECT_STANDING, (inode.ino, inode.generation)) is not None

    def _note_gone(self, inode: Inode) -> None:
        """An inode has lost its last name: no listing of its source makes it anew."""
        if inode.nlink or not self._has_objects():
            return
        row = self._row(_SELECT_CURRENT, (inode.ino,))
        if row is not None:
            source, key = row
            self._write(PUT_GONE, row)
            self._write(RETIRE_OBJECT, (inode.ino,))
            self._cache.tallies.note_object(source, key, -1)

    def _has_directories(self) -> bool:
        """Tell whether any directory may stand for a prefix: most states have no such row."""
        known = self._cache.has_directories
        if known is None:
            known = self._row("select 1 from foreign_directory limit 1") is not None
            self._cache.has_directories = known
        return known

    def _note_directory_gone(self, ino: InodeNo) -> None:
        """A directory has lost its name: no listing of its source makes it anew."""
        if not self._has_directories():
            return
        row = self._row(_SELECT_PREFIX, (ino,))
        if row is not None:
            source, prefix, place = row
            self._write(PUT_GONE, (source, prefix))
            self._write(DELETE_DIRECTORY, (ino,))
            self._cache.tallies.note_directory(source, prefix, place, -1)

    # --- undo rows -------------------------------------------------------------------------------
    # Each comes before the change of its row, in the same change of the engine.
    def _save_inode(self, ino: int) -> bool:
        """Keep the row of an inode for the newest snapshot; return whether that has written it."""
        cache = self._cache
        if ino in cache.touched:
            return False
        head = self._newest_snapshot()
        is_new = ino < head and self._write(SAVE_INODE[cache.newer_leaves], (ino, head)) == 1
        cache.touch(ino)
        return is_new

    def _save_dentry(self, parent: int, cookie: int, name: bytes, ino: int) -> None:
        """Keep a name for the newest snapshot."""
        head = self._newest_snapshot()
        if cookie < head:
            save = SAVE_DENTRY[self._cache.newer_leaves]
            self._write(save, (cookie, head, parent, name, ino))

    def _save_xattr(self, ino: int, name: bytes) -> None:
        """Keep an xattr, or that there is no such, for the newest snapshot."""
        cache = self._cache
        head = self._newest_snapshot()
        if ino >= head or (ino, name) in cache.touched:
            return
        self._write(SAVE_XATTR[cache.newer_leaves], (ino, name, head))
        cache.touch((ino, name))

    def _save_all(self, inode: Inode) -> None:
        """Keep all rows of an inode that goes, but its names, for the newest snapshot."""
        head = self._newest_snapshot()
        if inode.ino < head:
            self._save_inode(inode.ino)
            if self._row(_HAS_XATTRS, (inode.ino,)) is not None:
                self._write(SAVE_XATTRS[self._cache.newer_leaves], (inode.ino, head))
            if inode.mode & 0o170000 == stat.S_IFLNK:
                self._write(SAVE_TARGET, (inode.ino,))

    # --- for snapshots ---------------------------------------------------------------------------
    def _needed(self, inode: Inode) -> bool:
        """Tell whether a snapshot shows the bytes of this generation, which are about to go."""
        head = self._newest_snapshot()
        # No snapshot shows a younger file; without a snapshot all files are such.
        if inode.ino >= head or not is_regular(inode) or not (inode.size or inode.flags & UNSEALED):
            return False
        ino, generation = inode.ino, inode.generation
        if self._row(_IS_KEPT, (ino, generation)) is not None:
            return False
        if self._cache.shown.get(ino) != generation:
            ((is_shown, is_touched),) = self._rows(_SHOWING, (ino, generation, head))
            is_untouched = inode.nlink > 0 and not is_touched
            if not (is_shown or is_untouched):
                return False
        return not self._left_out.has(inode)

    def _keep(self, inode: Inode, raw: RawId) -> None:
        """Keep the bytes of a generation for snapshots: its blob if it has one, else a raw file."""
        blob = inode.blob
        if blob:
            raw = NO_RAW
        row = KeptContent(
            inode.ino,
            inode.generation,
            raw,
            blob,
            inode.size,
            inode.blocks if raw else 0,
            inode.mtime_ns,
            bool(inode.flags & UNSEALED),
        )
        self._insert_kept(row)

    def _insert_kept(self, kept: KeptContent) -> None:
        self._write(INSERT_KEPT, (*kept[:-1], int(kept.open)))
        self._account_kept(kept, 1)

    def _account_kept(self, kept: KeptContent, sign: int) -> None:
        if kept.raw:
            self._totals[RAW_COUNT] += sign
            self._totals[RAW_BYTES] += sign * kept.blocks * BLOCK_BYTES
            if (known := self._cache.kept_raw) is not None:
                known[0] += sign
                known[1] += sign * kept.blocks

    def _let_go_unless_kept(self, inode: Inode, *, needed: bool) -> bool:
        """An inode has lost its bytes: a snapshot takes them over, or they become garbage.

        Args:
            inode: As it was.
            needed: What `_needed` told of it then.

        Returns:
            True if a snapshot has taken them over.
        """
        needed = needed and bool(inode.raw or inode.blob)
        if needed:
            self._keep(inode, inode.raw)
        if inode.raw and not (needed and not inode.blob):
            self._discard_raw(inode.raw)
        if inode.blob and not needed:
            self._discard_blob_unless_used(inode.blob)
        return needed

    def _let_go_copy(self, inode: Inode) -> None:
        """An inode has moved on: a copy of that generation may be kept for nothing."""
        if not self._newest_snapshot():
            # Deletion of the last one looks after all of them.
            return
        if self._row(SELECT_KEPT, (inode.ino, inode.generation)) is not None:
            self._let_go_kept([inode.ino])

    def _let_go_kept(self, inos: Sequence[int]) -> None:
        """Let bytes go that no snapshot shows any more."""
        for row in self._rows(_UNSHOWN, (json.dumps([*inos]),)):
            kept = kept_of(row)
            self._write(DELETE_KEPT, (kept.ino, kept.generation))
            self._account_kept(kept, -1)
            if kept.raw:
                self._discard_raw(kept.raw)
            if kept.blob:
                self._discard_blob_unless_used(kept.blob)

    def _discard_blob_unless_used(self, blob: BlobId) -> None:
        """Remove a blob that has just lost an inode, if that was its last one."""
        if self._row(_BLOB_IN_USE, (blob, blob)):
            return
        for row in self._rows(SELECT_FORMS, (blob,)):
            self._discard_form(form_of(row))
        self._write(DELETE_BLOB, (blob,))
