"""A mount that managers have started lives as long as a process holds it, and no longer."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from memfs import MemoryManager
from memfs.manager.errors import ClosedManagerError, MountUnavailableError
from tests.lifecycle.own_mounts import is_gone, kill_daemons
from tests.processes import holding
from tests.scratch import mounts_below
from tests.waiting import join, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOON = {"mount.linger": 0.5}


def started() -> MemoryManager:
    """A manager whose mount goes soon after it."""
    return MemoryManager(options=SOON)


PROGRAM = """
import os, sys
from memfs import MemoryManager
manager = MemoryManager(options={"mount.linger": 0.5})
manager.store(sys.argv[1], os.getpid())
print("ready", flush=True)
sys.stdin.read()
"""


def program(key: str) -> subprocess.Popen[str]:
    """Start a program that holds a mount until its input ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end(child: subprocess.Popen[str], number: signal.Signals | None = None) -> None:
    if number is None:
        child.communicate(timeout=60)
    else:
        child.send_signal(number)
        child.communicate(timeout=60)


def test_it_goes_when_the_last_process_has_ended_however_that_died(own_place: Path) -> None:
    first = program("first")
    second = program("second")
    end(first, signal.SIGKILL)
    assert not wait_longer_than_it_lingers(own_place)
    third = program("third")
    end(second)
    assert not wait_longer_than_it_lingers(own_place)
    end(third, signal.SIGKILL)
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))
    with started() as manager:
        assert sorted(manager) == ["first", "second", "third"]
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))


def wait_longer_than_it_lingers(place: Path) -> bool:
    """Return whether it has gone in some seconds."""
    try:
        wait_for(lambda: is_gone(place), "gone", limit_s=2.0)
    except AssertionError:
        return False
    return True


def test_a_forked_child_holds_it_by_itself(own_place: Path) -> None:
    manager = started()
    with holding(lambda: manager.store("by the child", 1).size_bytes):
        manager.close()
        assert not wait_longer_than_it_lingers(own_place)
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))


def square(manager: MemoryManager, number: int) -> int:
    manager.store(f"square/{number}", number * number)
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_manager_goes_to_the_processes_of_a_pool(own_place: Path, method: str) -> None:
    with started() as manager:
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            pids = set(pool.map(square, [manager] * 8, range(8), timeout=120))
        assert os.getpid() not in pids
        assert {key: manager[key] for key in manager} == {
            f"square/{number}": number * number for number in range(8)
        }


def test_what_was_pickled_starts_the_mount_that_is_gone(own_place: Path) -> None:
    manager = started()
    manager.store("kept", [1, 2])
    data = pickle.dumps(manager)
    manager.close(unmount=True)
    assert is_gone(own_place)
    with pickle.loads(data) as again:
        assert again["kept"] == [1, 2]
        assert again.directory == manager.directory


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    """Rows of a stored array."""

    def __init__(self, manager: MemoryManager) -> None:
        self.manager = manager

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.manager.retrieve("rows", start=row, end=row + 1)[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_read_by_it(own_place: Path, method: str) -> None:
    array = np.arange(24.0).reshape(8, 3)
    with started() as manager:
        manager.store("rows", array)
        loader: Any = torch.utils.data.DataLoader(
            Rows(manager), batch_size=2, num_workers=2, multiprocessing_context=method, timeout=120
        )
        assert torch.equal(torch.cat(list(loader)), torch.from_numpy(array))


def test_threads_that_start_at_once_share_one_mount(own_place: Path) -> None:
    made: list[MemoryManager] = []

    def work(number: int) -> None:
        manager = started()
        made.append(manager)
        manager.store(f"k{number}", number)
        assert manager[f"k{number}"] == number

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert len({manager.directory for manager in made}) == 1
    assert len(made[0]) == 8
    for manager in made[:-1]:
        manager.close()
    assert not wait_longer_than_it_lingers(own_place)
    made[-1].close()
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))


def test_what_a_program_has_open_keeps_it(own_place: Path) -> None:
    manager = started()
    path = manager.store("k", b"content").path
    with path.open("rb") as file:
        manager.close()
        assert not wait_longer_than_it_lingers(own_place)
        assert file.read() == b"content"
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))


def test_a_manager_whose_mount_is_gone_writes_nothing_where_it_was(own_place: Path) -> None:
    manager, other = started(), started()
    manager.store("k", b"1")
    other.close(unmount=True)
    manager.directory.parent.mkdir(exist_ok=True)
    calls: list[Callable[[], object]] = [
        lambda: manager.create_snapshot("before"),
        lambda: manager.store("k", b"2"),
        lambda: manager.store("k", b"2", tier="cold"),
        lambda: manager.batch_store({"k": b"2", "n": b"3"}),
        lambda: manager.retrieve("k"),
        lambda: manager.batch_retrieve(["k"]),
        lambda: manager.exists("k"),
        lambda: manager.delete("k"),
        lambda: manager.open("k", "wb"),
        lambda: list(manager),
        lambda: manager.query(),
        lambda: manager.get_metrics(),
        lambda: manager.compress(),
        lambda: manager.prefetch(["k"]),
        lambda: manager.remove_leftovers(),
    ]
    for beneath in ([], [manager.directory.name]):
        # What is beneath the mountpoint looks as if it was the directory of all keys.
        for name in beneath:
            (manager.directory.parent / name).mkdir()
        for call in calls:
            with pytest.raises(MountUnavailableError, match="its mount is gone"):
                call()
        assert os.listdir(manager.directory.parent) == beneath
    assert list(manager.directory.iterdir()) == []
    with started() as again:
        assert again["k"] == b"1"
        assert manager["k"] == b"1"
    manager.close()


def test_a_manager_that_was_closed_says_so(own_place: Path) -> None:
    """It would work for as long as its mount lingers, and no longer."""
    manager, other = started(), started()
    with manager:
        manager.store("k", b"1")
    calls: list[Callable[[], object]] = [
        lambda: manager["k"],
        lambda: manager.store("k", b"2"),
        lambda: manager.batch_store({"k": b"2"}),
        lambda: manager.batch_retrieve(["k"]),
        lambda: manager.query(),
        lambda: manager.get_metrics(),
        lambda: list(manager),
    ]
    for call in calls:
        with pytest.raises(ClosedManagerError, match="was closed; make another one"):
            call()
    manager.close()
    with pickle.loads(pickle.dumps(other)) as again:
        assert again["k"] == b"1"
    other.close()
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))


def test_it_is_started_again_after_its_daemon_was_killed(own_place: Path) -> None:
    manager = started()
    manager.store("k", b"1", durable=True)
    kill_daemons(own_place)
    with pytest.raises(MountUnavailableError, match="daemon of its mount is dead"):
        manager.retrieve("k")
    with started() as again:
        assert again["k"] == b"1"
    manager.close()


def test_it_is_mounted_anew_for_other_wishes_unless_others_hold_it(own_place: Path) -> None:
    first = MemoryManager(warm_memory_size=0.125, options=SOON | {"policy.promote_count": 7})
    first.store("k", b"1")
    second = MemoryManager(warm_memory_size=0.25, cold_config={"compression": "lz4"})
    assert second.get_metrics()["warm"]["size_bytes"] == 1 << 28
    assert first["k"] == second["k"] == b"1"
    config = (second.mount.mountpoint / ".memfs/config.toml").read_text()  # type: ignore[union-attr]
    assert "promote_count = 7" in config, "what it had stays"
    assert 'codec = "lz4"' in config
    with first.path("k").open("rb"), pytest.raises(ValueError, match="cannot be mounted anew"):
        MemoryManager(warm_memory_size=0.5)
    child = program("child")
    with pytest.raises(ValueError, match=r"raise warm\.size .* Other programs use it"):
        MemoryManager(warm_memory_size=0.5)
    with pytest.raises(MountUnavailableError, match="other programs use it"):
        second.close(unmount=True)
    end(child)
    first.close()
    second.close()
    wait_for(lambda: is_gone(own_place), lambda: mounts_below(own_place))
