"""`memfs gc` on a mount: what nobody needs goes now, and a mount in use loses nothing."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from memfs.exit_codes import ExitCode
from memfs.jobs.orphans import AGE_S_MIN
from tests.tiers.tiering import SMALL_FRAMES, compressible, send, status
from tests.warm import run_warm

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

pytestmark = pytest.mark.any_driver

ORPHAN = "blobs/01/1-1-0123456789abcdef"
"""Its number is one that every state directory has given out before its first file."""
FOREIGN = "blobs/ff/ffffffffff-1-0123456789abcdef"


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    return mount_factory(driver, config=SMALL_FRAMES)


def gc(mount: Mount, *options: str) -> tuple[int, dict[str, Any]]:
    """Run `memfs gc --json`; returns its exit status and its answer."""
    done = run_warm("gc", "--json", *options, mount.root)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def put(mount: Mount, key: str, age_s: float) -> Path:
    """Put an object into the store that no file refers to."""
    path = mount.state / "glacier" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"object")
    written_s = time.time() - age_s
    os.utime(path, (written_s, written_s))
    return path


def fill(mount: Mount) -> dict[Path, bytes]:
    contents = {mount.root / f"{number}": compressible(20_000, number) for number in range(8)}
    for path, content in contents.items():
        path.write_bytes(content)
    send("glacier", *contents)
    return contents


def test_a_mount_without_rubbish_is_told_to_be_so(mount: Mount) -> None:
    contents = fill(mount)
    code, answer = gc(mount, "--orphans")
    assert (code, answer["complete"], answer["drift"]) == (ExitCode.OK, True, {})
    assert sum(found["count"] for found in answer["orphans"].values()) == 0
    for path, content in contents.items():
        assert path.read_bytes() == content


def test_dead_parts_of_batches_and_deleted_files_are_removed_now(mount: Mount) -> None:
    """Whether the background or this command comes first: nothing is left after it."""
    contents = fill(mount)
    for path in [*contents][1:]:
        path.unlink()
        del contents[path]
    code, answer = gc(mount)
    assert (code, answer["left_count"], answer["sparse"]["left_count"]) == (ExitCode.OK, 0, 0)
    for path, content in contents.items():
        assert path.read_bytes() == content


def test_orphans_are_listed_first_and_kept_in_lost_found(mount: Mount) -> None:
    """Young ones stay, and so does all that files need."""
    contents = fill(mount)
    old, young = put(mount, ORPHAN, 2 * AGE_S_MIN), put(mount, ORPHAN[:-1] + "0", 0)
    raw = mount.state / "raw" / "0" / "3"
    raw.parent.mkdir(exist_ok=True)
    raw.write_bytes(b"x")
    code, answer = gc(mount, "--orphans")
    assert code == ExitCode.PROBLEMS
    assert answer["orphans"]["raw"]["names"] == [str(raw)]
    assert answer["orphans"]["blobs/0"]["names"] == [ORPHAN]
    assert answer["orphans"]["blobs/0"]["young_count"] == 1
    assert old.exists()
    assert raw.exists()
    code, answer = gc(mount, "--orphans", "--yes")
    assert (code, answer["complete"]) == (ExitCode.OK, True)
    assert [path.exists() for path in (old, young, raw)] == [True, True, False]
    kept = mount.state / "lost+found" / "raw-3"
    assert kept.read_bytes() == b"x"
    assert status(mount)["work"]["lost_count"] == 2
    code, answer = gc(mount, "--lost-found")
    assert (code, answer["count"], answer["object_count"]) == (ExitCode.OK, 2, 1)
    assert (answer["names"], kept.exists(), old.exists()) == (["raw-3"], True, True)
    code, answer = gc(mount, "--lost-found", "--yes")
    assert (code, answer["removed_count"]) == (ExitCode.OK, 2)
    assert [path.exists() for path in (old, young, kept)] == [False, True, False]
    for path, content in contents.items():
        assert path.read_bytes() == content
    young.unlink()


def test_a_store_that_another_state_directory_uses_is_left_alone(mount: Mount) -> None:
    """Its objects are the only copies of somebody's files."""
    fill(mount)
    old, foreign = put(mount, ORPHAN, 2 * AGE_S_MIN), put(mount, FOREIGN, 2 * AGE_S_MIN)
    code, answer = gc(mount, "--orphans", "--yes")
    assert code == ExitCode.PROBLEMS
    assert "another state directory" in answer["failures"][0]
    assert old.exists()
    assert foreign.exists()
    old.unlink()
    foreign.unlink()
