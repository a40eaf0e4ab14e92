"""What programs do that the mover wants to know: opens, seals, pins.

Invariant: bounded. What does not fit is dropped and `rescan` is set: the mover then looks at
everything once instead of at what it was told.
"""

from __future__ import annotations

import stat
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.content.changes import Changes
from memfs.content.programs import Programs
from memfs.signals import Signal
from memfs.traces.access_log import AccessLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.metadata.records import Inode
    from memfs.types import InodeNo

OPENS_KEPT_MAX = 8192
"""Opens for reading kept for prediction, the latest ones; about 2 MB."""

ACTIVITY_COUNT_MAX = 100_000
"""Events of one kind kept until the mover takes them; about 10 MB at most. Guess, not measured."""


FREED_BYTES_MIN = 8 << 20
"""Disk space of removed files that is given back at once and not with the next round: programs that
remove a file to make room write the next one right away. Guess."""


class Opening(NamedTuple):
    """A program opened a file for reading."""

    ino: InodeNo
    uid: int
    pid: int
    """That of the opening thread; 0: not known."""
    time_ns: int
    """Wall clock."""


class Activity:
    """A mailbox from the file system to the mover; both live in one thread."""

    def __init__(self) -> None:
        self._accessed: dict[InodeNo, int] = {}
        self._sealed: dict[InodeNo, None] = {}
        self._pinned: dict[InodeNo, None] = {}
        self._wanted: dict[InodeNo, None] = {}
        self._wanted_before: dict[InodeNo, None] = {}
        """Those that the mover was told of last."""
        self._archived: dict[InodeNo, None] = {}
        self._wake = Signal()
        self._seen_wake = 0
        self._opens: deque[tuple[InodeNo, int, int, int]] = deque(maxlen=OPENS_KEPT_MAX)
        self._opened = Signal()
        self._uses: dict[InodeNo, int] = {}
        self._freed_bytes = 0
        self.access_log = AccessLog()
        """Every event with its time, while a trace is recorded."""
        self.changes = Changes()
        """Files sealed, renamed and removed, for those who follow them elsewhere."""
        self.programs = Programs()
        """Who opens how much."""
        self.request_count = 0
        """Requests so far that looked a name up, opened or changed something."""
        self._taken_request_count = 0
        self.served_bytes = 0
        """Bytes that went through the daemon since `take_served_bytes`, in reads and writes that
        the kernel does not pass to the local file by itself."""
        self.rescan = False
        """Set when events were dropped; the mover resets it when it has looked at everything."""

    def note_access(self, ino: InodeNo, now_ns: int) -> None:
        """A program opened a regular file."""
        if len(self._accessed) < ACTIVITY_COUNT_MAX or ino in self._accessed:
            self._accessed[ino] = now_ns

    def note_open(self, ino: InodeNo, uid: int, pid: int, now_ns: int) -> None:
        """A program opens a regular file for reading; in order, each time. The oldest are lost."""
        if not self._opens:
            self._opened.set()
        self._note_use(ino)
        # No `Opening` yet, which costs three times as much as a tuple.
        self._opens.append((ino, uid, pid, now_ns))

    def note_uses(self, inos: Sequence[InodeNo], now_ns: int) -> None:
        """A program reads regular files that it has named beforehand: there is nothing to guess.

        To learn from 10,000 values of a batch, and to fetch what may come next, took a fourth of
        the daemon's time for it.
        """
        for ino in inos:
            self._note_use(ino)
            self.note_access(ino, now_ns)

    def _note_use(self, ino: InodeNo) -> None:
        uses = self._uses
        if len(uses) < ACTIVITY_COUNT_MAX or ino in uses:
            uses[ino] = uses.get(ino, 0) + 1

    def note_sealed(self, ino: InodeNo) -> None:
        """A file's last writer is gone."""
        self._note(self._sealed, ino)
        self.changes.note(ino)

    def note_renamed(self, inode: Inode) -> None:
        """An inode has got another name, or lost its name to another one."""
        if stat.S_ISDIR(inode.mode):
            self.changes.note_all()
        else:
            self.changes.note(inode.ino)

    def note_pin(self, ino: InodeNo) -> None:
        """A pin, a codec, a priority or a pool, inherited ones too (a rename), may have changed."""
        self._note(self._pinned, ino)
        self.wake()

    def look_at_all(self) -> None:
        """Any pin may have changed: have the mover look at everything, from now on."""
        self.rescan = True
        self.wake()

    def note_wanted(self, ino: InodeNo) -> None:
        """So much of a file is read from its frames that its raw form would be cheaper."""
        self._note(self._wanted, ino)
        # Each further read says the same, and the mover may have left the file where it is.
        if ino not in self._wanted_before:
            self.wake()

    def note_archived(self, ino: InodeNo) -> None:
        """A program wanted a file whose object is archived, and was turned away."""
        self._note(self._archived, ino)
        self.wake()

    def note_freed(self, size: int) -> None:
        """The last hold on a removed file is gone: its disk space can be given back, bytes."""
        self._freed_bytes += size
        if self._freed_bytes >= FREED_BYTES_MIN:
            self.wake()

    def take_freed(self) -> bool:
        """Return, once, whether so much can be given back that it should not wait."""
        much = self._freed_bytes >= FREED_BYTES_MIN
        if much:
            self._freed_bytes = 0
        return much

    def wake(self) -> None:
        """Have the mover begin its next round now."""
        self._wake.set()

    def take_request_count(self) -> int:
        """Return by how much `request_count` has grown since the last call."""
        taken = self.request_count - self._taken_request_count
        self._taken_request_count = self.request_count
        return taken

    def take_served_bytes(self) -> int:
        """Return and forget how much programs have read and written through the daemon."""
        taken, self.served_bytes = self.served_bytes, 0
        return taken

    def take_accesses(self) -> list[tuple[InodeNo, int]]:
        """Return and forget the last access of each file, wall-clock nanoseconds."""
        taken, self._accessed = self._accessed, {}
        return list(taken.items())

    def take_opens(self, limit: int) -> list[Opening]:
        """Return the latest `limit` opens for reading, in order, and forget all."""
        taken = [Opening._make(each) for each in list(self._opens)[-limit:]]
        self._opens.clear()
        return taken

    async def wait_opened(self) -> None:
        """Wait until `take_opens` has something to return. Checkpoint: always."""
        await trio.lowlevel.checkpoint()
        while not self._opens:
            await self._opened.wait(self._opened.count)

    def take_uses(self) -> dict[InodeNo, int]:
        """Return and forget how often each file was opened for reading."""
        taken, self._uses = self._uses, {}
        return taken

    def take_sealed(self) -> list[InodeNo]:
        """Return and forget the files sealed since the last call."""
        taken, self._sealed = self._sealed, {}
        return list(taken)

    def take_pinned(self) -> list[InodeNo]:
        """Return and forget the inodes whose pin may have changed."""
        taken, self._pinned = self._pinned, {}
        return list(taken)

    def take_wanted(self) -> list[InodeNo]:
        """Return and forget the files whose raw form is wanted."""
        taken, self._wanted = self._wanted, {}
        self._wanted_before = taken
        return list(taken)

    def take_archived(self) -> list[InodeNo]:
        """Return and forget the files that wait for their restore."""
        taken, self._archived = self._archived, {}
        return list(taken)

    def last_access_ns(self, ino: InodeNo) -> int | None:
        """Return an access that the mover has not stored yet."""
        return self._accessed.get(ino)

    async def wait(self) -> None:
        """Wait for a `wake` since the last wait; the mover alone does. Checkpoint: always."""
        self._seen_wake = await self._wake.wait(self._seen_wake)

    def _note(self, events: dict[InodeNo, None], ino: InodeNo) -> None:
        if len(events) < ACTIVITY_COUNT_MAX:
            events[ino] = None
        else:
            self.rescan = True
