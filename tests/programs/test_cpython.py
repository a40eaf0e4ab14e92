"""CPython's own tests of files, with their temporary directory on the mount."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow]

MODULES = [
    "test_fileio",
    "test_glob",
    "test_mmap",
    "test_os",
    "test_pathlib",
    "test_posix",
    "test_shelve",
    "test_shutil",
    "test_sqlite3",
    "test_tarfile",
    "test_tempfile",
]

_FAILURE = re.compile(r"^(?:FAIL|ERROR): (.+)$", re.MULTILINE)
_SKIP = re.compile(r"^(test\w+) \((\S+)\).* \.\.\. skipped (.+)$", re.MULTILINE)


def _run(module: str, directory: Path) -> tuple[set[str], set[str], str]:
    """Failed and skipped tests of one module, and all that it printed."""
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "test", "-v", "--tempdir", directory, module],
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
    failed = set(_FAILURE.findall(done.stdout))
    skipped = {f"{name} ({where})" for name, where, _ in _SKIP.findall(done.stdout)}
    return failed, skipped, done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_cpython_passes_what_it_passes_on_a_local_directory(
    place: Path, reference: Path, module: str
) -> None:
    """Failures that the machine causes, and not the file system, show up on both sides."""
    # Tests that bind a socket skip themselves where the path is too long: be as long on both sides.
    surplus = len(str(place)) - len(str(reference))
    expected_failures, expected_skips, _ = _run(module, reference / ("tests" + "-" * surplus))
    failures, skips, output = _run(module, place / "tests")
    assert failures <= expected_failures, output[-8000:]
    assert skips <= expected_skips, f"skipped only on the mount: {skips - expected_skips}"
