"""Mending: rows that contradict each other are made to agree, and nothing with bytes is dropped.

Invariant: after it the checks of `sqlite.check` find nothing but files whose bytes are gone.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from memfs.metadata.records import Usage
from memfs.metadata.sqlite.attribute_index import NOTE_NAME
from memfs.metadata.sqlite.check import RECOUNT
from memfs.metadata.sqlite.element_index import empty_elements
from memfs.metadata.sqlite.field_schema import BUILDING, LEAVING, TEXTS
from memfs.metadata.sqlite.format import FOREIGN_NUMBER
from memfs.metadata.sqlite.schema import (
    ADDITIONS,
    BESIDE,
    FIELD_TRIGGERS,
    MISPLACED_EVENT,
    MISPLACED_METRIC,
    WAS_COLUMNS,
    Made,
    match_triggers,
)
from memfs.metadata.sqlite.text_index import empty_texts
from memfs.query.values import stored_value
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    import sqlite3

_DIRECTORY = "mode & 61440 = 16384"
_REGULAR = "mode & 61440 = 32768"
_SYMLINK = "mode & 61440 = 40960"

_LOST_SNAPSHOTS = """
    select distinct snap from (
        select snap from inode_was union all select snap from dentry_was
        union all select snap from xattr_was)
    where snap not in (select snap from snapshot)
"""

_ALONE = f"from {{table}} as d where not {BESIDE}"
"""Former names or xattrs whose inode has no undo row beside them."""


def _former_inodes(table: str) -> tuple[str, ...]:
    """Return what gives such rows the inode as the next snapshot, or the live row, has it."""
    alone = _ALONE.format(table=table)
    later = "(select min(snap) from inode_was as n where n.ino = d.ino and n.snap > d.snap)"
    columns = ", ".join(f"n.{name}" for name in WAS_COLUMNS.split(", "))
    return (
        f"""insert or ignore into inode_was select d.ino, d.snap, {columns}
            from (select ino, snap {alone}) as d join inode_was as n
            on n.ino = d.ino and n.snap = {later}""",
        f"""insert or ignore into inode_was select d.ino, d.snap, {columns}
            from (select ino, snap {alone}) as d join inode as n on n.ino = d.ino""",
        f"""delete from {table} as d where not {BESIDE}""",
    )


_UNSHOWN = """
    from kept where not exists (select 1 from inode_was as w
        where w.ino = kept.ino and w.generation = kept.generation)
    and not exists (select 1 from inode as i
        where i.ino = kept.ino and i.generation = kept.generation)
"""

_TOLD = (
    (
        "the snapshot of number {} is lost but for what changed after it",
        _LOST_SNAPSHOTS,
        # As if it had been deleted: older ones need its rows.
        f"""insert into snapshot select snap, '', 0, '', '{{}}', null, 'leaving'
            from ({_LOST_SNAPSHOTS})""",
    ),
    (
        "the name {!r} in directory {} is lost: its inode {} is",
        "select name, parent, ino from dentry where ino not in (select ino from inode)",
        "delete from dentry where ino not in (select ino from inode)",
    ),
    (
        "the name {!r} of inode {} is lost: its directory {} is",
        f"""select name, ino, parent from dentry
            where parent not in (select ino from inode where {_DIRECTORY})""",
        f"""delete from dentry
            where parent not in (select ino from inode where {_DIRECTORY})""",
    ),
    (
        "directory {} had a second name {!r}",
        f"""select ino, name from dentry where ino in (select ino from inode where {_DIRECTORY})
            and exists (select 1 from dentry as other
                        where other.ino = dentry.ino and other.cookie < dentry.cookie)""",
        f"""delete from dentry where ino in (select ino from inode where {_DIRECTORY})
            and exists (select 1 from dentry as other
                        where other.ino = dentry.ino and other.cookie < dentry.cookie)""",
    ),
    (
        "inode {} shared its raw file {} with another",
        """select ino, raw from inode where raw <> 0 and exists (
            select 1 from inode as other where other.raw = inode.raw and other.ino < inode.ino)""",
        """update inode set raw = 0, flags = 0 where raw <> 0 and exists (
            select 1 from inode as other where other.raw = inode.raw and other.ino < inode.ino)""",
    ),
    (
        "inode {} has lost its blob {}",
        "select ino, blob from inode where blob <> 0 and blob not in (select blob from form)",
        "update inode set blob = 0 where blob <> 0 and blob not in (select blob from form)",
    ),
    (
        "inode {} has lost its foreign object {!r}: source {} is lost",
        """select ino, key, source from foreign_object
            where source not in (select source from source)""",
        "delete from foreign_object where source not in (select source from source)",
    ),
    (
        "raw file {} of a snapshot belonged to something else too",
        """select raw from kept where raw <> 0 and raw in (select raw from inode)""",
        """delete from kept where raw <> 0 and raw in (select raw from inode)""",
    ),
    (
        "a snapshot has lost generation {1} of inode {0}",
        "select ino, generation from kept where raw = 0 and blob not in (select blob from form)",
        "delete from kept where raw = 0 and blob not in (select blob from form)",
    ),
    (
        "generation {1} of inode {0} was kept, and no snapshot shows it",
        f"select ino, generation {_UNSHOWN}",
        f"delete {_UNSHOWN}",
    ),
    (
        "the {} form {} belongs to no file any more",
        """select kind, key from form where blob not in (
            select blob from inode where blob <> 0
            union all select blob from kept where blob <> 0)
            or blob not in (select blob from blob)""",
        """delete from form where blob not in (
            select blob from inode where blob <> 0
            union all select blob from kept where blob <> 0)
            or blob not in (select blob from blob)""",
    ),
)

_SILENT = (
    "update inode set flags = 0 where flags not in (0, 1, 2)",
    "update inode set flags = 0 where flags & 1 and raw = 0",
    "update inode set blob = 0 where flags & 1",
    f"update inode set raw = 0, blob = 0, flags = 0 where not {_REGULAR}",
    "update inode set blob = 0 where blob <> 0 and blob not in (select blob from blob)",
    """delete from form where blob not in (
        select blob from inode where blob <> 0
        union all select blob from kept where blob <> 0)""",
    "delete from blob where blob not in (select blob from form)",
    # In doubt a whole object is not memfs's own: it is never removed then.
    "update or ignore form set owned = 1 where kind = 'packed' or offset is not null",
    """update form set store = '', etag = '', version = ''
        where kind = 'packed' or offset is not null""",
    """update form set owned = 0 where kind = 'remote' and offset is null
        and (owned not in (0, 1) or store <> '' or etag <> '' or version <> '')""",
    "update form set layout = 'container' where layout not in ('container', 'plain')",
    """delete from garbage where (kind = 'raw' and cast(location as integer) in (
        select raw from inode where raw <> 0 union all select raw from kept where raw <> 0))
        or exists (select 1 from form where form.kind = garbage.kind and form.store = ''
                   and form.key = garbage.location)""",
    "delete from batch where key not in (select key from form where offset is not null)",
    """insert or ignore into batch select key, sum(stored_bytes), count(*), sum(stored_bytes)
        from form where offset is not null group by key""",
    """update batch set
        live_count = (select count(*) from form where offset is not null and form.key = batch.key),
        live_bytes = (
            select sum(stored_bytes) from form where offset is not null and form.key = batch.key)
    """,
    """update inode set packed = exists (
        select 1 from form where form.blob = inode.blob and kind = 'packed')""",
    "delete from symlink where ino not in (select ino from inode where mode & 61440 = 40960)",
    """insert into symlink select ino, x'3f' from inode
        where mode & 61440 = 40960 and ino not in (select ino from symlink)""",
    "delete from xattr where ino not in (select ino from inode)",
    "delete from pending where ino not in (select ino from inode)",
    "delete from pending_since where ino not in (select ino from pending)",
    "delete from pending_code where ino not in (select ino from pending)",
    "delete from decision where ino not in (select ino from inode)",
    f"delete from metric where {MISPLACED_METRIC}",
    f"delete from event where {MISPLACED_EVENT}",
    *_former_inodes("dentry_was"),
    *_former_inodes("xattr_was"),
    "delete from symlink_was where ino not in (select ino from inode_was)",
    f"""insert into symlink_was select distinct ino, x'3f' from inode_was
        where {_SYMLINK} and ino not in (
            select ino from symlink union all select ino from symlink_was)""",
)

_FOREIGN = (
    """delete from foreign_object where ino not in (select ino from inode)
        and ino not in (select ino from inode_was)""",
    """delete from foreign_object as o where exists (select 1 from inode as i
        where i.ino = o.ino and i.generation = o.generation and i.size <> o.size and i.raw <> 0)""",
    """update foreign_object set current = 0 where current <> 1
        or ino not in (select ino from inode where nlink > 0)""",
    "update foreign_object set ours = 0 where ours <> 1",
    """update foreign_object set conflict = ''
        where conflict not in ('', 'changed', 'gone', 'taken')""",
    "delete from foreign_gone where source not in (select source from source)",
    """delete from foreign_directory where source not in (select source from source) or ino not in (
        select ino from inode where nlink > 0 and mode & 61440 = 16384)""",
)
"""Once the links are counted."""

_LINKS = (
    f"""update inode set nlink = (select count(*) from dentry where dentry.ino = inode.ino)
        where not {_DIRECTORY}""",
    f"""update inode set nlink = 2 + (
            select count(*) from dentry join inode as child on child.ino = dentry.ino
            where dentry.parent = inode.ino and child.{_DIRECTORY})
        where {_DIRECTORY} and (ino = 1 or ino in (select ino from dentry))""",
)

_NAMELESS = f"""
    select ino, mode from inode where ino <> 1 and nlink > 0 and (
        ino not in (select ino from dentry) or ({_DIRECTORY} and ino not in (
            with recursive reached(ino) as (
                values (1)
                union select inode.ino from reached
                join dentry on dentry.parent = reached.ino
                join inode on inode.ino = dentry.ino and {_DIRECTORY}
            ) select ino from reached)))
    order by ino limit 1
"""


def mend(connection: sqlite3.Connection, first_free: int, now_ns: int) -> list[str]:
    """Make the rows agree, in the open transaction; returns a sentence for each loss.

    Args:
        connection: To the database, with the journals applied.
        first_free: All numbers from here on are free, for cookies.
        now_ns: Time of a root directory that has to be made anew.
    """
    told: list[str] = []
    for text in ADDITIONS:
        connection.execute(text)
    _empty_field_indexes(connection)
    empty_elements(connection)
    empty_texts(connection)
    # What is mended was wrong before too: a snapshot keeps no undo row of it.
    connection.execute("delete from head")
    if not connection.execute("select 1 from inode where ino = 1").fetchone():
        told.append("the root directory is made anew")
        _make_root(connection, now_ns)
    for sentence, look, change in _TOLD:
        told += [sentence.format(*row) for row in connection.execute(look)]
        connection.execute(change)
    for change in _SILENT:
        connection.execute(change)
    _unindex_wrong(connection)
    told += _name_nameless(connection, first_free)
    for change in _LINKS + _FOREIGN:
        connection.execute(change)
    if connection.execute("select 1 from source").fetchone():
        connection.execute(f"pragma user_version = {FOREIGN_NUMBER}")
    connection.execute(
        "insert into head select max(snap) from snapshot where state = 'live' having count(*) > 0"
    )
    match_triggers(connection)
    counted = connection.execute(RECOUNT).fetchone()
    columns = ", ".join(f"{name} = ?" for name in Usage._fields)
    connection.execute(f"update state set {columns}", counted)
    return told


def _make_root(connection: sqlite3.Connection, now_ns: int) -> None:
    width = len(connection.execute("pragma table_info(inode)").fetchall())
    row: list[int | None] = [0] * width
    row[:5] = [ROOT_INODE, stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), 2]
    row[8:13] = [now_ns, now_ns, now_ns, now_ns, 1]
    row[17] = None
    connection.execute(f"insert into inode values ({', '.join('?' * width)})", row)


def _unindex_wrong(connection: sqlite3.Connection) -> None:
    """Take xattrs out of the index that are not as they should be; the next mount indexes anew."""
    connection.create_function("value_of", 1, stored_value, deterministic=True)
    changed = connection.execute(
        """update xattr set key = 0, typed = null where key <> 0 and (
               typed is not value_of(value) or not exists (
                   select 1 from attribute_name as known
                   where known.key = xattr.key and known.name = xattr.name))"""
    )
    if changed.rowcount:
        connection.execute("delete from setting where name = ?", (NOTE_NAME,))


def _empty_field_indexes(connection: sqlite3.Connection) -> None:
    """Leave of the indexes of fields that there are to be some; the next mount fills them anew."""
    for trigger in FIELD_TRIGGERS:
        connection.execute(f"drop trigger if exists {Made.by(trigger).name}")
    for texts in TEXTS.values():
        for text in texts.end:
            connection.execute(text)
    connection.execute("delete from field_value")
    connection.execute("delete from field_index where state = ?", (LEAVING,))
    connection.execute("update field_index set through = 0, state = ?", (BUILDING,))


def _name_nameless(connection: sqlite3.Connection, first_free: int) -> list[str]:
    """Give what no directory leads to a name in the root."""
    told: list[str] = []
    cookie = first_free
    while (row := connection.execute(_NAMELESS).fetchone()) is not None:
        ino, mode = row
        if stat.S_ISDIR(mode):
            # It may be part of a ring.
            connection.execute("delete from dentry where ino = ?", (ino,))
        name = b"lost+found-%x" % ino
        connection.execute("delete from dentry where parent = 1 and name = ?", (name,))
        connection.execute("insert into dentry values (1, ?, ?, ?)", (cookie, name, ino))
        told.append(f"inode {ino} has lost its name: it is in the root as {name.decode()}")
        cookie += 1
    return told
