"""Quotas of a second and of a day: arithmetic against a plain list of what was spent."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.policy.quotas import DailyQuotas, Moment, RollingDay, SharedRate, Spent

HOUR_S, DAY_S = 3600.0, 86400.0

events = st.lists(
    st.tuples(
        st.floats(min_value=0, max_value=2 * DAY_S, allow_nan=False),
        st.integers(min_value=1, max_value=1000),
    ),
    max_size=60,
)
"""Pause before, and amount wanted."""


@given(events, st.integers(min_value=1, max_value=3000))
@settings(max_examples=200)
def test_no_day_ever_exceeds_its_quota(wanted: list[tuple[float, int]], limit: int) -> None:
    """Whatever 24 hours are looked at, and not only whole ones."""
    quotas = DailyQuotas({Spent.EGRESS: limit})
    now_s, spent = 0.0, []
    for pause_s, amount in wanted:
        now_s += pause_s
        if quotas.find_refusal({Spent.EGRESS: amount}, now_s) is None:
            quotas.spend(Spent.EGRESS, amount, now_s)
            spent.append((now_s, amount))
    for end_s, _ in spent:
        window = [amount for at_s, amount in spent if end_s - DAY_S < at_s <= end_s]
        assert sum(window) <= limit


@given(events, st.integers(min_value=1, max_value=3000), st.integers(min_value=1, max_value=1000))
@settings(max_examples=200)
def test_room_comes_when_it_was_said_to(
    spent: list[tuple[float, int]], limit: int, needed: int
) -> None:
    """Not later, so that nobody waits for nothing; and not earlier."""
    quotas = DailyQuotas({Spent.EGRESS: limit})
    now_s, cost = 0.0, {Spent.EGRESS: needed}
    for pause_s, amount in spent:
        now_s += pause_s
        quotas.spend(Spent.EGRESS, amount, now_s)
    refusal = quotas.find_refusal(cost, now_s)
    if needed > limit:
        assert refusal is not None
        assert math.isinf(refusal.wait_s)
    elif refusal is not None:
        assert 0 < refusal.wait_s <= 25 * HOUR_S
        assert quotas.find_refusal(cost, now_s + refusal.wait_s - 1.0) is not None
        assert quotas.find_refusal(cost, now_s + refusal.wait_s + 1e-3) is None


def test_what_is_under_way_keeps_its_room() -> None:
    """Two moves that fit one at a time do not begin together."""
    quotas = DailyQuotas({Spent.UPLOAD: 100})
    cost = {Spent.UPLOAD: 60}
    quotas.reserve(cost)
    refusal = quotas.find_refusal(cost, 0.0)
    assert refusal is not None
    assert (refusal.used, refusal.wait_s) == (0, 0.0)
    quotas.release(cost)
    assert quotas.find_refusal(cost, 0.0) is None


def test_the_quota_that_takes_longest_is_named() -> None:
    quotas = DailyQuotas({Spent.UPLOAD: 100, Spent.EGRESS: 100, Spent.REQUESTS: 1})
    quotas.spend(Spent.UPLOAD, 100, 0.0)
    quotas.spend(Spent.EGRESS, 100, 5 * HOUR_S)
    cost = {Spent.UPLOAD: 1, Spent.EGRESS: 1, Spent.REQUESTS: 1}
    refusal = quotas.find_refusal(cost, 6 * HOUR_S)
    assert refusal is not None
    assert refusal.spent == Spent.EGRESS
    assert refusal.wait_s == 24 * HOUR_S


def test_what_is_not_limited_is_not_refused() -> None:
    quotas = DailyQuotas({})
    quotas.spend(Spent.UPLOAD, 1 << 60, 0.0)
    assert not quotas
    assert quotas.find_refusal({Spent.UPLOAD: 1 << 60}, 0.0) is None
    assert quotas.uses(0.0) == []


def test_a_report_tells_use_and_when_it_frees() -> None:
    quotas = DailyQuotas({Spent.UPLOAD: 100})
    quotas.spend(Spent.UPLOAD, 30, 10.0)
    quotas.reserve({Spent.UPLOAD: 5})
    [use] = quotas.uses(HOUR_S)
    assert (use.used, use.limit, use.reserved, use.frees_s) == (30, 100, 5, 24 * HOUR_S)


@given(events)
def test_amounts_survive_being_stored(spent: list[tuple[float, int]]) -> None:
    quotas = DailyQuotas({Spent.UPLOAD: 100})
    now_s = 0.0
    for pause_s, amount in spent:
        now_s += pause_s
        quotas.spend(Spent.UPLOAD, amount, now_s)
    again = DailyQuotas({Spent.UPLOAD: 100, Spent.EGRESS: 1})
    again.decode(json.loads(json.dumps(quotas.encode())), now_s)
    assert again.uses(now_s)[0] == quotas.uses(now_s)[0]


def test_an_hour_that_lies_ahead_does_not_count_for_ever() -> None:
    """Damage must not close a quota for good."""
    day = RollingDay()
    day.decode({"99999999": 7}, HOUR_S)
    assert day.total(HOUR_S) == 7
    assert day.total(30 * HOUR_S) == 0


@pytest.mark.parametrize(
    "stored", [{"upload_per_day": {"x": 1}}, {"upload_per_day": 3}, {"upload_per_day": {"1": None}}]
)
def test_damaged_amounts_are_refused(stored: dict[str, dict[str, int]]) -> None:
    with pytest.raises(InvalidValueError):
        DailyQuotas({Spent.UPLOAD: 1}).decode(stored, 0.0)


jumps = st.floats(min_value=-40 * DAY_S, max_value=40 * DAY_S, allow_nan=False)


@given(st.lists(st.tuples(st.floats(min_value=0, max_value=DAY_S), jumps), max_size=20))
def test_jumps_of_the_wall_clock_do_not_count_within_one_run_of_the_machine(
    steps: list[tuple[float, float]],
) -> None:
    """Restarts of the daemon included."""
    moment, true_s, wall_s = Moment(0.0, 1e9, 100.0, "a"), 0.0, 1e9
    for elapsed_s, jump_s in steps:
        true_s += elapsed_s
        wall_s += elapsed_s + jump_s
        now_s = moment.at(wall_s, 100.0 + true_s, "a")
        moment = Moment.decode(Moment(now_s, wall_s, 100.0 + true_s, "a").encode())
    assert moment.now_s == pytest.approx(true_s)


@given(jumps)
def test_time_never_goes_back_from_one_run_of_the_machine_to_the_next(jump_s: float) -> None:
    """A wall clock that was set back makes room later, not sooner and not never."""
    moment = Moment(1000.0, 1e9, 5000.0, "a")
    assert moment.at(1e9 + jump_s, 3.0, "b") == pytest.approx(1000.0 + max(0.0, jump_s))


def test_a_damaged_moment_is_refused() -> None:
    for stored in ("", "{}", "[]", '{"now_s": "x", "wall_s": 0, "boot_s": 0, "boot_id": ""}'):
        with pytest.raises(InvalidValueError):
            Moment.decode(stored)


@given(
    st.lists(
        st.tuples(st.floats(min_value=0, max_value=20), st.integers(min_value=0, max_value=500)),
        min_size=1,
        max_size=40,
    ),
    st.integers(min_value=1, max_value=100),
)
@settings(max_examples=200)
def test_a_pace_never_exceeds_its_rate_by_more_than_one_transfer(
    transfers: list[tuple[float, int]], rate: int
) -> None:
    """In any window between two beginnings."""
    shared, now_s, begun = SharedRate(rate), 0.0, []
    for pause_s, size in transfers:
        now_s += pause_s
        begun.append((now_s + shared.take(size, now_s), size))
    largest = max(size for _, size in begun)
    for first in range(len(begun)):
        for last in range(first, len(begun)):
            window_s = begun[last][0] - begun[first][0]
            sent = sum(size for _, size in begun[first : last + 1])
            assert sent <= rate * window_s + largest + 1e-6 * max(1, rate)


def test_an_idle_pace_saves_nothing_up() -> None:
    """A night without transfers is no reason for a burst in the morning."""
    shared = SharedRate(10)
    assert shared.take(10, 1000.0) == 0.0
    assert shared.take(10, 1000.0) == 1.0
