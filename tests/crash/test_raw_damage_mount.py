"""What lies at rest is changed while nothing is mounted: an error that says so, or another form."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.mounting import MountError, run_memfs
from tests.outcomes import error_of
from tests.tiers.tiering import forms_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

CONFIG = """
[warm]
size = "0"
[cold]
hydrate_max = "64KiB"
[glacier]
batch_file_max = "0"
[policy]
interval = "20ms"
"""
SIZE = 5500


def raw_file(mount: Mount) -> Path:
    (path,) = [path for path in (mount.state / "raw").rglob("*") if path.stat().st_size == SIZE]
    return path


@pytest.mark.expects_log(r"ERROR.*/f: its raw file .*", r"WARNING.*/f.*its raw file .*")
def test_a_raw_file_cut_while_unmounted_is_neither_served_nor_uploaded(
    driver: str, mount_factory: MountFactory
) -> None:
    mount = mount_factory(driver, config=CONFIG)
    path = mount.root / "f"
    content = random.Random(1).randbytes(SIZE)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    mount.stop()
    raw = raw_file(mount)
    os.truncate(raw, 100)
    mount.start()
    assert error_of(os.open, path, os.O_RDONLY) == "EIO"
    assert error_of(os.open, path, os.O_RDWR) == "EIO"
    assert error_of(os.truncate, path, 50) == "EIO"
    assert error_of(os.utime, path, (1, 1)) == "EIO"
    assert path.stat().st_size == SIZE
    assert f"has 100 bytes instead of {SIZE}" in run_memfs("why", path)
    assert raw.stat().st_size == 100
    assert "glacier" not in forms_of(path)
    path.write_bytes(b"anew")
    assert path.read_bytes() == b"anew"


@pytest.mark.any_driver
@pytest.mark.expects_log(r"ERROR.*/f: its raw file .*", r"WARNING.*/f.*its raw file .*")
@pytest.mark.parametrize("seen", [False, True], ids=["before a mount", "after a mount"])
def test_a_raw_file_that_was_changed_on_purpose_can_be_accepted(
    driver: str, mount_factory: MountFactory, seen: bool
) -> None:
    mount = mount_factory(driver, config=CONFIG)
    path = mount.root / "f"
    content = random.Random(1).randbytes(SIZE)
    path.write_bytes(content)
    run_memfs("barrier", "--level", "local", mount.root)
    mount.stop()
    raw = raw_file(mount)
    os.truncate(raw, 100)
    if seen:
        mount.start()
        assert error_of(os.open, path, os.O_RDONLY) == "EIO"
        mount.stop()
    with pytest.raises(MountError, match="--accept"):
        mount.fsck()
    run_memfs("fsck", "--accept", "f", "--yes", "-c", mount.base / "config.toml", mount.state)
    mount.fsck()
    mount.start()
    assert path.read_bytes() == content[:100]
    assert path.stat().st_size == 100
    run_memfs("barrier", "--level", "remote", path)
    mount.stop()
    mount.start()
    assert path.read_bytes() == content[:100]


@pytest.mark.expects_log(r"WARNING.*/f: its raw file .*another form is read")
def test_an_object_takes_the_place_of_a_raw_file_cut_while_unmounted(
    driver: str, mount_factory: MountFactory
) -> None:
    mount = mount_factory(driver, config=CONFIG)
    path = mount.root / "f"
    content = random.Random(1).randbytes(SIZE)
    path.write_bytes(content)
    run_memfs("barrier", "--level", "remote", mount.root)
    mount.stop()
    os.truncate(raw_file(mount), 100)
    mount.start()
    assert path.read_bytes() == content
    (kept,) = (mount.state / "quarantine").iterdir()
    assert kept.stat().st_size == 100


@pytest.mark.any_driver
@pytest.mark.expects_log(
    r"WARNING.*(/[fg]|<inode \d+>): its remote form can.*another content",
    r"WARNING.*/[fg]: quarantined: .*another content",
    r"WARNING.*(/[fg]|<inode \d+>): its remote form can.*in quarantine",
)
def test_objects_that_were_exchanged_are_never_served_for_each_other(
    driver: str, mount_factory: MountFactory
) -> None:
    """Read by ranges, with cold caches and after a scrub."""
    mount = mount_factory(driver, config=CONFIG)
    contents = [random.Random(seed).randbytes(300_000) for seed in (1, 2)]
    paths = [mount.root / name for name in ("f", "g")]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
        os.setxattr(path, "user.memfs.tier", b"glacier")
    wait_for(
        lambda: all(forms_of(path) == ["remote"] for path in paths),
        lambda: [forms_of(path) for path in paths],
    )
    mount.stop()
    one, other = [path for path in (mount.state / "glacier").rglob("*") if path.is_file()]
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    mount.start()
    for _ in range(2):
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            try:
                for offset in (0, 150_000, 299_000):
                    assert error_of(os.pread, fd, 500, offset) == "EIO"
            finally:
                os.close(fd)
        with pytest.raises(MountError, match="exit 1"):
            run_memfs("scrub", mount.root)
