"""A full disk under a mount: ENOSPC to the program, nothing lost, and room again by unlink."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.crash.small_disks import MountOnDisk, make_tmpfs
from tests.mounting import MountError, run_memfs
from tests.outcomes import error_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounting import Mount

DISK_MIB = 128
KEPT = b"kept" * 50_000


@pytest.fixture
def small_mount(driver: str, scratch_area: scratch.Scratch) -> Iterator[Mount]:
    """A mount whose state is on a file system of its own, of 128 MiB."""
    base = scratch_area.directory(f"small-{driver}")
    make_tmpfs(base, DISK_MIB << 20)
    mount = MountOnDisk(base / "mounted", driver)
    try:
        mount.start()
        yield mount
        mount.stop()
        mount.check_log((r"is full: only removing works",))
        mount.fsck()
    finally:
        scratch.remove(base)


def fill(path: Path) -> int:
    """Write until the disk is full; returns the error that says so."""
    block = bytes(1 << 16)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        while True:
            os.write(fd, block)
    except OSError as error:
        return error.errno or 0
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.mark.any_driver
def test_a_clone_that_fills_the_disk_says_where_its_bytes_are(small_mount: Mount) -> None:
    """A tree is built under a hidden name, and nothing else tells what has taken the room."""
    root = small_mount.root
    (root / "source").mkdir()
    for number in range(9):
        (root / "source" / str(number)).write_bytes(os.urandom(10 << 20))
    with pytest.raises(MountError, match="No space left") as refused:
        run_memfs("clone", root / "source", root / "target")
    named = re.search(r"what was copied is in (\S+): run the command again", str(refused.value))
    assert named is not None
    assert sum(path.stat().st_size for path in (root / named[1]).iterdir()) >= 10 << 20
    shutil.rmtree(root / named[1])
    assert os.listdir(root) == ["source"]


def test_a_full_disk_is_enospc_and_unlink_makes_room(small_mount: Mount) -> None:
    """A user who can remove nothing on a full disk cannot help himself."""
    root = small_mount.root
    (root / "kept").write_bytes(KEPT)
    assert fill(root / "big") == errno.ENOSPC
    assert fill(small_mount.state.parent / "ballast") == errno.ENOSPC
    names = create_until_refused(root)
    assert (root / "kept").read_bytes() == KEPT
    assert sorted(os.listdir(root)) == sorted(["big", "kept", *names])
    for name in names:
        (root / name).unlink()
    (root / "big").unlink()
    (small_mount.state.parent / "ballast").unlink()
    wait_for_room(root)
    (root / "after").write_bytes(KEPT)
    assert (root / "after").read_bytes() == KEPT
    assert sorted(os.listdir(root)) == ["after", "kept"]


def create_until_refused(root: Path) -> list[str]:
    """Create empty files until that needs room, at most some thousand."""
    names: list[str] = []
    refusal = None
    while refusal is None and len(names) < 5_000:
        path = root / f"empty-{len(names)}"
        refusal = error_of(path.touch)
        if refusal is None:
            names.append(path.name)
    assert refusal in (None, "ENOSPC")
    return names


def wait_for_room(root: Path) -> None:
    """The disk gets the bytes of a removed file back with the mover's next round."""
    wait_for(
        lambda: os.statvfs(root).f_bavail * os.statvfs(root).f_frsize >= DISK_MIB << 18,
        "what was removed still takes room",
    )
