"""Format 2: the tables, and the statements of the journals, of states that a mount migrates.

Invariant: nothing here changes any more: it is what versions of memfs have written.
"""

from __future__ import annotations

SCHEMA = (
    """
    create table inode (
        ino integer primary key,
        mode integer not null,
        uid integer not null,
        gid integer not null,
        nlink integer not null,
        rdev integer not null,
        size integer not null,
        blocks integer not null,
        atime_ns integer not null,
        mtime_ns integer not null,
        ctime_ns integer not null,
        btime_ns integer not null,
        generation integer not null,
        raw integer not null,
        blob integer not null,
        flags integer not null,
        pin integer not null,
        codec text,
        accessed_ns integer not null,
        packed integer not null
    ) strict
    """,
    "create index inode_orphan on inode (ino) where nlink = 0",
    "create index inode_unsettled on inode (flags) where raw <> 0 and flags <> 2",
    "create index inode_raw_access on inode (accessed_ns) where raw <> 0 and flags <> 1",
    "create index inode_packed_access on inode (accessed_ns) where packed = 1",
    "create index inode_blob on inode (blob) where blob <> 0",
    """
    create table dentry (
        parent integer not null,
        cookie integer not null,
        name blob not null,
        ino integer not null,
        primary key (parent, cookie)
    ) without rowid, strict
    """,
    "create unique index dentry_name on dentry (parent, name)",
    "create index dentry_ino on dentry (ino)",
    """
    create table symlink (
        ino integer primary key,
        target blob not null
    ) strict
    """,
    """
    create table xattr (
        ino integer not null,
        name blob not null,
        value blob not null,
        primary key (ino, name)
    ) without rowid, strict
    """,
    """
    create table blob (
        blob integer primary key,
        size integer not null,
        digest blob not null
    ) strict
    """,
    """
    create table form (
        blob integer not null,
        kind text not null,
        location text not null,

        codec text not null,
        stored_bytes integer not null,
        primary key (blob, kind)
    ) without rowid, strict
    """,
    "create unique index form_location on form (kind, location)",
    """
    create table batch (
        key text primary key,
        size_bytes integer not null,
        live_count integer not null,
        live_bytes integer not null
    ) without rowid, strict
    """,
    """
    create table garbage (
        item integer primary key,
        kind text not null,
        location text not null
    ) strict
    """,
    """
    create table intent (
        intent integer primary key,
        kind text not null,
        ino integer not null,
        generation integer not null,
        location text not null,
        begun_ns integer not null
    ) strict
    """,
    """
    create table pending (
        ino integer primary key,
        wanted integer not null,
        reason text not null,
        attempt_count integer not null,
        retry_ns integer not null
    ) strict
    """,
    "create index pending_retry on pending (retry_ns)",
    """
    create table decision (
        ino integer primary key,
        rule text not null,
        detail text not null,
        moved_bytes integer not null,
        decided_ns integer not null
    ) strict
    """,
    """
    create trigger inode_gone after delete on inode begin
        delete from symlink where ino = old.ino;
        delete from xattr where ino = old.ino;
        delete from pending where ino = old.ino;
        delete from decision where ino = old.ino;
    end
    """,
    """
    create table state (
        applied_sequence integer not null,
        inode_count integer not null,
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
)

ADDITIONS = (
    """
    create table if not exists setting (
        name text primary key,
        value blob not null
    ) without rowid, strict
    """,
)
"""Came later: the first states of this format lack it."""

TEXTS = (
    (
        "insert into inode (ino, mode, uid, gid, nlink, rdev, size, blocks, atime_ns,"
        " mtime_ns, ctime_ns, btime_ns, generation, raw, blob, flags, pin, codec, accessed_ns,"
        " packed) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"
    ),
    "delete from inode where ino = ?",
    "update inode set mtime_ns = ?, ctime_ns = ? where ino = ?",
    "update inode set nlink = ?, mtime_ns = ?, ctime_ns = ? where ino = ?",
    (
        "update inode set mode = ?, uid = ?, gid = ?, size = ?, blocks = ?, atime_ns = ?,"
        " mtime_ns = ?, ctime_ns = ? where ino = ?"
    ),
    "update inode set generation = ?, raw = ?, flags = 1 where ino = ?",
    (
        "update inode set size = ?, blocks = ?, atime_ns = ?, mtime_ns = ?, ctime_ns = ?,"
        " flags = 0 where ino = ?"
    ),
    "update inode set raw = ?, blocks = ?, flags = 0 where ino = ?",
    "update inode set flags = 2 where ino = ?",
    "update inode set blob = ?, packed = ? where ino = ?",
    "update inode set packed = ? where blob = ? and blob <> 0",
    "update inode set blob = 0, packed = 0 where blob = ? and blob <> 0",
    "update inode set pin = ? where ino = ?",
    "update inode set codec = ? where ino = ?",
    "update inode set accessed_ns = ? where ino = ?",
    "insert into dentry (parent, cookie, name, ino) values (?, ?, ?, ?)",
    "delete from dentry where parent = ? and cookie = ?",
    "update dentry set parent = ?, name = ? where parent = ? and cookie = ?",
    "update dentry set ino = ? where parent = ? and cookie = ?",
    "insert into symlink (ino, target) values (?, ?)",
    "insert or replace into xattr (ino, name, value) values (?, ?, ?)",
    "delete from xattr where ino = ? and name = ?",
    "insert into blob (blob, size, digest) values (?, ?, ?)",
    "delete from blob where blob = ?",
    "insert into form (blob, kind, location, codec, stored_bytes) values (?, ?, ?, ?, ?)",
    "delete from form where blob = ? and kind = ?",
    "update form set location = ?, codec = ?, stored_bytes = ? where blob = ? and kind = 'remote'",
    "insert into batch (key, size_bytes, live_count, live_bytes) values (?, ?, ?, ?)",
    "update batch set live_count = ?, live_bytes = ? where key = ?",
    "delete from batch where key = ?",
    "insert into garbage (item, kind, location) values (?, ?, ?)",
    "delete from garbage where item = ?",
    (
        "insert into intent (intent, kind, ino, generation, location, begun_ns) values (?, ?,"
        " ?, ?, ?, ?)"
    ),
    "delete from intent where intent = ?",
    (
        "insert or replace into pending (ino, wanted, reason, attempt_count, retry_ns) values"
        " (?, ?, ?, ?, ?)"
    ),
    "delete from pending where ino = ?",
    (
        "insert or replace into decision (ino, rule, detail, moved_bytes, decided_ns) values"
        " (?, ?, ?, ?, ?)"
    ),
    "insert or replace into setting (name, value) values (?, ?)",
    "delete from setting where name = ?",
)
"""By number."""
