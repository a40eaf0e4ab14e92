"""Single flights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from memfs.errors import ObjectArchivedError, QuotaSpentError
from memfs.single_flight import SingleFlight

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_the_work_is_done_once_for_all_who_want_it(autojump_clock: MockClock) -> None:
    flights, began = SingleFlight[str, int](), 0
    results = []

    async def work() -> int:
        nonlocal began
        began += 1
        await trio.sleep(1)
        return 7

    async def want(key: str) -> None:
        results.append(await flights.run(key, work))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(want, "a")
        nursery.start_soon(want, "b")
        await trio.testing.wait_all_tasks_blocked()
        assert "a" in flights
    assert results == [7] * 6
    assert began == 2
    assert "a" not in flights
    assert await flights.run("a", work) == 7
    assert began == 3


@pytest.mark.parametrize(
    "error",
    [
        QuotaSpentError("spent", 7.0),
        ObjectArchivedError("archived", 8.0),
        OSError(28, "full", "/disk"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_who_waits_gets_an_error_of_its_own(
    error: Exception, autojump_clock: MockClock
) -> None:
    """Also of a class whose arguments are not those that the error keeps."""
    flights = SingleFlight[str, int]()
    seen: list[Exception] = []

    async def fail() -> int:
        await trio.sleep(1)
        raise error

    async def want() -> None:
        try:
            await flights.run("a", fail)
        except Exception as caught:
            seen.append(caught)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(want)
    assert error in seen
    assert len({id(each) for each in seen}) == 3
    for each in seen:
        assert type(each) is type(error)
        assert str(each) == str(error)
        assert each.__dict__ == error.__dict__
    assert "a" not in flights


async def test_another_one_takes_over_from_one_that_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    flights, began, results = SingleFlight[str, int](), 0, []

    async def work() -> int:
        nonlocal began
        began += 1
        await trio.sleep(1)
        return began

    async def want(scope: trio.CancelScope) -> None:
        with scope:
            results.append(await flights.run("a", work))

    scopes = [trio.CancelScope() for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(want, scope)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[2].cancel()
    assert results == [2, 2]
    assert "a" not in flights


async def test_one_flight_serves_many_keys(autojump_clock: MockClock) -> None:
    flights, results = SingleFlight[int, bytes](), {}

    async def join(key: int) -> None:
        results[key] = await flights.join(key)

    async with trio.open_nursery() as nursery:
        with flights.lead(1, 2, 3) as landed:
            for key in (1, 2, 3, 4):
                nursery.start_soon(join, key)
            await trio.testing.wait_all_tasks_blocked()
            assert results == {4: None}
            landed.update({1: b"one", 2: b"two"})
    assert results == {1: b"one", 2: b"two", 3: None, 4: None}


async def test_nobody_begins_what_somebody_works_on() -> None:
    flights = SingleFlight[int, bytes]()
    with flights.lead(1), pytest.raises(AssertionError), flights.lead(2, 1):
        pass
    assert 1 not in flights
    assert 2 not in flights


@given(
    tasks=st.lists(
        st.tuples(
            st.integers(0, 2),  # key
            st.integers(0, 5),  # comes at
            st.integers(0, 3),  # works for
            st.one_of(st.none(), st.integers(0, 8)),  # gives up at
            st.booleans(),  # fails
        ),
        max_size=12,
    )
)
def test_everybody_ends_with_a_result_an_error_or_given_up(
    tasks: list[tuple[int, int, int, int | None, bool]],
) -> None:
    flights = SingleFlight[int, int]()
    working: set[int] = set()
    ended: dict[int, int | tuple[int, int, int, int | None, bool]] = {}
    """By task: its result, or the task whose error it got."""
    results: set[tuple[int, int]] = set()

    async def run(number: int) -> None:
        key, start, length, end, fails = tasks[number]

        async def work() -> int:
            assert key not in working
            working.add(key)
            try:
                await trio.sleep(length)
            finally:
                working.remove(key)
            if fails:
                raise ValueError(number)
            results.add((key, number + 1))
            return number + 1

        await trio.sleep(start + number / 100)
        with trio.CancelScope(deadline=float("inf") if end is None else end + 0.005):
            try:
                result = await flights.run(key, work)
            except ValueError as error:
                ended[number] = tasks[error.args[0]]
            else:
                ended[number] = result
                assert (key, result) in results

    async def run_all() -> None:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                for number in range(len(tasks)):
                    nursery.start_soon(run, number)

    trio.run(run_all, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not working
    assert flights._flights == {}
    for number, (key, _, _, end, _) in enumerate(tasks):
        result = ended.get(number)
        assert result is not None or end is not None
        assert isinstance(result, int | None) or (result[0], result[4]) == (key, True)
