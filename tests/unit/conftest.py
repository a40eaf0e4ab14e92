from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
