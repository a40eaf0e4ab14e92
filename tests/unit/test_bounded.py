"""Bounded dictionaries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memfs.bounded import BoundedDict, SizedDict


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


def test_what_is_larger_than_all_may_be_is_not_kept_unless_it_is_one_of_the_newest() -> None:
    kept: SizedDict[str, bytes] = SizedDict(4, len)
    kept.put("a", b"1234")
    kept.put("b", b"12345")
    assert kept.touch("a") == b"1234"
    assert "b" not in kept
    kept = SizedDict(4, len, count_min=1)
    kept.put("a", b"1234")
    kept.put("b", b"12345")
    assert "a" not in kept
    assert kept.touch("b") == b"12345"
    assert kept.used_size == 5


@given(
    size_max=st.integers(0, 10),
    count_min=st.integers(0, 2),
    steps=st.lists(st.tuples(st.sampled_from(["put", "touch"]), st.integers(0, 5), st.binary())),
)
def test_values_are_the_latest_that_fit(
    size_max: int, count_min: int, steps: list[tuple[str, int, bytes]]
) -> None:
    """Against a list."""
    kept: SizedDict[int, bytes] = SizedDict(size_max, len, count_min)
    model: list[tuple[int, bytes]] = []
    for step, key, value in steps:
        known = dict(model).get(key)
        if step == "touch":
            assert kept.touch(key) == known
            now = known
        else:
            kept.put(key, value)
            now = value
        model = [each for each in model if each[0] != key]
        if now is not None and (len(now) <= size_max or count_min):
            model.append((key, now))
        while sum(len(each) for _, each in model) > size_max and len(model) > count_min:
            del model[0]
        assert [(key, each) for key, each in model if key in kept] == model
        assert kept.used_size == sum(len(each) for _, each in model)
    assert all((key in kept) == (key in dict(model)) for key in range(6))
