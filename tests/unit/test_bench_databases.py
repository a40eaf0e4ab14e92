"""The loops of the database benchmark: each counts something, and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.databases import create_fsync, fdatasync, sqlite_wal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("work", [fdatasync, create_fsync, sqlite_wal])
def test_a_loop_counts_and_cleans_up(tmp_path: Path, work: Callable[[Path, float], float]) -> None:
    assert work(tmp_path, 0.02) > 0
    assert list(tmp_path.iterdir()) == []
