"""What a reader has to know about the machine and the source to weigh a number."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and on what a run took place."""

    cpu: str
    cpu_count: int
    memory_bytes: int
    kernel: str
    python: str
    filesystem: str
    """Type of the file system below all places."""
    commit: str
    """Short hash, with `+` where tracked files were changed; `unknown` outside a checkout."""
    date: str
    """Day of the run, UTC, ISO 8601."""

    @classmethod
    def here(cls, directory: Path) -> Machine:
        """Describe this machine, and the file system that holds `directory`."""
        return cls(
            cpu=_cpu_model(),
            cpu_count=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            kernel=platform.release(),
            python=platform.python_version(),
            filesystem=_filesystem(directory),
            commit=_commit(Path(__file__).parent),
            date=datetime.now(UTC).date().isoformat(),
        )


def _filesystem(directory: Path) -> str:
    # One line for each mount at the place, the one that is seen last.
    lines = _output("findmnt", "-no", "FSTYPE", "--target", str(directory)).splitlines()
    return lines[-1] if lines else ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit(directory: Path) -> str:
    git = ("git", "-C", str(directory))
    commit = _output(*git, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    return commit + ("+" if _output(*git, "status", "--porcelain", "-uno") else "")


def _output(*command: str) -> str:
    """What a command prints; empty where it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
