"""The mover and what it knows of use: admission to the disk, promotion, priorities, restarts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from memfs.config import ColdConfig, PolicyConfig, WarmConfig
from memfs.mover.lanes import Lanes
from memfs.policy.marks import PRIORITY_XATTR
from memfs.policy.view import Goal, Move
from memfs.types import FormKind, InodeNo, Tier
from tests.moving import incompressible
from tests.unit.test_mover import CONTENT, Depot, open_depot

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

__all__ = ["open_depot"]

SIZE = 102_400
"""Of incompressible files, in whole pages."""


async def use(depot: Depot, *inos: InodeNo) -> None:
    for ino in inos:
        depot.activity.note_access(ino, time.time_ns())
    await depot.mover.step()


async def archived(depot: Depot, name: str) -> InodeNo:
    """A file that lies in the object store only."""
    ino = await depot.create(name, incompressible(SIZE, seed=99))
    await depot.pin(ino, Tier.GLACIER)
    await depot.steps(2)
    assert await depot.state.forms(ino) == {FormKind.REMOTE}
    await depot.pin(ino, None)
    await depot.mover.step()
    return ino


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
    await depot.state.moves.hydrate(fetched)
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
    await depot.state.moves.hydrate(fetched)
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


async def test_files_of_low_priority_leave_ram_first(open_depot: Callable[..., Depot]) -> None:
    """Although they came last."""
    depot = open_depot(
        warm=WarmConfig(size_bytes=5 * SIZE, high_watermark=0.85, low_watermark=0.65)
    )
    inos = [await depot.create(f"f{seed}", incompressible(SIZE, seed)) for seed in range(5)]
    depot.heat.marked = True
    for ino in inos[3:]:
        await depot.state.engine.set_xattr(ino, PRIORITY_XATTR, b"10", 0, time.time_ns())
    await depot.steps(3)
    held = [depot.state.residency.is_held(ino) for ino in inos]
    assert held == [True, True, True, False, False]


async def test_waiting_moves_are_made_by_priority() -> None:
    """And equals in the order in which they were decided."""
    lanes = Lanes()
    for ino, priority in ((1, 50), (2, 90), (3, 50), (4, 0), (5, 90)):
        move = Move(InodeNo(ino), Goal.GLACIER, "age", "old", 1, priority)
        lanes.put(move)
        lanes.put(move._replace(priority=100))
    made: list[int] = []

    async def place(move: Move) -> None:
        made.append(int(move.ino))

    assert await lanes.drain(place) == 5
    assert made == [2, 5, 1, 3, 4]


async def test_heat_is_stored_when_the_mover_ends(open_depot: Callable[..., Depot]) -> None:
    """And known to the next one."""
    depot = open_depot(warm=WarmConfig(size_bytes=0))
    ino = await depot.create("a", CONTENT)
    await depot.mover.step()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(depot.mover.run)
        nursery.cancel_scope.cancel()
    depot.state.close()
    again = open_depot(warm=WarmConfig(size_bytes=0))
    await again.mover.step()
    assert ino in again.heat.cold


async def test_stored_heat_that_is_damaged_costs_nothing_but_itself(
    open_depot: Callable[..., Depot], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the mover goes on."""
    depot = open_depot()
    await depot.state.engine.put_setting("policy.heat.cold", b"nonsense")
    ino = await depot.create("a")
    await depot.mover.step()
    assert depot.state.residency.is_locked(ino)
    assert "count as not used" in caplog.text
