"""Members: the live nodes of the mount, as the database has them.

Who may write the table of nodes is a member, and nobody else: it has the certificate of each.

Invariant: a list that is told was read after the instant that was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PAUSE_S = 0.25
"""Between two questions to the database, however many knock. Guess."""


class Member(NamedTuple):
    """A live node."""

    number: int
    name: str
    epoch: int
    certificate: bytes
    """DER; empty: it talks to no other node."""
    address: str
    """Where it listens: host and port; empty: it does not."""
    writes: bool


class Members:
    """The live nodes, read anew when somebody needs to know.

    Args:
        read: Asks the database; within a limit of time.
    """

    def __init__(self, read: Callable[[], Awaitable[Sequence[Member]]]) -> None:
        self._read = read
        self._lock = trio.Lock()
        self._found: Sequence[Member] = ()
        self._found_s = float("-inf")
        """When the question began that has told them."""
        self._asked_s = float("-inf")

    async def as_of(self, since_s: float) -> Sequence[Member]:
        """Return the live nodes as they were at an instant, or later.

        Checkpoint: always. Cancel: safe.

        Args:
            since_s: By trio's clock.

        Raises:
            MemfsError: The database does not tell.
        """
        async with self._lock:
            if self._found_s < since_s:
                await trio.sleep_until(self._asked_s + PAUSE_S)
                self._asked_s = asked_s = trio.current_time()
                self._found = await self._read()
                self._found_s = asked_s
            return self._found
