"""A server as a child process of the tests: on loopback, with files of its own, gone afterwards.

Invariant: the server dies with the test run, however that ends; what a killed run left on disk is
removed by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

READY = "memfs-test"
"""The bucket by which a server shows that it is ready; the tests of a session share a server."""

READY_S_MAX = 180.0
"""SeaweedFS, the slowest, is ready in 4 to 12 s on an idle machine of two cores."""

_PREFIX = "memfs-server-"
_PR_SET_PDEATHSIG = 1
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PORT_MIN = 10_000


class NotReadyError(Exception):
    """The server does not answer as it will."""


@contextlib.contextmanager
def server_directory(name: str, place: Path | None = None) -> Iterator[Path]:
    """Give a directory for a server's files, removed afterwards.

    Args:
        name: What the server is.
        place: Where; None: with the temporary files, where the next run removes what a killed one
            has left.
    """
    _remove_leftovers()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{name}-", dir=place))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running_server(
    command: Sequence[str],
    directory: Path,
    try_it: Callable[[], None],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the block.

    Args:
        command: Program and arguments.
        directory: Its working directory, where its log goes too.
        try_it: Raises `NotReadyError` as long as the server cannot do its work.
        environment: Added to the tests' own.

    Raises:
        RuntimeError: It did not become ready in time; the message ends with its log.
    """
    process = start_server(command, directory, try_it, environment)
    try:
        yield process
    finally:
        # Killed outright: there is nothing to keep, and an orderly end may take more than 10 s.
        end_of_server(process, signal.SIGKILL)


def start_server(
    command: Sequence[str],
    directory: Path,
    try_it: Callable[[], None],
    environment: Mapping[str, str] | None = None,
    *,
    uid: int | None = None,
    gid: int | None = None,
    end_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a server, which `end_of_server` ends; arguments and errors as `running_server`.

    Args:
        uid: Whom it runs as; None: as the tests.
        gid: Likewise.
        end_signal: What the kernel sends it when the test run ends.
    """
    log = directory / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            # What it leaves in the directory of temporary files, logs for instance, goes as well.
            env={**os.environ, "TMPDIR": os.fspath(directory), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=None if gid is None else [],
            # Ends with the test run even if that is killed and no clean-up runs.
            preexec_fn=lambda: _end_with_parent(end_signal),
        )
    try:
        _wait_until_ready(command[0], try_it, process, log)
    except BaseException:
        end_of_server(process, signal.SIGKILL)
        raise
    return process


def end_of_server(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a server's process group a signal that ends it, and wait for that."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(WAIT_S)


def free_ports(count: int, port_min: int = _PORT_MIN) -> list[int]:
    """Return ports of the loopback device that nobody listens on.

    None of them is given to another test process as long as this one lives, nor by the kernel to
    who asks for any port: a server may bind them much later.
    """
    lowest_of_kernel = int(_PORT_RANGE.read_text().split()[0])
    candidates = range(port_min, max(lowest_of_kernel, port_min + 1000))
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().choice(candidates)
        if _reserve(port):
            ports.append(port)
    return ports


def _reserve(port: int) -> bool:
    """Keep a port from other test processes; returns False if it is in use."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as mark:
        with contextlib.closing(socket.socket()) as probe:
            try:
                mark.bind(f"\0memfs-test-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
        # The mark lives as long as this process, however that ends.
        mark.detach()
    return True


def _wait_until_ready(
    name: str, try_it: Callable[[], None], process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while True:
        try:
            try_it()
            if process.poll() is not None:
                raise NotReadyError("it has ended, and another server answers")
            return
        except NotReadyError as failure:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} is not ready: {failure}\n{tail}") from failure
        time.sleep(0.1)


def _remove_leftovers() -> None:
    """Remove the files of servers whose test run was killed, and processes that lie stopped."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            for pid in _processes_in(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(path, ignore_errors=True)


def _processes_in(directory: Path) -> list[int]:
    """Return the ids of the processes whose working directory is one, or below it."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        # A process may end meanwhile, or be another user's.
        with contextlib.suppress(OSError):
            if Path(os.readlink(link)).is_relative_to(directory):
                found.append(int(link.parent.name))
    return found


def _end_with_parent(number: signal.Signals) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
