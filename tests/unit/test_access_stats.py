"""Access statistics and pools: who is charged where, who leaves next, what survives a restart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.policy.access_stats import COLD_COUNT_MAX, STORED_COUNT_MAX, AccessStats, decode, encode
from memfs.policy.marks import parse_priority
from memfs.policy.outlook import Facts, outlook
from memfs.policy.pools import Pools
from memfs.policy.s3fifo import QueueEntry
from memfs.policy.view import PRIORITY_DEFAULT, Capacity
from memfs.types import InodeNo, Tier
from tests.unit.test_policy import LIMITS, NOW_NS

SETTING_BYTES_MAX = 65536
BUDGET = Capacity(1000, 950, 850)


def pools_with_team() -> Pools:
    pools = Pools()
    pools.create("team", 400, 1000)
    pools.rest.resize(Capacity(600, 570, 510))
    pools.named["team"].resize(Capacity(400, 380, 340))
    return pools


def hold(pools: Pools, ino: int, size: int, *, priority: int = 50, pool: str = "") -> None:
    pools.charge(ino, size, priority, pool, pinned=False)


def test_files_are_charged_to_their_pool() -> None:
    pools = pools_with_team()
    hold(pools, 1, 100, pool="team")
    hold(pools, 2, 50)
    pools.charge(3, 30, PRIORITY_DEFAULT, "team", pinned=True)
    assert pools.named["team"].used_bytes == 130
    assert pools.rest.used_bytes == 50


def test_a_file_that_changes_its_pool_is_charged_once() -> None:
    pools = pools_with_team()
    hold(pools, 1, 100)
    hold(pools, 1, 100, pool="team")
    assert pools.rest.used_bytes == 0
    assert pools.named["team"].used_bytes == 100
    pools.leave(1)
    assert pools.named["team"].used_bytes == 0
    assert 1 not in pools


def test_the_files_of_a_removed_pool_are_charged_to_the_rest() -> None:
    """They are in RAM as before, and somebody has to evict them."""
    pools = pools_with_team()
    hold(pools, 1, 100, pool="team")
    pools.charge(2, 30, PRIORITY_DEFAULT, "team", pinned=True)
    pools.remove("team")
    assert pools.rest.used_bytes == 130
    assert pools.rest.pinned == {2: 30}


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("other", 601, "600 bytes of the RAM tier"),
        ("other", 0, "between 1 and"),
        ("team", 1001, "1000 bytes of the RAM tier"),
        ("", 1, "a name has"),
        ("a/b", 1, "a name has"),
        ("-x", 1, "a name has"),
        ("x" * 64, 1, "a name has"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(name: str, size: int, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        pools_with_team().create(name, size, 1000)


def test_an_unknown_pool_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidValueError, match=r"no pool 'x' \(team\)"):
        pools_with_team().require("x")


def test_pools_survive_as_far_as_the_ram_tier_still_has_them() -> None:
    """A smaller warm.size leaves the later pools out and says so."""
    stored = pools_with_team()
    stored.create("late", 300, 1000)
    again = Pools()
    refusals = again.decode(stored.encode(), 500)
    assert again.sizes == {"team": 400}
    assert len(refusals) == 1
    assert "late" in refusals[0]


def test_files_of_low_priority_leave_first_and_those_of_high_priority_last() -> None:
    """And of equal priority the first that came."""
    pools = Pools()
    pools.rest.resize(BUDGET)
    for ino, priority in ((1, 90), (2, 50), (3, 10), (4, 50), (5, 10)):
        hold(pools, ino, 100, priority=priority)
    assert pools.next_to_leave(pools.rest, 450, 10) == [3, 5, 2, 4, 1]


def test_no_more_files_are_taken_than_are_needed_or_asked_for() -> None:
    pools = Pools()
    pools.rest.resize(BUDGET)
    for ino in range(1, 9):
        hold(pools, ino, 100)
    assert pools.next_to_leave(pools.rest, 150, 10) == [1, 2]
    assert pools.next_to_leave(pools.rest, 10_000, 3) == [3, 4, 5]


def test_pinned_files_do_not_leave() -> None:
    pools = Pools()
    pools.rest.resize(BUDGET)
    pools.charge(1, 100, PRIORITY_DEFAULT, "", pinned=True)
    hold(pools, 2, 100)
    assert pools.next_to_leave(pools.rest, 1000, 10) == [2]


@pytest.mark.parametrize("pool_name", ["", "team"])
def test_a_file_that_is_taken_to_leave_stays_a_member_until_it_has_left(pool_name: str) -> None:
    pools = pools_with_team()
    pool = pools.pool(pool_name)
    for ino in (1, 2):
        hold(pools, ino, 100, pool=pool_name)
    assert pools.next_to_leave(pool, 200, 10) == [1, 2]
    assert pool.used_bytes == 0
    hold(pools, 1, 100, pool=pool_name)
    assert (pools.pool_of(1), pools.pool_of(2), len(pools)) == (pool, pool, 2)
    pools.retain(lambda ino: ino == 1)
    assert 2 not in pools
    assert (pool.used_bytes, len(pools)) == (100, 1)


def test_how_often_a_removed_file_was_used_is_forgotten_in_all_pools() -> None:
    """Inode numbers do not come again: it would only take memory."""
    access_stats = AccessStats()
    pools = access_stats.pools = pools_with_team()
    for pool in pools.all():
        pool.queue.access(1, 100)
        assert pool.queue.uses(1) == 1
    access_stats.forget(1)
    assert [pool.queue.uses(1) for pool in pools.all()] == [0, 0]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "pin", "leave", "take"]),
        st.integers(1, 12),
        st.integers(1, 90),
        st.sampled_from(["", "team", "unknown"]),
        st.integers(0, 100),
    ),
    max_size=80,
)


@given(OPERATIONS)
def test_the_pools_add_up(operations: list[tuple[str, int, int, str, int]]) -> None:
    """Each held file is charged once, to the pool that is in force for it."""
    pools = pools_with_team()
    charged: dict[int, tuple[str, int]] = {}
    for name, ino, size, pool_name, priority in operations:
        pool = pools.pool(pool_name)
        if name == "take":
            for taken in pools.next_to_leave(pool, size, 3):
                assert charged.pop(taken)[0] == pool.name
                pools.leave(taken)
        elif name == "leave":
            pools.leave(ino)
            charged.pop(ino, None)
        else:
            pools.charge(ino, size, priority, pool_name, pinned=name == "pin")
            charged[ino] = (pool.name, size)
        for each in (pools.rest, pools.named["team"]):
            assert each.used_bytes == sum(
                size for charged_name, size in charged.values() if charged_name == each.name
            )
        assert len(pools) == len(charged)


def test_a_copy_that_was_fetched_once_leaves_before_proven_files() -> None:
    """SSD admission: one read of the archive does not cost the working set its place."""
    access_stats = AccessStats()
    access_stats.cold.resize(300)
    for ino in (1, 2, 3):
        access_stats.use_local(ino, 100, copied=False)
        access_stats.use_local(ino, 100, copied=False)
    access_stats.use_local(9, 100, copied=True)
    assert access_stats.take_visitors(10) == [9]
    access_stats.use_local(9, 100, copied=True)
    assert access_stats.take_visitors(10) == []
    assert 9 in access_stats.cold


def test_files_that_were_written_here_need_no_proof() -> None:
    """They exist nowhere else; that they are on the disk is no decision."""
    access_stats = AccessStats()
    access_stats.cold.resize(100)
    access_stats.use_local(1, 100, copied=False)
    access_stats.use_local(2, 100, copied=False)
    assert 1 in access_stats.cold
    assert 2 in access_stats.cold


def test_opens_within_the_window_make_a_file_raw() -> None:
    access_stats = AccessStats(promote_count=3, promote_window_s=10.0)
    access_stats.cold.resize(1000)
    seconds = [0, 9, 20, 21, 22]
    found = [access_stats.is_read_often(1, 100, second * 10**9) for second in seconds]
    assert found == [False, False, False, False, True]


def test_the_disk_tier_knows_a_bounded_number_of_files() -> None:
    assert COLD_COUNT_MAX == 174_000
    access_stats = AccessStats(cold_count_max=5)
    access_stats.cold.resize(10**9)
    for ino in range(20):
        access_stats.use_local(ino, 1, copied=False)
    assert len(access_stats.cold) == 5


def test_statistics_survive_a_restart_in_bounded_form() -> None:
    """Even where all numbers are large and nothing compresses, it fits into one setting."""
    generator = random.Random(1)
    entries = [
        QueueEntry(generator.randrange(1 << 40), generator.randrange(1 << 38), 3, main=True)
        for _ in range(STORED_COUNT_MAX * 2)
    ]
    stored = encode(entries)
    assert len(stored) <= SETTING_BYTES_MAX
    assert decode(stored) == entries[-STORED_COUNT_MAX:]


def test_statistics_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="cannot be read"):
        decode(b"nonsense")


def test_what_was_proven_before_a_restart_is_proven_after_it() -> None:
    access_stats = AccessStats()
    access_stats.cold.resize(1000)
    access_stats.pools.rest.resize(BUDGET)
    for _ in range(2):
        access_stats.use_local(7, 100, copied=False)
    hold(access_stats.pools, 8, 100)
    again = AccessStats()
    again.cold.resize(1000)
    again.pools.rest.resize(BUDGET)
    again.decode_cold(access_stats.encode_cold())
    again.decode_warm(access_stats.encode_warm())
    assert 7 in again.cold
    assert again.pools.rest.queue.uses(8) == 1
    assert 8 not in again.pools


@pytest.mark.parametrize("text", ["0", "50", "100", "007"])
def test_a_priority_is_a_whole_number(text: str) -> None:
    assert parse_priority(text) == int(text)


@pytest.mark.parametrize("text", ["", "-1", "101", "1000", "high", "5.5", "+5", " 5", "٣"])
def test_what_is_no_priority_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="0 to 100"):
        parse_priority(text)


def facts(tier: Tier = Tier.WARM, pin: Tier | None = None, *, raw: bool = True) -> Facts:
    return Facts(InodeNo(1), tier, pin, NOW_NS, "", raw)


def test_what_would_change_a_place_is_told() -> None:
    """Times and bytes, not just that it may change."""
    access_stats = AccessStats()
    access_stats.limits = LIMITS
    access_stats.pools.rest.resize(LIMITS.warm)
    access_stats.cold.resize(LIMITS.cold.high_bytes)
    for ino in (3, 2, 1):
        hold(access_stats.pools, ino, 100)
        access_stats.use_local(ino, 100, copied=False)
    warm = outlook(facts(), access_stats)
    assert "policy.warm_to_cold" in warm
    assert "passes 900 B and 200 B before it have left" in warm
    cold = outlook(facts(tier=Tier.COLD), access_stats)
    assert "comes into RAM when it is used again" in cold
    assert "policy.pack_after" in cold
    assert "200 B of used files" in cold
    packed = outlook(facts(tier=Tier.COLD, raw=False), access_stats)
    assert "is packed" not in packed
    assert "policy.cold_to_glacier" in packed
    access_stats.limits = LIMITS._replace(glacier=False)
    assert "it stays packed" in outlook(facts(tier=Tier.COLD, raw=False), access_stats)
    assert "until its pin is removed" in outlook(facts(pin=Tier.COLD), access_stats)
    assert "opened 3 times within 3600 s" in outlook(facts(tier=Tier.GLACIER), access_stats)
