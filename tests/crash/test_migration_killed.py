"""SIGKILL at every step of a migration: the next mount migrates, and has every byte and xattr."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.migration import Migration
from memfs.moves.faults import MIGRATION_POINTS
from tests.contract.test_engine_migration import check_state
from tests.crash.moves_scenario import KillAt
from tests.processes import outlived
from tests.states import unpack

if TYPE_CHECKING:
    from pathlib import Path


def migrate_until(state_dir: Path, point: str, count: int) -> int:
    """Migrate in a child that kills itself; returns the signal that ended it, 0 for the end."""

    def migrate() -> None:
        migration = Migration(reach=KillAt(point, count).reach)
        SqliteEngine.open(state_dir, MetadataConfig(), migration=migration).close()

    return outlived(migrate)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("point", MIGRATION_POINTS)
def test_a_kill_at_any_point_of_a_migration_loses_nothing(
    tmp_path: Path, point: str, count: int
) -> None:
    """Twice in a row, too: what a killed migration has left may be migrated by a killed one."""
    state_dir, expected = unpack(tmp_path)
    for number in range(count):
        ended = migrate_until(state_dir, point, 1)
        # A later one has nothing to do where the tables are new.
        assert ended == signal.SIGKILL or number, f"{point} was never reached"
    assert migrate_until(state_dir, "none", 1) == 0
    trio.run(check_state, state_dir, expected)
