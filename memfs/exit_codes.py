"""What the exit status of `memfs` and `memfsd` means: one table for code, help and documents.

Invariant: a number keeps its meaning for ever; scripts depend on it.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit status of a command."""

    OK = 0
    PROBLEMS = 1
    USAGE = 2
    NOT_MOUNTED = 3
    STATE_IN_USE = 4
    STATE_UNUSABLE = 5
    CANNOT_MOUNT = 6
    BUSY = 7
    NO_ANSWER = 8
    INTERNAL = 9


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; for `fsck`: nothing found",
    ExitCode.PROBLEMS: "done in part: `fsck` found problems, or a path could not be pinned",
    ExitCode.USAGE: "wrong arguments, options or configuration",
    ExitCode.NOT_MOUNTED: "no memfs is mounted there",
    ExitCode.STATE_IN_USE: "the state directory is in use by another mount",
    ExitCode.STATE_UNUSABLE: "the state directory is damaged, or of another format",
    ExitCode.CANNOT_MOUNT: "the system does not allow the mount: no /dev/fuse, no privilege, ...",
    ExitCode.BUSY: "programs still use the mount",
    ExitCode.NO_ANSWER: "the daemon, or a store or database of `fsck`, did not answer in time",
    ExitCode.INTERNAL: "a defect of memfs; the traceback is in the daemon's log",
}
"""By exit code, in the order of the table in docs/reference/exit-codes.md."""
