"""Tables as Parquet: of pyarrow, pandas and polars."""

from __future__ import annotations

import errno
import json
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from memfs.manager.errors import ValueFormatError
from memfs.manager.values.value import Content, Mime, Wanted, bounds, refuse_device

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 65_536
"""Rows of one group: a part of a table costs the groups that it lies in. data.md has the reason:
smaller ones compress worse, larger ones cost more for a few rows."""

_MAGIC = b"PAR1"


class Tables:
    """Tables with named columns."""

    name = "parquet"
    types: tuple[str, ...] = ("application/vnd.apache.parquet",)

    def accepts(self, value: Any) -> bool:  # noqa: ANN401
        """Tables of libraries that are in use."""
        return _library(value) is not None

    def write(self, value: Any, file: BinaryIO) -> Mime:  # noqa: ANN401
        """Write it in groups of `GROUP_ROWS` rows, compressed by zstd."""
        pa = _pyarrow()
        import pyarrow.parquet as pq

        library = _library(value)
        try:
            if library == "pandas":
                table = pa.Table.from_pandas(value)
            elif library == "polars":
                table = value.to_arrow()
            elif library == "pyarrow":
                table = value if isinstance(value, pa.Table) else pa.Table.from_batches([value])
            else:
                table = pa.table(value)
            pq.write_table(table, file, row_group_size=GROUP_ROWS, compression="zstd")
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueFormatError(f"it cannot be a Parquet file: {error}") from None
        return Mime(self.types[0], {"of": library or "pyarrow"})

    def read(self, content: Content, wanted: Wanted) -> Any:  # noqa: ANN401
        """Return the table, one column by `name`, or rows `start` to `end`.

        Only the groups that rows lie in, and the columns that are asked for, are read.
        """
        refuse_device(content, wanted, "a table")
        pa = _pyarrow()
        import pyarrow.parquet as pq

        columns = None if wanted.name is None else [wanted.name]
        library = content.mime.parameters.get("of", "pyarrow")
        try:
            with pq.ParquetFile(f"/proc/self/fd/{content.fd}") as file:
                if columns and wanted.name not in file.schema_arrow.names:
                    raise ValueFormatError(f"{content.name} has no column {wanted.name!r}")
                start = bounds(wanted, file.metadata.num_rows)[0]
                # With it, the columns of an index of pandas come along.
                options = {"columns": columns, "use_pandas_metadata": library == "pandas"}
                table = _rows(file, wanted, options) if wanted.partial else file.read(**options)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EBUSY:
                # It is archived: nothing is known of its bytes.
                raise
            raise ValueFormatError(f"{content.name} is not a Parquet file: {error}") from None
        if library == "pandas" and wanted.partial:
            return _with_range_index(table.to_pandas(), table.schema, start)
        return _as_library(table, library)

    def recognises(self, begin: bytes, name: str) -> bool:
        """By the first bytes."""
        return begin.startswith(_MAGIC)


def _rows(file: Any, wanted: Wanted, options: dict[str, Any]) -> pa.Table:  # noqa: ANN401
    start, end = bounds(wanted, file.metadata.num_rows)
    groups, before, skipped = [], 0, None
    for number in range(file.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        if before < end and before + count > start:
            groups.append(number)
            skipped = before if skipped is None else skipped
        before += count
    table = file.read_row_groups(groups, **options)
    return table.slice(start - (skipped or 0), end - start) if groups else table


def _library(value: object) -> str | None:
    for library, names in (
        ("pandas", ("DataFrame",)),
        ("polars", ("DataFrame",)),
        ("pyarrow", ("Table", "RecordBatch")),
    ):
        module = sys.modules.get(library)
        if module is not None and isinstance(value, tuple(getattr(module, each) for each in names)):
            return library
    return None


def _with_range_index(frame: Any, schema: pa.Schema, start: int) -> Any:  # noqa: ANN401
    """Return some rows of a table of pandas with the numbers that they have in all of it.

    Source: pandas, "Developer", "Storing pandas DataFrame objects in Apache Parquet format".

    Args:
        frame: The rows.
        schema: That of the table, whose metadata say of which numbers its index is made.
        start: Rows before them.
    """
    told = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
    if len(told) == 1 and isinstance(told[0], dict) and told[0].get("kind") == "range":
        pandas = sys.modules["pandas"]
        first, step = told[0]["start"], told[0]["step"]
        begin = first + start * step
        frame.index = pandas.RangeIndex(
            begin, begin + len(frame) * step, step, name=told[0].get("name")
        )
    return frame


def _as_library(table: pa.Table, library: str) -> Any:  # noqa: ANN401
    if library == "pandas":
        return table.to_pandas()
    if library == "polars":
        import polars

        return polars.from_arrow(table)
    return table


def _pyarrow() -> Any:  # noqa: ANN401 - a module
    try:
        import pyarrow
    except ImportError:
        raise ValueFormatError(
            "tables need the package pyarrow: pip install 'memfs-tiers[values]'"
        ) from None
    return pyarrow
