"""A stale copy of a state directory is refused by `memfs mount`, with the way out."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.mounting import Mount, run_memfs
from tests.servers.seaweedfs import find_weed, running_seaweedfs
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
    before = mark.read_bytes()
    taken = mount_copy(copy, elsewhere, "-o", f"{url},take_stale_state")
    assert taken.returncode == ExitCode.OK, taken.stderr
    wait_for(lambda: mark.read_bytes() != before, "the store was not told of the copy")
    run_memfs("umount", elsewhere)
    # From now on the copy is the one that was used last.
    assert mount_copy(mount.state, mount.root, "-o", url).returncode == ExitCode.STATE_UNUSABLE
    mount.options = ("-o", "take_stale_state")
    mount.start()


CONFIG = """
[warm]
size = "0"
[glacier]
url = "s3://{bucket}/a"
timeout = "5s"
batch_file_max = "0"
[glacier.options]
endpoint_url = "{server.endpoint_url}"
key = "{server.access_key}"
secret = "{server.secret_key}"
[policy]
interval = "50ms"
retry_min = "100ms"
retry_max = "500ms"
"""
BUCKET = "copies"


@pytest.mark.any_driver
@pytest.mark.skipif(find_weed() is None, reason="SeaweedFS is not installed")
@pytest.mark.expects_log("WARNING|ERROR")
def test_a_copy_that_a_slow_store_proves_stale_moves_nothing_more(
    driver: str, mount_factory: MountFactory, tmp_path: Path
) -> None:
    """The store does not answer while the copy is mounted, and goes on a while later."""
    with running_seaweedfs(BUCKET) as server:
        config = CONFIG.format(bucket=BUCKET, server=server)
        mount = mount_factory(driver, config=config)
        (mount.root / "file").write_bytes(b"content")
        os.setxattr(mount.root / "file", "user.memfs.tier", b"glacier")
        wait_for(lambda: "remote" in tier_of(mount.root / "file"), "the file was not uploaded")
        mount.stop()
        copy = Mount(tmp_path / "copy", driver, config)
        copy.base.mkdir()
        shutil.copytree(mount.state, copy.state)
        mount.start()
        wait_for(lambda: ", answers" in run_memfs("status", mount.root), "the store was not asked")
        os.unlink(mount.root / "file")
        (mount.root / "file").write_bytes(b"of the original")
        mount.stop()
        server.signal(signal.SIGSTOP)
        try:
            copy.start()
        finally:
            server.signal(signal.SIGCONT)
        try:
            (copy.root / "new").write_bytes(b"new")
            os.setxattr(copy.root / "new", "user.memfs.tier", b"glacier")
            wait_for(
                lambda: "older copy" in run_memfs("status", copy.root), "status does not say so"
            )
            assert "take_stale_state" in run_memfs("why", copy.root / "new")
            assert (copy.root / "new").read_bytes() == b"new"
            assert "remote" not in tier_of(copy.root / "new")
        finally:
            copy.stop()
        again = mount_copy(copy.state, copy.root, "-c", str(copy.base / "config.toml"))
        assert again.returncode == ExitCode.STATE_UNUSABLE
        mount.start()
        assert (mount.root / "file").read_bytes() == b"of the original"


def tier_of(path: Path) -> str:
    return os.getxattr(path, "user.memfs.residency").decode()
