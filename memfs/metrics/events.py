"""Events on their way to the engine: what people decided and what went wrong.

Invariant: bounded, and cheap for who tells: what comes too fast is counted, and not kept.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

KIND_COUNT_MAX = 50
"""Events of one kind between two `take`: a store that is down fails thousands of moves alike."""


class Told(NamedTuple):
    """An event; the engine gives it its number."""

    at_ns: int
    kind: str
    subject: str
    detail: str


class EventLog:
    """Holds events until they are stored.

    Args:
        clock: Wall clock, nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._told: list[Told] = []
        self._counts: Counter[str] = Counter()

    def note(self, kind: str, subject: str, detail: str) -> None:
        """Tell of something.

        Args:
            kind: One word, of few.
            subject: What it is about: a path, or empty.
            detail: One sentence.
        """
        self._counts[kind] += 1
        if self._counts[kind] <= KIND_COUNT_MAX:
            self._told.append(Told(self._clock(), kind, subject, detail))

    def take(self) -> list[Told]:
        """Return and forget what was told, and how much of it was left out."""
        taken, counts = self._told, self._counts
        self._told, self._counts = [], Counter()
        for kind, count in counts.items():
            if count > KIND_COUNT_MAX:
                left_out = count - KIND_COUNT_MAX
                taken.append(Told(self._clock(), kind, "", f"and {left_out} more like these"))
        return taken
