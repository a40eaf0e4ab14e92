"""Time exports and imports of the metadata: reading a snapshot in parts, and a state made of them.

A reader in this process, with CPU time of its thread; beside it what the same rows take as one
SQLite file and, where pyarrow is there, as Parquet; and `memfs catalog --parquet`.

Run: python -m tests.bench.exports [--count N] [--changed N] [--json] [--dir DIR]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sqlite3
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.codecs.zstd import ZstdCodec
from memfs.config import MetadataConfig
from memfs.metadata.columns import decode, encode
from memfs.metadata.sqlite.catalog import read_catalog
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.exporting import (
    BATCH_SHAPE,
    BLOB_SHAPE,
    CONTENT_SHAPE,
    DENTRIES,
    DENTRY_SHAPE,
    FORM_SHAPE,
    INODE_SHAPE,
    INODES,
    XATTR_SHAPE,
    read_page,
)
from memfs.metadata.sqlite.importing import StateBuilder
from memfs.types import ROOT_INODE, InodeNo, SnapshotId, StateId
from tests.bench.engine_ops import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.metadata.columns import Row
    from memfs.metadata.records import ExportPosition
    from memfs.metadata.sqlite.exporting import Part

FILES_A_DIRECTORY = 100
FILES_A_BATCH = 400
_SLICE = 100_000


def parts_of_new(count: int) -> Iterator[bytes]:
    """Yield parts of so many files in directories of a hundred, each with an object or a share."""
    draw, now_ns = random.Random(1), time.time_ns()
    number, parent = 16, 1
    inodes: list[Row] = []
    dentries: list[Row] = []
    xattrs: list[Row] = []
    contents: list[Row] = []
    blobs: list[Row] = []
    forms: list[Row] = []
    batches: dict[str, int] = {}

    def inode(ino: int, mode: int, size: int, nlink: int) -> Row:
        when = now_ns - draw.randrange(10**15)
        blocks = (size + 511) // 512
        times = (when, when, when + draw.randrange(10**9), when)
        return (ino, mode, 1000, 1000, nlink, 0, size, blocks, *times, 1, 0, None)

    directory_count = -(-count // FILES_A_DIRECTORY)
    inodes.append(inode(ROOT_INODE, stat.S_IFDIR | 0o755, 0, 2 + directory_count))
    for index in range(count):
        if index % FILES_A_DIRECTORY == 0:
            parent, number = number, number + 2
            inodes.append(inode(parent, stat.S_IFDIR | 0o755, 0, 2))
            dentries.append((ROOT_INODE, parent + 1, b"directory-%d" % index, parent))
        ino, number = number, number + 3
        size = int(draw.lognormvariate(10, 2)) + 1
        inodes.append(inode(ino, stat.S_IFREG | 0o644, size, 1))
        dentries.append((parent, ino + 1, b"sample-%06d.safetensors" % index, ino))
        if index % 5 == 0:
            xattrs.append((ino, b"user.label", b"class-%d" % draw.randrange(1000)))
        blob, stored = ino + 2, size * 2 // 3 + 200
        contents.append((ino, blob))
        blobs.append((blob, size, draw.randbytes(32)))
        if index % 4:
            key = f"batches/{index // FILES_A_BATCH:024x}"
            offset: int | None = batches.get(key, 0)
            batches[key] = (offset or 0) + stored
        else:
            key, offset = f"blobs/{blob & 255:02x}/{blob:x}-1-{draw.randrange(1 << 64):016x}", None
        coded = ("container", "zstd:3", 1, "", draw.randbytes(8).hex(), 1)
        forms.append((blob, "remote", "", key, offset, "", "", stored, *coded))
        if len(inodes) > _SLICE or index == count - 1:
            yield encode(
                [
                    (INODE_SHAPE, inodes),
                    (DENTRY_SHAPE, dentries),
                    (XATTR_SHAPE, xattrs),
                    (CONTENT_SHAPE, contents),
                    (BLOB_SHAPE, blobs),
                    (FORM_SHAPE, forms),
                ]
            )
            for rows in (inodes, dentries, xattrs, contents, blobs, forms):
                rows.clear()
    yield encode([(BATCH_SHAPE, [*batches.items()])])


def build(state_dir: Path, count: int) -> None:
    """Make a state directory with so many files."""
    builder = StateBuilder(state_dir)
    builder.begin()
    for data in parts_of_new(count):
        builder.add(data, "new", time.time_ns())
    builder.finish(StateId(bytes(16)), 10 * count + 1000, {})


def read_parts(state_dir: Path, snap: SnapshotId) -> tuple[list[Part], float]:
    """Return all parts as of a snapshot, and the longest transaction in seconds."""
    path = state_dir / "metadata.db"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    connection.execute("pragma cache_size = -16384")
    parts: list[Part] = []
    longest_s = 0.0
    for table in (INODES, DENTRIES):
        after: ExportPosition | None = (0, 0)
        while after is not None:
            begun_s = time.perf_counter()
            connection.execute("begin")
            # As the reader process does.
            gc.disable()
            page = read_page(connection, table, snap, after)
            gc.enable()
            connection.execute("rollback")
            longest_s = max(longest_s, time.perf_counter() - begun_s)
            parts += page.parts
            after = page.after
    connection.close()
    return parts, longest_s


def measure(root: Path, count: int, changed: int) -> dict[str, float]:
    """Export, change some files, export again, import; seconds of CPU and wall, bytes."""
    figures: dict[str, float] = {}
    state_dir = root / "state"
    build(state_dir, count)
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    begun_s = time.perf_counter()
    snap = run(engine.create_snapshot("bench", time.time_ns())).snap
    while not engine.publish():
        time.sleep(0.001)
    figures["loop: snapshot and publish, ms"] = (time.perf_counter() - begun_s) * 1e3
    begun_s, cpu_s = time.perf_counter(), time.thread_time()
    parts, longest_s = read_parts(state_dir, snap)
    figures["export: read and encode, s"] = time.perf_counter() - begun_s
    figures["export: read and encode, CPU s"] = time.thread_time() - cpu_s
    figures["export: longest transaction, s"] = longest_s
    figures["export: parts"] = len(parts)
    figures["export: MB before compression"] = sum(len(part.data) for part in parts) / 1e6
    codec = ZstdCodec(3)
    cpu_s = time.thread_time()
    packed = [codec.encode(memoryview(part.data)) for part in parts]
    figures["export: zstd:3, CPU s"] = time.thread_time() - cpu_s
    figures["export: MB stored"] = sum(map(len, packed)) / 1e6
    for kind in sorted({part.kind for part in parts}):
        stored = [data for part, data in zip(parts, packed, strict=True) if part.kind == kind]
        figures[f"export: MB stored of {kind}"] = sum(map(len, stored)) / 1e6
    draw = random.Random(2)
    files = [ino for ino, mode in _modes(parts) if stat.S_ISREG(mode)]
    for ino in draw.sample(files, min(changed, len(files))):
        run(engine.set_xattr(InodeNo(ino), b"user.k", b"v", 0, time.time_ns()))
    later = run(engine.create_snapshot("later", time.time_ns())).snap
    while not engine.publish():
        time.sleep(0.001)
    again, _ = read_parts(state_dir, snap)
    assert [part.data for part in again] == [part.data for part in parts], "as of the snapshot"
    known = {part.data for part in parts}
    newer, _ = read_parts(state_dir, later)
    figures[f"export after {changed} changes: new parts"] = sum(
        part.data not in known for part in newer
    )
    engine.close()
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    builder = StateBuilder(root / "imported")
    builder.begin()
    for part, data in zip(parts, packed, strict=True):
        builder.add(codec.decode(memoryview(data), len(part.data)), part.kind, time.time_ns())
    figures["import: rows, s"] = time.perf_counter() - begun_s
    imported = builder.finish(StateId(bytes(16)), 10 * count + 1000, {})
    assert imported.missing_count == 0
    figures["import: all, s"] = time.perf_counter() - begun_s
    figures["import: all, CPU s"] = time.process_time() - cpu_s
    figures["import: MB of tables"] = (root / "imported" / "metadata.db").stat().st_size / 1e6
    return figures | measure_catalog(state_dir, root / "catalog.parquet")


def measure_catalog(state_dir: Path, file: Path) -> dict[str, float]:
    """Write the catalogue as `memfs catalog --parquet` does; nothing without pyarrow."""
    try:
        from memfs_tools.catalog_file import write_catalog
    except ImportError:
        return {}
    figures: dict[str, float] = {}
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    gc.disable()
    write_catalog(file, read_catalog(state_dir), lambda _count: None)
    gc.enable()
    figures["catalogue as Parquet, s"] = time.perf_counter() - begun_s
    figures["catalogue as Parquet, CPU s"] = time.process_time() - cpu_s
    figures["catalogue as Parquet, MB"] = file.stat().st_size / 1e6
    return figures


def _modes(parts: list[Part]) -> Iterator[tuple[int, int]]:
    for part in parts:
        if part.kind == INODES:
            columns = decode(part.data, "")["inode"]
            yield from zip(columns["ino"], columns["mode"], strict=True)


def compare(root: Path, count: int) -> dict[str, float]:
    """Return what the same rows take in other formats: seconds of CPU, MB."""
    figures: dict[str, float] = {}
    codec = ZstdCodec(3)
    tables = [*parts_of_new(count)]
    cpu_s = time.process_time()
    copy = root / "rows.db"
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.execute("pragma journal_mode = off")
    connection.execute("begin")
    for data in tables:
        for name, columns in decode(data, "").items():
            names = ", ".join(columns)
            connection.execute(f"create table if not exists {name} ({names})")
            marks = ", ".join("?" * len(columns))
            rows = zip(*columns.values(), strict=True)
            connection.executemany(f"insert into {name} values ({marks})", rows)
    connection.execute("commit")
    connection.close()
    stored = codec.encode(memoryview(copy.read_bytes()))
    figures["one SQLite file, CPU s"] = time.process_time() - cpu_s
    figures["one SQLite file, zstd:3, MB"] = len(stored) / 1e6
    copy.unlink()
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return figures
    cpu_s, size = time.process_time(), 0
    for number, data in enumerate(tables):
        for name, columns in decode(data, "").items():
            path = root / f"{name}-{number}.parquet"
            table = pa.table({key: list(values) for key, values in columns.items()})
            pq.write_table(table, path, compression="zstd")
            size += path.stat().st_size
    figures["Parquet, CPU s"] = time.process_time() - cpu_s
    figures["Parquet, MB"] = size / 1e6
    cpu_s = time.process_time()
    again = [
        encode(
            [
                (_SHAPES[name], [*zip(*columns.values(), strict=True)])
                for name, columns in decode(data, "").items()
            ]
        )
        for data in tables
    ]
    packed = [codec.encode(memoryview(data)) for data in again]
    figures["own columns, CPU s"] = time.process_time() - cpu_s
    figures["own columns, MB"] = sum(map(len, packed)) / 1e6
    return figures


_SHAPES = {
    shape.name: shape
    for shape in (
        *(INODE_SHAPE, DENTRY_SHAPE, XATTR_SHAPE),
        *(CONTENT_SHAPE, BLOB_SHAPE, FORM_SHAPE, BATCH_SHAPE),
    )
}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="files in the state")
    parser.add_argument("--changed", type=int, default=100, help="between two exports")
    parser.add_argument("--compare", action="store_true", help="other formats too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path, default=None, help="where the state directories go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        root = Path(scratch)
        figures = measure(root, options.count, options.changed)
        if options.compare:
            figures |= compare(root, options.count)
    figures["load, 1 minute"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"count": options.count, "figures": figures}))
        return
    for name, value in figures.items():
        print(f"{name:44} {value:12.2f}")


if __name__ == "__main__":
    main()
