"""A warm interpreter: `memfs` commands run in forks of a process that has imported their modules.

To start Python and to import takes most of a command's time, and the tests run a thousand commands.
That a command runs from nothing is for `tests/lifecycle` and `tests/unit/test_cli.py`.

Invariant: each command has a process, arguments, environment, directory and standard streams of its
own; the interpreter has one thread, and ends with the tests.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from typing import TYPE_CHECKING, NoReturn

from memfs_tools.main import list_commands, main

if TYPE_CHECKING:
    from pathlib import Path

COMMAND_TIMEOUT_S = 120.0
"""Bound on one `memfs` command; only a hang reaches it."""

_REQUEST_BYTES_MAX = 100_000


def run_warm(
    *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run `memfs ARGUMENTS`, without input, and return what came of it.

    Raises:
        TimeoutExpired: It took longer; it was killed.
    """
    words = [os.fspath(argument) for argument in arguments]
    request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
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
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    # It is not waited for; without this, its destructor warns of that.
    process.returncode = 0
    return ours


def serve(requests: socket.socket) -> None:
    """Fork for each request."""
    list_commands()
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
        words, directory, environment = json.loads(request)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["memfs", *words]
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


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
