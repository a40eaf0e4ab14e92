"""The mover and what it knows of use: admission to the disk, promotion, priorities, restarts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.config import ColdConfig, PolicyConfig, WarmConfig
from memfs.content.activity import Activity
from memfs.moves.dropping import drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.placement.mover import BUSY_PAUSE_S, Mover
from memfs.placement.queues import MoveQueues
from memfs.placement.resident import FILES_A_STEP
from memfs.policy.marks import POOL_XATTR, PRIORITY_XATTR
from memfs.policy.view import Goal, Move
from memfs.types import ROOT_INODE, FormKind, InodeNo, Tier
from tests.moving import incompressible
from tests.unit.test_mover import CONTENT, RETRY_AT_ONCE, Depot, open_depot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest
    from trio.testing import MockClock

__all__ = ["open_depot"]

SIZE = 102_400
"""That of incompressible files, in whole pages."""


async def use(depot: Depot, *inos: InodeNo) -> None:
    for ino in inos:
        depot.activity.note_access(ino, time.time_ns())
    await depot.mover.run_round()


async def archived(depot: Depot, name: str) -> InodeNo:
    """A file that lies in the object store only."""
    ino = await depot.create(name, incompressible(SIZE, seed=99))
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    await depot.pin(ino, None)
    await depot.mover.run_round()
    return ino


def create_pool(depot: Depot, size_bytes: int) -> None:
    """Reserve a share of RAM for the pool `team`."""
    depot.access_stats.pools.create("team", size_bytes, depot.state.residency.capacity_bytes)
    depot.access_stats.marked = True


async def create_many(depot: Depot, count: int, pool: str = "") -> list[InodeNo]:
    """Files of `SIZE` bytes, written just now."""
    inos = []
    for seed in range(count):
        ino = await depot.create(f"{pool}{time.monotonic_ns()}", incompressible(SIZE, seed))
        if pool:
            engine = depot.state.engine
            await engine.set_xattr(ino, POOL_XATTR, pool.encode(), 0, time.time_ns())
        inos.append(ino)
    return inos


def held_count(depot: Depot, inos: Iterable[InodeNo]) -> int:
    return sum(depot.state.residency.is_held(ino) for ino in inos)


async def test_a_file_fetched_once_does_not_cost_proven_ones_their_place(
    open_depot: Callable[..., Depot],
) -> None:
    """SSD admission: it was used last, and leaves first all the same."""
    cold = ColdConfig(size_bytes=7 * SIZE, high_watermark=0.9, low_watermark=0.86)
    depot = open_depot(cold=cold, warm=WarmConfig(size_bytes=0))
    fetched = await archived(depot, "archived")
    proven = [await depot.create(f"f{seed}", incompressible(SIZE, seed)) for seed in range(6)]
    for _ in range(2):
        await use(depot, *proven)
    await hydrate(depot.state.parts, fetched)
    await use(depot, fetched)
    await depot.steps(2)
    assert await depot.state.forms(fetched) == {FormKind.REMOTE}
    assert [await depot.state.forms(ino) for ino in proven] == [{FormKind.RAW}] * 6


async def test_a_file_fetched_again_is_proven(open_depot: Callable[..., Depot]) -> None:
    """The second use within memory: now what was used less leaves."""
    cold = ColdConfig(size_bytes=7 * SIZE, high_watermark=0.9, low_watermark=0.86)
    depot = open_depot(cold=cold, warm=WarmConfig(size_bytes=0))
    fetched = await archived(depot, "archived")
    others = [await depot.create(f"f{seed}", incompressible(SIZE, seed)) for seed in range(6)]
    await use(depot, *others)
    await use(depot, fetched)
    await hydrate(depot.state.parts, fetched)
    await use(depot, fetched)
    await depot.steps(2)
    assert FormKind.RAW in await depot.state.forms(fetched)
    assert {FormKind.REMOTE} in [await depot.state.forms(ino) for ino in others]


async def test_a_file_that_is_opened_often_without_a_raw_form_gets_one(
    open_depot: Callable[..., Depot],
) -> None:
    """Promotion by frequency: reading frames costs more each time."""
    depot = open_depot(policy=PolicyConfig(promote_count=3))
    ino = await archived(depot, "archived")
    await use(depot, ino)
    await use(depot, ino)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    await use(depot, ino)
    assert FormKind.RAW in await depot.state.forms(ino)
    assert await depot.rule(ino) == "frequency"


async def test_a_file_read_much_once_does_not_cost_proven_ones_their_place(
    open_depot: Callable[..., Depot],
) -> None:
    """Its frames serve a single pass; the second one within memory is worth a raw form."""
    cold = ColdConfig(size_bytes=7 * SIZE, high_watermark=0.9, low_watermark=0.86)
    depot = open_depot(cold=cold, warm=WarmConfig(size_bytes=0))
    scanned = await archived(depot, "scanned")
    proven = [await depot.create(f"f{seed}", incompressible(SIZE, seed)) for seed in range(6)]
    await use(depot, *proven)
    depot.activity.note_wanted(scanned)
    await use(depot, scanned)
    assert await depot.state.forms(scanned) == {FormKind.REMOTE}
    depot.activity.note_wanted(scanned)
    await use(depot, scanned)
    assert FormKind.RAW in await depot.state.forms(scanned)
    assert await depot.rule(scanned) == "read"


async def test_a_packed_file_that_is_read_again_is_proven(open_depot: Callable[..., Depot]) -> None:
    """Its uses count where it is, in the queue of the disk."""
    depot = open_depot(warm=WarmConfig(size_bytes=0))
    ino = await depot.create("a", CONTENT)
    await pack(depot.state.parts, ino)
    await drop_raw(depot.state.parts, ino)
    depot.activity.take_sealed()
    await use(depot, ino)
    depot.access_stats.cold.resize(1)
    assert not depot.access_stats.is_worth_raw(ino, 1)
    depot.access_stats.cold.resize(1 << 20)
    depot.access_stats.cold.insert(99, 1 << 20)
    for _ in range(2):
        assert not depot.access_stats.is_worth_raw(ino, 4096)
        depot.access_stats.use_local(ino, 4096, copied=False)
    assert depot.access_stats.is_worth_raw(ino, 4096)


async def test_a_program_that_was_refused_an_archived_file_gets_it_although_the_disk_is_full(
    open_depot: Callable[..., Depot],
) -> None:
    """It cannot read frames meanwhile."""
    cold = ColdConfig(size_bytes=7 * SIZE, high_watermark=0.9, low_watermark=0.86)
    depot = open_depot(cold=cold, warm=WarmConfig(size_bytes=0))
    wanted = await archived(depot, "wanted")
    await use(depot, *[await depot.create(f"f{n}", incompressible(SIZE, n)) for n in range(6)])
    depot.activity.note_archived(wanted)
    await use(depot, wanted)
    assert await depot.rule(wanted) == "read"


async def test_reads_that_say_nothing_new_do_not_hurry_the_mover(
    autojump_clock: MockClock,
) -> None:
    """Else each read of a file that stays where it is would begin a round."""
    activity = Activity()
    for ino, expected in ((1, True), (1, False), (2, True), (1, True)):
        activity.note_wanted(InodeNo(ino))
        with trio.move_on_after(1.0) as waiting:
            await activity.wait()
        assert waiting.cancelled_caught is not expected
        activity.take_wanted()


async def test_files_of_low_priority_leave_ram_first(open_depot: Callable[..., Depot]) -> None:
    """Although they came last."""
    depot = open_depot(
        warm=WarmConfig(size_bytes=5 * SIZE, high_watermark=0.85, low_watermark=0.65)
    )
    inos = [await depot.create(f"f{seed}", incompressible(SIZE, seed)) for seed in range(5)]
    depot.access_stats.marked = True
    for ino in inos[3:]:
        await depot.state.engine.set_xattr(ino, PRIORITY_XATTR, b"10", 0, time.time_ns())
    await depot.steps(3)
    held = [depot.state.residency.is_held(ino) for ino in inos]
    assert held == [True, True, True, False, False]


async def test_pins_do_not_take_what_a_pool_has_reserved(open_depot: Callable[..., Depot]) -> None:
    """Those beyond the rest of the RAM tier wait, and say so; the pool's own files come in."""
    depot = open_depot(warm=WarmConfig(size_bytes=6 * SIZE, high_watermark=1, low_watermark=1))
    create_pool(depot, 3 * SIZE)
    pinned = await create_many(depot, 6)
    for ino in pinned:
        await depot.pin(ino, Tier.WARM)
    await depot.steps(2)
    assert held_count(depot, pinned) == 3
    late = next(ino for ino in pinned if not depot.state.residency.is_held(ino))
    assert "unpin others or raise warm.size" in await depot.reason(late)
    ours = await create_many(depot, 3, pool="team")
    await depot.steps(2)
    assert held_count(depot, ours) == 3
    assert held_count(depot, pinned) == 3


async def test_pins_in_a_pool_stay_within_it(open_depot: Callable[..., Depot]) -> None:
    """They push its unpinned files out, and nobody else's."""
    depot = open_depot(warm=WarmConfig(size_bytes=6 * SIZE, high_watermark=1, low_watermark=1))
    create_pool(depot, 3 * SIZE)
    others = await create_many(depot, 3)
    ours = await create_many(depot, 3, pool="team")
    await depot.steps(2)
    assert held_count(depot, [*others, *ours]) == 6
    pinned = await create_many(depot, 4, pool="team")
    for ino in pinned:
        await depot.pin(ino, Tier.WARM)
    await depot.steps(2)
    assert held_count(depot, pinned) == 3
    assert held_count(depot, ours) == 0
    assert held_count(depot, others) == 3
    late = next(ino for ino in pinned if not depot.state.residency.is_held(ino))
    assert "pool team" in await depot.reason(late)


async def test_a_new_pool_makes_pinned_files_give_its_share_back(
    open_depot: Callable[..., Depot],
) -> None:
    """The first ones stay; the others wait, and come again when the pool is removed."""
    depot = open_depot(
        warm=WarmConfig(size_bytes=4 * SIZE, high_watermark=1, low_watermark=1),
        policy=RETRY_AT_ONCE,
    )
    pinned = await create_many(depot, 4)
    for ino in pinned:
        await depot.pin(ino, Tier.WARM)
    await depot.steps(2)
    assert held_count(depot, pinned) == 4
    create_pool(depot, 3 * SIZE)
    await depot.steps(2)
    assert held_count(depot, pinned) == 1
    ours = await create_many(depot, 3, pool="team")
    await depot.steps(2)
    assert held_count(depot, ours) == 3
    depot.access_stats.pools.remove("team")
    for ino in ours:
        await depot.pin(ino, Tier.COLD)
    await depot.steps(3)
    assert held_count(depot, pinned) == 4


async def test_a_pin_holds_although_pools_have_all_of_ram(open_depot: Callable[..., Depot]) -> None:
    """It asks for RAM where its pool has some."""
    depot = open_depot(warm=WarmConfig(size_bytes=4 * SIZE))
    create_pool(depot, 4 * SIZE)
    [ours] = await create_many(depot, 1, pool="team")
    await depot.state.engine.record_access([(ours, 1)])
    await depot.pin(ours, Tier.WARM)
    await depot.steps(2)
    assert await depot.rule(ours) == "pin"
    assert depot.state.residency.is_held(ours)


async def test_a_mark_of_a_directory_reaches_files_with_a_pin_of_their_own(
    open_depot: Callable[..., Depot],
) -> None:
    """They inherit no pin, but they do inherit its pool: they are charged to it at once."""
    # More than a round looks at by itself.
    count = FILES_A_STEP + 8
    depot = open_depot(warm=WarmConfig(size_bytes=2 * count * SIZE))
    create_pool(depot, count * SIZE)
    engine = depot.state.engine
    pinned = await create_many(depot, count)
    for ino in pinned:
        await engine.set_pin(ino, Tier.WARM)
    await depot.steps(2)
    assert held_count(depot, pinned) == count
    assert depot.access_stats.pools.rest.file_count == count
    await engine.set_xattr(ROOT_INODE, POOL_XATTR, b"team", 0, time.time_ns())
    depot.activity.note_pin(ROOT_INODE)
    await depot.mover.run_round()
    assert depot.access_stats.pools.named["team"].file_count == count


async def test_waiting_moves_are_made_by_priority() -> None:
    """And equals in the order in which they were decided."""
    queues = MoveQueues()
    for ino, priority in ((1, 50), (2, 90), (3, 50), (4, 0), (5, 90)):
        move = Move(InodeNo(ino), Goal.GLACIER, "age", "old", 1, priority)
        queues.put(move)
        queues.put(move._replace(priority=100))
    made: list[int] = []

    async def place(move: Move) -> bool:
        made.append(int(move.ino))
        return False

    await queues.begin_all(place)
    assert made == [2, 5, 1, 3, 4]


async def test_statistics_are_stored_when_the_mover_ends(open_depot: Callable[..., Depot]) -> None:
    """And known to the next one."""
    depot = open_depot(warm=WarmConfig(size_bytes=0))
    ino = await depot.create("a", CONTENT)
    await depot.mover.run_round()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(depot.mover.run)
        nursery.cancel_scope.cancel()
    depot.state.close()
    again = open_depot(warm=WarmConfig(size_bytes=0))
    await again.mover.run_round()
    assert ino in again.access_stats.cold


async def test_a_stream_of_changed_pins_does_not_keep_the_mover_in_rounds(
    open_depot: Callable[..., Depot], autojump_clock: MockClock
) -> None:
    """`cp -a` tells of each owner; the first one is looked at without a pause all the same."""
    depot = open_depot(policy=PolicyConfig(interval_s=10.0))
    begun_s: list[float] = []

    async def take_long() -> bool:
        begun_s.append(trio.current_time())
        await trio.sleep(0.005)
        return False

    mover = Mover(depot.state.placement(depot.activity), take_long)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mover.run)
        await trio.sleep(5)
        begun_s.clear()
        woken_s = trio.current_time()
        while trio.current_time() < woken_s + 1:
            depot.activity.note_pin(ROOT_INODE)
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert begun_s[0] - woken_s < BUSY_PAUSE_S / 2
    assert 10 < len(begun_s) < 60


async def test_stored_heat_that_is_damaged_costs_nothing_but_itself(
    open_depot: Callable[..., Depot], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the mover goes on."""
    depot = open_depot()
    await depot.state.engine.put_setting("policy.heat.cold", b"nonsense")
    ino = await depot.create("a")
    await depot.mover.run_round()
    assert depot.state.residency.is_locked(ino)
    assert "count as not used" in caplog.text
