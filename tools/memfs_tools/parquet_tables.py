"""The shared tables of a mount as Parquet files, one for each, all as of one instant.

Files are written in a directory beside the one that was asked for, which gets its name at the end:
a process that ends before leaves nothing that looks whole.

Invariant: a directory with the name that was asked for has all tables, and each of them whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from memfs.errors import UsageError
from memfs.linux.files import sync_directory
from memfs.metadata.shared.instant import Instant
from memfs.metadata.shared.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.shared.instant import Session
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row

_GROUP_BYTES = 32 << 20
"""Those of a row group, by the length of its values."""
_NUMBER_BYTES = 8
_TYPES = {"i": pa.int64(), "b": pa.binary(), "t": pa.string(), "u": pa.binary()}


def require_empty(directory: Path) -> None:
    """See that a directory can be made, or has no files.

    Raises:
        UsageError: It cannot.
    """
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        if directory.parent.is_dir():
            return
        raise UsageError(f"{directory.parent} is no directory: make it, or name another") from None
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from None
    if names:
        raise UsageError(f"{directory} has files ({names[0]}): name a new or an empty directory")


def write_tables(
    session: Session, directory: Path, show: Callable[[str, int], None]
) -> dict[str, int]:
    """Write all tables; returns how many rows each has.

    Args:
        session: A connection to the mount's database.
        directory: New, or empty (`require_empty`).
        show: Told the table, and how many rows of it are written.

    Raises:
        DatabaseError, DisconnectedError: As of the session.
        OSError: The disk refuses.
    """
    counts: dict[str, int] = {}
    # The name begins with a dot and has another end, so that nobody takes it for the export.
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.absolute().parent))
    try:
        with Instant(session) as instant:
            for table in TABLES:
                counts[table.name] = _write(instant, table, made, show)
        sync_directory(made)
        # Over an empty directory too.
        made.replace(directory)
        sync_directory(directory.absolute().parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return counts


def _write(
    instant: Instant, table: SharedTable, made: Path, show: Callable[[str, int], None]
) -> int:
    schema = pa.schema(
        [
            pa.field(column.name, _TYPES[column.letter], nullable=column.nullable)
            for column in table.columns
        ]
    )
    path = made / f"{table.name}.parquet"
    count = size = 0
    waiting: list[Row] = []
    with path.open("xb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in instant.read(table):
                waiting += rows
                count += len(rows)
                size += sum(map(_size, rows))
                if size > _GROUP_BYTES:
                    writer.write_table(_table(waiting, schema))
                    waiting, size = [], 0
                show(table.name, count)
            writer.write_table(_table(waiting, schema))
        file.flush()
        os.fsync(file.fileno())
    return count


def _size(row: Row) -> int:
    return sum(len(value) if isinstance(value, (bytes, str)) else _NUMBER_BYTES for value in row)


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
