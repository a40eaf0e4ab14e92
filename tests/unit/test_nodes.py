"""Node numbers: no two things have the same, and each has its own for good."""

from __future__ import annotations

from memfs.filesystem.nodes import (
    ALIAS_SLOTS,
    FIRST_SLOT,
    LIVE_MAX,
    SLOT_COUNT,
    Slots,
    is_alias,
    node_of,
    nodes_of,
    number_of,
    own_node,
    slot_of,
)
from memfs.types import ROOT_INODE, SnapshotId


def slots_of(*numbers: int) -> Slots:
    slots = Slots()
    slots.note([SnapshotId(number) for number in numbers])
    return slots


def test_a_node_number_tells_slot_and_inode() -> None:
    for slot in (FIRST_SLOT, FIRST_SLOT + SLOT_COUNT - 1):
        for number in (ROOT_INODE, LIVE_MAX):
            node = node_of(slot, number)
            assert LIVE_MAX < node < 1 << 63
            assert (slot_of(node), number_of(node)) == (slot, number)
    assert slot_of(own_node(7)) == FIRST_SLOT - 1


def test_an_inode_has_further_numbers_that_no_snapshot_has() -> None:
    nodes = list(nodes_of(LIVE_MAX))
    assert len(set(nodes)) == len(nodes) == 1 + len(ALIAS_SLOTS) > 10
    assert [is_alias(node) for node in nodes] == [False] + [True] * len(ALIAS_SLOTS)
    assert {number_of(node) for node in nodes} == {LIVE_MAX}
    assert max(nodes) < 1 << 63
    assert not is_alias(node_of(FIRST_SLOT + SLOT_COUNT - 1, LIVE_MAX))


def test_a_snapshot_has_the_same_slot_at_each_mount() -> None:
    numbers = [7, 9, 8 + SLOT_COUNT, 10 + 5 * SLOT_COUNT]
    first, second = slots_of(*numbers), slots_of(*numbers[1:])
    for number in numbers[1:]:
        slot = first.find_slot(SnapshotId(number))
        assert slot is not None
        assert slot == second.find_slot(SnapshotId(number))
        assert first.find_snapshot(slot) == number


def test_snapshots_that_want_one_slot_get_two() -> None:
    numbers = [5, 5 + SLOT_COUNT, 5 + 2 * SLOT_COUNT, SLOT_COUNT - 1, 2 * SLOT_COUNT - 1]
    slots = slots_of(*numbers)
    assert len({slots.find_slot(SnapshotId(number)) for number in numbers}) == len(numbers)


def test_the_slot_of_a_deleted_snapshot_is_not_given_away_soon() -> None:
    """The kernel may know its inodes still."""
    slots = slots_of(5)
    taken = slots.find_slot(SnapshotId(5))
    slots.note([SnapshotId(5 + SLOT_COUNT)])
    assert slots.find_slot(SnapshotId(5 + SLOT_COUNT)) != taken
    # But slots are not forgotten to be taken back.
    for turn in range(2, 12):
        count = SLOT_COUNT // 4
        slots.note([SnapshotId(count * turn + number) for number in range(count)])
        assert len(slots) <= SLOT_COUNT
        assert slots.find_slot(SnapshotId(count * turn)) is not None


def test_more_snapshots_than_slots_have_no_slot() -> None:
    slots = slots_of(*range(2, SLOT_COUNT + 12))
    assert len(slots) == SLOT_COUNT
    assert slots.find_slot(SnapshotId(SLOT_COUNT + 11)) is None
