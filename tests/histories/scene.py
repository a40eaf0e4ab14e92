"""Scene: a node that writes, nodes that read, programs on their mounts, and what goes wrong.

Invariant: a fault is noted from before it begins until all programs have gone on after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests import scratch
from tests.documents import ROOT
from tests.histories.judge import Judge
from tests.histories.records import Kind, Operation, load
from tests.mounting import Mount, run_memfs
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.servers.postgresql import Database

WRITER = "writer"
WRITER_PROGRAMS = 2
READER_PROGRAMS = 2
STOPPED_S = 1.0
"""How long a daemon does nothing after SIGSTOP. Guess: many beats of it, and no time-out."""
OPERATIONS_AFTER = 6
"""That each program does after a fault, before the next one."""

LOGGED = (
    r"database|connection|postgres|changes are|answers again|recover|log of|round of the mover",
)
"""Lines of daemons that are to be expected, as regular expressions."""


class Scene:
    """One run.

    Args:
        base: Empty; for all of it.
        database: Empty.
        seed: Decides what programs do.
        readers: Nodes that read.
        driver: That of all mounts.
        limit_s: `nodes.commit_timeout`: as much as a busy machine needs.
    """

    def __init__(
        self,
        base: Path,
        database: Database,
        seed: int,
        *,
        readers: int = 1,
        driver: str = "kernel",
        limit_s: int = 60,
    ) -> None:
        self._base = base
        self._database = database
        self._seed = seed
        self._end = base / "end"
        self._histories = base / "histories"
        self._programs: dict[Path, subprocess.Popen[bytes]] = {}
        self._faults: list[Operation] = []
        store = base / "objects"
        for directory in (store, self._histories):
            directory.mkdir()
        run_memfs("format", database.url, "--store", f"file://{store}")
        names = [WRITER, *(f"reader-{number}" for number in range(readers))]
        self.mounts: dict[str, Mount] = {}
        for name in names:
            place = base / name
            place.mkdir(mode=0o755)
            role = "writer" if name == WRITER else "reader"
            config = (
                f'[metadata]\nurl = "{database.url}"\n[glacier]\nurl = "file://{store}"\n'
                f'[nodes]\nname = "{name}"\nrole = "{role}"\ncommit_timeout = "{limit_s}s"\n'
                'keep_objects = "10s"\n'
            )
            self.mounts[name] = Mount(place, driver, config, forked=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have all mounts and programs there for the block; their end is orderly, if it is."""
        try:
            for mount in self.mounts.values():
                mount.start()
            self._start_programs()
            self._await_progress()
            yield
            self._end_programs()
            for mount in reversed(self.mounts.values()):
                mount.stop()
                mount.check_log(LOGGED)
        finally:
            self._clean()

    def judge(self) -> Judge:
        """Return a judge of what has happened; its `run` tells what must not have."""
        return Judge([*load(self._histories.iterdir()), *self._faults])

    # --- programs --------------------------------------------------------------------------------
    def _start_programs(self) -> None:
        for number in range(WRITER_PROGRAMS):
            self._start_program("writer", WRITER, f"w{number}")
        self._start_program("reader", WRITER, "r-writer")
        for node in self.mounts:
            for number in range(READER_PROGRAMS if node != WRITER else 0):
                self._start_program("reader", node, f"r{number}-{node}")

    def _start_program(self, role: str, node: str, name: str) -> None:
        file = self._histories / name
        file.touch()

        def here(path: Path) -> Path:
            return path.relative_to(self._base)

        self._programs[file] = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.histories.programs", role),
                *("--root", here(self.mounts[node].root), "--node", node, "--name", name),
                *("--file", here(file), "--seed", str(self._seed), "--end", here(self._end)),
            ],
            stdin=subprocess.DEVNULL,
            # Who kills a mount kills all processes that name it.
            cwd=self._base,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def _await_progress(self) -> None:
        """Return once each program has done some more."""
        enough = {file: count + OPERATIONS_AFTER for file, count in self._counts().items()}

        def is_enough() -> bool:
            return all(self._counts()[file] >= count for file, count in enough.items())

        wait_for(is_enough, lambda: (enough, self._counts()))

    def _counts(self) -> dict[Path, int]:
        for program in self._programs.values():
            assert program.poll() is None, f"a program has ended with {program.returncode}"
        return {file: file.read_bytes().count(b"\n") for file in self._programs}

    def _end_programs(self) -> None:
        self._end.touch()
        for program in self._programs.values():
            assert program.wait(WAIT_S) == 0

    def _clean(self) -> None:
        for program in self._programs.values():
            if program.poll() is None:
                program.kill()
        for mount in self.mounts.values():
            for pid in mount.daemon_pids():
                scratch.kill_and_wait(pid)
        scratch.detach(self._base)
        for program in self._programs.values():
            program.wait(WAIT_S)

    # --- faults ----------------------------------------------------------------------------------
    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        """What can go wrong, by name."""
        found: dict[str, Callable[[], None]] = {
            "restart the database": lambda: self._database.server.restart(signal.SIGQUIT),
            "terminate all sessions": self._terminate,
        }
        for node, mount in self.mounts.items():
            found[f"kill {node}"] = lambda mount=mount: _kill(mount)  # type: ignore[misc]
            found[f"stop {node}"] = lambda mount=mount: _stop(mount)  # type: ignore[misc]
        return found

    def suffer(self, names: Sequence[str]) -> None:
        """Have some things go wrong, one after the other."""
        for name in names:
            begin_ns = time.monotonic_ns()
            self.faults[name]()
            self._await_progress()
            self._faults.append(
                Operation(Kind.FAULT, "", "faults", name, begin_ns, time.monotonic_ns())
            )
            self._await_progress()

    def _terminate(self) -> None:
        self._database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


def _kill(mount: Mount) -> None:
    mount.kill()
    mount.start()


def _stop(mount: Mount) -> None:
    pids = mount.daemon_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(STOPPED_S)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
