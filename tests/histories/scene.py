"""Scene: a node that writes, nodes that read, programs on their mounts, and what goes wrong.

Each node reaches the database and the object store by a relay of its own, which can be silent.

Invariant: a fault is noted from before it begins until all programs have gone on after it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from tests import scratch
from tests.documents import ROOT
from tests.histories.judge import Judge
from tests.histories.records import Kind, Operation, load
from tests.mounting import Mount, run_memfs
from tests.servers.lying_s3 import running_lying_s3
from tests.servers.relay import Relay, relaying
from tests.waiting import WAIT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.servers.postgresql import Database
    from tests.servers.seaweedfs import S3Server

WRITER = "writer"
WRITER_PROGRAMS = 2
READER_PROGRAMS = 2
HEIR = "reader-0"
"""The mount of the node that takes over; another one reads there after that."""
STORE_URL = "s3://histories/memfs"
STOPPED_S = 1.0
"""How long a daemon does nothing after SIGSTOP. Guess: many beats of it, and no time-out."""
CUT_S = 2.0
"""How long a short cut lasts: no wait ends by it. Guess."""
BEYOND_S = 3.0
"""So much longer than the limit of all waits a long cut lasts. Guess."""
BUSY_S = 30.0
"""An operation may take so much longer than what it waits for, on a busy machine. Guess."""
OPERATIONS_AFTER = 6
"""That each program does after a fault, before the next one."""

LOGGED = (
    r"database|connection|postgres|changes are|answers again|recover|log of|round of the mover",
    r"s3://|store|wrote before had not closed",
)
"""Lines of daemons that are to be expected, as regular expressions."""


class Links(NamedTuple):
    """By what a node reaches others."""

    database: Relay
    store: Relay


class Scene:
    """One run.

    Args:
        base: Empty; for all of it.
        database: Empty.
        seed: Decides what programs do.
        readers: Nodes that read.
        driver: That of all mounts.
        limit_s: `nodes.commit_timeout` and `glacier.timeout`: as much as a busy machine needs.
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
        self._histories.mkdir()
        self._driver = driver
        self._limit_s = limit_s
        self._node_count = 0
        self._store: S3Server | None = None
        self._links: dict[str, Links] = {}
        """By mount."""
        self._names: dict[str, str] = {}
        """Names of nodes, by mount."""
        self._mount_names = [WRITER, *(f"reader-{number}" for number in range(readers))]
        self.mounts: dict[str, Mount] = {}

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Make the store, the network and the mounts."""
        self._store = stack.enter_context(running_lying_s3(urlsplit(STORE_URL).netloc)).server
        port = urlsplit(self._store.endpoint_url).port
        assert port is not None
        run_memfs("format", self._database.url, "--store", STORE_URL)
        for name in self._mount_names:
            self._links[name] = Links(
                stack.enter_context(relaying(self._database.server.port)),
                stack.enter_context(relaying(port)),
            )
            (self._base / name).mkdir(mode=0o755)
            self._add_mount(name, name)

    def _add_mount(self, mount: str, node: str) -> None:
        """Have a mount be that of a node from its next start on."""
        links, store = self._links[mount], self._store
        assert store is not None
        url = self._database.tcp_url(sslmode="disable").replace(
            f":{self._database.server.port}/", f":{links.database.port}/"
        )
        options = store.options | {"endpoint_url": f"http://127.0.0.1:{links.store.port}"}
        role = "writer" if mount == WRITER else "reader"
        config = (
            f'[metadata]\nurl = "{url}"\n'
            f'[glacier]\nurl = "{STORE_URL}"\ntimeout = "{self._limit_s}s"\n[glacier.options]\n'
            + "".join(f'{name} = "{value}"\n' for name, value in options.items())
            + f'[nodes]\nname = "{node}"\nrole = "{role}"\n'
            f'commit_timeout = "{self._limit_s}s"\nkeep_objects = "10s"\n'
        )
        self._names[mount] = node
        self.mounts[mount] = Mount(self._base / mount, self._driver, config, forked=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have all mounts and programs there for the block; their end is orderly, if it is."""
        with contextlib.ExitStack() as stack:
            self._begin(stack)
            # Mounts end before what they reach.
            stack.callback(self._clean)
            for mount in self.mounts.values():
                mount.start()
            self._start_programs()
            self._await_progress()
            yield
            self._end_programs()
            for mount in reversed(self.mounts.values()):
                mount.stop()
                mount.check_log(LOGGED)

    def judge(self) -> Judge:
        """Return a judge of what has happened; its `run` tells what must not have."""
        # The kernel asks once more after ESTALE; names, pages and bytes are waited for each.
        limit_s = 2 * 3 * self._limit_s + BUSY_S
        return Judge(
            [*load(self._histories.iterdir()), *self._faults], limit_ns=limit_s * 1_000_000_000
        )

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
        for name, mount in self.mounts.items():
            found[f"kill {name}"] = partial(_kill, mount)
            found[f"stop {name}"] = partial(_stop, mount)
            links = self._links[name]
            for what, relay in (("database", links.database), ("store", links.store)):
                found[f"cut {name} from the {what}"] = partial(_cut, relay, CUT_S)
                found[f"cut {name} from the {what} for long"] = partial(
                    _cut, relay, self._limit_s + BEYOND_S
                )
                found[f"lose what the {what} answers {name}"] = partial(
                    _cut, relay, CUT_S, questions=False
                )
                found[f"lose what the {what} answers {name} for long"] = partial(
                    _cut, relay, self._limit_s + BEYOND_S, questions=False
                )
        if HEIR in self.mounts:
            found["take over from a writer that was killed"] = self._take_over
            found["take over from a writer that is cut off"] = partial(
                self._take_over, is_killed=False
            )
        return found

    def suffer(self, names: Sequence[str]) -> None:
        """Have some things go wrong, one after the other."""
        for name in names:
            begin_ns = time.monotonic_ns()
            self.faults[name]()
            self._await_progress()
            kind = _KINDS.get(name.split()[0], Kind.FAULT)
            self._faults.append(Operation(kind, "", "faults", name, begin_ns, time.monotonic_ns()))
            self._await_progress()

    def _take_over(self, *, is_killed: bool = True) -> None:
        """Have a node that reads write in the place of the one that does, and a new one read."""
        former, heir, relay = self.mounts[WRITER], self.mounts[HEIR], self._links[WRITER].database
        if is_killed:
            former.kill()
        else:
            relay.hold()
        run_memfs("node", "promote", self._names[HEIR], self._database.url, "--accept-loss")
        for mount in (former, heir):
            mount.kill()
            mount.check_log(LOGGED)
        relay.end_connections()
        relay.let_go()
        shutil.rmtree(former.state)
        heir.state.rename(former.state)
        self._node_count += 1
        self._add_mount(WRITER, self._names[HEIR])
        self._add_mount(HEIR, f"heir-{self._node_count}")
        self.mounts[WRITER].start()
        self.mounts[HEIR].start()

    def _terminate(self) -> None:
        self._database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


_KINDS = {"cut": Kind.CUT, "lose": Kind.CUT, "take": Kind.TAKE_OVER}
"""Kinds of faults, by the first words of their names."""


def _cut(relay: Relay, seconds: float, *, questions: bool = True) -> None:
    """Be silent for a while: both ways, or nothing comes back; at last connections are there."""
    relay.hold(questions=questions)
    try:
        time.sleep(seconds)
    finally:
        relay.let_go()


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
