"""The limit of a test in trio's loop: it is cancelled, and fails with what its tasks wait for.

An exception out of a signal, as for other tests, would leave trio such that no later test can run.
The limit is of the real clock, whichever clock the test has.
"""

from __future__ import annotations

import functools
import signal
import traceback
from typing import TYPE_CHECKING, ParamSpec

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

P = ParamSpec("P")


def with_limit(test: Callable[P, Awaitable[None]], limit_s: float) -> Callable[P, Awaitable[None]]:
    """Return a test function that fails when it takes longer.

    Only in the main thread: the time is told by SIGALRM.

    Args:
        test: The function.
        limit_s: Seconds; 0: as long as it takes.
    """

    @functools.wraps(test)
    async def limited(*args: P.args, **kwargs: P.kwargs) -> None:
        token, stacks = trio.lowlevel.current_trio_token(), [""]
        with trio.CancelScope() as scope:

            def end() -> None:
                stacks[0] = "".join(_describe(trio.lowlevel.current_root_task()))
                scope.cancel()

            before = signal.signal(signal.SIGALRM, lambda *_: token.run_sync_soon(end))
            outer = signal.setitimer(signal.ITIMER_REAL, limit_s)
            try:
                await test(*args, **kwargs)
            finally:
                signal.setitimer(signal.ITIMER_REAL, *outer)
                signal.signal(signal.SIGALRM, before)
        if scope.cancelled_caught:
            pytest.fail(f"it did not end in {limit_s:g} s, when its tasks were:\n{stacks[0]}")

    return limited


def _describe(task: trio.lowlevel.Task | None) -> Iterator[str]:
    """Yield lines with the stacks of a task and of all below it."""
    if task is None:
        return
    yield f"task {task.name}\n"
    frames = ((frame, line) for frame, line in task.iter_await_frames())
    yield from traceback.StackSummary.extract(frames).format()
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _describe(child)
