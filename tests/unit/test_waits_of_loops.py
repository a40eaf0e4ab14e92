"""Waits of the daemon's loops: an early call is not lost, and no wait lasts for ever.

What production runs, by a clock that runs ahead.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.hot.link import ANSWER_S_MAX, HotLink
from memfs.hot.protocol import HotGoneError, receive_async, send_async
from memfs.jobs.scrubber import Scrubber
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

LIMIT_S = 100_000.0
"""By the mock clock."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


async def test_a_scrub_that_has_not_begun_is_stopped(state: State) -> None:
    """Both calls may come before the scrubber's task has its turn."""
    for number in range(3):
        await state.create(f"{number}", b"bytes" * 1000)
    scrubber = Scrubber(state.parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubber.run)
        await trio.testing.wait_all_tasks_blocked()
        await scrubber.start()
        report = await scrubber.stop()
        assert (report["running"], report["file_count"]) == (False, 0)
        # The next one is a scrub like any other.
        await scrubber.start()
        await scrubber.wait()
        assert (await scrubber.progress())["file_count"] == 3
        nursery.cancel_scope.cancel()


@pytest.fixture
def ends() -> Iterator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with trio.socket.from_stdlib_socket(ours) as ours_, trio.socket.from_stdlib_socket(theirs) as t:
        yield ours_, t


async def test_a_hot_server_that_does_not_answer_is_given_up(
    ends: tuple[trio.socket.SocketType, trio.socket.SocketType], autojump_clock: MockClock
) -> None:
    """It hangs in a driver, or was stopped: who calls it, and who waits for it, went on waiting."""
    ours, _ = ends
    link, failed = HotLink(ours, lambda _event: None), list[str]()

    async def call(op: str) -> None:
        with pytest.raises(HotGoneError, match="does not answer"):
            await link.call(op)
        failed.append(op)

    async def run() -> None:
        with pytest.raises(HotGoneError, match="does not answer"):
            await link.run()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            # A load takes as long as it takes; it ends with the server that is given up.
            for op in ("load", *["stats"] * 50):
                nursery.start_soon(call, op)
    assert sorted(set(failed)) == ["load", "stats"]
    assert len(failed) == 51
    with pytest.raises(HotGoneError):
        await link.call("stats")


async def test_a_load_that_takes_long_is_no_hang(
    ends: tuple[trio.socket.SocketType, trio.socket.SocketType], autojump_clock: MockClock
) -> None:
    ours, theirs = ends
    link = HotLink(ours, lambda _event: None)

    async def serve() -> None:
        loads = []
        while True:
            message = (await receive_async(theirs)).message
            if message["op"] == "load":
                loads.append(message["id"])
            else:
                await send_async(theirs, {"id": message["id"]})
            if len(loads) == 1 and message["op"] == "stats":
                await trio.sleep(20 * ANSWER_S_MAX)
                await send_async(theirs, {"id": loads[0], "size_bytes": 7})
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        nursery.start_soon(serve)
        nursery.start_soon(link.call, "stats")
        assert (await link.call("load"))["size_bytes"] == 7
        nursery.cancel_scope.cancel()
