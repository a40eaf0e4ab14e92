"""SIGKILL at every step of a repair: no mount until another one has ended, and no byte is lost."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.errors import StateDamagedError
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.moves.faults import REPAIR_POINTS
from tests.crash.moves_scenario import KillAt
from tests.processes import outlived
from tests.property.test_repair import check_nothing_is_lost, make_killed, mend

if TYPE_CHECKING:
    from pathlib import Path

PAGE_BYTES = 4096


def ruin_database(path: Path) -> None:
    """Damage a page that SQLite's log does not have: of a table that nothing was written to."""
    # Immutable: without the log.
    with sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True) as connection:
        ((page,),) = connection.execute("select rootpage from sqlite_master where name = 'xattr'")
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xff" * 16)


def ruin(state_dir: Path) -> None:
    """Damage so much that a repair takes every step that it has."""
    ruin_database(state_dir / "metadata.db")
    (state_dir / "ids").unlink()
    journal = max(
        (state_dir / name for name in ("journal.0", "journal.1")),
        key=lambda each: int.from_bytes(each.read_bytes()[16:24], "little"),
    )
    content = bytearray(journal.read_bytes())
    content[1536 + 200] ^= 1
    journal.write_bytes(content)


def mend_until(state_dir: Path, point: str) -> int:
    """Repair in a child that kills itself; returns the signal that ended it, 0 for the end."""
    return outlived(lambda: trio.run(mend, state_dir, KillAt(point, 1)))


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", REPAIR_POINTS)
def test_a_kill_at_any_point_of_a_repair_loses_nothing(
    tmp_path: Path, point: str, count: int
) -> None:
    """Twice in a row, too: a repair may be killed that goes on from a killed one."""
    killed = trio.run(make_killed, tmp_path)
    ruin(killed)
    for number in range(count):
        ended = mend_until(killed, point)
        # The second one has less to do.
        assert ended == signal.SIGKILL or number, f"{point} was never reached"
        if ended:
            with pytest.raises(StateDamagedError, match="memfs fsck --repair"):
                SqliteEngine.open(killed, MetadataConfig())
    repaired = trio.run(mend, killed)
    trio.run(check_nothing_is_lost, killed, f"{point}: {repaired}")
    assert not list(killed.glob("metadata.db.*"))


def test_rows_that_a_killed_repair_has_read_are_not_lost(tmp_path: Path) -> None:
    """The log of a damaged database goes before the rows that were read with it are in place."""
    killed = trio.run(make_killed, tmp_path)
    ruin_database(killed / "metadata.db")
    whole = tmp_path / "whole"
    shutil.copytree(killed, whole)
    trio.run(mend, whole)
    for point in ("repair.salvaged", "repair.log_removed"):
        assert mend_until(killed, point) == signal.SIGKILL
    trio.run(mend, killed)
    assert trio.run(check_nothing_is_lost, killed, "killed") == trio.run(
        check_nothing_is_lost, whole, "whole"
    )
