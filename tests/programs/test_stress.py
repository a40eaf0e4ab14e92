"""dbench and stress-ng: many processes at once, doing what file servers and bad programs do.

Each stressor alone runs under the kernel driver: its calls are the same at each place. All of them
at once run at the other places, and dbench at all: what a driver adds is how requests run side by
side, and how data goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.posix.capabilities import KERNEL, PYFUSE3, SERVED, Capability
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
"""Name of the stressor, and its bogo operations: a fraction of a second each on ext4.

Not `io`: it opens every mount of the machine, and those of tests beside it could not be unmounted.
"""

ALLOCATING = {"fallocate": 20}
"""Those that need fallocate(2) with its modes."""

TIME_S_MAX = 2
"""Some operations are thousands of requests; half a minute of the same would prove nothing else."""

TOGETHER_S_MAX = 6
"""For all of them at once, on a few cores."""


def _stress(place: Path, stressors: dict[str, int], workers: int, time_s_max: int) -> None:
    options = [
        option
        for name, operations in stressors.items()
        for option in (f"--{name}", str(workers), f"--{name}-ops", str(operations))
    ]
    run(
        "stress-ng",
        "--temp-path",
        place,
        *options,
        "--verify",
        "--timeout",
        str(time_s_max),
        "--metrics-brief",
    )


@pytest.mark.only_at(KERNEL)
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng_finds_nothing_wrong(place: Path, stressor: str) -> None:
    _stress(place, {stressor: STRESSORS[stressor]}, 2, TIME_S_MAX)


@pytest.mark.only_at(KERNEL)
@pytest.mark.needs(Capability.FALLOCATE)
@pytest.mark.parametrize("stressor", ALLOCATING)
def test_stress_ng_finds_nothing_wrong_with_allocation(place: Path, stressor: str) -> None:
    _stress(place, {stressor: ALLOCATING[stressor]}, 2, TIME_S_MAX)


@pytest.mark.only_at(SERVED, PYFUSE3)
def test_all_stressors_at_once_find_nothing_wrong(
    place: Path, capabilities: frozenset[Capability]
) -> None:
    able = ALLOCATING if Capability.FALLOCATE in capabilities else {}
    _stress(place, STRESSORS | able, 1, TOGETHER_S_MAX)


@pytest.mark.only_at(KERNEL, SERVED, PYFUSE3)
def test_dbench_runs_to_its_end(place: Path) -> None:
    run("dbench", "-D", place, "-c", "/usr/share/dbench/client.txt", "-t", "5", "2")
