"""Waiting for a condition: the only kind of waiting in the tests, and never without a limit.

`tests/unit/test_bounded_waits.py` finds waits of threads and for processes that have no limit.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 120.0
"""Far above what anything here takes on a busy machine; a condition never met ends in a failure."""

_POLL_S = 0.02


def wait_for(
    condition: Callable[[], object],
    describe: str | Callable[[], object],
    limit_s: float = WAIT_S,
) -> None:
    """Return once `condition()` is true.

    Args:
        condition: Asked again and again.
        describe: What is waited for, or a function that says how far it is.
        limit_s: Seconds until the test fails.

    Raises:
        AssertionError: It was not true in `limit_s`; the message ends with the description.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            state = describe if isinstance(describe, str) else describe()
            raise AssertionError(f"not reached in {limit_s:.0f} s: {state}")
        time.sleep(_POLL_S)


def wait_until_set(event: threading.Event) -> None:
    """Return once an event of another thread is set.

    Raises:
        AssertionError: It was not in `WAIT_S`.
    """
    assert event.wait(WAIT_S), f"an event was not set in {WAIT_S:.0f} s"


def join(*threads: threading.Thread) -> None:
    """Return once all threads have ended.

    Raises:
        AssertionError: One had not in `WAIT_S`.
    """
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive(), f"thread {thread.name} did not end in {WAIT_S:.0f} s"


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Threads that began within the block have ended with it.

    Threads of before may end meanwhile: a count would tell of them as well.

    Raises:
        AssertionError: One that is new is alive.
    """
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert left == []
