"""Batches: a move waits for the object of its batch where it is made, and keeps nobody waiting."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import StoreUnavailableError
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.placement.batcher import BATCH_WORKERS, LEFT_OUT, Batcher
from memfs.policy.view import Goal, Move
from memfs.types import InodeNo
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from memfs.moves.attempt import MoveParts

INOS = [InodeNo(ino) for ino in (1, 2, 3)]
DONE = MoveResult(MoveOutcome.DONE, 100)


def move_of(ino: InodeNo) -> Move:
    return Move(ino, Goal.GLACIER, "age", "old", 1)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


async def test_a_move_that_waits_for_its_batch_keeps_no_other_from_it(
    state: State,
) -> None:
    """One worker gathers all of them, also while moves give way to programs one by one."""
    placement = state.placement()
    queue = placement.queues.demotions
    written: list[Sequence[InodeNo]] = []
    made: dict[InodeNo, object] = {}

    async def write(_parts: MoveParts, inos: Sequence[InodeNo]) -> dict[InodeNo, MoveResult]:
        written.append(inos)
        return {INOS[0]: DONE, INOS[1]: DONE}

    async def place(move: Move) -> bool:
        batcher.add(move, 1)
        return True

    async def go_on(move: Move, result: object) -> None:
        await trio.lowlevel.checkpoint()
        made[move.ino] = result
        placement.queues.end(move.ino)

    batcher = Batcher(placement, go_on, write)
    throttle = placement.parts.throttle
    throttle.decide(giving_way=True, urgent=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run, place, throttle.turn)
        for ino in INOS:
            placement.queues.put(move_of(ino))
        await trio.testing.wait_all_tasks_blocked()
        assert list(queue.gathered) == INOS
        assert all(ino in placement.queues for ino in INOS)
        await batcher.flush(nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert not any(ino in placement.queues for ino in INOS)
        nursery.cancel_scope.cancel()
    assert written == [INOS]
    assert made == {INOS[0]: DONE, INOS[1]: DONE, INOS[2]: LEFT_OUT}


async def test_thousands_of_gathered_files_are_no_tasks(state: State) -> None:
    """Each was one once, of 6 kB, and up to 8192 of them waited. Few go on at a time."""
    count = 2000
    placement = state.placement()
    queues = placement.queues
    going_on: set[InodeNo] = set()
    most = 0

    async def write(*_arguments: object) -> dict[InodeNo, MoveResult]:
        return {}

    async def place(move: Move) -> bool:
        batcher.add(move, 1)
        return True

    async def go_on(move: Move, _result: object) -> None:
        nonlocal most
        going_on.add(move.ino)
        most = max(most, len(going_on))
        await trio.lowlevel.checkpoint()
        going_on.remove(move.ino)
        queues.end(move.ino)

    batcher = Batcher(placement, go_on, write)
    for ino in range(1, count + 1):
        queues.put(move_of(InodeNo(ino)))
    before_count = trio.lowlevel.current_statistics().tasks_living
    tracemalloc.start()
    try:
        await queues.begin_all(place)
        gathered_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(queues.demotions.gathered) == count
    assert trio.lowlevel.current_statistics().tasks_living == before_count
    assert gathered_bytes < 500 * count
    async with trio.open_nursery() as nursery:
        await batcher.flush(nursery)
        await batcher.flush(nursery)
        assert len(nursery.child_tasks) <= BATCH_WORKERS
    assert most == BATCH_WORKERS
    assert not queues.demotions.gathered


async def test_what_keeps_an_object_from_being_written_reaches_each_of_its_files(
    state: State,
) -> None:
    """And counts once as a failure of the store, however many files there were."""
    placement = state.placement()
    refused: dict[InodeNo, object] = {}
    failure = StoreUnavailableError("the store is down")

    async def write(*_arguments: object) -> dict[InodeNo, MoveResult]:
        raise failure

    async def go_on(move: Move, result: object) -> None:
        refused[move.ino] = result

    batcher = Batcher(placement, go_on, write)
    async with trio.open_nursery() as nursery:
        for ino in INOS:
            batcher.add(move_of(ino), 1)
        await batcher.flush(nursery)
    assert refused == dict.fromkeys(INOS, failure)
    assert placement.breakers.of("").reason == "the store is down"
    assert placement.breakers.of("").wait_s < 2 * placement.config.policy.retry_s_min


async def test_a_defect_in_one_file_of_a_batch_leaves_all_to_uploads_of_their_own(
    state: State,
) -> None:
    results: list[object] = []

    async def write(*_arguments: object) -> dict[InodeNo, MoveResult]:
        raise KeyError("defect")

    async def go_on(_move: Move, result: object) -> None:
        results.append(result)

    batcher = Batcher(state.placement(), go_on, write)
    async with trio.open_nursery() as nursery:
        for ino in INOS:
            batcher.add(move_of(ino), 1)
        await batcher.flush(nursery)
    assert results == [LEFT_OUT] * 3
