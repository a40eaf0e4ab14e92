"""Retry, limits, deadlines and injected faults, on a clock that jumps."""

from __future__ import annotations

import queue
import random
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import (
    NoSpaceError,
    ObjectArchivedError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
)
from memfs.stores.calls import BlockingCalls, TransferProgress, TransferStoppedError
from memfs.stores.limit import LimitedStore
from memfs.stores.retry import RetryingStore, RetryPolicy
from tests.faulty_store import Fault, FaultKind, FaultScript, FaultyStore
from tests.unit.fakes.memory_store import MemoryStore
from tests.waiting import WAIT_S, wait_until_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLICY = RetryPolicy(deadline_s=30.0, pause_s_min=1.0, pause_s_max=4.0)


class Rig:
    """A store in memory with scripted faults and a retrying store over it."""

    def __init__(self, directory: Path) -> None:
        self.script = FaultScript()
        self.plain = MemoryStore()
        self.faulty = FaultyStore(self.plain, self.script, delay_s=3.0, deadline_s=10.0)
        self.retrying = RetryingStore(self.faulty, POLICY, random.Random(1))
        self.source = directory / "source"
        self.source.write_bytes(b"0123456789")
        self.target = directory / "target"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.mark.parametrize("fault_count", [1, 3])
async def test_transient_failures_are_tried_again(
    autojump_clock: trio.testing.MockClock, rig: Rig, fault_count: int
) -> None:
    rig.script.add(Fault(FaultKind.UNAVAILABLE, "put_file", count=fault_count))
    await rig.retrying.put_file("k", rig.source)
    assert await rig.retrying.get_range("k", 0, 4) == b"0123"
    assert rig.script.hit_counts[FaultKind.UNAVAILABLE] == fault_count


@pytest.mark.parametrize("kind", [FaultKind.REFUSED, FaultKind.MISSING])
async def test_lasting_failures_are_not(
    autojump_clock: trio.testing.MockClock, rig: Rig, kind: FaultKind
) -> None:
    rig.script.add(Fault(kind, count=None))
    with pytest.raises(StoreError):
        await rig.retrying.stat("k")
    assert rig.script.hit_counts[kind] == 1


async def test_pauses_grow_to_their_limit_with_jitter(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rng = random.Random(3)
    pauses = [POLICY.pause_s(attempt, rng) for attempt in range(6)]
    for pause_s, ceiling in zip(pauses, [1, 2, 4, 4, 4, 4], strict=True):
        assert ceiling / 2 <= pause_s <= ceiling
    assert len(set(pauses)) == 6


async def test_retries_end_by_the_deadline(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.UNAVAILABLE, count=None))
    for call in (rig.retrying.stat("k"), rig.retrying.put_file("k", rig.source)):
        begun = trio.current_time()
        with pytest.raises(StoreUnavailableError, match="injected"):
            await call
        assert trio.current_time() - begun <= POLICY.deadline_s


async def test_a_store_that_hangs_again_and_again_costs_one_deadline(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.HANG, count=None))
    begun = trio.current_time()
    with pytest.raises(StoreUnavailableError, match=r"get k: no answer within 30 s"):
        await rig.retrying.get_range("k", 0, 1)
    assert trio.current_time() - begun == pytest.approx(POLICY.deadline_s)


async def test_a_lost_answer_does_no_harm_to_what_is_repeated(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.LOST_ANSWER, "put_file"))
    rig.script.add(Fault(FaultKind.LOST_ANSWER, "get_file"))
    rig.script.add(Fault(FaultKind.LOST_ANSWER, "delete"))
    await rig.retrying.put_file("k", rig.source)
    await rig.retrying.get_file("k", rig.target)
    assert rig.target.read_bytes() == b"0123456789"
    await rig.retrying.delete("k")
    assert rig.script.hit_counts[FaultKind.LOST_ANSWER] == 3


async def test_a_torn_upload_is_repeated_whole(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.TORN))
    with pytest.raises(StoreUnavailableError):
        await rig.faulty.put_file("k", rig.source)
    assert (await rig.plain.stat("k")).size == 5
    rig.script.add(Fault(FaultKind.TORN))
    await rig.retrying.put_file("k", rig.source)
    assert await rig.plain.get_range("k", 0, 20) == b"0123456789"


async def test_a_cut_upload_claims_success(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.CUT))
    await rig.faulty.put_file("k", rig.source)
    assert (await rig.plain.stat("k")).size == 5


async def test_listing_begins_again_only_before_its_first_object(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    await rig.plain.put_file("k", rig.source)
    rig.script.add(Fault(FaultKind.UNAVAILABLE, "list", count=2))
    assert [stat.key async for stat in rig.retrying.list("")] == ["k"]
    assert rig.script.hit_counts[FaultKind.UNAVAILABLE] == 2


async def test_each_flip_changes_one_bit_and_another_one_than_the_last(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    """Two that hit the same bit would cancel: a damaged object would pass for a sound one."""
    await rig.plain.put_file("k", rig.source)
    rig.script.add(Fault(FaultKind.BIT_FLIP, count=2))
    data = await rig.faulty.get_range("k", 0, 10)
    await rig.faulty.get_file("k", rig.target)
    flipped = set()
    for wrong in (data, rig.target.read_bytes()):
        differing = int.from_bytes(wrong, "big") ^ int.from_bytes(b"0123456789", "big")
        assert differing.bit_count() == 1
        flipped.add(differing)
    assert len(flipped) == 2


async def test_a_full_store_stores_nothing(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.FULL, count=None))
    with pytest.raises(NoSpaceError):
        await rig.retrying.put_file("k", rig.source)
    assert rig.plain.objects == {}
    assert rig.script.hit_counts[FaultKind.FULL] == 1


async def test_a_stale_list_knows_nothing_of_the_last_changes(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.plain.objects.update({"a/old": b"1", "a/removed": b"22", "b/removed": b"333"})
    await rig.faulty.put_file("a/new", rig.source)
    await rig.faulty.delete("a/removed")
    await rig.faulty.delete("b/removed")
    rig.script.add(Fault(FaultKind.STALE_LIST))
    stale = {stat.key: stat.size async for stat in rig.faulty.list("a/")}
    assert stale == {"a/old": 1, "a/removed": 2}
    assert {stat.key async for stat in rig.faulty.list("a/")} == {"a/old", "a/new"}


async def test_an_archived_object_is_not_asked_for_again_and_again(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    await rig.plain.put_file("k", rig.source)
    rig.script.add(Fault(FaultKind.ARCHIVED, count=2))
    with pytest.raises(ObjectArchivedError):
        await rig.retrying.get_range("k", 0, 4)
    with pytest.raises(ObjectArchivedError):
        await rig.retrying.get_file("k", rig.target)
    assert await rig.retrying.get_range("k", 0, 4) == b"0123"


async def test_delays_are_only_delays(autojump_clock: trio.testing.MockClock, rig: Rig) -> None:
    await rig.plain.put_file("k", rig.source)
    rig.script.add(Fault(FaultKind.DELAY))
    begun = trio.current_time()
    assert (await rig.faulty.stat("k")).size == 10
    assert trio.current_time() - begun == pytest.approx(3.0)


async def test_a_script_hits_the_calls_that_it_names(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.MISSING, "stat", key_prefix="a/", skip_count=1, count=2))
    for key in ("a/1", "b/1", "a/2"):
        await rig.plain.put_file(key, rig.source)
    await rig.faulty.stat("a/1")
    await rig.faulty.stat("b/1")
    await rig.faulty.get_range("a/1", 0, 1)
    for _ in range(2):
        with pytest.raises(ObjectMissingError):
            await rig.faulty.stat("a/2")
    await rig.faulty.stat("a/2")


def test_the_same_seed_gives_the_same_faults() -> None:
    rates = {FaultKind.UNAVAILABLE: 0.2, FaultKind.TORN: 0.3}

    def faults(seed: int) -> list[FaultKind | None]:
        script = FaultScript(rng=random.Random(seed), rates=rates)
        return [script.next_fault("put_file", "k") for _ in range(200)]

    assert faults(1) == faults(1)
    assert faults(1) != faults(2)
    assert {None, FaultKind.UNAVAILABLE, FaultKind.TORN} == set(faults(1))


async def test_only_so_many_calls_run_at_a_time(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    rig.script.add(Fault(FaultKind.DELAY, count=None))
    await rig.plain.put_file("k", rig.source)
    limited = LimitedStore(rig.faulty, transfer_count_max=1, request_count_max=2)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(limited.stat, "k")
        # Transfers take no request's turn.
        nursery.start_soon(limited.put_file, "k2", rig.source)
    assert trio.current_time() - begun == pytest.approx(9.0)


# --- blocking calls -------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a blocking call waits for; opened at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_that_hangs_is_given_up_by_the_deadline(
    gate: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    calls = BlockingCalls("file:///x", 5.0, 4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_jump_when_waiting, mock_clock, 6.0)
        with pytest.raises(StoreUnavailableError, match=r"file:///x: get k: no answer within 5 s"):
            await calls.run("get k", lambda: wait_until_set(gate))


async def test_abandoned_threads_are_bounded(
    gate: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    calls = BlockingCalls("file:///x", 5.0, 2)
    started: queue.SimpleQueue[None] = queue.SimpleQueue()

    def hang() -> None:
        started.put(None)
        wait_until_set(gate)

    for waiting in (1, 2, 2, 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_jump_when_waiting, mock_clock, 6.0)
            with pytest.raises(StoreUnavailableError, match=f"{waiting} calls are under way"):
                await calls.run("get k", hang)
    for _ in range(2):
        await trio.to_thread.run_sync(lambda: started.get(timeout=60.0))
    assert started.empty()


async def test_a_transfer_lives_while_it_makes_progress(
    mock_clock: trio.testing.MockClock,
) -> None:
    calls = BlockingCalls("file:///x", 5.0, 2)
    steps = threading.Semaphore(0)

    def work(progress: TransferProgress) -> str:
        for _ in range(4):
            assert steps.acquire(timeout=WAIT_S)
            progress.beat()
        return "done"

    async def drive() -> None:
        for _ in range(4):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(4.0)
            steps.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive)
        assert await calls.transfer("put k", work, 1000.0) == "done"


async def test_a_transfer_without_progress_is_stopped(mock_clock: trio.testing.MockClock) -> None:
    calls = BlockingCalls("file:///x", 5.0, 2)
    begun, resume, ended = threading.Event(), threading.Event(), threading.Event()

    def work(progress: TransferProgress) -> None:
        begun.set()
        wait_until_set(resume)
        try:
            progress.beat()
        except TransferStoppedError:
            ended.set()
            raise

    async def jump_when_begun() -> None:
        await trio.to_thread.run_sync(wait_until_set, begun)
        mock_clock.jump(9.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(jump_when_begun)
        with pytest.raises(StoreUnavailableError, match="put k: no answer within 8 s"):
            await calls.transfer("put k", work, 8.0)
    resume.set()
    await trio.to_thread.run_sync(wait_until_set, ended)


async def _jump_when_waiting(clock: trio.testing.MockClock, seconds: float) -> None:
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
