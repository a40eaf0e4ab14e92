"""Exporting: the tables as of a snapshot, in parts, for a process that reads beside the daemon.

Invariant: each part is read in one short transaction; what it has of names and attributes is as of
the snapshot, whenever it is read. What it has of contents is where they lie now, and only those of
the generation that the snapshot shows.

Foreign objects have no undo rows: the row of an inode names one object for good. What changes is
whether its key leads to the inode. One that lost its name or its key after the snapshot is marked
(`PERHAPS`). Keys that are gone are those of now: what was removed here stays removed. An import
puts both together, so that no key is gone whose file it has. A directory that is listed on demand
counts as listed only if that was before the instant: what was found later is not in the export.

Records of published objects are those of now, of files that the snapshot may show. An import takes
one of a later generation for one of an unknown generation.

A part ends where a number of the table says so, not after a count of rows: rows that come or go
change the part that they are in, and all others stay as they were, byte by byte. So an export
stores only the parts that have changed.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter, lt
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.metadata.columns import Shape, columns_of, encode, encode_columns
from memfs.metadata.published import PublishedObject
from memfs.metadata.sqlite.foreign_schema import OBJECT_COLUMNS
from memfs.metadata.sqlite.schema import FORM_COLUMNS, WAS_COLUMNS
from memfs.types import NO_BLOB

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from memfs.metadata.records import ExportPosition
    from memfs.metadata.sqlite.statements import Row

    Tables = list[tuple[Shape, list[Row]]]

_END_FACTOR = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class PartLimits:
    """How long parts are, and how much is read at a time."""

    row_count_min: int = 4 << 10
    """Rows of a part, but for the last one: some 0.4 s of CPU, at a load of 13 several seconds."""
    row_count_max: int = 32 << 10
    end_count: int = 1 << 13
    """A part ends at one row of so many, on average; a power of 2."""
    fetch_count: int = 4096
    """Rows of one call of SQLite."""


PART_LIMITS = PartLimits()

_TYPE = 0o170000
"""Bits of a mode that are the type (stat.S_IFMT)."""

INODES, CONTENTS, DENTRIES, GONE = "inodes", "contents", "dentries", "gone"
PUBLISHED = "published"
"""The kinds of parts."""

INODE_SHAPE = Shape(
    "inode",
    {
        "ino": "int",
        **dict.fromkeys(WAS_COLUMNS.split(", "), "int"),
        "pin": "int",
        "codec": "text?",
    },
)
XATTR_SHAPE = Shape("xattr", {"ino": "int", "name": "bytes", "value": "bytes"})
SYMLINK_SHAPE = Shape("symlink", {"ino": "int", "target": "bytes"})
DENTRY_SHAPE = Shape("dentry", {"parent": "int", "cookie": "int", "name": "bytes", "ino": "int"})
CONTENT_SHAPE = Shape("content", {"ino": "int", "blob": "int"})
BLOB_SHAPE = Shape("blob", {"blob": "int", "size": "int", "digest": "bytes"})
_FORM_NUMBERS = ("blob", "stored_bytes", "shuffle_bytes", "owned")
FORM_SHAPE = Shape(
    "form",
    {
        name: "int?" if name == "offset" else "int" if name in _FORM_NUMBERS else "text"
        for name in FORM_COLUMNS.split(", ")
    },
)
BATCH_SHAPE = Shape("batch", {"key": "text", "size_bytes": "int"})
MISSING_SHAPE = Shape("missing", {"ino": "int", "size": "int"})
"""Files whose bytes have no object: nothing but their names and attributes is in the export."""

_OBJECT_TEXTS = ("etag", "version", "conflict")
OBJECT_SHAPE = Shape(
    "foreign",
    {
        name: "bytes?"
        if name == "digest"
        else "bytes"
        if name == "key"
        else "text"
        if name in _OBJECT_TEXTS
        else "int"
        for name in OBJECT_COLUMNS.split(", ")
    },
)
"""Objects that files were made of; `current` may be `PERHAPS`."""
GONE_SHAPE = Shape("gone", {"source": "int", "key": "bytes"})
DIRECTORY_SHAPE = Shape(
    "foreign_directory", {"ino": "int", "source": "int", "prefix": "bytes", "listed_ns": "int"}
)
"""Directories that are listed on demand; `listed_ns` is 1 if that was done before the instant."""
_PUBLISHED_NUMBERS = ("ino", "generation", "size", "mtime_ns")
PUBLISHED_SHAPE = Shape(
    PUBLISHED,
    {
        name: "int" if name in _PUBLISHED_NUMBERS else "bytes" if name == "digest" else "text"
        for name in PublishedObject._fields
    },
)
"""What is known of objects that were published."""

PERHAPS = 2
"""Listings compare the key with another inode, or with no inode, since this one has no name now."""

# ?1: after this inode; ?2: up to this one; ?3: the snapshot. Orphans are in no tree.
_LIVE = """
    from inode as i where i.ino > ?1 and i.ino <= ?2 and i.ino < ?3 and i.nlink > 0
    and not exists (select 1 from inode_was as w where w.ino = i.ino and w.snap >= ?3)
"""
_FORMER = """
    from inode_was as w {join} where w.ino > ?1 and w.ino <= ?2 and w.ino < ?3 and w.snap >= ?3
    and w.mode <> 0 and w.nlink > 0 and not exists (
        select 1 from inode_was as v where v.ino = w.ino and v.snap >= ?3 and v.snap < w.snap)
"""
_INODES = f"""
    select i.ino, {", ".join("i." + name for name in WAS_COLUMNS.split(", "))}, i.pin, i.codec
    {_LIVE}
    union all
    select w.ino, {", ".join("w." + name for name in WAS_COLUMNS.split(", "))},
        coalesce(l.pin, 0), l.codec
    {_FORMER.format(join="left join inode as l on l.ino = w.ino")}
    order by 1
"""
_XATTRS = """
    select ino, name, value from xattr_was as x
    where ino > ?1 and ino <= ?2 and snap >= ?3 and value is not null and not exists (
        select 1 from xattr_was as w where w.ino = x.ino and w.name = x.name
        and w.snap >= ?3 and w.snap < x.snap)
    union all
    select ino, name, value from xattr as x where ino > ?1 and ino <= ?2 and not exists (
        select 1 from xattr_was as w where w.ino = x.ino and w.name = x.name and w.snap >= ?3)
    order by 1, 2
"""
_SYMLINKS = """
    select ino, target from symlink where ino > ?1 and ino <= ?2
    union select ino, target from symlink_was where ino > ?1 and ino <= ?2 order by 1
"""
# Each regular file with the blob that it has now, if that has an object.
_PLACES = f"""
    select i.ino, i.generation, i.flags & 1, b.size, b.digest,
        {", ".join("f." + name for name in FORM_COLUMNS.split(", "))}
    from inode as i left join form as f on f.blob = i.blob and f.kind = 'remote'
    left join blob as b on b.blob = f.blob
    where i.ino > ?1 and i.ino <= ?2 and {stat.S_IFREG} = (i.mode & {_TYPE}) order by i.ino
"""
_KEPT = """
    select ino, generation, blob, open, size, mtime_ns from kept
    where ino > ?1 and ino <= ?2 order by ino
"""
_OBJECTS = f"""
    select {OBJECT_COLUMNS}, exists (
        select 1 from inode as i where i.ino = o.ino and i.nlink > 0)
    from foreign_object as o where ino > ?1 and ino <= ?2 order by ino
"""
_DIRECTORIES = """
    select ino, source, prefix, listed_ns > 0 and listed_ns < (
        select created_ns from snapshot where snap = ?3)
    from foreign_directory where ino > ?1 and ino <= ?2 order by ino
"""
_GONE = """
    select source, key, key_number(key) from foreign_gone where (source, key) > (?1, ?2)
    order by source, key
"""
# A file that came after the instant is in no import: its object would be taken for a removed one's.
_PUBLISHED = f"""
    select {", ".join(PublishedObject._fields)}, text_number(url) from published
    where url > ?1 and ino < ?2 order by url
"""
_BLOBS = f"""
    select b.size, b.digest, {", ".join("f." + name for name in FORM_COLUMNS.split(", "))}
    from blob as b join form as f on f.blob = b.blob and f.kind = 'remote'
    where b.blob in (select value from json_each(?1)) order by b.blob
"""
_BATCHES = """
    select key, size_bytes from batch where key in (select value from json_each(?1)) order by key
"""
# The row with the least number of a snapshot that is not lower, or else the live one.
_DENTRIES = """
    select parent, cookie, name, ino from dentry as d
    where (parent, cookie) > (?1, ?2) and cookie < ?3 and not exists (
        select 1 from dentry_was as w where w.cookie = d.cookie and w.snap >= ?3)
    union all
    select parent, cookie, name, ino from dentry_was as d indexed by dentry_was_parent
    where parent >= ?1 and (parent > ?1 or cookie > ?2) and snap >= ?3 and cookie < ?3
    and not exists (
        select 1 from dentry_was as w
        where w.cookie = d.cookie and w.snap >= ?3 and w.snap < d.snap)
    order by 1, 2
"""

_PLACE_SHAPE = Shape(
    "place",
    {
        "ino": "int",
        "generation": "int",
        "open": "int",
        "size": "int",
        "digest": "bytes",
        **{f"form {name}": kind for name, kind in FORM_SHAPE.kinds.items()},
    },
)
"""As `_PLACES`; never written."""
_BLOB = list(_PLACE_SHAPE.kinds).index("form blob")

_OBJECT_NAMES = OBJECT_COLUMNS.split(", ")
_OBJECT_INO = _OBJECT_NAMES.index("ino")
_OBJECT_GENERATION = _OBJECT_NAMES.index("generation")
_OBJECT_CURRENT = _OBJECT_NAMES.index("current")

_GENERATION = list(INODE_SHAPE.kinds).index("generation")
_SIZE = list(INODE_SHAPE.kinds).index("size")
_MTIME = list(INODE_SHAPE.kinds).index("mtime_ns")


class Part(NamedTuple):
    """A part of an export."""

    kind: str
    row_count: int
    data: bytes


class Page(NamedTuple):
    """What was read in one transaction."""

    parts: tuple[Part, ...]
    after: ExportPosition | None
    """Where to go on; None: that was all."""
    file_count: int = 0
    """Regular files."""
    content_bytes: int = 0
    """The sizes of these."""
    missing_count: int = 0
    """Files of these whose bytes have no object."""
    missing_bytes: int = 0


def read_page(
    connection: sqlite3.Connection,
    table: str,
    snap: int,
    after: ExportPosition,
    limits: PartLimits = PART_LIMITS,
) -> Page:
    """Return the next part of a table, or the next two: of inodes and of contents.

    Args:
        connection: In a transaction of its own.
        table: `DENTRIES`, `INODES`, `GONE` or `PUBLISHED`.
        snap: The snapshot.
        after: That of the page before; (0, 0) to start.
        limits: How long its parts are.
    """
    if table == DENTRIES:
        rows, is_last = _take(connection.execute(_DENTRIES, (*after, snap)), 1, limits)
        part = Part(DENTRIES, len(rows), encode([(DENTRY_SHAPE, rows)]))
        return Page((part,), None if is_last else (rows[-1][0], rows[-1][1]))
    if table == GONE:
        return _gone_page(connection, after, limits)
    if table == PUBLISHED:
        return _published_page(connection, snap, after, limits)
    return _inode_page(connection, snap, after[0], limits)


def _gone_page(connection: sqlite3.Connection, after: ExportPosition, limits: PartLimits) -> Page:
    connection.create_function("key_number", 1, zlib.crc32, deterministic=True)
    source, key = after
    begin = (source, bytes.fromhex(key) if isinstance(key, str) else b"")
    rows, is_last = _take(connection.execute(_GONE, begin), 2, limits)
    if not rows:
        # Most states: nothing is said of what there is not.
        return Page((), None)
    part = Part(GONE, len(rows), encode([(GONE_SHAPE, [row[:2] for row in rows])]))
    return Page((part,), None if is_last else (rows[-1][0], rows[-1][1].hex()))


def _published_page(
    connection: sqlite3.Connection, snap: int, after: ExportPosition, limits: PartLimits
) -> Page:
    connection.create_function("text_number", 1, _number_of_text, deterministic=True)
    rows, is_last = _take(
        connection.execute(_PUBLISHED, (after[1] or "", snap)), len(PUBLISHED_SHAPE.kinds), limits
    )
    if not rows:
        return Page((), None)
    part = Part(PUBLISHED, len(rows), encode([(PUBLISHED_SHAPE, [row[:-1] for row in rows])]))
    return Page((part,), None if is_last else (0, rows[-1][0]))


def _number_of_text(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def _inode_page(connection: sqlite3.Connection, snap: int, after: int, limits: PartLimits) -> Page:
    rows, is_last = _take(connection.execute(_INODES, (after, snap, snap)), 0, limits)
    last = rows[-1][0] if rows else after
    there = {row[0] for row in rows}
    span = (after, last, snap)
    kept = connection.execute(_KEPT, span[:2]).fetchall()
    rows = _with_open_ones(rows, kept)
    xattrs = [row for row in connection.execute(_XATTRS, span) if row[0] in there]
    symlinks = [row for row in connection.execute(_SYMLINKS, span[:2]) if row[0] in there]
    tables: Tables = [(INODE_SHAPE, rows), (XATTR_SHAPE, xattrs), (SYMLINK_SHAPE, symlinks)]
    inodes = Part(INODES, len(rows), encode(tables))
    files = [row for row in rows if row[1] & _TYPE == stat.S_IFREG]
    directories = [row for row in connection.execute(_DIRECTORIES, span) if row[0] in there]
    contents, missing = _contents(
        connection, files, (after, last), kept, directories, limits.fetch_count
    )
    return Page(
        (inodes, contents),
        None if is_last else (last, 0),
        len(files),
        sum(map(itemgetter(_SIZE), files)),
        len(missing),
        sum(size for _ino, size in missing),
    )


def _with_open_ones(rows: list[Row], kept: Sequence[Row]) -> list[Row]:
    """Give files that were open for writing the sizes and times that they had at the instant."""
    were = {(row[0], row[1]): row[4:] for row in kept if row[3]}
    if not were:
        return rows
    found = []
    for row in rows:
        if (was := were.get((row[0], row[_GENERATION]))) is not None:
            values = [*row]
            values[_SIZE], values[_MTIME] = was
            row = tuple(values)
        found.append(row)
    return found


def _contents(
    connection: sqlite3.Connection,
    files: Sequence[Row],
    span: tuple[int, int],
    kept: Sequence[Row],
    directories: Sequence[Row],
    fetch_count: int,
) -> tuple[Part, list[Row]]:
    """Return where the bytes of files lie, and the files whose bytes lie in no object."""
    places = _places(connection, files, span, kept, fetch_count)
    objects = _objects(connection, files, span)
    generations = {row[0]: row[_GENERATION] for row in files} if objects else {}
    foreign = {
        row[_OBJECT_INO]
        for row in objects
        if row[_OBJECT_GENERATION] == generations[row[_OBJECT_INO]]
    }
    found = [place for place in places if place[_BLOB] is not None]
    missing: list[Row] = []
    if len(found) < len(places):
        sizes = {row[0]: row[_SIZE] for row in files}
        missing = [
            (place[0], sizes[place[0]])
            for place in places
            if place[_BLOB] is None and (sizes[place[0]] or place[2]) and place[0] not in foreign
        ]
    inos, blobs = [place[0] for place in found], [place[_BLOB] for place in found]
    if not all(map(lt, blobs, islice(blobs, 1, None))):
        # Two files share a blob, or one was changed after a later one.
        unique = {place[_BLOB]: place for place in found}
        found = [unique[blob] for blob in sorted(unique)]
    _ino, _generation, _open, sizes_of, digests, *forms = columns_of(_PLACE_SHAPE, found)
    offset, key = _place_of(FORM_SHAPE)
    named = zip(forms[key], forms[offset], strict=True)
    keys = sorted({name for name, within in named if within is not None})
    batches: list[Row] = []
    for start in range(0, len(keys), fetch_count):
        batches += connection.execute(_BATCHES, (_listed(keys[start : start + fetch_count]),))
    tables: list[tuple[Shape, Sequence[Sequence[Any]]]] = [
        (CONTENT_SHAPE, [inos, blobs]),
        (BLOB_SHAPE, [forms[0], sizes_of, digests]),
        (FORM_SHAPE, forms),
        (BATCH_SHAPE, columns_of(BATCH_SHAPE, batches)),
        (MISSING_SHAPE, columns_of(MISSING_SHAPE, missing)),
    ]
    if objects:
        tables.append((OBJECT_SHAPE, columns_of(OBJECT_SHAPE, objects)))
    if directories:
        tables.append((DIRECTORY_SHAPE, columns_of(DIRECTORY_SHAPE, directories)))
    return Part(CONTENTS, len(inos), encode_columns(tables)), missing


def _objects(
    connection: sqlite3.Connection, files: Sequence[Row], span: tuple[int, int]
) -> list[Row]:
    """Return what files were made of.

    Args:
        files: Rows of regular files, as of the snapshot.
        span: After the first inode, up to the second one.
    """
    rows = connection.execute(_OBJECTS, span).fetchall()
    if not rows:
        return []
    generations = {row[0]: row[_GENERATION] for row in files}
    found = []
    for *values, is_named in rows:
        if (generation := generations.get(values[_OBJECT_INO])) is None:
            continue
        if values[_OBJECT_GENERATION] > generation:
            # It would be taken for the bytes of what is written into the file after an import.
            values[_OBJECT_GENERATION] = 0
        if not values[_OBJECT_CURRENT] and not is_named:
            values[_OBJECT_CURRENT] = PERHAPS
        found.append(tuple(values))
    return found


def _places(
    connection: sqlite3.Connection,
    files: Sequence[Row],
    span: tuple[int, int],
    kept: Sequence[Row],
    fetch_count: int,
) -> list[Row]:
    """Return a row of `_PLACES` for each file; without a form where its bytes have no object."""
    live = connection.execute(_PLACES, span).fetchall()
    if not kept and [row[:2] for row in live] == [(row[0], row[_GENERATION]) for row in files]:
        return live
    forms: dict[int, Row] = {}
    numbers = sorted({row[2] for row in kept} - {NO_BLOB})
    for start in range(0, len(numbers), fetch_count):
        listed = _listed(numbers[start : start + fetch_count])
        forms |= {row[2]: row for row in connection.execute(_BLOBS, (listed,))}
    nothing = (None,) * (len(_PLACE_SHAPE.kinds) - 3)
    known = {row[:2]: row for row in live}
    # What snapshots keep of a generation counts more than what became of it since.
    for ino, generation, blob, is_open, *_ in kept:
        known[ino, generation] = (ino, generation, is_open, *forms.get(blob, nothing))
    absent = (0, *nothing)
    wanted = ((row[0], row[_GENERATION]) for row in files)
    return [known.get(each) or (*each, *absent) for each in wanted]


def _place_of(shape: Shape) -> tuple[int, int]:
    names = list(shape.kinds)
    return names.index("offset"), names.index("key")


def _listed(values: Iterable[Any]) -> str:
    return json.dumps([*values])


def _take(cursor: sqlite3.Cursor, at: int, limits: PartLimits) -> tuple[list[Row], bool]:
    """Return rows up to the end of a part, and whether these are the last ones.

    Args:
        cursor: Gives the rows.
        at: Which of their columns has the number that ends a part.
        limits: How long it is.
    """
    rows: list[Row] = []
    mask = limits.end_count - 1
    while len(rows) < limits.row_count_max:
        more = cursor.fetchmany(limits.fetch_count)
        if not more:
            return rows, True
        for place in range(max(0, limits.row_count_min - len(rows)), len(more)):
            if more[place][at] * _END_FACTOR >> 40 & mask == 0:
                cursor.close()
                return rows + more[: place + 1], False
        rows += more
    cursor.close()
    return rows, False


def write_part(path: str, data: bytes) -> None:
    """Write a part into a new file; not durable: it is read once, and by this mount."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
