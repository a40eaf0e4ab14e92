"""What is asked of a store: counted by the meter, and paced by rates, on a clock that jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import ObjectMissingError, QuotaSpentError
from memfs.policy.quotas import Cost, Spent
from memfs.stores.counts import Call, StoreCounts
from memfs.stores.metered import MeteredStore, transfer_request_count
from memfs.stores.paced import PacedStore, Rates, unhurried
from memfs.stores.store import PART_BYTES
from tests.unit.fakes.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path


class Purse:
    """A meter that adds up."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(Spent, 0)
        self.empty = False

    def spend(self, spent: Spent, amount: int) -> None:
        self.spent[spent] += amount

    def check(self, cost: Cost) -> None:
        if self.empty:
            raise QuotaSpentError("the quota is spent", 10.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(1000))
    return path


async def test_every_call_is_counted(source: Path, tmp_path: Path) -> None:
    """Requests, and bytes by direction."""
    purse = Purse()
    store = MeteredStore(MemoryStore(), purse)
    await store.put_file("k", source)
    assert purse.spent[Spent.UPLOAD] == 1000
    assert len(await store.get_range("k", 900, 1100)) == 100
    assert purse.spent[Spent.EGRESS] == 100
    await store.get_file("k", tmp_path / "target")
    assert purse.spent[Spent.EGRESS] == 1100
    before = purse.spent[Spent.REQUESTS]
    await store.stat("k")
    await store.archive("k")
    assert [stat.key async for stat in store.list("")] == ["k"]
    await store.delete("k")
    assert purse.spent[Spent.REQUESTS] == before + 4
    assert purse.spent[Spent.DISK_WRITES] == 0


async def test_calls_are_told_apart_and_failures_are_counted(source: Path, tmp_path: Path) -> None:
    """A missing object is an answer; a disk that cannot be written is a failure."""
    counts = StoreCounts()
    store = MeteredStore(MemoryStore(), Purse(), counts)
    await store.put_file("k", source)
    await store.get_range("k", 0, 10)
    for call in (store.stat("gone"), store.get_range("gone", 0, 1)):
        with pytest.raises(ObjectMissingError):
            await call
    assert counts.errors == {}
    with pytest.raises(OSError, match="No such file"):
        await store.get_file("k", tmp_path / "missing" / "target")
    assert counts.errors == {Call.GET: 1}
    assert counts.requests == {Call.PUT: transfer_request_count(1000), Call.GET: 2, Call.STAT: 1}
    assert (counts.sent_bytes, counts.received_bytes) == (1000, 10)


def test_a_transfer_takes_a_request_for_each_part() -> None:
    """And one to begin and to end it."""
    assert transfer_request_count(1) == 3
    assert transfer_request_count(PART_BYTES + 1) == 4


async def test_only_deletions_are_refused(source: Path) -> None:
    """Programs wait for reads; garbage can wait."""
    purse = Purse()
    store = MeteredStore(MemoryStore(), purse)
    await store.put_file("k", source)
    purse.empty = True
    with pytest.raises(QuotaSpentError):
        await store.delete("k")
    assert len(await store.get_range("k", 0, 10)) == 10
    await store.put_file("l", source)


async def test_uploads_share_their_rate(
    autojump_clock: trio.testing.MockClock, source: Path
) -> None:
    """Each begins when those before it are paid for."""
    store = PacedStore(MemoryStore(), Rates(100, None))
    begun_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(store.put_file, name, source)
    assert trio.current_time() - begun_s == pytest.approx(20.0)


async def test_downloads_share_their_rate(
    autojump_clock: trio.testing.MockClock, source: Path, tmp_path: Path
) -> None:
    """Ranges and whole objects."""
    store = PacedStore(MemoryStore(), Rates(None, 100))
    await store.put_file("k", source)
    begun_s = trio.current_time()
    await store.get_file("k", tmp_path / "target")
    with unhurried():
        await store.get_range("k", 0, 500)
        await store.get_range("k", 0, 500)
    assert trio.current_time() - begun_s == pytest.approx(15.0)


async def test_programs_do_not_wait_for_the_mover(
    autojump_clock: trio.testing.MockClock, source: Path
) -> None:
    """The mover waits for all of them."""
    store = PacedStore(MemoryStore(), Rates(None, 100))
    await store.put_file("k", source)
    begun_s = trio.current_time()
    with unhurried():
        await store.get_range("k", 0, 1000)
    await store.get_range("k", 0, 500)
    assert trio.current_time() == begun_s
    await store.get_range("k", 0, 500)
    assert trio.current_time() - begun_s == pytest.approx(5.0)
    with unhurried():
        await store.get_range("k", 0, 1)
    assert trio.current_time() - begun_s == pytest.approx(20.0)
