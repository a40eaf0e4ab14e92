"""The ends of a daemon that no unmounting began: signals, and the death of the process."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.lifecycle.daemons import (
    END_S,
    digest_tree,
    foreground,
    kill,
    memfs,
    refused,
    write_tree,
)
from tests.processes import holding

if TYPE_CHECKING:
    from tests.mounting import Mount

pytestmark = pytest.mark.mount


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_signal_unmounts_and_the_daemon_ends_with_0(mount: Mount, number: signal.Signals) -> None:
    with foreground(mount) as daemon:
        write_tree(mount.root)
        written = digest_tree(mount.root)
        daemon.send_signal(number)
        assert daemon.wait(END_S) == 0
    assert not mount.is_mounted()
    assert f"unmounting on {number.name}" in mount.log.read_text()
    mount.fsck()
    mount.start()
    assert digest_tree(mount.root) == written


@pytest.mark.expects_log("WARNING .* used by .*; detached")
def test_a_signal_detaches_a_mount_in_use_and_loses_nothing(mount: Mount) -> None:
    """A program that stays inside is named, and cannot keep the daemon from its end."""

    def stay() -> int:
        os.chdir(mount.root)
        file = os.open("kept-open", os.O_CREAT | os.O_RDWR)
        os.write(file, b"written and not closed")
        return os.getpid()

    with foreground(mount) as daemon:
        write_tree(mount.root)
        with holding(stay) as pid:
            written = digest_tree(mount.root)
            assert "kept-open" in written
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(END_S) == 0
            assert not mount.is_mounted()
            lines = mount.log.read_text().splitlines()
            (detached,) = [line for line in lines if line.endswith("; detached")]
            assert f"({pid})" in detached
            mount.fsck()
    mount.start()
    assert digest_tree(mount.root) == written


def test_after_the_daemon_was_killed_commands_say_so_and_umount_cleans_up(mount: Mount) -> None:
    mount.start()
    write_tree(mount.root)
    written = digest_tree(mount.root)
    kill(mount)
    with pytest.raises(OSError, match=r"not connected") as caught:
        os.stat(mount.root / "never-asked-for")
    assert caught.value.errno == errno.ENOTCONN
    code, line = refused("status", mount.root)
    assert code == ExitCode.NO_ANSWER
    assert "no daemon answers" in line
    done = memfs("umount", mount.root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not mount.is_mounted()
    mount.fsck()
    mount.start()
    assert digest_tree(mount.root) == written


def test_mounting_over_a_dead_mount_takes_its_place(mount: Mount) -> None:
    mount.start()
    write_tree(mount.root)
    written = digest_tree(mount.root)
    kill(mount)
    assert mount.is_mounted()
    done = memfs("mount", "--driver", mount.driver, "--state", mount.state, mount.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert digest_tree(mount.root) == written
    mount.stop()
    assert list(mount.root.iterdir()) == []
