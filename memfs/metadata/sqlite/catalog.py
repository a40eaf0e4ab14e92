"""The catalogue: all names of a mount with their inodes and xattrs, read beside the daemon.

Invariant: nothing is written, and no transaction lasts longer than a page of `PAGE_COUNT` inodes
takes, so that the daemon's log can start over. So a file that changes meanwhile is in the catalogue
as it was before or after; names that stay are in it once.
"""

from __future__ import annotations

import sqlite3
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
    has_raw: bool
    has_packed: bool
    has_remote: bool
    digest: bytes | None
    """BLAKE3, where it is known."""
    target: bytes | None
    """That of a symbolic link."""
    xattrs: dict[bytes, bytes]
    """Those of users, by the full name."""


def read_catalog(state_dir: Path) -> Iterator[list[CatalogRow]]:
    """Yield all names in order of inode, some at a time; what the daemon has published is there.

    Raises:
        MetadataError: The tables cannot be read.
    """
    path = state_dir / FILE_NAME
    try:
        connection = sqlite3.connect(
            f"file:{quote(bytes(path.absolute()))}?mode=ro", uri=True, isolation_level=None
        )
    except sqlite3.Error as error:
        raise MetadataError(f"{path} cannot be opened: {error}") from error
    try:
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
    xattrs: dict[int, dict[bytes, bytes]] = {}
    for ino, name, value in connection.execute(_XATTRS, (after, last)):
        if is_queryable(name):
            xattrs.setdefault(ino, {})[name] = value
    directories: dict[int, bytes | None] = {ROOT_INODE: b""}
    paths: dict[int, list[bytes]] = {ROOT_INODE: [b""]}
    for ino, parent, name in connection.execute(_NAMES, (after, last)).fetchall():
        above = _directory(connection, parent, directories)
        if above is not None:
            paths.setdefault(ino, []).append(above + b"/" + name if above else name)
    rows = []
    for ino, *attributes in inodes:
        mode, uid, gid, nlink, size, mtime_ns, raw, packed, remote, digest, target = attributes
        rows += [
            CatalogRow(
                path,
                ino,
                mode,
                uid,
                gid,
                nlink,
                size,
                mtime_ns,
                bool(raw),
                bool(packed),
                bool(remote),
                digest,
                target,
                xattrs.get(ino, {}),
            )
            for path in paths.get(ino, [])
        ]
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
