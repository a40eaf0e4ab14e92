"""Goals: step by step each file comes to where it is to be, and its content stays somewhere."""

from __future__ import annotations

from itertools import product

import pytest

from memfs.policy.goals import after_step, drops_last_copy, next_step
from memfs.policy.view import Candidate, Goal
from memfs.types import InodeNo

STEPS_MAX = 8
FILES = [
    Candidate(InodeNo(1), 0, None, raw, packed, remote, held, 4096, 4096, packable=packable)
    for raw, packed, remote, held, packable in product((False, True), repeat=5)
    if (raw or packed or remote) and (raw or not held)
]


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("file", FILES)
def test_steps_that_succeed_lead_to_the_goal(file: Candidate, goal: Goal) -> None:
    """A move that has made its last step is recorded as done without another look at the file."""
    for _ in range(STEPS_MAX):
        step = next_step(file, goal)
        if step is None:
            break
        assert file.remote or not drops_last_copy(step, file)
        file = after_step(file, step)
        assert file.raw or file.packed or file.remote
    assert next_step(file, goal) is None
    if goal == Goal.GLACIER:
        assert (file.raw, file.packed, file.remote) == (False, False, True)
    if goal == Goal.WARM:
        assert file.raw
        assert file.held
    if goal == Goal.PACKED:
        assert not file.held
        assert file.packed or file.raw
