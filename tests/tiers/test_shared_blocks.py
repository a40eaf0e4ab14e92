"""A state on XFS, which shares blocks: snapshots, clones and copies beside writers in place."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from memfs.client.mount import Mount as Client
from tests import scratch
from tests.crash.small_disks import MountOnDisk, make_xfs
from tests.mounting import run_memfs
from tests.tiers.tiering import incompressible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounting import Mount

SIZE = 16 << 20
OLD = incompressible(SIZE)
PAGE = mmap.PAGESIZE
# What would be copied without shared blocks has no bytes in a snapshot then.
CONFIG = """
[snapshots]
automatic = false
open_copy_max = "1MiB"
"""


@pytest.fixture
def shared(driver: str, scratch_area: scratch.Scratch) -> Iterator[Mount]:
    """A mount whose state is on an XFS in a file."""
    base = scratch_area.directory(f"shared-{driver}")
    make_xfs(base)
    mount = MountOnDisk(base / "mounted", driver, CONFIG)
    try:
        mount.start()
        yield mount
        mount.stop()
        mount.fsck()
    finally:
        scratch.remove(base)


def used_bytes(mount: Mount) -> int:
    """Return what is taken on the disk once all is written."""
    os.sync()
    status = os.statvfs(mount.state)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def changed(content: bytes, *places: int) -> bytes:
    whole = bytearray(content)
    for place in places:
        whole[place : place + PAGE] = b"n" * PAGE
    return bytes(whole)


def write_mapped(path: Path, place: int) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[place : place + PAGE] = b"n" * PAGE
        mapped.flush()


def test_snapshots_have_the_bytes_of_the_instant_beside_writers_in_place(shared: Mount) -> None:
    """One that was open at the instant, one that came later, and one that maps the file."""
    root, snapshots = shared.root, Client.of(shared.root).snapshots
    file = root / "file"
    file.write_bytes(OLD)
    before = used_bytes(shared)
    with file.open("r+b", 0) as writer:
        snapshots.create("open")
        os.pwrite(writer.fileno(), b"n" * PAGE, 0)
        assert (root / ".memfs/snapshots/open/file").read_bytes() == OLD
    snapshots.create("closed")
    with file.open("r+b", 0) as writer:
        os.pwrite(writer.fileno(), b"n" * PAGE, 2 * PAGE)
    snapshots.create("third")
    write_mapped(file, SIZE - PAGE)
    assert file.read_bytes() == changed(OLD, 0, 2 * PAGE, SIZE - PAGE)
    expected = {
        "open": OLD,
        "closed": changed(OLD, 0),
        "third": changed(OLD, 0, 2 * PAGE),
    }
    for name, content in expected.items():
        assert (root / ".memfs/snapshots" / name / "file").read_bytes() == content
    assert used_bytes(shared) - before < SIZE, "and the blocks are there once"


def test_a_clone_shares_its_blocks_until_either_side_is_written(shared: Mount) -> None:
    root = shared.root
    (root / "tree").mkdir()
    file = root / "tree/file"
    file.write_bytes(OLD)
    before = used_bytes(shared)
    answer = json.loads(run_memfs("clone", "--json", root / "tree", root / "copy"))
    assert (answer["cloned_bytes"], answer["copied_bytes"]) == (SIZE, 0)
    copy = root / "copy/file"
    write_mapped(file, 0)
    with copy.open("r+b", 0) as writer:
        os.pwrite(writer.fileno(), b"n" * PAGE, PAGE)
        assert file.read_bytes() == changed(OLD, 0)
        assert copy.read_bytes() == changed(OLD, PAGE)
        # One that is open for writing is cloned as it is.
        run_memfs("clone", copy, root / "third")
        os.pwrite(writer.fileno(), b"n" * PAGE, 2 * PAGE)
    assert (root / "third").read_bytes() == changed(OLD, PAGE)
    assert used_bytes(shared) - before < SIZE


def test_cp_shares_blocks_as_the_kernel_lets_it(shared: Mount) -> None:
    """FUSE has no FICLONE: `always` is refused, `auto` shares by copy_file_range."""
    root = shared.root
    file, copy = root / "file", root / "copy"
    file.write_bytes(OLD)
    before = used_bytes(shared)
    done = subprocess.run(
        ["cp", "--reflink=always", file, copy], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert os.strerror(errno.EOPNOTSUPP) in done.stderr
    assert not copy.exists() or copy.stat().st_size == 0
    subprocess.run(["cp", "--reflink=auto", file, copy], check=True)
    write_mapped(file, 0)
    with copy.open("r+b", 0) as writer:
        os.pwrite(writer.fileno(), b"n" * PAGE, PAGE)
    assert file.read_bytes() == changed(OLD, 0)
    assert copy.read_bytes() == changed(OLD, PAGE)
    if shared.driver == "kernel":
        assert used_bytes(shared) - before < SIZE
