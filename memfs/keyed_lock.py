"""Keyed locks: one task at a time does something about a key, such as an inode or an object.

Invariants:
- Tasks enter in the order in which they came.
- Only a key that is held is remembered, and a task that gives up waiting keeps nobody out.
- A key that nobody holds is entered without suspending.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator
    from types import TracebackType

K = TypeVar("K", bound="Hashable")


class KeyedLock(Generic[K]):
    """A lock for each key; for tasks of one event loop, not for threads.

    Who holds one key and enters a second one does so in one order everywhere, that of the keys:
    else two tasks can wait for each other.
    """

    def __init__(self) -> None:
        self._waiting: dict[K, deque[trio.Event] | None] = {}
        """Those who wait, for each key that is held; None: nobody has had to wait."""

    def is_held(self, key: K) -> bool:
        """True while a task holds the key."""
        return key in self._waiting

    def hold(self, key: K) -> _Hold[K]:
        """Return the lock of a key, for `async with`."""
        return _Hold(self, key)

    @contextlib.contextmanager
    def hold_free(self, keys: Iterable[K]) -> Iterator[list[K]]:
        """Hold those of some keys that nobody holds for the block, and give them."""
        entered = [key for key in keys if self.try_enter(key)]
        try:
            yield entered
        finally:
            for key in entered:
                self.exit(key)

    async def wait_free(self, key: K) -> None:
        """Return once nobody holds the key who did so at the call. Cancel: safe."""
        if key in self._waiting:
            async with self.hold(key):
                pass

    def try_enter(self, key: K) -> bool:
        """Hold the key unless it is held; `exit` follows if it was not."""
        if key in self._waiting:
            return False
        self._waiting[key] = None
        return True

    async def enter(self, key: K) -> None:
        """Hold the key once nobody else does; `exit` follows.

        Checkpoint: only if it is held. Cancel: safe.
        """
        if self.try_enter(key):
            return
        await leave()
        if self.try_enter(key):
            return
        waiting = self._waiting[key]
        if waiting is None:
            waiting = self._waiting[key] = deque()
        turn = trio.Event()
        waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.exit(key)
            else:
                waiting.remove(turn)
            raise

    def exit(self, key: K) -> None:
        """Let the next one in."""
        waiting = self._waiting[key]
        if waiting:
            # The key stays held meanwhile: nobody who comes now is before the one who waited.
            waiting.popleft().set()
        else:
            del self._waiting[key]


class _Hold(Generic[K]):
    """One use of a lock."""

    __slots__ = ("_key", "_lock")

    def __init__(self, lock: KeyedLock[K], key: K) -> None:
        self._lock = lock
        self._key = key

    async def __aenter__(self) -> None:
        if not self._lock.try_enter(self._key):
            await self._lock.enter(self._key)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.exit(self._key)
