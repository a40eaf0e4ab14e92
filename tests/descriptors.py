"""Descriptors that tests leave open.

Some are kept for later tests, as those of servers and connections to them. What leaks would end in
failures of whatever test comes much later.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import warnings
from collections import Counter

COLLECTED_FROM = 200
"""From so many on, what nobody refers to any longer is collected, which takes up to 0.5 s. A run of
all tests keeps some 120."""

OPEN_COUNT_MAX = 300


class LeftOpenError(AssertionError):
    """A test has left too many descriptors open; tells what they are."""

    def __init__(self, count: int, before: int) -> None:
        super().__init__(f"{count} descriptors are open, {before} were before: {_kinds()}")
        self.count = count


def check_open(before: int) -> int:
    """Return how many descriptors are open after a test.

    Args:
        before: What this returned after the test before; with fewer this one is not to blame.

    Raises:
        LeftOpenError: There are too many, and more than before.
    """
    count = len(os.listdir("/proc/self/fd"))
    if count > COLLECTED_FROM and count > before:
        with warnings.catch_warnings():
            # Some other test has left it.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        count = len(os.listdir("/proc/self/fd"))
    if count > max(OPEN_COUNT_MAX, before):
        raise LeftOpenError(count, before)
    return count


def _kinds() -> str:
    """Return what is open, the most frequent kinds first; numbers are left out of the names."""
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            kinds[re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{name}"))] += 1
    return ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(8))
