"""The catalogue: all names of a mount with their inodes and xattrs, read beside the daemon.

Invariant: nothing is written, and no transaction lasts longer than a page of `PAGE_COUNT` inodes
takes, so that the daemon's log can start over. So a file that changes meanwhile is in the catalogue
as it was before or after; names that stay are in it once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from memfs.errors import MetadataError
from memfs.metadata.sqlite.database import FILE_NAME
from memfs.query.fields import is_queryable
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE_COUNT = 2000
"""Inodes a transaction: some 30 ms."""

_INODES = """
    select ino, mode, uid, gid, nlink, size, mtime_ns, raw <> 0, packed = 1,
        exists (select 1 from form where form.blob = inode.blob and kind = 'remote'),
        (select digest from blob where blob.blob = inode.blob), target
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


class CatalogRow(NamedTuple):
    """One name."""

    path: bytes
    """From the root of the mount, without the first slash; empty: the root."""
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    """As of the last close."""
    mtime_ns: int
    has_raw: int
    """1 or 0, as the next two."""
    has_packed: int
    has_remote: int
    digest: bytes | None
    """BLAKE3, where it is known."""
    target: bytes | None
    """That of a symbolic link."""
    xattrs: list[tuple[bytes, bytes]]
    """Full names and values of those of users, by name."""


def read_catalog(state_dir: Path) -> Iterator[list[CatalogRow]]:
    """Yield all names in order of inode, some at a time; what the daemon has published is there.

    Raises:
        MetadataError: The tables cannot be read.
    """
    with _reading(state_dir) as connection:
        after = 0
        while True:
            connection.execute("begin")
            try:
                rows, after, is_last = _page(connection, after)
            finally:
                connection.execute("rollback")
            yield rows
            if is_last:
                return


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


def _page(connection: sqlite3.Connection, after: int) -> tuple[list[CatalogRow], int, bool]:
    """Return the names of some inodes, the last one of these, and whether no inode is left."""
    inodes = connection.execute(_INODES, (after, PAGE_COUNT)).fetchall()
    if not inodes:
        return [], after, True
    last: int = inodes[-1][0]
    xattrs: defaultdict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    asked: dict[bytes, bool] = {}
    for ino, name, value in connection.execute(_XATTRS, (after, last)):
        if name not in asked:
            asked[name] = is_queryable(name)
        if asked[name]:
            xattrs[ino].append((name, value))
    directories: dict[int, bytes | None] = {ROOT_INODE: b""}
    paths: dict[int, list[bytes]] = {ROOT_INODE: [b""]}
    for ino, parent, name in connection.execute(_NAMES, (after, last)).fetchall():
        above = _directory(connection, parent, directories)
        if above is not None:
            paths.setdefault(ino, []).append(above + b"/" + name if above else name)
    rows = []
    for inode in inodes:
        ino = inode[0]
        own = xattrs.get(ino, [])
        # In a quarter of the time of `CatalogRow(...)`.
        rows += [tuple.__new__(CatalogRow, (path, *inode, own)) for path in paths.get(ino, ())]
    return rows, last, len(inodes) < PAGE_COUNT


def _directory(
    connection: sqlite3.Connection, ino: int, known: dict[int, bytes | None]
) -> bytes | None:
    """Return the path of a directory; None if it was removed."""
    if ino not in known:
        row = connection.execute(_NAME_OF, (ino,)).fetchone()
        above = None if row is None else _directory(connection, row[0], known)
        known[ino] = None if above is None else above + b"/" + row[1] if above else row[1]
    return known[ino]
