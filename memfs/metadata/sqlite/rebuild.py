"""Rebuilding: what can be made of damaged metadata, with a sentence for all that is lost.

Each step begins from what the one before has left, and from what a killed one has left. Rows that
were read out of a damaged database are a file of their own, complete, before the damaged one goes:

1. The rows are written to `metadata.db.new`. *Killed*: the next repair begins that anew.
2. It becomes `metadata.db.salvaged`. *Killed from here on*: the next repair goes on with 3.
3. The log of the damaged database is removed, which would be taken for one of the new.
4. The new database takes the place of the damaged one.

Invariant: nothing but metadata is written. The caller has copied them away before.
"""

from __future__ import annotations

import marshal
import os
import sqlite3
import stat
from typing import TYPE_CHECKING

from memfs.errors import MetadataError, UsageError
from memfs.linux.files import open_regular, sync_directory
from memfs.metadata.sqlite.creation import LEASE_NAME, create_tables, tables_of
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import FILE_NAME as FORMAT_NAME
from memfs.metadata.sqlite.format import (
    FOREIGN_NUMBER,
    FORMAT_NUMBER,
    OLDEST_FORMAT,
    new_state_id,
    read_format,
    read_state_id,
    write_format,
)
from memfs.metadata.sqlite.journal import Journal
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from memfs.metadata.sqlite.lease import LEASE_COUNT, IdLease
from memfs.metadata.sqlite.mending import mend
from memfs.metadata.sqlite.migration import Migration
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.metadata.sqlite.pages import FILE_NAME as SUMS_NAME
from memfs.metadata.sqlite.pages import PageSums
from memfs.metadata.sqlite.schema import Made
from memfs.metadata.sqlite.statements import TEXTS, UNDERSTOOD
from memfs.types import StateId

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.config import MetadataConfig

_RAW_FIELD = 13
"""That of `Inode`, as the statement that inserts one has it."""

_INSERT_INODE, _INSERT_DENTRY = "insert into inode ", "insert into dentry "
"""How statements begin whose numbers differ from format to format."""


def metadata_files(state_dir: Path) -> list[Path]:
    """Return the files that `rebuild` may change and that are there."""
    names = (FORMAT_NAME, LEASE_NAME, FILE_NAME, f"{FILE_NAME}-wal", SUMS_NAME, *JOURNAL_NAMES)
    return [state_dir / name for name in names if (state_dir / name).exists()]


def rebuild(
    state_dir: Path,
    config: MetadataConfig,
    highest_raw: int,
    now_ns: int,
    reach: Callable[[str], None],
) -> tuple[list[str], dict[int, str]]:
    """Make the metadata of a state directory usable again.

    Args:
        state_dir: Locked by this process; its metadata were copied away.
        config: Sizes in memory.
        highest_raw: The highest number of a raw file.
        now_ns: Time of what is made anew.
        reach: Told of each fault point.

    Returns:
        A sentence for each thing that was damaged or is lost; and the names of raw files that only
        entries of a journal tell that nothing could be done with.

    Raises:
        UsageError: It is of another version or engine.
        MetadataError: Nothing helps.
    """
    told: list[str] = []
    journals = [Journal(state_dir / name) for name in JOURNAL_NAMES]
    path = state_dir / FILE_NAME
    try:
        state_id = _repair_identity(state_dir, journals, told)
        number = _find_format(path, journals)
        names = _names_of_stranded(journals)
        turn = max((each.origin.lease_turn for each in journals if each.origin), default=0)
    finally:
        for journal in journals:
            journal.close()
    reach("repair.identified")
    _repair_tables(path, state_id, number, now_ns, told, reach)
    reach("repair.tables")
    _repair_lease(state_dir / LEASE_NAME, max(_highest_number(path), highest_raw), turn, told)
    reach("repair.lease")
    migration = Migration(told.append) if number < FORMAT_NUMBER else None
    SqliteEngine.open(state_dir, config, now_ns, complain=told.append, migration=migration).close()
    reach("repair.joined")
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("begin immediate")
        highest = _highest_number(path) + 1
        told += mend(connection, highest, now_ns)
        connection.execute("commit")
    connection.close()
    reach("repair.mended")
    # Written past the engine: the next opening makes the sums of what is there.
    (state_dir / SUMS_NAME).unlink(missing_ok=True)
    engine = SqliteEngine.open(state_dir, config, now_ns, complain=told.append)
    try:
        told += [f"still wrong: {sentence}" for sentence in engine.check()]
    finally:
        engine.close()
    reach("repair.checked")
    return told, names


def _repair_identity(state_dir: Path, journals: list[Journal], told: list[str]) -> StateId:
    """Return the identity of the directory, written anew if the format file has lost it."""
    known = [
        each.origin.state_id
        for each in journals
        if each.origin is not None and each.fingerprint in UNDERSTOOD
    ]
    try:
        stored = read_state_id(state_dir) if read_format(state_dir) else None
        if stored is not None and (not known or stored in known):
            return stored
        what = "has lost the identity of the state directory"
    except UsageError as error:
        if not known:
            raise
        what = str(error)
    state_id = StateId(known[0]) if known else new_state_id()
    write_format(state_dir, state_id)
    if known:
        told.append(f"{state_dir / FORMAT_NAME} {what}: written anew with that of the journals")
    return state_id


def _find_format(path: Path, journals: list[Journal]) -> int:
    """Return the format of the tables; where they cannot tell it, that of the journals."""
    known = {each.fingerprint: UNDERSTOOD.get(each.fingerprint) for each in journals}
    formats = {vocabulary.format for vocabulary in known.values() if vocabulary is not None}
    for place in (path, _salvaged(path)):
        if not place.exists():
            continue
        # Without the right to write it leaves the log where it is.
        connection = sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (number,) = connection.execute("pragma user_version").fetchone()
        except sqlite3.Error:
            continue
        finally:
            connection.close()
        return FORMAT_NUMBER if number == FOREIGN_NUMBER else int(number) or OLDEST_FORMAT
    return min(formats, default=FORMAT_NUMBER)


def _names_of_stranded(journals: list[Journal]) -> dict[int, str]:
    """Return the names of raw files that entries name behind a broken one."""
    raws: dict[int, int] = {}
    names: dict[int, str] = {}
    # By inode; the entry of a creation has the name first.
    for journal in journals:
        known = UNDERSTOOD.get(journal.fingerprint)
        texts = TEXTS if known is None else known.texts
        for _sequence, payload in [*journal.entries(), *journal.behind()]:
            try:
                records, _totals = marshal.loads(payload)
                for statement, parameters in records:
                    if texts[statement].startswith(_INSERT_INODE):
                        raws[parameters[0]] = parameters[_RAW_FIELD]
                    elif texts[statement].startswith(_INSERT_DENTRY):
                        names[parameters[3]] = os.fsdecode(parameters[2])
            except (ValueError, TypeError, EOFError, IndexError):
                continue
    return {raws[ino]: name for ino, name in names.items() if ino in raws}


def _repair_tables(
    path: Path,
    state_id: StateId,
    number: int,
    now_ns: int,
    told: list[str],
    reach: Callable[[str], None],
) -> None:
    if _salvaged(path).exists():
        told.append(f"{path} was damaged: a repair that was cut short has read its rows one by one")
        _put_in_place(path, reach)
        PageSums(path, state_id).drop_sums()
    if not path.exists():
        told.append(f"{path} is missing: begun anew")
        create_tables(path, now_ns, number)
        return
    sums = PageSums(path, state_id)
    damage = sums.find_damage()
    if _is_sound(path):
        if damage is not None:
            told.append(f"{damage}; SQLite finds nothing wrong with it")
    else:
        told.append(f"{damage or str(path) + ' is damaged'}: rows are read one by one")
        _salvage(path, number, now_ns, told)
        reach("repair.salvaged")
        _put_in_place(path, reach)
    # They are of another file by now, or were looked at.
    sums.drop_sums()


def _is_sound(path: Path) -> bool:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        found = connection.execute("pragma integrity_check").fetchall()
        known = connection.execute("select count(*) from state").fetchone()
    except sqlite3.Error:
        return False
    else:
        # Later versions of SQLite look into tables of FTS5 too (3.51), which a repair fills anew.
        wrong = [told for (told,) in found if told != "ok" and "fts5" not in told.lower()]
        return not wrong and tuple(known) == (1,)
    finally:
        connection.close()


def _salvage(path: Path, number: int, now_ns: int, told: list[str]) -> None:
    """Copy all rows that can be read into a new database, which is `_salvaged` once complete."""
    new = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    create_tables(new, now_ns, number)
    source, target = sqlite3.connect(path), sqlite3.connect(new, isolation_level=None)
    try:
        target.execute("begin immediate")
        for kind, table in map(Made.by, tables_of(number)):
            if kind != "table":
                continue
            row_count, whole = _copy_rows(source, target, table)
            if not whole:
                told.append(f"table {table}: only {row_count} rows can be read")
        target.execute("commit")
    finally:
        source.close()
        target.close()
    with open(open_regular(new, os.O_RDONLY), "rb") as file:
        os.fsync(file.fileno())
    new.rename(_salvaged(path))
    sync_directory(path.parent)


def _salvaged(path: Path) -> Path:
    """Return where a new database lies that is to take the place of a damaged one."""
    return path.with_name(path.name + ".salvaged")


def _put_in_place(path: Path, reach: Callable[[str], None]) -> None:
    """Put the rows that were read in the place of the damaged database."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    sync_directory(path.parent)
    reach("repair.log_removed")
    _salvaged(path).rename(path)
    sync_directory(path.parent)


def _copy_rows(
    source: sqlite3.Connection, target: sqlite3.Connection, table: str
) -> tuple[int, bool]:
    """Copy a table from both its ends up to what cannot be read; returns rows, and if it is all."""
    fields = target.execute(f"pragma table_info({table})").fetchall()
    key = ", ".join(name for _, name, *_, rank in sorted(fields, key=lambda f: f[5]) if rank)
    marks = ", ".join("?" * len(fields))
    if table == "state":
        target.execute("delete from state")
    whole = False
    for order in ("", " desc") if key else ("",):
        by = f" order by {key.replace(',', order + ',')}{order}" if key else ""
        insert = f"insert or replace into {table} values ({marks})"
        whole = _copy_until_damage(source, f"select * from {table}{by}", target, insert)
        if whole:
            break
    if table == "state" and not target.execute("select 1 from state").fetchone():
        width = len(fields) - 1
        target.execute(f"insert into state values (0{', 0' * width})")
    return target.execute(f"select count(*) from {table}").fetchone()[0], whole


def _copy_until_damage(
    source: sqlite3.Connection, select: str, target: sqlite3.Connection, insert: str
) -> bool:
    """Copy one row after the other, while they can be read; returns whether that is all."""
    whole = True
    rows: sqlite3.Cursor | None = None
    while True:
        try:
            # A batch that meets a damaged page would take the rows before it along.
            rows = rows or source.execute(select)
            row = rows.fetchone()
        except sqlite3.Error:
            return False
        if row is None:
            return whole
        try:
            target.execute(insert, row)
        except sqlite3.IntegrityError:
            whole = False


def _highest_number(path: Path) -> int:
    """Return the highest number in use in the tables."""
    columns = (
        ("inode", "ino"),
        ("inode", "raw"),
        ("blob", "blob"),
        ("dentry", "cookie"),
        ("garbage", "item"),
        ("intent", "intent"),
        ("snapshot", "snap"),
        ("inode_was", "ino"),
        ("dentry_was", "cookie"),
        ("kept", "raw"),
        ("kept", "blob"),
        ("source", "source"),
    )
    connection = sqlite3.connect(path)
    try:
        there = {name for (name,) in connection.execute("select name from sqlite_schema")}
        return max(
            int(connection.execute(f"select coalesce(max({column}), 0) from {table}").fetchone()[0])
            for table, column in columns
            if table in there
        )
    except sqlite3.Error as error:
        raise MetadataError(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()


def _repair_lease(path: Path, highest: int, turn: int, told: list[str]) -> None:
    try:
        lease = IdLease(path)
    except UsageError as error:
        if path.exists() and not stat.S_ISREG(path.lstat().st_mode):
            raise
        what = str(error).partition(";")[0]
    else:
        found = lease.found
        lease.close(clean=False)
        if found.next_id > highest and found.turn >= turn:
            return
        what = f"{path} is an older copy"
    told.append(f"{what}: numbers go on far beyond those in use")
    # Entries that are lost may have used numbers that nothing shows any more.
    IdLease.format(path, max(highest, 16) + 2 * LEASE_COUNT, turn + 2)
