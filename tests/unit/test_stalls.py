"""Long passes of the event loop are counted, short ones and waiting are not."""

from __future__ import annotations

import pytest
import trio

from memfs_daemon.stalls import STALL_S, Stalls


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_pass_that_takes_long_is_counted_with_its_time() -> None:
    clock = Clock()
    stalls = Stalls(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalls.run)
        await trio.sleep(0.01)
        clock.now_s += STALL_S / 2
        await trio.sleep(0.01)
        assert stalls.count == 0
        clock.now_s += 3 * STALL_S
        await trio.sleep(0.01)
        assert stalls.count == 1
        assert stalls.total_s == pytest.approx(3 * STALL_S)
        nursery.cancel_scope.cancel()
    clock.now_s += 9 * STALL_S
    await trio.sleep(0.01)
    assert stalls.count == 1


def test_to_wait_is_no_stall() -> None:
    """Passes are short, and between them hours go by."""
    clock = Clock()
    stalls = Stalls(clock)
    stalls.before_io_wait(0.0)
    for _ in range(5):
        clock.now_s += 3600.0
        stalls.after_io_wait(0.0)
        clock.now_s += STALL_S / 2
        stalls.before_io_wait(0.0)
    assert (stalls.count, stalls.total_s) == (0, 0.0)
