"""SIGKILL at every step of a migration, and full disks: the next mount migrates, and has it all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.errors import IsADirectoryInodeError, NoSpaceError
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.journals import JOURNAL_NAMES
from memfs.metadata.sqlite.limits import Limits
from memfs.metadata.sqlite.migration import Migration
from memfs.moves.faults import MIGRATION_POINTS
from memfs.types import ROOT_INODE
from tests.contract.engine.making import NOW_NS, names_in
from tests.contract.engine.site import run
from tests.contract.test_engine_migration import check_state
from tests.crash.moves_scenario import KillAt
from tests.crash.small_disks import make_tmpfs
from tests.moving import SHORT_JOURNALS
from tests.processes import outlived
from tests.states import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    # An older memfs reads that: it must not take new tables for its own, nor be locked out early.
    before = MIGRATION_POINTS.index(point) < MIGRATION_POINTS.index("migrate.marked")
    assert json.loads((state_dir / "format").read_text())["format"] == (2 if before else 3)
    assert migrate_until(state_dir, "none", 1) == 0
    trio.run(check_state, state_dir, expected)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    make_tmpfs(tmp_path, 32 << 20)
    try:
        yield tmp_path / "disk"
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


def add_xattrs(state_dir: Path, expected: dict[str, Any], count: int) -> None:
    """Give the root of a state of format 2 xattrs of 50 kB each."""
    found = expected["files"][""]
    names = [b"user.%d" % number for number in range(count)]
    with sqlite3.connect(state_dir / "metadata.db") as connection:
        connection.executemany(
            "insert into xattr values (?, ?, ?)", ((1, name, bytes(50_000)) for name in names)
        )
    connection.close()
    found["xattrs"].update({name.hex(): bytes(50_000).hex() for name in sorted(names)})
    # Written past the engine: it makes the sums of what is there.
    (state_dir / "metadata.sums").unlink()


def migrate(state_dir: Path, limits: Limits = SHORT_JOURNALS) -> None:
    SqliteEngine.open(state_dir, MetadataConfig(), limits=limits, migration=Migration()).close()


def fill(disk: Path) -> Path:
    """Write until nothing fits any more; return the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_full_disk_refuses_a_migration_and_loses_nothing(disk: Path) -> None:
    """The rows do not fit a second time; the mount after room was made migrates them."""
    state_dir, expected = unpack(disk)
    add_xattrs(state_dir, expected, 100)
    ballast = fill(disk)
    with pytest.raises(NoSpaceError, match="the disk is full"):
        migrate(state_dir)
    ballast.unlink()
    trio.run(check_untouched, state_dir, expected)
    migrate(state_dir)
    trio.run(check_state, state_dir, expected)


async def check_untouched(state_dir: Path, expected: dict[str, Any]) -> None:
    """An older memfs could still use it: neither the format nor the tables have changed."""
    assert json.loads((state_dir / "format").read_text())["format"] == 2
    with sqlite3.connect(state_dir / "metadata.db") as connection:
        assert connection.execute("pragma user_version").fetchone() == (0,)
        ((count,),) = connection.execute("select count(*) from xattr where ino = 1").fetchall()
    connection.close()
    assert count == len(expected["files"][""]["xattrs"])


def allocate(state_dir: Path, limits: Limits) -> None:
    """Give the files the room that a version of memfs with these limits gave them."""
    sizes = {"reserve": limits.reserve_bytes} | dict.fromkeys(JOURNAL_NAMES, limits.journal_bytes)
    for name, size in sizes.items():
        with (state_dir / name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


@pytest.mark.parametrize("limits", [SHORT_JOURNALS, Limits()], ids=["short", "usual"])
def test_the_reserve_is_room_for_the_migration_of_a_small_state(disk: Path, limits: Limits) -> None:
    """A full disk is mounted; where the reserve is too short the journals give their room, too."""
    state_dir, expected = unpack(disk)
    allocate(state_dir, limits)
    ballast = fill(disk)
    migrate(state_dir, limits)
    ballast.unlink()
    trio.run(check_state, state_dir, expected)


def test_files_are_removed_on_a_disk_that_is_full_after_a_migration(disk: Path) -> None:
    """Journals that gave their room up get what the disk has left."""
    state_dir, _ = unpack(disk)
    fill(disk)
    migrate(state_dir)
    fill(disk)
    engine = SqliteEngine.open(state_dir, MetadataConfig(), limits=SHORT_JOURNALS)
    directory = run(engine.lookup(ROOT_INODE, b"data")).ino
    kept = set()
    for name in run(names_in(engine, directory)):
        try:
            run(engine.unlink(directory, name, NOW_NS))
        except IsADirectoryInodeError:
            kept.add(name)
        engine.commit_nowait()
    engine.close()
    engine = SqliteEngine.open(state_dir, MetadataConfig(), limits=SHORT_JOURNALS)
    assert set(run(names_in(engine, directory))) == kept
    assert engine.check() == []
    engine.close()
