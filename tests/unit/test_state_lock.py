"""Who has a state directory in use."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs_daemon.state_lock import LOCK_NAME, Holder, Phase, StateLock, find_holder
from tests.processes import holding
from tests.waiting import join

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    with (
        StateLock(tmp_path, mountpoint),
        pytest.raises(UsageError, match=f"process {os.getpid()}, which serves {mountpoint}") as e,
    ):
        StateLock(tmp_path, None)
    assert e.value.exit_code == ExitCode.STATE_IN_USE


def test_another_process_finds_the_holder_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    with holding(lambda: (StateLock(tmp_path, tmp_path / "mnt"), os.getpid())[1]) as pid:
        assert find_holder(tmp_path) == Holder(pid, str(tmp_path / "mnt"))
        with pytest.raises(UsageError, match=f"process {pid}"):
            StateLock(tmp_path, None)
    assert find_holder(tmp_path) is None
    StateLock(tmp_path, None).release()


def test_a_released_lock_has_no_holder(tmp_path: Path) -> None:
    assert find_holder(tmp_path) is None
    with StateLock(tmp_path, None):
        assert find_holder(tmp_path) == Holder(os.getpid(), None)
    assert find_holder(tmp_path) is None


def test_a_holder_without_a_name_yet_is_still_a_holder(tmp_path: Path) -> None:
    with StateLock(tmp_path, None):
        os.truncate(tmp_path / LOCK_NAME, 0)
        assert find_holder(tmp_path) == Holder(0, None)
        with pytest.raises(UsageError, match="in use by another process"):
            StateLock(tmp_path, None)


def _serve_then(state_dir: Path, phase: Phase) -> int:
    """Take the lock, and hold it until the process ends."""
    StateLock(state_dir, state_dir / "mnt").note(phase)
    return os.getpid()


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.SERVING])
def test_a_holder_that_is_about_to_end_is_waited_for(tmp_path: Path, phase: Phase) -> None:
    """It closes, or its mount was taken from the tree a moment ago."""
    taken = threading.Event()
    with holding(lambda: _serve_then(tmp_path, phase)):

        def take() -> None:
            StateLock(tmp_path, tmp_path / "mnt").release()
            taken.set()

        waiter = threading.Thread(target=take)
        waiter.start()
        assert not taken.is_set()
    join(waiter)
    assert taken.is_set()


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.SERVING])
def test_patience_with_a_holder_ends(tmp_path: Path, phase: Phase) -> None:
    with holding(lambda: _serve_then(tmp_path, phase)) as pid:
        with pytest.raises(UsageError, match=f"in use by process {pid}") as refusal:
            StateLock(tmp_path, None, closing_s_max=0.1, unmounted_s_max=0.1)
        assert refusal.value.exit_code == ExitCode.STATE_IN_USE


def test_a_lock_always_reads_as_one_of_its_phases(tmp_path: Path) -> None:
    """For those who look at it meanwhile: a text is written over the former one."""
    with StateLock(tmp_path, tmp_path / "mnt") as lock:
        for phase in (Phase.SERVING, Phase.CLOSING, Phase.STARTING):
            lock.note(phase)
            assert find_holder(tmp_path) == Holder(os.getpid(), str(tmp_path / "mnt"), phase)
