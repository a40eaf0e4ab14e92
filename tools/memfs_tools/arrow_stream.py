"""Files that a query found, as an Arrow stream.

Invariant: a batch is written as soon as its page has come, so that a reader need not wait for all.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from memfs.control.methods import FoundReport

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("ino", pa.int64()),
        ("size", pa.int64()),
        ("mtime", pa.timestamp("ns", "UTC")),
        ("xattrs", pa.map_(pa.string(), pa.string())),
    ]
)


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


def _text(word: str) -> str:
    """Return a text of which bytes that are no UTF-8 are escaped."""
    return os.fsencode(word).decode("utf-8", "backslashreplace")
