"""A catalogue as a Parquet file.

Invariant: a file that carries the name that was asked for is complete.
"""

from __future__ import annotations

import stat
from itertools import accumulate
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from memfs.metadata.sqlite.catalog import CatalogPage

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


def write_catalog(file: Path, pages: Iterable[CatalogPage], show: Callable[[int], None]) -> int:
    """Write all names; returns how many there are.

    Args:
        file: Replaced at the end.
        pages: Those of the catalogue.
        show: Told how many names are written.
    """
    new = file.with_name(f".{file.name}.new")
    count = 0
    waiting = [_SCHEMA.empty_table()]
    try:
        with pq.ParquetWriter(new, _SCHEMA, compression="zstd") as writer:
            for page in pages:
                waiting.append(_table(page))
                count += len(page.path)
                if sum(map(len, waiting)) >= _GROUP_ROW_COUNT:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
                    show(count)
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        new.rename(file)
    finally:
        new.unlink(missing_ok=True)
    return count


def _table(page: CatalogPage) -> pa.Table:
    kinds = {mode: _TYPES.get(stat.S_IFMT(mode), "") for mode in set(page.mode)}
    bits = {mode: stat.S_IMODE(mode) for mode in kinds}
    forms = (page.has_raw, page.has_packed, page.has_remote)
    arrays = [
        _texts(page.path),
        pa.array(page.ino, pa.int64()),
        pa.array([kinds[mode] for mode in page.mode], pa.string()),
        pa.array([bits[mode] for mode in page.mode], pa.int32()),
        pa.array(page.uid, pa.int64()),
        pa.array(page.gid, pa.int64()),
        pa.array(page.nlink, pa.int32()),
        pa.array(page.size, pa.int64()),
        pa.array(page.mtime_ns, pa.timestamp("ns", "UTC")),
        *(pa.array(form, pa.int8()).cast(pa.bool_()) for form in forms),
        pa.array(page.digest, pa.string()),
        _texts(page.target),
        _map(page),
    ]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _map(page: CatalogPage) -> pa.Array:
    """Return the xattrs of each name as a map."""
    offsets = pa.array([*accumulate(page.xattr_count, initial=0)], pa.int32())
    names = {name: _text(name[5:]) for name in set(page.xattr_names)}
    keys = pa.array([names[name] for name in page.xattr_names], pa.string())
    return pa.MapArray.from_arrays(offsets, keys, _texts(page.xattr_values))


def _texts(contents: Sequence[bytes | None]) -> pa.Array:
    """Return bytes as texts; those that are no UTF-8 are escaped."""
    try:
        return pa.array(contents, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if each is None else _text(each) for each in contents], pa.string())


def _text(content: bytes) -> str:
    """Return bytes as text; those that are no UTF-8 are escaped."""
    return content.decode("utf-8", "backslashreplace")
