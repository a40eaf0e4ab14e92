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

KILLS = ["terminate all sessions", "stop reader-0", "kill writer", "kill reader-0",
         "restart the database"]  # fmt: skip
CUTS = ["cut reader-0 from the database", "lose what the database answers writer",
        "cut writer from the store", "lose what the store answers reader-0",
        "cut writer from the database for long",
        "lose what the database answers reader-0 for long"]  # fmt: skip
TAKE_OVERS = ["take over from a writer that was killed", "kill writer",
              "take over from a writer that is cut off"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "limit_s"), [(KILLS, 60), (CUTS, 10), (TAKE_OVERS, 10)], ids=["kill", "cut", "take"]
)
def test_what_programs_saw_while_nodes_were_killed_cut_off_and_taken_over(
    scratch_area: scratch.Scratch, postgres: Database, faults: list[str], limit_s: int
) -> None:
    base = scratch_area.directory("histories")
    scene = Scene(base, postgres, seed=1, limit_s=limit_s)
    try:
        with scene.running():
            scene.suffer(faults)
        judge = scene.judge()
        violations = judge.run()
        assert list(map(str, violations)) == []
        assert judge.observed_count > 500
    finally:
        scratch.remove(base)
