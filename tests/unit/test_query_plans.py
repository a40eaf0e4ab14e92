"""Which index leads, by what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.metadata.sqlite.field_index import Indexes
from memfs.metadata.sqlite.query_plans import Planner
from memfs.query.parsing import parse

if TYPE_CHECKING:
    from memfs.metadata.sqlite.statements import SqlValue

INDEXES = Indexes({b"user.tags": 1}, frozenset(), True)


@pytest.mark.parametrize(
    ("filter_", "entry_count", "array_count", "led"),
    [
        ({"$gt": 5}, 10, 10, "elements of user.tags"),
        ({"$regex": "^a"}, 29_999, 10_000, "elements of user.tags"),
        ({"$gt": 5}, 40_000, 120_000, "elements of user.tags"),
        # Each entry would take a look at its array, and several are of one.
        ({"$gt": 5}, 40_000, 119_999, "user.tags"),
        ({"$regex": "^a"}, 100_000, 10_000_000, "user.tags"),
        ({"$gt": 5}, 0, 0, "user.tags"),
        ({"$regex": "a"}, 10, 10, "user.tags"),
        # Only one of the elements is looked for, whichever others there are.
        ({"$in": [1, 2]}, 100_000, 100, "elements of user.tags"),
    ],
)
def test_elements_lead_where_they_spare_a_look_at_arrays(
    filter_: object, entry_count: int, array_count: int, led: str
) -> None:
    def count(text: str, _arguments: list[SqlValue]) -> int:
        limit = int(text.rpartition(" ")[2])
        return min(limit, entry_count if "from element" in text else array_count)

    assert Planner(parse({"tags": filter_}), None, INDEXES, count).choose() == led
