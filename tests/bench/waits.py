"""Time the requests of programs at a mount while indexes are built and long questions are answered.

Run: python -m tests.bench.waits [--count N] [--state DIR] [--base DIR] [--json]

One process looks up, tags, creates and removes files, one request after the other, and does the
same on the disk beside the mount, where only the machine makes it wait. Another one does the work.
The table tells, for each kind of work, the longest request, what the daemon's loop computed in the
one request where that was most, and the longest on the disk. Root's requests have the processors
before all other programs, so that other load makes them wait little.

The state is that of `tests.bench.queries` with a JSON array for each file, and with nothing in any
index: the mount builds that of xattrs and that of elements first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.client.mount import Mount as Client
from tests.bench import queries
from tests.mounting import Mount
from tests.processes import ALICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REST_S = 5.0
"""So long nothing is done, for comparison."""
PAUSE_S = 0.002
"""Between two rounds of requests."""
TAG_COUNT = 500
NICENESS = -15
"""That of the requests."""

QUESTIONS = (
    ("a pattern, all files", ('{"note": {"$regex": "[a-z]9+$"}}',)),
    ("all files, paths", ("{}",)),
    ("all files, counted", ("{}", "--count")),
    ("all files, with xattrs", ("{}", "--json")),
    ("all files, by number", ("{}", "--sort", "cloud")),
    ("half of the files, by tier", ('{"cloud": {"$lt": 50}, "$tier": "cold"}', "--count")),
)
AS_USER = ("a glob, asked by a user", ('{"$path": "**/f*7"}', "--count"))


def build(state_dir: Path, count: int) -> None:
    """Make the state."""
    queries.build(state_dir, count)
    connection = sqlite3.connect(state_dir / "metadata.db", isolation_level=None)
    connection.execute("pragma synchronous = off")
    connection.execute("begin")
    connection.execute("drop index xattr_typed")
    connection.execute("update xattr set key = 0, typed = null")
    connection.executemany("insert into xattr values (?, ?, ?, 0, null)", _tags(count))
    connection.execute("create index xattr_typed on xattr (key, typed, ino) where key <> 0")
    connection.execute("delete from attribute_name")
    connection.execute("delete from setting where name in ('query.index', 'query.elements')")
    connection.execute("commit")
    connection.close()


def _tags(count: int) -> Iterator[tuple[int, bytes, bytes]]:
    for ino in range(queries.FIRST, queries.FIRST + count):
        tags = [f"tag{ino * factor % TAG_COUNT}" for factor in (1, 7, 61)]
        yield ino, b"user.tags", json.dumps(tags).encode()


class Waits(NamedTuple):
    """Those of the requests during one kind of work."""

    request_count: int
    median_ms: float
    longest_ms: float
    loop_ms: float
    """Processor time of the daemon's loop during one request, the most."""
    disk_ms: float
    """The longest of the same requests on the disk."""
    duration_s: float


class Prober:
    """Makes requests, and times each one.

    Args:
        mount: Served.
        disk: A directory on the disk of the state.
        files: Paths below the mount, which the kernel does not know.
    """

    def __init__(self, mount: Mount, disk: Path, files: Iterator[str]) -> None:
        self._root = mount.root
        self._disk = disk
        self._files = files
        (self._loop,) = (
            Path(f"/proc/{pid}/task/{pid}/schedstat")
            for pid in mount.daemon_pids()
            if b"memfs_daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        for place in (self._root, disk):
            (place / "probe").mkdir()
            (place / "probe/tagged").touch()

    def during(self, is_busy: Callable[[], bool]) -> Waits:
        """Make requests as long as something is done."""
        waits: list[float] = []
        loops: list[float] = []
        disk: list[float] = []
        begun_s = time.perf_counter()
        while is_busy():
            used_ns = self._used_ns()
            for request in self._requests(self._root):
                waits.append(_timed(request))
                before_ns, used_ns = used_ns, self._used_ns()
                loops.append((used_ns - before_ns) / 1e6)
            disk += map(_timed, self._requests(self._disk))
            time.sleep(PAUSE_S)
        duration_s = time.perf_counter() - begun_s
        ordered = sorted(waits)
        median_ms = ordered[len(ordered) // 2]
        return Waits(len(waits), median_ms, ordered[-1], max(loops), max(disk), duration_s)

    def _used_ns(self) -> int:
        return int(self._loop.read_text().split()[0])

    def _requests(self, place: Path) -> list[Callable[[], object]]:
        new, tagged = place / "probe/new", place / "probe/tagged"
        stamp = b"%d" % time.monotonic_ns()
        asked = self._root / next(self._files) if place == self._root else tagged
        return [
            lambda: os.stat(asked),
            lambda: os.setxattr(tagged, "user.note", stamp),
            lambda: os.mkdir(new),
            lambda: os.rmdir(new),
        ]


def _timed(request: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    request()
    return (time.perf_counter() - begun_s) * 1e3


def _files(count: int) -> Iterator[str]:
    """Yield paths, neighbours far from each other, as `queries.build` has laid them."""
    directories = range(queries.FIRST - queries.DIRECTORY_COUNT + 17, queries.FIRST)
    for index in range(count):
        ino = queries.FIRST + index * 7919 % count
        yield f"d{directories[ino % len(directories)]}/f{ino}"


def measure(mount: Mount, disk: Path, count: int) -> Iterator[tuple[str, Waits]]:
    """Do each kind of work, and yield its waits."""
    prober = Prober(mount, disk, _files(count))
    client = Client.of(mount.root)

    def run(*command: str, is_user: bool = False) -> Waits:
        back = ["nice", "-n", str(-os.getpriority(os.PRIO_PROCESS, 0))]
        words = [*back, sys.executable, "-m", "memfs_tools.main", *command]
        with subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            user=ALICE.uid if is_user else None,
            group=ALICE.gid if is_user else None,
            extra_groups=() if is_user else None,
        ) as process:
            waits = prober.during(lambda: process.poll() is None)
            assert process.stderr is not None
            complaint = process.stderr.read()
        assert process.returncode == 0, complaint
        return waits

    yield "first index of xattrs", prober.during(lambda: not client.query_index()["index"].is_whole)
    until_s = time.perf_counter() + REST_S
    yield "nothing", prober.during(lambda: time.perf_counter() < until_s)
    root = os.fspath(mount.root)
    for field in ("size", "mtime", "name"):
        yield f"index of {field}", run("index", "add", root, field)
    for name, words in QUESTIONS:
        yield name, run("query", root, *words)
    name, words = AS_USER
    yield name, run("query", root, *words, is_user=True)
    yield "catalogue", run("catalog", root, "--parquet", os.fspath(disk / "catalog.parquet"))
    yield "indexes dropped", run("index", "drop", root, "size", "mtime", "name")


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300_000, help="files")
    parser.add_argument("--state", type=Path, help="where the state is kept for another run")
    parser.add_argument("--base", type=Path, help="on the disk that is measured")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: dict[str, Waits] = {}
    with tempfile.TemporaryDirectory(prefix="memfs-waits-", dir=options.base) as scratch:
        base = Path(scratch)
        # Users come through it to the mount.
        base.chmod(0o711)
        kept = options.state or base / "made"
        if not (kept / "format").exists():
            build(kept, options.count)
        mount = Mount(base, "kernel", options=("-o", "allow_other"))
        shutil.copytree(kept, mount.state)
        disk = base / "disk"
        disk.mkdir()
        mount.start()
        if os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        try:
            for name, waits in measure(mount, disk, options.count):
                rows[name] = waits
                if not options.json:
                    numbers = "".join(f"{number:9.1f}" for number in waits[1:])
                    if len(rows) == 1:
                        print(
                            f"{'':28}{'requests':>9}{'median':>9}{'longest':>9}{'loop':>9}"
                            f"{'disk':>9} ms{'s':>7}"
                        )
                    print(f"{name:28}{waits.request_count:9}{numbers}", flush=True)
        finally:
            mount.stop()
    if options.json:
        print(json.dumps({name: waits._asdict() for name, waits in rows.items()}))


if __name__ == "__main__":
    main()
