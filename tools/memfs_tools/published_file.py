"""The table of published objects as a Parquet file, for those who wait for a set.

Invariant: each row is an object that was read back; its etag tells whether it is still that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_GROUP_ROW_COUNT = 50_000

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("size", pa.int64()),
        ("mtime", pa.timestamp("ns", "UTC")),
        ("etag", pa.string()),
        ("digest", pa.string()),
        ("mode", pa.int32()),
        ("uid", pa.int64()),
        ("gid", pa.int64()),
        ("xattrs", pa.map_(pa.string(), pa.string())),
    ]
)


def write_published(file: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Write the objects that are as their files are; returns how many.

    Args:
        file: Does not exist.
        objects: As `Mount.published` tells them.
    """
    count = 0
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        for each in objects:
            if not each["current"]:
                continue
            row = {name: each[name] for name in ("key", "size", "digest", "mode", "uid", "gid")}
            row |= {"mtime": each["mtime_ns"], "etag": each["etag"].strip('"')}
            rows.append(row | {"xattrs": [*each["xattrs"].items()]})
            count += 1
            if len(rows) >= _GROUP_ROW_COUNT:
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    return count
