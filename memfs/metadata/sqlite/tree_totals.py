"""What a directory holds, name by name: for directories the sum of all below them.

Invariant: nothing is written; sizes are those of the last close, and a file with several names
counts for each of them.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Any, Literal

from memfs.metadata.sqlite.database import PROGRESS_COUNT

if TYPE_CHECKING:
    from collections.abc import Mapping

Order = Literal["bytes", "heat", "name"]

_FILE = f"(i.mode & {0o170000}) = {stat.S_IFREG}"
_ORDERS: Mapping[Order, str] = {
    "bytes": "size desc, name",
    "heat": "accessed_ns desc, name",
    "name": "name",
}
_DEEP = f"""
    with recursive below (top, ino) as (
        select cookie, ino from dentry where parent = :parent
        union all
        select below.top, d.ino from below cross join dentry d on d.parent = below.ino
    ),
    sums (top, files, size, local, accessed_ns) as (
        select top, sum({_FILE}), sum(iif({_FILE}, i.size, 0)),
            sum(iif({_FILE} and (i.raw <> 0 or i.packed = 1), i.size, 0)), max(i.accessed_ns)
        from below cross join inode i on i.ino = below.ino group by top
    )
"""
_SHALLOW = f"""
    with sums (top, files, size, local, accessed_ns) as (
        select d.cookie, {_FILE}, iif({_FILE}, i.size, 0),
            iif({_FILE} and (i.raw <> 0 or i.packed = 1), i.size, 0), i.accessed_ns
        from dentry d cross join inode i on i.ino = d.ino where d.parent = :parent
    )
"""
_ROWS = """
    select d.name as name, n.ino, n.mode, files, sums.size as size, local,
        sums.accessed_ns as accessed_ns,
        count(*) over (), sum(files) over (), sum(sums.size) over (), sum(local) over ()
    from sums cross join dentry d on d.parent = :parent and d.cookie = sums.top
        cross join inode n on n.ino = d.ino
"""
_DEEP_SHARE = 0.7
"""That of the time which is for sums; the rest is for names alone, where it did not suffice."""


def read_totals(
    connection: sqlite3.Connection, parent: int, order: Order, limit: int, budget_s: float
) -> dict[str, Any]:
    """Return the first names of a directory in an order, and sums of all.

    Args:
        connection: Its progress handler is used.
        parent: Inode of the directory.
        order: By bytes, by last use, or by name.
        limit: At most so many names.
        budget_s: How long it may take.

    Returns:
        The fields of `control.methods.TreeReport`, without the path; `late` where not even the
        names were found in time.
    """
    begun_s = time.perf_counter()
    for text, share in ((_DEEP, _DEEP_SHARE), (_SHALLOW, 1.0)):
        until_s = begun_s + share * budget_s
        rows = _read(
            connection,
            f"{text} {_ROWS} order by {_ORDERS[order]} limit :limit",
            until_s,
            parent,
            limit,
        )
        if rows is not None:
            sums = rows[0][-4:] if rows else (0, 0, 0, 0)
            return {
                "is_summed": text is _DEEP,
                **dict(zip(("name_count", "file_count", "size", "local_bytes"), sums, strict=True)),
                "entries": [_entry(row) for row in rows],
            }
    return {"late": True}


def _entry(row: tuple[Any, ...]) -> dict[str, Any]:
    name, ino, mode, file_count, size, local_bytes, accessed_ns = row[:7]
    is_directory, is_file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
    return {
        "name": os.fsdecode(name),
        "ino": ino,
        "kind": "directory" if is_directory else "file" if is_file else "other",
        "file_count": file_count,
        "size": size,
        "local_bytes": local_bytes,
        "accessed_ns": accessed_ns,
    }


def _read(
    connection: sqlite3.Connection, text: str, until_s: float, parent: int, limit: int
) -> list[tuple[Any, ...]] | None:
    """Return rows; None if that takes too long."""
    connection.set_progress_handler(lambda: time.perf_counter() > until_s, PROGRESS_COUNT)
    connection.execute("begin")
    try:
        return connection.execute(text, {"parent": parent, "limit": limit}).fetchall()
    except sqlite3.OperationalError:
        if time.perf_counter() > until_s:
            return None
        raise
    finally:
        connection.set_progress_handler(None, 0)
        connection.execute("rollback")
