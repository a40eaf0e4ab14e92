"""Ages of marks: what users write comes back, and what is not named is as configured."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.policy.access_stats import AccessStats
from memfs.policy.ages import AGE_S_MAX, NO_AGES, Ages, parse_ages
from memfs.policy.outlook import Facts, outlook
from memfs.policy.view import Goal
from memfs.types import InodeNo, Tier
from tests.unit.test_policy import DAY_NS, LIMITS, candidate, goals, view

AGE_NS = st.none() | st.integers(0, int(AGE_S_MAX)).map(lambda seconds: seconds * 10**9)


@given(st.builds(Ages, *[AGE_NS] * len(Ages._fields)))
def test_what_is_stored_is_read_as_the_same(ages: Ages) -> None:
    assert parse_ages(ages.text()) == ages
    named = [age for age in ages if age is not None]
    assert ages.shortest_ns == (min(named) if named else None)


def test_ages_are_written_as_in_the_configuration() -> None:
    text = json.dumps({"warm_to_cold": "12h", "cold_to_glacier": 90})
    assert parse_ages(text) == Ages(12 * 3600 * 10**9, None, 90 * 10**9)
    assert parse_ages("{}") == NO_AGES


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("72h", "no object such as"),
        ("[1]", "its keys are warm_to_cold, pack_after, cold_to_glacier"),
        ('{"warm_to_colt": 1}', "did you mean 'warm_to_cold'"),
        ('{"hot": 1}', "there are warm_to_cold"),
        ('{"pack_after": "soon"}', "policy pack_after: 'soon'"),
        ('{"pack_after": -1}', "policy pack_after"),
        ('{"pack_after": null}', "policy pack_after"),
        ('{"pack_after": "4000d"}', "longer than ten years"),
    ],
)
def test_what_is_no_policy_is_told_with_its_key(text: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        parse_ages(text)


def test_a_mark_counts_for_its_files_and_for_no_others() -> None:
    """One makes a file go early, another one keeps it, and what it does not name is as before."""
    now = view(
        candidate(1, accessed_ns=-1 * DAY_NS, held=True, ages=Ages(warm_to_cold_ns=DAY_NS // 2)),
        candidate(2, accessed_ns=-1 * DAY_NS, held=True),
        candidate(3, accessed_ns=-31 * DAY_NS, ages=Ages(cold_to_glacier_ns=40 * DAY_NS)),
        candidate(4, accessed_ns=-31 * DAY_NS),
        candidate(5, accessed_ns=-8 * DAY_NS, ages=Ages(warm_to_cold_ns=0)),
    )._replace(now_ns=0)
    assert goals(now) == {1: Goal.COLD, 3: Goal.PACKED, 4: Goal.GLACIER, 5: Goal.PACKED}


def test_why_names_the_mark() -> None:
    stats = AccessStats()
    stats.limits = LIMITS
    told = outlook(Facts(InodeNo(1), Tier.WARM, None, 0, "", True, Ages(DAY_NS)), stats)
    assert "until 1970-01-02 00:00:00 UTC (user.memfs.policy warm_to_cold)" in told
    told = outlook(Facts(InodeNo(1), Tier.COLD, None, 0, "", True, Ages(DAY_NS)), stats)
    assert "(policy.pack_after)" in told
    # A node that reads what another one writes has nothing to pack.
    told = outlook(Facts(InodeNo(1), Tier.COLD, None, 0, "", True, packs=False), stats)
    assert "goes to the object store" in told
    assert "pack" not in told


def test_the_shortest_age_is_what_files_are_looked_for_by() -> None:
    stats = AccessStats()
    assert stats.shortest_age_ns is None
    for age in (7, 3, 5):
        stats.note_age(age)
    assert stats.shortest_age_ns == 3


def test_all_held_files_have_their_turn() -> None:
    stats, held, seen = AccessStats(), list(range(10)), []
    for _ in range(4):
        seen += held[stats.next_held(len(held), 3)]
    assert sorted(seen) == held
    assert held[stats.next_held(2, 3)] == [0, 1, 2]
