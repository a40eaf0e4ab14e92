"""What prediction has learned, stored and put back; whatever bytes are found."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.errors import InvalidValueError
from memfs.prediction.accesses import Access, Source
from memfs.prediction.predictor import Predictor
from memfs.prediction.storing import SETTING_NAMES, dump, restore
from memfs.prediction.successors import KEPT, KEY_COUNT, WAYS, SuccessorTable
from memfs.types import SETTING_VALUE_BYTES_MAX, InodeNo

SCORES = SETTING_NAMES[0]


def educated() -> Predictor:
    predictor = Predictor()
    for turn in range(2):
        for ino in (50, 20, 70):
            access = Access(InodeNo(2), b"x%d" % ino, InodeNo(ino), 1000, turn + 1, ino)
            predictor.observe(access)
    predictor.scores.by_source[Source.LISTING].precision = 0.25
    return predictor


def test_a_restart_keeps_scores_and_successors() -> None:
    """A stopped source stays stopped, and what followed twice is guessed."""
    restored = Predictor()
    for name, value in dump(educated()):
        assert name in SETTING_NAMES
        restore(restored, name, value)
    assert restored.scores.by_source[Source.LISTING].stopped
    assert restored.successors.predict(1000, InodeNo(50)) == InodeNo(20)
    assert restored.successors.predict(1001, InodeNo(50)) is None


def test_only_what_changed_is_stored_again() -> None:
    """The whole table each time would be 2.5 MiB."""
    predictor = educated()
    assert len(list(dump(predictor))) > 1
    assert [name for name, _ in dump(predictor)] == [SCORES]


def test_a_full_table_fits_into_settings() -> None:
    """Also where nothing of it can be compressed."""
    predictor = Predictor()
    for at in range(KEY_COUNT):
        for way in range(KEPT):
            predictor.successors.learn(way, InodeNo(at), InodeNo(2**62 + at * 7919 * (way + 1)))
    sizes = [len(value) for _, value in dump(predictor)]
    assert len(sizes) == len(SETTING_NAMES)
    assert max(sizes) <= SETTING_VALUE_BYTES_MAX


def _packed(value: object) -> bytes:
    magic = next(iter(dump(Predictor())))[1].partition(b"\n")[0] + b"\n"
    return magic + zlib.compress(json.dumps(value).encode())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"memfs prediction 9 little\nabc",
        _packed({})[:-3],
        _packed({}),
        _packed([1, 2]),
        _packed({source.label: [1, 2, 3, 4.0] for source in Source}),
        _packed({source.label: [-1, 2, 3, 0.5] for source in Source}),
        _packed("x" * (1 << 20)),
    ],
)
def test_foreign_and_damaged_values_change_nothing(value: bytes) -> None:
    """A blob of another version, or half a one, is refused with one clear sentence."""
    predictor = Predictor()
    before = list(dump(predictor))
    for name in SETTING_NAMES[:2]:
        with pytest.raises(InvalidValueError, match=f"setting {name}"):
            restore(predictor, name, value)
    assert list(dump(predictor)) == before


@given(st.binary(max_size=200), st.sampled_from(SETTING_NAMES[:3]))
def test_no_bytes_raise_anything_else(value: bytes, name: str) -> None:
    """Whatever is found in the state directory, the mount starts."""
    with pytest.raises(InvalidValueError):
        restore(Predictor(), name, value)


def test_the_key_that_was_used_longest_ago_makes_room() -> None:
    """A set of the table holds `WAYS` keys; those in use stay."""
    table = SuccessorTable()
    for _ in range(2):
        table.learn(0, InodeNo(1), InodeNo(2))
    for ino in range(10, 10 + KEY_COUNT * 2):
        table.learn(0, InodeNo(ino), InodeNo(3))
        if ino % 1000 == 0:
            table.learn(0, InodeNo(1), InodeNo(2))
    assert table.predict(0, InodeNo(1)) == InodeNo(2)
    assert WAYS > 1


def test_two_of_the_last_four_must_agree() -> None:
    """The last one alone is right too seldom."""
    table = SuccessorTable()
    key = InodeNo(5)
    for successor, guess in [
        (1, None),
        (2, None),
        (1, 1),
        (3, 1),
        (3, 3),
        (4, 3),
        (5, 3),
        (6, None),
    ]:
        table.learn(0, key, InodeNo(successor))
        assert table.predict(0, key) == guess
