"""Tests make mount namespaces by `tests.namespaces` alone, which leaves the mounts of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.namespaces import in_namespace, need_namespaces

TESTS = Path(__file__).parents[1]


def test_no_other_module_makes_mount_namespaces() -> None:
    makers = [
        str(file.relative_to(TESTS))
        for file in sorted(TESTS.rglob("*.py"))
        if '"unshare"' in (text := file.read_text()) and '"--mount"' in text
    ]
    assert makers == ["namespaces.py", "unit/test_test_namespaces.py"]


def test_no_copy_of_a_mount_stays_in_a_namespace() -> None:
    """Beside whatever is mounted by the tests that run at the same time."""
    need_namespaces()
    listed = subprocess.run(
        in_namespace('cat /proc/self/mountinfo; echo "$1 $#"', "first"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listed.splitlines()[-1] == "first 1"
    assert "/proc" in listed
    assert "fuse.memfs" not in listed
