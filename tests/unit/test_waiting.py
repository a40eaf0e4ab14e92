from __future__ import annotations

import pytest
import trio

from memfs.waiting import LEAVE, Call, call_in_thread, fast_path, leave


async def test_a_request_on_the_fast_path_yields_to_its_driver_before_it_waits() -> None:
    request = leave()
    with fast_path():
        assert request.send(None) is LEAVE
    request.close()


async def test_nothing_leaves_a_task_of_its_own() -> None:
    """Trio would end a task that yields to it what it does not know."""
    await leave()
    with fast_path():
        pass
    await leave()


async def test_a_task_that_is_started_on_the_fast_path_is_not_on_it() -> None:
    """It inherits the context of the task that started it."""
    left = trio.Event()

    async def work() -> None:
        await leave()
        left.set()

    async with trio.open_nursery() as nursery:
        with fast_path():
            nursery.start_soon(work)
            await left.wait()


async def test_a_call_on_the_fast_path_is_left_to_the_driver() -> None:
    request = call_in_thread(lambda: 1.0, trio.CapacityLimiter(1), answers=True)
    with fast_path():
        call = request.send(None)
        assert isinstance(call, Call)
        assert (call.work(), call.answers) == (1.0, True)
        with pytest.raises(StopIteration) as stop:
            request.send(2.0)
    assert stop.value.value == 2.0


async def test_a_call_of_a_task_of_its_own_is_made_by_a_thread_of_trio() -> None:
    def work() -> float:
        trio.from_thread.check_cancelled()
        return 1.0

    with fast_path():
        pass
    assert await call_in_thread(work, trio.CapacityLimiter(1), answers=True) == 1.0
