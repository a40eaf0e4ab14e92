"""Single flight: many tasks want the result of one piece of work, and it is done once.

Invariants:
- A key is worked on by one task at a time, and is remembered only meanwhile.
- A waiter gets the result or the error of the task that works. If that one is cancelled, another
  one who waits takes over.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Flight(Generic[K, V]):
    """One piece of work under way."""

    __slots__ = ("ended", "error", "results")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.results: dict[K, V] = {}
        self.error: Exception | None = None


class SingleFlight(Generic[K, V]):
    """What is being worked on, by key; for tasks of one event loop.

    A result is never None.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[K, V]] = {}

    def __contains__(self, key: K) -> bool:
        """True while some task works on the key."""
        return key in self._flights

    async def run(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Return what the work gives, or what it gives somebody who does it already.

        Cancel: safe; another task that waits does the work then.
        """
        while key in self._flights:
            result = await self.join(key)
            if result is not None:
                return result
        with self.lead(key) as results:
            results[key] = made = await work()
            return made

    async def join(self, key: K) -> V | None:
        """Wait for the task that works on a key, and return the result.

        Checkpoint: if somebody works on it. Cancel: safe.

        Returns:
            None: nobody works on it, or the task that did so ended without a result for this key.

        Raises:
            Exception: A copy of the error with which the work ended.
        """
        flight = self._flights.get(key)
        if flight is None:
            return None
        await flight.ended.wait()
        if flight.error is not None:
            raise _copy_of(flight.error) from flight.error
        return flight.results.get(key)

    @contextlib.contextmanager
    def lead(self, *keys: K) -> Iterator[dict[K, V]]:
        """Work on keys that nobody works on, in this block; it gives the dictionary of results."""
        assert not any(key in self._flights for key in keys), f"{keys}: somebody works on them"
        flight: _Flight[K, V] = _Flight()
        self._flights.update(dict.fromkeys(keys, flight))
        try:
            yield flight.results
        except Exception as error:
            flight.error = error
            raise
        finally:
            for key in keys:
                del self._flights[key]
            flight.ended.set()


def _copy_of(error: Exception) -> Exception:
    """Return the same error for another task: a traceback belongs to one."""
    # As pickle does, which knows the file of an OSError; but without `__init__`, whose arguments
    # are others than the error keeps.
    reduced = error.__reduce__()
    assert isinstance(reduced, tuple)
    copy = type(error).__new__(type(error), *reduced[1])
    copy.__dict__.update(error.__dict__)
    return copy
