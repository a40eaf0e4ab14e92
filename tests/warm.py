"""A warm interpreter: `memfs` commands run in forks of a process that has imported their modules.

To start Python and to import takes most of a command's time, and the tests run a thousand commands.
It takes most of a daemon's start as well, so `memfs mount` can fork its daemon here. That commands
and daemons run from nothing is for `tests/lifecycle` and `tests/unit/test_cli.py`.

Invariant: each command and each daemon has a process, arguments, environment, directory and
standard streams of its own; the interpreter has one thread, and ends with the tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from memfs.moves.faults import FaultPoints
from memfs_tools.main import list_commands, main

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND_TIMEOUT_S = 120.0
"""Bound on one `memfs` command; only a hang reaches it."""

_REQUEST_BYTES_MAX = 100_000

_ARGUMENT_BYTES_MAX = 8192
"""Room for a daemon's arguments, where /proc shows those of this process."""

_POLL_S = 0.02

FAULTS_VARIABLE = "MEMFS_TEST_FAULTS"
"""Names a file for a daemon that is forked here: `tests.crash.armed.Armed`."""


def run_warm(
    *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S, fork_daemon: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `memfs ARGUMENTS`, without input, and return what came of it.

    Args:
        arguments: Those of the command.
        timeout_s: Bound on the command.
        fork_daemon: Whether `memfs mount` forks its daemon from the interpreter's modules.

    Raises:
        TimeoutExpired: It took longer; it was killed.
    """
    words = [os.fspath(argument) for argument in arguments]
    request = json.dumps([words, os.getcwd(), dict(os.environ), fork_daemon]).encode()
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with theirs, open(os.devnull, "rb") as nothing:
            fds = [nothing.fileno(), output.fileno(), errors.fileno(), theirs.fileno()]
            socket.send_fds(_interpreter(), [request], fds)
        pid = int(_line(ours))
        ours.settimeout(timeout_s)
        try:
            status = _line(ours)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(words, timeout_s) from None
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            words,
            int(status) if status else -signal.SIGKILL,
            output.read().decode(),
            errors.read().decode(),
        )


def _line(connection: socket.socket) -> bytes:
    """Return one line, empty if no line comes: the process was killed."""
    received = b""
    while not received.endswith(b"\n"):
        chunk = connection.recv(1)
        if not chunk:
            return b""
        received += chunk
    return received


@functools.cache
def _interpreter() -> socket.socket:
    """Start the interpreter; it ends when this end of the connection is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno()), "-" * _ARGUMENT_BYTES_MAX],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    # It is not waited for; without this, its destructor warns of that.
    process.returncode = 0
    return ours


def serve(requests: socket.socket) -> None:
    """Fork for each request."""
    gc.disable()
    list_commands()
    _import_daemon()
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, fds, _, _ = socket.recv_fds(requests, _REQUEST_BYTES_MAX, 4)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            _run(request, fds)
        for fd in fds:
            os.close(fd)


def _run(request: bytes, fds: list[int]) -> NoReturn:
    """Run one command in this process, which has no other purpose."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        *streams, answers = fds
        os.write(answers, b"%d\n" % os.getpid())
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        words, directory, environment, fork_daemon = json.loads(request)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["memfs", *words]
        if fork_daemon:
            subprocess.Popen = _start  # type: ignore[assignment, misc]  # this command's alone
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(answers, b"%d\n" % status)
        os._exit(0)


def _import_daemon() -> None:
    """Import what a daemon needs to serve under either driver."""
    import memfs_daemon.kernel.driver
    import memfs_daemon.main
    import memfs_daemon.pyfuse3.driver  # noqa: F401


_POPEN = subprocess.Popen
_MODULE = ["-P", "-m", "memfs_daemon"]


def _start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes] | _Forked:  # noqa: ANN401
    """Stand in for `subprocess.Popen`, which starts a daemon from nothing."""
    if [*command[1:4]] != _MODULE:
        return _POPEN(command, **options)
    pid = os.fork()
    if pid == 0:
        _serve_mount(list(command), **options)
    return _Forked(pid)


def _serve_mount(
    command: list[str],
    *,
    stdin: int,
    stdout: IO[bytes],
    stderr: IO[bytes],
    pass_fds: Sequence[int],
    start_new_session: bool,
    cwd: str,
) -> NoReturn:
    """Be a daemon: in a session of its own, with its arguments in /proc."""
    status = 1
    try:
        assert start_new_session
        assert stdin == subprocess.DEVNULL
        os.setsid()
        os.chdir(cwd)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        kept = sorted({*pass_fds})
        for low, high in zip([2, *kept], [*kept, 1 << 20], strict=True):
            os.closerange(low + 1, high)
        subprocess.Popen = _POPEN  # type: ignore[misc]
        # Read when an interpreter starts, as this one did before the test set it.
        added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [path for path in added if path and path not in sys.path]
        _show_arguments(command)
        if (armed := os.environ.get(FAULTS_VARIABLE)) is not None:
            _watch_faults(Path(armed))
        sys.argv = ["memfsd", *command[4:]]
        from memfs_daemon.__main__ import main as serve_mount

        serve_mount()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch_faults(armed: Path) -> None:
    """Note each fault point that is reached while there is a file, and die at the one it names."""
    counts: Counter[str] = Counter()

    def reach(_self: FaultPoints, point: str) -> None:
        if not armed.exists():
            return
        counts[point] += 1
        with armed.with_suffix(".reached").open("a") as reached:
            reached.write(f"{point}\n")
        if armed.read_text() == f"{point} {counts[point]}":
            os.kill(os.getpid(), signal.SIGKILL)

    FaultPoints.reach = reach  # type: ignore[assignment, method-assign]  # in this process alone


def _show_arguments(command: Sequence[str]) -> None:
    """Overwrite this process's arguments: daemons are found by theirs."""
    # proc_pid_stat(5): (48) arg_start and (49) arg_end; a name in (2) may hold blanks.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    begin, end = int(fields[48 - 3]), int(fields[49 - 3])
    shown = b"".join(os.fsencode(word) + b"\0" for word in command)
    assert len(shown) <= end - begin
    ctypes.memmove(begin, shown.ljust(end - begin, b"\0"), end - begin)


class _Forked:
    """What `start_daemon` asks of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                return self.returncode
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("memfsd", timeout)
            time.sleep(_POLL_S)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
