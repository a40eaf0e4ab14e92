"""A catalogue as ncdu(1) reads it (`ncdu -f-`).

Invariant: a list of names is closed as soon as its last name is written, so that nothing but the
names of the directories above is kept in memory.

Source: https://dev.yorhel.nl/ncdu/jsonfmt, version 1.2.
"""

from __future__ import annotations

import json
import stat
import time
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memfs.metadata.sqlite.catalog import TreeEntry

_DEVICE = 1
"""A number for the mount: hard links are told by device and inode."""

_PIECE_COUNT = 1000
"""Pieces that are written at a time."""


def write_ncdu(out: IO[bytes], root: str, version: str, entries: Iterable[TreeEntry | None]) -> int:
    """Write a tree; returns how many names it has.

    Args:
        out: Gets the text.
        root: What ncdu calls the root: the mountpoint.
        version: That of memfs.
        entries: As of `walk_tree`.
    """
    about = {"progname": "memfs", "progver": version, "timestamp": int(time.time())}
    pieces = [f"[1,2,{json.dumps(about)}"]
    count = 0
    for entry in entries:
        if entry is None:
            pieces.append("]")
            continue
        count += 1
        is_directory = stat.S_ISDIR(entry.mode)
        pieces.append((",\n[" if is_directory else ",\n") + _describe(entry, root))
        if len(pieces) >= _PIECE_COUNT:
            out.write("".join(pieces).encode("utf-8", "surrogateescape"))
            pieces.clear()
    pieces.append("]\n")
    out.write("".join(pieces).encode("utf-8", "surrogateescape"))
    out.flush()
    return count


def _describe(entry: TreeEntry, root: str) -> str:
    told: dict[str, object] = {
        "name": entry.name.decode("utf-8", "surrogateescape") or root,
        "asize": entry.size,
        "dsize": entry.blocks * 512,
        "ino": entry.ino,
        "uid": entry.uid,
        "gid": entry.gid,
        "mode": entry.mode,
        "mtime": entry.mtime_ns // 1_000_000_000,
    }
    if not entry.name:
        told["dev"] = _DEVICE
    if stat.S_ISDIR(entry.mode):
        return json.dumps(told, ensure_ascii=False)
    if not stat.S_ISREG(entry.mode):
        told["notreg"] = True
    if entry.nlink > 1:
        told |= {"hlnkc": True, "nlink": entry.nlink}
    return json.dumps(told, ensure_ascii=False)
