"""Waiting for a condition: the only kind of waiting in the tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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
