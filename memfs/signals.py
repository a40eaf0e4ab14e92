"""Signals: one task tells others that something has changed.

Invariant: who sets a signal wakes all who wait, and nobody who waits touches what others wait for;
what was set between a look and a wait ends that wait at once.
"""

from __future__ import annotations

import trio


class Signal:
    """A count of changes that can be waited on; any number of tasks may wait.

    A waiter notes the count, looks for work, and if there is no work waits for a later count:

        while True:
            seen = signal.count
            if not work_is_there():
                await signal.wait(seen)

    An event that its waiters replace loses wake-ups: the second one to replace it waits for an
    event that nobody will set.
    """

    def __init__(self) -> None:
        self.count = 0
        """How often it was set."""
        self._event: trio.Event | None = None
        """There while somebody waits; the setter takes it away."""

    def set(self) -> None:
        """Wake all who wait now."""
        self.count += 1
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait(self, seen: int) -> int:
        """Return the count once it is not `seen` any more. Checkpoint: always. Cancel: safe."""
        if self.count != seen:
            await trio.lowlevel.checkpoint()
            return self.count
        if self._event is None:
            self._event = trio.Event()
        await self._event.wait()
        return self.count
