"""The table of published objects as JSON lines, where Parquet cannot be written.

Invariant: each line is an object that was read back, with the columns of `published_file`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_COLUMNS = ("key", "size", "mtime_ns", "etag", "digest", "mode", "uid", "gid", "xattrs")


def write_lines(file: Path, objects: Iterable[dict[str, Any]]) -> int:
    """Write the objects that are as their files are; returns how many.

    Args:
        file: Does not exist.
        objects: As `Mount.published` tells them.
    """
    count = 0
    with file.open("x", encoding="utf-8") as lines:
        for each in objects:
            if not each["current"]:
                continue
            row = {name: each[name] for name in _COLUMNS}
            row["etag"] = row["etag"].strip('"')
            lines.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
            count += 1
    return count
