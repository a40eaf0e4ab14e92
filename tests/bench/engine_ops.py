"""Time single operations of the metadata engine, each with its commit, in one process.

Run: python tests/bench/engine_ops.py [--count N] [--rounds N] [--json] [--dir DIR]
"""

from __future__ import annotations

import argparse
import json
import stat
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from memfs.config import MetadataConfig
from memfs.errors import NotFoundError
from memfs.metadata.records import Inode, NewInode, Seal
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.types import ROOT_INODE
from memfs.waiting import run_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
Item = TypeVar("Item")

run = run_at_once

BATCH_COUNT = 32
"""Operations a commit in the last row: requests that were waiting together."""


class Timings:
    """Nanoseconds of each operation by name."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}

    def measure(
        self, name: str, operation: Callable[[Item], object], items: Iterable[Item]
    ) -> None:
        """Time the operation on each item by itself."""
        clock = time.perf_counter_ns
        row = self.rows.setdefault(name, [])
        for item in items:
            begin = clock()
            operation(item)
            row.append(clock() - begin)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return microseconds: mean, median, 99.9 % and maximum of each row."""
        result = {}
        for name, row in self.rows.items():
            ordered = sorted(row)
            result[name] = {
                "mean_us": round(statistics.fmean(row) / 1e3, 2),
                "median_us": round(ordered[len(row) // 2] / 1e3, 2),
                "p999_us": round(ordered[int(len(row) * 0.999)] / 1e3, 2),
                "max_us": round(ordered[-1] / 1e3, 2),
            }
        return result


def exercise(engine: SqliteEngine, timings: Timings, round_index: int, count: int) -> None:
    """Create, look up and remove `count` files of one directory."""
    now_ns = time.time_ns()
    # Scattered names: appending in order would flatter the name index.
    names = [b"file-%d-%d" % (round_index, index * 7919 % 1000003) for index in range(count)]
    inodes: list[Inode] = []

    def create(name: bytes) -> None:
        ino, raw = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 0, 0, now_ns, raw=raw)
        inodes.append(run(engine.create(ROOT_INODE, name, new)))
        engine.commit_nowait()

    def seal(inode: Inode) -> None:
        run(engine.seal([Seal(inode.ino, inode.generation, 4096, 8, now_ns, now_ns, now_ns)]))
        engine.commit_nowait()

    def miss(name: bytes) -> None:
        with suppress(NotFoundError):
            run(engine.lookup(ROOT_INODE, name))

    def unlink(name: bytes) -> None:
        run(engine.unlink(ROOT_INODE, name, now_ns))
        engine.commit_nowait()

    def reap(inode: Inode) -> None:
        run(engine.reap([inode.ino]))
        engine.commit_nowait()

    def unlink_batch(batch: list[bytes]) -> None:
        for name in batch:
            run(engine.unlink(ROOT_INODE, name, now_ns))
        engine.commit_nowait()

    def find(name: bytes) -> None:
        run(engine.lookup(ROOT_INODE, name))

    def get(inode: Inode) -> None:
        run(engine.get_inode(inode.ino))

    timings.measure("lookup of a missing name", miss, names)
    timings.measure("create", create, names)
    timings.measure("seal", seal, inodes)
    timings.measure("lookup", find, names)
    recent = inodes[-1000:]
    for inode in recent:
        get(inode)
    timings.measure("get_inode, cached", get, recent)
    half = count // 2
    timings.measure("unlink", unlink, names[:half])
    timings.measure("reap", reap, inodes[:half])
    batches = [names[index : index + BATCH_COUNT] for index in range(half, count, BATCH_COUNT)]
    timings.measure(f"{BATCH_COUNT} unlinks, one commit", unlink_batch, batches)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="files a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path, default=None, help="where the state directory goes")
    options = parser.parse_args()
    timings = Timings()
    with tempfile.TemporaryDirectory(dir=options.dir) as scratch:
        engine = SqliteEngine.open(Path(scratch) / "state", MetadataConfig())
        for round_index in range(options.rounds):
            exercise(engine, timings, round_index, options.count)
        engine.close()
    summary = timings.summary()
    if options.json:
        print(json.dumps({"count": options.count, "rounds": options.rounds, "rows": summary}))
        return
    print(f"{'operation':28} {'mean':>9} {'median':>9} {'99.9 %':>9} {'max':>9}  us")
    for name, row in summary.items():
        print(f"{name:28} " + " ".join(f"{value:9.2f}" for value in row.values()))


if __name__ == "__main__":
    main()
