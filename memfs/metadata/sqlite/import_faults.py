"""Faults of an export: what its rows must not say if a tree is to be made of them.

Invariant: what an import takes has passed all of these; the format of a part tells nothing of it.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from memfs.errors import CorruptDataError
from memfs.metadata.foreign import Conflict
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    import sqlite3

_FILE = f"mode & {0o170000} = {stat.S_IFREG}"
_CONFLICTS = ", ".join(f"'{conflict.value}'" for conflict in Conflict)
_DIRECTORY = f"mode & {0o170000} = {stat.S_IFDIR}"
_FAULTS = (
    (
        "the root directory is missing",
        f"""select 1 where not exists (
                select 1 from inode where ino = {ROOT_INODE} and {_DIRECTORY})""",
    ),
    (
        "the name {!r} leads to inode {}, which is missing",
        "select name, ino from dentry where ino not in (select ino from inode) limit 1",
    ),
    (
        "the name {!r} is in inode {}, which is no directory",
        f"""select name, parent from dentry
            where parent not in (select ino from inode where {_DIRECTORY}) limit 1""",
    ),
    (
        "inode {} has no name",
        f"""select ino from inode where ino <> {ROOT_INODE}
            and ino not in (select ino from dentry) limit 1""",
    ),
    (
        "inode {} has blob {}, which is missing",
        """select ino, blob from inode where blob <> 0 and (
               blob not in (select blob from blob)
               or blob not in (select blob from form)) limit 1""",
    ),
    (
        "blob {} belongs to no file",
        "select blob from blob where blob not in (select blob from inode) limit 1",
    ),
    (
        "the object {} of many files is missing",
        """select key from form where offset is not null
           and key not in (select key from batch) limit 1""",
    ),
    (
        "the object {!r} of source {} belongs to inode {}, which is no file",
        f"""select key, source, ino from foreign_object
            where ino not in (select ino from inode where {_FILE}) limit 1""",
    ),
    (
        "the object {!r} is of source {}, which is missing",
        """select key, source from foreign_object
           where source not in (select source from source) limit 1""",
    ),
    (
        "the key {!r} is gone from source {}, which is missing",
        """select key, source from foreign_gone
           where source not in (select source from source) limit 1""",
    ),
    (
        "the prefix {!r} of source {} is that of inode {}, which is no directory",
        f"""select prefix, source, ino from foreign_directory
            where ino not in (select ino from inode where {_DIRECTORY}) limit 1""",
    ),
    (
        "the prefix {!r} is of source {}, which is missing",
        """select prefix, source from foreign_directory
           where source not in (select source from source) limit 1""",
    ),
    (
        "inode {}, of {} bytes, was made of the object {!r}, of {} bytes",
        """select inode.ino, inode.size, o.key, o.size from inode join foreign_object as o
           on o.ino = inode.ino and o.generation = inode.generation
           where o.size <> inode.size limit 1""",
    ),
    (
        "the object {!r} has the impossible state {}, {}, {!r}",
        f"""select key, ours, current, conflict from foreign_object where ours not in (0, 1)
            or current not in (0, 1) or conflict not in ({_CONFLICTS})
            or generation < 0 limit 1""",
    ),
    (
        "the published object {!r} is not below {!r}",
        """select url, target from published
           where substr(url, 1, length(target) + 1) <> target || '/' limit 1""",
    ),
    (
        "source {} is of inode {}, which never was",
        f"select source, root from source where root < {ROOT_INODE} limit 1",
    ),
)
"""A sentence, and the statement whose first row, if there is one, fills its gaps."""


def require_whole(connection: sqlite3.Connection) -> None:
    """See that the rows in the tables of a new state make a tree.

    Raises:
        CorruptDataError: They do not; names the first fault.
    """
    for sentence, query in _FAULTS:
        if (row := connection.execute(query).fetchone()) is not None:
            raise CorruptDataError("the export is not whole: " + sentence.format(*row))
