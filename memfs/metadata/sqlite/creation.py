"""Creation of a state directory.

Invariant: the format file is written last and durably; until then, creation starts over safely.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import TYPE_CHECKING

from memfs.errors import MetadataError, NoSpaceError, UsageError
from memfs.metadata.records import Inode, Usage
from memfs.metadata.sqlite.database import FILE_NAME
from memfs.metadata.sqlite.format import sync_directory, write_format
from memfs.metadata.sqlite.lease import IdLease
from memfs.metadata.sqlite.schema import ADDITIONS, SCHEMA
from memfs.metadata.sqlite.statements import INSERT_INODE, TEXTS
from memfs.types import NO_BLOB, NO_RAW, ROOT_INODE, Generation

if TYPE_CHECKING:
    from pathlib import Path

LEASE_NAME = "ids"


def create(state_dir: Path, now_ns: int) -> None:
    """Make an empty file system in a directory, which is made if it is missing.

    Raises:
        UsageError: The directory cannot be made or written.
        NoSpaceError: The disk is full.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (state_dir / LEASE_NAME).exists() and not (state_dir / FILE_NAME).exists():
            IdLease.format(state_dir / LEASE_NAME)
        _create_tables(state_dir / FILE_NAME, now_ns)
        sync_directory(state_dir)
        write_format(state_dir)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            raise NoSpaceError(f"{state_dir} cannot be created: the disk is full") from error
        raise MetadataError(f"{state_dir / FILE_NAME} cannot be created: {error}") from error
    except OSError as error:
        raise UsageError(f"{state_dir} cannot be created: {error.strerror}") from error


def _create_tables(path: Path, now_ns: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("pragma journal_mode = wal").fetchone()
        connection.execute("pragma synchronous = full")
        connection.execute("begin immediate")
        if connection.execute("select 1 from sqlite_schema where name = 'state'").fetchone():
            # The process was killed between here and the format file.
            connection.execute("rollback")
            return
        for statement in SCHEMA + ADDITIONS:
            connection.execute(statement)
        root = Inode(
            ino=ROOT_INODE,
            mode=stat.S_IFDIR | 0o755,
            uid=os.geteuid(),
            gid=os.getegid(),
            nlink=2,
            rdev=0,
            size=0,
            blocks=0,
            atime_ns=now_ns,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
            btime_ns=now_ns,
            generation=Generation(1),
            raw=NO_RAW,
            blob=NO_BLOB,
            flags=0,
            pin=0,
            codec=None,
            accessed_ns=now_ns,
        )
        connection.execute(TEXTS[INSERT_INODE], root)
        totals = Usage(1, *[0] * (len(Usage._fields) - 1))
        connection.execute(f"insert into state values (0{', ?' * len(totals)})", totals)
        connection.execute("commit")
        os.chmod(path, 0o600)
    finally:
        connection.close()
