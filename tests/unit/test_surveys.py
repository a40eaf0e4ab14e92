"""Looks at all files: how soon they begin again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from memfs.placement.surveys import PAUSE_S_MAX, PAUSE_S_MIN, AccessSurvey
from tests.moving import State

if TYPE_CHECKING:
    from pathlib import Path

    import trio.testing

    from memfs.types import InodeNo


@pytest.mark.parametrize(
    ("age_s", "pause_s"), [(86400.0, PAUSE_S_MAX), (4.0, 4.0), (0.0, PAUSE_S_MIN)]
)
async def test_a_look_that_found_nothing_is_repeated_within_the_shortest_age(
    tmp_path: Path, mock_clock: trio.testing.MockClock, age_s: float, pause_s: float
) -> None:
    """Else a file that is to go after a second would stay for half a minute."""
    state = State(tmp_path / "state")
    ino = await state.create("a", b"content")
    survey = AccessSurvey(state.engine, age_s)

    async def look() -> list[InodeNo]:
        return await survey.next_unused(time.time_ns(), 10)

    for _ in range(2):
        # Raw files, then packed ones.
        assert (await look(), await look()) == ([ino], [])
        mock_clock.jump(pause_s - 0.1)
        assert await look() == []
        mock_clock.jump(0.2)
    survey.note_found()
    assert await look() == [ino]
    state.close()
