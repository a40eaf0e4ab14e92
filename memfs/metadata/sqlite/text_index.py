"""The indexes of texts: which values of an xattr may have a part, or a word, in them.

An index is for one name of xattrs. It is a table of FTS5 by inode: each three letters in sequence
of the value, in one case; of a JSON array those of its decoded elements. It tells who may have a
text, and the value itself decides. Entries are made and removed in the same change as the value.

Invariant: while an index is not leaving, it has an entry for each value that is a text, of inodes
up to `through`, and no others; once it is whole, for all. Nothing reads one that is leaving.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.sqlite.field_index import IndexNotes
from memfs.metadata.sqlite.field_schema import BUILDING, LEAVING, WHOLE, match_of
from memfs.query.filters import Condition, Operator
from memfs.query.prefixes import literal_parts
from memfs.query.values import Value, elements_of, equal_values

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from memfs.types import InodeNo

SLOT_COUNT = 16
"""Names of xattrs that can have such an index; each has tables and statements of its own."""

TOKENIZER = "trigram case_sensitive 1"
"""Two sets of 100,000 texts were indexed, of 40 letters (four words of 2000) and of 60 letters of
prose, 2 vCPU: 0.39 and 1.16 s of CPU to build, 33 and 75 bytes a text, 49 and 55 us a change.
`unicode61` takes 0.26 and 0.37 s, 22 and 18 bytes, 20 and 25 us, and finds whole words only, where
`$contains`, `$text` and `$regex` ask for any part of a text."""

FOLDING = f"1 {unicodedata.unidata_version}"
"""What `fold_text` makes of a text: another version of Unicode may know more pairs of letters."""

LETTERS_AN_ENTRY = 64
"""Values are up to 4 KiB: so many letters count as an entry in a step."""

TABLE = """
    create table if not exists text_index (
        name blob primary key,          -- of the xattr, with its prefix
        slot integer not null,          -- the number of its table, `xattr_text_0` say
        through integer not null,       -- inodes up to here are in it
        state text not null,            -- 'building'; 'whole': all are in it; 'leaving': its table
                                        -- goes in steps
        folding text not null           -- `FOLDING` when it was begun
    ) without rowid, strict
"""

_SELECT = "select name, slot, through, state from text_index order by name"
SELECT_WHOLE_TEXTS = f"select name, slot from text_index where state = '{WHOLE}'"
_OTHERS = "select 1 from text_index where folding <> ? limit 1"

_UNUSABLE = """
    delete from text_index where slot not between 0 and ? - 1
    or exists (select 1 from text_index as t
        where t.slot = text_index.slot and t.name < text_index.name)
"""

_STRIDE = 3
"""`word1999` among 200,000 texts: 3.3 ms of CPU to find 411 by all of its parts of three letters,
1.3 ms to find 548 by each third part and the last."""

_NO_LETTERS = re.compile("[\0\ud800-\udfff\ufffe\uffff]")
"""What SQLite cannot hold, ends a text with, or reads as U+FFFD."""


class TextTexts(NamedTuple):
    """The statements of the index in one slot."""

    make: str
    build: str
    """Takes the values of xattr ?3 in, of inodes from beyond ?1 up to ?2."""
    insert: str
    """Takes in what xattr ?2 of inode ?1 is now."""
    delete: str
    """Takes out what xattr ?2 of inode ?1 is now, which is in it."""
    no_merge: str
    """FTS5 merges no segments from now on. It has some entries in memory, writes them with the
    tables, and would read blocks that are gone."""
    no_crisis: str
    """Likewise where there are many of them."""
    cut: str
    """Removes up to ?1 blocks; then nothing can be read any more."""
    end: str


def table_of(slot: int) -> str:
    """Return the name of the table in a slot."""
    return f"xattr_text_{slot}"


def texts_of(slot: int) -> TextTexts:
    """Return the statements of the index in a slot."""
    table = table_of(slot)
    return TextTexts(
        f"create virtual table if not exists {table} using fts5("
        f"text, content='', columnsize=0, detail=none, tokenize='{TOKENIZER}')",
        # In order of inode: FTS5 writes a segment whenever a lower number comes.
        f"insert into {table} (rowid, text) select x.ino, fold_text(x.typed)"
        " from inode as i cross join xattr as x on x.ino = i.ino and x.name = ?3"
        " where i.ino > ?1 and i.ino <= ?2 and typeof(x.typed) = 'text' order by i.ino",
        f"insert into {table} (rowid, text) select ino, fold_text(typed) from xattr"
        " where ino = ?1 and name = ?2 and typeof(typed) = 'text'",
        f"insert into {table} ({table}, rowid, text) select 'delete', ino, fold_text(typed)"
        " from xattr where ino = ?1 and name = ?2 and typeof(typed) = 'text'",
        f"insert into {table} ({table}, rank) values ('automerge', 0)",
        f"insert into {table} ({table}, rank) values ('crisismerge', 1000)",
        # 200 blocks take 1 ms; `drop table` 7 us for each page, all at once.
        f"delete from {table}_data where id in ("
        f"select id from {table}_data where id > 10 order by id limit ?1)",
        f"drop table if exists {table}",
    )


def fold_text(typed: object) -> str:
    """Return the letters that are indexed of the value of an xattr.

    From an array they are those of its elements; a number in it has the same letters however it was
    written.
    """
    if not isinstance(typed, str):
        return ""
    elements = elements_of(typed)
    return _fold(typed if elements is None else "\n".join(map(_letters_of, elements)))


def _letters_of(element: Value) -> str:
    if isinstance(element, float) and element.is_integer():
        return str(int(element))
    return str(element)


def _fold(text: str) -> str:
    return _NO_LETTERS.sub("\ufffd", text).casefold()


def grams_of(text: str) -> set[str]:
    """Return what FTS5 has of a folded text."""
    return {text[begin : begin + 3] for begin in range(len(text) - 2)}


def text_match(conditions: Iterable[Condition]) -> str | None:
    """Return what an index is asked for, of conditions on its xattr that all have to hold.

    None: all values may meet them.
    """
    words: list[str] = []
    parts: list[str | None] = []
    for operator, operand in [(each.operator, each.operands[0]) for each in conditions if each[2]]:
        text = str(operand)
        if operator is Operator.TEXT:
            words += _fold(text).split()
        elif operator is Operator.REGEX:
            words += map(_fold, literal_parts(text))
        elif operator is Operator.CONTAINS:
            # An element of an array may be the number that the text looks like.
            folded = [_fold(_letters_of(value)) for value in equal_values(operand)]
            ways = [match_of([word], _STRIDE) for word in folded]
            if None not in ways:
                parts.append(" OR ".join(f"({way})" for way in ways))
    parts.append(match_of(words, _STRIDE))
    return " AND ".join(f"({part})" for part in parts if part is not None) or None


class TextNote(NamedTuple):
    """How much of one index is there."""

    slot: int
    through: InodeNo
    state: str

    def has(self, ino: int) -> bool:
        """Tell whether an inode has its entry, if its value is a text."""
        return self.state == WHOLE or (self.state == BUILDING and ino <= self.through)


class TextIndexes(IndexNotes[bytes, TextNote, "dict[str, int]"]):
    """Notes by name of xattr, in order; those that are whole have their slots."""

    def __init__(self) -> None:
        super().__init__(_SELECT, TextNote, _whole_slots)

    def free_slot(self) -> int | None:
        """Return a slot without an index; None: there is no such slot."""
        taken = {note.slot for note in self.notes.values()}
        return next((slot for slot in range(SLOT_COUNT) if slot not in taken), None)


def _whole_slots(notes: Mapping[bytes, TextNote]) -> dict[str, int]:
    return {name.decode(): note.slot for name, note in notes.items() if note.state == WHOLE}


def empty_texts(connection: sqlite3.Connection) -> None:
    """Remove all entries, in the open transaction; those that stay are built anew."""
    for slot in range(SLOT_COUNT):
        connection.execute(texts_of(slot).end)
    connection.execute("delete from text_index where state = ?", (LEAVING,))
    connection.execute(_UNUSABLE, (SLOT_COUNT,))
    connection.execute(
        "update text_index set through = 0, state = ?, folding = ?", (BUILDING, FOLDING)
    )
    for (slot,) in connection.execute("select slot from text_index").fetchall():
        connection.execute(texts_of(slot).make)


def empty_foreign_texts(connection: sqlite3.Connection) -> None:
    """Remove all entries, if some were folded in another way than this version folds."""
    if connection.execute(_OTHERS, (FOLDING,)).fetchone() is not None:
        empty_texts(connection)
