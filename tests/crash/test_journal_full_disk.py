"""A full disk refuses what needs room, loses nothing, and lets things be removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from memfs.config import KIB, MIB, MetadataConfig
from memfs.errors import NoSpaceError
from memfs.metadata.records import AttributeChanges
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.limits import Limits
from memfs.types import ROOT_INODE, InodeNo
from tests.contract.engine.making import make_directory, make_file
from tests.contract.engine.site import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = Limits(
    checkpoint_bytes=128 * KIB,
    journal_bytes=512 * KIB,
    reserve_bytes=4 * MIB,
    log_page_count=256,
    late_bytes=64 * KIB,
)
NOW_NS = 9_000
STEP_COUNT_MAX = 20_000
"""More creations than the disk has room for."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mountpoint], check=True)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", "--lazy", mountpoint], check=True)


def open_engine(disk: Path) -> SqliteEngine:
    config = MetadataConfig(cache_bytes=512 * KIB, inode_cache_count=100)
    return SqliteEngine.open(disk / "state", config, 1, LIMITS)


def fill(disk: Path) -> Path:
    """Write until nothing fits any more; return the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def create_until_refused(engine: SqliteEngine) -> list[bytes]:
    """Create until the engine refuses, and return what it committed before."""
    made: list[bytes] = []
    for index in range(STEP_COUNT_MAX):
        name = b"%d-" % index + b"n" * 100
        try:
            run(make_file(engine, name))
            engine.commit_nowait()
        except NoSpaceError:
            return made
        made.append(name)
        engine.wait_for_checkpoint()
    raise AssertionError("the disk never got full")


def names_in(engine: SqliteEngine) -> list[bytes]:
    entries = run(engine.list_directory(ROOT_INODE, 0, STEP_COUNT_MAX))
    return [entry.name for entry in entries]


def test_full_disk_refuses_creations_and_keeps_all_before(disk: Path) -> None:
    engine = open_engine(disk)
    fill(disk)
    made = create_until_refused(engine)
    assert len(made) > 0
    assert made == names_in(engine)
    assert engine.check() == []
    engine.sync()
    shutil.copytree(disk / "state", disk.parent / "crashed")
    engine.close()
    engine = SqliteEngine.open(disk.parent / "crashed", MetadataConfig())
    assert made == names_in(engine)
    assert engine.check() == []
    engine.close()


def test_full_disk_refuses_again_after_reopening_and_loses_nothing(disk: Path) -> None:
    engine = open_engine(disk)
    fill(disk)
    made = create_until_refused(engine)
    engine.close()
    engine = open_engine(disk)
    assert made == names_in(engine)
    fill(disk)
    more = create_until_refused(engine)
    assert made + more == names_in(engine)
    assert engine.check() == []
    engine.close()


def test_full_disk_lets_everything_be_removed(disk: Path) -> None:
    """Thousands of removals, far more than the reserve would hold without checkpoints."""
    engine = open_engine(disk)
    directory = run(make_directory(engine, b"directory")).ino
    fill(disk)
    made = create_until_refused(engine)
    with pytest.raises(NoSpaceError):
        run(engine.set_xattr(ROOT_INODE, b"user.a", b"value", 0, NOW_NS))
    run(engine.rename(ROOT_INODE, made[0], directory, b"moved", 0, NOW_NS))
    run(engine.set_attributes(ROOT_INODE, AttributeChanges(mode=0o700)))
    engine.commit_nowait()
    gone: list[InodeNo] = [run(engine.unlink(directory, b"moved", NOW_NS)).ino]
    for name in made[1:]:
        gone.append(run(engine.unlink(ROOT_INODE, name, NOW_NS)).ino)
        engine.commit_nowait()
    run(engine.rmdir(ROOT_INODE, b"directory", NOW_NS))
    for ino in gone:
        run(engine.reap([ino]))
        engine.commit_nowait()
        fill(disk)
    assert names_in(engine) == []
    assert engine.check() == []
    engine.close()


def test_engine_accepts_creations_again_once_there_is_room(disk: Path) -> None:
    """At once: who has made room writes right away, and not after the next upkeep."""
    engine = open_engine(disk)
    ballast = fill(disk)
    made = create_until_refused(engine)
    ballast.unlink()
    run(make_file(engine, b"again"))
    engine.commit_nowait()
    assert [*made, b"again"] == names_in(engine)
    engine.close()


def test_full_disk_can_be_mounted(disk: Path) -> None:
    """After a kill on a full disk, the journal is redone without more room than there is."""
    engine = open_engine(disk)
    fill(disk)
    made = create_until_refused(engine)
    engine.wait_for_checkpoint()
    crashed = disk / "crashed"
    (disk / "ballast").unlink()
    shutil.copytree(disk / "state", crashed)
    engine.close()
    shutil.rmtree(disk / "state")
    crashed.rename(disk / "state")
    fill(disk)
    engine = open_engine(disk)
    assert made == names_in(engine)
    assert engine.check() == []
    engine.close()


def create_batch(engine: SqliteEngine, count: int) -> list[bytes]:
    """Create in one batch, until refused if need be; commit it."""
    names = [b"batch-%d-" % index + b"n" * 100 for index in range(count)]
    made: list[bytes] = []
    with suppress(NoSpaceError):
        for name in names:
            run(make_file(engine, name))
            made.append(name)
    engine.commit_nowait()
    return made


def test_batch_that_meets_the_full_disk_midway_keeps_what_was_accepted(disk: Path) -> None:
    """SQLite needs the disk in the middle of a batch: no accepted change of it may be lost."""
    engine = open_engine(disk)
    fill(disk)
    made = create_batch(engine, 2000)
    assert 0 < len(made) < 2000
    assert not (disk / "state/reserve").exists()
    assert made == names_in(engine)
    assert engine.check() == []
    engine.close()


def test_batch_that_the_journal_cannot_hold_is_undone_whole(disk: Path) -> None:
    engine = open_engine(disk)
    files = [run(make_file(engine, b"before-%d" % index)).ino for index in range(8)]
    engine.commit_nowait()
    # Plenty for the tables' pages in memory, nothing for the journal beyond its allocation.
    for ino in files:
        run(engine.set_xattr(ino, b"user.a", bytes(65_536), 0, NOW_NS))
    fill(disk)
    with pytest.raises(NoSpaceError):
        engine.commit_nowait()
    assert not engine.uncommitted
    assert [run(engine.list_xattrs(ino)) for ino in files] == [[]] * len(files)
    assert len(names_in(engine)) == len(files)
    assert engine.check() == []
    engine.close()
