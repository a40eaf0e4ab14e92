"""The sketch of what is used most: bounded, and never below the truth."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.metrics.heat import ENTRY_COUNT, HALF_LIFE_S, Heat, HeatSketch
from memfs.types import SETTING_VALUE_BYTES_MAX

BATCHES = st.lists(st.dictionaries(st.integers(0, 40), st.integers(1, 9), max_size=20), max_size=12)


@settings(deadline=None)
@given(BATCHES, st.integers(1, 10))
def test_the_truth_is_within_what_each_entry_says(batches: list[dict[int, int]], room: int) -> None:
    sketch, truth = HeatSketch(room), Counter[int]()
    for batch in batches:
        sketch.add(batch, 0.0)
        truth.update(batch)
    found = sketch.hottest(0.0, 1000)
    assert len(found) <= room
    for number, uses, error in found:
        assert uses - error <= truth[number] <= uses
    left_out = truth.keys() - {each.number for each in found}
    if found:
        assert all(truth[number] <= found[-1].uses for number in left_out)


def test_those_that_are_used_much_are_found_among_many_that_are_not() -> None:
    sketch = HeatSketch()
    for turn in range(100):
        few = dict.fromkeys(range(10), 100)
        sketch.add(few | {1000 + 700 * turn + other: 1 for other in range(700)}, float(turn))
    assert {each.number for each in sketch.hottest(100.0, 10)} == set(range(10))


def test_a_use_counts_half_after_a_while() -> None:
    sketch = HeatSketch()
    sketch.add({7: 8}, 0.0)
    sketch.add({8: 3}, 2 * HALF_LIFE_S)
    assert sketch.hottest(2 * HALF_LIFE_S, 2) == [Heat(8, 3, 0), Heat(7, 2, 0)]


def test_a_clock_that_is_set_back_adds_no_heat() -> None:
    sketch = HeatSketch()
    sketch.add({7: 8}, 1e6)
    sketch.add({7: 1}, 0.0)
    assert sketch.hottest(0.0, 1) == [Heat(7, 9, 0)]


def test_a_full_sketch_fits_a_setting_and_comes_back() -> None:
    sketch, again = HeatSketch(), HeatSketch()
    sketch.add({number: number + 1 for number in range(2 * ENTRY_COUNT)}, 5.0)
    stored = sketch.encode()
    assert len(stored) <= SETTING_VALUE_BYTES_MAX
    again.decode(stored)
    assert again.hottest(9.0, ENTRY_COUNT) == sketch.hottest(9.0, ENTRY_COUNT)
    again.add({-1: 1}, 9.0)
    sketch.add({-1: 1}, 9.0)
    assert again.encode() == sketch.encode()


@pytest.mark.parametrize("stored", [b"", b"x" * 17])
def test_a_stored_sketch_that_is_cut_is_refused(stored: bytes) -> None:
    with pytest.raises(InvalidValueError):
        HeatSketch().decode(stored)


def test_one_that_is_gone_is_left_out() -> None:
    sketch = HeatSketch()
    sketch.add({1: 1, 2: 2}, 0.0)
    sketch.forget(2)
    assert [each.number for each in sketch.hottest(0.0, 9)] == [1]
