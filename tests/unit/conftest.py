from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.moving import State
from tests.property.world import ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A whole file system without a mount; files move only by pins."""
    opened = World(tmp_path, ROOMY, passthrough=False)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    """A state directory that is sound at the end of the test."""
    state = State(tmp_path / "state")
    yield state
    assert state.engine.check() == []
    state.close()
