"""Databases and other programs that wait for the disk: `python -m tests.bench.databases`.

Invariant: the places take turns on one fresh, journaled file system, so that a ratio compares
samples that were taken side by side; a place's files are the same in each round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests import scratch
from tests.bench.disk import mount_image
from tests.bench.machine import Machine
from tests.bench.places import KernelPlace, NativePlace, opened_places
from tests.bench.slow_disk import mounted_slow_image
from tests.bench.workloads import BLOCK_BYTES
from tests.servers.postgresql import find_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.places import Place

DISK_BYTES = 6 << 30
ROWS_PER_CHECKPOINT = 1000
"""Pages of SQLite's log before it is copied back: its own default."""
DATA_BYTES = 1 << 20
PGBENCH_SCALE = 5
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
"""PostgreSQL refuses to run as root; Debian's package makes the user."""

AIMS = {"sqlite_wal": 0.8, "pgbench_1": 0.8, "pgbench_4": 0.8}
"""By workload: how fast memfs is to be, in native's."""


def fdatasync(directory: Path, duration_s: float) -> float:
    """Overwrite a page of a file that has its size and sync its bytes; a second."""
    path = directory / "fdatasync"
    with path.open("w+b", buffering=0) as file:
        file.write(os.urandom(DATA_BYTES))
        os.fsync(file.fileno())
        block = os.urandom(BLOCK_BYTES)
        offsets = list(range(0, DATA_BYTES, BLOCK_BYTES))

        def step(number: int) -> None:
            os.pwrite(file.fileno(), block, offsets[number % len(offsets)])
            os.fdatasync(file.fileno())

        rate = _rate(step, duration_s)
    path.unlink()
    return rate


def create_fsync(directory: Path, duration_s: float) -> float:
    """Create a file of one page and sync it; files a second."""
    fresh = directory / "create"
    fresh.mkdir()
    block = os.urandom(BLOCK_BYTES)

    def step(number: int) -> None:
        fd = os.open(fresh / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(fd, block)
        os.fsync(fd)
        os.close(fd)

    rate = _rate(step, duration_s)
    shutil.rmtree(fresh)
    return rate


def sqlite_wal(directory: Path, duration_s: float) -> float:
    """Insert a row a transaction into SQLite with a write-ahead log, each durable; a second."""
    path = directory / "sqlite.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal").fetchone()
        connection.execute("pragma synchronous = full")
        connection.execute(f"pragma wal_autocheckpoint = {ROWS_PER_CHECKPOINT}").fetchone()
        connection.execute("create table entry (number integer primary key, value blob)")
        value = os.urandom(100)

        def step(number: int) -> None:
            connection.execute("insert into entry values (?, ?)", (number, value))

        rate = _rate(step, duration_s)
    path.unlink()
    return rate


def _rate(step: Callable[[int], None], duration_s: float) -> float:
    begin_s = time.perf_counter()
    count = 0
    while (spent_s := time.perf_counter() - begin_s) < duration_s:
        step(count)
        count += 1
    return count / spent_s


class Postgres:
    """A PostgreSQL server whose data lie in a directory.

    Args:
        directory: Empty.
        sockets: Where clients find it; a path short enough for a socket.
        port: No other server of `sockets` has it.
    """

    def __init__(self, directory: Path, sockets: Path, port: int) -> None:
        self._binaries = find_postgresql()
        self._data, self._log = directory / "data", directory / "log"
        self._reach = ("-h", str(sockets), "-p", str(port), "-U", "postgres")
        shutil.chown(directory, "postgres")
        self._server("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres")
        settings = f"-p {port} -k {sockets} -c listen_addresses="
        self._server(
            *("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-w"),
            *("-o", settings, "start"),
        )
        self._run("pgbench", *self._reach, "-i", "-q", "-s", str(PGBENCH_SCALE), "postgres")

    def transactions(self, client_count: int, duration_s: float) -> float:
        """Transactions a second, as pgbench's default script has them."""
        seconds = str(max(1, round(duration_s)))
        said = self._run(
            "pgbench", *self._reach, "-c", str(client_count), "-T", seconds, "postgres"
        )
        (line,) = (line for line in said.splitlines() if line.startswith("tps"))
        return float(line.split()[2])

    def close(self) -> None:
        """Stop the server."""
        self._server("pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "stop")

    def _server(self, program: str, *arguments: str) -> None:
        # The server keeps what it inherits: a pipe to us would never end.
        command = [*AS_POSTGRES, str(self._binaries / program), *arguments]
        subprocess.run(command, cwd="/", check=True, stdin=subprocess.DEVNULL, stdout=2)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def measure(disk: Path, sockets: Path, round_count: int, duration_s: float) -> dict[str, object]:
    """Return the samples of each workload by place, and what they come to."""
    samples: dict[str, dict[str, list[float]]] = {}
    with opened_places(disk, (NativePlace, KernelPlace)) as places, contextlib.ExitStack() as stack:
        servers: dict[str, Postgres] = {}
        for number, place in enumerate(places):
            directory = place.directory / "postgres"
            directory.mkdir(mode=0o755)
            servers[place.name] = Postgres(directory, sockets, 5440 + number)
            stack.callback(servers[place.name].close)
        workloads: dict[str, Callable[[Place], float]] = {
            "fdatasync": lambda place: fdatasync(place.directory, duration_s),
            "create_fsync": lambda place: create_fsync(place.directory, duration_s),
            "sqlite_wal": lambda place: sqlite_wal(place.directory, duration_s),
            "pgbench_1": lambda place: servers[place.name].transactions(1, duration_s),
            "pgbench_4": lambda place: servers[place.name].transactions(4, duration_s),
        }
        for number in range(round_count):
            for name, work in workloads.items():
                for place in places if number % 2 else reversed(places):
                    os.sync()
                    cells = samples.setdefault(name, {})
                    cells.setdefault(place.name, []).append(round(work(place), 1))
    return {name: _compared(name, cells) for name, cells in samples.items()}


def _compared(name: str, cells: dict[str, list[float]]) -> dict[str, object]:
    native, memfs = (statistics.median(cells[each]) for each in ("native", "kernel"))
    return {"ratio": round(memfs / native, 2), "aim": AIMS.get(name), "per_s": cells}


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--duration-s", type=float, default=2.0)
    parser.add_argument(
        "--flush-ms", type=float, help="on a disk whose flushes take so much longer"
    )
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with (
        scratch.workspace(arguments.directory) as workspace,
        contextlib.ExitStack() as stack,
    ):
        base = workspace.directory("disk")
        if arguments.flush_ms is None:
            disk = mount_image(base, DISK_BYTES)
        else:
            slow = mounted_slow_image(base, DISK_BYTES, arguments.flush_ms / 1000)
            disk = stack.enter_context(slow)
        sockets = workspace.directory("s")
        sockets.chmod(0o777)
        result = {
            "machine": dataclasses.asdict(Machine.here(disk)),
            "workloads": measure(disk, sockets, arguments.repeat, arguments.duration_s),
        }
    text = json.dumps(result, indent=1)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
