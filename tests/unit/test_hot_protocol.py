"""Packets of the hot tier carry descriptors; one that is no message leaves no descriptor behind."""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import NotPermittedError
from memfs.hot.client import HotClient
from memfs.hot.pool import HotTierFullError
from memfs.hot.protocol import (
    PACKET_BYTES_MAX,
    HotGoneError,
    ProtocolError,
    ancillary,
    encode,
    error_reply,
    peer_uid,
    raise_error,
    receive,
    send,
)
from memfs.hot.server import listen
from memfs.hot.tensors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memfs.errors import MemfsError

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_arrives_with_its_descriptors(pair: Pair) -> None:
    """Two in a row, each with its own; they are not inherited by programs that are started."""
    with open(os.devnull) as first, open(os.devnull) as second:
        send(pair[0], {"n": 1}, [first.fileno(), second.fileno()])
        send(pair[0], {"n": 2}, [first.fileno()])
    for number, count in ((1, 2), (2, 1)):
        packet = receive(pair[1])
        assert (packet.message, len(packet.fds)) == ({"n": number}, count)
        assert not any(os.get_inheritable(fd) for fd in packet.fds)
        packet.close()


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff\xfe", b"[" * 50_000])
def test_what_is_no_message_leaves_no_descriptor(pair: Pair, data: bytes) -> None:
    """Its descriptors are closed."""
    before = open_fds()
    with open(os.devnull) as file:
        pair[0].sendmsg([data], ancillary([file.fileno()]))
    with pytest.raises(ProtocolError, match="not a message"):
        receive(pair[1])
    assert open_fds() == before


def test_too_many_descriptors_are_refused_and_closed(pair: Pair) -> None:
    """The kernel drops those beyond the buffer; the others are ours to close."""
    before = open_fds()
    with open(os.devnull) as file:
        pair[0].sendmsg([b"{}"], ancillary([file.fileno()] * 9))
    with pytest.raises(ProtocolError, match="too many descriptors"):
        receive(pair[1])
    assert open_fds() == before


def test_a_packet_that_is_too_long_is_refused_at_both_ends(pair: Pair) -> None:
    """Who sends one learns it at once."""
    with pytest.raises(ProtocolError, match="are allowed"):
        encode({"x": "y" * PACKET_BYTES_MAX})
    pair[0].send(b" " * (PACKET_BYTES_MAX + 1))
    with pytest.raises(ProtocolError, match="too long"):
        receive(pair[1])


def test_the_end_of_a_connection_is_told_from_a_message(pair: Pair) -> None:
    """Nothing more comes."""
    pair[0].close()
    with pytest.raises(HotGoneError):
        receive(pair[1])


def test_the_kernel_says_who_is_there(pair: Pair) -> None:
    """SO_PEERCRED."""
    assert peer_uid(pair[0]) == os.geteuid()


def test_a_program_may_connect_before_its_server_runs() -> None:
    """The daemon gives tickets out as soon as the address is there."""
    address = f"memfs-test-{os.getpid()}-{secrets.token_hex(6)}"
    with trio.run(listen, address):
        HotClient.connect(address, os.getuid()).close()
    with pytest.raises(HotGoneError, match="no hot server answers"):
        HotClient.connect(address, os.getuid())


@pytest.mark.parametrize(
    "error",
    [FormatError("a"), HotTierFullError("b"), NotPermittedError("c"), ProtocolError("d")],
)
def test_an_error_is_raised_as_itself_at_the_other_end(error: MemfsError) -> None:
    """With its message."""
    with pytest.raises(type(error), match=f"^{error}$"):
        raise_error(error_reply(error))
    raise_error({"id": 1})
