"""The predictor against generated orders: right where there is one, else silent."""

from __future__ import annotations

import gc
import random
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfs.prediction.accesses import Access, Source
from memfs.prediction.listings import LISTED_COUNT_MAX
from memfs.prediction.predictor import Predictor
from memfs.prediction.scores import OPEN_COUNT_MAX, PROBE_EACH, WINDOW_NS
from memfs.prediction.successors import KEY_COUNT
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DIRECTORY = InodeNo(2)
SECOND_NS = 1_000_000_000


class Reader:
    """Programs that open the files of one directory, and the mover that looks the guesses up."""

    def __init__(self, names: Sequence[bytes], predictor: Predictor | None = None) -> None:
        self.predictor = predictor or Predictor()
        self.names = list(names)
        self.inos = {name: InodeNo(at) for at, name in enumerate(names, start=10)}
        self.time_ns = SECOND_NS
        self.request_count = 0
        self.version = 1

    def open(self, name: bytes, process: int = 100, uid: int = 1000) -> set[bytes]:
        """Open one file; returns the files that are guessed to follow."""
        self.time_ns += SECOND_NS // 1000
        self.request_count += 1
        ino = self.inos[name]
        guesses = self.predictor.observe(Access(DIRECTORY, name, ino, uid, process, self.time_ns))
        by_ino = {ino: name for name, ino in self.inos.items()} if len(self.inos) < 2000 else {}
        found = set()
        for guess in guesses:
            target = guess.ino or self.inos.get(guess.name)
            if not target:
                continue
            if not self.predictor.scores.is_open(target):
                found.add(by_ino.get(target, guess.name))
            self.predictor.scores.issue(guess.sources, target, self.time_ns)
        for directory in self.predictor.take_listing_wanted():
            self.predictor.learn_listing(directory, self.names, self.version, self.time_ns)
        return found

    def read(self, names: Iterable[bytes], process: int = 100) -> None:
        for name in names:
            self.open(name, process)

    def finish(self) -> None:
        """Let the time pass in which a guess can be right."""
        self.predictor.scores.expire(self.time_ns + 2 * WINDOW_NS)

    def precision(self, source: Source) -> float:
        score = self.predictor.scores.by_source[source]
        return score.hit_count / max(1, score.hit_count + score.wasted_count)

    @property
    def wasted_count(self) -> int:
        return sum(score.wasted_count for score in self.predictor.scores.by_source.values())

    @property
    def hit_count(self) -> int:
        return sum(score.hit_count for score in self.predictor.scores.by_source.values())


def numbered(count: int, width: int = 5) -> list[bytes]:
    return [b"img_%b.jpg" % str(at).zfill(width).encode() for at in range(count)]


def words(count: int) -> list[bytes]:
    """Names without numbers, in an order that is not that of the alphabet."""
    letters = "abcdefghij"
    names = ["".join(letters[int(digit)] for digit in f"{at:04}").encode() for at in range(count)]
    random.Random(5).shuffle(names)
    return names


# --- acceptance ----------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [numbered(2000), numbered(2000, 1)], ids=["padded", "plain"])
@pytest.mark.parametrize("stride", [1, 3, -1])
def test_numbers_that_count_are_guessed_with_precision(names: list[bytes], stride: int) -> None:
    """Acceptance: precision of at least 0.8 on sequences, and most files guessed."""
    reader = Reader(names)
    reader.read(names[::stride])
    reader.finish()
    assert reader.precision(Source.SEQUENCE) >= 0.8
    assert reader.predictor.scores.by_source[Source.SEQUENCE].hit_count >= 0.9 * len(
        names[::stride]
    )


@pytest.mark.parametrize("names", [numbered(1000), words(1000)], ids=["numbers", "words"])
@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_order_wastes_little(names: list[bytes], seed: int) -> None:
    """Acceptance: at most 5 wasted guesses per 100 requests, over several shuffled epochs."""
    reader, rng = Reader(names), random.Random(seed)
    for _ in range(5):
        epoch = list(names)
        rng.shuffle(epoch)
        reader.read(epoch)
    reader.finish()
    assert reader.wasted_count <= 0.05 * reader.request_count


def test_a_mixture_of_epochs_and_favourites_wastes_little() -> None:
    """70 % shuffled, 25 % of few files by Zipf's law, 5 % read once: the usual mixed load."""
    names = numbered(3000)
    reader, rng = Reader(names), random.Random(4)
    epoch: list[bytes] = []
    for _ in range(10_000):
        kind = rng.random()
        if kind < 0.25:
            name = names[min(len(names) - 1, int(rng.paretovariate(1.0)) - 1)]
        else:
            if not epoch:
                epoch = rng.sample(names, len(names))
            name = epoch.pop()
        reader.open(name)
    reader.finish()
    assert reader.wasted_count <= 0.05 * reader.request_count


def deep_bytes(root: object) -> int:
    """Return what an object holds in memory, with all that it refers to but types."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, type):
            seen[id(found)] = found
            waiting += gc.get_referents(found)
    return sum(map(sys.getsizeof, seen.values()))


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(KEY_COUNT * 5 // 4, marks=pytest.mark.slow)]
)
def test_memory_is_bounded_however_many_names_there_are(count: int) -> None:
    """More than its tables take, opened by thousands of programs, in long different names."""
    predictor = Predictor()
    for at in range(count):
        name = b"%0180d-%d-of-9" % (at * 7919 % 1_000_003, at % 9)
        directory = InodeNo(2 + at // 9 % 5000)
        access = Access(directory, name, InodeNo(at + 10_000), at % 7, at // 9 % 3001, at * 1000)
        for guess in predictor.observe(access):
            predictor.scores.issue(guess.sources, guess.ino or InodeNo(at), access.time_ns)
        if wanted := predictor.take_listing_wanted() if at < 10_000 else []:
            names = [b"%0100d" % (number + at) for number in range(LISTED_COUNT_MAX // 64)]
            predictor.learn_listing(wanted[0], names, 1, access.time_ns)
    assert deep_bytes(predictor) < 24 << 20


# --- sequences -----------------------------------------------------------------------------------
def test_two_equal_steps_make_a_sequence_that_looks_further_and_further() -> None:
    """Depth 2, then 4, then 8, and no name twice."""
    reader = Reader(numbered(50))
    names = reader.names
    found = [reader.open(name) for name in names[:6]]
    assert found == [
        set(),
        set(),
        set(names[3:5]),
        set(names[5:8]),
        set(names[8:13]),
        set(names[13:14]),
    ]


def test_two_readers_in_one_directory_keep_their_own_sequences() -> None:
    """Interleaved they would look like no order at all."""
    reader = Reader(numbered(100))
    found: set[bytes] = set()
    for at in range(10):
        reader.open(reader.names[at], process=1)
        found |= reader.open(reader.names[80 - at * 2], process=2)
    assert found >= set(reader.names[50:61:2])


def test_files_of_a_pair_are_both_guessed() -> None:
    """`1.jpg 1.txt 2.jpg 2.txt`: each kind counts for itself."""
    names = [b"%04d.%b" % (at, kind) for at in range(50) for kind in (b"jpg", b"txt")]
    reader = Reader(names)
    reader.read(names[:20])
    assert reader.open(names[20]) == {b"0018.jpg"}
    assert reader.open(names[21]) == {b"0018.txt"}


def test_a_command_for_each_file_is_a_sequence_too() -> None:
    """`for f in *; do cat $f; done`: a new process each time."""
    reader = Reader(numbered(50))
    for process, name in enumerate(reader.names[:10], start=500):
        reader.open(name, process)
    assert reader.hit_count >= 7


def test_two_users_do_not_disturb_each_other() -> None:
    """Commands of one user say nothing of another's."""
    reader = Reader(numbered(50))
    for at, other in enumerate([40, 13, 29, 22]):
        reader.open(reader.names[at], process=500 + at, uid=1)
        assert reader.open(reader.names[other], process=600 + at, uid=2) == set()


# --- the order of directories --------------------------------------------------------------------
@pytest.mark.parametrize("order", ["readdir", "name"])
def test_names_without_numbers_follow_the_order_of_the_directory(order: str) -> None:
    """By readdir as `os.scandir` gives it, or sorted as `sorted(os.listdir())` does."""
    names = words(500)
    reader = Reader(names)
    reader.read(names if order == "readdir" else sorted(names))
    reader.finish()
    assert reader.precision(Source.LISTING) >= 0.8
    assert reader.hit_count >= 450


def test_a_changed_directory_is_listed_anew_but_not_all_the_time() -> None:
    """A log directory that changes all day would be listed all day."""
    reader = Reader(words(100))
    predictor = reader.predictor
    reader.read(reader.names[:10])
    predictor.check_listing(DIRECTORY, 2, reader.time_ns)
    assert reader.open(reader.names[10])
    predictor.check_listing(DIRECTORY, 2, reader.time_ns + 61 * SECOND_NS)
    reader.predictor.observe(
        Access(DIRECTORY, reader.names[11], reader.inos[reader.names[11]], 1000, 100, 1)
    )
    assert predictor.take_listing_wanted() == [DIRECTORY]


def test_a_huge_directory_is_not_kept() -> None:
    """Its order would push out all others."""
    predictor = Predictor()
    predictor.learn_listing(DIRECTORY, [b"%d" % at for at in range(LISTED_COUNT_MAX + 1)], 1, 1)
    access = Access(DIRECTORY, b"7", InodeNo(9), 0, 1, 2)
    assert predictor.observe(access) == []
    assert predictor.take_listing_wanted() == []


# --- shard sets ----------------------------------------------------------------------------------
def test_all_shards_are_guessed_once_one_is_opened() -> None:
    """A model is loaded whole."""
    names = [b"model-%05d-of-00030.safetensors" % at for at in range(1, 31)]
    reader = Reader([*names, b"config.json"])
    assert reader.open(names[4]) == set(names) - {names[4]}
    assert reader.open(names[5]) == set()
    reader.read([*names[6:], *names[:4]])
    reader.finish()
    assert reader.precision(Source.SHARDS) == 1.0


def test_a_set_is_guessed_again_when_it_is_loaded_again() -> None:
    """Tomorrow's run opens the same model, whose shards may have gone meanwhile."""
    names = [b"model-%05d-of-00003.bin" % at for at in range(3)]
    reader = Reader(names)
    reader.read(names)
    reader.time_ns += WINDOW_NS
    assert reader.open(names[1], process=7) == {names[0], names[2]}


# --- successors ----------------------------------------------------------------------------------
def test_what_followed_twice_is_guessed() -> None:
    """A program's own order, which neither names nor directory tell."""
    names = words(60)
    order = random.Random(3).sample(names, 20)
    reader = Reader(names)
    for process in (1, 2):
        reader.read(order, process)
    reader.finish()
    before = reader.predictor.scores.by_source[Source.SUCCESSOR].hit_count
    reader.read(order, 3)
    assert reader.predictor.scores.by_source[Source.SUCCESSOR].hit_count - before >= 18


# --- throttle ------------------------------------------------------------------------------------
def test_a_source_that_is_wrong_stops_and_only_probes() -> None:
    """Each source pays for its own mistakes: three in a row, then elsewhere, again and again."""
    names = numbered(100_000)
    reader = Reader(names)
    for begin in range(0, 90_000, 500):
        reader.read(names[begin : begin + 3])
        reader.time_ns += 2 * WINDOW_NS
    score = reader.predictor.scores.by_source[Source.SEQUENCE]
    assert score.stopped
    assert score.hit_count == 0
    assert score.issued_count <= 10 + 360 / PROBE_EACH


def test_a_stopped_source_proves_itself_again() -> None:
    """When the load becomes regular, the guesses come back."""
    names = numbered(3000)
    reader = Reader(names)
    reader.predictor.scores.by_source[Source.SEQUENCE].precision = 0.3
    reader.read(names)
    assert not reader.predictor.scores.by_source[Source.SEQUENCE].stopped
    assert reader.open(names[-8]) == set()


def test_nothing_is_guessed_while_hints_are_followed() -> None:
    """A sampler's order is exact; guesses beside it only waste."""
    reader = Reader(numbered(50))
    for name in reader.names[:10]:
        reader.predictor.scores.issue_hint(reader.inos[name])
        assert reader.open(name) == set()
    hint = reader.predictor.scores.by_source[Source.HINT]
    assert (hint.issued_count, hint.hit_count, hint.wasted_count) == (10, 10, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [*numbered(30, 2), *words(10), *(b"s-%d-of-5" % at for at in range(6))]
            ),
            st.integers(0, 3),
            st.sampled_from([0, SECOND_NS, WINDOW_NS]),
        ),
        max_size=200,
    )
)
def test_every_guess_ends_once(accesses: list[tuple[bytes, int, int]]) -> None:
    """Issued = hit + wasted + open, for every order; and never the file that was just opened."""
    reader = Reader([*numbered(30, 2), *words(10), *(b"s-%d-of-5" % at for at in range(6))])
    scores = reader.predictor.scores
    for name, process, passed_ns in accesses:
        reader.time_ns += passed_ns
        assert name not in reader.open(name, process)
        assert not scores.is_open(reader.inos[name])
        assert scores.open_count <= OPEN_COUNT_MAX
        assert all(0.0 <= score.precision <= 1.0 for score in scores.by_source.values())
    reader.finish()
    assert scores.open_count == 0
    for score in scores.by_source.values():
        assert score.issued_count == score.hit_count + score.wasted_count
