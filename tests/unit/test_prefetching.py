"""Prefetching on a real engine and real stores: near before it is opened, and nobody's loss."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import ColdConfig, PolicyConfig, WarmConfig
from memfs.content.activity import OPENS_KEPT_MAX, Activity
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import take_hydrated
from memfs.moves.uploading import upload
from memfs.placement.prefetch.prefetcher import STALLS, Prefetcher, Stalls
from memfs.prediction.accesses import Source
from memfs.prediction.predictor import Predictor
from memfs.prediction.scores import WINDOW_NS
from memfs.types import FormKind, InodeNo, Tier
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.config import Config

CONTENT = compressible(50_000)
LONG_AGO_NS = 1


class Depot:
    """A state directory with files that are only in the object store, and a prefetcher."""

    def __init__(self, state_dir: Path, config: Config, stalls: Stalls = STALLS) -> None:
        self.state = State(state_dir, config)
        self.activity = Activity()
        self.stalls = stalls
        self.restart()

    def restart(self) -> None:
        self.predictor = Predictor()
        placement = self.state.placement(self.activity)
        self.pools = placement.pools
        self.prefetcher = Prefetcher(placement, self.predictor, self.stalls)

    async def create_remote(self, count: int) -> list[InodeNo]:
        """Create numbered files that were used long ago and lie in the store alone."""
        inos = []
        for at in range(count):
            ino = await self.state.create(f"f{at:03}", CONTENT)
            await upload(self.state.parts, ino)
            await drop_raw(self.state.parts, ino)
            await self.state.engine.record_access([(ino, LONG_AGO_NS)])
            inos.append(ino)
        self.state.engine.commit_nowait()
        await self.state.garbage.collect(1000)
        return inos

    async def open(self, *inos: InodeNo) -> None:
        """Have a program open files, and the prefetcher look at it."""
        for ino in inos:
            self.activity.note_open(ino, 1000, 0, time.time_ns())
        await self.prefetcher.fetch_all()

    async def raw(self, inos: list[InodeNo]) -> list[int]:
        """Return the indices of those that have a raw form."""
        return [at for at, ino in enumerate(inos) if FormKind.RAW in await self.state.forms(ino)]


@pytest.fixture
def open_depot(tmp_path: Path) -> Iterator[Callable[..., Depot]]:
    depots: list[Depot] = []

    def open_one(stalls: Stalls = STALLS, **sections: object) -> Depot:
        config = replace(SMALL_FRAMES, **sections)  # type: ignore[arg-type]
        depots.append(Depot(tmp_path / "state", config, stalls))
        return depots[-1]

    yield open_one
    for depot in depots:
        depot.state.close()


@pytest.fixture
def depot(open_depot: Callable[..., Depot]) -> Depot:
    return open_depot()


async def test_the_next_files_of_a_sequence_are_fetched_and_held(depot: Depot) -> None:
    """Before they are opened, and with the reason for users."""
    inos = await depot.create_remote(12)
    await depot.open(*inos[:3])
    assert await depot.raw(inos) == [3, 4]
    assert depot.state.residency.is_locked(inos[3])
    decision = await depot.state.engine.get_decision(inos[3])
    assert decision is not None
    assert (decision.rule, "sequence" in decision.detail) == ("prefetch", True)
    assert await depot.state.leaks() == []


async def test_a_wrong_guess_is_as_old_as_before(depot: Depot) -> None:
    """It leaves the tiers as if it had never been fetched."""
    inos = await depot.create_remote(12)
    await depot.open(*inos[:3])
    assert (await depot.state.engine.get_inode(inos[3])).accessed_ns > LONG_AGO_NS
    depot.predictor.scores.expire(time.time_ns() + 2 * WINDOW_NS)
    await depot.prefetcher.fetch_all()
    assert (await depot.state.engine.get_inode(inos[3])).accessed_ns == LONG_AGO_NS
    assert not depot.state.residency.is_held(inos[3])


async def test_a_wrong_guess_that_was_used_meanwhile_stays(depot: Depot) -> None:
    """Its open may have been lost on the way to the predictor."""
    inos = await depot.create_remote(12)
    await depot.open(*inos[:3])
    await depot.state.engine.record_access([(inos[3], time.time_ns() + 1)])
    depot.state.engine.commit_nowait()
    depot.predictor.scores.expire(time.time_ns() + 2 * WINDOW_NS)
    await depot.prefetcher.fetch_all()
    assert depot.state.residency.is_held(inos[3])


async def test_a_file_pinned_to_a_slower_tier_is_fetched_for_hints_alone(depot: Depot) -> None:
    """A guess respects the pin; who names the file knows what he wants, but gets no RAM for it."""
    inos = await depot.create_remote(12)
    for ino in inos:
        await depot.state.engine.set_pin(ino, Tier.GLACIER)
    depot.state.engine.commit_nowait()
    await depot.open(*inos[:3])
    assert await depot.raw(inos) == []
    depot.prefetcher.hint(inos[3:5], warm=True, job=None, replace=False)
    await depot.prefetcher.fetch_all()
    assert await depot.raw(inos) == [3, 4]
    assert depot.state.residency.used_bytes == 0
    assert take_hydrated(depot.state.parts) == inos[3:5]


async def test_hints_are_fetched_in_order_as_far_as_there_is_room(
    open_depot: Callable[..., Depot],
) -> None:
    """The first ones, then it waits with a reason; when there is room again, it goes on."""
    depot = open_depot(cold=ColdConfig(size_bytes=200_000, high_watermark=0.9, frame_bytes=4096))
    inos = await depot.create_remote(8)
    order = [inos[at] for at in (5, 0, 7, 2, 1)]
    job, accepted = depot.prefetcher.hint(order, warm=False, job=None, replace=False)
    assert accepted == 5
    await depot.prefetcher.fetch_all()
    assert await depot.raw(inos) == [0, 5, 7]
    progress = depot.prefetcher.progress(job)
    assert progress.stalled is not None
    assert "raise cold.size" in progress.stalled
    assert (progress.done_count, progress.waiting_count) == (3, 2)
    await drop_raw(depot.state.parts, inos[5])
    await depot.prefetcher.fetch_all()
    assert await depot.raw(inos) == [0, 2, 7]


async def test_hints_go_on_when_files_that_were_done_too_early_are_closed(
    open_depot: Callable[..., Depot],
) -> None:
    """All workers at once: each file is said to be done while the kernel has it open still."""
    cold = ColdConfig(size_bytes=200_000, high_watermark=0.9, frame_bytes=4096)
    depot = open_depot(Stalls(first_s=0.01, closing_s=0.01), cold=cold)
    inos = await depot.create_remote(12)
    prefetcher = depot.prefetcher
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefetcher.run)
        job, _ = prefetcher.hint(inos, warm=False, job=None, replace=False, exact=True)
        for ino in inos:
            with trio.fail_after(60.0):
                while FormKind.RAW not in await depot.state.forms(ino):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            depot.state.open_table.begin(ino)
            prefetcher.note_done([ino])
            # The workers look for room at once.
            await trio.testing.wait_all_tasks_blocked()
            depot.state.open_table.end(ino)
        nursery.cancel_scope.cancel()
    assert prefetcher.progress(job).done_count == 12


async def test_a_guess_takes_no_room_from_others(open_depot: Callable[..., Depot]) -> None:
    """Neither on the disk nor in RAM is anything evicted for it."""
    depot = open_depot(
        cold=ColdConfig(size_bytes=110_000, frame_bytes=4096), warm=WarmConfig(size_bytes=60_000)
    )
    inos = await depot.create_remote(12)
    kept = await depot.state.create("kept", CONTENT)
    inode = await depot.state.engine.get_inode(kept)
    await depot.state.residency.lock(kept, inode.raw, inode.size)
    await depot.open(*inos[:4])
    assert len(await depot.raw(inos)) <= 1
    assert depot.state.residency.is_held(kept)
    assert depot.state.residency.held_count == 1


async def test_a_guess_takes_no_room_that_a_pool_has_reserved(
    open_depot: Callable[..., Depot],
) -> None:
    """A pool's share is its own, used or not."""
    depot = open_depot(warm=WarmConfig(size_bytes=1 << 20))
    inos = await depot.create_remote(12)
    depot.pools.create("team", 1 << 20, 1 << 20)
    await depot.open(*inos[:3])
    assert await depot.raw(inos) == [3, 4]
    assert depot.state.residency.held_count == 0


async def test_a_dead_store_stalls_a_list_and_fails_no_file(
    open_depot: Callable[..., Depot],
) -> None:
    """One attempt for all of them; when the store is back, the list goes on by itself."""
    depot = open_depot(policy=PolicyConfig(retry_s_min=0.0, retry_s_max=0.0))
    inos = await depot.create_remote(4)
    depot.state.faults.add(Fault(FaultKind.UNAVAILABLE, count=None))
    job, _ = depot.prefetcher.hint(inos, warm=False, job=None, replace=False)
    await depot.prefetcher.fetch_all()
    assert depot.prefetcher.progress(job).stalled is not None
    assert depot.prefetcher.progress(job).failed_count == 0
    depot.state.faults.clear()
    await depot.prefetcher.fetch_all()
    assert depot.prefetcher.progress(job).done_count == 4


async def test_what_was_learned_survives_a_restart(depot: Depot) -> None:
    """Successors, scores, and a damaged part is left out."""
    inos = await depot.create_remote(4)
    for _ in range(2):
        await depot.open(inos[3], inos[0])
        await depot.open(inos[2])
    depot.predictor.scores.by_source[Source.SHARDS].precision = 0.125
    await depot.prefetcher.learner.save()
    depot.restart()
    await depot.prefetcher.learner.load()
    assert depot.predictor.successors.predict(1000, inos[3]) == inos[0]
    assert depot.predictor.scores.by_source[Source.SHARDS].stopped
    await depot.state.engine.put_setting("prediction.scores", b"rubbish")
    depot.state.engine.commit_nowait()
    depot.restart()
    await depot.prefetcher.learner.load()
    assert depot.predictor.successors.predict(1000, inos[3]) == inos[0]
    assert not depot.predictor.scores.by_source[Source.SHARDS].stopped


async def test_files_that_vanish_are_passed_over(depot: Depot) -> None:
    """Between guess and fetch anything may happen."""
    inos = await depot.create_remote(6)
    for ino in inos[:3]:
        depot.activity.note_open(ino, 1000, 0, time.time_ns())
    await depot.prefetcher.learn()
    await depot.state.unlink("f003")
    job, _ = depot.prefetcher.hint([inos[3], inos[5]], warm=True, job=None, replace=False)
    await depot.prefetcher.fetch_all()
    assert depot.prefetcher.progress(job).ended
    depot.activity.note_open(inos[3], 1000, 0, time.time_ns())
    await depot.prefetcher.fetch_all()


async def test_opens_that_nobody_takes_are_bounded() -> None:
    """The request path never waits for prediction, and fills no memory."""
    activity = Activity()
    for at in range(OPENS_KEPT_MAX + 10):
        activity.note_open(InodeNo(at), 0, 0, at)
    assert [opening.ino for opening in activity.take_opens(2)] == [
        OPENS_KEPT_MAX + 8,
        OPENS_KEPT_MAX + 9,
    ]
    assert activity.take_opens(2) == []
