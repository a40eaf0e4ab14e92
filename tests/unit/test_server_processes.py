"""Servers of tests: their ports are their own, and they end with the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.processes import in_child
from tests.servers import process
from tests.servers.azurite import find_azurite
from tests.servers.postgresql import BINARIES_VARIABLE, find_postgresql
from tests.servers.process import NotReadyError, free_ports, running_server
from tests.servers.slow_proxy import running_slow_proxy
from tests.waiting import join, wait_for


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


def test_a_slow_proxy_changes_nothing_but_the_time() -> None:
    """In order, all of it, and the end of a connection as well."""
    data = bytes(range(256)) * 4096
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            with listener.accept()[0] as served:
                while said := served.recv(1 << 16):
                    served.sendall(said)

        thread = threading.Thread(target=echo)
        thread.start()
        with (
            running_slow_proxy(listener.getsockname()[1], 0.1) as port,
            socket.create_connection(("127.0.0.1", port)) as near,
        ):
            begin_s = time.monotonic()
            near.sendall(b"x")
            assert near.recv(1) == b"x"
            assert time.monotonic() - begin_s >= 0.1
            sender = threading.Thread(target=near.sendall, args=(data,))
            sender.start()
            heard = b""
            while len(heard) < len(data):
                heard += near.recv(1 << 16)
            join(sender)
            near.shutdown(socket.SHUT_WR)
            assert near.recv(1) == b""
        join(thread)
    assert heard == data


def test_a_killed_test_run_leaves_no_database_server() -> None:
    """Its shared memory would stay, and of a session that lies stopped its process."""
    code = (
        "import os, sys\n"
        "from tests.servers.postgresql import running_postgresql\n"
        "with running_postgresql() as server:\n"
        "    print(server.directory, *server.pids(), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as run:
        assert run.stdout is not None
        directory, *words = run.stdout.readline().decode().split()
        pids = [int(word) for word in words]
        assert len(pids) > 1
        segments = _segments()
        run.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), f"{pids} are there")
    assert pids[0] in segments.values()
    wait_for(lambda: pids[0] not in _segments().values(), "its shared memory is there")
    process._remove_leftovers()
    assert not Path(directory).exists()


def _segments() -> dict[int, int]:
    """Return who made each segment of shared memory, by its number (proc_sysvipc(5))."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(line.split()[1]): int(line.split()[4]) for line in lines}


def test_the_programs_of_postgresql_are_those_that_a_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BINARIES_VARIABLE, str(tmp_path))
    with pytest.raises(RuntimeError, match=f"{BINARIES_VARIABLE}={tmp_path}: no program initdb"):
        find_postgresql()
    (tmp_path / "initdb").touch()
    assert find_postgresql() == tmp_path.resolve()
