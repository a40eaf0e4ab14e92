"""Records: what one program did, with the times when it began and ended; lines of JSON in a file.

All programs run on one machine: their times are of one clock (CLOCK_MONOTONIC).

Invariant: a line is written once the operation has ended, so that a history has no operation whose
outcome its program did not know; but for changes, whose line says so.
"""

from __future__ import annotations

import enum
import errno
import json
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


class Kind(enum.StrEnum):
    """What a program did."""

    WRITE = "write"
    """It opened a file with O_TRUNC, wrote to it, and closed it."""
    REPLACE = "replace"
    """It renamed another file into its place, which was closed before."""
    UNLINK = "unlink"
    MKDIR = "mkdir"
    MOVE = "move"
    """It renamed a directory to a name that was free."""
    SWITCH = "switch"
    """It renamed a symlink into the place of another one: a path leads to another directory."""
    UPLOADED = "uploaded"
    """It was told that the file, as it is now, is in the object store."""
    READ = "read"
    """It opened a file, read all of it, and closed it."""
    STAT = "stat"
    """It asked for the size of a file by its name."""
    LIST = "list"
    """It listed a directory."""
    FAULT = "fault"
    """Something was killed or stopped, and has come back at the end."""
    CUT = "cut"
    """A node was cut off from the database, or from the store: programs get EIO for it, at most."""
    TAKE_OVER = "take over"
    """A fault, in which a node that reads took the place of the one that writes: what had not come
    to the object store is lost."""


CHANGES = frozenset({Kind.WRITE, Kind.REPLACE, Kind.UNLINK, Kind.MKDIR, Kind.MOVE, Kind.SWITCH})

FAULTS = frozenset({Kind.FAULT, Kind.CUT, Kind.TAKE_OVER})

ABSENT = "ENOENT"
"""The result of who finds no such name; it is no error."""


class Operation(NamedTuple):
    """What a program did once."""

    kind: Kind
    node: str
    """On which mount; of a fault: what it hit."""
    program: str
    path: str
    """Relative to the mountpoint."""
    begin_ns: int
    end_ns: int
    value: str = ""
    """What was written or read, as its writer has named it; of STAT the size; empty for others."""
    error: str = ""
    """Name of the errno; of a change: whether it has come to be is not known. Empty: it succeeded.
    """
    target: str = ""
    """The new path, after MOVE; where a path leads, after SWITCH."""
    size: int = 0
    """Bytes that WRITE and REPLACE have written."""
    names: tuple[str, ...] = ()
    """What LIST has found in there."""


class Recorder:
    """Writes down what a program does.

    Args:
        file: Appended to, a line an operation, each at once.
        node: The mount that it works on.
        program: Its name.
        clock: Nanoseconds.
    """

    def __init__(
        self, file: Path, node: str, program: str, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._file = file.open("a", buffering=1)
        self._node = node
        self._program = program
        self._clock = clock

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def do(
        self,
        kind: Kind,
        path: str,
        work: Callable[[], Iterable[str] | str | None],
        *,
        value: str = "",
        target: str = "",
        size: int = 0,
    ) -> Operation:
        """Do something, and note what came of it.

        Args:
            kind: What.
            path: To which file.
            work: Does it; returns what it read or listed.
            value, target, size: As of `Operation`.
        """
        begin_ns = self._clock()
        error = ""
        names: tuple[str, ...] = ()
        try:
            result = work()
        except OSError as failure:
            error = errno.errorcode.get(failure.errno or 0, str(failure))
        else:
            if isinstance(result, str):
                value = result
            elif result is not None:
                names = tuple(sorted(result))
        done = Operation(
            kind, self._node, self._program, path, begin_ns, self._clock(), value, error, target,
            size, names,
        )  # fmt: skip
        self.note(done)
        return done

    def note(self, operation: Operation) -> None:
        """Write an operation down."""
        self._file.write(json.dumps(operation) + "\n")


def load(files: Iterable[Path]) -> list[Operation]:
    """Return what all programs did, in order of their beginning, but for a line that was cut."""
    return sorted(_operations(files), key=lambda each: each.begin_ns)


def _operations(files: Iterable[Path]) -> Iterator[Operation]:
    for file in files:
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                *fields, names = json.loads(line)
                read = Operation._make([*fields, tuple(names)])
                yield read._replace(kind=Kind(read.kind))
