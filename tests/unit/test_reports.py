"""Reports of tests reach the process that gathers them, whatever a test has logged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, os

def test_passes():
    logging.getLogger("memfs").warning("name %s", os.fsdecode(b"a\\xff"))

def test_fails():
    print(os.fsdecode(b"b\\xfe"))
    raise ValueError(os.fsdecode(b"c\\xfd"))
"""


def test_names_that_are_no_text_end_no_run(tmp_path: Path) -> None:
    """By several processes, as `tools/test.sh` runs the tests."""
    root = Path(__file__).parents[2]
    file = tmp_path / "test_names.py"
    file.write_text(SCRIPT)
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", "-n", "1", "--rootdir"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, tmp_path, file],
        cwd=root,
        capture_output=True,
        timeout=120,
        check=False,
    )
    output = done.stdout.decode()
    assert "1 failed, 1 passed" in output, output + done.stderr.decode()
    assert r"ValueError: c\udcfd" in output
