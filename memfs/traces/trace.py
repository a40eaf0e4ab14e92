"""A trace in memory: numbered keys in columns, as a simulator replays them.

Invariant: 13 bytes a row and one name a key, whatever the rows say, so that ten million rows take
130 MB and the names; a size is never negative.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field


class Event(enum.IntEnum):
    """What a row asks of a tier."""

    ACCESS = 0
    """The content is wanted."""
    WRITE = 1
    """The content was written anew, on this machine."""
    REMOVE = 2
    """The file is gone."""


@dataclass(slots=True)
class Trace:
    """Rows in the order in which things happened."""

    events: array[int] = field(default_factory=lambda: array("b"))
    """`Event` of the row."""
    keys: array[int] = field(default_factory=lambda: array("i"))
    """Index into `names` of the row."""
    sizes_bytes: array[int] = field(default_factory=lambda: array("q"))
    """Bytes of the whole file or object, after the event; 0 or more."""
    names: list[str] = field(default_factory=list)
    """Path, or key as the trace has it, by number."""

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, event: Event, key: int, size_bytes: int) -> None:
        """Append a row."""
        self.events.append(event)
        self.keys.append(key)
        self.sizes_bytes.append(size_bytes)

    def footprint_bytes(self) -> int:
        """Return the sizes of all keys that were accessed, each at its largest, together."""
        largest: dict[int, int] = {}
        for event, key, size in zip(self.events, self.keys, self.sizes_bytes, strict=True):
            if event != Event.REMOVE and size > largest.get(key, -1):
                largest[key] = size
        return sum(largest.values())


class KeyNumbers:
    """Numbers keys in the order of their first appearance."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._numbers: dict[object, int] = {}

    def number(self, key: object, name: str | None = None) -> int:
        """Return the number of a key.

        Args:
            key: As the trace has it; hashable.
            name: Shown to people; None: the name of an earlier row, else the key.
        """
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._trace.names)
            self._trace.names.append(str(key) if name is None else name)
        elif name is not None:
            self._trace.names[number] = name
        return number
