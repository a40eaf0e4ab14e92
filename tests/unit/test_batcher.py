"""Batches: a move waits for the object of its batch where it is made, and keeps nobody waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.errors import StoreUnavailableError
from memfs.moves.outcome import MoveOutcome, MoveResult
from memfs.placement.batcher import LEFT_OUT, Batcher
from memfs.policy.view import Goal, Move
from memfs.types import InodeNo
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from memfs.moves.attempt import MoveParts

INOS = [InodeNo(ino) for ino in (1, 2, 3)]
DONE = MoveResult(MoveOutcome.DONE, 100)


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
    made: dict[InodeNo, MoveResult] = {}

    async def write(_parts: MoveParts, inos: Sequence[InodeNo]) -> dict[InodeNo, MoveResult]:
        written.append(inos)
        return {INOS[0]: DONE, INOS[1]: DONE}

    async def place(move: Move, gathered: Callable[[], None]) -> None:
        async with batcher.upload(move.ino, 1, gathered) as result:
            await trio.lowlevel.checkpoint()
            made[move.ino] = result

    batcher = Batcher(placement, write)
    throttle = placement.parts.throttle
    throttle.decide(giving_way=True, urgent=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run, nursery, place, throttle.turn)
        for ino in INOS:
            placement.queues.put(Move(ino, Goal.GLACIER, "age", "old", 1))
        await trio.testing.wait_all_tasks_blocked()
        assert list(queue.gathered) == INOS
        assert all(ino in placement.queues for ino in INOS)
        await batcher.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert not any(ino in placement.queues for ino in INOS)
        nursery.cancel_scope.cancel()
    assert written == [INOS]
    assert made == {INOS[0]: DONE, INOS[1]: DONE, INOS[2]: LEFT_OUT}


async def test_what_keeps_an_object_from_being_written_reaches_each_of_its_files(
    state: State,
) -> None:
    """And counts once as a failure of the store, however many files there were."""
    placement = state.placement()
    refused: list[InodeNo] = []

    async def write(*_arguments: object) -> dict[InodeNo, MoveResult]:
        raise StoreUnavailableError("the store is down")

    async def upload(ino: InodeNo) -> None:
        with pytest.raises(StoreUnavailableError, match="is down"):
            async with batcher.upload(ino, 1, lambda: None):
                raise AssertionError("it was uploaded")
        refused.append(ino)

    batcher = Batcher(placement, write)
    async with trio.open_nursery() as nursery:
        for ino in INOS:
            nursery.start_soon(upload, ino)
        await trio.testing.wait_all_tasks_blocked()
        await batcher.flush()
    assert sorted(refused) == INOS
    assert placement.breaker.reason == "the store is down"
    assert placement.breaker.wait_s < 2 * placement.config.policy.retry_s_min


async def test_a_defect_in_one_file_of_a_batch_leaves_all_to_uploads_of_their_own(
    state: State,
) -> None:
    results: list[MoveResult] = []

    async def write(*_arguments: object) -> dict[InodeNo, MoveResult]:
        raise KeyError("defect")

    async def upload(ino: InodeNo) -> None:
        async with batcher.upload(ino, 1, lambda: None) as result:
            results.append(result)

    batcher = Batcher(state.placement(), write)
    async with trio.open_nursery() as nursery:
        for ino in INOS:
            nursery.start_soon(upload, ino)
        await trio.testing.wait_all_tasks_blocked()
        await batcher.flush()
    assert results == [LEFT_OUT] * 3
