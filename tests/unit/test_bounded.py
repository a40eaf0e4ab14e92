"""Bounded dictionaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memfs.bounded import BoundedDict


def test_the_oldest_entry_leaves() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept["a"] = 1
    kept["b"] = 2
    kept["c"] = 3
    assert list(kept.items()) == [("b", 2), ("c", 3)]


def test_an_entry_that_is_set_again_is_the_newest() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept["a"] = 1
    kept["b"] = 2
    kept["a"] = 3
    kept["c"] = 4
    assert list(kept.items()) == [("a", 3), ("c", 4)]


def test_reading_changes_no_order_and_touching_does() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept["a"] = 1
    kept["b"] = 2
    assert kept.get("a") == 1
    assert list(kept) == ["a", "b"]
    assert kept.touch("a") == 1
    assert kept.touch("absent") is None
    kept["c"] = 3
    assert list(kept) == ["a", "c"]


@given(
    count_max=st.integers(1, 5),
    steps=st.lists(st.tuples(st.sampled_from(["set", "touch", "pop"]), st.integers(0, 8))),
)
def test_it_is_a_list_of_the_latest_keys(count_max: int, steps: list[tuple[str, int]]) -> None:
    """Against a list."""
    kept: BoundedDict[int, int] = BoundedDict(count_max)
    model: list[int] = []
    for number, (step, key) in enumerate(steps):
        known = key in model
        if known:
            model.remove(key)
        if step == "set" or (step == "touch" and known):
            model = [*model, key][-count_max:]
        if step == "set":
            kept[key] = number
        elif step == "touch":
            kept.touch(key)
        else:
            kept.pop(key, None)
        assert model == list(kept)
