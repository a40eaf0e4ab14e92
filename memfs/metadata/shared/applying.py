"""What the changes of the node that writes do to the tables of a node that reads.

A reader has tables of its own. Rows and columns that nodes share (`tables`) change as on the
writer; what each node has alone is the reader's: raw files, moves, decisions, indexes of queries.
A generation that the reader has in a raw file may end by a change: the file becomes garbage then.

Readers pack nothing, so that all forms of their tables are remote, and remove no objects, so that
their garbage has their own raw files alone.

Invariant: after a body is applied, each shared table has the rows of the writer's, and the totals
that nodes share are the writer's, else the reader is refused further use (`CorruptDataError`).
"""

from __future__ import annotations

import enum
import stat
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import CorruptDataError, ReadOnlyNodeError
from memfs.metadata.namespace import FROZEN_SETTING
from memfs.metadata.records import InodeFlags, Usage
from memfs.metadata.shared.statements import LOCAL, SHARED
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.check import find_damage
from memfs.metadata.sqlite.database import Database
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.metadata.sqlite.rows import (
    INODE_COUNT,
    LOGICAL_BYTES,
    REMOTE_BYTES,
    REMOTE_COUNT,
)
from memfs.types import NO_RAW, InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.metadata.foreign import ForeignObject
    from memfs.metadata.records import Inode
    from memfs.metadata.shared.bodies import Body
    from memfs.metadata.sqlite.statements import Parameters, Row

FOLLOWED_SETTINGS = frozenset({"policy.marked", "policy.pools", "budgets", FROZEN_SETTING})
"""Settings that are the mount's; each node has all others for itself."""

APPLIED_SETTING = "nodes.applied"
"""The number of the last change of the writer that the tables have, in the change that has it."""

_SHARED_TOTALS = (INODE_COUNT, LOGICAL_BYTES, REMOTE_COUNT, REMOTE_BYTES)

_OWN_RAW = frozenset({sqlite.SET_RAW})
"""Shared, as they tell how many blocks a raw file takes; a reader tells it of its own."""

INODE_AT = {
    sqlite.SET_TIMES: 2,
    sqlite.SET_LINKS: 3,
    sqlite.SET_ATTRIBUTES: 8,
    sqlite.SEAL: 5,
    sqlite.UNSEAL: 2,
    sqlite.SET_PIN: 1,
    sqlite.SET_CODEC: 1,
    sqlite.SET_BLOB: 2,
}
"""Statements that change one inode: where their parameters have its number."""

_SNAPSHOTS = frozenset(
    {
        sqlite.INSERT_SNAPSHOT,
        sqlite.LEAVE_SNAPSHOT,
        sqlite.DELETE_SNAPSHOT,
        sqlite.FORGET_HEAD,
        sqlite.INSERT_HEAD,
    }
)
_FOREIGN = frozenset(
    {
        sqlite.INSERT_OBJECT,
        sqlite.DELETE_OBJECT,
        sqlite.FORGET_OBJECTS,
        sqlite.DELETE_UNSHOWN_OBJECTS,
        sqlite.INSERT_DIRECTORY,
        sqlite.DELETE_DIRECTORY,
        sqlite.FORGET_DIRECTORIES,
    }
)
_ALSO_APPLIED = frozenset({sqlite.MARK_FOREIGN, sqlite.UNMARK_FOREIGN})
"""They change no row that is shared, but tell which tables are in use."""

_SELECT_DENTRY = "select name, ino from dentry where parent = ? and cookie = ?"
_SELECT_SHARERS = "select ino from inode where blob = ? and blob <> 0"
_SELECT_REMOTE = "select stored_bytes from form where blob = ? and kind = 'remote'"


class Aspect(enum.IntFlag):
    """What of an inode has changed."""

    ATTRIBUTES = 1
    CONTENT = 2
    """It has another generation, or its bytes can be had from elsewhere."""
    XATTRS = 4
    POLICY = 8


class TakenName(NamedTuple):
    """A name that was removed, or leads to another inode."""

    parent: InodeNo
    name: bytes
    ino: InodeNo
    """What it led to."""
    leads_on: bool
    """It is a directory or a symlink: a path may go on beyond it."""


def leads_on(mode: int) -> bool:
    """Return whether a path may go on beyond an inode of this mode."""
    return stat.S_ISDIR(mode) or stat.S_ISLNK(mode)


class Effects:
    """What applied changes mean for who keeps answers: programs' names, and caches.

    Attributes:
        made: Names that lead to an inode since, by directory and name: new ones, and those that
            led to another inode before.
        taken: Names that lead there no longer.
        changed: Inodes of which something has changed.
        snapshots: Snapshots came or went.
        frozen: Trees were frozen or thawed.
    """

    def __init__(self) -> None:
        self.made: list[tuple[InodeNo, bytes, InodeNo]] = []
        self.taken: list[TakenName] = []
        self.changed: dict[InodeNo, Aspect] = {}
        self.snapshots = self.frozen = False

    def note(self, ino: int, aspect: Aspect) -> None:
        """Note an inode of which something has changed."""
        self.changed[InodeNo(ino)] = self.changed.get(InodeNo(ino), Aspect(0)) | aspect


def is_followed_setting(name: str) -> bool:
    """Return whether a reader has a setting from the writer."""
    return name in FOLLOWED_SETTINGS


def is_readers(statement: int, parameters: Parameters) -> bool:
    """Return whether a reader may do a record by itself: it changes what it has alone."""
    shared = SHARED.get(statement)
    if shared is None or statement in _OWN_RAW or statement == sqlite.DELETE_GARBAGE:
        return True
    if statement in (sqlite.PUT_SETTING, sqlite.DELETE_SETTING):
        return not is_followed_setting(str(parameters[0]))
    return shared.applies is not None and not shared.applies(parameters)


class ReaderDatabase(Database):
    """Refuses records that only the writer may make."""

    is_applying = False
    """What is written now are the writer's changes."""

    def write(self, statement: int, parameters: Parameters) -> int:
        """As `Database.write`; ReadOnlyNodeError: it is the writer's."""
        self._require(statement, parameters)
        return super().write(statement, parameters)

    def write_unique(self, statement: int, parameters: Parameters) -> bool:
        """As `Database.write_unique`; ReadOnlyNodeError: it is the writer's."""
        self._require(statement, parameters)
        return super().write_unique(statement, parameters)

    def begin_change(self, *, grows: bool = False) -> None:
        """As `Database.begin_change`."""
        super().begin_change(grows=grows)
        self._begin_totals = tuple(self.totals)

    def _require(self, statement: int, parameters: Parameters) -> None:
        if self.is_applying or is_readers(statement, parameters):
            return
        here = self.savepoint()
        self.take_back(here._replace(record_count=self._change_begin, totals=self._begin_totals))
        raise ReadOnlyNodeError("this node reads: another one writes, and makes all changes")


class Applying(SqliteEngine):
    """The engine of a reader, in so far as it takes in what the writer has changed."""

    database_class = ReaderDatabase
    first_id = FIRST_READER_ID
    _database: ReaderDatabase
    _effects: Effects

    def apply(self, changes: Sequence[tuple[int, Body]]) -> Effects:
        """Take in changes of the writer, in order, and commit them as one.

        Args:
            changes: Their numbers and bodies, without a gap.

        Returns:
            What they mean for caches.

        Raises:
            CorruptDataError: The tables are not what the writer has changed; nothing was done.
            NoSpaceError, MetadataError: The changes cannot be kept; nothing was done.
        """
        database = self._database
        self._effects = effects = Effects()
        database.commit_nowait()
        database.begin_change()
        before = database.savepoint()
        database.is_applying = True
        try:
            for number, body in changes:
                for statement, parameters in body.records:
                    self._apply(statement, parameters)
                self._compare_totals(number, body)
            self._write(sqlite.PUT_SETTING, (APPLIED_SETTING, str(changes[-1][0]).encode()))
            database.commit_nowait()
        except CorruptDataError:
            database.take_back(before)
            raise
        finally:
            database.is_applying = False
        return effects

    async def note_object_digest(self, foreign: ForeignObject, digest: bytes) -> None:
        """See `Foreign.note_object_digest`: who writes reads the object, too."""

    def check(self) -> list[str]:
        """See `Engine.check`; bytes may be on the writer alone."""
        usage = Usage._make(self._totals)
        return find_damage(self._rows, usage, self._lease.next_id, has_all_bytes=False)

    def read_applied(self) -> int:
        """Return the number of the last change that the tables have; 0: they have no change yet."""
        row = self._row("select value from setting where name = ?", (APPLIED_SETTING,))
        return 0 if row is None else int(row[0])

    def _compare_totals(self, number: int, body: Body) -> None:
        for at in _SHARED_TOTALS:
            if self._totals[at] != body.totals[at]:
                raise CorruptDataError(
                    f"after change {number} this node counts {self._totals[at]}, and the writer "
                    f"{body.totals[at]}: its tables are not the writer's"
                )

    def _apply(self, statement: int, parameters: Row) -> None:
        shared = SHARED.get(statement)
        if shared is None:
            if statement in _ALSO_APPLIED:
                self._write(statement, parameters)
            else:
                assert statement in LOCAL, statement
            return
        if shared.applies is not None and not shared.applies(parameters):
            return
        place = INODE_AT.get(statement)
        if place is not None:
            self._follow_of_inode(statement, parameters, InodeNo(parameters[place]))
            return
        own = _OWN_WAYS.get(statement)
        if own is not None:
            own(self, parameters)
            return
        self._write(statement, parameters)
        if statement in _SNAPSHOTS:
            self._cache.forget_snapshots()
            self._effects.snapshots = True
        elif statement in _FOREIGN:
            self._cache.has_objects = self._cache.has_directories = None

    # --- inodes ----------------------------------------------------------------------------------
    def _inode_there(self, ino: InodeNo) -> Inode:
        inode = self._find_inode(ino)
        if inode is None:
            raise CorruptDataError(f"the writer has changed inode {ino}, which this node lacks")
        return inode

    def _follow_of_inode(self, statement: int, parameters: Row, ino: InodeNo) -> None:
        inode = self._inode_there(ino)
        aspect = Aspect.ATTRIBUTES
        if statement == sqlite.UNSEAL:
            aspect |= Aspect.CONTENT
            parameters = (parameters[0], NO_RAW, ino)
            if inode.raw:
                self._discard_raw(inode.raw)
        elif statement == sqlite.SEAL:
            aspect |= Aspect.CONTENT
        elif statement == sqlite.SET_BLOB:
            aspect = Aspect.CONTENT
            parameters = (parameters[0], 0, ino)
        elif statement in (sqlite.SET_PIN, sqlite.SET_CODEC):
            aspect = Aspect.POLICY
        self._write(statement, parameters)
        self._cache.forget(ino)
        self._replace(inode, self._inode_there(ino))
        self._effects.note(ino, aspect)

    def _follow_insert_inode(self, parameters: Row) -> None:
        values = [*parameters]
        values[13] = NO_RAW
        values[15] = int(values[15]) & InodeFlags.UNSEALED
        values[18] = 0
        self._write(sqlite.INSERT_INODE, tuple(values))
        self._account(self._inode_there(InodeNo(values[0])), 1)

    def _follow_delete_inode(self, parameters: Row) -> None:
        ino = InodeNo(parameters[0])
        inode = self._inode_there(ino)
        if inode.raw:
            self._discard_raw(inode.raw)
        self._delete_entries(ino)
        self._write(sqlite.DELETE_INODE, parameters)
        self._account(inode, -1)
        self._cache.forget(ino)
        self._effects.note(ino, Aspect.ATTRIBUTES | Aspect.CONTENT)

    def _follow_set_raw(self, parameters: Row) -> None:
        _raw, blocks, ino = parameters
        inode = self._inode_there(InodeNo(ino))
        if not inode.raw:
            self._write(sqlite.SET_RAW, (NO_RAW, blocks, ino))
            self._cache.forget(inode.ino)
            self._effects.note(inode.ino, Aspect.ATTRIBUTES)

    def _follow_forget_blob(self, parameters: Row) -> None:
        sharers = self._rows(_SELECT_SHARERS, parameters)
        self._write(sqlite.FORGET_BLOB, parameters)
        for (ino,) in sharers:
            self._cache.forget(ino)
            self._effects.note(ino, Aspect.CONTENT)

    # --- names and xattrs ------------------------------------------------------------------------
    def _dentry_there(self, parent: int, cookie: int) -> TakenName:
        """Return a name that is about to be taken."""
        row = self._row(_SELECT_DENTRY, (parent, cookie))
        if row is None:
            raise CorruptDataError(
                f"the writer has changed name {cookie} of inode {parent}, which this node lacks"
            )
        name, ino = row
        return TakenName(InodeNo(parent), name, ino, leads_on(self._inode_there(ino).mode))

    def _follow_insert_dentry(self, parameters: Row) -> None:
        parent, _cookie, name, ino = parameters
        self._write(sqlite.INSERT_DENTRY, parameters)
        self._effects.made.append((parent, name, ino))

    def _follow_delete_dentry(self, parameters: Row) -> None:
        taken = self._dentry_there(*parameters)
        self._write(sqlite.DELETE_DENTRY, parameters)
        self._effects.taken.append(taken)

    def _follow_move_dentry(self, parameters: Row) -> None:
        parent, name, former, cookie = parameters
        taken = self._dentry_there(former, cookie)
        self._write(sqlite.MOVE_DENTRY, parameters)
        self._effects.taken.append(taken)
        self._effects.made.append((parent, name, taken.ino))

    def _follow_point_dentry(self, parameters: Row) -> None:
        ino, parent, cookie = parameters
        taken = self._dentry_there(parent, cookie)
        self._write(sqlite.POINT_DENTRY, parameters)
        self._effects.taken.append(taken)
        self._effects.made.append((parent, taken.name, ino))

    def _follow_put_xattr(self, parameters: Row) -> None:
        # The number of the name, and what is compared, are this node's.
        ino, name, value = parameters[:3]
        self._store_xattr(ino, name, value)
        self._effects.note(ino, Aspect.XATTRS | Aspect.POLICY)

    def _follow_delete_xattr(self, parameters: Row) -> None:
        ino, name = parameters
        self._forget_xattr(ino, name)
        self._effects.note(ino, Aspect.XATTRS | Aspect.POLICY)

    # --- contents and settings -------------------------------------------------------------------
    def _follow_insert_form(self, parameters: Row) -> None:
        self._write(sqlite.INSERT_FORM, parameters)
        self._count_form(parameters[0], 1)
        for (ino,) in self._rows(_SELECT_SHARERS, (parameters[0],)):
            self._effects.note(ino, Aspect.CONTENT)

    def _follow_delete_form(self, parameters: Row) -> None:
        self._count_form(parameters[0], -1)
        self._write(sqlite.DELETE_FORM, parameters)

    def _count_form(self, blob: int, sign: int) -> None:
        row = self._row(_SELECT_REMOTE, (blob,))
        if row is None:
            raise CorruptDataError(f"this node has no object of blob {blob}, and the writer had")
        self._totals[REMOTE_COUNT] += sign
        self._totals[REMOTE_BYTES] += sign * row[0]

    def _follow_insert_kept(self, parameters: Row) -> None:
        ino, generation, _raw, blob, size, _blocks, mtime_ns, is_open = parameters
        self._write(sqlite.INSERT_KEPT, (ino, generation, NO_RAW, blob, size, 0, mtime_ns, is_open))

    def _follow_put_setting(self, parameters: Row) -> None:
        if is_followed_setting(str(parameters[0])):
            self._write(sqlite.PUT_SETTING, parameters)
            self._cache.may_be_marked = None
            self._note_setting(str(parameters[0]))

    def _follow_delete_setting(self, parameters: Row) -> None:
        if is_followed_setting(str(parameters[0])):
            self._write(sqlite.DELETE_SETTING, parameters)
            self._note_setting(str(parameters[0]))

    def _note_setting(self, name: str) -> None:
        if name == FROZEN_SETTING:
            self._cache.forget_frozen()
            self._effects.frozen = True

    def _follow_garbage(self, parameters: Row) -> None:
        """Objects are removed by who has written them."""


_OWN_WAYS: dict[int, Callable[[Applying, Row], None]] = {
    sqlite.INSERT_INODE: Applying._follow_insert_inode,
    sqlite.DELETE_INODE: Applying._follow_delete_inode,
    sqlite.SET_RAW: Applying._follow_set_raw,
    sqlite.FORGET_BLOB: Applying._follow_forget_blob,
    sqlite.INSERT_DENTRY: Applying._follow_insert_dentry,
    sqlite.DELETE_DENTRY: Applying._follow_delete_dentry,
    sqlite.MOVE_DENTRY: Applying._follow_move_dentry,
    sqlite.POINT_DENTRY: Applying._follow_point_dentry,
    sqlite.PUT_XATTR: Applying._follow_put_xattr,
    sqlite.PUT_TYPED_XATTR: Applying._follow_put_xattr,
    sqlite.PUT_TEXT_XATTR: Applying._follow_put_xattr,
    sqlite.DELETE_XATTR: Applying._follow_delete_xattr,
    sqlite.INSERT_FORM: Applying._follow_insert_form,
    sqlite.DELETE_FORM: Applying._follow_delete_form,
    sqlite.INSERT_KEPT: Applying._follow_insert_kept,
    sqlite.PUT_SETTING: Applying._follow_put_setting,
    sqlite.DELETE_SETTING: Applying._follow_delete_setting,
    sqlite.INSERT_GARBAGE: Applying._follow_garbage,
    sqlite.DELETE_GARBAGE: Applying._follow_garbage,
}
"""Statements that a reader does in another way than the writer."""
