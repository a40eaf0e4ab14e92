"""The simulator: tiers, baselines, Belady and the bound, against counts made by hand or trial."""

from __future__ import annotations

import itertools
import random

import pytest

from memfs.errors import InvalidValueError
from memfs.simulation.baselines import Fifo, Lru, NoEvict
from memfs.simulation.belady import Belady, Future
from memfs.simulation.bounds import bound_hits
from memfs.simulation.comparison import Capacities, compare
from memfs.simulation.policies import find_policy, policy_names
from memfs.simulation.replay import Figures, Machine, replay
from memfs.traces.trace import Event, Trace

TYPICAL = "abcabdabeabc"


def _trace(text: str, sizes: dict[str, int] | None = None) -> Trace:
    """Accesses of one-letter keys; `!a` is a write, `-a` a removal."""
    trace = Trace()
    numbers: dict[str, int] = {}
    event = Event.ACCESS
    for letter in text:
        if letter in "!-":
            event = Event.WRITE if letter == "!" else Event.REMOVE
            continue
        key = numbers.setdefault(letter, len(numbers))
        trace.add(event, key, (sizes or {}).get(letter, 1))
        event = Event.ACCESS
    trace.names.extend(numbers)
    return trace


def _silent(_done: int, _total: int) -> None:
    return


def _run(trace: Trace, machine: Machine) -> Figures:
    return replay(trace, "policy", machine, _silent)


def _warm_hits(trace: Trace, queue: Fifo | Belady) -> int:
    return _run(trace, Machine(queue, None)).warm.hits.count


@pytest.mark.parametrize(
    ("queue", "expected"),
    [(Fifo, 4), (Lru, 6), (NoEvict, 7)],
    ids=["fifo", "lru", "no-evict"],
)
def test_baselines_do_what_their_names_say(queue: type[Fifo], expected: int) -> None:
    """By hand: capacity 3; `a b c` fill it, `d` and `e` push out or stay out."""
    assert _warm_hits(_trace(TYPICAL), queue(3)) == expected


def test_what_may_not_leave_is_passed_over() -> None:
    for queue in (Fifo(3), Lru(3)):
        for key in (1, 2, 3):
            queue.insert(key, 1)
        assert queue.evict(2, lambda key: key != 2) == [1, 3]
        assert 2 in queue
        assert queue.used_bytes == 1


def _best_hits(trace: Trace, capacity: int) -> int:
    """By trying everything: the most hits that any choice of what to keep can give."""
    states = {frozenset[int](): 0}
    for key in trace.keys:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            with_key = held | {key}
            count = hits + (key in held)
            for size in range(capacity + 1):
                for kept in itertools.combinations(with_key, min(size, len(with_key))):
                    state = frozenset(kept)
                    following[state] = max(following.get(state, 0), count)
        states = following
    return max(states.values())


@pytest.mark.parametrize("seed", range(20))
def test_belady_is_the_best_for_equal_sizes_and_the_bound_is_above_it(seed: int) -> None:
    rng = random.Random(seed)
    trace = _trace("".join(rng.choices("abcde", k=14)))
    for capacity in (1, 2, 3):
        best = _best_hits(trace, capacity)
        assert _warm_hits(trace, Belady(capacity, Future(trace))) == best
        bound = bound_hits(trace, capacity)
        assert bound.hit_count >= best
        assert bound.hit_bytes >= best


@pytest.mark.parametrize("seed", range(10))
def test_no_policy_exceeds_the_bound(seed: int) -> None:
    rng = random.Random(seed)
    letters = "abcdefghijkl"
    sizes = {letter: rng.randrange(1, 50) for letter in letters}
    text = "".join(rng.choice(["", "", "", "!", "-"]) + rng.choice(letters) for _ in range(400))
    trace = _trace(text, sizes)
    comparison = compare(trace, Capacities(100, 150), policy_names(), lambda *_: None)
    for figures in (*comparison.figures, comparison.belady):
        assert figures.hit_ratio() <= comparison.bound_hit_ratio
        assert figures.byte_hit_ratio() <= comparison.bound_byte_hit_ratio


def test_the_bound_without_pressure_is_what_was_seen_before() -> None:
    """All but the first accesses; a removed key has to be fetched again."""
    assert bound_hits(_trace("abab-aab"), 100).hit_count == pytest.approx(3)
    assert bound_hits(_trace("!aa"), 100).hit_count == pytest.approx(1)


def test_a_key_larger_than_the_tier_is_no_part_of_the_bound() -> None:
    assert bound_hits(_trace("aaa", {"a": 10}), 9) == (0, 0)


def test_belady_keeps_its_memory_bounded() -> None:
    trace = _trace("ab" * 5000)
    queue = Belady(2, Future(trace))
    assert _warm_hits(trace, queue) == 9998
    assert len(queue._heap) < 100


def test_bytes_are_counted_where_they_come_from() -> None:
    """`a` comes from the store, then from RAM; `b` pushes it out of RAM, then it is on the disk."""
    trace = _trace("aaba", {"a": 10, "b": 5})
    figures = _run(trace, Machine(Lru(10), Lru(100)))
    assert figures.accesses.size_bytes == 35
    assert figures.warm.hits.size_bytes == 10
    assert figures.cold.hits.size_bytes == 10
    assert figures.fetched.size_bytes == 15
    assert figures.warm.moved_in.size_bytes == 25
    assert figures.warm.moved_out.size_bytes == 15
    assert figures.cold.moved_in.size_bytes == 15
    assert figures.cold.moved_out.size_bytes == 0


def test_what_is_in_ram_leaves_the_disk_last() -> None:
    """`a` is the disk's oldest, but RAM holds it, as locking pages takes a raw file."""
    figures = _run(_trace("abcab"), Machine(NoEvict(1), Fifo(2)))
    assert figures.warm.hits.count == 1
    assert figures.cold.hits.count == 0
    assert figures.fetched.count == 4


def test_what_the_disk_has_no_room_for_leaves_ram_too() -> None:
    trace = _trace("abb", {"a": 6, "b": 8})
    figures = _run(trace, Machine(NoEvict(10), Fifo(10)))
    assert figures.warm.moved_out.size_bytes == 6
    assert figures.warm.hits.size_bytes == 8


def test_a_written_file_need_not_be_fetched() -> None:
    figures = _run(_trace("!aa"), Machine(Lru(10), Lru(10)))
    assert figures.accesses.count == 1
    assert figures.warm.hits.count == 1
    assert figures.fetched.count == 0


def test_a_removed_file_leaves_room() -> None:
    figures = _run(_trace("ab-acbc"), Machine(NoEvict(2), None))
    assert figures.warm.hits.count == 2


def test_a_file_that_grew_takes_its_new_size() -> None:
    trace = _trace("ab", {"a": 4, "b": 4})
    trace.add(Event.WRITE, 0, 8)
    trace.add(Event.ACCESS, 0, 8)
    figures = _run(trace, Machine(Lru(8), None))
    assert figures.warm.moved_out.size_bytes == 4
    assert figures.warm.hits.size_bytes == 8


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidValueError, match="did you mean 's3fifo'"):
        find_policy("s3-fifo")
    with pytest.raises(InvalidValueError, match="there are s3fifo, lru"):
        find_policy("magic")


def test_a_comparison_concludes_in_one_sentence() -> None:
    comparison = compare(
        _trace(TYPICAL), Capacities(3, None), ["no-evict", "fifo"], lambda *_: None
    )
    assert comparison.to_json()["conclusion"] == (
        "With 3 B of RAM, no-evict serves 58.3 % of the bytes from RAM, 25.0 points more than "
        "fifo, 100 % of what Belady reaches, who knows the future."
    )
