"""What each record of a journal does to the shared tables: the vocabulary in PostgreSQL's words.

Each number of `sqlite.statements` is decided here: it has a text for PostgreSQL, or it is in
`LOCAL`, since it changes only rows and columns that its node has alone. A text reads its
parameters from rows `v`, whose columns are `p1`, `p2`, ... by the place of the parameter in
SQLite's statement; those that are not shared are not named.

Invariant: the statements of `translate`, run in order, change the shared tables as the records
change SQLite's, seen through `tables.SharedTable.select_local`.
"""

from __future__ import annotations

import json
import re
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.shared.tables import BY_NAME, LOCAL_SETTINGS, TYPES, array_text, stored_text
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.schema import WAS_COLUMNS, Made
from memfs.metadata.sqlite.statements import TEXTS
from memfs.metadata.sqlite.undo_triggers import UNDO_TRIGGERS
from memfs.types import FormKind

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from memfs.metadata.sqlite.statements import Parameters, SqlValue, UndoStatement, UndoTable
    from memfs.metadata.sqlite.tables import Record

Statement = tuple[str, tuple["SqlValue", ...]]
"""A text of PostgreSQL, and its parameters `$1`, `$2`, ..."""

_TYPES = {**TYPES, "l": "bigint[]"}
"""And a list of numbers, which SQLite has as JSON."""

_MARK = re.compile(r"\bp(\d+)([a-z])\b")


class SharedStatement(NamedTuple):
    """What a number of the vocabulary does to the shared tables."""

    text: str
    """For one record."""
    many: str
    """For many at once, whose parameters are arrays; empty: there is no such text."""
    takes: tuple[tuple[int, str], ...]
    """Place of each parameter among those of SQLite's statement, from 0 on, with its letter."""
    applies: Callable[[Parameters], bool] | None
    """Tells by its parameters whether a record changes a shared row; None: each does."""
    touches: Callable[[Parameters], tuple[Hashable, ...]] | None
    """Tells by its parameters what it reads or changes: two records that have nothing of it in
    common may change places; None: it may be anything."""
    key: tuple[int, ...]
    """Which of the values in `takes` tell a row; of two records with the same one the later counts.
    Empty: both do."""
    values_of: Callable[[Parameters], tuple[SqlValue, ...]]
    """Returns PostgreSQL's parameters by SQLite's."""


def _reader(takes: Sequence[tuple[int, str]]) -> Callable[[Parameters], tuple[SqlValue, ...]]:
    """Return `SharedStatement.values_of` for `takes`."""
    places = [place for place, _letter in takes]
    texts = [(at, letter) for at, (_place, letter) in enumerate(takes) if letter not in "ib"]
    if len(places) < 2:
        return lambda parameters: tuple(_value(letter, parameters[at]) for at, letter in takes)
    read: Callable[[Parameters], tuple[SqlValue, ...]] = itemgetter(*places)
    if not texts:
        return read

    def read_texts(parameters: Parameters) -> tuple[SqlValue, ...]:
        values = read(parameters)
        for at, letter in texts:
            value = values[at]
            if isinstance(value, str) and (other := _value(letter, value)) is not value:
                values = (*values[:at], other, *values[at + 1 :])
        return values

    return read_texts


def _value(letter: str, value: SqlValue) -> SqlValue:
    if isinstance(value, str):
        if letter == "l":
            return "{" + ",".join(map(str, json.loads(value))) + "}"
        return value.encode() if letter == "u" else stored_text(value)
    return value


SHARED: dict[int, SharedStatement] = {}
"""By number of the vocabulary."""


def _rows(touched: str) -> Callable[[Parameters], tuple[Hashable, ...]]:
    """Return what tells what a record touches.

    Args:
        touched: Words: `3`: that of the number in the third parameter, such as an inode, a blob or
            an undo row, which have no number in common; `in2`: a name in the directory in the
            second one; else a table as a whole.
    """
    words = touched.split()
    numbers = [int(word) - 1 for word in words if word.isdigit()]
    parents = [int(word[2:]) - 1 for word in words if word[:2] == "in" and word[2:].isdigit()]
    tables = tuple(word for word in words if not word[-1].isdigit())
    if not parents and not tables and len(numbers) == 1:
        [place] = numbers
        return lambda parameters: (parameters[place],)
    return lambda parameters: (
        *tables,
        *(parameters[place] for place in numbers),
        *(("in", parameters[place]) for place in parents),
    )


def _shared(
    number: int,
    text: str,
    touched: str = "",
    *,
    key: str = "",
    applies: Callable[[Parameters], bool] | None = None,
    alone: bool = False,
) -> None:
    """Decide a number.

    Args:
        number: Of `sqlite.statements`.
        text: Has `p1i`, `p2b`, ... for a parameter of SQLite's, with the letter of its type, and
            `{v}` where the rows of them are read.
        touched: As in `_rows`; empty: it may be anything.
        key: Places of the parameters that tell the row that it changes, where the last change of
            a row is all that counts.
        applies: As in `SharedStatement`.
        alone: One statement cannot do many of them.
    """
    assert number not in SHARED, text
    marks = sorted({(int(place), letter) for place, letter in _MARK.findall(text)})
    names = ", ".join(f"p{place}" for place, _letter in marks)
    one = ", ".join(
        f"${at}::{_TYPES[letter]} as p{place}" for at, (place, letter) in enumerate(marks, 1)
    )
    arrays = ", ".join(f"${at}::{_TYPES[letter]}[]" for at, (_place, letter) in enumerate(marks, 1))
    plain = _MARK.sub(r"v.p\1", text)
    places = [place for place, _letter in marks]
    takes = tuple((place - 1, letter) for place, letter in marks)
    SHARED[number] = SharedStatement(
        plain.replace("{v}", f"(select {one}) as v"),
        "" if alone or not touched else plain.replace("{v}", f"unnest({arrays}) as v ({names})"),
        takes,
        applies,
        _rows(touched) if touched else None,
        tuple(places.index(int(place)) for place in key.split()),
        _reader(takes),
    )


def _insert(
    number: int,
    table: str,
    touched: str,
    places: Iterable[int | str] = (),
    *,
    replaces: bool = False,
    applies: Callable[[Parameters], bool] | None = None,
) -> None:
    """Decide a number that inserts a row of a table.

    Args:
        table: Its name.
        places: Where SQLite's statement has each column, from 1 on, or an expression; empty: it has
            all of them in order.
        replaces: Over the row with the same key.
        number, touched, applies: As in `_shared`.
    """
    shared = BY_NAME[table]
    chosen = [*places] or [*range(1, len(shared.columns) + 1)]
    columns = [*zip(shared.columns, chosen, strict=True)]
    values = ", ".join(
        place if isinstance(place, str) else f"p{place}{column.letter}" for column, place in columns
    )
    text = f"insert into {table} ({shared.column_names}) select {values} from {{v}}"
    key = ""
    if replaces:
        key = " ".join(str(place) for column, place in columns if column.name in shared.key)
        changed = (each.quoted for each in shared.columns if each.name not in shared.key)
        excluded = ", ".join(f"{name} = excluded.{name}" for name in changed)
        text += f" on conflict ({shared.unique}) do update set {excluded}"
    _shared(number, text, touched, key=key, applies=applies)


def _is_remote(place: int) -> Callable[[Parameters], bool]:
    """Return what tells records of remote forms by the parameter that has the kind, from 0 on."""
    return lambda parameters: parameters[place] == FormKind.REMOTE.value


def _is_shared_setting(parameters: Parameters) -> bool:
    return not str(parameters[0]).startswith(LOCAL_SETTINGS)


# --- inodes --------------------------------------------------------------------------------------
_insert(sqlite.INSERT_INODE, "inode", "1", [*range(1, 14), 15, "p16i & 1", 17, 18])
# SQLite's trigger `inode_gone` does the same.
_shared(
    sqlite.DELETE_INODE,
    "with target as (delete from symlink using {v} where ino = p1i),"
    " attributes as (delete from xattr using {v} where ino = p1i)"
    " delete from inode using {v} where ino = p1i",
    "1",
)
_shared(
    sqlite.SET_TIMES,
    "update inode set mtime_ns = p1i, ctime_ns = p2i from {v} where ino = p3i",
    "3",
    key="3",
)
_shared(
    sqlite.SET_LINKS,
    "update inode set nlink = p1i, mtime_ns = p2i, ctime_ns = p3i from {v} where ino = p4i",
    "4",
    key="4",
)
_shared(
    sqlite.SET_ATTRIBUTES,
    "update inode set mode = p1i, uid = p2i, gid = p3i, size = p4i, blocks = p5i, atime_ns = p6i,"
    " mtime_ns = p7i, ctime_ns = p8i from {v} where ino = p9i",
    "9",
    key="9",
)
_shared(
    sqlite.UNSEAL,
    "update inode set generation = p1i, flags = 1 from {v} where ino = p3i",
    "3",
    key="3",
)
_shared(
    sqlite.SEAL,
    "update inode set size = p1i, blocks = p2i, atime_ns = p3i, mtime_ns = p4i, ctime_ns = p5i,"
    " flags = 0 from {v} where ino = p6i",
    "6",
    key="6",
)
# A raw file that comes or goes seldom has other blocks than the one before.
_shared(
    sqlite.SET_RAW,
    "update inode set blocks = p2i, flags = 0 from {v}"
    " where ino = p3i and (blocks <> p2i or flags <> 0)",
    "3",
    key="3",
)
_shared(sqlite.SET_BLOB, "update inode set blob = p1i from {v} where ino = p3i", "3", key="3")
_shared(sqlite.FORGET_BLOB, "update inode set blob = 0 from {v} where blob = p1i and blob <> 0")
_shared(sqlite.SET_PIN, "update inode set pin = p1i from {v} where ino = p2i", "2", key="2")
_shared(sqlite.SET_CODEC, "update inode set codec = p1t from {v} where ino = p2i", "2", key="2")

# --- names and xattrs ----------------------------------------------------------------------------
_insert(sqlite.INSERT_DENTRY, "dentry", "in1")
_shared(
    sqlite.DELETE_DENTRY, "delete from dentry using {v} where parent = p1i and cookie = p2i", "in1"
)
_shared(
    sqlite.MOVE_DENTRY,
    "update dentry set parent = p1i, name = p2b from {v} where parent = p3i and cookie = p4i",
    "in1 in3",
    alone=True,
)
_shared(
    sqlite.POINT_DENTRY,
    "update dentry set ino = p1i from {v} where parent = p2i and cookie = p3i",
    "in2",
    key="2 3",
)
_insert(sqlite.INSERT_SYMLINK, "symlink", "1")
for _number in (sqlite.PUT_XATTR, sqlite.PUT_TYPED_XATTR, sqlite.PUT_TEXT_XATTR):
    _insert(_number, "xattr", "1", [1, 2, 3], replaces=True)
_shared(sqlite.DELETE_XATTR, "delete from xattr using {v} where ino = p1i and name = p2b", "1")

# --- contents ------------------------------------------------------------------------------------
_insert(sqlite.INSERT_BLOB, "blob", "1")
_shared(sqlite.DELETE_BLOB, "delete from blob using {v} where blob = p1i", "1")
# No two of them lie in the same place, which nobody can tell from the number of a blob.
_insert(sqlite.INSERT_FORM, "form", "form", [1, *range(3, 15)], applies=_is_remote(1))
_shared(
    sqlite.DELETE_FORM, "delete from form using {v} where blob = p1i", "form", applies=_is_remote(1)
)
_insert(sqlite.INSERT_BATCH, "batch", "batch")
_shared(
    sqlite.SET_BATCH,
    "update batch set live_count = p1i, live_bytes = p2i from {v} where key = p3t",
    "batch",
    key="3",
)
_shared(sqlite.DELETE_BATCH, "delete from batch using {v} where key = p1t", "batch")
_insert(sqlite.INSERT_GARBAGE, "garbage", "1", [1, 3], applies=_is_remote(1))
# Nobody can tell by its number whether an item was remote.
_shared(sqlite.DELETE_GARBAGE, "delete from garbage using {v} where item = p1i", "1")

_insert(sqlite.PUT_SETTING, "setting", "setting", replaces=True, applies=_is_shared_setting)
_shared(
    sqlite.DELETE_SETTING,
    "delete from setting using {v} where sha256(name) = sha256(p1u) and name = p1u",
    "setting",
    applies=_is_shared_setting,
)

# --- snapshots -----------------------------------------------------------------------------------
_insert(sqlite.INSERT_SNAPSHOT, "snapshot", "", [*range(1, 7), "'live'"])
_shared(sqlite.LEAVE_SNAPSHOT, "update snapshot set state = 'leaving' from {v} where snap = p1i")
_shared(sqlite.DELETE_SNAPSHOT, "delete from snapshot using {v} where snap = p1i")
_shared(sqlite.FORGET_HEAD, "delete from head")
_insert(sqlite.INSERT_HEAD, "head", "")
_insert(sqlite.INSERT_UNBORN, "inode_was", "1", [1, 2, *["0"] * 12])
_insert(sqlite.INSERT_KEPT, "kept", "1", [1, 2, 4, 5, 7, 8])
_shared(sqlite.DELETE_KEPT, "delete from kept using {v} where ino = p1i and generation = p2i", "1")
_shared(
    sqlite.DELETE_TARGETS,
    "delete from symlink_was using {v} where ino = any (p1l)"
    " and not exists (select from inode_was as w where w.ino = symlink_was.ino)",
)


def _undo_table(statements: UndoTable, table: str, key: str, same: str) -> None:
    """Decide how a snapshot lets go of the undo rows of a table; see `sqlite.UndoTable`."""
    _shared(
        statements.hand_down,
        f"update {table} set snap = p2i from {{v}}"
        f" where snap = p1i and {key} < p2i and ino = any (p3l) and not exists ("
        f"select from {table} as w where {same} and w.snap >= p2i and w.snap < p1i)",
    )
    _shared(
        statements.delete, f"delete from {table} using {{v}} where snap = p1i and ino = any (p2l)"
    )


_NAMES_WAS, _XATTRS_WAS, _INODES_WAS = sqlite.UNDO_TABLES
_undo_table(_NAMES_WAS, "dentry_was", "cookie", "w.cookie = dentry_was.cookie")
_undo_table(_XATTRS_WAS, "xattr_was", "ino", "w.ino = xattr_was.ino and w.name = xattr_was.name")
_undo_table(_INODES_WAS, "inode_was", "ino", "w.ino = inode_was.ino")


def _undo_row(
    statements: UndoStatement, table: str, values: str, source: str, same: str, snap: str
) -> None:
    """Decide how an undo row is written; see `sqlite.UndoStatement`.

    Args:
        statements: Both ways.
        table: That of the row.
        values: What its columns get.
        source: Where they are read, and of which rows.
        same: A condition: `w` is an undo row of the same.
        snap: The parameter that has the snapshot.
    """
    text = f"insert into {table} ({BY_NAME[table].column_names}) select {values} from {source}"
    word = "and" if " where " in source else "where"
    unless = f" {word} not exists (select from {table} as w where {same} and w.snap >= {snap})"
    _shared(statements.usual, f"{text} on conflict do nothing", "1")
    # It looks for rows that one before it in the same statement would write.
    _shared(statements.beside_leaving, f"{text}{unless} on conflict do nothing", "1", alone=True)


_undo_row(
    sqlite.SAVE_INODE,
    "inode_was",
    f"ino, p2i, {WAS_COLUMNS}",
    "inode, {v} where ino = p1i",
    "w.ino = p1i",
    "p2i",
)
_undo_row(
    sqlite.SAVE_DENTRY,
    "dentry_was",
    "p1i, p2i, p3i, p4b, p5i",
    "{v}",
    "w.cookie = p1i",
    "p2i",
)
_undo_row(
    sqlite.SAVE_XATTR,
    "xattr_was",
    "p1i, p2b, p3i, (select value from xattr where ino = p1i and name = p2b)",
    "{v}",
    "w.ino = p1i and w.name = p2b",
    "p3i",
)
_undo_row(
    sqlite.SAVE_XATTRS,
    "xattr_was",
    "x.ino, x.name, p2i, x.value",
    "xattr as x, {v} where x.ino = p1i",
    "w.ino = x.ino and w.name = x.name",
    "p2i",
)
_shared(
    sqlite.SAVE_TARGET,
    "insert into symlink_was (ino, target) select ino, target from symlink, {v} where ino = p1i"
    " on conflict do nothing",
    "1",
)

# --- foreign objects -----------------------------------------------------------------------------
_insert(sqlite.PUT_SOURCE, "source", "source", replaces=True)
_shared(sqlite.DELETE_SOURCE, "delete from source using {v} where source = p1i", "source")
_insert(sqlite.INSERT_OBJECT, "foreign_object", "foreign_object")
_shared(
    sqlite.DELETE_OBJECT, "delete from foreign_object using {v} where ino = p1i", "foreign_object"
)
_shared(
    sqlite.RETIRE_OBJECT,
    "update foreign_object set current = 0 from {v} where ino = p1i",
    "foreign_object",
)
_shared(
    sqlite.DELETE_UNSHOWN_OBJECTS,
    "delete from foreign_object using {v} where ino = any (p1l)"
    " and not exists (select from inode as i where i.ino = foreign_object.ino)"
    " and not exists (select from inode_was as w where w.ino = foreign_object.ino)",
)
_shared(
    sqlite.PUT_GONE,
    "insert into foreign_gone (source, key) select p1i, p2b from {v} on conflict do nothing",
    "foreign_gone",
)
_shared(
    sqlite.DELETE_GONE,
    "delete from foreign_gone using {v}"
    " where source = p1i and sha256(key) = sha256(p2b) and key = p2b",
    "foreign_gone",
)
_shared(sqlite.FORGET_GONE, "delete from foreign_gone using {v} where source = p1i", "foreign_gone")
_shared(
    sqlite.FORGET_OBJECTS,
    "delete from foreign_object using {v} where source = p1i",
    "foreign_object",
)
_insert(sqlite.PUT_PUBLISHED, "published", "published", replaces=True)
_shared(
    sqlite.DELETE_PUBLISHED,
    "delete from published using {v} where sha256(url) = sha256(p1u) and url = p1u",
    "published",
)
_insert(sqlite.INSERT_DIRECTORY, "foreign_directory", "foreign_directory")
_shared(
    sqlite.SET_LISTED,
    "update foreign_directory set listed_ns = p1i from {v} where ino = p2i",
    "foreign_directory",
    key="2",
)
_shared(
    sqlite.DELETE_DIRECTORY,
    "delete from foreign_directory using {v} where ino = p1i",
    "foreign_directory",
)
_shared(
    sqlite.FORGET_DIRECTORIES,
    "delete from foreign_directory using {v} where source = p1i",
    "foreign_directory",
)


# --- what a node has alone -----------------------------------------------------------------------
def _numbers_of(texts: Iterable[str]) -> set[int]:
    return {TEXTS.index(text) for text in texts}


def _of_fields(statements: sqlite.FieldStatements) -> Iterable[int]:
    make, drop_triggers, add, remove, end = statements
    return (*make, *drop_triggers, *add, *(() if remove is None else (remove,)), *end)


LOCAL = frozenset(
    {
        # They change only columns that are not shared. A file that gets durable is sealed, and its
        # shared flags are 0 already.
        *(sqlite.SET_DURABLE, sqlite.SET_PACKED, sqlite.SET_ACCESSED, sqlite.SET_TYPED),
        *(sqlite.INSERT_INTENT, sqlite.DELETE_INTENT),
        *(sqlite.PUT_PENDING, sqlite.DELETE_PENDING),
        *(sqlite.PUT_PENDING_SINCE, sqlite.PUT_PENDING_CODE),
        *(sqlite.PUT_DECISION, sqlite.PUT_METRIC, sqlite.PUT_EVENT),
        # Its format.
        *(sqlite.MARK_FOREIGN, sqlite.UNMARK_FOREIGN),
        # Its indexes.
        *(sqlite.INSERT_ATTRIBUTE_NAME, sqlite.INSERT_ELEMENT, sqlite.DELETE_ELEMENT),
        *(sqlite.PUT_FIELD_INDEX, sqlite.DELETE_FIELD_INDEX),
        *(number for each in sqlite.FIELD_STATEMENTS.values() for number in _of_fields(each)),
        *(sqlite.PUT_TEXT_INDEX, sqlite.DELETE_TEXT_INDEX),
        *(number for each in sqlite.TEXT_STATEMENTS for number in each),
        *sqlite.NAME_CUT_STATEMENTS,
        # Nodes that read have these rows from the shared tables.
        *(sqlite.INSERT_INODE_WAS, sqlite.INSERT_XATTR_WAS, sqlite.INSERT_SYMLINK_WAS),
        # Only in journals of versions without shared tables.
        *_numbers_of(
            text.replace("create trigger", "create trigger if not exists", 1)
            for text in UNDO_TRIGGERS
        ),
        *_numbers_of(f"drop trigger if exists {Made.by(text).name}" for text in UNDO_TRIGGERS),
    }
)
"""Numbers that change nothing that is shared."""


ROWS_A_STATEMENT = 1000
"""As many records go into one statement. With 1000 creates in a transaction the server takes 9 us
for each, with one at a time in it 97 us."""


def translate(records: Iterable[Record]) -> list[Statement]:
    """Return what some records do to the shared tables, as statements in order.

    Records that do the same, and between which no other one touches their rows, go into one
    statement: pass all that go into one transaction.

    Args:
        records: Those of one journal entry, or of several in order.

    Returns:
        Nothing if they change only what a node has alone.

    Raises:
        KeyError: A number is not decided.
    """
    groups: list[tuple[SharedStatement, list[tuple[SqlValue, ...]]]] = []
    newest: dict[str, int] = {}
    """The last group with a text."""
    last_touch: dict[Hashable, int] = {}
    """The last group that touches something."""
    first_open = 0
    for number, parameters in records:
        if number in LOCAL:
            continue
        shared = SHARED[number]
        if shared.applies is not None and not shared.applies(parameters):
            continue
        at = newest.get(shared.many, -1)
        touched = () if shared.touches is None else shared.touches(parameters)
        joins = at >= first_open and len(groups[at][1]) < ROWS_A_STATEMENT
        for each in touched:
            joins = joins and last_touch.get(each, -1) <= at
        if not joins:
            at = len(groups)
            groups.append((shared, []))
            if shared.touches is None:
                first_open = at + 1
            elif shared.many:
                newest[shared.many] = at
        groups[at][1].append(shared.values_of(parameters))
        for each in touched:
            last_touch[each] = at
    return [_statement(shared, rows) for shared, rows in groups]


def _statement(shared: SharedStatement, rows: list[tuple[SqlValue, ...]]) -> Statement:
    if len(rows) > 1 and shared.key:
        rows = [*{tuple(row[place] for place in shared.key): row for row in rows}.values()]
    if len(rows) == 1:
        return shared.text, rows[0]
    return shared.many, tuple(map(array_text, zip(*rows, strict=True)))
