"""A catalogue as a Parquet file.

Invariant: a file that carries the name that was asked for is complete.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.catalog import CatalogRow

_GROUP_ROW_COUNT = 50_000

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("ino", pa.int64()),
        ("type", pa.string()),
        ("mode", pa.int32()),
        ("uid", pa.int64()),
        ("gid", pa.int64()),
        ("nlink", pa.int32()),
        ("size", pa.int64()),
        ("mtime", pa.timestamp("ns", "UTC")),
        ("has_raw", pa.bool_()),
        ("has_packed", pa.bool_()),
        ("has_remote", pa.bool_()),
        ("digest", pa.string()),
        ("target", pa.string()),
        ("xattrs", pa.map_(pa.string(), pa.string())),
    ]
)
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def write_catalog(
    file: Path, pages: Iterable[Sequence[CatalogRow]], show: Callable[[int], None]
) -> int:
    """Write all rows; returns how many there are.

    Args:
        file: Replaced at the end.
        pages: Those of the catalogue.
        show: Told how many rows are written.
    """
    new = file.with_name(f".{file.name}.new")
    count = 0
    waiting: list[CatalogRow] = []
    try:
        with pq.ParquetWriter(new, _SCHEMA, compression="zstd") as writer:
            for rows in pages:
                waiting += rows
                count += len(rows)
                if len(waiting) >= _GROUP_ROW_COUNT:
                    writer.write_table(_table(waiting))
                    waiting = []
                    show(count)
            writer.write_table(_table(waiting))
        new.rename(file)
    finally:
        new.unlink(missing_ok=True)
    return count


def _table(rows: Sequence[CatalogRow]) -> pa.Table:
    columns = [
        [_text(row.path) for row in rows],
        [row.ino for row in rows],
        [_TYPES.get(stat.S_IFMT(row.mode), "") for row in rows],
        [stat.S_IMODE(row.mode) for row in rows],
        [row.uid for row in rows],
        [row.gid for row in rows],
        [row.nlink for row in rows],
        [row.size for row in rows],
        [row.mtime_ns for row in rows],
        [row.has_raw for row in rows],
        [row.has_packed for row in rows],
        [row.has_remote for row in rows],
        [None if row.digest is None else row.digest.hex() for row in rows],
        [None if row.target is None else _text(row.target) for row in rows],
        [[(_text(name[5:]), _text(value)) for name, value in row.xattrs.items()] for row in rows],
    ]
    arrays = [pa.array(each, field.type) for each, field in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _text(content: bytes) -> str:
    """Return bytes as text; those that are no UTF-8 are escaped."""
    return content.decode("utf-8", "backslashreplace")
