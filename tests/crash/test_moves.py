"""SIGKILL at every step of every move: the next start has every byte and leaves nothing over."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.moves.damage import replace_damaged
from memfs.moves.faults import FAULT_POINTS
from tests.crash.moves_scenario import (
    COPY,
    KEYS,
    TWO_STORES,
    content_of,
    ended_by,
    note_generation,
)
from tests.moving import State, compressible

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.types import InodeNo

CONTENTS = {name: compressible(30_000, seed) for seed, name in enumerate("abcdefghij")}
CONTENTS[COPY] = CONTENTS["a"]
"""The files of the scenario in `moves_scenario`, by name."""


async def recover(state: State) -> None:
    """Do what a daemon does after a crash, all of its background included."""
    await state.recovery.begin()
    while not state.recovery.done:
        await state.recovery.look_at_slice()
    while await state.garbage.collect(1000):
        pass


async def find_files(state: State) -> dict[str, InodeNo]:
    entries = await state.engine.list_directory(1, 0, 100)  # type: ignore[arg-type]
    return {entry.name.decode(): entry.inode.ino for entry in entries}


async def check(state_dir: Path) -> None:
    """Every file is there and equal, fsck is content, and nothing is left over."""
    state = State(state_dir, TWO_STORES, keys=KEYS)
    try:
        await recover(state)
        assert await state.leaks() == []
        await note_generation(state)
        for ino in (await find_files(state)).values():
            # As each request does; until then fsck names a raw file that was set aside.
            await replace_damaged(state.parts, ino)
        report = await state.check_files(keys=KEYS)
        assert list(report.problems) == []
        for name, ino in (await find_files(state)).items():
            assert await state.content(ino) == CONTENTS[name], name
        for snapshot in await state.engine.list_snapshots():
            for name, ino in (await find_files(state)).items():
                if name != COPY and (await state.engine.inode_at(snapshot.snap, ino)).raw:
                    assert await content_of(state, snapshot.snap, ino) == CONTENTS[name]
        await state.garbage.collect(1000)
        assert await state.leaks() == []
    finally:
        state.close()


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", FAULT_POINTS)
def test_a_kill_at_any_point_of_any_move_loses_nothing(
    tmp_path: Path, point: str, count: int
) -> None:
    """Recovery rolls back or keeps; and the point is really reached."""
    ended = ended_by(tmp_path / "state", point, count)
    if count == 1:
        assert ended == signal.SIGKILL, f"{point} was never reached"
    trio.run(check, tmp_path / "state")


@pytest.mark.parametrize("point", ["recover.rolled_back", "recover.swept", "garbage.removed"])
def test_a_kill_during_recovery_loses_nothing(tmp_path: Path, point: str) -> None:
    """Recovery itself may be cut short, and is done again."""
    assert ended_by(tmp_path / "state", "upload.stored", 1) == signal.SIGKILL
    assert ended_by(tmp_path / "state", point, 1) == signal.SIGKILL
    trio.run(check, tmp_path / "state")


def test_the_scenario_runs_to_its_end(tmp_path: Path) -> None:
    """Without a kill it is an ordinary life of a state directory."""
    assert ended_by(tmp_path / "state", "none", 1) == 0
    trio.run(check, tmp_path / "state")
    assert os.listdir(tmp_path / "state" / "tmp") == []
