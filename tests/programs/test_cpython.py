"""CPython's own tests of files, with their temporary directory on the mount."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests import scratch
from tests.posix.capabilities import KERNEL, PYFUSE3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Site

pytestmark = [pytest.mark.slow]

MODULES: dict[str, list[str]] = {
    "test_fileio": [],
    # With a tree a hundred levels deep: `WalkTests` of test_os goes through the same.
    "test_glob": ["test_glob_many_open_files"],
    "test_mmap": [],
    # The same calls with names as bytes, which Python had turned them into anyway; and a hundred
    # walks of a tree that other tests walk, to count descriptors.
    "test_os": ["BytesWalkTests", "BytesFwalkTests", "test_fd_leak"],
    # `Path` makes a PosixPath here, so PathTest has run all of PosixPathTest.
    "test_pathlib": ["PosixPathTest", "test_glob_many_open_files"],
    "test_posix": [],
    "test_shelve": [],
    "test_shutil": [],
    "test_sqlite3": [],
    "test_tempfile": [],
}
"""Modules, with the names of classes and tests in them that say nothing new of a file system and
take most of the time."""

ARCHIVES: dict[str, list[str]] = {
    # One archive is unpacked again and again, under other rules for what members may be.
    "test_tarfile": [f"NoneInfoExtractTests_{rule}" for rule in ("Data", "Default", "Tar")],
}
"""Most of its time is Python's own; `test_shutil` makes and unpacks archives under both drivers."""

KERNEL_TIME = "test_touch_common (test.test_pathlib.PathTest.test_touch_common)"
"""Under pyfuse3, which passes the kernel's coarse time for UTIME_NOW (3.5.0): it lies some
nanoseconds before a time that was shown within the same 4 ms. The driver cannot tell such a time
from one that a program gives, and those are kept to the nanosecond."""

PATH_LENGTH = 80
"""That of the directories that are compared; three more than the longest of a test's own."""

_FAILURE = re.compile(r"^(?:FAIL|ERROR): (.+)$", re.MULTILINE)
_SKIP = re.compile(r"^(test\w+) \((\S+)\).* \.\.\. skipped (.+)$", re.MULTILINE)


class Outcome(NamedTuple):
    """What came of one module."""

    failed: set[str]
    skipped: set[str]
    output: str


def _run(module: str, directory: Path) -> Outcome:
    directory.mkdir()
    left_out = [f"--ignore={name}" for name in (MODULES | ARCHIVES)[module]]
    done = subprocess.run(
        [sys.executable, "-m", "test", "-v", "--tempdir", directory, *left_out, module],
        env=os.environ | {"TMPDIR": str(directory), "PYTHONWARNINGS": "default"},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    ran = re.search(r"^Ran \d+ tests", done.stdout, re.MULTILINE)
    assert ran, f"{module} did not run:\n{done.stdout[-3000:]}"
    skipped = {f"{name} ({where})" for name, where, _ in _SKIP.findall(done.stdout)}
    return Outcome(set(_FAILURE.findall(done.stdout)), skipped, done.stdout)


def _tests_in(parent: Path) -> Path:
    """A path for a run; tests that bind a socket skip themselves where it is much longer."""
    return parent / "tests".ljust(PATH_LENGTH - len(f"{parent}/"), "-")


@pytest.fixture(scope="module")
def run_locally(scratch_area: scratch.Scratch) -> Iterator[Callable[[str], Outcome]]:
    """Runs a module in a local directory, once for all sites."""
    base = scratch_area.directory("cpython")

    @functools.cache
    def run(module: str) -> Outcome:
        (base / module).mkdir()
        return _run(module, _tests_in(base / module))

    yield run
    scratch.remove(base)


@pytest.mark.only_at(KERNEL, PYFUSE3)
@pytest.mark.parametrize("module", MODULES)
def test_cpython_passes_what_it_passes_on_a_local_directory(
    place: Path, site: Site, run_locally: Callable[[str], Outcome], module: str
) -> None:
    """Failures that the machine causes, and not the file system, show up on both sides."""
    compare(place, site, run_locally, module)


@pytest.mark.any_driver
@pytest.mark.only_at(KERNEL, PYFUSE3)
@pytest.mark.parametrize("module", ARCHIVES)
def test_cpython_handles_archives_as_on_a_local_directory(
    place: Path, site: Site, run_locally: Callable[[str], Outcome], module: str
) -> None:
    compare(place, site, run_locally, module)


def compare(place: Path, site: Site, run_locally: Callable[[str], Outcome], module: str) -> None:
    """Run a module on both sides."""
    expected = run_locally(module)
    actual = _run(module, _tests_in(place))
    known = {KERNEL_TIME} if site.name == PYFUSE3 else set()
    assert actual.failed <= expected.failed | known, actual.output[-8000:]
    surplus = actual.skipped - expected.skipped
    assert not surplus, f"skipped only on the mount: {surplus}"
