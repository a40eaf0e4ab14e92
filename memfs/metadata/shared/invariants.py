"""What must hold between the rows of the shared tables, as queries for what breaks it.

They are those of `sqlite.check` that are about what nodes share, in PostgreSQL's words, and some
about the rows of nodes and of the change log. All are asked as of one instant. The server does the
work, on its disk where a table is long; here are the first sentences of each kind.

Where bytes are is not looked at: those of a file may be on the node that writes alone
(`node_table.find_loss`).

Invariant: a query returns no row on sound tables; nothing is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.metadata.shared.instant import Instant
from memfs.metadata.sqlite.lease import FIRST_READER_ID
from memfs.metadata.sqlite.schema import BESIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.shared.instant import Session

SENTENCE_COUNT_MAX = 20
"""Limit of one kind; broken tables have millions."""
TIMEOUT_S = 6 * 3600.0
"""For one question, of tables with hundreds of millions of rows. Guess."""

_DIRECTORY = "mode & 61440 = 16384"
_REGULAR = "mode & 61440 = 32768"
_SYMLINK = "mode & 61440 = 40960"
_NO_INODE = "not exists (select from inode as i where i.ino = {})"
_NO_SNAPSHOT = "not exists (select from snapshot as s where s.snap = {}.snap)"
_NO_SOURCE = "not exists (select from source as s where s.source = {}.source)"
_BATCHED = """
    select key as batch_key, count(*) as forms, sum(stored_bytes)::bigint as bytes
    from form where "offset" is not null group by key
"""


class Kind(NamedTuple):
    """A kind of damage."""

    name: str
    """For programs, and for tests."""
    sentence: str
    """A format of the columns of a row."""
    query: str


class Damage(NamedTuple):
    """What was found of one kind."""

    kind: str
    sentences: tuple[str, ...]
    """The first `SENTENCE_COUNT_MAX`."""
    has_more: bool


KINDS = (
    # --- names -----------------------------------------------------------------------------------
    Kind("no root", "the root directory {} is missing", f"""
        select 1 where not exists (select from inode where ino = 1 and {_DIRECTORY})"""),
    Kind("name without an inode", "directory {} holds {!r}, which names inode {}, which does not "
        "exist", f"select parent, name, ino from dentry as d where {_NO_INODE.format('d.ino')}"),
    Kind("name without a directory", "{!r} (inode {}) is in inode {}, which is no directory", f"""
        select name, ino, parent from dentry as d where not exists (
            select from inode as i where i.ino = d.parent and i.{_DIRECTORY})"""),
    Kind("links of a file", "inode {} has link count {}, but {} names", f"""
        select i.ino, i.nlink, coalesce(n.names, 0)
        from inode as i left join (select ino, count(*) as names from dentry group by ino) as n
            on n.ino = i.ino
        where not i.{_DIRECTORY} and i.nlink <> coalesce(n.names, 0)"""),
    Kind("links of a directory", "directory {} has link count {}, but {} subdirectories", f"""
        select i.ino, i.nlink, coalesce(n.children, 0)
        from inode as i left join (
            select d.parent, count(*) as children
            from dentry as d join inode as child on child.ino = d.ino
            where child.{_DIRECTORY} group by d.parent) as n on n.parent = i.ino
        where i.{_DIRECTORY} and i.nlink <> 0 and i.nlink <> 2 + coalesce(n.children, 0)"""),
    Kind("removed directory with names", "removed directory {} still holds {} names", f"""
        select i.ino, count(*) from inode as i join dentry as d on d.parent = i.ino
        where i.{_DIRECTORY} and i.nlink = 0 group by i.ino"""),
    Kind("names of a directory", "directory {} has {} names", f"""
        select i.ino, coalesce(n.names, 0)
        from inode as i left join (select ino, count(*) as names from dentry group by ino) as n
            on n.ino = i.ino
        where i.{_DIRECTORY}
            and coalesce(n.names, 0) <> case when i.ino <> 1 and i.nlink > 0 then 1 else 0 end"""),
    # From the root down no directory is met twice where each has one name; where one has several,
    # the kind above tells of it, and only the first is followed here.
    Kind("loop", "directory {} cannot be reached from the root", f"""
        with recursive edge as materialized (
            select distinct on (d.ino) d.ino, d.parent
            from dentry as d join inode as i on i.ino = d.ino
            where i.{_DIRECTORY} and d.ino <> 1 order by d.ino, d.parent),
        reached (ino) as (
            select 1::bigint
            union all select e.ino from reached as r join edge as e on e.parent = r.ino)
        select i.ino from inode as i
        where i.{_DIRECTORY} and i.nlink > 0
            and not exists (select from reached as r where r.ino = i.ino)"""),
    Kind("impossible number", "{} {} has a number that only nodes that read hand out", f"""
        select 'inode', ino from inode where ino >= {FIRST_READER_ID}
        union all select 'name', cookie from dentry where cookie >= {FIRST_READER_ID}
        union all select 'blob', blob from blob where blob >= {FIRST_READER_ID}
        union all select 'garbage', item from garbage where item >= {FIRST_READER_ID}"""),
    # --- inodes ----------------------------------------------------------------------------------
    Kind("flags", "inode {} has the impossible flags {}",
        "select ino, flags from inode where flags not in (0, 1)"),
    Kind("unsealed with a blob", "inode {} is unsealed but has blob {}",
        "select ino, blob from inode where flags & 1 = 1 and blob <> 0"),
    Kind("blob of no file", "inode {} is no regular file but has blob {}",
        f"select ino, blob from inode where not {_REGULAR} and blob <> 0"),
    Kind("symlink without a target", "symlink {} has no target", f"""
        select ino from inode as i where {_SYMLINK}
            and not exists (select from symlink as s where s.ino = i.ino)"""),
    Kind("target without a symlink", "symlink target of inode {}, which is no symlink", f"""
        select ino from symlink as s where not exists (
            select from inode as i where i.ino = s.ino and i.{_SYMLINK})"""),
    Kind("xattr without an inode", "xattr {!r} belongs to inode {}, which does not exist",
        f"select name, ino from xattr as x where {_NO_INODE.format('x.ino')}"),
    # --- contents --------------------------------------------------------------------------------
    Kind("missing blob", "inode {} has blob {}, which does not exist", """
        select ino, blob from inode as i where blob <> 0
            and not exists (select from blob as b where b.blob = i.blob)"""),
    Kind("blob without an inode", "blob {} belongs to no inode", """
        select blob from blob as b
        where not exists (select from inode as i where i.blob = b.blob and i.blob <> 0)
            and not exists (select from kept as k where k.blob = b.blob and k.blob <> 0)"""),
    Kind("form without a blob", "the remote form {} has blob {}, which does not exist", """
        select key, blob from form as f
        where not exists (select from blob as b where b.blob = f.blob)"""),
    Kind("form in the garbage", "the remote form {} of blob {} is marked as garbage", """
        select f.key, f.blob from form as f join garbage as g on g.location = f.key
        where f.store = ''"""),
    Kind("ownership of a form", "the remote form {} of blob {} cannot be owned so: {}", """
        select key, blob, owned from form where owned not in (0, 1)
            or (owned = 1 and (store <> '' or etag <> '' or version <> ''))
            or (owned = 0 and "offset" is not null)"""),
    Kind("layout of a form", "the remote form {} has the unknown layout {!r}",
        "select key, layout from form where layout not in ('container', 'plain')"),
    Kind("counts of a batch",
        "the batch {} is kept with {} forms of {} bytes, but has {} of {}", f"""
        select b.key, b.live_count, b.live_bytes, coalesce(n.forms, 0), coalesce(n.bytes, 0)
        from batch as b left join ({_BATCHED}) as n on n.batch_key = b.key
        where b.live_count is distinct from n.forms or b.live_bytes is distinct from n.bytes"""),
    Kind("missing batch", "{} remote forms lie in the batch {}, which does not exist", f"""
        select n.forms, n.batch_key from ({_BATCHED}) as n
        where not exists (select from batch as b where b.key = n.batch_key)"""),
    Kind("batch in the garbage", "the batch {} is marked as garbage",
        "select b.key from batch as b join garbage as g on g.location = b.key"),
    # --- snapshots -------------------------------------------------------------------------------
    Kind("newest snapshot", "changes are kept for snapshot {}, but the newest one is {}", """
        select newest, actual from
            (select coalesce(max(snap), 0) as newest from head) as h,
            (select coalesce(max(snap), 0) as actual from snapshot where state = 'live') as s
        where newest <> actual"""),
    *(
        Kind(f"past {what} without a snapshot",
            f"{what} {{!r}} of inode {{}} is kept for snapshot {{}}, which does not exist",
            f"select {column}, ino, snap from {table} as d where {_NO_SNAPSHOT.format('d')}")
        for what, column, table in (
            ("inode", "ino", "inode_was"),
            ("name", "name", "dentry_was"),
            ("xattr", "name", "xattr_was"),
        )
    ),
    *(
        Kind(f"past {what} without an inode",
            f"{what} {{!r}} of inode {{}}, as snapshot {{}} shows it, has no inode beside it",
            f"select name, ino, snap from {table} as d where not {BESIDE}")
        for what, table in (("name", "dentry_was"), ("xattr", "xattr_was"))
    ),
    Kind("kept for no snapshot", "no snapshot shows generation {1} of inode {0}, which is kept", """
        select ino, generation from kept as k where not exists (
            select from inode_was as w where w.ino = k.ino and w.generation = k.generation)
        and not exists (
            select from inode as i where i.ino = k.ino and i.generation = k.generation)"""),
    Kind("kept without its blob",
        "generation {1} of inode {0} is kept by blob {2}, which does not exist", """
        select ino, generation, blob from kept as k where blob <> 0
            and not exists (select from blob as b where b.blob = k.blob)"""),
    # What only snapshots that are leaving had may be gone before their rows are.
    Kind("past symlink without a target", "symlink {} of a snapshot has no target", f"""
        select distinct ino from inode_was as w where {_SYMLINK} and exists (
            select from snapshot as s
            where s.state = 'live' and s.snap > w.ino and s.snap <= w.snap)
        and not exists (select from symlink as l where l.ino = w.ino)
        and not exists (select from symlink_was as l where l.ino = w.ino)"""),
    Kind("past target without a symlink", "the target of symlink {} belongs to no snapshot", """
        select ino from symlink_was as l
        where not exists (select from inode_was as w where w.ino = l.ino)"""),
    # --- sources ---------------------------------------------------------------------------------
    Kind("size of a foreign object",
        "inode {}, of {} bytes, has the foreign object {!r}, of {} bytes", """
        select i.ino, i.size, o.key, o.size from inode as i join foreign_object as o
            on o.ino = i.ino and o.generation = i.generation where o.size <> i.size"""),
    Kind("foreign object without an inode",
        "the foreign object {!r} belongs to inode {}, which does not exist", f"""
        select key, ino from foreign_object as o where {_NO_INODE.format('o.ino')}
            and not exists (select from inode_was as w where w.ino = o.ino)"""),
    Kind("foreign object without a name",
        "the foreign object {!r} of inode {} is current, but the inode has no name", """
        select key, ino from foreign_object as o where current = 1 and not exists (
            select from inode as i where i.ino = o.ino and i.nlink > 0)"""),
    Kind("foreign object without a source",
        "the foreign object {!r} of inode {} is of source {}, which does not exist",
        f"select key, ino, source from foreign_object as o where {_NO_SOURCE.format('o')}"),
    Kind("state of a foreign object",
        "the foreign object {!r} of inode {} has the impossible state {}, {}, {!r}", """
        select key, ino, ours, current, conflict from foreign_object
        where ours not in (0, 1) or current not in (0, 1)
            or conflict not in ('', 'changed', 'gone', 'taken')"""),
    Kind("prefix without a directory",
        "inode {} stands for the prefix {!r} and is no directory with a name", f"""
        select ino, prefix from foreign_directory as o where not exists (
            select from inode as i where i.ino = o.ino and i.nlink > 0 and i.{_DIRECTORY})"""),
    Kind("prefix without a source",
        "inode {} stands for the prefix {!r} of source {}, which does not exist",
        f"select ino, prefix, source from foreign_directory as o where {_NO_SOURCE.format('o')}"),
    Kind("gone key without a source", "the key {!r} is gone from source {}, which does not exist",
        f"select key, source from foreign_gone as o where {_NO_SOURCE.format('o')}"),
    # --- nodes -----------------------------------------------------------------------------------
    Kind("no writer", "{} nodes take part, of which not just one writes", """
        select count(*) from node having count(*) > 0
            and count(*) filter (where role = 'writer') <> 1"""),
    Kind("reader ahead", "node {} has {} changes, and the one that writes has made {}", """
        select n.name, n.applied, w.seq from node as n join node as w on w.role = 'writer'
        where n.role = 'reader' and n.state = 'live' and n.applied > w.seq"""),
    Kind("change of no writer", "change {} is of node {}, which does not write", """
        select seq, node from change as c where not exists (
            select from node as n where n.node = c.node and n.role = 'writer')"""),
    Kind("change ahead", "change {} is kept, and the node that writes has made {}", """
        select c.seq, w.seq from change as c join node as w on w.node = c.node
        where w.role = 'writer' and c.seq > w.seq"""),
    Kind("gap in the changes", "the changes between {} and {} are missing", """
        select seq, next from (
            select seq, lead(seq) over (partition by node order by seq) as next from change) as c
        where next <> seq + 1"""),
    Kind("missing change", "node {} needs change {}, and the first one that is kept is {}", """
        select n.name, n.applied + 1, coalesce(
            (select min(c.seq) from change as c where c.node = w.node), w.seq + 1)
        from node as n join node as w on w.role = 'writer'
        where n.role = 'reader' and n.state = 'live' and n.applied < w.seq and not exists (
            select from change as c where c.node = w.node and c.seq = n.applied + 1)"""),
)  # fmt: skip
"""All of them."""

_SETTINGS = (
    # A join of long tables by loops takes for ever, and this is no statement that finds a row.
    "set local enable_hashjoin = on",
    "set local enable_mergejoin = on",
)


def find_damage(
    session: Session, progress: Callable[[str, int, int], None] = lambda _kind, _done, _all: None
) -> list[Damage]:
    """Return what is wrong with the shared tables, by kind. Blocks, perhaps for long.

    Args:
        session: A connection to the mount's database.
        progress: Told the kind that is looked for, and how many were and are to be.

    Raises:
        DatabaseError, DisconnectedError: As of the session.
    """
    found = []
    with Instant(session, TIMEOUT_S) as instant:
        for text in _SETTINGS:
            instant.ask(text)
        for at, kind in enumerate(KINDS):
            progress(kind.name, at, len(KINDS))
            rows = instant.ask(f"{kind.query} limit {SENTENCE_COUNT_MAX + 1}")
            if rows:
                sentences = [kind.sentence.format(*row) for row in rows[:SENTENCE_COUNT_MAX]]
                has_more = len(rows) > SENTENCE_COUNT_MAX
                found.append(Damage(kind.name, tuple(sentences), has_more))
    return found
