"""Time snapshots of the metadata engine: making, what they cost others, reading the past, diff.

Two copies of one state take turns, so that a busy machine is as busy for each: without a snapshot,
and with one. CPU time of the thread, with the commit of each call.

Run: python -m tests.bench.snapshots [--count N] [--calls N] [--json] [--dir DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import stat
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from memfs.config import MetadataConfig
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.types import NO_INODE, NOW, ROOT_INODE, InodeNo
from tests.bench.engine_ops import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.metadata.records import DirectoryEntry
    from memfs.types import SnapshotId

DIRECTORY_COUNT_OF = 100
"""Files in each directory."""
TURN_COUNT = 100
"""Calls of one copy before the next one's turn."""
SNAPSHOT_COUNT = 50

Figures = dict[str, dict[str, float]]


class Copy:
    """One copy of the state, and its files that nothing was done to yet."""

    def __init__(self, state_dir: Path) -> None:
        self.engine = SqliteEngine.open(state_dir, MetadataConfig())
        self.files = self._find_files()
        self.target = self._make_directory()

    def _find_files(self) -> list[tuple[InodeNo, bytes, InodeNo]]:
        found = []
        for entry in run(self.engine.list_directory(ROOT_INODE, 0, 1 << 30)):
            files = run(self.engine.list_directory(entry.inode.ino, 0, 1 << 30))
            found += [(entry.inode.ino, file.name, file.inode.ino) for file in files]
        # Neighbours would share pages: the 7919th, a prime, is in another place.
        return [found[index * 7919 % len(found)] for index in range(len(found))]

    def _make_directory(self) -> InodeNo:
        ino = self.engine.reserve_ids()[0]
        new = NewInode(ino, stat.S_IFDIR | 0o755, 0, 0, time.time_ns())
        return run(self.engine.create(ROOT_INODE, b"target", new)).ino

    def create(self, count: int) -> None:
        """Create the next file of a directory."""
        ino, raw = self.engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, time.time_ns(), raw=raw)
        run(self.engine.create(self.target, b"new-%d" % count, new))

    def set_xattr(self, count: int) -> None:
        """Set an xattr of a file that was not touched."""
        ino = self.files[count][2]
        run(self.engine.set_xattr(ino, b"user.note", b"value", 0, time.time_ns()))

    def set_xattr_again(self, count: int) -> None:
        """Set another value."""
        ino = self.files[count][2]
        run(self.engine.set_xattr(ino, b"user.note", b"other", 0, time.time_ns()))

    def rename(self, count: int) -> None:
        """Move a file that was not touched to another directory."""
        parent, name, ino = self.files[-1 - count]
        new_name = b"%s-%d" % (name, ino)
        run(self.engine.rename(parent, name, self.target, new_name, 0, time.time_ns()))

    def remove(self, count: int) -> None:
        """Remove a file that was not touched."""
        parent, name, ino = self.files[len(self.files) // 2 + count]
        run(self.engine.unlink(parent, name, time.time_ns()))
        run(self.engine.reap([ino]))


def build(state_dir: Path, count: int) -> None:
    """Make a state with so many files in directories of a hundred."""
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    now_ns = time.time_ns()
    for index in range(count):
        if index % DIRECTORY_COUNT_OF == 0:
            ino = engine.reserve_ids()[0]
            new = NewInode(ino, stat.S_IFDIR | 0o755, 0, 0, now_ns)
            parent = run(engine.create(ROOT_INODE, b"directory-%d" % index, new)).ino
            engine.commit_nowait()
        ino, raw = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, now_ns, raw=raw)
        run(engine.create(parent, b"sample-%06d.safetensors" % index, new))
    engine.close()


def median_us(samples: list[int]) -> float:
    """Return the median of nanoseconds as microseconds."""
    return round(statistics.median(samples) / 1e3, 1)


def measure_calls(copies: dict[str, Copy], calls: int) -> Figures:
    """Run each call on the copies in turn; medians of CPU microseconds."""
    figures: Figures = defaultdict(dict)
    for name in ("create", "set_xattr", "set_xattr_again", "rename", "remove"):
        samples: dict[str, list[int]] = defaultdict(list)
        for begin in range(0, calls, TURN_COUNT):
            for kind, each in copies.items():
                operation: Callable[[int], None] = getattr(each, name)
                for count in range(begin, begin + TURN_COUNT):
                    before = time.thread_time_ns()
                    operation(count)
                    each.engine.commit_nowait()
                    samples[kind].append(time.thread_time_ns() - before)
        for kind, row in samples.items():
            figures[name][kind] = median_us(row)
    return figures


def measure_snapshots(engine: SqliteEngine) -> dict[str, float]:
    """Make snapshots, read the past by one of them, compare, and delete them."""
    clock, figures = time.thread_time_ns, {}
    samples = []
    for count in range(SNAPSHOT_COUNT):
        before = clock()
        run(engine.create_snapshot(f"bench-{count}", time.time_ns()))
        engine.commit_nowait()
        samples.append(clock() - before)
    figures["create a snapshot, median us"] = median_us(samples)
    figures["create a snapshot, longest us"] = round(max(samples) / 1e3, 1)
    snap = run(engine.get_snapshot("before")).snap
    entries = run(engine.list_directory(ROOT_INODE, 0, 1000))
    directories = [entry for entry in entries if entry.name != b"target"]
    for what, instant in (("now", NOW), ("of the past", snap)):
        figures[f"list 100 names {what}, us"] = _listing(engine, directories, instant)
    samples = []
    for directory in directories:
        name = run(engine.list_directory_at(snap, directory.inode.ino, 0, 1))[0].name
        before = time.thread_time_ns()
        run(engine.lookup_at(snap, directory.inode.ino, name))
        samples.append(time.thread_time_ns() - before)
    figures["lookup of the past, us"] = median_us(samples)
    newest = run(engine.create_snapshot("hundred", time.time_ns())).snap
    for directory in directories[:100]:
        run(engine.set_xattr(directory.inode.ino, b"user.k", b"v", 0, time.time_ns()))
    engine.commit_nowait()
    before = time.thread_time_ns()
    page = run(engine.diff(newest, NOW, ROOT_INODE, NO_INODE, 1000))
    figures[f"diff of {len(page.differences)} changes, us"] = median_us(
        [time.thread_time_ns() - before]
    )
    for each in run(engine.list_snapshots()):
        run(engine.delete_snapshot(each.snap))
    samples, more = [], True
    while more:
        before = time.thread_time_ns()
        more = run(engine.delete_snapshot_step(1000))
        engine.commit_nowait()
        samples.append(time.thread_time_ns() - before)
    figures["delete, a step of 1000, longest us"] = round(max(samples) / 1e3, 1)
    figures["delete, all steps, us"] = round(sum(samples) / 1e3, 1)
    return figures


def _listing(engine: SqliteEngine, directories: list[DirectoryEntry], instant: SnapshotId) -> float:
    samples = []
    for directory in directories:
        ino = directory.inode.ino
        before = time.thread_time_ns()
        if instant == NOW:
            run(engine.list_directory(ino, 0, 1000))
        else:
            run(engine.list_directory_at(instant, ino, 0, 1000))
        samples.append(time.thread_time_ns() - before)
    return median_us(samples)


def measure(root: Path, count: int, calls: int) -> tuple[Figures, dict[str, float]]:
    """Return the calls' figures by copy, and those of snapshots themselves, in CPU us.

    Args:
        root: Empty; gets the two state directories.
        count: Files in the state.
        calls: Calls of each kind and copy.
    """
    kinds = ("no snapshot", "a snapshot")
    build(root / kinds[0], count)
    shutil.copytree(root / kinds[0], root / kinds[1])
    copies = {kind: Copy(root / kind) for kind in kinds}
    engine = copies["a snapshot"].engine
    before = time.thread_time_ns()
    run(engine.create_snapshot("before", time.time_ns()))
    engine.commit_nowait()
    first_us = median_us([time.thread_time_ns() - before])
    found = measure_calls(copies, calls)
    snapshots = {"create the first snapshot, us": first_us} | measure_snapshots(engine)
    for each in copies.values():
        each.engine.close()
    return found, snapshots


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="files in the state")
    parser.add_argument("--calls", type=int, default=4000, help="calls of each kind and copy")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path, default=None, help="where the state directories go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        calls, snapshots = measure(Path(scratch), options.count, options.calls)
    if options.json:
        print(json.dumps({"count": options.count, "calls": calls, "snapshots": snapshots}))
        return
    kinds = next(iter(calls.values()))
    print(f"{'CPU us, median':20} " + " ".join(f"{kind:>18}" for kind in kinds))
    for name, row in calls.items():
        print(f"{name:20} " + " ".join(f"{row[kind]:18.1f}" for kind in kinds))
    for name, value in snapshots.items():
        print(f"{name:40} {value:12.1f}")


if __name__ == "__main__":
    main()
