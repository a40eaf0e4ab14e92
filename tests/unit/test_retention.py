"""Which automatic snapshots are due, and which ones rules keep."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from memfs.policy.retention import (
    KeptSnapshot,
    RetentionRule,
    first_to_drop,
    is_due,
    is_protected,
    list_expired,
    next_due_ns,
)

HOUR, DAY = 3600, 86400
NS = 1_000_000_000
RULES = st.lists(
    st.builds(
        RetentionRule,
        st.sampled_from([60.0, float(HOUR), float(DAY)]),
        st.integers(0, 5),
        st.sampled_from([0.0, 3600.0, 86400.0]),
    ),
    max_size=3,
)
SNAPSHOTS = st.lists(
    st.builds(
        KeptSnapshot,
        st.just(0),
        st.integers(0, 3 * DAY).map(lambda second: second * NS),
        st.booleans(),
        st.none() | st.integers(0, 4 * DAY).map(lambda second: second * NS),
        st.booleans(),
    ),
    max_size=30,
).map(
    lambda found: [
        each._replace(snap=number)
        for number, each in enumerate(sorted(found, key=lambda each: each.created_ns))
    ]
)
NOW_NS = 3 * DAY * NS


def hourly(count: int) -> list[KeptSnapshot]:
    return [KeptSnapshot(number, number * HOUR * NS + 5, True) for number in range(count)]


def test_a_day_of_hours_and_a_week_of_days() -> None:
    rules = [RetentionRule(HOUR, 24), RetentionRule(DAY, 7)]
    found = hourly(24 * 10)
    expired = list_expired(rules, found, 10 * DAY * NS)
    kept = [each.snap for each in found if each.snap not in expired]
    last_of_days = [24 * day + 23 for day in range(3, 9)]
    assert kept == [*last_of_days, *range(24 * 9, 24 * 10)]


def test_what_is_young_is_kept_by_its_age() -> None:
    rules = [RetentionRule(HOUR, 0, 3 * HOUR)]
    assert list_expired(rules, hourly(10), 10 * HOUR * NS) == list(range(7))


@given(RULES, SNAPSHOTS)
def test_what_is_no_rule_s_stays(rules: list[RetentionRule], found: list[KeptSnapshot]) -> None:
    expired = set(list_expired(rules, found, NOW_NS))
    for each in found:
        if not each.automatic or is_protected(each, NOW_NS):
            assert each.snap not in expired
    dropped = first_to_drop(found, NOW_NS)
    older = [each for each in found if each.automatic and not is_protected(each, NOW_NS)]
    assert dropped == (older[0].snap if older else None)


@given(RULES, SNAPSHOTS)
def test_each_rule_has_its_periods(rules: list[RetentionRule], found: list[KeptSnapshot]) -> None:
    expired = set(list_expired(rules, found, NOW_NS))
    automatic = [each for each in found if each.automatic]
    for rule in rules:
        period = int(rule.every_s) * NS
        last = {each.created_ns // period: each.snap for each in automatic}
        wanted = sorted(last, reverse=True)[: rule.keep]
        assert not expired & {last[each] for each in wanted}
    bound = sum(rule.keep for rule in rules if not rule.keep_within_s)
    if not any(rule.keep_within_s for rule in rules):
        unprotected = [each for each in automatic if not is_protected(each, NOW_NS)]
        assert len([each for each in unprotected if each.snap not in expired]) <= bound


@given(RULES, SNAPSHOTS)
def test_to_remove_often_leaves_what_removing_once_does(
    rules: list[RetentionRule], found: list[KeptSnapshot]
) -> None:
    rules = [rule._replace(keep_within_s=0.0) for rule in rules]
    found = [each._replace(kept_until_ns=None) for each in found]
    once = set(list_expired(rules, found, NOW_NS))
    left: list[KeptSnapshot] = []
    for each in found:
        left.append(each)
        gone = set(list_expired(rules, left, each.created_ns))
        left = [other for other in left if other.snap not in gone]
    assert {each.snap for each in found} - {each.snap for each in left} == once


def test_a_period_that_has_begun_is_due_once() -> None:
    rules = [RetentionRule(HOUR, 24), RetentionRule(DAY, 7)]
    assert not is_due(rules, 5 * NS, (HOUR - 1) * NS)
    assert is_due(rules, 5 * NS, HOUR * NS)
    assert not is_due(rules, HOUR * NS, (HOUR + 1) * NS)
    assert not is_due([], 0, 10 * DAY * NS)
    assert next_due_ns(rules, (HOUR + 1) * NS) == 2 * HOUR * NS
    assert next_due_ns([], 0) is None
