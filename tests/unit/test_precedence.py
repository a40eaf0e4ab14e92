"""The daemon's share of the processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memfs.linux.privileges import Capability, has_capability
from memfs_daemon.precedence import QUIET_COUNT, REQUEST_COUNT_MIN, SERVING_NICE, Precedence


class System:
    """Programs that make requests, and a scheduler."""

    def __init__(self, *, allows: bool = True) -> None:
        self.request_count = 0
        self.allows = allows
        self.set: list[int] = []
        self.precedence = Precedence(lambda: self.request_count, self._set_nice)

    def _set_nice(self, nice: int) -> bool:
        self.set.append(nice)
        return self.allows

    def look(self, request_count: int) -> bool:
        self.request_count += request_count
        return self.precedence.follow()


def test_the_daemon_comes_first_while_programs_make_requests_and_no_longer() -> None:
    """Its background work would take the processors from programs that want nothing of it."""
    system = System()
    system.look(REQUEST_COUNT_MIN - 1)
    assert system.set == []
    for _ in range(3):
        assert system.look(REQUEST_COUNT_MIN)
    assert system.set == [SERVING_NICE]
    for _ in range(QUIET_COUNT):
        assert system.look(0)
    assert system.set == [SERVING_NICE, 0]


def test_a_pause_of_the_programs_changes_nothing() -> None:
    """Each change holds the scheduler up."""
    system = System()
    for _ in range(5):
        system.look(REQUEST_COUNT_MIN)
        for _ in range(QUIET_COUNT - 1):
            system.look(0)
    assert system.set == [SERVING_NICE]


def test_a_system_that_refuses_is_not_asked_again() -> None:
    """An ordinary user may not; nor is there anything to set in a container."""
    system = System(allows=False)
    assert not system.look(REQUEST_COUNT_MIN)
    assert system.set == [SERVING_NICE]


SCRIPT = """
import os
from pathlib import Path
from memfs.linux.priorities import set_session_nice
print(set_session_nice(3))
os.setsid()
print(set_session_nice(3), Path("/proc/self/autogroup").read_text().split()[-1])
"""


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="sessions are not grouped")
def test_only_a_session_of_its_own_is_changed() -> None:
    """A daemon in the foreground shares that of the user's shell."""
    assert has_capability(Capability.SYS_NICE) or os.geteuid()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True", "3"]
