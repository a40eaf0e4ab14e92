"""Numbers as sources tell them: what makes no sense is a value that is not known.

Invariant: nothing that a source tells is an error here; it may be that of one object of many.
"""

from __future__ import annotations

from datetime import datetime

SIZE_UNKNOWN = -1
"""That of an object whose size makes no sense, as its source tells it."""


def size_of(told: object) -> int:
    """Return a number of bytes, or `SIZE_UNKNOWN`."""
    if not isinstance(told, str | int):
        return SIZE_UNKNOWN
    try:
        return int(told)
    except ValueError:
        return SIZE_UNKNOWN


def iso_ns(told: str) -> int:
    """Return a time of RFC 3339 in nanoseconds since the epoch; 0: it makes no sense."""
    try:
        return int(datetime.fromisoformat(told).timestamp() * 1_000_000_000)
    except (ValueError, OverflowError):
        return 0
