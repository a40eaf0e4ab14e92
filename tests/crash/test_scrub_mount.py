"""`memfs scrub` on a mount: damage on disk and in the store is found and mended."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests.tiers.tiering import SMALL_FRAMES, compressible, residence, send, told, why
from tests.waiting import wait_for
from tests.warm import run_warm

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

CONTENT = compressible(300_000, 1)


pytestmark = pytest.mark.any_driver


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    return mount_factory(driver, config=SMALL_FRAMES)


def scrub(mount: Mount, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `memfs scrub` on a mount."""
    return run_warm("scrub", *options, mount.root)


def flip_bit(directory: Path) -> None:
    """Damage the only stored file below a directory."""
    [path] = [each for each in directory.rglob("*") if each.is_file()]
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def test_a_sound_mount_is_told_to_be_so(mount: Mount) -> None:
    for number in range(20):
        (mount.root / f"{number}").write_bytes(CONTENT)
    send("cold", mount.root / "1")
    send("glacier", mount.root / "2")
    answer = json.loads(scrub(mount, "--rate", "10GiB", "--json").stdout)
    assert answer["file_count"] == 20
    assert answer["outcomes"]["sound"] + answer["outcomes"]["skipped"] == 20
    assert answer["findings"] == []


@pytest.mark.expects_log(r"WARNING.*/f: repaired: .*")
def test_a_damaged_packed_form_is_replaced_from_the_store(mount: Mount) -> None:
    path = mount.root / "f"
    path.write_bytes(CONTENT)
    send("glacier", path)
    # Pinned to cold it is fetched and packed; the object stays.
    send("cold", path)
    wait_for(lambda: residence(path).forms == ["packed", "remote"], lambda: residence(path))
    flip_bit(mount.state / "packed")
    shown = scrub(mount, "--rate", "1GiB").stdout
    assert "/f: repaired" in shown
    assert "1 repaired" in shown
    assert path.read_bytes() == CONTENT


@pytest.mark.expects_log(
    r"WARNING.*/f: quarantined: .*|WARNING.*(/f|<inode \d+>): its remote form can.*"
)
def test_a_file_without_a_sound_form_is_reported_and_kept(mount: Mount) -> None:
    path = mount.root / "f"
    path.write_bytes(CONTENT)
    send("glacier", path)
    flip_bit(mount.state / "glacier")
    done = scrub(mount)
    assert done.returncode == ExitCode.PROBLEMS
    assert "quarantined" in done.stdout
    assert why(path)["rule"] == "damaged"
    assert told(path, "tier") == "glacier"
    fd = os.open(path, os.O_RDONLY)
    # What was written may still be in the page cache of a driver without passthrough.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with pytest.raises(OSError, match="Input/output error"):
        os.read(fd, len(CONTENT))
    os.close(fd)
    os.unlink(path)


def test_a_rate_of_nothing_is_refused(mount: Mount) -> None:
    done = scrub(mount, "--rate", "0")
    assert done.returncode == ExitCode.PROBLEMS
    assert "must be above 0" in done.stderr
