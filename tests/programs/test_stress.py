"""dbench and stress-ng: many processes at once, doing what file servers and bad programs do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.posix.capabilities import Capability
from tests.programs.running import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.data_path]

STRESSORS = {
    "access": 300,
    "chdir": 50,
    "chmod": 300,
    "copy-file": 30,
    "dentry": 3,
    "dir": 300,
    "dirdeep": 200,
    "fcntl": 500,
    "filename": 50,
    "flock": 300,
    "fstat": 200,
    "getdent": 50,
    "hdd": 200,
    "io": 50,
    "iomix": 50,
    "link": 1,
    "locka": 300,
    "lockf": 300,
    "lockofd": 300,
    "mknod": 20,
    "mmap": 2,
    "mmapmany": 2,
    "open": 200,
    "rename": 500,
    "seek": 200,
    "symlink": 1,
    "sync-file": 10,
    "touch": 300,
    "utime": 300,
    "xattr": 20,
}
"""Name of the stressor, and its bogo operations: a fraction of a second each on ext4."""

TIME_S_MAX = 2
"""Some operations are thousands of requests; half a minute of the same would prove no more."""

ALLOCATING = {"fallocate": 20}
"""Those that need fallocate(2) with its modes."""


def _stress(place: Path, stressor: str, operations: int) -> None:
    run(
        "stress-ng",
        "--temp-path",
        place,
        f"--{stressor}",
        "2",
        f"--{stressor}-ops",
        str(operations),
        "--verify",
        "--timeout",
        str(TIME_S_MAX),
        "--metrics-brief",
    )


@pytest.mark.parametrize(("stressor", "operations"), STRESSORS.items(), ids=list(STRESSORS))
def test_stress_ng_finds_nothing_wrong(place: Path, stressor: str, operations: int) -> None:
    _stress(place, stressor, operations)


@pytest.mark.needs(Capability.FALLOCATE)
@pytest.mark.parametrize(("stressor", "operations"), ALLOCATING.items(), ids=list(ALLOCATING))
def test_stress_ng_finds_nothing_wrong_with_allocation(
    place: Path, stressor: str, operations: int
) -> None:
    _stress(place, stressor, operations)


def test_dbench_runs_to_its_end(place: Path) -> None:
    run("dbench", "-D", place, "-c", "/usr/share/dbench/client.txt", "-t", "5", "2")
