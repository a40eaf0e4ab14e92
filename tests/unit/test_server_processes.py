"""Servers of tests: their ports are their own, and they end with the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import in_child
from tests.servers import process
from tests.servers.azurite import find_azurite
from tests.servers.process import NotReadyError, free_ports, running_server


def test_ports_are_given_once_while_a_test_process_lives() -> None:
    """The processes of a run start their servers at the same time."""
    ports = free_ports(20, port_min=12_000)
    assert len(set(ports)) == 20
    lowest_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < max(lowest_of_kernel, 13_000)
    assert in_child(lambda: [process._reserve(port) for port in ports]) == [False] * 20
    [other] = in_child(free_ports, 1, 12_000)
    assert process._reserve(other), "its process has ended"


def test_a_port_in_use_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        assert not process._reserve(used.getsockname()[1])


def test_a_server_that_has_ended_is_not_taken_for_the_one_that_answers(tmp_path: Path) -> None:
    """Another one may listen at its port."""
    ended = subprocess.Popen(["true"])
    ended.wait(60)

    def try_it() -> None:
        """It answers."""

    log = tmp_path / "log"
    log.write_text("address in use")
    with pytest.raises(RuntimeError, match=r"(?s)another server answers.*address in use"):
        process._wait_until_ready("server", try_it, ended, log)


def test_a_server_that_is_never_ready_says_what_it_has_logged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no disk'); raise SystemExit(1)"]

    def try_it() -> None:
        raise NotReadyError("refused")

    with (
        pytest.raises(RuntimeError, match=r"(?s)refused.*no disk"),
        running_server(command, tmp_path, try_it),
    ):
        pass


def test_no_server_is_started_by_a_program_that_waits_for_it() -> None:
    """The signal for the end of the tests reaches only the process that they have started."""
    command = find_azurite()
    if command is None:
        pytest.skip("Azurite is not installed")
    assert Path(command[0]).read_bytes()[:4] == b"\x7fELF" or command[0] == "node"
