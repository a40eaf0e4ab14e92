"""Gates: two steps that concern the same inode and must not be parted by a third.

What one looks at (who has the file open, its raw file, a lease on that) and the change that rests
on it are a step; between the two an engine may suspend.

Invariants:
- Within a gate nothing but the engine is awaited, and no further gate but of a greater number, so
  that nobody waits for ever. A change of the engine may begin within a gate, and no gate within it.
- A gate that nobody holds is entered without suspending.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from memfs.waiting import leave

if TYPE_CHECKING:
    from types import TracebackType

    from memfs.types import InodeNo


class InodeGates:
    """The gates of all inodes; each lets one task through at a time, in the order they came."""

    def __init__(self) -> None:
        self._waiting: dict[InodeNo, deque[trio.Event]] = {}
        """Those who wait, for each inode whose gate is held."""

    def is_held(self, ino: InodeNo) -> bool:
        """True while somebody is within the gate."""
        return ino in self._waiting

    def hold(self, ino: InodeNo) -> _Gate:
        """Return the gate of an inode, for `async with`."""
        return _Gate(self, ino)

    async def wait_open(self, ino: InodeNo) -> None:
        """Return once nobody is within the gate who was there at the call. Cancel: safe."""
        if ino in self._waiting:
            async with self.hold(ino):
                pass

    def try_enter(self, ino: InodeNo) -> bool:
        """Enter the gate unless it is held; `exit` follows if it was not."""
        if ino in self._waiting:
            return False
        self._waiting[ino] = deque()
        return True

    async def enter(self, ino: InodeNo) -> None:
        """Enter the gate, once nobody else holds it; `exit` follows. Cancel: safe."""
        if self.try_enter(ino):
            return
        turn = trio.Event()
        await leave()
        if self.try_enter(ino):
            return
        self._waiting[ino].append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.exit(ino)
            else:
                self._waiting[ino].remove(turn)
            raise

    def exit(self, ino: InodeNo) -> None:
        """Let the next one in."""
        waiting = self._waiting[ino]
        if waiting:
            waiting.popleft().set()
        else:
            del self._waiting[ino]


class _Gate:
    """One way through a gate."""

    __slots__ = ("_gates", "_ino")

    def __init__(self, gates: InodeGates, ino: InodeNo) -> None:
        self._gates = gates
        self._ino = ino

    async def __aenter__(self) -> None:
        if not self._gates.try_enter(self._ino):
            await self._gates.enter(self._ino)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gates.exit(self._ino)
