"""The control socket: who is served, what is answered, and that nothing hangs or grows."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import resource
import socket
import stat
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, get_origin, get_type_hints

import pytest
import trio

from memfs.control import client, methods
from memfs.control.address import socket_address
from memfs.control.client import ControlError, ControlUnavailableError
from memfs.control.methods.method import Method, Nothing
from memfs.control.methods.table import METHODS
from memfs.control.protocol import (
    REQUEST_BYTES_MAX,
    SOCKET_NAME,
    ErrorCode,
    JsonValue,
    format_request,
)
from memfs.control.server import (
    CONNECTION_COUNT_MAX,
    IDLE_S_MAX,
    IDLE_S_MIN,
    ControlServer,
    Handler,
)
from memfs.errors import InvalidValueError
from memfs.jobs.comparing import Comparing
from memfs.jobs.gc import GcMethods
from memfs.jobs.prefetch import PrefetchMethods
from memfs.jobs.scrubber import Scrubber
from memfs.jobs.snapshots import SnapshotMethods
from memfs.jobs.trees import TreeMethods
from memfs_daemon.activity import ActivityMethods
from memfs_daemon.hot.methods import HotMethods
from memfs_daemon.policy import PolicyMethods
from memfs_daemon.remounting import RemountMethods
from memfs_daemon.status import Status
from memfs_daemon.tracing import Tracing
from tests.processes import ALICE, ROOT, run_as
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path


class EchoParameters(TypedDict):
    """What to repeat, and how often."""

    text: str
    times: NotRequired[int]


KNOWN: dict[str, Method[Any, Any]] = {
    "echo": Method("echo", EchoParameters, list[str]),
    **{name: Method(name, Nothing, type(None)) for name in ("refuse", "break", "wait")},
}


class Provider(Protocol):
    """Has handlers."""

    def methods(self) -> Mapping[str, Handler]:
        """By name."""


async def _echo(text: str, times: int = 1) -> JsonValue:
    return [text] * times


async def _refuse() -> JsonValue:
    raise InvalidValueError("no such tier: hot")


async def _break() -> JsonValue:
    raise ZeroDivisionError("a defect")


@asynccontextmanager
async def _serving(state_dir: Path) -> AsyncIterator[None]:
    handlers: dict[str, Handler] = {"echo": _echo, "refuse": _refuse, "break": _break}
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(state_dir, handlers, KNOWN).serve)
        yield
        nursery.cancel_scope.cancel()


async def _call(state_dir: Path, method: str, **params: JsonValue) -> JsonValue:
    return await trio.to_thread.run_sync(lambda: client.call(state_dir, method, params))


async def _exchange(state_dir: Path, data: bytes, reply_count: int = 1) -> list[JsonValue]:
    """Send bytes, and return the replies up to `reply_count` or the end."""
    with socket_address(state_dir) as address:
        stream = await trio.open_unix_socket(address)
    async with stream:
        await stream.send_all(data)
        received = b""
        while received.count(b"\n") < reply_count:
            more = await stream.receive_some()
            if not more:
                break
            received += more
    return [json.loads(line) for line in received.splitlines()]


def _code(reply: JsonValue) -> JsonValue:
    assert isinstance(reply, dict)
    error = reply["error"]
    assert isinstance(error, dict)
    return error["code"]


async def test_a_call_returns_what_the_method_returned(tmp_path: Path) -> None:
    async with _serving(tmp_path):
        assert await _call(tmp_path, "echo", text="a\udcffb", times=2) == ["a\udcffb"] * 2


async def test_a_deep_state_directory_has_a_control_socket_too(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["directory" * 5] * 5)
    deep.mkdir(parents=True)
    assert len(os.fsencode(deep / SOCKET_NAME)) > 108
    async with _serving(deep):
        assert await _call(deep, "echo", text="x") == ["x"]


async def test_the_socket_is_for_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async with _serving(tmp_path):
        mode = (tmp_path / SOCKET_NAME).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, socket_address(tmp_path) as address:
        dead.bind(address)
    async with _serving(tmp_path):
        assert await _call(tmp_path, "echo", text="x") == ["x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_turned_away_even_where_the_mode_lets_him_in(tmp_path: Path) -> None:
    async with _serving(tmp_path):
        _open_to_all(tmp_path)
        with socket_address(tmp_path) as address:
            for user, expected in [(ROOT, 1), (ALICE, 0)]:
                ask = partial(run_as, user, partial(_count_replies, address))
                assert await trio.to_thread.run_sync(ask) == expected


def _open_to_all(state_dir: Path) -> None:
    state_dir.chmod(0o755)
    (state_dir / SOCKET_NAME).chmod(0o666)


def _count_replies(address: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(ConnectionError):
        connection.connect(address)
        connection.sendall(format_request(1, "echo", {"text": "x"}))
        return connection.recv(1 << 16).count(b"\n")
    return 0


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"no json", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b"[]", -32600),
        (b'{"id": 1, "method": "echo"}', -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "echo"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "none"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": ["x"]}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"word": "x"}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "refuse"}', -32000),
    ],
)
async def test_a_wrong_request_gets_the_error_of_the_specification(
    tmp_path: Path, line: bytes, code: int
) -> None:
    async with _serving(tmp_path):
        (reply,) = await _exchange(tmp_path, line + b"\n")
        assert _code(reply) == code
        assert await _call(tmp_path, "echo", text="still there") == ["still there"]


async def test_a_defect_is_logged_and_does_not_end_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _serving(tmp_path):
        with pytest.raises(ControlError, match="break failed; the daemon's log says why"):
            await _call(tmp_path, "break")
        assert "a defect" in caplog.text
        assert await _call(tmp_path, "echo", text="x") == ["x"]


async def test_a_deliberate_error_reaches_the_user_word_by_word(tmp_path: Path) -> None:
    async with _serving(tmp_path):
        with pytest.raises(ControlError, match=r"^no such tier: hot$") as refused:
            await _call(tmp_path, "refuse")
    assert (refused.value.code, refused.value.errno) == (ErrorCode.REFUSED, errno.EINVAL)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "echo: the field 'text' is missing"),
        ({"text": "x", "word": 1}, "echo: there is no field 'word'"),
        ({"text": 7}, "echo: text: a text is wanted, not 7"),
        ({"text": "x", "times": True}, "echo: times: a whole number is wanted, not True"),
    ],
)
async def test_a_wrong_parameter_is_named(
    tmp_path: Path, params: dict[str, JsonValue], message: str
) -> None:
    """By its field, and the method is not entered."""
    async with _serving(tmp_path):
        with pytest.raises(ControlError) as refused:
            await _call(tmp_path, "echo", **params)
    assert str(refused.value) == message
    assert (refused.value.code, refused.value.errno) == (ErrorCode.INVALID_PARAMS, errno.EINVAL)


@pytest.mark.parametrize(
    "provider",
    [
        *(
            ActivityMethods,
            Comparing,
            GcMethods,
            HotMethods,
            PolicyMethods,
            PrefetchMethods,
            RemountMethods,
            Scrubber,
        ),
        *(SnapshotMethods, Status, Tracing, TreeMethods),
    ],
)
def test_handlers_take_what_their_methods_say(provider: type[Provider]) -> None:
    """By the same names, and with a default where the value may be left out."""
    handlers = object.__new__(provider).methods()
    for name, handler in handlers.items():
        taken = inspect.signature(handler).parameters.values()
        hints = get_type_hints(METHODS[name].parameters, include_extras=True)
        optional = {each for each, hint in hints.items() if get_origin(hint) is NotRequired}
        assert {each.name for each in taken} == set(hints), name
        assert {each.name for each in taken if each.default is not each.empty} == optional, name


async def test_a_request_without_end_is_cut_off(tmp_path: Path) -> None:
    async with _serving(tmp_path):
        (reply,) = await _exchange(tmp_path, b"x" * (REQUEST_BYTES_MAX + 1))
        assert _code(reply) == -32600


async def test_requests_are_answered_in_order_and_notifications_not_at_all(tmp_path: Path) -> None:
    named: list[tuple[str, dict[str, object]]]
    named = [("a", {"id": 1}), ("b", {}), ("c", {"id": "three"})]
    lines = b"".join(
        json.dumps({"jsonrpc": "2.0", "method": "echo", "params": {"text": name}} | extra).encode()
        + b"\n"
        for name, extra in named
    )
    async with _serving(tmp_path):
        replies = await _exchange(tmp_path, lines, reply_count=2)
    assert replies == [
        {"jsonrpc": "2.0", "id": 1, "result": ["a"]},
        {"jsonrpc": "2.0", "id": "three", "result": ["c"]},
    ]


async def test_a_silent_client_is_let_go(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with _serving(tmp_path):
        assert await _exchange(tmp_path, b'{"half') == []


async def _connect(state_dir: Path, text: str) -> trio.SocketStream:
    """Return a connection that has had one answer, and says nothing since."""
    with socket_address(state_dir) as address:
        stream = await trio.open_unix_socket(address)
    await stream.send_all(format_request(1, "echo", {"text": text}))
    assert json.loads(await stream.receive_some())["result"] == [text]
    return stream


async def test_idle_clients_make_room_for_one_that_asks(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """As many as are served at once sit there: the one that has been idle longest goes."""
    async with _serving(tmp_path), contextlib.AsyncExitStack() as stack:
        idle = []
        for number in range(CONNECTION_COUNT_MAX):
            idle.append(await stack.enter_async_context(await _connect(tmp_path, f"{number}")))
            await trio.sleep(0.1)
        begin_s = trio.current_time()
        for number in (0, 1):
            await stack.enter_async_context(await _connect(tmp_path, "late"))
            assert await idle[number].receive_some() == b""
        assert trio.current_time() - begin_s <= IDLE_S_MIN + 0.1
        await idle[2].send_all(format_request(1, "echo", {"text": "still there"}))
        assert b"still there" in await idle[2].receive_some()


async def test_clients_that_send_a_request_piece_by_piece_make_room_as_well(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A byte now and then is no request: who sends them is as idle as who sends nothing."""
    async with (
        _serving(tmp_path),
        contextlib.AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):

        async def dribble(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b" ")
                    await trio.sleep(IDLE_S_MIN / 2)

        for number in range(CONNECTION_COUNT_MAX):
            stream = await stack.enter_async_context(await _connect(tmp_path, f"{number}"))
            nursery.start_soon(dribble, stream)
        with trio.fail_after(IDLE_S_MAX / 2):
            await stack.enter_async_context(await _connect(tmp_path, "late"))
        nursery.cancel_scope.cancel()


async def test_a_request_that_never_ends_is_let_go(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with _serving(tmp_path), await _connect(tmp_path, "slow") as stream:

        async def dribble() -> None:
            while True:
                await stream.send_all(b" ")
                await trio.sleep(IDLE_S_MIN)

        with trio.fail_after(2 * IDLE_S_MAX), pytest.raises(trio.BrokenResourceError):
            await dribble()


async def test_a_client_that_is_being_served_is_never_ended_for_another(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    release = trio.Event()

    async def wait() -> JsonValue:
        await release.wait()
        return "done"

    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        await nursery.start(ControlServer(tmp_path, {"echo": _echo, "wait": wait}, KNOWN).serve)
        busy = []
        with socket_address(tmp_path) as address:
            for _ in range(CONNECTION_COUNT_MAX):
                stream = await stack.enter_async_context(await trio.open_unix_socket(address))
                await stream.send_all(format_request(1, "wait", {}))
                busy.append(stream)
            late = await stack.enter_async_context(await trio.open_unix_socket(address))
        await late.send_all(format_request(1, "echo", {"text": "late"}))
        with trio.move_on_after(IDLE_S_MAX / 2) as waited:
            await late.receive_some()
        assert waited.cancelled_caught
        release.set()
        for stream in busy:
            assert b"done" in await stream.receive_some()
        assert b"late" in await late.receive_some()
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def _without_descriptors() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [lowest]
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_the_server_waits_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """accept(2) fails with EMFILE while the daemon has as many files open as it may."""
    async with _serving(tmp_path):
        with socket.socket(socket.AF_UNIX) as client_socket, socket_address(tmp_path) as address:
            client_socket.setblocking(False)
            with _without_descriptors():
                client_socket.connect(address)
                with trio.fail_after(WAIT_S):
                    while "a client has to wait" not in caplog.text:
                        await trio.testing.wait_all_tasks_blocked(0.01)
            assert caplog.text.count("a client has to wait") == 1
            client_socket.send(format_request(1, "echo", {"text": "x"}))
            with trio.fail_after(WAIT_S):
                await trio.lowlevel.wait_readable(client_socket)
            assert json.loads(client_socket.recv(1 << 16))["result"] == ["x"]


async def test_a_shortage_ends_idle_connections_first(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Their descriptors are those that the one who asks needs."""
    async with _serving(tmp_path), await _connect(tmp_path, "idle") as idle:
        await trio.sleep(IDLE_S_MIN)
        with socket.socket(socket.AF_UNIX) as client_socket, socket_address(tmp_path) as address:
            client_socket.setblocking(False)
            with _without_descriptors():
                client_socket.connect(address)
                client_socket.send(format_request(1, "echo", {"text": "x"}))
                assert await idle.receive_some() == b""
                with trio.fail_after(WAIT_S):
                    await trio.lowlevel.wait_readable(client_socket)
                assert json.loads(client_socket.recv(1 << 16))["result"] == ["x"]


def test_without_a_daemon_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlUnavailableError, match=f"no daemon answers for {tmp_path}"):
        client.call(tmp_path, "ping")
    with pytest.raises(ControlUnavailableError, match="No such file"):
        client.call(tmp_path / "none", "ping")


def test_a_daemon_that_hangs_does_not_hang_the_client(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket_address(tmp_path) as address:
        listener.bind(address)
        listener.listen()
        with pytest.raises(ControlUnavailableError, match=r"did not answer within 0\.05 s"):
            client.call(tmp_path, "ping", timeout_s=0.05)


def test_no_two_methods_have_one_name() -> None:
    """The later one would answer for both, and refuse the parameters of the other."""
    names = [each.name for each in vars(methods).values() if isinstance(each, Method)]
    assert sorted(names) == sorted(set(names))
