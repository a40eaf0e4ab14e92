"""The tables of the indexes of fields that memfs itself fills, which a user asks for.

SQLite's own `create index` takes a second for a million inodes, and nothing can be done meanwhile.
So such an index is a table of its own, filled in steps, and kept up to date by triggers that come
before the first step and go before the first entry is removed. Mounts without one have no trigger.

Invariant: while an index has its triggers, it has an entry for each inode up to `through` and for
each one that was made or changed since, and no others.
"""

from __future__ import annotations

COLUMNS = {"$size": "size", "$mtime": "mtime_ns"}
"""Columns of `inode` by the field that can have an index."""

NUMBERS = {"$size": 1, "$mtime": 2}
"""What stands for a field in `field_value`; never another one."""

BUILDING, WHOLE, LEAVING = "building", "whole", "leaving"

TABLES = (
    """
    create table if not exists field_index (
        field text primary key,         -- '$size' or '$mtime'
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
)


def _triggers(field: str) -> tuple[str, ...]:
    number, column = NUMBERS[field], COLUMNS[field]
    put = f"insert or replace into field_value values ({number}, new.{column}, new.ino);"
    gone = f"""delete from field_value
            where field = {number} and value = old.{column} and ino = old.ino;"""
    return (
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
    )


TRIGGERS = {field: _triggers(field) for field in NUMBERS}
"""There exactly while a field has an index that is not leaving."""
