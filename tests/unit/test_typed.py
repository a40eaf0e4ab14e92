"""JSON values as typed ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfs.control.typed import decode, encode
from memfs.errors import InvalidValueError
from memfs.types import PendingCode

if TYPE_CHECKING:
    from memfs.control.protocol import JsonValue


class Point(NamedTuple):
    """A struct."""

    x: int
    note: str | None = None


class Order(TypedDict):
    """Parameters."""

    points: list[Point]
    tier: NotRequired[Literal["warm", "cold"]]
    size: NotRequired[str | int]
    totals: NotRequired[dict[str, tuple[int, float]]]


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, True, "a whole number is wanted, not True"),
        (str, "a\ud800", r"'a\ud800' is no text"),
        (list[str], ["a", "\udfff"], r"[1]: '\udfff' is no text"),
        (PendingCode, "weather", "'weather' is not one of quota, open"),
        (int, 1.0, "a whole number is wanted, not 1.0"),
        (float, "1", "a number is wanted, not '1'"),
        (list[int], [1, 2, "x"], "[2]: a whole number is wanted, not 'x'"),
        (tuple[int, str], [1], "2 values are wanted"),
        (str | int, 1.5, "a text or a whole number is wanted, not 1.5"),
        (Order, [], r"an object is wanted, not []"),
        (Order, {}, "the field 'points' is missing"),
        (Order, {"points": [], "x": 1}, "there is no field 'x'"),
        (Order, {"points": [{}]}, "points[0]: the field 'x' is missing"),
        (Order, {"points": [{"x": 1, "note": 7}]}, "points[0].note: a text is wanted, not 7"),
        (Order, {"points": [], "tier": "hot"}, "tier: 'hot' is not one of warm, cold"),
        (Order, {"points": [], "totals": {"a": [1, "b"]}}, "totals.a[1]: a number is wanted"),
        (str, 10**100, "a text is wanted, not 1000000000"),
    ],
)
def test_a_wrong_value_is_named_by_its_field(kind: object, value: JsonValue, message: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        decode(kind, value)
    assert str(refused.value).startswith(message)
    assert len(str(refused.value)) < 200


@given(
    points=st.lists(st.builds(Point, st.integers(), st.none() | st.text())),
    size=st.text() | st.integers(),
    totals=st.dictionaries(st.text(), st.tuples(st.integers(), st.floats(allow_nan=False))),
)
def test_what_is_encoded_is_decoded(
    points: list[Point], size: str | int, totals: dict[str, tuple[int, float]]
) -> None:
    order: Order = {"points": points, "size": size, "totals": totals, "tier": "warm"}
    assert decode(Order, json.loads(json.dumps(encode(order)))) == order


def test_what_is_not_required_may_be_missing() -> None:
    assert decode(Order, {"points": [{"x": 1}]}) == {"points": [Point(1)]}


def test_bytes_of_a_path_and_words_are_texts() -> None:
    assert decode(str, "\udc80\udcff") == "\udc80\udcff"
    assert decode(PendingCode, encode(PendingCode.DISK)) is PendingCode.DISK
