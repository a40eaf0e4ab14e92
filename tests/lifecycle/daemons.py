"""Daemons as processes: started where their end can be seen, and watched until it.

Invariant: whatever is waited for here is waited for by looking, with a bound that only a hang
reaches.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from memfs.linux.readiness import await_ready
from tests.warm import COMMAND_TIMEOUT_S, run_warm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounting import Mount

END_S = 90.0
"""What `memfs umount` waits for a daemon to end; the daemon bounds itself to less."""


def memfs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `memfs ARGUMENTS`, whatever comes of it."""
    return run_warm(*arguments, timeout_s=COMMAND_TIMEOUT_S + END_S)


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Run `memfs ARGUMENTS`, which must fail with one line; return its exit code and the line."""
    done = memfs(*arguments)
    assert done.returncode != 0
    assert done.stderr.startswith("memfs: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


@contextlib.contextmanager
def foreground(mount: Mount) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the daemon of `memfs mount --foreground`, once it has told systemd that it is ready."""
    mount.root.mkdir(exist_ok=True)
    address = f"\0memfs-test-{os.getpid()}-{mount.base}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(COMMAND_TIMEOUT_S)
        daemon = subprocess.Popen(
            [
                *(sys.executable, "-m", "memfs_tools", "mount", "--foreground"),
                *("--driver", mount.driver, "--state", mount.state, mount.root),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"NOTIFY_SOCKET": "@" + address[1:]},
        )
        try:
            assert manager.recv(4096).startswith(b"READY=1\n")
            yield daemon
        finally:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait(END_S)


def kill(mount: Mount) -> None:
    """End the daemon of a mount as a crash would, and leave the dead mount in the tree."""
    (pid,) = mount.daemon_pids()
    process_fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process_fd, signal.SIGKILL)
        assert await_ready([process_fd], END_S)
    finally:
        os.close(process_fd)


def write_tree(directory: Path) -> None:
    """Write files of several sizes, in directories, with an xattr."""
    for index, size in enumerate((0, 1, 4096, 70_000, 3 << 20)):
        below = directory / f"directory-{index}"
        below.mkdir()
        (below / "file").write_bytes(hashlib.shake_128(b"%d" % index).digest(size))
        os.setxattr(below / "file", "user.index", b"%d" % index)


def digest_tree(directory: Path) -> dict[str, str]:
    """Digests of all files below a directory, by their paths in it."""
    return {
        os.fspath(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
