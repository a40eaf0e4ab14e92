"""The catalogue: all names of a mount with their inodes and xattrs, read beside the daemon.

Invariant: nothing is written, and no transaction lasts longer than a page of `PAGE_COUNT` inodes
takes, so that the daemon's log can start over. So a file that changes meanwhile is in the catalogue
as it was before or after; names that stay are in it once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections import Counter, defaultdict
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from memfs.errors import MetadataError
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.query.fields import is_queryable
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PAGE_COUNT = 4000
"""Inodes a transaction: some 30 ms."""
_COLUMN_COUNT = 12
"""Those of `_INODES`."""

_INODES = """
    select ino, mode, uid, gid, nlink, size, mtime_ns, raw <> 0, packed = 1,
        exists (select 1 from form where form.blob = inode.blob and kind = 'remote'),
        (select lower(hex(digest)) from blob where blob.blob = inode.blob), target
    from inode left join symlink using (ino) where ino > ? order by ino limit ?
"""
_NAMES = """
    select dentry.ino, parent, name from inode cross join dentry on dentry.ino = inode.ino
    where inode.ino > ? and inode.ino <= ? order by inode.ino, cookie
"""
_XATTRS = "select ino, name, value from xattr where ino > ? and ino <= ? order by ino, name"
_TREE_COLUMNS = "ino, mode, uid, gid, nlink, size, blocks, mtime_ns"
_ROOT = f"select {_TREE_COLUMNS} from inode where ino = 1"
_NAMES_IN = f"""
    select cookie, name, {_TREE_COLUMNS.replace("ino,", "inode.ino,", 1)}
    from dentry cross join inode on inode.ino = dentry.ino
    where parent = ? and cookie > ? order by cookie limit ?
"""
_NAME_OF = "select parent, name from dentry where ino = ? limit 1"


class CatalogPage(NamedTuple):
    """Some names, column by column; all but the last two have a value for each name."""

    path: Sequence[bytes]
    """From the root of the mount, without the first slash; empty: the root."""
    ino: Sequence[int]
    mode: Sequence[int]
    uid: Sequence[int]
    gid: Sequence[int]
    nlink: Sequence[int]
    size: Sequence[int]
    """As of the last close."""
    mtime_ns: Sequence[int]
    has_raw: Sequence[int]
    """1 or 0, as the next two."""
    has_packed: Sequence[int]
    has_remote: Sequence[int]
    digest: Sequence[str | None]
    """BLAKE3 in hex, where it is known."""
    target: Sequence[bytes | None]
    """That of a symbolic link."""
    xattr_count: Sequence[int]
    xattr_names: Sequence[bytes]
    """Full names of those of users, one name of a file after the other, sorted for each."""
    xattr_values: Sequence[bytes]


def read_catalog(state_dir: Path) -> Iterator[CatalogPage]:
    """Yield all names in order of inode, some at a time; what the daemon has published is there.

    Raises:
        MetadataError: The tables cannot be read.
    """
    with _reading(state_dir) as connection:
        after = 0
        while True:
            connection.execute("begin")
            try:
                page, after = _page(connection, after)
            finally:
                connection.execute("rollback")
            if page is None:
                return
            yield page


class TreeEntry(NamedTuple):
    """One name in a walk from the root down."""

    name: bytes
    """Empty: the root."""
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    blocks: int
    """Units of 512 bytes."""
    mtime_ns: int


def walk_tree(state_dir: Path) -> Iterator[TreeEntry | None]:
    """Yield all names, each directory before its names, and None behind the last one of them.

    A directory that is moved meanwhile may be left out; it is there once at most.

    Raises:
        MetadataError: The tables cannot be read.
    """
    with _reading(state_dir) as connection:
        root = connection.execute(_ROOT).fetchone()
        if root is None:
            raise MetadataError(f"{state_dir} has no root directory")
        yield TreeEntry(b"", *root)
        entered: set[int] = {ROOT_INODE}
        above: list[Iterator[TreeEntry]] = [_names_in(connection, ROOT_INODE)]
        while above:
            entry = next(above[-1], None)
            if entry is None:
                above.pop()
                yield None
            elif not stat.S_ISDIR(entry.mode):
                yield entry
            elif entry.ino not in entered:
                entered.add(entry.ino)
                yield entry
                above.append(_names_in(connection, entry.ino))


def _names_in(connection: sqlite3.Connection, parent: int) -> Iterator[TreeEntry]:
    after = 0
    while True:
        rows = connection.execute(_NAMES_IN, (parent, after, PAGE_COUNT)).fetchall()
        for cookie, *columns in rows:
            after = cookie
            yield TreeEntry(*columns)
        if len(rows) < PAGE_COUNT:
            return


@contextlib.contextmanager
def _reading(state_dir: Path) -> Iterator[sqlite3.Connection]:
    path = state_dir / FILE_NAME
    try:
        connection = sqlite3.connect(
            f"file:{quote(bytes(path.absolute()))}?mode=ro", uri=True, isolation_level=None
        )
    except sqlite3.Error as error:
        raise MetadataError(f"{path} cannot be opened: {error}") from error
    try:
        yield connection
    except sqlite3.Error as error:
        raise MetadataError(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()


def _page(connection: sqlite3.Connection, after: int) -> tuple[CatalogPage | None, int]:
    """Return the names of some inodes, and the last one of these; None: no inode is left."""
    inodes = connection.execute(_INODES, (after, PAGE_COUNT)).fetchall()
    if not inodes:
        return None, after
    last: int = inodes[-1][0]
    names = connection.execute(_NAMES, (after, last)).fetchall()
    known: dict[int, bytes | None] = {ROOT_INODE: b""}
    above = {parent: _directory(connection, parent, known) for parent in {row[1] for row in names}}
    if None in above.values():
        names = [row for row in names if above[row[1]] is not None]
    begin = {parent: path + b"/" if path else b"" for parent, path in above.items()}
    paths = [begin[parent] + name for _ino, parent, name in names]
    inos = [row[0] for row in names]
    if inodes[0][0] == ROOT_INODE:
        paths.insert(0, b"")
        inos.insert(0, ROOT_INODE)
    if inos != [inode[0] for inode in inodes]:
        # Links, and files without a name.
        by_number = {inode[0]: inode for inode in inodes}
        inodes = [by_number[ino] for ino in inos]
    columns = [*zip(*inodes, strict=True)] or [()] * _COLUMN_COUNT
    return CatalogPage._make((paths, *columns, *_xattrs(connection, (after, last), inos))), last


def _xattrs(
    connection: sqlite3.Connection, span: tuple[int, int], inos: Sequence[int]
) -> tuple[Sequence[int], Sequence[bytes], Sequence[bytes]]:
    """Return how many xattrs each inode has, and their names and values one after the other."""
    rows = connection.execute(_XATTRS, span).fetchall()
    others = {name for name in {row[1] for row in rows} if not is_queryable(name)}
    if others:
        rows = [row for row in rows if row[1] not in others]
    count_of = Counter(map(itemgetter(0), rows))
    counts = [*map(count_of.get, inos, repeat(0))]
    if len({*inos}) < len(inos) or sum(counts) < len(rows):
        own: defaultdict[int, list[tuple[int, bytes, bytes]]] = defaultdict(list)
        for row in rows:
            own[row[0]].append(row)
        rows = [row for ino in inos for row in own[ino]]
    return counts, [row[1] for row in rows], [row[2] for row in rows]


def _directory(
    connection: sqlite3.Connection, ino: int, known: dict[int, bytes | None]
) -> bytes | None:
    """Return the path of a directory; None if it was removed."""
    if ino not in known:
        row = connection.execute(_NAME_OF, (ino,)).fetchone()
        above = None if row is None else _directory(connection, row[0], known)
        known[ino] = None if above is None else above + b"/" + row[1] if above else row[1]
    return known[ino]
