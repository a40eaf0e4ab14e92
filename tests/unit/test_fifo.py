"""A Fifo is an `OrderedDict` that takes less memory."""

from __future__ import annotations

import tracemalloc
from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.fifo import Fifo

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "take", "pop", "del", "renew", "clear"]),
        st.integers(0, 600),
    ),
    max_size=60,
)


@given(first_count=st.integers(0, 600), steps=STEPS)
def test_entries_leave_in_the_order_in_which_they_came(
    first_count: int, steps: list[tuple[str, int]]
) -> None:
    """More of them than are looked for at a time, and between other changes."""
    fifo: Fifo[int, int] = Fifo()
    expected: OrderedDict[int, int] = OrderedDict()
    fifo.update((key, -key) for key in range(first_count))
    expected.update((key, -key) for key in range(first_count))
    for number, (step, key) in enumerate(steps):
        if step == "set":
            fifo[key] = expected[key] = number
        elif step == "take":
            if expected:
                assert fifo.take_oldest() == expected.popitem(last=False)
        elif step == "pop":
            assert fifo.pop(key, None) == expected.pop(key, None)
        elif step == "clear" and key % 8 == 0:
            fifo.clear()
            expected.clear()
        elif step == "del" and key in expected:
            del fifo[key], expected[key]
        elif step == "renew" and key in expected:
            fifo.renew(key)
            expected.move_to_end(key)
    assert list(fifo.items()) == list(expected.items())
    assert [fifo.take_oldest() for _ in range(len(fifo))] == list(expected.items())
    assert not fifo


def test_an_empty_one_has_no_oldest_entry() -> None:
    fifo: Fifo[int, int] = Fifo()
    for take in (fifo.take_oldest, lambda: fifo.pop(1)):
        with pytest.raises(KeyError):
            take()


def test_an_entry_takes_less_than_in_an_ordered_dict() -> None:
    """After all entries have changed, as those of a queue do."""
    files = 20_000

    def measure(take: Callable[[], object], entries: dict[int, None]) -> int:
        tracemalloc.start()
        try:
            for number in range(2 * files):
                entries[number] = None
                if number >= files:
                    take()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    ordered: OrderedDict[int, None] = OrderedDict()
    fifo: Fifo[int, None] = Fifo()
    least = measure(fifo.take_oldest, fifo)
    most = measure(lambda: ordered.popitem(last=False), ordered)
    assert most - least > 40 * files
