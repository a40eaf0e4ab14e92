from __future__ import annotations

import trio
import trio.testing

from memfs.content.gates import InodeGates
from memfs.types import InodeNo
from memfs.waiting import LEAVE, fast_path

INO, OTHER = InodeNo(7), InodeNo(8)


async def test_one_task_at_a_time_is_within_a_gate_in_the_order_they_came(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gates, seen = InodeGates(), []

    async def enter(number: int) -> None:
        async with gates.hold(INO):
            seen.append(number)
            await trio.sleep(1)
            seen.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(enter, number)
            await trio.testing.wait_all_tasks_blocked()
    assert seen == [0, 0, 1, 1, 2, 2]
    assert not gates.is_held(INO)


async def test_the_gate_of_another_inode_is_open() -> None:
    gates = InodeGates()
    async with gates.hold(INO), gates.hold(OTHER):
        assert gates.is_held(INO)
        assert gates.is_held(OTHER)
        assert not gates.try_enter(INO)


async def test_one_that_gives_up_waiting_keeps_nobody_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whether its turn had come or not."""
    gates = InodeGates()
    entered = []

    async def enter(scope: trio.CancelScope) -> None:
        with scope:
            async with gates.hold(INO):
                entered.append(scope)

    for come in (False, True):
        scopes = [trio.CancelScope() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            await gates.enter(INO)
            for scope in scopes:
                nursery.start_soon(enter, scope)
                await trio.testing.wait_all_tasks_blocked()
            if come:
                gates.exit(INO)
            scopes[0].cancel()
            if not come:
                await trio.testing.wait_all_tasks_blocked()
                gates.exit(INO)
        assert entered.pop() is scopes[1]
        assert not gates.is_held(INO)
        entered.clear()


async def test_a_request_leaves_the_fast_path_only_if_it_has_to_wait() -> None:
    gates = InodeGates()
    with fast_path():
        async with gates.hold(INO):
            request = gates.enter(INO)
            assert request.send(None) is LEAVE
            request.close()
    assert not gates.is_held(INO)
