"""A test that hangs in trio's loop fails, and says where it hangs."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trio_limits import with_limit


async def wait_for_ever() -> None:
    await trio.sleep_forever()


async def hang() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_ever)
        nursery.start_soon(trio.sleep, 1e6)


@pytest.mark.parametrize("clock", [None, trio.testing.MockClock()], ids=["real", "standing"])
def test_a_test_that_hangs_fails_with_the_stacks_of_its_tasks(
    clock: trio.testing.MockClock | None,
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(
        pytest.fail.Exception, match=r"(?s)not end in 0\.1 s.*in hang.*in wait_for_ever"
    ):
        trio.run(with_limit(hang, 0.1), clock=clock)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_test_that_ends_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    trio.run(with_limit(trio.lowlevel.checkpoint, 60.0))
    with pytest.raises(ZeroDivisionError):
        trio.run(with_limit(fail, 60.0))
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 100, "that of this test"
    assert signal.getsignal(signal.SIGALRM) == before


@pytest.mark.parametrize("name", ["first", "second"])
@settings(max_examples=3, deadline=None, database=None)
@given(number=st.integers(0, 9))
async def test_examples_run_in_trio_for_each_parameter(name: str, number: int) -> None:
    await trio.lowlevel.checkpoint()
    assert name in ("first", "second")
    assert 0 <= number <= 9
