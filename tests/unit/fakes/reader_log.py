"""A node that reads, as tests of it have one: its log does what a test has prepared."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from memfs.errors import BehindError
from memfs.metadata.shared.applying import Effects, TakenName
from memfs.metadata.shared.log import LogReport, NameChanges
from memfs.signals import Signal
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.types import InodeNo

LIMIT_S = 7.0


class Thread:
    """Makes a request."""

    uid = gid = umask = 0

    def __init__(self, pid: int = 100) -> None:
        self.pid = pid

    def is_alone(self) -> bool:
        """Nobody else makes requests."""
        return True


class StandInLog:
    """Applies changes that a test has prepared, when a barrier or the test says so."""

    limit_s = LIMIT_S

    def __init__(self) -> None:
        self.applied = 5
        self.name_changes = NameChanges()
        self.tell: Callable[[Effects], None] = lambda _effects: None
        self.committed: deque[Callable[[], Effects]] = deque()
        """They are in the database, and not here yet."""
        self.barrier_count = 0
        self.answers = self.is_fresh = True
        self._told = Signal()

    def commit(self, effects: Effects) -> None:
        """The other node commits a change."""
        self.committed.append(lambda: effects)

    async def barrier(self) -> int:
        """See `Log.barrier`."""
        self.barrier_count += 1
        await trio.lowlevel.checkpoint()
        if not self.answers:
            await trio.sleep(self.limit_s)
            raise BehindError("the database has not answered")
        self.apply()
        return self.applied

    def apply(self) -> None:
        """Do as a beat."""
        while self.committed:
            effects = self.committed.popleft()()
            self.applied += 1
            self.name_changes.note(self.applied, effects)
            self.tell(effects)
            self._told.set()

    async def wait_beyond(self, number: int) -> int:
        """See `Log.wait_beyond`."""
        while self.applied <= number:
            await self._told.wait(self._told.count)
        return self.applied

    def report(self) -> LogReport:
        """See `Log.report`."""
        return LogReport("me", "db", "first", True, self.applied, self.applied, None, None, False)


def taken(ino: InodeNo, name: bytes = b"name", *, leads_on: bool = False) -> Effects:
    """Return what it means that a name in the root was taken from an inode."""
    effects = Effects()
    effects.taken.append(TakenName(ROOT_INODE, name, ino, leads_on))
    return effects
