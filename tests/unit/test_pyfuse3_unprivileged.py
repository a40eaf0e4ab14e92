"""The pyfuse3 driver as an ordinary user, through fusermount3.

/dev/fuse is open to all on common distributions, but not in every container: the test runs in a
mount namespace of its own, where a device node of mode 0666 covers it; nothing of it stays.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs_daemon.pyfuse3.probe import probe
from tests.namespaces import need_namespaces
from tests.unprivileged import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests import scratch

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(probe() is not None, reason=str(probe())),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user"),
    pytest.mark.skipif(shutil.which("fusermount3") is None, reason="needs fusermount3"),
]

AS_USER = """
import os, sys
from pathlib import Path
from memfs.linux import mounts
from memfs.linux.privileges import effective_capabilities
from memfs_daemon.pyfuse3.probe import probe
from memfs.types import ROOT_INODE
from tests.unit.fakes.pyfuse3_mount import Pyfuse3Mount

assert os.getuid() == 65534 and effective_capabilities() == 0
assert probe() is None, probe()
mounted = Pyfuse3Mount(Path(sys.argv[1]))
mounted.filesystem.inodes[ROOT_INODE].uid = os.getuid()
with mounted as mount:
    (mount.root / "file").write_bytes(b"content")
    os.setxattr(mount.root / "file", "user.a", b"b")
    assert (mount.root / "file").read_bytes() == b"content"
    assert os.stat(mount.root / "file").st_uid == 65534
    found = mounts.find_mount(mount.root)
    assert {"nosuid", "nodev", "user_id=65534"} <= found.options, found
    print("allow_other" in found.options, mount.driver.limits[0])
assert mounts.find_mount(mount.root) is None
print("unmounted")
"""


@pytest.fixture
def directory(scratch_area: scratch.Scratch) -> Path:
    """Not below pytest's own directory: each test run beside this one shuts that for others."""
    need_namespaces()
    return scratch_area.directory("unprivileged")


def test_an_ordinary_user_mounts_uses_and_unmounts(directory: Path) -> None:
    done = run(directory, AS_USER)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    if first.startswith("False"):
        assert "user_allow_other" in first
    assert last == "unmounted"


def test_a_mountpoint_of_another_user_is_refused_in_one_sentence(directory: Path) -> None:
    code = """
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from memfs.config import MountConfig
from memfs.errors import UsageError
from memfs_daemon.pyfuse3.driver import Pyfuse3Driver
from tests.unit.fakes.file_system import FakeFilesystem
try:
    Pyfuse3Driver(FakeFilesystem(Path(sys.argv[1])), Path("/etc"), MountConfig(), "s").mount()
except UsageError as error:
    print(error)
"""
    done = run(directory, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cannot mount at /etc: fusermount3: ")
    assert len(done.stdout.splitlines()) == 1
