"""Requests to a source count against the quotas, and in the metrics, as those to the store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from memfs.errors import ObjectChangedError, ObjectMissingError, StoreError
from memfs.policy.quotas import Spent
from memfs.stores.counts import Call, StoreCounts
from memfs.stores.metered_source import MeteredSource
from memfs.stores.source import RangeRead
from tests.unit.fakes.bucket import Bucket

if TYPE_CHECKING:
    from memfs.policy.quotas import Cost


class Spending:
    """Counts what is spent."""

    def __init__(self) -> None:
        self.spent: Counter[Spent] = Counter()

    def spend(self, spent: Spent, amount: int) -> None:
        self.spent[spent] += amount

    def check(self, cost: Cost) -> None:
        raise AssertionError(f"nothing is refused, {cost} neither")


async def test_each_request_is_counted_with_its_bytes_and_failures() -> None:
    bucket, meter, counts = Bucket(), Spending(), StoreCounts()
    bucket.put("a", b"x" * 100)
    source = MeteredSource(bucket, meter, counts)
    page, following = await source.list_objects("", "", shallow=True)
    assert ([each.key for each in page], following) == (["a"], None)
    assert await source.read_if(page[0], 10, 60) == RangeRead(b"x" * 50)
    await source.look_at("a")
    assert meter.spent == {Spent.REQUESTS: 3, Spent.EGRESS: 50}
    assert counts.requests == {Call.LIST: 1, Call.GET: 1, Call.STAT: 1}
    assert (counts.received_bytes, counts.errors) == (50, Counter())
    # What is told of one object is no failure of the source.
    bucket.put("a", b"another")
    with pytest.raises(ObjectChangedError):
        await source.read_if(page[0], 0, 1)
    with pytest.raises(ObjectMissingError):
        await source.look_at("missing")
    assert counts.errors == Counter()
    bucket.is_down = True
    with pytest.raises(StoreError):
        await source.list_objects("")
    assert counts.errors == {Call.LIST: 1}
    assert meter.spent[Spent.REQUESTS] == 6
