"""Programs that write into a mount, and a log outside of it of what they were promised.

Invariant: a line is logged before a change begins, which makes the file's content uncertain, and
after the system call that promised it has returned; so what the log says last of a file must hold.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZES = (0, 1, 100, 5_000, 70_000, 300_000)


class Promise(NamedTuple):
    """What a file has to hold."""

    seed: int
    size: int


def pattern(promise: Promise) -> bytes:
    """Return the bytes of a promise; they compress some 4 times."""
    letters = random.Random(promise.seed).choices(b"abcd", k=min(promise.size, 5_000))
    unit = bytes(letters)
    return (unit * (promise.size // 5_000 + 1))[: promise.size]


class Log:
    """Lines in a file on another file system than the mount."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(self, *words: object) -> None:
        """Append a line; survives whatever ends the process."""
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def promises(self) -> dict[str, Promise | None]:
        """Return what each file must hold, None if it must be gone; uncertain ones are left out."""
        found: dict[str, Promise | None] = {}
        for line in self._path.read_text().splitlines():
            match line.split(" "):
                case ["holds", name, seed, size]:
                    found[name] = Promise(int(seed), int(size))
                case ["gone", name]:
                    found[name] = None
                case ["changing", name]:
                    found.pop(name, None)
        return found


@contextlib.contextmanager
def writing(root: Path, log: Log, count: int, seed: int) -> Iterator[Progress]:
    """Run writers in `root` for the block; at its end they must end by errors of the mount."""
    read_fd, write_fd = os.pipe()
    pids = []
    for index in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(read_fd)
            with contextlib.suppress(OSError):
                _write_on(root, log, random.Random(f"{seed} {index}"), f"{index}", write_fd)
            os._exit(0)
        pids.append(pid)
    os.close(write_fd)
    try:
        yield Progress(read_fd)
    except BaseException:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(read_fd)
        for pid in pids:
            os.waitpid(pid, 0)


class Progress:
    """How far the writers are."""

    def __init__(self, read_fd: int) -> None:
        self._read_fd = read_fd

    def wait(self, step_count: int) -> None:
        """Return when the writers have done so many steps more.

        Raises:
            AssertionError: They all ended before.
        """
        for _ in range(step_count):
            assert os.read(self._read_fd, 1), "the writers ended while the daemon lived"


def _write_on(root: Path, log: Log, rng: random.Random, writer: str, progress_fd: int) -> None:
    """Create, change, rename, remove and read files until the mount fails."""
    while True:
        name = f"{writer}-{rng.randrange(12)}"
        action = rng.choice(["write", "write", "write", "rewrite", "append", "rename", "remove"])
        path = root / name
        if action in ("write", "rewrite", "append"):
            _write_one(path, log, rng, action)
        elif action == "rename":
            _rename(path, root / f"{writer}-{rng.randrange(12)}", log)
        elif path.exists():
            log.note("changing", name)
            path.unlink()
            log.note("gone", name)
        os.write(progress_fd, b".")


def _write_one(path: Path, log: Log, rng: random.Random, action: str) -> None:
    promise = Promise(rng.randrange(1 << 30), rng.choice(SIZES))
    data = pattern(promise)
    log.note("changing", path.name)
    flags = os.O_CREAT | os.O_RDWR | (os.O_TRUNC if action == "write" else 0)
    fd = os.open(path, flags, 0o600)
    half = len(data) // 2 if action == "append" else len(data)
    os.pwrite(fd, data[:half], 0)
    os.pwrite(fd, data[half:], half)
    os.ftruncate(fd, len(data))
    if rng.random() < 0.3:
        os.fsync(fd)
        log.note("holds", path.name, *promise)
    os.close(fd)
    log.note("holds", path.name, *promise)


def _rename(source: Path, target: Path, log: Log) -> None:
    known = log.promises().get(source.name)
    if known is None or source == target:
        return
    log.note("changing", source.name)
    log.note("changing", target.name)
    source.rename(target)
    log.note("gone", source.name)
    log.note("holds", target.name, *known)
