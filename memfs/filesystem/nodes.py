"""Node numbers: by which the kernel, and `st_ino`, name what is not of the live tree.

A number is `slot << 48 | number`. Slot 0 is the live tree, and `number` its inode: ids of the
engine stay far below 2^48. Slot 1 is the directory `.memfs` itself. Each higher slot is a snapshot,
and `number` an inode as of it; but for the last ones, which are further numbers of live inodes
(aliases): the kernel takes one backing file of a node at a time.

Invariant: no two things of one mount have the same node number; and one thing has the same number
at each mount, as long as no two snapshots want the same slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memfs.types import SnapshotId

SLOT_SHIFT = 48
LIVE_MAX = InodeNo((1 << SLOT_SHIFT) - 1)
"""Up to here node numbers are inodes of the live tree."""

OWN_SLOT = 1
FIRST_SLOT = 2
SLOT_COUNT = 32749
"""Slots of snapshots: a prime, so that numbers of snapshots spread; below 2^15, so that a node
number is positive where programs take it for a signed one."""
ALIAS_SLOTS = range(FIRST_SLOT + SLOT_COUNT, 1 << 15)
"""So many further numbers an inode may have at a time."""


def node_of(slot: int, number: int) -> InodeNo:
    """Return the node number of something in a slot."""
    return InodeNo(slot << SLOT_SHIFT | number)


def own_node(number: int) -> InodeNo:
    """Return the node number of something that is `.memfs`'s own."""
    return node_of(OWN_SLOT, number)


def slot_of(node: int) -> int:
    """Return the slot of a node number."""
    return node >> SLOT_SHIFT


def is_alias(node: int) -> bool:
    """Return whether a node is an inode of the live tree by a further number."""
    return node >> SLOT_SHIFT >= ALIAS_SLOTS.start


def nodes_of(ino: InodeNo) -> Iterator[InodeNo]:
    """Yield all numbers that an inode of the live tree may have, its own first."""
    yield ino
    for slot in ALIAS_SLOTS:
        yield node_of(slot, ino)


def number_of(node: int) -> InodeNo:
    """Return the number in its slot: of a snapshot's node the inode."""
    return InodeNo(node & LIVE_MAX)


class Slots:
    """Which snapshot has which slot. A slot is not given away again while the mount lasts."""

    def __init__(self) -> None:
        self._slots: dict[SnapshotId, int] = {}
        self._snaps: dict[int, SnapshotId] = {}

    def note(self, snaps: Sequence[SnapshotId]) -> None:
        """Give a slot to each snapshot that has no slot yet, in order of number."""
        if len(self._slots) + len(snaps) > SLOT_COUNT // 2:
            self._forget_others(snaps)
        for snap in snaps:
            if snap in self._slots or len(self._snaps) == SLOT_COUNT:
                # Too many: the newest ones cannot be seen.
                continue
            slot = snap % SLOT_COUNT
            while FIRST_SLOT + slot in self._snaps:
                slot = (slot + 1) % SLOT_COUNT
            self._slots[snap] = FIRST_SLOT + slot
            self._snaps[FIRST_SLOT + slot] = snap

    def __len__(self) -> int:
        """Return how many slots are taken."""
        return len(self._snaps)

    def _forget_others(self, snaps: Sequence[SnapshotId]) -> None:
        """Take back the slots of deleted snapshots, of which there are thousands."""
        for snap in self._slots.keys() - set(snaps):
            del self._snaps[self._slots.pop(snap)]

    def find_slot(self, snap: SnapshotId) -> int | None:
        """Return the slot of a snapshot."""
        return self._slots.get(snap)

    def find_snapshot(self, slot: int) -> SnapshotId | None:
        """Return the snapshot of a slot."""
        return self._snaps.get(slot)
