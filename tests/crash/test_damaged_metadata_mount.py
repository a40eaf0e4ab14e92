"""Damaged metadata under a mount: it is refused, nothing is removed, a repair says what is lost."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.warm import run_warm

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

pytestmark = pytest.mark.any_driver

FILE_COUNT = 60
JOURNAL_NAMES = ("journal.0", "journal.1")


def memfs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_warm(*arguments)


def newest_journal(state: Path) -> Path:
    paths = [state / name for name in JOURNAL_NAMES]
    return max(paths, key=lambda each: int.from_bytes(each.read_bytes()[16:24], "little"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2048] ^= 1
    path.write_bytes(content)


def zero(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2048:2560] = bytes(512)
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, 4096)


@pytest.mark.parametrize("damage", [flip, zero, cut, os.unlink])
def test_damage_refuses_the_mount_and_a_repair_loses_no_bytes(
    driver: str, mount_factory: MountFactory, damage: Callable[[Path], None]
) -> None:
    mount: Mount = mount_factory(driver)
    contents = {f"{number}": b"content %d" % number for number in range(FILE_COUNT)}
    for name, content in contents.items():
        with (mount.root / name).open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
    mount.kill()
    damage(newest_journal(mount.state))
    raws = {path: path.read_bytes() for path in (mount.state / "raw").glob("*/*")}
    for _ in range(2):
        refused = memfs("mount", "--state", mount.state, mount.root)
        assert refused.returncode == ExitCode.STATE_UNUSABLE, refused.stderr
        assert f"memfs fsck --repair {mount.state}" in refused.stderr
    assert memfs("fsck", mount.state).returncode == ExitCode.STATE_UNUSABLE
    assert all(path.read_bytes() == content for path, content in raws.items())
    repaired = memfs("fsck", "--repair", "--json", mount.state)
    answer = json.loads(repaired.stdout)
    assert answer["repaired"]["actions"], repaired
    assert answer["clean"], answer
    mount.start()
    there = {path.name: path.read_bytes() for path in mount.root.iterdir()}
    assert all(contents[name] == content for name, content in there.items())
    kept = {path.read_bytes() for path in (mount.state / "lost+found").glob("raw-*")}
    assert set(contents.values()) <= kept | set(there.values())
    shown = json.loads(memfs("status", "--json", mount.root).stdout)
    assert shown["work"]["lost_count"] >= FILE_COUNT - len(there)


def test_older_copies_of_both_journals_refuse_the_mount(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    """They agree with each other and with the tables, which have not changed since."""
    mount: Mount = mount_factory(driver)
    for number in range(FILE_COUNT):
        if number == FILE_COUNT // 2:
            for name in JOURNAL_NAMES:
                shutil.copy(mount.state / name, tmp_path)
        with (mount.root / f"{number}").open("wb", buffering=0) as file:
            file.write(b"content %d" % number)
            os.fsync(file.fileno())
    mount.kill()
    newer = [(mount.state / name).read_bytes() for name in JOURNAL_NAMES]
    for name in JOURNAL_NAMES:
        shutil.copy(tmp_path / name, mount.state)
    refused = memfs("mount", "--state", mount.state, mount.root)
    assert refused.returncode == ExitCode.STATE_UNUSABLE, refused.stderr
    assert "were synced and are missing" in refused.stderr
    for name, content in zip(JOURNAL_NAMES, newer, strict=True):
        (mount.state / name).write_bytes(content)
    mount.start()
    assert len(list(mount.root.iterdir())) == FILE_COUNT
