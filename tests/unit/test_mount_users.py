"""Unmounting: patient with the kernel, and not with programs."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from memfs.linux.mounts import Mount
from memfs.linux.namespaces import Resident, list_residents
from memfs_daemon.mount_users import describe_copies, list_copies, list_users, unmount_unused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Busy:
    """A mount that is busy the first few times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.tries = 0

    def __call__(self) -> None:
        self.tries += 1
        if self.tries <= self.times:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def test_what_an_ended_program_had_open_is_waited_for(tmp_path: Path) -> None:
    """The kernel closes it a moment later, and nobody is to be blamed."""
    unmount = Busy(3)
    unmount_unused(unmount, tmp_path, tries_max=5, pause_s=0.0)
    assert unmount.tries == 4


def test_a_program_that_uses_the_mount_is_told_of_at_once(tmp_path: Path) -> None:
    """It may stay for hours."""
    unmount = Busy(3)
    with (tmp_path / "file").open("w"):
        assert [user.pid for user in list_users(tmp_path)] == [os.getpid()]
        with pytest.raises(OSError, match="busy"):
            unmount_unused(unmount, tmp_path)
    assert unmount.tries == 1


def test_patience_ends(tmp_path: Path) -> None:
    """A user that cannot be seen: somebody else's, in another namespace."""
    unmount = Busy(10_000)
    with pytest.raises(OSError, match="busy"):
        unmount_unused(unmount, tmp_path, tries_max=5, pause_s=0.0)
    assert unmount.tries == 5


def test_patience_is_counted_in_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine, where one look through /proc takes seconds, makes nobody less patient."""
    clock = iter(range(0, 10**9, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    unmount = Busy(3)
    unmount_unused(unmount, tmp_path, tries_max=5, pause_s=0.0)
    assert unmount.tries == 4


def test_only_copies_of_this_state_are_named(tmp_path: Path) -> None:
    """Other mounts, of memfs too, are nobody's reason to keep this one."""
    state, root = str(tmp_path / "state"), tmp_path / "root"
    residents = [
        Resident(pid, f"name{pid}", Mount(root, source, kind, frozenset(), "0:40"))
        for pid, (source, kind) in enumerate(
            [(state, "fuse.memfs"), (state, "ext4"), (f"{state}2", "fuse.memfs")], 1
        )
    ]

    def listed(wanted: Callable[[Mount], bool]) -> list[Resident]:
        return [resident for resident in residents if wanted(resident.mount)]

    copies = list_copies(tmp_path / "state", residents=listed)
    assert [copy.pid for copy in copies] == [1]
    assert describe_copies(copies).endswith("those of name1 (1)")


def test_processes_of_this_namespace_have_no_copies() -> None:
    """The mount that they have is the one itself."""
    assert os.getpid() not in [resident.pid for resident in list_residents(lambda _mount: True)]
