"""Triggers that wrote undo rows, which versions before `rows.Rows` did it left to SQLite.

Invariant: tables that are open have them only while the journal of such a version is redone, whose
statements fire them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.metadata.sqlite.schema import WAS_FIELDS, Made

if TYPE_CHECKING:
    import sqlite3


def _undo(name: str, event: str, key: str, table: str, same: str, values: str) -> str:
    """Return a trigger that writes an undo row, if the newest snapshot is younger and lacks it."""
    return f"""
    create trigger {name} before {event} when {key} < (select snap from head) begin
        insert or fail into {table} select {values} from head where not exists (
            select 1 from {table} as w where {same} and w.snap >= head.snap);
    end
    """


_INODE = (
    "old.ino",
    "inode_was",
    "w.ino = old.ino",
    f"old.ino, snap, {', '.join('old.' + name for name in WAS_FIELDS)}",
)
_DENTRY = (
    "old.cookie",
    "dentry_was",
    "w.cookie = old.cookie",
    "old.cookie, snap, old.parent, old.name, old.ino",
)
_FORMER_VALUE = "(select value from xattr where ino = new.ino and name = new.name)"

UNDO_TRIGGERS = (
    _undo(
        "inode_changes",
        "update of mode, uid, gid, nlink, size, mtime_ns, ctime_ns, generation on inode",
        *_INODE,
    ),
    _undo("inode_goes", "delete on inode", *_INODE),
    _undo("dentry_changes", "update of parent, name, ino on dentry", *_DENTRY),
    _undo("dentry_goes", "delete on dentry", *_DENTRY),
    _undo(
        "xattr_comes",
        "insert on xattr",
        "new.ino",
        "xattr_was",
        "w.ino = new.ino and w.name = new.name",
        f"new.ino, new.name, snap, {_FORMER_VALUE}",
    ),
    _undo(
        "xattr_goes",
        "delete on xattr",
        "old.ino",
        "xattr_was",
        "w.ino = old.ino and w.name = old.name",
        "old.ino, old.name, snap, old.value",
    ),
    """
    create trigger symlink_goes before delete on symlink
    when old.ino < (select snap from head) begin
        insert or fail into symlink_was select old.ino, old.target where not exists (
            select 1 from symlink_was as w where w.ino = old.ino);
    end
    """,
)
"""As journals have them: there while `head` had a row."""


def drop_undo_triggers(connection: sqlite3.Connection) -> None:
    """Drop what there is of them."""
    for text in UNDO_TRIGGERS:
        connection.execute(f"drop trigger if exists {Made.by(text).name}")


def make_undo_triggers(connection: sqlite3.Connection) -> None:
    """Make them as they were between two changes of a version that had them."""
    drop_undo_triggers(connection)
    if connection.execute("select 1 from head").fetchone() is not None:
        for text in UNDO_TRIGGERS:
            connection.execute(text)
