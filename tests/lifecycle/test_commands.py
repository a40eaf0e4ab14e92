"""`memfs mount` and `memfs umount` where something is in the way."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.lifecycle.daemons import digest_tree, memfs, refused, write_tree
from tests.processes import holding

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = pytest.mark.mount


def test_umount_of_a_mount_in_use_names_the_user_and_changes_nothing(mount: Mount) -> None:
    mount.start()

    def write_on() -> tuple[int, str]:
        with open(mount.root / "half", "wb", buffering=0) as file:
            file.write(b"half of it")
            os.dup(file.fileno())
        return os.getpid(), "written"

    with holding(write_on) as (pid, _):
        code, line = refused("umount", mount.root)
        assert code == ExitCode.BUSY
        assert f"({pid})" in line
        assert mount.is_mounted()
        assert (mount.root / "half").read_bytes() == b"half of it"
    done = memfs("umount", mount.root)
    assert (done.returncode, done.stderr) == (0, "")
    mount.start()
    assert (mount.root / "half").read_bytes() == b"half of it"


def test_umount_right_after_writing_keeps_all_of_it(mount: Mount) -> None:
    """Closed files whose pages are still dirty, and names that were made a moment ago."""
    mount.start()
    content = hashlib.shake_128(b"content").digest(16 << 20)
    for index in range(200):
        (mount.root / f"small-{index}").write_bytes(b"%d" % index)
    (mount.root / "large").write_bytes(content)
    done = memfs("umount", mount.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert mount.daemon_pids() == []
    mount.start()
    assert (mount.root / "large").read_bytes() == content
    for index in range(200):
        assert (mount.root / f"small-{index}").read_bytes() == b"%d" % index


def test_another_object_store_is_warned_of_and_known_to_fsck(mount: Mount) -> None:
    """What lies in the former one alone cannot be read; nobody takes that for damage."""
    stores = [f"file://{mount.base}/{name}" for name in ("first", "second")]
    for name in ("first", "second"):
        (mount.base / name).mkdir()
    for url in stores:
        mount.config = f'[glacier]\nurl = "{url}"\n'
        mount.start()
        mount.stop()
    mount.check_log(("the last mount had another object store",))
    code, line = refused("fsck", mount.state)
    assert code == ExitCode.USAGE
    assert f"the last mount had {stores[1]}" in line
    mount.fsck()


def test_a_mount_that_does_not_name_the_store_of_its_objects_is_refused(mount: Mount) -> None:
    """Else what lies there could not be read, and what is removed would stay there."""
    url = f"file://{mount.base}/objects"
    (mount.base / "objects").mkdir()
    mount.config = f'[glacier]\nurl = "{url}"\n'
    mount.start()
    mount.stop()
    code, line = refused("mount", "--driver", mount.driver, "--state", mount.state, mount.root)
    assert code == ExitCode.USAGE
    assert f"the objects of {mount.state} are in {url}: name it" in line
    mount.start()
    mount.stop()
    mount.config = f'[glacier]\nurl = "file://{mount.state}/glacier"\n'
    mount.start()
    mount.check_log(("the last mount had another object store",))


def test_a_store_directory_that_is_not_there_is_named_and_not_made(mount: Mount) -> None:
    store = mount.base / "mistyped"
    mount.root.mkdir()
    code, line = refused(
        "mount", "--state", mount.state, "-o", f"glacier.url=file://{store}", mount.root
    )
    assert code == ExitCode.USAGE
    assert f"{store} is no directory" in line
    assert not store.exists()


def test_a_second_mount_of_a_state_directory_names_the_first(mount: Mount) -> None:
    mount.start()
    (pid,) = mount.daemon_pids()
    second = mount.base / "second"
    second.mkdir()
    code, line = refused("mount", "--driver", mount.driver, "--state", mount.state, second)
    assert code == ExitCode.STATE_IN_USE
    assert f"process {pid}, which serves {mount.root}" in line
    code, line = refused("fsck", mount.state)
    assert code == ExitCode.STATE_IN_USE
    assert str(pid) in line


def test_a_second_mount_at_a_mountpoint_names_the_first(mount: Mount) -> None:
    mount.start()
    other = mount.base / "other-state"
    code, line = refused("mount", "--driver", mount.driver, "--state", other, mount.root)
    assert code == ExitCode.STATE_IN_USE
    assert str(mount.state) in line
    assert not other.exists()


def test_a_state_of_a_newer_format_is_refused_and_left_as_it_was(mount: Mount) -> None:
    mount.start()
    write_tree(mount.root)
    mount.stop()
    file = mount.state / "format"
    original = file.read_text()
    newer = json.loads(original)
    newer["format"] += 1
    file.write_text(json.dumps(newer))
    before = _snapshot(mount.state)
    code, line = refused("mount", "--driver", mount.driver, "--state", mount.state, mount.root)
    assert code == ExitCode.STATE_UNUSABLE
    assert "newer" in line
    assert not mount.is_mounted()
    code, _ = refused("fsck", mount.state)
    assert code == ExitCode.STATE_UNUSABLE
    assert _snapshot(mount.state) == before
    file.write_text(original)


def _snapshot(directory: Path) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """Content of all files, and the names and times of everything."""
    entries = [directory, *sorted(directory.rglob("*"))]
    return digest_tree(directory), [(os.fspath(each), each.stat().st_mtime_ns) for each in entries]


def test_the_process_is_called_memfsd(mount: Mount) -> None:
    mount.start()
    (pid,) = mount.daemon_pids()
    with open(f"/proc/{pid}/comm") as file:
        assert file.read() == "memfsd\n"
