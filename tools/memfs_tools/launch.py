"""Starting a daemon, and waiting until it serves or says why not.

Invariant: when `start_daemon` returns the mount serves; when it raises, its daemon has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs.linux.readiness import await_ready
from memfs_tools.terminal import complain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import IO

START_S_MAX = 120.0
"""Recovery after a crash is part of the start; guess, far above what was seen."""

_END_S_MAX = 10.0
_ANSWER_BYTES_MAX = 64 << 10


def start_daemon(
    arguments: Sequence[str],
    mountpoint: Path,
    state_dir: Path,
    *,
    program: Sequence[str] = (sys.executable, "-P", "-m", "memfs_daemon"),
    start_s_max: float = START_S_MAX,
) -> None:
    """Start a daemon in a session of its own, and return when its mount serves.

    Args:
        arguments: Those of `memfsd`, without the mountpoint.
        mountpoint: Absolute.
        state_dir: For messages.
        program: The daemon.
        start_s_max: How long it may take to serve, or to tell how far it is.

    Raises:
        UsageError: The daemon said why it cannot serve, ended without a word, or took too long.
    """
    read_fd, write_fd = os.pipe()
    output_fd = os.memfd_create("memfsd-output")
    with os.fdopen(read_fd, "rb", buffering=0) as reader, os.fdopen(output_fd, "w+b") as output:
        try:
            daemon = subprocess.Popen(
                [*program, *arguments, "--ready-fd", str(write_fd), str(mountpoint)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[write_fd],
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(write_fd)
        try:
            answer = _wait(reader.fileno(), start_s_max)
        except BaseException:
            _end(daemon)
            raise
        if answer is None:
            _end(daemon)
            raise UsageError(
                f"{mountpoint} was not served within {start_s_max:g} s; see {state_dir}/daemon.log",
                ExitCode.NO_ANSWER,
            )
        if not answer:
            _raise_silent_end(daemon, output, state_dir)
    content = json.loads(answer)
    if not content["ready"]:
        _await_end(daemon)
        raise UsageError(content["message"], content["exit_code"])
    # It lives on by itself; without this, Popen's destructor warns of a child never waited for.
    daemon.returncode = 0


def _wait(fd: int, start_s_max: float) -> bytes | None:
    """Return the daemon's line, b"" if it ended without one, or None if it took too long.

    Lines that tell of progress are shown, and give it as much time again.
    """
    received = b""
    deadline_s = time.monotonic() + start_s_max
    while len(received) < _ANSWER_BYTES_MAX:
        line, newline, rest = received.partition(b"\n")
        if newline:
            content = json.loads(line)
            if "progress" not in content:
                return line
            complain(content["progress"])
            received, deadline_s = rest, time.monotonic() + start_s_max
            continue
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0 or not await_ready([fd], remaining_s):
            return None
        chunk = os.read(fd, _ANSWER_BYTES_MAX)
        if not chunk:
            return b""
        received += chunk
    return received


def _raise_silent_end(daemon: subprocess.Popen[bytes], output: IO[bytes], state_dir: Path) -> None:
    _await_end(daemon)
    output.seek(0)
    lines = output.read().decode(errors="backslashreplace").strip().splitlines()
    reason = f": {lines[-1]}" if lines else f"; see {state_dir}/daemon.log"
    raise UsageError(
        f"the daemon ended with status {daemon.returncode} before it served{reason}",
        ExitCode.INTERNAL,
    )


def _await_end(daemon: subprocess.Popen[bytes]) -> None:
    try:
        daemon.wait(_END_S_MAX)
    except subprocess.TimeoutExpired:
        _end(daemon)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        daemon.send_signal(end)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(_END_S_MAX)
            return
