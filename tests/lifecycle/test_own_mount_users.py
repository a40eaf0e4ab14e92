"""Managers of an ordinary user, and on a machine where nothing can be mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from memfs_daemon.pyfuse3.probe import probe
from tests.namespaces import in_namespace, need_namespaces
from tests.unprivileged import REPOSITORY, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.scratch import Scratch

pytestmark = [
    pytest.mark.skipif(probe() is not None, reason=str(probe())),
    pytest.mark.skipif(shutil.which("fusermount3") is None, reason="needs fusermount3"),
]

AS_USER = """
import os, sys, time
base = sys.argv[1]
os.environ["HOME"] = base
os.environ.pop("XDG_RUNTIME_DIR", None)
os.environ.pop("XDG_DATA_HOME", None)
os.environ.pop("MEMFS_MOUNT", None)
from memfs import MemoryManager

assert os.getuid() == 65534
manager = MemoryManager(options={"mount.linger": 0.3})
manager.store("k", [1, 2], metadata={"n": 1}, tier="cold")
assert manager["k"] == [1, 2]
assert manager.query({"n": 1}).keys() == ["k"]
snapshot = manager.create_snapshot()
manager.store("k", 3)
assert manager.retrieve("k", snapshot=snapshot) == [1, 2]
print(manager.mount.status().driver.name, os.path.relpath(manager.directory, base))
mountpoint = manager.mount.mountpoint
manager.close()
while os.path.ismount(mountpoint):
    time.sleep(0.05)
print("gone")
"""


@pytest.fixture
def directory(scratch_area: Scratch) -> Path:
    """Not below pytest's own directory: each test run beside this one shuts that for others."""
    need_namespaces()
    return scratch_area.directory("unprivileged")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_an_ordinary_user_needs_nothing_else(directory: Path) -> None:
    done = run(directory, AS_USER)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("pyfuse3 .cache/memfs-default-")
    assert last == "gone"


def test_without_fuse_the_remedy_is_told(directory: Path) -> None:
    code = """
from memfs import MemoryManager
from memfs.manager.errors import MountUnavailableError
try:
    MemoryManager()
except MountUnavailableError as error:
    print(error)
plain = MemoryManager(mount="plain", plain=True)
plain.store("k", [1])
print(plain["k"])
"""
    hide = (
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && "
        'cd "$1" && exec "$2" -c "$3"'
    )
    done = subprocess.run(
        in_namespace(hide, directory, sys.executable, code),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(directory),
            "XDG_RUNTIME_DIR": str(directory),
            "XDG_DATA_HOME": str(directory / "data"),
        },
    )
    assert done.returncode == 0, done.stderr
    why, value = done.stdout.splitlines()
    assert why.startswith("no mount could be started: cannot mount: there is no /dev/fuse: load")
    assert "name a mount that is there by mount= or MEMFS_MOUNT" in why
    assert "mount=DIRECTORY, plain=True" in why
    assert value == "[1]"
