"""Time the requests of programs at a mount while indexes are built and long questions are answered.

Run: python -m tests.bench.waits [--count N] [--state DIR] [--base DIR] [--json]

One process looks up, tags, creates and removes files, one request after the other, and does the
same on the disk beside the mount, where only the machine makes it wait. Another one does the work.
The table tells, for each kind of work, the longest request, the longest without the time in which
the daemon's loop or the program was ready to run and had no processor (the kernel tells that of
each thread, Documentation/scheduler/sched-stats.rst), and what the loop computed in the one request
where that was most. The first of these is what a user sees on this machine; the second is due to
memfs and the disk, whatever else runs. Then come the longest request on the disk, and that without
the program's waits for a processor. Root's requests have the processors before all other programs,
so that other load makes them wait little.

The last column has the passes of the loop that took more than 50 ms, as the daemon counts them:
other load of the machine is among their reasons.

The state is that of `tests.bench.queries` with a JSON array for each file, which is in no index
yet: the mount looks at all xattrs first, and gives these their entries.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.client.mount import Mount as Client
from memfs.metrics.table import STALLS
from tests import scratch
from tests.bench import queries
from tests.mounting import Mount
from tests.processes import ALICE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

REST_S = 5.0
"""So long nothing is done, for comparison."""
PAUSE_S = 0.002
"""Between two rounds of requests."""
TAG_COUNT = 500
_SELF = Path("/proc/thread-self")

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


def build(state_dir: Path, count: int) -> None:
    """Make the state."""
    queries.build(state_dir, count)
    connection = sqlite3.connect(state_dir / "metadata.db", isolation_level=None)
    connection.execute("pragma synchronous = off")
    connection.execute("begin")
    connection.executemany("insert into xattr values (?, ?, ?, 0, null)", _tags(count))
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
    own_ms: float
    """The longest without waits for a processor, of the daemon's loop and of the program."""
    loop_ms: float
    """Processor time of the daemon's loop during one request, the most."""
    disk_ms: float
    """The longest of the same requests on the disk."""
    disk_own_ms: float
    """The same without the program's waits for a processor."""
    duration_s: float
    stall_count: int


class Turns(NamedTuple):
    """What a thread has had of the processors, ms."""

    used_ms: float
    waited_ms: float
    """It could have run, and others did."""

    @classmethod
    def of(cls, thread: Path) -> Self:
        """Return those of a thread so far.

        Args:
            thread: Its directory in proc(5).
        """
        used_ns, waited_ns, _count = (thread / "schedstat").read_text().split()
        return cls(int(used_ns) / 1e6, int(waited_ns) / 1e6)


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
        self._client = Client.of(mount.root)
        (self._loop,) = (
            Path(f"/proc/{pid}/task/{pid}")
            for pid in mount.daemon_pids()
            if b"memfs_daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        for place in (self._root, disk):
            (place / "probe").mkdir()
            (place / "probe/tagged").touch()

    def during(self, is_busy: Callable[[], bool]) -> Waits:
        """Make requests as long as something is done."""
        rows: list[list[float]] = [[] for _ in range(5)]
        waits, owns, loops, disk, disk_owns = rows
        begun_s, stall_count = time.perf_counter(), self._stall_count()
        while is_busy():
            loop, own = Turns.of(self._loop), Turns.of(_SELF)
            for request in self._requests(self._root):
                waits.append(_timed(request))
                before, loop = (loop, own), Turns.of(self._loop)
                own = Turns.of(_SELF)
                waited_ms = sum((loop, own)[at].waited_ms - before[at].waited_ms for at in (0, 1))
                owns.append(waits[-1] - waited_ms)
                loops.append(loop.used_ms - before[0].used_ms)
            for request in self._requests(self._disk):
                disk.append(_timed(request))
                before_ms, own = own.waited_ms, Turns.of(_SELF)
                disk_owns.append(disk[-1] - (own.waited_ms - before_ms))
            time.sleep(PAUSE_S)
        duration_s = time.perf_counter() - begun_s
        stall_count = self._stall_count() - stall_count
        longest_ms, own_ms, loop_ms, disk_ms, disk_own_ms = map(max, rows)
        return Waits(
            len(waits),
            statistics.median(waits),
            longest_ms,
            own_ms,
            loop_ms,
            disk_ms,
            disk_own_ms,
            duration_s,
            stall_count,
        )

    def _stall_count(self) -> int:
        found = re.search(rf"^{STALLS.name}\{{.*\}} (\d+)", self._client.metrics(), re.MULTILINE)
        assert found is not None
        return int(found[1])

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


def _count_as_user(root: Path) -> None:
    """Count files as a user without rights, who cannot read where this checkout is."""
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    os.setgroups([])
    os.setresgid(ALICE.gid, ALICE.gid, ALICE.gid)
    os.setresuid(ALICE.uid, ALICE.uid, ALICE.uid)
    token = None
    while True:
        page = Client.of(root).query({"$path": "**/f*7"}, limit=10_000, token=token, names=False)
        token = page["token"]
        if token is None:
            return


def measure(mount: Mount, disk: Path, count: int) -> Iterator[tuple[str, Waits]]:
    """Do each kind of work, and yield its waits."""
    prober = Prober(mount, disk, _files(count))
    client = Client.of(mount.root)

    def run(*command: str) -> Waits:
        back = ["nice", "-n", str(-os.getpriority(os.PRIO_PROCESS, 0))]
        words = [*back, sys.executable, "-m", "memfs_tools", *command]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
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
    user = multiprocessing.get_context("fork").Process(target=_count_as_user, args=(mount.root,))
    user.start()
    waits = prober.during(user.is_alive)
    assert user.exitcode == 0
    yield "a glob, asked by a user", waits
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
    with scratch.workspace(options.base or Path(tempfile.gettempdir())) as workspace:
        base = workspace.directory("waits")
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
                    if len(rows) == 1:
                        heads = (
                            *("requests", "median", "longest", "own", "loop"),
                            *("disk", "own ms", "s", "stalls"),
                        )
                        print(f"{'':28}" + "".join(f"{head:>9}" for head in heads))
                    count, *numbers, stalls = waits
                    told = "".join(f"{number:9.1f}" for number in numbers)
                    print(f"{name:28}{count:9}{told}{stalls:9}", flush=True)
        finally:
            mount.stop()
    if options.json:
        print(json.dumps({name: waits._asdict() for name, waits in rows.items()}))


if __name__ == "__main__":
    main()
