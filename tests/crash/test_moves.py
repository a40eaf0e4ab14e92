"""SIGKILL at every step of every move: the next start has every byte and leaves nothing over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memfs.fsck.files import FileCheck
from memfs.moves.faults import FAULT_POINTS
from tests.crash.moves_scenario import KEYS
from tests.moving import State, compressible

if TYPE_CHECKING:
    from memfs.types import InodeNo

ROOT = Path(__file__).parents[2]
CONTENTS = {name: compressible(30_000, seed) for seed, name in enumerate("abcdefgh")}
"""The files of the scenario in `moves_scenario`, by name."""


def run_scenario(state_dir: Path, point: str, count: int) -> int:
    """Run the scenario in a process that kills itself; returns its exit status."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.crash.moves_scenario", state_dir, point, str(count)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode in (0, -signal.SIGKILL), process.stderr
    return process.returncode


async def recover(state: State) -> None:
    """Do what a daemon does after a crash, all of its background included."""
    await state.moves.recover()
    while not state.moves.sweep_done:
        await state.moves.sweep_step()
    while await state.moves.collect_garbage(1000):
        pass


async def find_files(state: State) -> dict[str, InodeNo]:
    entries = await state.engine.list_directory(1, 0, 100)  # type: ignore[arg-type]
    return {entry.name.decode(): entry.inode.ino for entry in entries}


async def check(state_dir: Path) -> None:
    """Every file is there and equal, fsck is content, and nothing is left over."""
    state = State(state_dir, keys=KEYS)
    try:
        await recover(state)
        assert await state.leaks() == []
        report = await FileCheck(
            state.engine,
            state.raw_store,
            state.packed_store,
            state.remote,
            verify=True,
            progress=lambda *_: None,
            keys=KEYS,
        ).run()
        assert list(report.problems) == []
        for name, ino in (await find_files(state)).items():
            assert await state.content(ino) == CONTENTS[name], name
        await state.moves.collect_garbage(1000)
        assert await state.leaks() == []
    finally:
        state.close()


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", FAULT_POINTS)
async def test_a_kill_at_any_point_of_any_move_loses_nothing(
    tmp_path: Path, point: str, count: int
) -> None:
    """Recovery rolls back or keeps; and the point is really reached."""
    state_dir = tmp_path / "state"
    status = run_scenario(state_dir, point, count)
    if count == 1:
        assert status == -signal.SIGKILL, f"{point} was never reached"
    await check(state_dir)


@pytest.mark.parametrize("point", ["recover.rolled_back", "recover.swept", "garbage.removed"])
async def test_a_kill_during_recovery_loses_nothing(tmp_path: Path, point: str) -> None:
    """Recovery itself may be cut short, and is done again."""
    state_dir = tmp_path / "state"
    assert run_scenario(state_dir, "upload.stored", 1) == -signal.SIGKILL
    assert run_scenario(state_dir, point, 1) == -signal.SIGKILL
    await check(state_dir)


async def test_the_scenario_runs_to_its_end(tmp_path: Path) -> None:
    """Without a kill it is an ordinary life of a state directory."""
    assert run_scenario(tmp_path / "state", "none", 1) == 0
    await check(tmp_path / "state")
    assert os.listdir(tmp_path / "state" / "tmp") == []
