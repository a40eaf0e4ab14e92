from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests import scratch


@pytest.fixture(scope="session")
def scratch_area(memory_area: scratch.Scratch) -> scratch.Scratch:
    """A killed process loses nothing of what it wrote, on a disk or in memory.

    Tests of a power failure follow what was synced, and throw away the rest by themselves.
    """
    return memory_area
