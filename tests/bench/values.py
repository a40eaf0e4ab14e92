"""Time values by key at a mount: python -m tests.bench.values.

Arrays of 1 GiB are stored and retrieved through `MemoryManager` at a mount, and by numpy.save and
numpy.load on the disk itself; many small values by batch at the mount, beside diskcache and one
file each on the disk itself; many keys are listed. What was written is synced before it is read,
and stays in the page cache: the disk is no part of it.

Invariant: in each round every way takes its turn, another one first each time, once the disk is
synced and the daemon rests; a ratio divides medians of one run. The processor time is that of the
program, and of the daemon where the mount is used.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import diskcache
import numpy as np

from memfs import MemoryManager
from tests import scratch
from tests.bench import quiet
from tests.mounting import Mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MIB = 1 << 20
SMALL = {"text": "a small value", "numbers": list(range(20))}


class Sample(NamedTuple):
    """One call."""

    elapsed_s: float
    processor_s: float


Samples = dict[str, dict[str, list[Sample]]]
"""By row and way."""


class Bench:
    """The ways that are compared.

    Args:
        base: Has a mount and, beside it, a directory of the same disk.
        array_mib: Size of the large array.
        count: Small values.
        key_count: Keys that are listed.
    """

    def __init__(self, base: Path, root: Path, array_mib: int, count: int, key_count: int) -> None:
        self._servers = scratch.processes_naming(base)
        self._native = base / "native"
        self._native.mkdir()
        self._memory = MemoryManager(mount=root)
        self._array = np.random.default_rng(1).integers(
            0, 255, (1024, array_mib * 1024), dtype=np.uint8
        )
        self._count = count
        self._key_count = key_count
        self.samples: Samples = {}

    def run(self, rounds: int) -> None:
        """Take all samples; round 0 touches code and memory, and counts for nothing."""
        listing = MemoryManager(mount=self._memory.mount.mountpoint, root="listing")  # type: ignore[union-attr]
        # Files of other programs are keys as well, and are made sooner.
        for number in range(self._key_count):
            path = listing.path(f"{number % 1000}/{number}")
            path.parent.mkdir(parents=True, exist_ok=number >= 1000)
            path.touch()
        for number in range(rounds + 1):
            for row, ways in (
                (
                    "store 1 array",
                    {"memfs": self._store, "numpy": self._save, "numpy, renamed": self._replace},
                ),
                ("retrieve 1 array", {"memfs": self._retrieve, "numpy": self._load}),
                ("retrieve 10 rows of 1024", {"memfs": self._rows, "numpy": self._mapped_rows}),
                (
                    f"store {self._count} small values",
                    {
                        "memfs": self._store_many,
                        "diskcache": self._cache_many,
                        "files": self._write_many,
                    },
                ),
                (
                    f"retrieve {self._count} small values",
                    {
                        "memfs": self._retrieve_many,
                        "diskcache": self._get_many,
                        "files": self._read_many,
                    },
                ),
                (f"list {self._key_count} keys", {"memfs": lambda: self._list(listing)}),
            ):
                self._take(row, ways, number)

    def _take(self, row: str, ways: Mapping[str, Callable[[], object]], number: int) -> None:
        names = list(ways)
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            os.sync()
            quiet.await_rest(self._servers)
            used_s, begin_s = self._processor_s(name), time.perf_counter()
            ways[name]()
            sample = Sample(time.perf_counter() - begin_s, self._processor_s(name) - used_s)
            if number:
                self.samples.setdefault(row, {}).setdefault(name, []).append(sample)

    def _processor_s(self, way: str) -> float:
        servers = self._servers if way == "memfs" else ()
        return time.process_time() + quiet.processor_ns(servers) / 1e9

    # --- one large value -------------------------------------------------------------------------
    def _store(self) -> None:
        self._memory.store("large", self._array)

    def _save(self) -> None:
        np.save(self._native / "large.npy", self._array)

    def _replace(self) -> None:
        """Keep the former array until the new one is there, as `store` does."""
        np.save(self._native / "new.npy", self._array)
        (self._native / "new.npy").rename(self._native / "renamed.npy")

    def _retrieve(self) -> None:
        assert self._memory.retrieve("large")[-1, -1] == self._array[-1, -1]

    def _load(self) -> None:
        assert np.load(self._native / "large.npy")[-1, -1] == self._array[-1, -1]

    def _rows(self) -> None:
        assert self._memory.retrieve("large", start=500, end=510).shape[0] == 10

    def _mapped_rows(self) -> None:
        rows = np.load(self._native / "large.npy", mmap_mode="r")[500:510]
        assert np.array(rows).shape[0] == 10

    # --- many small ones -------------------------------------------------------------------------
    def _store_many(self) -> None:
        self._memory.batch_store((f"small/{n % 100}/{n}", SMALL) for n in range(self._count))

    def _retrieve_many(self) -> None:
        keys = (f"small/{n % 100}/{n}" for n in range(self._count))
        assert len(self._memory.batch_retrieve(keys)) == self._count

    def _cache_many(self) -> None:
        with diskcache.Cache(self._native / "cache", disk=diskcache.JSONDisk) as cache:
            for number in range(self._count):
                cache[f"small/{number}"] = SMALL

    def _get_many(self) -> None:
        with diskcache.Cache(self._native / "cache", disk=diskcache.JSONDisk) as cache:
            assert all(cache[f"small/{number}"] for number in range(self._count))

    def _write_many(self) -> None:
        for number in range(self._count):
            directory = self._native / f"small/{number % 100}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / str(number)).write_text(json.dumps(SMALL))

    def _read_many(self) -> None:
        for number in range(self._count):
            json.loads((self._native / f"small/{number % 100}/{number}").read_text())

    def _list(self, listing: MemoryManager) -> None:
        assert sum(1 for _ in listing) == self._key_count


@contextmanager
def mounted(directory: Path, driver: str) -> Iterator[tuple[Path, Path]]:
    """Yield a base directory and a mount in it; both are gone in the end."""
    with scratch.workspace(directory) as workspace:
        mount = Mount(workspace.directory("values"), driver)
        mount.start()
        try:
            yield mount.base, mount.root
        finally:
            mount.stop()


def render(samples: Samples) -> str:
    """Return the table: medians in seconds with their extent, and memfs in the time of others."""
    lines = [["", "way", "seconds", "of a processor", "memfs takes", "memfs takes of a processor"]]
    lines.append(["---"] * len(lines[0]))
    for title, row in samples.items():
        for way, taken in row.items():
            elapsed = [sample.elapsed_s for sample in taken]
            used = [sample.processor_s for sample in taken]
            cells = [title, way, _extent(elapsed), _extent(used)]
            ours = row["memfs"]
            cells += (
                ["", ""]
                if way == "memfs"
                else [
                    _ratio([sample.elapsed_s for sample in ours], elapsed),
                    _ratio([sample.processor_s for sample in ours], used),
                ]
            )
            lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _extent(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}..{max(values):.3g})"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(theirs):.2f} of it"


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--driver", default="auto")
    parser.add_argument("--array", type=int, default=1024, metavar="MIB")
    parser.add_argument("--count", type=int, default=10_000, help="small values")
    parser.add_argument("--keys", type=int, default=100_000, help="keys that are listed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with mounted(options.directory, options.driver) as (base, root):
        bench = Bench(base, root, options.array, options.count, options.keys)
        load_before = os.getloadavg()[0]
        bench.run(options.repeat)
        load = load_before, os.getloadavg()[0]
        shutil.rmtree(base / "native")
    print(render(bench.samples))
    print(f"load average {load[0]:.1f} before, {load[1]:.1f} after, {os.cpu_count()} processors")
    if options.json is not None:
        result: dict[str, Any] = {"samples": bench.samples, "load": load}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
