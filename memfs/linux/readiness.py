"""Waiting for descriptors by poll(2), in a thread that may wait.

select(2) takes no descriptor from 1024 on, which a daemon of a few thousand files has.
"""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def await_ready(
    fds: Iterable[int], limit_s: float | None = None, events: int = select.POLLIN
) -> list[int]:
    """Wait until one of several descriptors is ready, or has ended.

    Args:
        fds: The descriptors.
        limit_s: How long to wait at most, in seconds; None: without end.
        events: What to wait for: `select.POLLIN`, `select.POLLOUT` or both.

    Returns:
        Those that are ready; an empty list: the time is over.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    # Rounded up: at 0 ms a caller in a loop would ask again and again.
    return [fd for fd, _ in poll.poll(None if limit_s is None else math.ceil(limit_s * 1000))]
