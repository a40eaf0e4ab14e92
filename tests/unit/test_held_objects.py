"""Objects that nothing refers to stay while nodes that read may need them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from memfs.config import QuotasConfig
from memfs.jobs.gc import GcMethods
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.garbage import GarbageCollector
from memfs.moves.held_objects import MARKS_A_SPAN, MARKS_MAX, HeldObjects
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.placement.upkeep import Compaction
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEEP_S = 600.0


@dataclass
class Nodes:
    """The writer, and those that read."""

    changes: int = 10
    """Made here."""
    applied: int = 10
    """By all of them."""

    def hold(self, keep_s: float = KEEP_S) -> HeldObjects:
        """Return what a new daemon has."""
        return HeldObjects(lambda: self.changes, lambda: self.applied, keep_s)


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
def state(tmp_path: Path, nodes: Nodes) -> Iterator[State]:
    state = State(tmp_path / "state")
    state.parts.held_objects = nodes.hold()
    yield state
    state.close()


async def objects(state: State) -> int:
    return len([each async for each in state.remote.list("")])


async def gone(state: State, nodes: Nodes, name: str = "a") -> None:
    """Make a file with an object, and remove it."""
    ino = await state.create(name, compressible(20_000))
    await upload(state.parts, ino)
    await state.unlink(name)
    nodes.changes += 1


async def test_an_object_stays_until_all_have_applied_its_removal_and_its_time_is_over(
    state: State, nodes: Nodes, mock_clock: MockClock
) -> None:
    await gone(state, nodes)
    # The raw file goes at once.
    assert await state.garbage.collect(100) == 1
    mock_clock.jump(KEEP_S - 1)
    nodes.applied = nodes.changes
    assert await state.garbage.collect(100) == 0
    nodes.applied -= 1
    mock_clock.jump(2)
    assert await state.garbage.collect(100) == 0
    assert await objects(state) == 1
    nodes.applied += 1
    assert await state.garbage.collect(100) == 1
    assert await objects(state) == 0
    assert await state.leaks() == []


async def test_after_a_start_the_time_begins_anew(
    state: State, nodes: Nodes, mock_clock: MockClock
) -> None:
    """Whatever the daemon before knew, nothing goes early."""
    await gone(state, nodes)
    nodes.applied = nodes.changes
    await state.garbage.collect(100)
    mock_clock.jump(KEEP_S - 1)
    state.parts.held_objects = nodes.hold()
    collector = GarbageCollector(state.parts)
    await collector.collect(100)
    mock_clock.jump(KEEP_S - 1)
    await collector.collect(100)
    assert await objects(state) == 1
    mock_clock.jump(2)
    await collector.collect(100)
    assert await objects(state) == 0


async def test_a_batch_that_was_compacted_stays_as_well(
    state: State, nodes: Nodes, mock_clock: MockClock
) -> None:
    """What reads a file from the former batch goes on."""
    inos = [await state.create(f"{number}", compressible(5000, number)) for number in range(4)]
    await upload_batch(state.parts, inos)
    for number in range(3):
        await state.unlink(f"{number}")
    await drop_raw(state.parts, inos[3])
    [batch] = await state.engine.list_sparse_batches(50, 10, [""])
    await compact(state.parts, batch)
    nodes.changes += 1
    while await state.garbage.collect(100):
        pass
    assert await objects(state) == 2
    nodes.applied = nodes.changes
    mock_clock.jump(KEEP_S + 1)
    while await state.garbage.collect(100):
        pass
    assert await objects(state) == 1
    assert await state.content(inos[3]) == compressible(5000, 3)


async def test_exports_and_nodes_hold_objects_each_by_its_own_rule(
    state: State, nodes: Nodes, mock_clock: MockClock
) -> None:
    await gone(state, nodes)
    nodes.applied = nodes.changes
    await state.garbage.collect(100)
    mock_clock.jump(KEEP_S + 1)
    state.parts.held_from = 0
    assert await state.garbage.collect(100) == 0
    state.parts.held_from = None
    assert await state.garbage.collect(100) == 1


async def test_gc_tells_how_much_is_held(state: State, nodes: Nodes, mock_clock: MockClock) -> None:
    await gone(state, nodes)
    gc = GcMethods(
        state.parts, state.garbage, Compaction(state.parts, Quotas(QuotasConfig(), state.engine))
    )
    held = {"removed_count": 1, "left_count": 0, "held_count": 0, "needed_count": 1}
    assert await gc.garbage() == held
    state.parts.held_from = 0
    assert await gc.garbage() == held | {"removed_count": 0, "held_count": 1, "needed_count": 0}
    state.parts.held_from = None
    nodes.applied = nodes.changes
    mock_clock.jump(KEEP_S + 1)
    assert await gc.garbage() == held | {"needed_count": 0}


async def test_without_a_time_it_is_enough_that_all_have_applied_it(
    state: State, nodes: Nodes
) -> None:
    state.parts.held_objects = nodes.hold(keep_s=0.0)
    await gone(state, nodes)
    await state.garbage.collect(100)
    assert await objects(state) == 1
    nodes.applied = nodes.changes
    await state.garbage.collect(100)
    assert await objects(state) == 0


# --- any order of events -------------------------------------------------------------------------
@dataclass
class Garbage:
    """What is asked of an engine."""

    nodes: Nodes
    made: dict[int, tuple[float, int | None]] = field(default_factory=dict)
    """When an item became garbage, and by which change; None: that is not committed."""
    number: int = 0

    def add(self) -> None:
        """Make something garbage."""
        self.number += 1
        self.made[self.number] = trio.current_time(), None

    async def last_garbage(self) -> int:
        return max(self.made, default=0)

    async def commit(self) -> None:
        """Commit, as the engine does by itself now and then."""
        open_items = [item for item, (_, change) in self.made.items() if change is None]
        if open_items:
            self.nodes.changes += 1
        for item in open_items:
            self.made[item] = self.made[item][0], self.nodes.changes

    def let_go(self, held_from: int) -> None:
        """Remove what may go, and see that it was old enough and known everywhere."""
        for item in [item for item in self.made if item < held_from]:
            made_s, change = self.made.pop(item)
            assert change is not None
            assert change <= self.nodes.applied
            assert trio.current_time() - made_s >= KEEP_S


_EVENT = st.one_of(
    st.just("add"), st.just("commit"), st.just("look"), st.just("restart"),
    st.integers(1, 40).map(lambda part: part * KEEP_S / 20), st.just("apply"), st.just("other"),
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(_EVENT, max_size=60))
def test_nothing_goes_early_whatever_comes_when(events: list[str | float]) -> None:
    clock = MockClock()

    async def run() -> None:
        nodes = Nodes()
        garbage, held = Garbage(nodes), nodes.hold()
        for event in [*events, "commit", "apply", "look", KEEP_S * 2, "look", KEEP_S * 2, "look"]:
            if isinstance(event, float):
                clock.jump(event)
            elif event == "add":
                garbage.add()
            elif event == "commit":
                await garbage.commit()
            elif event == "other":
                nodes.changes += 1
            elif event == "apply":
                nodes.applied = nodes.changes
            elif event == "restart":
                held = nodes.hold()
            else:
                await held.look(garbage)  # type: ignore[arg-type]
                garbage.let_go(held.held_from)
        assert garbage.made == {}

    trio.run(run, clock=clock)


async def test_marks_are_bounded_while_nobody_applies_anything(
    nodes: Nodes, mock_clock: MockClock
) -> None:
    garbage, held = Garbage(nodes), nodes.hold()
    for _ in range(MARKS_MAX * 20):
        garbage.add()
        await held.look(garbage)  # type: ignore[arg-type]
        mock_clock.jump(KEEP_S / MARKS_A_SPAN)
    assert len(held._marks) <= MARKS_MAX
    assert held.held_from == 0
    nodes.applied = nodes.changes
    await held.look(garbage)  # type: ignore[arg-type]
    garbage.let_go(held.held_from)
    # Those that one mark stands for, and what came in the last span, at most.
    assert len(garbage.made) <= 3 * MARKS_A_SPAN
