"""The tables of the SQLite engine: the canonical reference of the database in a state directory.

Invariant: every change of `SCHEMA` is a change of the format (`sqlite.format.FORMAT_NUMBER`), and
`sqlite.migration` makes it in a state of the format before. What a version of memfs without it can
pass over is added to `ADDITIONS` instead.

A snapshot is one row; what changes afterwards is kept by undo rows. Its number `snap` comes from
the id lease like all others, so that what has a lower number is older. An undo row of `snap` tells
what was until then: for all snapshots <= snap, back to the next older undo row of the same key. As
of s is the undo row with the least snap >= s, else the live row. `rows.Rows` writes them, on the
first change of a row after the newest snapshot, as changes of their own in the same journal entry.
What is kept of names and xattrs of an inode for a snapshot comes with the inode itself: an
undo row of `dentry_was` or `xattr_was` has one of `inode_was` beside it, by which it is found, or
with a newer snapshot that is leaving, which hands it down.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.records import Inode
from memfs.metadata.sqlite import (
    element_index,
    field_schema,
    following,
    foreign_schema,
    text_index,
)
from memfs.metrics.rings import EVENT_COUNT, RINGS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

INODE_COLUMNS = ", ".join(Inode._fields)
"""The columns of `inode` in the order of the record, so that `Inode._make(row)` works."""

FORM_COLUMNS = (
    "blob, kind, store, key, offset, etag, version, stored_bytes, layout, codec, shuffle_bytes,"
    " key_id, table_id, owned"
)
"""The columns of `form` in order; `rows.form_of` makes a record of them."""

WAS_FIELDS = (
    "mode",
    "uid",
    "gid",
    "nlink",
    "rdev",
    "size",
    "blocks",
    "atime_ns",
    "mtime_ns",
    "ctime_ns",
    "btime_ns",
    "generation",
)
WAS_COLUMNS = ", ".join(WAS_FIELDS)
"""The columns of `inode_was` but its key, in the order of the record `Inode`."""


SCHEMA = (
    # One row an inode; the root is row 1 and always there.
    """
    create table inode (
        ino integer primary key,        -- from the id lease, never reused
        mode integer not null,          -- type and permission bits, st_mode
        uid integer not null,
        gid integer not null,
        nlink integer not null,         -- dentries; directory: 2 + subdirectories; 0: orphan
        rdev integer not null,          -- device nodes only, else 0
        size integer not null,          -- bytes at the last seal; symlink: bytes of its target
        blocks integer not null,        -- of 512 bytes at the last seal; stays when raw goes
        atime_ns integer not null,
        mtime_ns integer not null,
        ctime_ns integer not null,
        btime_ns integer not null,
        generation integer not null,    -- starts at 1; only grows
        raw integer not null,           -- raw id, unique where not 0; 0: no raw file
        blob integer not null,          -- blob.blob; 0: none; an unsealed inode has none
        flags integer not null,         -- 1: unsealed, needs raw; 2: raw is durable; else 0
        pin integer not null,           -- Tier; 0: no pin of its own
        codec text,                     -- null: no codec of its own
        accessed_ns integer not null,   -- for the mover
        packed integer not null         -- 1 exactly if its blob has a packed form, else 0
    ) strict
    """,
    "create index inode_orphan on inode (ino) where nlink = 0",
    # Unsealed files (flags 1) and those not known to be durable (flags 0): the work lists.
    "create index inode_unsettled on inode (flags) where raw <> 0 and flags <> 2",
    "create index inode_raw_access on inode (accessed_ns) where raw <> 0 and flags <> 1",
    "create index inode_packed_access on inode (accessed_ns) where packed = 1",
    "create index inode_blob on inode (blob) where blob <> 0",
    # Clustered by directory and cookie, so that readdir is one scan; names live in the index too.
    """
    create table dentry (
        parent integer not null,        -- inode.ino of a directory
        cookie integer not null,        -- readdir position; unique over all dentries, > 2
        name blob not null,             -- 1..255 bytes, neither "/" nor NUL, not "." or ".."
        ino integer not null,           -- inode.ino; a directory has exactly one dentry
        primary key (parent, cookie)
    ) without rowid, strict
    """,
    "create unique index dentry_name on dentry (parent, name)",
    "create index dentry_ino on dentry (ino)",
    """
    create table symlink (
        ino integer primary key,        -- inode.ino of a symbolic link; every one has a row
        target blob not null
    ) strict
    """,
    """
    create table xattr (
        ino integer not null,           -- inode.ino
        name blob not null,             -- with its prefix, 1..255 bytes
        value blob not null,            -- 0..65536 bytes
        key integer not null,           -- attribute_name.key; 0: the index does not have it
        typed any,                      -- what it is compared as (query.values); null: with
                                        -- nothing, or key is 0
        primary key (ino, name)
    ) without rowid, strict
    """,
    # A blob lives exactly as long as it has a form, and has at least one inode.
    """
    create table blob (
        blob integer primary key,       -- from the id lease, never reused
        size integer not null,          -- uncompressed bytes
        digest blob not null            -- BLAKE3-256, 32 bytes
    ) strict
    """,
    """
    create table form (
        blob integer not null,          -- blob.blob
        kind text not null,             -- 'packed' or 'remote'
        store text not null,            -- '': the state directory or its object store; else the
                                        -- source that the object was adopted from
        key text not null,              -- packed: path below the state directory; remote: of the
                                        -- object; where offset is not null: batch.key
        offset integer,                 -- in the object of a batch; null: the form is all of it
        etag text not null,             -- of an adopted object, else ''
        version text not null,          -- of an adopted object in a bucket with versions, else ''
        stored_bytes integer not null,
        layout text not null,           -- 'container' or 'plain'
        codec text not null,            -- plain: 'none'
        shuffle_bytes integer not null, -- item size of the byte-shuffle filter; 1: there is none
        key_id text not null,           -- of the key that encrypts it, hexadecimal; '': in clear
        table_id text not null,         -- fingerprint of its seek table, hexadecimal; '': not known
        owned integer not null,         -- 1: memfs has written it; 0: never to be removed or moved,
                                        -- kind is 'remote' and offset null
        primary key (blob, kind)
    ) without rowid, strict
    """,
    "create unique index form_place on form (kind, key, ifnull(offset, 0)) where owned = 1",
    "create index form_adopted on form (store, key) where owned = 0",
    # An object that holds the containers of many small files, as long as one of them lives.
    """
    create table batch (
        key text primary key,           -- of the object in the store
        size_bytes integer not null,    -- of the object
        live_count integer not null,    -- forms that lie in it; at least 1
        live_bytes integer not null     -- the sum of their stored_bytes
    ) without rowid, strict
    """,
    """
    create table garbage (
        item integer primary key,       -- from the id lease: in order of age
        kind text not null,             -- 'raw', 'packed' or 'remote'
        location text not null          -- raw: decimal raw id; else as form.key
    ) strict
    """,
    """
    create table intent (
        intent integer primary key,     -- from the id lease: in order of age
        kind text not null,             -- 'pack', 'upload', 'batch' or 'hydrate'
        ino integer not null,           -- may be gone meanwhile; batch: 0
        generation integer not null,
        location text not null,         -- where the move writes
        begun_ns integer not null
    ) strict
    """,
    """
    create table pending (
        ino integer primary key,        -- inode.ino
        wanted integer not null,        -- Tier
        reason text not null,
        attempt_count integer not null,
        retry_ns integer not null
    ) strict
    """,
    "create index pending_retry on pending (retry_ns)",
    """
    create table decision (
        ino integer primary key,        -- inode.ino
        rule text not null,
        detail text not null,
        moved_bytes integer not null,
        decided_ns integer not null
    ) strict
    """,
    # What an inode leaves behind when it is reaped; one statement instead of five.
    """
    create trigger inode_gone after delete on inode begin
        delete from symlink where ino = old.ino;
        delete from xattr where ino = old.ino;
        delete from pending where ino = old.ino;
        delete from decision where ino = old.ino;
    end
    """,
    # One row: how far the journal has been applied, and the totals at that point.
    """
    create table state (
        applied_sequence integer not null,  -- journal entries up to here are in the tables
        inode_count integer not null,       -- from here on the fields of records.Usage
        logical_bytes integer not null,
        raw_count integer not null,
        raw_bytes integer not null,
        packed_count integer not null,
        packed_bytes integer not null,
        remote_count integer not null,
        remote_bytes integer not null,
        garbage_count integer not null
    ) strict
    """,
    # Values that other parts keep under names of their own.
    """
    create table setting (
        name text primary key,
        value blob not null             -- 0..65536 bytes
    ) without rowid, strict
    """,
    # Names of user xattrs, as they came.
    """
    create table attribute_name (
        key integer primary key,        -- from 1 on
        name blob not null unique       -- with its prefix
    ) strict
    """,
    # Files without xattrs, and xattrs that no filter asks for, cost nothing.
    "create index xattr_typed on xattr (key, typed, ino) where key <> 0",
    """
    create table snapshot (
        snap integer primary key,       -- from the id lease, never reused
        name text not null,
        created_ns integer not null,
        description text not null,
        labels text not null,           -- a JSON object of texts
        kept_until_ns integer,          -- no rule removes it before; null: any may
        state text not null             -- 'live', or 'leaving': its undo rows go in steps
    ) strict
    """,
    "create unique index snapshot_name on snapshot (name) where state = 'live'",
    """
    create table inode_was (
        ino integer not null,
        snap integer not null,
        mode integer not null,          -- 0: it did not exist, though its number is lower
        uid integer not null,
        gid integer not null,
        nlink integer not null,
        rdev integer not null,
        size integer not null,
        blocks integer not null,
        atime_ns integer not null,      -- at the first other change: reading keeps no undo row
        mtime_ns integer not null,
        ctime_ns integer not null,
        btime_ns integer not null,
        generation integer not null,
        primary key (ino, snap)
    ) without rowid, strict
    """,
    "create index inode_was_snap on inode_was (snap)",
    # By cookie and never by parent: a name that is moved twice would have two pasts.
    """
    create table dentry_was (
        cookie integer not null,
        snap integer not null,
        parent integer not null,
        name blob not null,
        ino integer not null,
        primary key (cookie, snap)
    ) without rowid, strict
    """,
    "create index dentry_was_parent on dentry_was (parent)",
    "create index dentry_was_name on dentry_was (parent, name)",
    "create index dentry_was_ino on dentry_was (ino)",
    """
    create table xattr_was (
        ino integer not null,
        name blob not null,
        snap integer not null,
        value blob,                     -- null: it had none of this name
        primary key (ino, name, snap)
    ) without rowid, strict
    """,
    # A target never changes, so that one row is enough for all snapshots.
    """
    create table symlink_was (
        ino integer primary key,
        target blob not null
    ) strict
    """,
    # Bytes of an earlier generation that snapshots show, while `inode_was` has the generation.
    """
    create table kept (
        ino integer not null,           -- may be gone
        generation integer not null,
        raw integer not null,           -- a raw file of its own; 0: none, then it has a blob
        blob integer not null,          -- blob.blob, which lives as long; 0: none
        size integer not null,          -- bytes
        blocks integer not null,        -- of 512 bytes, of the raw file
        mtime_ns integer not null,
        open integer not null,          -- 1: a writer had it, and may have changed it since
        primary key (ino, generation)
    ) without rowid, strict
    """,
    "create index kept_blob on kept (blob) where blob <> 0",
    # The newest live snapshot; no row: there is no snapshot.
    "create table head (snap integer primary key) strict",
)

ADDITIONS: tuple[str, ...] = (
    *field_schema.TABLES,
    element_index.TABLE,
    text_index.TABLE,
    # Since when a move waits: beside `pending`, whose columns earlier versions know.
    """
    create table if not exists pending_since (
        ino integer primary key,        -- pending.ino
        since_ns integer not null
    ) strict
    """,
    # What it waits for. A version that knows no codes replaces a row of `pending` alone: then the
    # times of both differ, and the code is not that row's.
    """
    create table if not exists pending_code (
        ino integer primary key,        -- pending.ino
        retry_ns integer not null,      -- pending.retry_ns
        code text not null,             -- `types.PendingCode`
        until_ns integer not null       -- when that is over at the latest; 0: not known
    ) strict
    """,
    """
    create trigger if not exists pending_code_ends after delete on pending begin
        delete from pending_code where ino = old.ino;
    end
    """,
    # A row that is replaced fires it not: the wait goes on.
    """
    create trigger if not exists pending_ends after delete on pending begin
        delete from pending_since where ino = old.ino;
    end
    """,
    *foreign_schema.TABLES,
    # Plain objects that memfs has written for others to read.
    """
    create table if not exists published (
        url text primary key,           -- of the object, without secrets
        target text not null,           -- URL that it was published with
        ino integer not null,           -- may be gone; 0: a part of a manifest
        generation integer not null,    -- of the file that the object is like; 0: not known
        etag text not null,             -- of our last object; '': there is no such object
        token text not null,            -- in the metadata of the object that was sent last
        size integer not null,          -- bytes
        mtime_ns integer not null,
        digest blob not null,           -- BLAKE3-256 of what was sent last
        problem text not null           -- ''; else why it is not as the file is
    ) without rowid, strict
    """,
    "create index if not exists published_target on published (target, url)",
    "create index if not exists published_ino on published (ino)",
    # What was measured, in rings: see `metrics.rings`.
    """
    create table if not exists metric (
        resolution integer not null,    -- seconds that a row covers
        slot integer not null,          -- at_s // resolution, modulo the length of the ring
        at_s integer not null,          -- when that begins, since the epoch
        numbers blob not null,          -- `metrics.numbers`
        primary key (resolution, slot)
    ) without rowid, strict
    """,
    # What people decided and what went wrong, in a ring.
    """
    create table if not exists event (
        slot integer primary key,       -- number modulo the length of the ring
        number integer not null unique, -- from 1 on, without a gap
        at_ns integer not null,
        kind text not null,
        subject text not null,          -- what it is about, a path where it has one
        detail text not null
    ) strict
    """,
    *following.TABLES,
)
"""What later versions of the same format added: made at each opening where it is missing, so each
is `create ... if not exists`."""

MISPLACED_METRIC = " and ".join(
    f"not (resolution = {ring.resolution_s} and at_s % {ring.resolution_s} = 0"
    f" and slot = at_s / {ring.resolution_s} % {ring.row_count})"
    for ring in RINGS
)
"""A condition: a row of `metric` is in no slot of its time."""
MISPLACED_EVENT = f"slot <> number % {EVENT_COUNT}"
"""Likewise of `event`."""

FIELD_TRIGGERS = tuple(text for texts in field_schema.TRIGGERS.values() for text in texts)

_MADE = re.compile(r"\s*create (?:unique )?(table|index|trigger) (?:if not exists )?(\w+)")


class Made(NamedTuple):
    """What one statement of `SCHEMA` makes."""

    kind: str
    """`table`, `index` or `trigger`."""
    name: str

    @classmethod
    def by(cls, statement: str) -> Made:
        """Return what a statement makes."""
        found = _MADE.match(statement)
        assert found is not None, statement
        return cls(found[1], found[2])


BESIDE = """
    exists (select 1 from inode_was as w where w.ino = d.ino and w.snap >= d.snap and (
        w.snap = d.snap or not exists (
            select 1 from snapshot as s
            where s.state = 'live' and s.snap > d.snap and s.snap <= w.snap)))
"""
"""A condition: the undo row `d` of a name or of an xattr has that of its inode."""

TOTALS_END = 1 << 64
"""Totals count modulo this number: sparse files may have 8 EiB each (inode(7)), and many of them
more in all than a column holds."""


def stored_totals(totals: Iterable[int]) -> list[int]:
    """Return totals as the table `state` has them, with a sign."""
    return [(total + TOTALS_END // 2) % TOTALS_END - TOTALS_END // 2 for total in totals]


def totals_of(row: Iterable[int]) -> list[int]:
    """Return totals as they are counted: 0..`TOTALS_END`; see `stored_totals`."""
    return [total % TOTALS_END for total in row]


TRIGGERS = tuple(text for text in SCHEMA if Made.by(text).kind == "trigger")
"""A part of what the statements of a journal mean."""


def match_triggers(connection: sqlite3.Connection) -> None:
    """Make the triggers that keep indexes of fields, or drop them.

    That is for tables that were copied or mended; else the statements of a change do it.
    """
    texts: list[str] = []
    query = "select field from field_index where state <> 'leaving'"
    for (field,) in connection.execute(query).fetchall():
        for text in field_schema.TEXTS[field].tables:
            connection.execute(text)
        texts += field_schema.TRIGGERS[field]
    wanted = {Made.by(text).name: text.strip() for text in texts}
    names = ", ".join(f"'{Made.by(text).name}'" for text in FIELD_TRIGGERS)
    there = dict(
        connection.execute(
            f"select name, sql from sqlite_schema where type = 'trigger' and name in ({names})"
        ).fetchall()
    )
    for name in there:
        if name not in wanted:
            connection.execute(f"drop trigger {name}")
    for name, text in wanted.items():
        # SQLite keeps all behind the first two words as it was.
        if name in there and there[name].split()[2:] == text.split()[2:]:
            continue
        connection.execute(f"drop trigger if exists {name}")
        connection.execute(text)


def table_text(table: str) -> str:
    """Return the statement of `SCHEMA` that makes a table."""
    return next(text for text in SCHEMA if Made.by(text) == ("table", table))
