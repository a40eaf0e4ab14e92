from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.crash.node_pair import Pair, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgresql import Database


@pytest.fixture(scope="session")
def scratch_area(memory_area: scratch.Scratch) -> scratch.Scratch:
    """A killed process loses nothing of what it wrote, on a disk or in memory.

    Tests of a power failure follow what was synced, and throw away the rest by themselves.
    """
    return memory_area


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, scratch_area: scratch.Scratch, postgres: Database
) -> Iterator[Pair]:
    """Both are mounted."""
    base = scratch_area.directory("nodes")
    made = Pair(base, postgres, getattr(request, "param", Way()))
    try:
        made.writer.start()
        made.reader.start()
        yield made
        made.reader.stop()
        made.writer.stop()
        made.fsck()
    finally:
        if not postgres.server.is_running:
            postgres.server.start()
        for mount in (made.reader, made.writer):
            for pid in mount.daemon_pids():
                scratch.kill_and_wait(pid)
        scratch.remove(base)
