"""Entries: what is stored under a key, as the manager tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.manager.metadata import Scalar
    from memfs.manager.paths import MemPath


class Entry(NamedTuple):
    """What is stored under a key."""

    key: str
    path: MemPath
    metadata: dict[str, Scalar]
    size_bytes: int
    mtime: float
    """Seconds since the epoch."""

    @property
    def tier(self) -> str:
        """Where it is now; asked anew each time."""
        return self.path.tier

    @property
    def state(self) -> str:
        """How safe it is now; asked anew each time."""
        return self.path.state


def mtime_of(mtime_ns: int) -> float:
    """Return a time of nanoseconds as `os.stat` tells it in seconds, to the last bit."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    return seconds + 1e-9 * nanoseconds
