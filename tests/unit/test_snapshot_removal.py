"""What deleted snapshots kept goes in the background, and with it the raw files."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.errors import NoSpaceError
from memfs.jobs.snapshot_removal import AGAIN_S, SnapshotRemoval
from memfs.moves.keeping import keep_copy
from memfs.types import ROOT_INODE
from tests.moving import State, compressible
from tests.processes import outlived

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

STEP = 20
FILE_COUNT = 2 * STEP + 5
KEPT_COUNT = 3


async def fill(state: State) -> None:
    """Make a deleted snapshot that keeps some raw files, and the names of many others."""
    inos = [await state.create(f"f{number}", b"") for number in range(FILE_COUNT)]
    kept = [
        await state.create(f"kept{number}", compressible(5000, number))
        for number in range(KEPT_COUNT)
    ]
    engine = state.engine
    async with engine.change():
        made = await engine.create_snapshot("deleted", time.time_ns())
        for number in range(len(inos)):
            await engine.unlink(ROOT_INODE, b"f%d" % number, 1)
    for ino in kept:
        await keep_copy(state.parts, ino)
        await state.rewrite(ino, compressible(3000, ino))
    usage = await engine.snapshot_usage()
    assert (usage.snapshot_count, usage.leaving_count) == (1, 0)
    assert usage.kept_raw_count == KEPT_COUNT
    assert usage.kept_raw_bytes > 0
    async with engine.change():
        await engine.delete_snapshot(made.snap)
    assert (await engine.snapshot_usage()).leaving_count == 1


async def test_all_goes_and_raw_files_become_garbage(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    await fill(state)
    await SnapshotRemoval(state.engine, step_count=STEP).remove_all()
    assert await state.engine.snapshot_usage() == (0, None, 0, 0, 0)
    assert (await state.engine.usage()).garbage_count >= KEPT_COUNT
    while await state.garbage.collect(1000):
        pass
    assert await state.leaks() == []
    assert state.engine.check() == []
    state.close()


async def test_the_work_is_in_steps_between_which_others_come(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    state = State(tmp_path / "state")
    await fill(state)
    step, calls = state.engine.delete_snapshot_step, []

    async def counted(limit: int) -> bool:
        calls.append((limit, trio.current_time()))
        return await step(limit)

    state.engine.delete_snapshot_step = counted  # type: ignore[method-assign]
    removal = SnapshotRemoval(state.engine, step_count=STEP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(removal.run)
        await trio.sleep(100)
        assert len(calls) > FILE_COUNT // STEP
        assert {limit for limit, _ in calls} == {STEP}
        assert len({time_s for _, time_s in calls}) == len(calls)
        assert (await state.engine.snapshot_usage()).leaving_count == 0
        # One that is deleted later is begun as well.
        async with state.engine.change():
            made = await state.engine.create_snapshot("second", time.time_ns())
            await state.engine.delete_snapshot(made.snap)
        removal.begin()
        await trio.sleep(100)
        assert (await state.engine.snapshot_usage()).leaving_count == 0
        nursery.cancel_scope.cancel()
    state.close()


async def test_a_full_disk_puts_it_off(tmp_path: Path, autojump_clock: MockClock) -> None:
    state = State(tmp_path / "state")
    await fill(state)
    step, failures = state.engine.delete_snapshot_step, [NoSpaceError("full"), NoSpaceError("full")]

    async def failing(limit: int) -> bool:
        if failures:
            raise failures.pop()
        return await step(limit)

    state.engine.delete_snapshot_step = failing  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SnapshotRemoval(state.engine, step_count=STEP).run)
        await trio.sleep(2 * AGAIN_S - 1)
        assert (await state.engine.snapshot_usage()).leaving_count == 1
        await trio.sleep(AGAIN_S)
        assert (await state.engine.snapshot_usage()).leaving_count == 0
        nursery.cancel_scope.cancel()
    state.close()


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_kill_between_two_steps_leaves_the_rest_to_the_next_mount(
    tmp_path: Path, killed_after: int
) -> None:
    async def begin() -> None:
        state = State(tmp_path / "state")
        await fill(state)
        for _ in range(killed_after):
            async with state.engine.change():
                await state.engine.delete_snapshot_step(STEP)
        os.kill(os.getpid(), signal.SIGKILL)

    assert outlived(lambda: trio.run(begin)) == signal.SIGKILL

    async def go_on() -> None:
        state = State(tmp_path / "state")
        await state.recovery.begin()
        assert (await state.engine.snapshot_usage()).leaving_count == 1
        await SnapshotRemoval(state.engine, step_count=STEP).remove_all()
        assert await state.engine.snapshot_usage() == (0, None, 0, 0, 0)
        assert state.engine.check() == []
        state.close()

    trio.run(go_on)
