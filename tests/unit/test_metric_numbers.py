"""Rows of rings: what they hold, as bytes and combined."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.metrics.numbers import PLACES, Combine, combine, decode, encode
from memfs.metrics.rings import RINGS, begin_of, slot_of
from memfs.types import METRIC_BYTES_MAX

NAMES = sorted(PLACES)
ROWS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 1 << 63), max_size=40)


@settings(deadline=None)
@given(ROWS)
def test_a_row_comes_back_from_its_bytes(numbers: dict[str, int]) -> None:
    assert decode(encode(numbers)) == numbers


def test_keys_are_those_that_rows_have() -> None:
    """By hand: rows live for years, and a key that moves would make their numbers lie."""
    for name, key in {
        "inodes": 0,
        "not_durable": 9,
        "starts": 32,
        "user_writes": 45,
        "memory_bytes": 64,
        "pending.quota": 80,
        "used.hot": 100,
        "used.warm": 103,
        "opens.hot": 120,
        "opened_bytes.glacier": 129,
        "moves.hot.warm": 140,
        "moved_bytes.glacier.packed": 179,
        "took.name.0": 256,
        "took.sync.25": 411,
    }.items():
        assert PLACES[name][0] == key, name
    assert len({key for key, _ in PLACES.values()}) == len(PLACES)


def test_rows_that_tell_the_keys_themselves_are_read() -> None:
    """As the first versions of memfs wrote them: inodes 7, starts 1, took.name.0 300."""
    row = bytes((0, 7, 32, 1, 0x80, 0x02, 0xAC, 0x02))
    assert decode(row) == {"inodes": 7, "starts": 1, "took.name.0": 300}
    assert decode(encode(decode(row))) == decode(row)


def test_a_number_of_a_later_version_is_passed_over() -> None:
    assert decode(encode({"inodes": 7}) + b"\xff\x7f\x05") == {"inodes": 7}


@settings(deadline=None)
@given(ROWS.filter(bool), st.integers(1, 20))
def test_a_row_that_was_cut_is_refused_or_shorter(numbers: dict[str, int], lost: int) -> None:
    row = encode(numbers)[:-lost]
    try:
        found = decode(row)
    except InvalidValueError:
        return
    assert found.items() < numbers.items()


def test_a_full_row_fits() -> None:
    """All numbers at once, each a terabyte, or a million for a bucket."""
    numbers = {name: 10**6 if name.startswith("took") else 1 << 40 for name in NAMES}
    assert len(encode(numbers)) <= METRIC_BYTES_MAX


def test_a_negative_number_is_a_defect() -> None:
    with pytest.raises(AssertionError):
        encode({"inodes": -1})


def test_rows_combine_by_what_they_hold() -> None:
    rows = [
        {"inodes": 5, "requests": 10, "memory_bytes": 7},
        {"inodes": 3, "requests": 1, "memory_bytes": 9},
        {"requests": 2, "memory_bytes": 1, "inodes": 4},
    ]
    assert combine(rows) == {"inodes": 4, "requests": 13, "memory_bytes": 9}
    assert combine([{"pending": 3}, {}]) == {}


@settings(deadline=None)
@given(st.lists(ROWS, max_size=6), st.integers(0, 6))
def test_it_does_not_matter_in_which_steps_rows_combine(
    rows: list[dict[str, int]], cut: int
) -> None:
    """A day of quarters is that of its minutes."""
    assert combine([combine(rows[:cut]), combine(rows[cut:])]) == combine(rows) or not rows[cut:]


def test_every_way_to_combine_is_used() -> None:
    assert {how for _, how in PLACES.values()} == set(Combine)


@settings(deadline=None)
@given(st.floats(0, 2e9))
def test_each_time_has_a_slot_in_each_ring(time_s: float) -> None:
    for ring in RINGS:
        at_s = begin_of(ring.resolution_s, time_s)
        assert at_s <= time_s < at_s + ring.resolution_s
        assert 0 <= slot_of(ring.resolution_s, at_s) < ring.row_count
        assert slot_of(ring.resolution_s, at_s) == slot_of(ring.resolution_s, at_s + ring.span_s)


def test_each_ring_is_made_of_the_finer_one() -> None:
    for finer, coarser in itertools.pairwise(RINGS):
        assert coarser.resolution_s % finer.resolution_s == 0
        assert finer.span_s > 2 * coarser.resolution_s or coarser.resolution_s == 86_400
        assert coarser.span_s > finer.span_s
