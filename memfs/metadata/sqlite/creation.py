"""Creation of a state directory.

Invariant: the format file is written last and durably; until then, creation starts over safely. A
directory that was in use is never taken for one whose creation was interrupted.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from types import MappingProxyType
from typing import TYPE_CHECKING

from memfs.errors import MetadataError, NoSpaceError, StateDamagedError, UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.files import sync_directory
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite import format2
from memfs.metadata.sqlite.format import FILE_NAME as FORMAT_NAME
from memfs.metadata.sqlite.format import FORMAT_NUMBER, IMPORT_NAME, new_state_id, write_format
from memfs.metadata.sqlite.journal import NO_ORIGIN, Journal
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from memfs.metadata.sqlite.lease import FIRST_ID, IdLease
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.metadata.sqlite.schema import ADDITIONS, SCHEMA
from memfs.metadata.sqlite.statements import FINGERPRINT, INSERT_INODE, PUT_SETTING, TEXTS
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEASE_NAME = "ids"

NO_SETTINGS: Mapping[str, bytes] = MappingProxyType({})


def create(
    state_dir: Path, now_ns: int, settings: Mapping[str, bytes], first_id: int = FIRST_ID
) -> None:
    """Make an empty file system in a directory, which is made if it is missing.

    Args:
        state_dir: The directory.
        now_ns: Times of the root directory.
        settings: What it has from the beginning; no kill comes between.
        first_id: The first number that it hands out.

    Raises:
        UsageError: The directory cannot be made or written.
        StateDamagedError: It was in use, and has lost its format file.
        NoSpaceError: The disk is full.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_used(state_dir)
        if not (state_dir / LEASE_NAME).exists() and not (state_dir / FILE_NAME).exists():
            IdLease.format(state_dir / LEASE_NAME, first_id)
        create_tables(state_dir / FILE_NAME, now_ns, settings=settings)
        state_id = new_state_id()
        create_journals(state_dir, state_id, 0)
        sync_directory(state_dir)
        write_format(state_dir, state_id)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            raise NoSpaceError(f"{state_dir} cannot be created: the disk is full") from error
        raise MetadataError(f"{state_dir / FILE_NAME} cannot be created: {error}") from error
    except OSError as error:
        raise UsageError(f"{state_dir} cannot be created: {error.strerror}") from error


def create_journals(state_dir: Path, state_id: bytes, applied: int) -> None:
    """Make both journals, empty, for tables that have everything up to a sequence; durable."""
    before = 0
    for sequence, name in enumerate(reversed(JOURNAL_NAMES), applied + 1):
        journal = Journal(state_dir / name)
        try:
            origin = NO_ORIGIN._replace(state_id=state_id, predecessor=before)
            journal.start(sequence, FINGERPRINT, origin)
            journal.sync()
        finally:
            journal.close()
        before = journal.salt


def _refuse_used(state_dir: Path) -> None:
    """See that no import was cut short, and no journal ever opened: the format file is older."""
    if (state_dir / IMPORT_NAME).exists():
        raise UsageError(
            f"{state_dir}: an import was cut short: run `memfs snapshot import` again",
            ExitCode.STATE_UNUSABLE,
        )
    for name in JOURNAL_NAMES:
        path = state_dir / name
        if path.exists():
            journal = Journal(path, create=False)
            used = journal.first_sequence > len(JOURNAL_NAMES) or any(journal.entries())
            journal.close()
            if used:
                raise StateDamagedError(f"{state_dir / FORMAT_NAME} is missing", str(state_dir))


def tables_of(number: int) -> tuple[str, ...]:
    """Return the statements that make the tables of a format, `FORMAT_NUMBER` or an older one."""
    return SCHEMA + ADDITIONS if number == FORMAT_NUMBER else format2.SCHEMA + format2.ADDITIONS


def create_tables(
    path: Path,
    now_ns: int,
    number: int = FORMAT_NUMBER,
    settings: Mapping[str, bytes] = NO_SETTINGS,
) -> None:
    """Make an empty database, unless there is one.

    Args:
        path: That of the database.
        now_ns: Times of the root directory.
        number: The format. The tables of an older one, for a repair, get no root directory.
        settings: As `create`.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("pragma journal_mode = wal").fetchone()
        connection.execute("pragma synchronous = full")
        connection.execute("begin immediate")
        if connection.execute("select 1 from sqlite_schema where name = 'state'").fetchone():
            # The process was killed between here and the format file.
            connection.execute("rollback")
            return
        for statement in tables_of(number):
            connection.execute(statement)
        if number == FORMAT_NUMBER:
            connection.execute(f"pragma user_version = {FORMAT_NUMBER}")
            root = NewInode(ROOT_INODE, stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), now_ns)
            connection.execute(TEXTS[INSERT_INODE], root.as_inode(nlink=2))
        connection.executemany(TEXTS[PUT_SETTING], settings.items())
        column_count = len(connection.execute("pragma table_info(state)").fetchall())
        counted = (0, int(number == FORMAT_NUMBER), *[0] * (column_count - 2))
        connection.execute(f"insert into state values (?{', ?' * (column_count - 1)})", counted)
        connection.execute("commit")
        os.chmod(path, 0o600)
    finally:
        connection.close()
