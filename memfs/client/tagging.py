"""Tagging: user xattrs of many files, as filters ask for them.

Invariant: nothing is set on another file system, and nothing that controls memfs.
"""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.client.placement import PlacementError, reason_of
from memfs.client.xattrs import set_xattrs
from memfs.errors import UsageError
from memfs.linux.mounts import find_containing_mount
from memfs.query.fields import attribute_name, is_queryable
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Tagged(NamedTuple):
    """A file and what it is to get."""

    path: Path
    tags: dict[bytes, bytes | None]
    """Values by the full name of an xattr; None: it is removed."""


def tag_name(text: str) -> bytes:
    """Return the full name of the xattr that a word names, with or without `user.`.

    Raises:
        UsageError: No user xattr has that name.
    """
    name = attribute_name(text)
    if name is None or not is_queryable(name):
        raise UsageError(f"{text!r} cannot be the name of a tag")
    return name


def set_tags(path: str | os.PathLike[str], tags: Mapping[bytes, bytes | None]) -> None:
    """Set and remove xattrs of one file, all of them in one step.

    Args:
        path: On memfs; a symbolic link is followed.
        tags: As of `Tagged`.

    Raises:
        PlacementError: EXDEV: it is not on memfs; EINVAL: no file can have that name; else as of
            setxattr(2).
    """
    place = Path(path)
    if b"\0" in os.fsencode(place):
        raise PlacementError(f"{place}: a name has no NUL", errno.EINVAL)
    try:
        mount = find_containing_mount(place)
        if mount.type != FILESYSTEM_TYPE:
            raise PlacementError(f"{place} does not lie in a mount of memfs", errno.EXDEV)
        set_xattrs(place, tags)
    except OSError as error:
        reason = reason_of(error, place)
        raise PlacementError(f"{place}: {reason}", error.errno or errno.EIO) from None


def read_csv(file: Path, base: Path) -> Iterator[Tagged]:
    """Yield what a table says: a column `path`, and one for each tag.

    Args:
        file: In UTF-8 with a head; an empty cell leaves the tag as it is.
        base: What relative paths begin at.

    Raises:
        UsageError: It has no such head, a row has more cells than that, or a cell is longer than
            any xattr.
    """
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        rows = _rows(lines, file)
        _, head = next(rows, (0, []))
        if "path" not in head:
            raise UsageError(f"{file}: the first line names no column `path`")
        if len(set(head)) < len(head):
            raise UsageError(f"{file}: the first line names a column twice")
        at = head.index("path")
        names = [None if index == at else tag_name(word) for index, word in enumerate(head)]
        for line, cells in rows:
            if not cells:
                continue
            if len(cells) > len(head) or len(cells) <= at or not cells[at]:
                raise UsageError(f"{file}, line {line}: not a row of {len(head)} cells")
            tags: dict[bytes, bytes | None] = {
                name: os.fsencode(cell)
                for name, cell in zip(names, cells, strict=False)
                if name is not None and cell
            }
            yield Tagged(base / cells[at], tags)


def _rows(lines: Iterable[str], file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line of each row, and its cells."""
    reader = csv.reader(lines)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.line_num}: {error}") from None
