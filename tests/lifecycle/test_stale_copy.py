"""A stale copy of a state directory is refused by `memfs mount`, with the way out."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.mounting import run_memfs
from tests.waiting import wait_for
from tests.warm import run_warm

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import MountFactory


def mount_copy(copy: Path, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_warm("mount", *options, "--state", copy, root)


@pytest.mark.any_driver
def test_a_stale_copy_is_refused_and_can_be_taken(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    mount = mount_factory(driver, config=f'[glacier]\nurl = "file://{store}"\n')
    wait_for(lambda: [*store.glob("states/*")], "the store was not told of the mount")
    mount.stop()
    copy, elsewhere = tmp_path / "copy", tmp_path / "elsewhere"
    shutil.copytree(mount.state, copy)
    elsewhere.mkdir()
    [mark] = store.glob("states/*")
    before = mark.read_bytes()
    mount.start()
    wait_for(lambda: mark.read_bytes() != before, "the store was not told of the second mount")
    mount.stop()
    url = f"glacier.url=file://{store}"
    refused = mount_copy(copy, elsewhere, "-o", url)
    assert refused.returncode == ExitCode.STATE_UNUSABLE, refused.stderr
    assert "take_stale_state" in refused.stderr
    taken = mount_copy(copy, elsewhere, "-o", f"{url},take_stale_state")
    assert taken.returncode == ExitCode.OK, taken.stderr
    run_memfs("umount", elsewhere)
    # From now on the copy is the one that was used last.
    assert mount_copy(mount.state, mount.root, "-o", url).returncode == ExitCode.STATE_UNUSABLE
    mount.options = ("-o", "take_stale_state")
    mount.start()
