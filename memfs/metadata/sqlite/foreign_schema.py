"""The tables of sources and foreign objects.

Each state has the tables. Only one with a source says so in its number (`pragma user_version`): a
memfs that does not know them would take files without local bytes for damaged, and refuses it.

Invariant: no statement here touches another table.
"""

from __future__ import annotations

from memfs.metadata.foreign import ForeignDirectory, ForeignObject, Source

TABLES: tuple[str, ...] = (
    """
    create table if not exists source (
        source integer primary key,     -- from the id lease, never reused
        url text not null,              -- without secrets
        root integer not null,          -- inode.ino of a directory; it may have been removed
        watch_s integer not null,       -- 0: listed only when somebody asks
        deleted text not null,          -- 'keep' or 'remove'
        listed_ns integer not null,     -- 0: never to its end
        problem text not null,          -- ''; else why nothing was removed
        options text not null           -- a JSON object, without secrets
    ) strict
    """,
    """
    create table if not exists foreign_object (
        ino integer primary key,        -- an inode, or one that a snapshot shows
        generation integer not null,    -- of the file with these bytes; 0: of no file
        source integer not null,        -- source.source
        key blob not null,              -- behind the source's URL
        etag text not null,
        version text not null,          -- '': the bucket keeps no versions
        size integer not null,          -- bytes
        mtime_ns integer not null,
        digest blob,                    -- BLAKE3-256, 32 bytes; null: not all were read
        checked_ns integer not null,
        ours integer not null,          -- 1: memfs has published it
        current integer not null,       -- 1: listings compare the key with this inode
        conflict text not null          -- '', 'changed', 'gone' or 'taken'
    ) strict
    """,
    "create unique index if not exists foreign_key on foreign_object (source, key)"
    " where current = 1",
    # Keys whose file lost its last name here: a listing leaves it so.
    """
    create table if not exists foreign_gone (
        source integer not null,
        key blob not null,
        primary key (source, key)
    ) without rowid, strict
    """,
    # Directories of a source that is listed piece by piece, as somebody looks into them.
    """
    create table if not exists foreign_directory (
        ino integer primary key,        -- a directory with a name
        source integer not null,        -- source.source
        prefix blob not null,           -- of the keys below it: '' or with a slash at its end
        listed_ns integer not null      -- 0: nobody knows yet what is in it
    ) strict
    """,
    "create unique index if not exists foreign_prefix on foreign_directory (source, prefix)",
)
"""Made at each opening where they are missing."""

SOURCE_COLUMNS = ", ".join(Source._fields)
OBJECT_COLUMNS = ", ".join(ForeignObject._fields)
DIRECTORY_COLUMNS = ", ".join(ForeignDirectory._fields)
