"""What the daemon tells its starters."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs_daemon.notify import ServiceManager, Starter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manager_socket(tmp_path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.settimeout(5)
    return receiver


def test_a_service_manager_hears_every_message(
    tmp_path: Path, manager_socket: socket.socket
) -> None:
    with manager_socket:
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).notify("READY=1", "STATUS=a\nb")
        assert manager_socket.recv(100) == b"READY=1\nSTATUS=a\\nb"


def test_an_abstract_address_is_understood() -> None:
    name = f"memfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5)
        ServiceManager({"NOTIFY_SOCKET": "@" + name}).notify("STOPPING=1")
        assert receiver.recv(100) == b"STOPPING=1"


def test_without_a_manager_and_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).notify("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify("READY=1")


async def test_the_heart_beats_twice_in_a_watchdog_period(
    tmp_path: Path, manager_socket: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"}
    with manager_socket:
        with trio.move_on_after(11):
            await ServiceManager(environment).beat()
        manager_socket.setblocking(False)
        beats = 0
        while _receive_nowait(manager_socket) == b"WATCHDOG=1":
            beats += 1
    assert beats == 3


async def test_a_watchdog_of_another_process_is_not_fed() -> None:
    environment = {"WATCHDOG_USEC": "10", "WATCHDOG_PID": str(os.getpid() + 1)}
    await ServiceManager(environment).beat()


def _receive_nowait(receiver: socket.socket) -> bytes:
    try:
        return receiver.recv(100)
    except BlockingIOError:
        return b""


def test_a_starter_hears_one_line_and_no_more() -> None:
    read_fd, write_fd = os.pipe()
    starter = Starter(write_fd)
    starter.ready()
    starter.failed("too late", 9)
    with os.fdopen(read_fd, "rb") as reader:
        assert json.loads(reader.read()) == {"ready": True}


def test_a_starter_hears_of_progress_before_the_line_that_counts() -> None:
    read_fd, write_fd = os.pipe()
    starter = Starter(write_fd)
    starter.tell("half of it")
    starter.ready()
    starter.tell("too late")
    with os.fdopen(read_fd, "rb") as reader:
        lines = [json.loads(line) for line in reader]
    assert lines == [{"progress": "half of it"}, {"ready": True}]


def test_a_starter_that_reads_nothing_is_not_waited_for() -> None:
    """`memfs mount` was stopped at its terminal; once it goes on it hears how it ended."""
    read_fd, write_fd = os.pipe()
    starter = Starter(write_fd)
    for number in range(2000):
        starter.tell(f"{number} of 2000 rows" + 100 * ".")
    starter.ready()
    with os.fdopen(read_fd, "rb") as reader:
        lines = [json.loads(line) for line in reader]
    assert lines[-1] == {"ready": True}
    assert lines[0]["progress"].startswith("0 of")


def test_a_long_start_asks_for_more_time(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        ServiceManager({"NOTIFY_SOCKET": path}).extend_start("half of it")
        assert receiver.recv(1000) == b"STATUS=half of it\nEXTEND_TIMEOUT_USEC=60000000"


def test_a_starter_that_has_gone_does_not_disturb() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    Starter(write_fd).failed("why", 5)


def test_a_long_reason_is_still_one_whole_line() -> None:
    read_fd, write_fd = os.pipe()
    Starter(write_fd).failed("é" * 10_000, 5)
    with os.fdopen(read_fd, "rb") as reader:
        answer = json.loads(reader.read())
    assert answer["exit_code"] == 5
    assert answer["message"].startswith("ééé")
