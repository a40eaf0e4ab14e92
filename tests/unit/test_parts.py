"""Parts of objects in memory: bounded over all transfers, and never too few for one."""

from __future__ import annotations

import contextlib
import random

import pytest

from memfs.stores.parts import PartSlots
from memfs.stores.store import PART_BYTES


@pytest.mark.parametrize(
    ("slot_count", "transfer_count", "granted"),
    [
        (5, 4, [2, 1, 1, 1]),
        (6, 4, [3, 1, 1, 1]),
        (16, 4, [4, 4, 4, 4]),
        (4, 4, [1, 1, 1, 1]),
        (1, 4, [1, 1, 1, 1]),
        (4, 1, [4]),
    ],
)
def test_each_transfer_gets_what_is_left_when_others_come(
    slot_count: int, transfer_count: int, granted: list[int]
) -> None:
    slots = PartSlots(slot_count * PART_BYTES, transfer_count)
    with contextlib.ExitStack() as stack:
        for count in granted:
            assert stack.enter_context(slots.take(4)) == count
    with slots.take(4) as count:
        assert count == granted[0], "all were given back"


@pytest.mark.parametrize("seed", range(20))
def test_all_transfers_together_stay_within_the_buffer(seed: int) -> None:
    choices = random.Random(seed)
    transfer_count = choices.randrange(1, 9)
    slot_count = choices.randrange(transfer_count, 40)
    slots = PartSlots(slot_count * PART_BYTES, transfer_count)
    held: list[tuple[contextlib.AbstractContextManager[int], int]] = []
    for _ in range(200):
        if held and (len(held) == transfer_count or choices.random() < 0.5):
            taken, _ = held.pop(choices.randrange(len(held)))
            taken.__exit__(None, None, None)
        else:
            taken = slots.take(choices.randrange(1, 6))
            held.append((taken, taken.__enter__()))
        assert sum(count for _, count in held) <= slot_count
        assert all(count >= 1 for _, count in held)
