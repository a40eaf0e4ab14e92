"""S3-FIFO: its account, its bounds, and what it keeps of the traces that matter."""

from __future__ import annotations

import random
from bisect import bisect
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.policy.ghosts import USES_MAX, Ghosts
from memfs.policy.loops import SAMPLED_COUNT_MAX, LoopDetector
from memfs.policy.s3fifo import S3Fifo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.policy.queues import EvictionQueue

Trace = list[tuple[int, int]]
"""Keys and their sizes, in the order of access."""

FILE_COUNT = 1000
EPOCH_COUNT = 8


def hit_bytes(queue: EvictionQueue, trace: Trace) -> int:
    found = 0
    for key, size in trace:
        if queue.access(key, size):
            found += size
        elif queue.admits(key, size):
            queue.evict(queue.used_bytes + size - queue.capacity_bytes)
            queue.insert(key, size)
            assert queue.used_bytes <= queue.capacity_bytes
    return found


def lru_hit_bytes(capacity: int, trace: Trace) -> int:
    held: OrderedDict[int, int] = OrderedDict()
    found = used = 0
    for key, size in trace:
        if key in held:
            found += size
            held.move_to_end(key)
        else:
            held[key] = size
            used += size
            while used > capacity:
                used -= held.popitem(last=False)[1]
    return found


def epochs(shuffled: bool, first: int = 0, count: int = EPOCH_COUNT) -> Trace:
    generator = random.Random(1)
    keys = list(range(first, first + FILE_COUNT))
    trace: Trace = []
    for _ in range(count):
        if shuffled:
            generator.shuffle(keys)
        trace += [(key, 1000 + key % 7 * 100) for key in keys]
    return trace


def popular(skew: float, sizes: Sequence[int], drift: bool, seed: int = 3) -> Trace:
    """Accesses by Zipf's law, whose ranks change places where there is drift."""
    generator = random.Random(seed)
    ranks = list(accumulate(1 / (rank + 1) ** skew for rank in range(len(sizes))))
    keys = list(range(len(sizes)))
    generator.shuffle(keys)
    trace: Trace = []
    for number in range(8_000):
        if drift and number % 20 == 0:
            one, other = generator.randrange(len(keys)), generator.randrange(len(keys))
            keys[one], keys[other] = keys[other], keys[one]
        key = keys[min(len(keys) - 1, bisect(ranks, generator.random() * ranks[-1]))]
        trace.append((key, sizes[key]))
    return trace


def mixed() -> Trace:
    """70 % shuffled epochs, 25 % popular files, 5 % read once."""
    generator = random.Random(2)
    others = iter(popular(1.0, [1000] * FILE_COUNT, drift=False))
    trace: Trace = []
    for number, access in enumerate(epochs(shuffled=True)):
        trace.append(access)
        while (chance := generator.random()) > 0.7:
            trace.append(
                (10**6 + next(others)[0], 1000) if chance < 0.95 else (10**9 + number, 1000)
            )
    return trace


def zoo() -> Trace:
    generator = random.Random(4)
    sizes = [int(generator.lognormvariate(8, 1.5)) + 1 for _ in range(FILE_COUNT)]
    return popular(1.0, sizes, drift=True)


def footprint(trace: Trace) -> int:
    return sum(dict(trace).values())


@pytest.mark.parametrize("shuffled", [False, True], ids=["sequential", "shuffled"])
def test_epochs_over_more_than_the_tier_get_what_is_possible(shuffled: bool) -> None:
    """At least 90 % of the bound: a tier of 30 % can hit 30 % of all epochs but the first."""
    trace = epochs(shuffled)
    capacity = footprint(trace) * 3 // 10
    queue = S3Fifo(capacity)
    bound = capacity * (EPOCH_COUNT - 1)
    assert hit_bytes(queue, trace) >= 0.9 * bound
    assert queue.frozen


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("trace", [mixed(), zoo()], ids=["mix", "zoo"])
def test_popular_files_do_no_worse_than_with_lru(trace: Trace, share: float) -> None:
    """By bytes, and at every size of the tier."""
    capacity = int(footprint(trace) * share)
    ours = hit_bytes(S3Fifo(capacity), trace)
    total = sum(size for _, size in trace)
    assert ours >= lru_hit_bytes(capacity, trace) - 0.02 * total


def test_popular_files_survive_a_scan() -> None:
    """Reading everything once, as a backup does, costs no popular file its place."""
    queue = S3Fifo(100)
    for _ in range(3):
        hit_bytes(queue, [(key, 1) for key in range(60)])
    hit_bytes(queue, [(1000 + key, 1) for key in range(500)])
    assert sum(key in queue for key in range(60)) >= 55


def test_a_freeze_ends_with_the_data_set() -> None:
    """Training goes on with other files: the first ones must not stay for ever."""
    first, second = epochs(shuffled=True), epochs(shuffled=True, first=10**6)
    queue = S3Fifo(footprint(first) * 3 // 10)
    hit_bytes(queue, first)
    assert queue.frozen
    found = hit_bytes(queue, second)
    assert found >= 0.8 * queue.capacity_bytes * (EPOCH_COUNT - 1)
    assert sum(entry.key < 10**6 for entry in queue.entries()) < FILE_COUNT * 0.1


def test_a_freeze_ends_when_the_held_files_are_not_the_ones_read() -> None:
    """A loop over other files that are known already shows no new key at all."""
    both = [*epochs(shuffled=True, count=1), *epochs(shuffled=True, first=10**6, count=1)]
    queue = S3Fifo(footprint(both) // 5)
    hit_bytes(queue, both)
    hit_bytes(queue, epochs(shuffled=True, count=4))
    found = hit_bytes(queue, epochs(shuffled=True, first=10**6))
    assert found >= 0.5 * queue.capacity_bytes * (EPOCH_COUNT - 1)


def test_a_loop_that_fits_is_none() -> None:
    """It hits always; what comes in between must be let in."""
    trace = epochs(shuffled=True, count=4)
    queue = S3Fifo(footprint(trace) * 2)
    hit_bytes(queue, trace)
    assert not queue.frozen


def test_what_was_used_before_it_left_is_proven_when_it_comes_back() -> None:
    """The ghosts: a key that returns soon skips the trial."""
    queue = S3Fifo(10)
    hit_bytes(queue, [(key, 1) for key in range(11)])
    assert 0 not in queue
    hit_bytes(queue, [(0, 1)])
    assert [entry.key for entry in queue.entries() if entry.main] == [0]


def test_with_proof_a_key_used_once_pushes_nothing_out() -> None:
    """A disk is not rewritten for what is read once; the second read within memory counts."""
    queue = S3Fifo(10, proof=True)
    hit_bytes(queue, [(key, 1) for key in range(10)])
    assert not queue.access(100, 1)
    assert not queue.admits(100, 1)
    assert not queue.access(100, 1)
    assert queue.admits(100, 1)


def test_with_proof_room_that_is_free_is_used() -> None:
    """An empty disk proves nothing, and needs not to."""
    queue = S3Fifo(10, proof=True)
    assert not queue.access(1, 10)
    assert queue.admits(1, 10)


def test_what_is_larger_than_the_tier_is_not_admitted() -> None:
    """It would push all out and not fit even then."""
    queue = S3Fifo(10)
    assert not queue.access(1, 11)
    assert not queue.admits(1, 11)


def test_a_queue_that_was_stored_goes_on_where_it_was() -> None:
    """Same keys, same order, same proof."""
    queue = S3Fifo(100)
    hit_bytes(queue, [(key % 70, 1 + key % 3) for key in range(500)])
    again = S3Fifo(100)
    again.restore(queue.entries())
    assert list(again.entries()) == list(queue.entries())
    assert again.used_bytes == queue.used_bytes


def test_what_is_remembered_of_an_earlier_run_is_proven_at_its_next_use() -> None:
    """After a start nothing is in RAM; what was proven there need not prove it again."""
    queue = S3Fifo(10)
    hit_bytes(queue, [(key % 3, 1) for key in range(9)] + [(key, 1) for key in range(10, 20)])
    again = S3Fifo(10)
    again.remember(entry for entry in queue.entries() if entry.main)
    hit_bytes(again, [(0, 1), (50, 1)])
    assert {entry.key: entry.main for entry in again.entries()} == {0: True, 50: False}


def test_the_bytes_before_a_key_are_those_that_leave_first() -> None:
    """What a user is told is what happens."""
    queue = S3Fifo(100)
    hit_bytes(queue, [(key, 10) for key in range(10)])
    assert queue.bytes_before(4) == 40
    assert queue.bytes_before(77) is None
    assert 4 not in queue.evict(40)
    assert queue.evict(1) == [4]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "use", "remove", "resize", "evict", "insert"]),
        st.integers(0, 30),
        st.integers(1, 40),
    ),
    max_size=200,
)


@given(OPERATIONS, st.sets(st.integers(0, 30)), st.booleans())
def test_the_account_holds_whatever_happens(
    operations: list[tuple[str, int, int]], kept: set[int], proof: bool
) -> None:
    """Used bytes are the sum of the sizes; what must stay stays; what is freed is enough."""
    queue = S3Fifo(100, proof=proof)
    sizes: dict[int, int] = {}
    for name, key, size in operations:
        if name == "use":
            # A file keeps its size for as long as it is in a queue.
            size = sizes.get(key, size)
            assert queue.access(key, size) == (key in sizes)
            if key not in sizes and queue.admits(key, size):
                queue.insert(key, size)
                sizes[key] = size
        elif name == "insert":
            queue.insert(key, size)
            sizes[key] = size
        elif name == "remove":
            queue.remove(key)
            sizes.pop(key, None)
        elif name == "resize":
            queue.resize(size * 5)
        else:
            victims = queue.evict(size, lambda each: each not in kept)
            assert not kept.intersection(victims)
            assert len(set(victims)) == len(victims)
            freed = sum(sizes.pop(victim) for victim in victims)
            assert freed >= size or not sizes.keys() - kept
            # And not a key more than that takes.
            assert not victims or freed < size + 40
        assert queue.used_bytes == sum(sizes.values())
        assert {entry.key: entry.size_bytes for entry in queue.entries()} == sizes
        assert len(queue) == len(sizes)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(1, 9)), max_size=100))
def test_ghosts_are_bounded_in_bytes_and_count(notes: list[tuple[int, int, int]]) -> None:
    """Whatever leaves, memory does not grow."""
    ghosts = Ghosts(capacity_bytes=100, count_max=7)
    sizes: dict[int, int] = {}
    for key, size, uses in notes:
        ghosts.note(key, size, uses)
        sizes[key] = size
        remembered = [each for each in sizes if ghosts.uses(each)]
        assert len(remembered) == len(ghosts) <= 7
        assert sum(sizes[each] for each in remembered) <= 100
        assert ghosts.uses(key) == min(uses, USES_MAX)


def test_the_detector_follows_a_bounded_number_of_keys() -> None:
    """Ten times as many keys as it follows, and it still sees the loop."""
    detector = LoopDetector(capacity_bytes=SAMPLED_COUNT_MAX)
    for _ in range(2):
        for key in range(SAMPLED_COUNT_MAX * 10):
            detector.access(key, 1, hit=False)
            assert detector.sampled_count <= SAMPLED_COUNT_MAX
    assert detector.looping
