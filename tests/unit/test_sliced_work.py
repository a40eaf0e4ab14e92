"""Unit tests of sliced work: each call does a slice, and tells what all of them did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import InvalidValueError
from memfs.jobs.sliced_work import SlicedWork

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

STEP_COUNT = 3


def begin(gate: trio.Event | None = None) -> tuple[list[int], AsyncGenerator[None, None]]:
    """Three steps, each of which counts; all wait for the gate."""
    tally: list[int] = []

    async def steps() -> AsyncGenerator[None, None]:
        for number in range(STEP_COUNT):
            if gate is not None:
                await gate.wait()
            tally.append(number)
            yield

    return tally, steps()


async def test_each_call_tells_what_was_done_since_the_work_began() -> None:
    works = SlicedWork[list[int]](slice_s=0)
    for done_count in range(1, STEP_COUNT + 1):
        tally, ended = await works.go_on("w", begin)
        assert (len(tally), ended) == (done_count, False)
    tally, ended = await works.go_on("w", begin)
    assert (len(tally), ended) == (STEP_COUNT, True)


async def test_a_second_call_for_the_same_work_is_refused_and_the_first_goes_on() -> None:
    """It took the tally of the first one away, which then failed with a KeyError."""
    works = SlicedWork[list[int]](slice_s=0)
    gate = trio.Event()
    tallies = []

    async def first() -> None:
        tally, _ = await works.go_on("w", lambda: begin(gate))
        tallies.append(tally)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(InvalidValueError, match="under way"):
            await works.go_on("w", begin)
        gate.set()
    assert tallies == [[0]]
    tally, _ = await works.go_on("w", begin)
    assert tally == [0, 1]
    await works.cancel("w")


async def test_work_that_fails_begins_anew() -> None:
    works = SlicedWork[list[int]](slice_s=0)

    async def fail() -> AsyncGenerator[None, None]:
        raise InvalidValueError("no")
        yield

    with pytest.raises(InvalidValueError, match="no"):
        await works.go_on("w", lambda: ([7], fail()))
    tally, _ = await works.go_on("w", begin)
    assert tally == [0]
    await works.cancel("w")
