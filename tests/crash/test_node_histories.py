"""Programs on a node that writes and on one that reads see what close-to-open promises.

For longer, with more nodes and faults at random: `python -m tests.histories.run --minutes 30`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.histories.scene import Scene

if TYPE_CHECKING:
    from tests.servers.postgresql import Database

pytestmark = pytest.mark.mount

FAULTS = ["terminate all sessions", "stop reader-0", "kill writer", "kill reader-0",
          "restart the database"]  # fmt: skip


@pytest.mark.slow
def test_what_programs_saw_while_daemons_and_the_database_were_killed(
    scratch_area: scratch.Scratch, postgres: Database
) -> None:
    base = scratch_area.directory("histories")
    scene = Scene(base, postgres, seed=1)
    try:
        with scene.running():
            scene.suffer(FAULTS)
        judge = scene.judge()
        violations = judge.run()
        assert list(map(str, violations)) == []
        assert judge.observed_count > 500
    finally:
        scratch.remove(base)
