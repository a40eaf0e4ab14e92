"""Hostile packets against a real hot server: it serves an honest program after each of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import string
from typing import TYPE_CHECKING, Any

import pytest

from memfs.errors import MemfsError
from memfs.hot.protocol import PACKET_BYTES_MAX, ancillary, receive, send
from tests.tiers.tensors import safetensors_of
from tests.unit.fakes.hot_process import HotProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

SEEDS = range(4)
PACKETS_A_SEED = 60
CALLS = ("attach", "release", "stats", "snapshot", "attach_snapshot", "drop_snapshot")
FIELDS = ("id", "op", "token", "dtype", "layout", "demand", "device", "timeout_s", "name", "label")
LONG = PACKET_BYTES_MAX - 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HotProcess]:
    with HotProcess(tmp_path_factory.mktemp("hot")) as process:
        yield process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "honest.safetensors"
    path.write_bytes(safetensors_of(20_000))
    return path


class Hostile:
    """A program's connection, without the client's manners."""

    def __init__(self, server: HotProcess) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(20)
        self.connection.connect(f"\0{server.address()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, message: dict[str, object]) -> dict[str, object] | None:
        """Return the answer to a message; None: the connection was ended instead."""
        try:
            send(self.connection, message)
            packet = receive(self.connection)
        except (MemfsError, OSError):
            self.connection.close()
            return None
        packet.close()
        return packet.message


def check_honest(server: HotProcess, path: Path) -> None:
    """An honest program has its file loaded anew, its numbers told, and the server is the first."""
    server.call("evict", ino=path.stat().st_ino)
    client = server.connect()
    try:
        attached = client.attach(server.token(path), demand=True, timeout_s=20)
        os.close(attached.slab_fd)
        assert client.stats()["devices"]
    finally:
        client.close()
    assert server.call("stats")["devices"]
    assert server.start_count == 1


@pytest.mark.parametrize("device", ["\\" * 40_000, "\u2028" * 20_000, "\ud800", "CPU-7", "", 7, {}])
def test_a_demand_for_a_device_that_is_none_starves_nobody(
    server: HotProcess, path: Path, device: object
) -> None:
    """It is refused, and who asks for the same file afterwards gets it."""
    token = server.token(path)
    server.call("evict", ino=path.stat().st_ino)
    message = {"op": "attach", "token": token, "demand": True, "device": device, "timeout_s": 5}
    with Hostile(server) as hostile:
        answer = hostile.ask(message)
        assert answer is None or "error" in answer
        check_honest(server, path)


def test_names_of_snapshots_leave_room_for_the_others(server: HotProcess, path: Path) -> None:
    """Long ones are refused; as many as one user may have do not make a report too long."""
    check_honest(server, path)
    names = [f"{number:04}" + "\u2028" * 80 for number in range(1100)]
    with Hostile(server) as hostile, contextlib.closing(server.connect()) as client:
        os.close(client.attach(server.token(path), demand=True).slab_fd)
        for name in ("a" * 100_000, "b" * 100_000, "\x1b" * 255):
            tokens = {"it": server.token(path)}
            answer = hostile.ask({"op": "snapshot", "name": name, "tokens": tokens})
            assert answer is not None
            assert answer["error"] == "protocol"
            assert client.stats()["devices"]
        for name in names:
            tokens = {"it": server.token(path)}
            assert hostile.ask({"op": "snapshot", "name": name, "tokens": tokens})
        assert client.stats()["devices"]
        assert server.call("stats")["devices"]
        for name in names:
            assert hostile.ask({"op": "drop_snapshot", "name": name})
    check_honest(server, path)


def test_a_demand_that_was_given_up_is_asked_for_again(server: HotProcess, tmp_path: Path) -> None:
    """A file that could not be told of to the daemon, or whose asker has left, is not forgotten."""
    path = tmp_path / "late.safetensors"
    path.write_bytes(safetensors_of(20_000))
    message = {"op": "attach", "token": server.token(path), "demand": True, "timeout_s": 0}
    with Hostile(server) as hostile:
        answer = hostile.ask(message)
        assert answer is not None
        assert answer["error"] == "late"
    check_honest(server, path)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_honest_program_is_served_after_each_hostile_packet(
    server: HotProcess, path: Path, seed: int
) -> None:
    """Whatever a packet holds, it costs its sender the connection at most."""
    generator = random.Random(seed)
    for number in range(PACKETS_A_SEED):
        data, fd_count = hostile_packet(generator, server, path)
        with Hostile(server) as hostile, contextlib.suppress(MemfsError, OSError):
            with open(os.devnull) as file:
                hostile.connection.sendmsg([data], ancillary([file.fileno()] * fd_count))
            if number % 3:
                receive(hostile.connection).close()
        try:
            check_honest(server, path)
        except (MemfsError, AssertionError) as error:
            raise AssertionError(f"packet {number} of seed {seed}: {data[:300]!r}") from error


def hostile_packet(generator: random.Random, server: HotProcess, path: Path) -> tuple[bytes, int]:
    """A packet, and how many descriptors ride with it."""
    if generator.random() < 0.15:
        return generator.randbytes(generator.choice([1, 100, PACKET_BYTES_MAX])), 3
    message: dict[str, Any] = {
        "id": 1,
        "op": generator.choice(CALLS),
        "token": server.token(path),
        "name": "snapshot",
        "label": "it",
        "tokens": {"it": server.token(path)},
        "demand": generator.random() < 0.8,
        "timeout_s": 0.01,
        "lease": 1,
    }
    for _ in range(generator.randint(1, 3)):
        field = generator.choice([*FIELDS, "tokens", "lease"])
        message[field] = hostile_value(generator)
    if not isinstance(message["timeout_s"], float):
        message["demand"] = False
    data = json.dumps(message).encode()[:PACKET_BYTES_MAX]
    return data, generator.choice([0, 0, 1, 2, 9])


def hostile_value(generator: random.Random) -> object:
    """A value of JSON that no field is meant to have."""
    character = generator.choice(["\\", '"', "\x00", "\x1b", "\ud800", "\U0001f600", "a", "\u2028"])
    kinds: list[object] = [
        None,
        True,
        -1,
        1 << 53,
        10**4000,
        float("nan"),
        float("inf"),
        -0.0,
        [],
        {},
        [[[[]]]],
        character,
        character * 300,
        character * 40_000,
        character * (LONG // len(json.dumps(character))),
        {character * 1000: character},
        {str(number): character for number in range(2000)},
        "".join(generator.choices(string.printable, k=50)),
    ]
    return generator.choice(kinds)
