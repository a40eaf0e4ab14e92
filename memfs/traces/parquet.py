"""Traces as Parquet files; the only module that imports pyarrow.

Invariant: a file that carries the name of a part is complete; what a killed daemon half wrote has a
name that readers pass over.

A recorded trace is a directory of parts, which pyarrow, pandas, DuckDB and Spark read as one table.
A single file would not do: the footer that makes a Parquet file readable comes last, so that a
killed daemon would lose all of it (https://parquet.apache.org/docs/file-format/).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from memfs.errors import InvalidValueError
from memfs.traces.access_log import Operation
from memfs.types import Tier

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from memfs.traces.access_log import Rows

PART_ROW_COUNT = 1 << 16
"""Each `append` writes the part under
way anew, so that a larger one would cost more writing, and a smaller one more files."""

_PART_NAME = re.compile(r"part-(\d{6})\.parquet")
_CODEC = "zstd"
_OPERATIONS = [operation.label for operation in Operation]
_TIERS = ["", *(tier.label for tier in Tier)]
"""By the value of `Tier`, which begins at 1."""

_READ_ROW_COUNT = 1 << 16


class PartWriter:
    """Appends rows to a directory of parts. Its owner calls from one thread at a time.

    The rows of the part under way stay in memory, and each `append` replaces its file by a longer
    one: what was appended survives the death of the process.
    """

    def __init__(
        self, directory: Path, size_bytes_max: int, part_row_count: int = PART_ROW_COUNT
    ) -> None:
        """Make the directory, or go on in one that holds a trace.

        Args:
            directory: That of the parts.
            size_bytes_max: Above it the oldest parts are removed.
            part_row_count: A part with so many rows is complete, and the next begins.

        Raises:
            InvalidValueError: There is something else in the directory.
            OSError: It cannot be made or read.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(directory):
            if not _PART_NAME.fullmatch(name.removeprefix(".").removesuffix(".new")):
                raise InvalidValueError(
                    f"{directory} holds {name!r}, which is no part of a trace; "
                    "name a new directory or an empty one"
                )
        parts = list_parts(directory)
        self._directory = directory
        self._size_bytes_max = size_bytes_max
        self._part_row_count = part_row_count
        self._sizes_bytes = {part: part.stat().st_size for part in parts}
        self._index = 1 + max((_index(part) for part in parts), default=0)
        self._table: pa.Table | None = None
        self.removed_count = 0
        """Parts that made room."""

    @property
    def size_bytes(self) -> int:
        """That of all parts."""
        return sum(self._sizes_bytes.values())

    @property
    def part_count(self) -> int:
        """Parts there are."""
        return len(self._sizes_bytes)

    def append(self, rows: Rows, paths: Mapping[int, str]) -> None:
        """Bring rows to the disk.

        Args:
            rows: At least one; nobody else changes them.
            paths: By inode; a row of an inode that is missing gets no path.

        Raises:
            OSError: The disk is full, or fails; the parts are as they were.
        """
        added = _table(rows, paths)
        table = added if self._table is None else pa.concat_tables([self._table, added])
        path = self._directory / f"part-{self._index:06d}.parquet"
        unfinished = self._directory / f".{path.name}.new"
        try:
            pq.write_table(table.unify_dictionaries(), unfinished, compression=_CODEC)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._sizes_bytes[path] = path.stat().st_size
        if table.num_rows >= self._part_row_count:
            self._index += 1
            self._table = None
        else:
            self._table = table
        self._make_room(keep=path)

    def _make_room(self, keep: Path) -> None:
        for part in sorted(self._sizes_bytes):
            if self.size_bytes <= self._size_bytes_max or part == keep:
                return
            part.unlink(missing_ok=True)
            del self._sizes_bytes[part]
            self.removed_count += 1


def list_parts(directory: Path) -> list[Path]:
    """Return the parts of a recorded trace, oldest first; empty if it is no trace."""
    return sorted(path for path in directory.iterdir() if _PART_NAME.fullmatch(path.name))


def read_columns(path: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        InvalidValueError: It is no Parquet file, or damaged.
    """
    with _refusals(path):
        return list(pq.read_schema(path).names)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[list[Any], ...]]:
    """Yield columns of a file as lists, some ten thousand rows at a time; None where it has null.

    Timestamps become integers of nanoseconds.

    Raises:
        InvalidValueError: The file is damaged.
    """
    with _refusals(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_READ_ROW_COUNT, columns=list(columns)):
            yield tuple(_values(batch.column(name)) for name in columns)


def _index(part: Path) -> int:
    matched = _PART_NAME.fullmatch(part.name)
    assert matched is not None
    return int(matched[1])


def _table(rows: Rows, paths: Mapping[int, str]) -> pa.Table:
    columns = {
        "time": _wrapped(rows.times_ns, pa.int64()),
        "inode": _wrapped(rows.inodes, pa.uint64()),
        "operation": _named(rows.operations, _OPERATIONS),
        "bytes": _wrapped(rows.sizes_bytes, pa.int64()),
        "tier": _named(rows.tiers, _TIERS),
    }
    texts = pa.array([paths.get(inode) for inode in rows.inodes], pa.string())
    columns["path"] = texts.dictionary_encode()
    order = ("time", "inode", "path", "operation", "bytes", "tier")
    return pa.table({name: columns[name] for name in order})


def _wrapped(values: array[int], kind: pa.DataType) -> pa.Array:
    """Return an array over the same memory."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _named(indices: array[int], names: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(_wrapped(indices, pa.int8()), pa.array(names))


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return values


class _refusals:  # noqa: N801 - used like a function, as contextlib's own
    """Turns what pyarrow says of a file into errors of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, pa.ArrowInvalid):
            raise InvalidValueError(f"{self._path} is no intact Parquet file: {error}") from None
