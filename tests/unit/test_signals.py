"""Signals, and the workers that wait for them: who was idle once works again, all of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import GlacierConfig
from memfs.content.activity import Activity
from memfs.hot.board import HotBoard, HotDevice, HotServerInfo, Want
from memfs.hot.tier import WORKERS, HotTier
from memfs.hot.tokens import TokenSigner
from memfs.placement.batcher import BATCH_WORKERS, LEFT_OUT, Batcher
from memfs.placement.mover import PROMOTION_WORKERS, Mover
from memfs.placement.prefetch.fetcher import Fetched
from memfs.placement.prefetch.prefetcher import Prefetcher
from memfs.policy.view import Goal, Move
from memfs.prediction.predictor import Predictor
from memfs.signals import Signal
from memfs.types import Generation, InodeNo
from tests.moving import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from memfs.moves.outcome import MoveResult

ROOT = Path(__file__).parents[2]
LIMIT_S = 1000.0
"""By the mock clock, which runs ahead while worker threads do their work."""


class Crowd:
    """Counts who works at a time; nobody ends before `open` is set."""

    def __init__(self) -> None:
        self.working_count = 0
        self._open = False
        self._changed = Signal()

    async def work(self) -> None:
        """Work until the crowd may go."""
        self.working_count += 1
        self._changed.set()
        while not self._open:
            await self._changed.wait(self._changed.count)
        self.working_count -= 1
        self._changed.set()

    async def reach(self, count: int) -> None:
        """Return once so many work at a time."""
        with trio.fail_after(LIMIT_S):
            while self.working_count < count:
                await self._changed.wait(self._changed.count)

    async def gather(self, count: int) -> None:
        """Return once so many work at a time and have ended after that."""
        await self.reach(count)
        self._open = True
        self._changed.set()
        with trio.fail_after(LIMIT_S):
            while self.working_count:
                await self._changed.wait(self._changed.count)
        self._open = False


class TestSignal:
    async def test_all_who_wait_are_woken_each_time(self) -> None:
        """Nobody's turn takes another's away."""
        signal, woken = Signal(), []

        async def wait(number: int) -> None:
            seen = signal.count
            for _ in range(3):
                seen = await signal.wait(seen)
                woken.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(wait, number)
            for turn in range(1, 4):
                await trio.testing.wait_all_tasks_blocked()
                signal.set()
                await trio.testing.wait_all_tasks_blocked()
                assert sorted(woken) == sorted([*range(4)] * turn)

    async def test_what_was_set_since_the_look_ends_the_wait(self) -> None:
        """Between a look and a wait there may be a checkpoint."""
        signal = Signal()
        seen = signal.count
        signal.set()
        with trio.fail_after(1.0):
            assert await signal.wait(seen) == 1

    async def test_a_cancelled_waiter_takes_nothing_along(self) -> None:
        signal = Signal()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(signal.wait, 0)
            with trio.move_on_after(0.0):
                await signal.wait(0)
            await trio.testing.wait_all_tasks_blocked()
            signal.set()


def _replaced_events() -> Iterator[str]:
    """Name each place that gives an attribute a new event after its object was made."""
    for source in ("memfs", "daemon/memfs_daemon", "tools/memfs_tools"):
        for file in sorted((ROOT / source).rglob("*.py")):
            if file == ROOT / "memfs/signals.py":
                continue
            for function in ast.walk(ast.parse(file.read_bytes())):
                if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                if function.name == "__init__":
                    continue
                for node in ast.walk(function):
                    if not isinstance(node, ast.Assign):
                        continue
                    made = ast.unparse(node.value) in ("trio.Event()", "Event()")
                    if made and any(isinstance(target, ast.Attribute) for target in node.targets):
                        yield f"{file.relative_to(ROOT)}:{node.lineno}"


def test_nobody_replaces_an_event() -> None:
    """A waiter that does loses the wake-ups of the others; `Signal` is there for that."""
    assert list(_replaced_events()) == []


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


class NoServer:
    """A hot server that nothing is asked of here."""

    async def call(self, op: str, *_fds: int, **_fields: object) -> dict[str, object]:
        raise AssertionError(op)


def _moves(goal: Goal, begin: int, count: int) -> list[Move]:
    return [Move(InodeNo(begin + n), goal, "pin", "", 1) for n in range(count)]


async def _settle() -> bool:
    return False


async def test_queues_that_were_idle_use_all_their_workers(
    state: State, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue of 4 that had been idle once ran 2 moves at a time, and then 1."""
    placement = state.placement(Activity())
    mover = Mover(placement, _settle)
    crowds = {True: Crowd(), False: Crowd()}

    async def place(move: Move) -> bool:
        await crowds[move.goal >= Goal.LOCAL].work()
        return False

    monkeypatch.setattr(mover._placer, "place", place)
    counts = {Goal.LOCAL: PROMOTION_WORKERS, Goal.GLACIER: GlacierConfig().transfer_count_max}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mover.run)
        number = 1000
        for wave in range(4):
            for goal, worker_count in counts.items():
                # One move and an idle queue again; then more than there are workers.
                count = 1 if wave % 2 == 0 else worker_count
                for move in _moves(goal, number, count):
                    placement.queues.put(move)
                number += count
                await crowds[goal >= Goal.LOCAL].gather(count)
        nursery.cancel_scope.cancel()


async def test_batches_are_written_by_all_their_workers(
    state: State, autojump_clock: MockClock
) -> None:
    """While one object is uploaded, the other worker fills the next one."""
    crowd = Crowd()

    async def write(*_arguments: object) -> dict[InodeNo, MoveResult]:
        await crowd.work()
        return {}

    async def go_on(_move: Move, result: object) -> None:
        assert result == LEFT_OUT

    batcher = Batcher(state.placement(), go_on, write)
    async with trio.open_nursery() as nursery:
        for _ in range(BATCH_WORKERS):
            nursery.start_soon(batcher.run, nursery)
        number = 1000
        for wave in range(4):
            count = 1 if wave % 2 == 0 else BATCH_WORKERS
            for expected in range(1, count + 1):
                batcher.add(Move(InodeNo(number), Goal.GLACIER, "age", "old", 1), 1)
                number += 1
                await crowd.reach(expected)
            await crowd.gather(count)
        nursery.cancel_scope.cancel()


async def test_hints_are_fetched_by_all_workers(
    state: State, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of files that comes after a pause is brought as fast as the first one."""
    prefetcher = Prefetcher(state.placement(), Predictor())
    crowd = Crowd()

    async def bring(_ino: InodeNo, **_: object) -> Fetched:
        await crowd.work()
        return Fetched()

    monkeypatch.setattr(prefetcher._fetcher, "bring", bring)
    worker_count = GlacierConfig().transfer_count_max
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prefetcher.run)
        for wave in range(4):
            count = 1 if wave % 2 == 0 else worker_count
            inos = [InodeNo(1000 + wave * 100 + n) for n in range(count)]
            prefetcher.hint(inos, warm=False, job=None, replace=False)
            await crowd.gather(count)
        nursery.cancel_scope.cancel()


async def test_files_for_the_hot_tier_are_brought_by_all_workers(
    state: State, autojump_clock: MockClock
) -> None:
    """One file that fills a device for minutes keeps no other from being looked at."""
    board = HotBoard()
    board.begin(
        HotServerInfo("address", 0, TokenSigner(b"s" * 32), (HotDevice("CPU-0", "cpu", "cpu", 1),))
    )
    crowd = Crowd()

    class CrowdedTier(HotTier):
        async def bring(self, want: Want) -> None:
            await crowd.work()

    tier = CrowdedTier(state.parts, board, NoServer())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tier.run)
        for wave in range(4):
            count = 1 if wave % 2 == 0 else WORKERS
            for n in range(count):
                board.want(Want(InodeNo(1000 + wave * 100 + n), Generation(1)))
            await crowd.gather(count)
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_wanted_again_keeps_no_worker_from_others(
    state: State, autojump_clock: MockClock
) -> None:
    """It is looked at once more when it was brought, however often it was wanted meanwhile."""
    board = HotBoard()
    board.begin(
        HotServerInfo("address", 0, TokenSigner(b"s" * 32), (HotDevice("CPU-0", "cpu", "cpu", 1),))
    )
    slow, brought = Want(InodeNo(1), Generation(1)), list[Want]()
    end_of_slow = trio.Event()

    class SlowTier(HotTier):
        async def bring(self, want: Want) -> None:
            brought.append(want)
            if want == slow:
                await end_of_slow.wait()

    tier = SlowTier(state.parts, board, NoServer())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tier.run)
        board.want(slow)
        await trio.testing.wait_all_tasks_blocked()
        begin_s = trio.current_time()
        for number in range(2, 5):
            board.want(slow)
            await trio.testing.wait_all_tasks_blocked()
            board.want(other := Want(InodeNo(number), Generation(1)))
            await trio.testing.wait_all_tasks_blocked()
            assert brought[-1] == other
        assert trio.current_time() == begin_s
        assert brought.count(slow) == 1
        end_of_slow.set()
        await trio.testing.wait_all_tasks_blocked()
        assert brought.count(slow) == 2
        nursery.cancel_scope.cancel()
