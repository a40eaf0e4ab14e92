"""The tables that nodes share, and which rows and columns of SQLite's tables they hold.

A shared table has the name and the columns of one of `sqlite.schema`, less what is one node's own:
raw and packed forms, accesses, moves, and the indexes of queries. Numbers are `bigint`, bytes are
`bytea`, texts are `text` in the order of their bytes. Where a text is a key and may be long, it is
the `bytea` of its UTF-8: a B-tree takes keys of 2,704 bytes at most, so such keys are unique by
their SHA-256, and PostgreSQL has that of bytes only.

Invariant: a shared table has exactly the rows of `select_local`, asked of the SQLite engine of a
node that has applied all changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memfs.metadata.sqlite.statements import Row, SqlValue

TYPES = {"i": "bigint", "b": "bytea", "t": "text", "u": "bytea"}
"""Types of PostgreSQL by the letter that stands for them here, and in `statements`: a number,
bytes, a text, and a text that is stored as bytes."""

_RESERVED = frozenset({"offset"})
"""Names of columns that PostgreSQL wants in quotes."""

_ESCAPE = "\x10"
"""Begins what stands for a letter that PostgreSQL's texts cannot have."""

LOCAL_SETTINGS = "query."
"""Begins the names of settings that stay with their node: how far its indexes are."""


class Column(NamedTuple):
    """A column of a shared table."""

    name: str
    letter: str
    """One of `TYPES`."""
    nullable: bool
    local: str
    """What it is in SQLite, an expression of the columns there."""

    @property
    def quoted(self) -> str:
        """Its name as both databases take it."""
        return f'"{self.name}"' if self.name in _RESERVED else self.name

    @property
    def definition(self) -> str:
        """How `create table` has it."""
        collation = ' collate "C"' if self.letter == "t" else ""
        return (
            f"{self.quoted} {TYPES[self.letter]}{collation}{'' if self.nullable else ' not null'}"
        )


class SharedTable(NamedTuple):
    """A table of PostgreSQL with rows of a table of SQLite that has the same name."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """Columns that tell a row."""
    long_key: str
    """The one of them that may be too long for an index; empty: they are all short."""
    where: str
    """A condition of SQLite: these rows are shared; empty: all are."""
    options: str
    """Parameters of storage, as `create table ... with` has them; may be empty."""
    indexes: tuple[str, ...]
    """Further ones, which statements find rows by, or which keep rows apart."""

    @property
    def column_names(self) -> str:
        """The columns, in order, as a statement of PostgreSQL lists them."""
        return ", ".join(column.quoted for column in self.columns)

    @property
    def unique(self) -> str:
        """The key as PostgreSQL's `on conflict` names it."""
        return ", ".join(f"sha256({name})" if name == self.long_key else name for name in self.key)

    @property
    def create(self) -> tuple[str, ...]:
        """The statements that make it, in order."""
        definitions = [column.definition for column in self.columns]
        if not self.long_key:
            definitions.append(f"primary key ({self.unique})")
        options = f" with ({self.options})" if self.options else ""
        texts = [f"create table {self.name} ({', '.join(definitions)}){options}"]
        if self.long_key:
            texts.append(f"create unique index {self.name}_key on {self.name} ({self.unique})")
        return (*texts, *self.indexes)

    @property
    def select_local(self) -> str:
        """What SQLite is asked for the rows, in no order; `stored_row` makes shared ones of them.

        A `where` may be appended by `and`.
        """
        columns = ", ".join(column.local for column in self.columns)
        return f"select {columns} from {self.name} where {self.where or 'true'}"

    @property
    def select_shared(self) -> str:
        """What PostgreSQL is asked for the rows, in no order."""
        return f"select {self.column_names} from {self.name}"

    @property
    def insert_many(self) -> str:
        """What inserts rows; its parameters are `arrays_of` them."""
        types = (f"${at}::{TYPES[each.letter]}[]" for at, each in enumerate(self.columns, 1))
        return (
            f"insert into {self.name} ({self.column_names})"
            f" select * from unnest({', '.join(types)})"
        )

    def arrays_of(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """Return rows of PostgreSQL as one array for each column."""
        return tuple(map(array_text, zip(*rows, strict=True)))

    def key_of(self, row: Sequence[SqlValue]) -> tuple[SqlValue, ...]:
        """Return what tells a row of either query from the others."""
        return tuple(
            value
            for column, value in zip(self.columns, row, strict=True)
            if column.name in self.key
        )


def _table(
    name: str,
    columns: str,
    key: str,
    *,
    long_key: str = "",
    local: str = "",
    where: str = "",
    options: str = "",
    indexes: Iterable[str] = (),
) -> SharedTable:
    """Return a table by short words.

    Args:
        name: That of the table in both databases.
        columns: Each as `name:letter`, with a question mark behind it where null is allowed.
        key: Columns.
        local: `column = expression` of SQLite, where that is not the column itself.
        long_key, where, options, indexes: As in `SharedTable`.
    """
    column, _, expression = local.partition(" = ")
    made = []
    for word in columns.split():
        column_name, _, letter = word.partition(":")
        made.append(Column(column_name, letter[0], letter.endswith("?"), ""))
    placed = [
        each._replace(
            local=expression
            if each.name == column
            else f"cast({each.quoted} as blob)"
            if each.letter == "u"
            else each.quoted
        )
        for each in made
    ]
    return SharedTable(
        name, tuple(placed), tuple(key.split()), long_key, where, options, tuple(indexes)
    )


_BUSY = "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05"
"""Rows change where they are, in pages that have room for it."""

TABLES = (
    # Without raw, packed and accessed_ns; of the flags only that of an unsealed file.
    _table(
        "inode",
        "ino:i mode:i uid:i gid:i nlink:i rdev:i size:i blocks:i atime_ns:i mtime_ns:i ctime_ns:i"
        " btime_ns:i generation:i blob:i flags:i pin:i codec:t?",
        "ino",
        local="flags = flags & 1",
        options=_BUSY,
        indexes=["create index inode_blob on inode (blob) where blob <> 0"],
    ),
    _table(
        "dentry",
        "parent:i cookie:i name:b ino:i",
        "parent cookie",
        indexes=["create unique index dentry_name on dentry (parent, name)"],
    ),
    _table("symlink", "ino:i target:b", "ino"),
    _table("xattr", "ino:i name:b value:b", "ino name"),
    _table("blob", "blob:i size:i digest:b", "blob"),
    # Remote forms alone, so that no column tells the kind.
    _table(
        "form",
        "blob:i store:t key:t offset:i? etag:t version:t stored_bytes:i layout:t codec:t"
        " shuffle_bytes:i key_id:t table_id:t owned:i",
        "blob",
        where="kind = 'remote'",
        indexes=[
            'create unique index form_place on form (key, coalesce("offset", 0)) where owned = 1'
        ],
    ),
    _table("batch", "key:t size_bytes:i live_count:i live_bytes:i", "key", options=_BUSY),
    _table("garbage", "item:i location:t", "item", where="kind = 'remote'"),
    _table(
        "setting",
        "name:u value:b",
        "name",
        long_key="name",
        where=f"substr(name, 1, {len(LOCAL_SETTINGS)}) <> '{LOCAL_SETTINGS}'",
        options=_BUSY,
    ),
    _table(
        "snapshot",
        "snap:i name:t created_ns:i description:t labels:t kept_until_ns:i? state:t",
        "snap",
        indexes=["create unique index snapshot_name on snapshot (name) where state = 'live'"],
    ),
    _table("head", "snap:i", "snap"),
    _table(
        "inode_was",
        "ino:i snap:i mode:i uid:i gid:i nlink:i rdev:i size:i blocks:i atime_ns:i mtime_ns:i"
        " ctime_ns:i btime_ns:i generation:i",
        "ino snap",
    ),
    _table(
        "dentry_was",
        "cookie:i snap:i parent:i name:b ino:i",
        "cookie snap",
        indexes=["create index dentry_was_ino on dentry_was (ino)"],
    ),
    _table("xattr_was", "ino:i name:b snap:i value:b?", "ino name snap"),
    _table("symlink_was", "ino:i target:b", "ino"),
    # Without raw, and without the blocks of a raw file.
    _table("kept", "ino:i generation:i blob:i size:i mtime_ns:i open:i", "ino generation"),
    _table(
        "source",
        "source:i url:t root:i watch_s:i deleted:t listed_ns:i problem:t options:t",
        "source",
    ),
    _table(
        "foreign_object",
        "ino:i generation:i source:i key:b etag:t version:t size:i mtime_ns:i digest:b?"
        " checked_ns:i ours:i current:i conflict:t",
        "ino",
        indexes=[
            "create unique index foreign_key on foreign_object (source, sha256(key))"
            " where current = 1"
        ],
    ),
    _table("foreign_gone", "source:i key:b", "source key", long_key="key"),
    _table(
        "foreign_directory",
        "ino:i source:i prefix:b listed_ns:i",
        "ino",
        indexes=[
            "create unique index foreign_prefix on foreign_directory (source, sha256(prefix))"
        ],
    ),
    _table(
        "published",
        "url:u target:t ino:i generation:i etag:t token:t size:i mtime_ns:i digest:b problem:t",
        "url",
        long_key="url",
    ),
)
"""All of them."""

BY_NAME = {table.name: table for table in TABLES}


def array_text(values: Iterable[SqlValue]) -> str:
    """Return an array as PostgreSQL reads it from a text: of numbers, bytes, texts and nulls."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: SqlValue) -> str:
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def stored_text(text: str) -> str:
    r"""Return a text as PostgreSQL can hold it: it has no NUL, which SQLite has.

    `\0` becomes `\x10@`, and `\x10` itself `\x10P`; each text has one such form, and all others,
    which is all that people write, stay as they are.
    """
    if "\0" not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + "P").replace("\0", _ESCAPE + "@")


def stored_row(row: Iterable[SqlValue]) -> Row:
    """Return a row of `SharedTable.select_local` as PostgreSQL has it."""
    return tuple(stored_text(value) if isinstance(value, str) else value for value in row)


def local_text(text: str) -> str:
    """Return the text that `stored_text` has made a text of."""
    if _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE + "@", "\0").replace(_ESCAPE + "P", _ESCAPE)


_TEXT_PLACES = {
    table.name: tuple(
        (at, each.letter) for at, each in enumerate(table.columns) if each.letter in "tu"
    )
    for table in TABLES
}


def local_row(table: SharedTable, row: Row) -> Row:
    """Return a row of `SharedTable.select_shared` as SQLite has its values."""
    places = _TEXT_PLACES[table.name]
    if not places:
        return row
    values = list(row)
    for at, letter in places:
        if (value := values[at]) is not None:
            values[at] = value.decode() if letter == "u" else local_text(value)
    return tuple(values)
