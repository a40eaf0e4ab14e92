"""Mounts that need a machine of their own: an ordinary user's, and one through mount(8).

Each test runs in a mount namespace of its own, where a device node of mode 0666 covers /dev/fuse
and a directory with the mount helper covers /sbin; nothing of it is seen outside, nor stays.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs_daemon.kernel.probe import probe as probe_kernel
from memfs_daemon.pyfuse3.probe import probe as probe_pyfuse3
from tests import scratch
from tests.namespaces import in_namespace, need_namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
CANNOT_RUN = 77
"""Exit status of a preparation that does not fit this machine."""

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace"),
]

AS_NOBODY = """
mount -t tmpfs -o mode=0755 none devices
mknod -m 0666 devices/fuse c 10 229
mount --bind devices/fuse /dev/fuse
install -d -o 65534 -g 65534 user user/mount
# A home of mode 0700 may hold the interpreter; over it comes the same directory of mode 0755.
home=/$(readlink -f "$3" | cut -d/ -f2)
if [ -d "$home" ] && [ $(($(stat -c 0%a "$home") & 1)) = 0 ]; then
    install -d -m 755 devices/upper devices/work
    mount -t overlay -o "lowerdir=$home,upperdir=$PWD/devices/upper,workdir=$PWD/devices/work" \
        none "$home"
fi
as_nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
$as_nobody sh -c '"$1" -c "import memfs_tools"' sh "$3" || exit 77
cd user
exec $as_nobody sh -euc "$1" sh
"""

AS_MOUNT_TYPE = """
mount -t tmpfs -o mode=0755 none devices
# mount(8) hands on a path of its own, with /usr/sbin in it.
install -m 755 "$2" programs/memfs devices
ln -s mount.memfs devices/mount.fuse.memfs
mount --bind devices /sbin
mkdir -p mount
eval "$1"
"""


@pytest.fixture
def base(scratch_area: scratch.Scratch) -> Iterator[Path]:
    need_namespaces()
    directory = scratch_area.directory("namespace")
    (directory / "devices").mkdir()
    # Daemons and mounts end with the namespace's last process, which may be a daemon left over.
    try:
        yield directory
        assert scratch.processes_naming(directory) == []
    finally:
        scratch.remove(directory)


def run(base: Path, prepare: str, script: str) -> list[str]:
    """Run a script in a new mount namespace, with `memfs` on its path; return what it printed."""
    programs = base / "programs"
    programs.mkdir()
    memfs = programs / "memfs"
    memfs.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m memfs_tools "$@"\n')
    memfs.chmod(0o755)
    helper = str(REPOSITORY / "systemd/mount.memfs")
    python = sys.executable
    done = subprocess.run(
        in_namespace(prepare, script, helper, python),
        cwd=base,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(base)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == CANNOT_RUN:
        pytest.skip(f"the other user cannot run {sys.executable}: {done.stderr}")
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


@pytest.mark.skipif(probe_pyfuse3() is not None, reason=str(probe_pyfuse3()))
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="needs fusermount3")
def test_an_ordinary_user_mounts_by_the_command_alone(base: Path) -> None:
    """No option is needed: the driver that may is taken, and the root directory is the user's."""
    script = """
    memfs mount --state "$PWD/state" "$PWD/mount"
    stat -c '%u:%g' mount
    grep -o 'user_id=65534' /proc/self/mountinfo
    memfs status --json mount | grep -o '"name": "[a-z0-9]*"' | head -1
    mkdir mount/directory
    echo content >mount/directory/file
    memfs pin cold mount/directory >/dev/null
    stat -c '%u:%g' mount/directory/file
    memfs umount mount
    ls mount
    memfs fsck state | grep -o clean
    memfs mount --state "$PWD/state" "$PWD/mount"
    cat mount/directory/file
    memfs umount mount
    stat -c '%u %a' state
    """
    assert run(base, AS_NOBODY, script) == [
        f"{NOBODY}:{NOBODY}",
        f"user_id={NOBODY}",
        '"name": "pyfuse3"',
        f"{NOBODY}:{NOBODY}",
        "clean",
        "content",
        f"{NOBODY} 700",
    ]


@pytest.mark.skipif(probe_kernel() is not None, reason=str(probe_kernel()))
def test_mount_8_mounts_type_memfs_by_the_helper(base: Path) -> None:
    script = """
    mount -t memfs -o noatime,nosuid,warm.size=64MiB,driver=kernel "$PWD/state" "$PWD/mount"
    findmnt -n -o FSTYPE,SOURCE mount | tr -s ' '
    findmnt -n -o VFS-OPTIONS mount
    echo content >mount/file
    memfs status --json mount | grep -o '"capacity_bytes": 67108864'
    memfs umount mount
    mount -t memfs -o ro "$PWD/state" "$PWD/mount"
    cat mount/file
    touch mount/file 2>&1 | grep -o 'Read-only file system'
    memfs umount mount
    mount -t memfs -o nonempty,fsname=x,subtype=y,auto_unmount,default_permissions,max_read=131072,\
strictatime,allow_root,context=system_u:object_r:x:s0 "$PWD/state" "$PWD/mount"
    mount -t memfs -o remount,ro "$PWD/state" "$PWD/mount"
    touch mount/file 2>&1 | grep -o 'Read-only file system'
    findmnt -n -o VFS-OPTIONS mount
    mount -o remount,rw,noatime mount
    findmnt -n -o VFS-OPTIONS mount
    touch -a -d 2001-01-01 mount/file
    cat mount/file
    stat -c %x mount/file | cut -c1-4
    mount -o remount,relatime,nosuid mount
    cat mount/file
    stat -c %x mount/file | cut -c1-2
    findmnt -n -o VFS-OPTIONS mount
    memfs umount "$PWD/state"
    mount -t memfs "$PWD/state" "$PWD/nowhere" 2>/dev/null || echo "refused: $?"
    """
    assert run(base, AS_MOUNT_TYPE, script) == [
        f"fuse.memfs {base}/state",
        "rw,nosuid,noatime",
        '"capacity_bytes": 67108864',
        "content",
        "Read-only file system",
        "Read-only file system",
        "ro",
        "rw,noatime",
        "content",
        "2001",
        "content",
        "20",
        "rw,nosuid,relatime",
        "refused: 1",
    ]
