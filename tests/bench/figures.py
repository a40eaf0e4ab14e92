"""Figures of memfs alone: time to mount, time to promote, memory with a million inodes.

Invariant: everything is seen from outside, through `memfs` commands, xattrs and /proc.
"""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests import scratch
from tests.mounting import Mount

if TYPE_CHECKING:
    from collections.abc import Callable

PROMOTED_BYTES = 1 << 30
MILLION_DIRECTORY_COUNT = 1000
MILLION_FILE_COUNT = 999
"""Files in each directory; with the directories themselves that makes a million inodes."""
RESIDENCY_S_MAX = 60.0
"""A promotion or demotion that takes longer is reported as failed; guess."""
_POLL_S = 0.0005
_CHUNK_BYTES = 1 << 20


class FigureError(Exception):
    """A figure could not be measured; says why."""


def ready_s(base: Path) -> float:
    """Seconds from the start of `memfs mount` on an empty state directory to its return."""
    mount = Mount(base, "auto")
    begin_s = time.perf_counter()
    mount.start()
    elapsed_s = time.perf_counter() - begin_s
    mount.stop()
    return elapsed_s


def promotion_ms(base: Path, repeat: int) -> list[float]:
    """Milliseconds from `setfattr -n user.memfs.tier -v warm` until the pages are locked.

    The file lies in the page cache, unlocked, when the clock starts.

    Raises:
        FigureError: The mover did not get there in time; carries its `why`.
        OSError: The mount refused a tier, for one because the RAM capacity is too small.
    """
    mount = Mount(base, "auto")
    mount.start()
    try:
        path = mount.root / "promoted"
        with path.open("wb") as file:
            chunk = os.urandom(_CHUNK_BYTES)
            for _ in range(PROMOTED_BYTES // _CHUNK_BYTES):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        # What the mover does with a new file, its digest above all, is not part of a promotion;
        # nor is the packing that would follow the demotions between the samples.
        os.setxattr(path, "user.memfs.codec", b"none")
        _await(path, "settled", lambda: os.getxattr(path, "user.memfs.state") != b"dirty")
        return [_promote_once(path) for _ in range(repeat)]
    finally:
        mount.stop()


def memory_mb(base: Path, advance: Callable[[], None]) -> float:
    """The daemon's VmRSS in MB (1e6 bytes) after a million inodes were made and then walked.

    Args:
        base: Empty directory for the mount.
        advance: Called after each directory of 1,000 inodes, twice a directory.
    """
    mount = Mount(base, "auto")
    mount.start()
    try:
        for number in range(MILLION_DIRECTORY_COUNT):
            directory = mount.root / f"{number:03}"
            directory.mkdir()
            for name in range(MILLION_FILE_COUNT):
                os.mknod(directory / f"{name:03}", stat.S_IFREG | 0o644)
            advance()
        made_bytes = resident_bytes(mount)
        for number in range(MILLION_DIRECTORY_COUNT):
            with os.scandir(mount.root / f"{number:03}") as entries:
                for entry in entries:
                    entry.stat()
            advance()
        return max(made_bytes, resident_bytes(mount)) / 1e6
    finally:
        mount.stop()


def resident_bytes(mount: Mount) -> int:
    """VmRSS of all processes that serve a mount (proc_pid_status(5)).

    Raises:
        FigureError: No process serves it.
    """
    pids = scratch.processes_naming(mount.state)
    if not pids:
        raise FigureError(f"no process serves {mount.root}")
    return sum(_status_kib(pid, "VmRSS") << 10 for pid in pids)


def _promote_once(path: Path) -> float:
    os.setxattr(path, "user.memfs.tier", b"cold")
    _await(path, "unlocked", lambda: not _locked(path))
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_CHUNK_BYTES)
        while file.readinto(buffer):
            pass
    begin_s = time.perf_counter()
    os.setxattr(path, "user.memfs.tier", b"warm")
    _await(path, "locked", lambda: _locked(path))
    return (time.perf_counter() - begin_s) * 1e3


def _locked(path: Path) -> bool:
    residency = json.loads(os.getxattr(path, "user.memfs.residency"))
    return bool(residency["locked"])


def _await(path: Path, state: str, reached: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + RESIDENCY_S_MAX
    while not reached():
        if time.monotonic() > deadline_s:
            why = os.getxattr(path, "user.memfs.why").decode(errors="replace")
            raise FigureError(f"not {state} after {RESIDENCY_S_MAX:.0f} s; why: {why}")
        time.sleep(_POLL_S)


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise FigureError(f"/proc/{pid}/status has no {name}")
