"""Files that a query found, and differences between instants, as Arrow streams.

Invariant: a batch is written as soon as its page has come, so that a reader need not wait for all.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import IO, TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from memfs.control.methods.queries import FoundReport
    from memfs.control.methods.snapshots import DifferenceReport

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("ino", pa.int64()),
        ("size", pa.int64()),
        ("mtime", pa.timestamp("ns", "UTC")),
        ("xattrs", pa.map_(pa.string(), pa.string())),
    ]
)

_DIFFERENCES = pa.schema(
    [
        ("change", pa.string()),
        ("path", pa.string()),
        ("old_path", pa.string()),
        ("kind", pa.string()),
        ("ino", pa.int64()),
        ("size", pa.int64()),
        ("old_size", pa.int64()),
        ("mtime_ns", pa.timestamp("ns", "UTC")),
    ]
)
_ROWS_A_BATCH = 500


def write_found(
    target: IO[bytes], mountpoint: Path, pages: Iterable[Sequence[FoundReport]]
) -> None:
    """Write all pages.

    Args:
        target: Gets the stream.
        mountpoint: Paths begin there.
        pages: With the xattrs of each file.
    """
    with pa.ipc.new_stream(target, _SCHEMA) as writer:
        for files in pages:
            columns = [
                [_text(os.path.join(mountpoint, file["path"])) for file in files],
                [file["ino"] for file in files],
                [file["size"] for file in files],
                [file["mtime_ns"] for file in files],
                [
                    [(_text(name), _text(value)) for name, value in file["attributes"].items()]
                    if file["attributes"] is not None
                    else None
                    for file in files
                ],
            ]
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))


def write_differences(target: IO[bytes], differences: Iterable[DifferenceReport]) -> None:
    """Write what differs between two instants.

    Args:
        target: Gets the stream.
        differences: Written some hundred at a time.
    """
    with pa.ipc.new_stream(target, _DIFFERENCES) as writer:
        rows = iter(differences)
        while page := list(islice(rows, _ROWS_A_BATCH)):
            columns = [
                [_text(value) if isinstance(value, str) else value for value in column]
                for column in ([row[field.name] for row in page] for field in _DIFFERENCES)  # type: ignore[literal-required]  # the names are those of the report
            ]
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(columns, _DIFFERENCES, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_DIFFERENCES))


def _text(word: str) -> str:
    """Return a text of which bytes that are no UTF-8 are escaped."""
    return os.fsencode(word).decode("utf-8", "backslashreplace")
