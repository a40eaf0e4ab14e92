"""Tags from a Parquet file.

Invariant: a value becomes the text that queries take for the same value.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from memfs.client.tagging import Tagged, tag_name
from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROW_COUNT = 10_000
"""Rows that are in memory at a time."""


def read_parquet(file: Path, base: Path) -> Iterator[Tagged]:
    """Yield what a table says: a column `path`, and one for each tag.

    Args:
        file: A null leaves the tag as it is.
        base: What relative paths begin at.

    Raises:
        UsageError: It is no such table.
    """
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if names.count("path") != 1:
                raise UsageError(f"{file}: no column `path`, or several")
            tags = {name: tag_name(name) for name in names if name != "path"}
            for batch in table.iter_batches(_ROW_COUNT):
                for row in batch.to_pylist():
                    yield Tagged(_path_of(row, file, base), _tags_of(row, tags, file))
    except pa.ArrowException as error:
        raise UsageError(f"{file} cannot be read: {error}") from None


def _path_of(row: dict[str, object], file: Path, base: Path) -> Path:
    path = row["path"]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str) or not path:
        raise UsageError(f"{file}: a row without a path")
    return base / path


def _tags_of(
    row: dict[str, object], tags: dict[str, bytes], file: Path
) -> dict[bytes, bytes | None]:
    return {
        tag: _text(row[name], name, file) for name, tag in tags.items() if row[name] is not None
    }


def _text(value: object, name: str, file: Path) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return os.fsencode(value)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int | float):
        return json.dumps(value).encode()
    if isinstance(value, datetime):
        # One without a zone is UTC, as Arrow has it.
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return moment.isoformat().encode()
    if isinstance(value, date):
        return value.isoformat().encode()
    if isinstance(value, list):
        with suppress(TypeError):
            return json.dumps(value, ensure_ascii=False).encode()
    raise UsageError(f"{file}: the column {name} has {type(value).__name__}, which is no tag")
