"""Mounts that live on in other mount namespaces, as any container makes them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from memfs.linux.mounts import list_mounts
from memfs.linux.namespaces import list_residents
from tests.lifecycle.daemons import END_S, foreground, memfs, refused
from tests.namespaces import in_namespace
from tests.waiting import wait_for
from tests.warm import COMMAND_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mounting import Mount

CONNECTIONS = "/sys/fs/fuse/connections"

HOLD = "echo; exec cat > /dev/null"

USES = (
    "f = open(sys.argv[1] + '/file')",
    "f = open(sys.argv[1] + '/file'); m = mmap.mmap(f.fileno(), 0, prot=1); f.close()",
    "os.chdir(sys.argv[1] + '/directory')",
)
"""What programs do that keeps a mount alive."""

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace"),
]


@contextlib.contextmanager
def copied(mount: Mount) -> Iterator[int]:
    """Have a copy of all mounts in a namespace of its own; yields the process that is in it."""
    held = subprocess.Popen(
        in_namespace(HOLD, keep=mount.root),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert held.stdout is not None
        if held.stdout.readline() != b"\n":
            pytest.skip("mount namespaces are not allowed here")
        source = str(mount.state)
        # Other tests may have a copy for a moment.
        wait_for(
            lambda: [r.pid for r in list_residents(lambda m: m.source == source)] == [held.pid],
            lambda: list_residents(lambda m: m.source == source),
        )
        yield held.pid
    finally:
        held.communicate(timeout=END_S)


@contextlib.contextmanager
def using(mount: Mount, use: str) -> Iterator[int]:
    """Have a program use a mount; yields its process."""
    code = f"import mmap, os, sys\n{use}\nprint('ready', flush=True)\nsys.stdin.read()"
    program = subprocess.Popen(
        [sys.executable, "-c", code, mount.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        yield program.pid
    finally:
        program.communicate(timeout=END_S)


@pytest.mark.any_driver
@pytest.mark.expects_log("in other mount namespaces")
def test_umount_names_who_keeps_a_copy_and_force_ends_it_for_all(mount: Mount) -> None:
    mount.start()
    (mount.root / "file").write_bytes(b"content")
    with copied(mount) as pid:
        begin_s = time.monotonic()
        code, line = refused("umount", mount.root)
        assert code == ExitCode.BUSY
        assert f"({pid})" in line
        assert f"memfs umount --force {mount.state}" in line
        assert not mount.is_mounted()
        # The next mount says the same, and so does another attempt. Each waits for some seconds.
        code, line = refused("mount", "--driver", mount.driver, "--state", mount.state, mount.root)
        assert code == ExitCode.STATE_IN_USE
        assert f"({pid})" in line
        code, line = refused("umount", mount.root)
        assert code == ExitCode.BUSY
        assert f"({pid})" in line
        assert time.monotonic() - begin_s < END_S
        done = memfs("umount", "--force", mount.state)
        assert (done.returncode, done.stderr) == (0, "")
        assert mount.daemon_pids() == []
        mount.start()
        assert (mount.root / "file").read_bytes() == b"content"


@pytest.mark.any_driver
def test_umount_names_a_bind_mount_that_keeps_the_daemon(mount: Mount) -> None:
    """A daemon that serves it goes on, and was waited for 90 s."""
    mount.start()
    (mount.root / "file").write_bytes(b"content")
    bound = mount.base / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", mount.root, bound], check=True)
    try:
        code, line = refused("umount", mount.root)
        assert code == ExitCode.BUSY
        assert f"`umount {bound}`" in line
        assert (bound / "file").read_bytes() == b"content"
    finally:
        subprocess.run(["umount", bound], check=True)
    wait_for(lambda: not mount.daemon_pids(), "the daemon's end")
    mount.start()
    assert (mount.root / "file").read_bytes() == b"content"


@pytest.mark.any_driver
def test_a_mount_that_was_detached_in_use_names_the_programs(mount: Mount) -> None:
    """`umount -l`: the links of a program in /proc name no path below the mountpoint."""
    mount.start()
    (mount.root / "directory").mkdir()
    (mount.root / "file").write_bytes(b"content")
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(using(mount, use)) for use in USES]
        subprocess.run(["umount", "--lazy", mount.root], check=True)
        code, line = refused("mount", "--driver", mount.driver, "--state", mount.state, mount.root)
        assert code == ExitCode.STATE_IN_USE
        assert all(f"({pid})" in line for pid in pids)
        assert f"memfs umount --force {mount.state}" in line
        code, line = refused("umount", mount.state)
        assert code == ExitCode.BUSY
        assert all(f"({pid})" in line for pid in pids)
        done = memfs("umount", "--force", mount.state)
        assert (done.returncode, done.stderr) == (0, "")
        assert mount.daemon_pids() == []
    mount.start()
    assert (mount.root / "file").read_bytes() == b"content"


@pytest.fixture(params=["abort", "signal"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How --force ends a connection: by the kernel's switch, or where that is not mounted."""
    before = any(each.type == "fusectl" for each in list_mounts())
    if request.param == "signal":
        if before:
            pytest.skip("the kernel's switch is there for all")
        yield "signal"
        return
    if (
        not before
        and subprocess.run(
            ["mount", "-t", "fusectl", "none", CONNECTIONS], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no fusectl here")
    yield "abort"
    if not before:
        subprocess.run(["umount", "--lazy", CONNECTIONS], check=True)


@pytest.mark.usefixtures("way")
def test_force_ends_a_mount_that_programs_use(mount: Mount) -> None:
    mount.start()
    file = os.open(mount.root / "file", os.O_CREAT | os.O_WRONLY)
    try:
        os.write(file, b"content")
        done = memfs("umount", "--force", mount.root)
        assert (done.returncode, done.stderr) == (0, "")
        assert not mount.is_mounted()
        assert mount.daemon_pids() == []
    finally:
        # ENOTCONN where this is the first close(2) of the mount, which the kernel asks about.
        with contextlib.suppress(OSError):
            os.close(file)
    mount.start()
    assert (mount.root / "file").read_bytes() == b"content"


@pytest.mark.expects_log("in other mount namespaces")
def test_a_signal_ends_the_daemon_whatever_has_copies(mount: Mount) -> None:
    """A service manager would kill it otherwise."""
    with foreground(mount) as daemon:
        (mount.root / "file").write_bytes(b"content")
        with copied(mount):
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(END_S) == 0
    mount.start()
    assert (mount.root / "file").read_bytes() == b"content"


def test_a_mount_waits_for_the_daemon_before_it_to_close(mount: Mount) -> None:
    """umount(8) returns before the daemon has brought everything to the disk."""
    mount.start()
    for turn in range(3):
        for number in range(200):
            (mount.root / f"{turn}-{number}").write_bytes(b"%d" % number)
        subprocess.run(["umount", mount.root], check=True, timeout=COMMAND_TIMEOUT_S)
        mount.start()
    assert (mount.root / "2-7").read_bytes() == b"7"


def test_umount_takes_the_state_directory_for_its_mount(mount: Mount) -> None:
    mount.start()
    done = memfs("umount", mount.state)
    assert (done.returncode, done.stderr) == (0, "")
    assert not mount.is_mounted()
    assert mount.daemon_pids() == []
    code, _ = refused("umount", mount.state)
    assert code == ExitCode.NOT_MOUNTED
