"""Which programs open files: by name and user, since when the daemon started.

Invariant: bounded, in memory and in time: programs that opened nothing for the longest are
forgotten first, and /proc is asked about a thread once in `LOOK_NS` at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.bounded import BoundedDict
from memfs.linux.processes import program_of

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAMS_MAX = 256
"""Pairs of a name and a user that are kept; some 50 kB. Guess."""

THREADS_MAX = 4096
"""Threads whose program is known; some 1 MB. Guess."""

LOOK_NS = 1_000_000_000
"""A thread may run another program by then (execve(2)), or its number be that of another one. What
it opens until then counts as the old one's."""

UNKNOWN = "(unknown)"
"""The name of what is in a pid namespace above ours, or was gone before it was looked at."""


class ProgramUse(NamedTuple):
    """What one program has opened, all processes of one name and user together."""

    name: str
    """As in /proc/PID/comm: at most 15 bytes, and whatever the program likes."""
    uid: int
    pid: int
    """That of the process seen last; 0: not known."""
    open_count: int
    """Opens, those for writing included."""
    write_count: int
    """Opens for writing."""
    opened_bytes: int
    """Sizes of the files, as of each open: how much is read or written of them, passthrough leaves
    unknown."""
    last_ns: int
    """When it opened something last; wall clock."""


class _Program:
    """As of `ProgramUse`, of whose fields those change that are not the key."""

    __slots__ = ("last_ns", "name", "open_count", "opened_bytes", "pid", "uid", "write_count")

    def __init__(self, name: str, uid: int) -> None:
        self.name = name
        self.uid = uid
        self.pid = 0
        self.open_count = 0
        self.write_count = 0
        self.opened_bytes = 0
        self.last_ns = 0


class Programs:
    """Counts opens by program.

    Args:
        find: Returns process id and name of a thread's program; None: that is not known.
    """

    def __init__(self, find: Callable[[int], tuple[int, str] | None] = program_of) -> None:
        self._find = find
        self._programs: BoundedDict[tuple[str, int], _Program] = BoundedDict(PROGRAMS_MAX)
        self._threads: BoundedDict[int, tuple[_Program, int]] = BoundedDict(THREADS_MAX)
        """The program of each, and until when that holds."""

    def note_open(
        self, thread: int, uid: int, size: int, now_ns: int, *, writing: bool, count: int = 1
    ) -> None:
        """A thread opens a file, or several.

        Args:
            thread: 0: not known.
            uid: Its user.
            size: Bytes of the file, or of all of them.
            now_ns: Wall clock.
            writing: It may change them.
            count: So many files.
        """
        known = self._threads.get(thread)
        if known is not None and now_ns < known[1] and known[0].uid == uid:
            program = known[0]
        else:
            program = self._look(thread, uid, now_ns)
        program.open_count += count
        program.write_count += count * writing
        program.opened_bytes += size
        program.last_ns = now_ns

    def most(self, limit: int) -> list[ProgramUse]:
        """Return those that opened most bytes first; at most `limit`."""
        most = sorted(
            self._programs.values(),
            key=lambda each: (each.opened_bytes, each.open_count),
            reverse=True,
        )
        return [
            ProgramUse(*(getattr(each, field) for field in ProgramUse._fields))
            for each in most[: max(0, limit)]
        ]

    def _look(self, thread: int, uid: int, now_ns: int) -> _Program:
        pid, name = self._find(thread) or (0, UNKNOWN)
        program = self._programs.touch((name, uid))
        if program is None:
            program = self._programs[name, uid] = _Program(name, uid)
        program.pid = pid
        self._threads[thread] = (program, now_ns + LOOK_NS)
        return program
