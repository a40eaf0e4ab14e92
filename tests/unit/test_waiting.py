from __future__ import annotations

import trio

from memfs.waiting import LEAVE, fast_path, leave


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
