"""Who has a state directory in use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs.exit_codes import ExitCode
from memfs_daemon.state_lock import LOCK_NAME, Holder, StateLock, find_holder
from tests.processes import holding

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
