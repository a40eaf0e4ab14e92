"""A flipped bit in a packed file or an object: an error and a log line, never wrong bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of
from tests.tiers.tiering import forms_of
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

CONTENT = bytes(random.Random(1).choices(b"abcdefgh", k=400_000))
FRAME_BYTES = 64 << 10

CONFIG = """
[warm]
size = "0"
[cold]
codec = "zstd:3"
frame = "64KiB"
hydrate_max = "{hydrate_max}"
[policy]
interval = "20ms"
retry_min = "20ms"
retry_max = "50ms"
"""

DAMAGE = r"WARNING.*(/f|<inode \d+>): its (packed|remote) form can(not)? be (read|used): .*"


def demote(mount: Mount, tier: bytes, forms: list[str]) -> Path:
    """Write a file and let the mover bring it to where only `forms` are left."""
    path = mount.root / "f"
    path.write_bytes(CONTENT)
    os.setxattr(path, "user.memfs.tier", tier)
    wait_for(lambda: forms_of(path) == forms, lambda: forms_of(path))
    return path


def flip_bit(directory: Path) -> Path:
    """Damage the only stored file below a directory in the middle; returns it."""
    (stored,) = [path for path in directory.rglob("*") if path.is_file()]
    with stored.open("r+b") as file:
        middle = stored.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    return stored


def read_by_frames(path: Path) -> list[int]:
    """Read a file frame by frame, past any cache; returns the errors, 0 for right bytes."""
    outcomes = []
    fd = os.open(path, os.O_RDONLY)
    try:
        # What was written may still be in the page cache of a driver without passthrough.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for offset in range(0, len(CONTENT), FRAME_BYTES):
            try:
                data = os.pread(fd, FRAME_BYTES, offset)
            except OSError as error:
                outcomes.append(error.errno or 0)
            else:
                assert CONTENT[offset : offset + FRAME_BYTES] == data, "wrong bytes"
                outcomes.append(0)
    finally:
        os.close(fd)
    return outcomes


@pytest.mark.expects_log(DAMAGE)
@pytest.mark.parametrize(
    ("tier", "form", "store"), [(b"cold", "packed", "packed"), (b"glacier", "remote", "glacier")]
)
def test_a_flipped_bit_fails_the_reads_of_its_frame_only(
    driver: str, tier: bytes, form: str, store: str, mount_factory: MountFactory
) -> None:
    """The other frames have checksums of their own; the log names file and frame, once."""
    mount = mount_factory(driver, config=CONFIG.format(hydrate_max="4KiB"))
    path = demote(mount, tier, [form])
    stored = flip_bit(mount.state / store)
    outcomes = read_by_frames(path)
    assert set(outcomes) == {0, errno.EIO}
    with contextlib.suppress(OSError):
        read_by_frames(path)
    lines = [line for line in mount.log.read_text().splitlines() if f"its {form} form" in line]
    assert any(stored.name in line and "frame" in line for line in lines)
    path.unlink()


@pytest.mark.expects_log(DAMAGE)
@pytest.mark.parametrize(
    ("tier", "form", "store"), [(b"cold", "packed", "packed"), (b"glacier", "remote", "glacier")]
)
def test_a_file_that_cannot_be_made_raw_does_not_open(
    driver: str, tier: bytes, form: str, store: str, mount_factory: MountFactory
) -> None:
    """Small files are unpacked whole before open(2) returns, so that fails; writing over works."""
    mount = mount_factory(driver, config=CONFIG.format(hydrate_max="1MiB"))
    path = demote(mount, tier, [form])
    flip_bit(mount.state / store)
    assert error_of(path.read_bytes) == "EIO"
    assert error_of(os.truncate, path, 10) == "EIO"
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.expects_log(DAMAGE)
@pytest.mark.parametrize("hydrate_max", ["4KiB", "1MiB"])
def test_another_form_stands_in_for_a_damaged_one(
    driver: str, hydrate_max: str, mount_factory: MountFactory
) -> None:
    """The packed file is damaged and the object is not: no program sees an error."""
    mount = mount_factory(driver, config=CONFIG.format(hydrate_max=hydrate_max))
    path = demote(mount, b"glacier", ["remote"])
    # Pinned to cold it is fetched and packed; the object stays.
    os.setxattr(path, "user.memfs.tier", b"cold")
    wait_for(lambda: forms_of(path) == ["packed", "remote"], lambda: forms_of(path))
    flip_bit(mount.state / "packed")
    assert set(read_by_frames(path)) == {0}
    path.unlink()
