"""Keyed locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from memfs.keyed_lock import KeyedLock
from memfs.waiting import LEAVE, fast_path

if TYPE_CHECKING:
    from trio.testing import MockClock

KEY, OTHER = 7, 8


async def test_one_task_at_a_time_holds_a_key_in_the_order_they_came(
    autojump_clock: MockClock,
) -> None:
    locks, seen = KeyedLock[int](), []

    async def enter(number: int) -> None:
        async with locks.hold(KEY):
            seen.append(number)
            await trio.sleep(1)
            seen.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(enter, number)
            await trio.testing.wait_all_tasks_blocked()
    assert seen == [0, 0, 1, 1, 2, 2]
    assert not locks.is_held(KEY)


async def test_one_that_comes_back_at_once_is_behind_those_that_wait(
    autojump_clock: MockClock,
) -> None:
    locks, seen = KeyedLock[int](), []

    async def come_back() -> None:
        for _ in range(3):
            async with locks.hold(KEY):
                seen.append("again")
                await trio.sleep(1)

    async def wait() -> None:
        async with locks.hold(KEY):
            seen.append("waited")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
    assert seen == ["again", "waited", "again", "again"]


async def test_the_lock_of_another_key_is_free() -> None:
    locks = KeyedLock[int]()
    async with locks.hold(KEY), locks.hold(OTHER):
        assert locks.is_held(KEY)
        assert locks.is_held(OTHER)
        assert not locks.try_enter(KEY)


async def test_a_block_that_fails_lets_the_key_go() -> None:
    locks = KeyedLock[int]()
    with pytest.raises(ZeroDivisionError):
        async with locks.hold(KEY):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), locks.hold_free([KEY, OTHER]):
        raise ZeroDivisionError
    assert locks._waiting == {}


async def test_one_that_gives_up_waiting_keeps_nobody_out(autojump_clock: MockClock) -> None:
    """Whether its turn had come or not."""
    locks = KeyedLock[int]()
    entered = []

    async def enter(scope: trio.CancelScope) -> None:
        with scope:
            async with locks.hold(KEY):
                entered.append(scope)

    for come in (False, True):
        scopes = [trio.CancelScope() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            await locks.enter(KEY)
            for scope in scopes:
                nursery.start_soon(enter, scope)
                await trio.testing.wait_all_tasks_blocked()
            if come:
                locks.exit(KEY)
            scopes[0].cancel()
            if not come:
                await trio.testing.wait_all_tasks_blocked()
                locks.exit(KEY)
        assert entered.pop() is scopes[1]
        assert not locks.is_held(KEY)
        entered.clear()


async def test_only_free_keys_are_held_without_waiting() -> None:
    locks = KeyedLock[int]()
    async with locks.hold(KEY):
        with locks.hold_free([KEY, OTHER, OTHER]) as free:
            assert free == [OTHER]
            assert locks.is_held(OTHER)
        assert not locks.is_held(OTHER)
        assert locks.is_held(KEY)


async def test_who_waits_for_a_key_to_be_free_lets_the_next_one_in(
    autojump_clock: MockClock,
) -> None:
    locks, seen = KeyedLock[int](), []

    async def look() -> None:
        await locks.wait_free(KEY)
        seen.append("free")

    async def enter() -> None:
        async with locks.hold(KEY):
            seen.append("entered")

    await locks.wait_free(KEY)
    async with trio.open_nursery() as nursery:
        await locks.enter(KEY)
        for function in (look, enter):
            nursery.start_soon(function)
            await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        locks.exit(KEY)
    assert seen == ["free", "entered"]


async def test_a_request_leaves_the_fast_path_only_if_it_has_to_wait() -> None:
    locks = KeyedLock[int]()
    with fast_path():
        async with locks.hold(KEY):
            request = locks.enter(KEY)
            assert request.send(None) is LEAVE
            request.close()
    assert not locks.is_held(KEY)


@given(
    tasks=st.lists(
        st.tuples(
            st.integers(0, 2),  # key
            st.integers(0, 5),  # comes at
            st.integers(0, 3),  # holds for
            st.one_of(st.none(), st.integers(0, 8)),  # gives up at
            st.booleans(),  # only if free
        ),
        max_size=12,
    )
)
def test_nobody_is_passed_by_or_left_out_and_no_key_stays(
    tasks: list[tuple[int, int, int, int | None, bool]],
) -> None:
    """Any number of tasks that come, wait, give up and leave at any time."""
    locks = KeyedLock[int]()
    came: dict[int, list[int]] = {}
    holders: dict[int, int] = {}
    held_count = 0

    async def run(number: int) -> None:
        nonlocal held_count
        key, start, length, end, free_only = tasks[number]
        # Apart by less than a step: no two come at the same time.
        await trio.sleep(start + number / 100)
        queue = came.setdefault(key, [])
        if free_only:
            with locks.hold_free([key]) as free:
                assert free == ([] if queue else [key])
                if free:
                    queue.append(number)
                    await trio.sleep(length)
                    queue.remove(number)
            return
        queue.append(number)
        try:
            with trio.CancelScope(deadline=float("inf") if end is None else end + 0.005):
                async with locks.hold(key):
                    assert key not in holders
                    assert queue[0] == number
                    holders[key] = number
                    held_count += 1
                    try:
                        await trio.sleep(length)
                    finally:
                        del holders[key]
                        queue.remove(number)
        finally:
            if number in queue:
                queue.remove(number)

    async def run_all() -> None:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                for number in range(len(tasks)):
                    nursery.start_soon(run, number)

    trio.run(run_all, clock=trio.testing.MockClock(autojump_threshold=0))
    assert locks._waiting == {}
    assert held_count >= sum(end is None and not free for *_, end, free in tasks)
