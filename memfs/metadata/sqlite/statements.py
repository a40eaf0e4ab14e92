"""Every SQL statement that changes a table, by number: the vocabulary of the journal.

Invariant: a statement gives the same tables from the same tables and parameters, so that replaying
it redoes the change: no clocks, no random numbers, no numbers chosen by SQLite.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

from memfs.metadata.sqlite import field_schema, format2
from memfs.metadata.sqlite.foreign_schema import (
    DIRECTORY_COLUMNS,
    OBJECT_COLUMNS,
    SOURCE_COLUMNS,
)
from memfs.metadata.sqlite.format import FOREIGN_NUMBER, FORMAT_NUMBER
from memfs.metadata.sqlite.schema import (
    FORM_COLUMNS,
    INODE_COLUMNS,
    TRIGGERS,
    WAS_COLUMNS,
    Made,
)
from memfs.metadata.sqlite.text_index import SLOT_COUNT, texts_of
from memfs.metadata.sqlite.undo_triggers import UNDO_TRIGGERS

SqlValue = int | float | bytes | str | None
Parameters = tuple[SqlValue, ...]
Row = tuple[Any, ...]
"""What a query answers."""

_texts: list[str] = []


def _statement(text: str) -> int:
    _texts.append(text)
    return len(_texts) - 1


def _marks(columns: str) -> str:
    return ", ".join("?" * len(columns.split(", ")))


INSERT_INODE = _statement(f"insert into inode ({INODE_COLUMNS}, packed) values ({'?, ' * 19}0)")
DELETE_INODE = _statement("delete from inode where ino = ?")
SET_TIMES = _statement("update or fail inode set mtime_ns = ?, ctime_ns = ? where ino = ?")
SET_LINKS = _statement(
    "update or fail inode set nlink = ?, mtime_ns = ?, ctime_ns = ? where ino = ?"
)
SET_ATTRIBUTES = _statement(
    "update or fail inode set mode = ?, uid = ?, gid = ?, size = ?, blocks = ?,"
    " atime_ns = ?, mtime_ns = ?, ctime_ns = ? where ino = ?"
)
UNSEAL = _statement("update or fail inode set generation = ?, raw = ?, flags = 1 where ino = ?")
SEAL = _statement(
    "update or fail inode set size = ?, blocks = ?, atime_ns = ?, mtime_ns = ?, ctime_ns = ?,"
    " flags = 0 where ino = ?"
)
SET_RAW = _statement("update inode set raw = ?, blocks = ?, flags = 0 where ino = ?")
SET_DURABLE = _statement("update inode set flags = 2 where ino = ?")
SET_BLOB = _statement("update inode set blob = ?, packed = ? where ino = ?")
SET_PACKED = _statement("update inode set packed = ? where blob = ? and blob <> 0")
FORGET_BLOB = _statement("update inode set blob = 0, packed = 0 where blob = ? and blob <> 0")
SET_PIN = _statement("update inode set pin = ? where ino = ?")
SET_CODEC = _statement("update inode set codec = ? where ino = ?")
SET_ACCESSED = _statement("update inode set accessed_ns = ? where ino = ?")

INSERT_DENTRY = _statement("insert into dentry (parent, cookie, name, ino) values (?, ?, ?, ?)")
DELETE_DENTRY = _statement("delete from dentry where parent = ? and cookie = ?")
MOVE_DENTRY = _statement(
    "update or fail dentry set parent = ?, name = ? where parent = ? and cookie = ?"
)
POINT_DENTRY = _statement("update or fail dentry set ino = ? where parent = ? and cookie = ?")

INSERT_SYMLINK = _statement("insert into symlink (ino, target) values (?, ?)")
PUT_XATTR = _statement(
    "insert or replace into xattr (ino, name, value, key, typed) values (?, ?, ?, 0, null)"
)
DELETE_XATTR = _statement("delete from xattr where ino = ? and name = ?")

INSERT_BLOB = _statement("insert into blob (blob, size, digest) values (?, ?, ?)")
DELETE_BLOB = _statement("delete from blob where blob = ?")
INSERT_FORM = _statement(f"insert into form ({FORM_COLUMNS}) values ({_marks(FORM_COLUMNS)})")
DELETE_FORM = _statement("delete from form where blob = ? and kind = ?")
INSERT_BATCH = _statement(
    "insert into batch (key, size_bytes, live_count, live_bytes) values (?, ?, ?, ?)"
)
SET_BATCH = _statement("update batch set live_count = ?, live_bytes = ? where key = ?")
DELETE_BATCH = _statement("delete from batch where key = ?")
INSERT_GARBAGE = _statement("insert into garbage (item, kind, location) values (?, ?, ?)")
DELETE_GARBAGE = _statement("delete from garbage where item = ?")

INSERT_INTENT = _statement(
    "insert into intent (intent, kind, ino, generation, location, begun_ns)"
    " values (?, ?, ?, ?, ?, ?)"
)
DELETE_INTENT = _statement("delete from intent where intent = ?")
PUT_PENDING = _statement(
    "insert or replace into pending (ino, wanted, reason, attempt_count, retry_ns)"
    " values (?, ?, ?, ?, ?)"
)
DELETE_PENDING = _statement("delete from pending where ino = ?")
PUT_DECISION = _statement(
    "insert or replace into decision (ino, rule, detail, moved_bytes, decided_ns)"
    " values (?, ?, ?, ?, ?)"
)

PUT_SETTING = _statement("insert or replace into setting (name, value) values (?, ?)")
DELETE_SETTING = _statement("delete from setting where name = ?")

PUT_TYPED_XATTR = _statement(
    "insert or replace into xattr (ino, name, value, key, typed) values (?, ?, ?, ?, ?)"
)
PUT_TEXT_XATTR = _statement(
    "insert or replace into xattr (ino, name, value, key, typed)"
    " values (?1, ?2, ?3, ?4, cast(?3 as text))"
)
SET_TYPED = _statement("update xattr set key = ?, typed = ? where ino = ? and name = ?")
INSERT_ATTRIBUTE_NAME = _statement("insert into attribute_name (key, name) values (?, ?)")

# --- snapshots -----------------------------------------------------------------------------------
INSERT_SNAPSHOT = _statement(
    "insert into snapshot (snap, name, created_ns, description, labels, kept_until_ns, state)"
    " values (?, ?, ?, ?, ?, ?, 'live')"
)
LEAVE_SNAPSHOT = _statement("update snapshot set state = 'leaving' where snap = ?")
DELETE_SNAPSHOT = _statement("delete from snapshot where snap = ?")
FORGET_HEAD = _statement("delete from head")
INSERT_HEAD = _statement("insert into head (snap) values (?)")
INSERT_UNBORN = _statement(
    f"insert into inode_was (ino, snap, {WAS_COLUMNS}) values (?, ?{', 0' * 12})"
)

# What is in a JSON list: many rows at once, and the same ones when it is redone.
_LISTED = "in (select value from json_each(?3))"


class UndoTable(NamedTuple):
    """How a snapshot lets go of a table's undo rows: of those that belong to inodes of a list."""

    hand_down: int
    """Gives rows of snapshot ?1 to the older ?2, where no row from that on is in between."""
    delete: int
    """Removes rows of snapshot ?1."""


def _undo_table(name: str, key: str, same: str) -> UndoTable:
    hand_down = _statement(
        f"update {name} set snap = ?2 where snap = ?1 and {key} < ?2 and ino {_LISTED}"
        f" and not exists (select 1 from {name} as w"
        f" where {same} and w.snap >= ?2 and w.snap < ?1)"
    )
    listed = _LISTED.replace("?3", "?2")
    delete = _statement(f"delete from {name} where snap = ?1 and ino {listed}")
    return UndoTable(hand_down, delete)


UNDO_TABLES = (
    _undo_table("dentry_was", "cookie", "w.cookie = dentry_was.cookie"),
    _undo_table("xattr_was", "ino", "w.ino = xattr_was.ino and w.name = xattr_was.name"),
    _undo_table("inode_was", "ino", "w.ino = inode_was.ino"),
)
INSERT_KEPT = _statement(
    "insert into kept (ino, generation, raw, blob, size, blocks, mtime_ns, open)"
    " values (?, ?, ?, ?, ?, ?, ?, ?)"
)
DELETE_KEPT = _statement("delete from kept where ino = ? and generation = ?")
DELETE_TARGETS = _statement(
    f"delete from symlink_was where ino {_LISTED.replace('?3', '?1')}"
    " and not exists (select 1 from inode_was as w where w.ino = symlink_was.ino)"
)


# Repaired tables may lack triggers, or have them already.
def _made_once(trigger: str) -> int:
    return _statement(trigger.replace("create trigger", "create trigger if not exists", 1))


def _dropped(trigger: str) -> int:
    return _statement(f"drop trigger if exists {Made.by(trigger).name}")


# Only in journals of versions that left undo rows to triggers.
for _text in UNDO_TRIGGERS:
    _made_once(_text)
for _text in UNDO_TRIGGERS:
    _dropped(_text)

# --- indexes of fields ---------------------------------------------------------------------------
PUT_FIELD_INDEX = _statement(
    "insert or replace into field_index (field, through, state) values (?, ?, ?)"
)
DELETE_FIELD_INDEX = _statement("delete from field_index where field = ?")


class FieldStatements(NamedTuple):
    """Those of the index of one field, as `field_schema.FieldTexts`."""

    make: tuple[int, ...]
    """Tables and triggers."""
    drop_triggers: tuple[int, ...]
    add: tuple[int, ...]
    remove: int | None
    end: tuple[int, ...]


def _field_statements(field: str) -> FieldStatements:
    texts = field_schema.TEXTS[field]
    return FieldStatements(
        (*map(_statement, texts.tables), *map(_made_once, texts.triggers)),
        tuple(map(_dropped, texts.triggers)),
        tuple(map(_statement, texts.add)),
        None if texts.remove is None else _statement(texts.remove),
        tuple(map(_statement, texts.end)),
    )


FIELD_STATEMENTS = {field: _field_statements(field) for field in field_schema.NUMBERS}

_COUNT_WITH_TRIGGERS = len(_texts)
"""Journals of versions that left undo rows to triggers know so many statements, or fewer."""


# --- undo rows -----------------------------------------------------------------------------------
class UndoStatement(NamedTuple):
    """Writes an undo row of what is about to change, unless there is one."""

    usual: int
    """Where no undo row can be of a newer snapshot: at least 2 us less (first touch of 100,000
    files: 4.2 instead of 6.7 for an inode, 5.2 instead of 7.5 for a name, 2.4 instead of 4.7 for an
    xattr)."""
    beside_leaving: int
    """Rows of a newer snapshot, which is leaving, stand for the newest one that stays too."""


def _undo_statement(table: str, values: str, source: str, same: str, snap: str) -> UndoStatement:
    usual = _statement(f"insert or ignore into {table} select {values} {source}")
    unless = f"not exists (select 1 from {table} as w where {same} and w.snap >= {snap})"
    word = "and" if " where " in source else "where"
    return UndoStatement(usual, _statement(f"{_texts[usual]} {word} {unless}"))


SAVE_INODE = _undo_statement(
    "inode_was", f"ino, ?2, {WAS_COLUMNS}", "from inode where ino = ?1", "w.ino = ?1", "?2"
)
SAVE_DENTRY = _undo_statement("dentry_was", "?1, ?2, ?3, ?4, ?5", "", "w.cookie = ?1", "?2")
SAVE_XATTR = _undo_statement(
    "xattr_was",
    "?1, ?2, ?3, (select value from xattr where ino = ?1 and name = ?2)",
    "",
    "w.ino = ?1 and w.name = ?2",
    "?3",
)
SAVE_XATTRS = _undo_statement(
    "xattr_was",
    "x.ino, x.name, ?2, x.value",
    "from xattr as x where x.ino = ?1",
    "w.ino = x.ino and w.name = x.name",
    "?2",
)
SAVE_TARGET = _statement(
    "insert or ignore into symlink_was select ino, target from symlink where ino = ?"
)

# Behind all that an earlier version knows.
FIELD_STATEMENTS[field_schema.NAME_FIELD] = _field_statements(field_schema.NAME_FIELD)
PUT_PENDING_SINCE = _statement("insert or replace into pending_since (ino, since_ns) values (?, ?)")

_COUNT_WITHOUT_ELEMENTS = len(_texts)
"""Versions that know so many statements, or fewer, leave the entries of arrays as they were."""
INSERT_ELEMENT = _statement("insert or ignore into element (key, value, ino) values (?, ?, ?)")
DELETE_ELEMENT = _statement("delete from element where key = ? and value = ? and ino = ?")


# --- foreign objects -----------------------------------------------------------------------------
MARK_FOREIGN = _statement(f"pragma user_version = {FOREIGN_NUMBER}")
UNMARK_FOREIGN = _statement(f"pragma user_version = {FORMAT_NUMBER}")
PUT_SOURCE = _statement(
    f"insert or replace into source ({SOURCE_COLUMNS}) values ({_marks(SOURCE_COLUMNS)})"
)
DELETE_SOURCE = _statement("delete from source where source = ?")
INSERT_OBJECT = _statement(
    f"insert into foreign_object ({OBJECT_COLUMNS}) values ({_marks(OBJECT_COLUMNS)})"
)
DELETE_OBJECT = _statement("delete from foreign_object where ino = ?")
RETIRE_OBJECT = _statement("update foreign_object set current = 0 where ino = ?")
DELETE_UNSHOWN_OBJECTS = _statement(
    f"delete from foreign_object where ino {_LISTED.replace('?3', '?1')}"
    " and not exists (select 1 from inode as i where i.ino = foreign_object.ino)"
    " and not exists (select 1 from inode_was as w where w.ino = foreign_object.ino)"
)
PUT_GONE = _statement("insert or ignore into foreign_gone (source, key) values (?, ?)")
DELETE_GONE = _statement("delete from foreign_gone where source = ? and key = ?")
FORGET_GONE = _statement("delete from foreign_gone where source = ?")
PUT_METRIC = _statement(
    "insert or replace into metric (resolution, slot, at_s, numbers) values (?, ?, ?, ?)"
)
PUT_EVENT = _statement(
    "insert or replace into event (slot, number, at_ns, kind, subject, detail)"
    " values (?, ?, ?, ?, ?, ?)"
)
FORGET_OBJECTS = _statement("delete from foreign_object where source = ?")
PUT_PUBLISHED = _statement(
    "insert or replace into published"
    " (url, target, ino, generation, etag, token, size, mtime_ns, digest, problem)"
    " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
DELETE_PUBLISHED = _statement("delete from published where url = ?")
INSERT_DIRECTORY = _statement(
    f"insert into foreign_directory ({DIRECTORY_COLUMNS}) values ({_marks(DIRECTORY_COLUMNS)})"
)
SET_LISTED = _statement("update foreign_directory set listed_ns = ? where ino = ?")
DELETE_DIRECTORY = _statement("delete from foreign_directory where ino = ?")
FORGET_DIRECTORIES = _statement("delete from foreign_directory where source = ?")

# --- indexes of texts ----------------------------------------------------------------------------
PUT_TEXT_INDEX = _statement(
    "insert or replace into text_index (name, slot, through, state, folding) values (?, ?, ?, ?, ?)"
)
DELETE_TEXT_INDEX = _statement("delete from text_index where name = ?")


class NameCutStatements(NamedTuple):
    """As `field_schema.NameCuts`."""

    no_merge: int
    no_crisis: int
    blocks: int
    entries: int


class TextStatements(NamedTuple):
    """Those of the index of texts in one slot, as `text_index.TextTexts`."""

    make: int
    build: int
    insert: int
    delete: int
    no_merge: int
    no_crisis: int
    cut: int
    end: int


TEXT_STATEMENTS = tuple(
    TextStatements(*map(_statement, texts_of(slot))) for slot in range(SLOT_COUNT)
)
_COUNT_WITH_TEXTS = len(_texts)
"""Versions that know fewer statements leave the entries of texts as they were."""

# Behind all that an earlier version knows.
NAME_CUT_STATEMENTS = NameCutStatements(*map(_statement, field_schema.NAME_CUTS))
PUT_PENDING_CODE = _statement(
    "insert or replace into pending_code (ino, retry_ns, code, until_ns) values (?, ?, ?, ?)"
)

# Undo rows as they are, which a node that reads takes from another one.
INSERT_INODE_WAS = _statement(
    f"insert into inode_was (ino, snap, {WAS_COLUMNS}) values (?, ?{', ?' * 12})"
)
INSERT_XATTR_WAS = _statement("insert into xattr_was (ino, name, snap, value) values (?, ?, ?, ?)")
INSERT_SYMLINK_WAS = _statement("insert into symlink_was (ino, target) values (?, ?)")

TEXTS = tuple(_texts)


class Vocabulary(NamedTuple):
    """What the numbers in a journal mean."""

    format: int
    """That of the tables that the statements are for."""
    texts: tuple[str, ...]
    """By number."""
    has_triggers: bool = False
    """The statements fire `undo_triggers`."""


_LAYOUT = "layout 2"
_PRESENT = (_LAYOUT, f"format {FORMAT_NUMBER}", *TRIGGERS)
"""What a statement does to the tables is a matter of the triggers too. That of `undo_triggers` is
told by the number of statements."""


def _fingerprint(first: tuple[str, ...], texts: tuple[str, ...]) -> int:
    return zlib.crc32("\n".join((*first, *texts)).encode())


def _vocabularies(first: tuple[str, ...], known: Vocabulary) -> dict[int, Vocabulary]:
    """Return a vocabulary by the fingerprints of journals that have it, or its first statements."""
    return {
        _fingerprint(first, known.texts[:count]): known._replace(
            has_triggers=known.format == FORMAT_NUMBER and count <= _COUNT_WITH_TRIGGERS
        )
        for count in range(1, len(known.texts) + 1)
    }


FINGERPRINT = _fingerprint(_PRESENT, TEXTS)
"""Tells a journal of other statements from ours: its numbers would mean something else. It differs
from what versions with the first layout of the journal know, so that they refuse one of the second.
"""

_OLDER = Vocabulary(2, format2.TEXTS)

_SECOND_LAYOUT = _vocabularies(_PRESENT, Vocabulary(FORMAT_NUMBER, TEXTS))
_SECOND_LAYOUT |= _vocabularies((_LAYOUT,), _OLDER)

SECOND_LAYOUT = frozenset(_SECOND_LAYOUT)
"""Fingerprints of journals of the second layout that this version can redo."""

KEEPS_ELEMENTS = frozenset(
    _fingerprint(_PRESENT, TEXTS[:count])
    for count in range(_COUNT_WITHOUT_ELEMENTS + 2, len(TEXTS) + 1)
)
"""Fingerprints of versions that keep the index of elements up to date."""

KEEPS_TEXTS = frozenset(
    _fingerprint(_PRESENT, TEXTS[:count]) for count in range(_COUNT_WITH_TEXTS, len(TEXTS) + 1)
)
"""Likewise the indexes of texts."""

UNDERSTOOD = _SECOND_LAYOUT | _vocabularies((), _OLDER)
"""What those mean, and the journals of the first layout, by fingerprint."""
