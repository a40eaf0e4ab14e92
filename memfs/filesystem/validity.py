"""Validity: for how long the kernel may believe a name, its absence, or attributes.

Invariant: this is the one place that says so. Drivers ask here for what the file system does not
send along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.filesystem.nodes import LIVE_MAX, OWN_SLOT, number_of, slot_of
from memfs.metadata.records import InodeFlags
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.content.opentable import OpenTable
    from memfs.metadata.records import Inode
    from memfs.types import InodeNo

VALID_S = 86400.0
"""How long the kernel may believe a name or the attributes of an inode without a writer, while this
node is alone: all changes pass through the kernel, so only memory limits it."""

MISSING_VALID_S = 3600.0
"""The same of a missing name. Each takes memory of the kernel, and programs look up many."""

UNSEALED_VALID_S = 1.0
"""The same of a file that was written and is closed, but may be mapped still. With 0 each open of a
file just written costs a GETATTR more (counted by opcode). While a handle for writing is open it
is 0: the kernel forgets size and times by itself when it passes a write through, but not when a
mapping writes. Once a program has asked often and was always told the same
(`OpenTable.note_answer`), it is this, too: a mapping's writes then show within it, or after the
last handle for writing is closed."""


SNAPSHOT_VALID_S = 1.0
"""The same of the name of a snapshot, which may be deleted: the kernel is told, but its locks may
be waited for. What is below it never changes."""


class ValidityLimits(NamedTuple):
    """The longest times, in seconds."""

    name_s: float = VALID_S
    missing_s: float = MISSING_VALID_S
    attributes_s: float = VALID_S


ALONE = ValidityLimits()
"""What holds while no other node can change anything."""


class Validity:
    """Says how long the kernel may believe what it is told.

    Args:
        open_table: Knows who writes.
        is_rechecked: Returns whether all raw files are known to be as they were sealed.
        limits: The longest times.
    """

    def __init__(
        self,
        open_table: OpenTable,
        is_rechecked: Callable[[], bool],
        limits: ValidityLimits = ALONE,
    ) -> None:
        self._open_table = open_table
        self._is_rechecked = is_rechecked
        self._limits = limits
        self._unsealed_s = min(UNSEALED_VALID_S, limits.attributes_s)

    def name_s(self, inode: Inode) -> float:
        """Return the time for a name that leads to an inode."""
        return self._limits.name_s if inode.ino <= LIVE_MAX else _inside_s(inode.ino)

    def missing_s(self, parent: InodeNo) -> float:
        """Return the time for the absence of a name in a directory."""
        return self._limits.missing_s if slot_of(parent) != OWN_SLOT else 0.0

    def attributes_s(self, inode: Inode) -> float:
        """Return the time for an inode's attributes where nobody asked for them alone."""
        if inode.ino > LIVE_MAX:
            valid_s = VALID_S if slot_of(inode.ino) != OWN_SLOT else 0.0
            return min(valid_s, UNSEALED_VALID_S) if inode.flags else valid_s
        if inode.flags & InodeFlags.UNSEALED:
            return 0.0 if self._open_table.has_writer(inode.ino) else self._unsealed_s
        return self._limits.attributes_s if self._is_rechecked() else self._unsealed_s

    def answer_s(self, inode: Inode, live: Inode) -> float:
        """Return the time for an answer to who asked for the attributes.

        Args:
            inode: As the engine has it.
            live: As of now.
        """
        valid_s = self.attributes_s(inode)
        if valid_s or not self._open_table.has_writer(inode.ino):
            return valid_s
        answer = live.size, live.blocks, live.mtime_ns, live.ctime_ns
        return self._unsealed_s if self._open_table.note_answer(inode.ino, answer) else 0.0

    def created_s(self) -> float:
        """Return the time for the attributes of a file that was just made, and is empty."""
        return self._unsealed_s


def _inside_s(node: InodeNo) -> float:
    """Return the time for a name in `.memfs`."""
    if slot_of(node) == OWN_SLOT:
        return 0.0
    return SNAPSHOT_VALID_S if number_of(node) == ROOT_INODE else VALID_S
