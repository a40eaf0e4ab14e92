"""The tables of the indexes of fields that memfs itself fills, which a user asks for.

SQLite's own `create index` takes a second for a million inodes, and nothing can be done meanwhile.
So such an index is a table of its own, filled in steps, and kept up to date by triggers that come
before the first step and go before the first entry is removed. Mounts without one have no trigger.

Names are in a table of FTS5, by the cookie of the dentry and each three letters in sequence. It
tells who may have a text in its name, and the name itself decides (`finding`).

Invariant: while an index has its triggers, it has an entry for each inode up to `through` and for
each one that was made or changed since, and no others.
"""

from __future__ import annotations

from typing import NamedTuple

COLUMNS = {"$size": "size", "$mtime": "mtime_ns"}
"""Columns of `inode` by the field that can have an index."""

NUMBERS = {"$size": 1, "$mtime": 2}
"""What stands for a field in `field_value`; never another one."""

NAME_FIELD = "$name"

FIELDS = frozenset({*NUMBERS, NAME_FIELD})

BUILDING, WHOLE, LEAVING = "building", "whole", "leaving"

TABLES = (
    """
    create table if not exists field_index (
        field text primary key,         -- '$size', '$mtime' or '$name'
        through integer not null,       -- inodes up to here are in it
        state text not null             -- 'building'; 'whole': all are in it; 'leaving': entries
                                        -- go in steps
    ) without rowid, strict
    """,
    """
    create table if not exists field_value (
        field integer not null,         -- its number
        value integer not null,
        ino integer not null,           -- inode.ino
        primary key (field, value, ino)
    ) without rowid, strict
    """,
    # Which names are in `name_text`: what is not there must not be deleted there.
    """
    create table if not exists name_entry (
        cookie integer primary key,     -- dentry.cookie
        ino integer not null            -- dentry.ino
    ) strict
    """,
)

NAME_TEXT = """
    create virtual table if not exists name_text using fts5(
        text, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')
"""
"""There while names have an index, by `name_entry.cookie`; the text is what `fold_name` returns."""


class NameCuts(NamedTuple):
    """The statements that remove the index of names in steps; `FieldTexts.end` removes the rest."""

    no_merge: str
    """FTS5 merges no segments from now on: it would read blocks that are gone."""
    no_crisis: str
    """Likewise where there are many of them."""
    blocks: str
    """Removes up to ?1 blocks of `name_text`; then nothing can be read any more."""
    entries: str
    """Removes up to ?1 rows of `name_entry`."""


NAME_CUTS = NameCuts(
    "insert into name_text (name_text, rank) values ('automerge', 0)",
    "insert into name_text (name_text, rank) values ('crisismerge', 1000)",
    "delete from name_text_data where id in ("
    "select id from name_text_data where id > 10 order by id limit ?1)",
    "delete from name_entry where cookie in ("
    "select cookie from name_entry order by cookie limit ?1)",
)


class FieldTexts(NamedTuple):
    """The statements of one index."""

    tables: tuple[str, ...]
    """Those that are there only with it."""
    triggers: tuple[str, ...]
    add: tuple[str, ...]
    """Take inodes in, from beyond ?1 up to ?2."""
    remove: str | None
    """Removes entries up to value ?1 of inode ?2; None: `NAME_CUTS` remove them."""
    end: tuple[str, ...]


def _of_number(field: str) -> FieldTexts:
    number, column = NUMBERS[field], COLUMNS[field]
    put = f"insert or replace into field_value values ({number}, new.{column}, new.ino);"
    gone = f"""delete from field_value
            where field = {number} and value = old.{column} and ino = old.ino;"""
    return FieldTexts(
        (),
        (
            f"""
    create trigger {column}_comes after insert on inode begin
        {put}
    end
    """,
            f"""
    create trigger {column}_changes after update of {column} on inode
    when new.{column} <> old.{column} begin
        {gone}
        {put}
    end
    """,
            f"""
    create trigger {column}_goes after delete on inode begin
        {gone}
    end
    """,
        ),
        (
            f"insert or replace into field_value select {number}, {column}, ino from inode"
            " where ino > ?1 and ino <= ?2",
        ),
        f"delete from field_value where field = {number} and (value, ino) <= (?1, ?2)",
        (),
    )


_NAME_COMES = """
        insert into name_text (rowid, text) values (new.cookie, fold_name(new.name));
        insert or replace into name_entry values (new.cookie, new.ino);
"""
# The step that builds has not come to all of them yet.
_NAME_GOES = """
        insert into name_text (name_text, rowid, text)
            select 'delete', cookie, fold_name(old.name) from name_entry
            where cookie = old.cookie;
        delete from name_entry where cookie = old.cookie;
"""
_OF_NAMES = FieldTexts(
    (NAME_TEXT,),
    (
        f"""
    create trigger name_comes after insert on dentry begin {_NAME_COMES}
    end
    """,
        f"""
    create trigger name_changes after update of name, ino on dentry
    when new.name <> old.name or new.ino <> old.ino begin {_NAME_GOES} {_NAME_COMES}
    end
    """,
        f"""
    create trigger name_goes after delete on dentry begin {_NAME_GOES}
    end
    """,
    ),
    (
        # In order of cookie: FTS5 writes a segment whenever a lower number comes.
        "insert into name_text (rowid, text) select cookie, fold_name(name) from dentry"
        " where ino > ?1 and ino <= ?2 and cookie not in (select cookie from name_entry)"
        " order by cookie",
        "insert or ignore into name_entry select cookie, ino from dentry"
        " where ino > ?1 and ino <= ?2",
    ),
    None,
    ("drop table if exists name_text", "delete from name_entry"),
)

TEXTS = {**{field: _of_number(field) for field in NUMBERS}, NAME_FIELD: _OF_NAMES}

TRIGGERS = {field: texts.triggers for field, texts in TEXTS.items()}
"""There exactly while a field has an index that is not leaving."""


def fold_name(name: bytes) -> str:
    """Return the text of a name, in one case; what is no text matches nothing."""
    return name.decode(errors="replace").casefold()


def match_of(words: list[str], stride: int = 1) -> str | None:
    """Return what a table of FTS5 is asked for: texts that may have all words; None: any may.

    Args:
        words: Folded.
        stride: Letters between two that a part of three begins with; up to 3, which names each
            letter in one part.
    """
    grams = dict.fromkeys(
        word[begin : begin + 3]
        for word in words
        if "\0" not in word
        for begin in (*range(0, len(word) - 3, stride), len(word) - 3)
        if begin >= 0
    )
    return " AND ".join(f'"{_quoted(gram)}"' for gram in [*grams][:_GRAM_COUNT_MAX]) or None


_GRAM_COUNT_MAX = 40
"""The first ones tell a text from most others."""


def _quoted(gram: str) -> str:
    return gram.replace('"', '""')
