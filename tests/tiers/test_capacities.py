"""Capacities and ages: what moves by itself, and what is told where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mounting import run_memfs
from tests.tiers.tiering import (
    compressible,
    incompressible,
    pin,
    residence,
    send,
    status,
    tier_status,
    told,
    wait_until_at,
    why,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20
FILE_COUNT = 24
"""Each has 1 MiB: together three times the capacities of 8 MiB."""

POLICY = '[policy]\ninterval = "100ms"\nretry_min = "100ms"\nretry_max = "400ms"\n'


def fill(mount: Mount) -> list[Path]:
    paths = [mount.root / f"file-{number:02}" for number in range(FILE_COUNT)]
    for number, path in enumerate(paths):
        path.write_bytes(incompressible(MIB, seed=number))
    return paths


def assert_readable(paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        assert path.read_bytes() == incompressible(MIB, seed=number)


def locked_bytes(mount: Mount) -> int:
    """Return what the kernel counts as locked by the daemon (proc_pid_status(5), VmLck)."""
    [pid] = mount.daemon_pids()
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("/proc/PID/status has no VmLck")


@pytest.mark.any_driver
def test_a_full_disk_tier_is_emptied_into_the_object_store(
    mount_factory: MountFactory, driver: str
) -> None:
    """Three times the capacity: all is readable, and it holds once the mover has settled."""
    mount = mount_factory(driver, config=f'[cold]\nsize = "8MiB"\n{POLICY}')
    paths = fill(mount)

    def settled() -> bool:
        return int(tier_status(mount, "cold")["used_bytes"]) <= 0.9 * 8 * MIB

    # What was just closed may not be counted yet.
    wait_for(lambda: any(told(path, "tier") == "glacier" for path in paths), lambda: status(mount))
    wait_for(settled, lambda: status(mount))
    gone = next(path for path in paths if told(path, "tier") == "glacier")
    assert why(gone)["rule"] == "watermark"
    assert "disk tier was filled" in why(gone)["detail"]
    assert_readable(paths)
    wait_for(settled, lambda: status(mount))
    assert_readable(paths)


def test_a_full_disk_tier_without_a_store_fails_no_program(
    mount_factory: MountFactory, driver: str
) -> None:
    """What shrinks is packed, the rest stays; nobody gets an error for it."""
    mount = mount_factory(
        driver, config=f'[cold]\nsize = "8MiB"\n[glacier]\nenabled = false\n{POLICY}'
    )
    paths = fill(mount)
    packed = mount.root / "packed"
    packed.write_bytes(compressible(MIB))
    wait_for(lambda: residence(packed).forms == ["packed"], lambda: why(packed))
    wait_for(
        lambda: all(why(path)["rule"] == "incompressible" for path in paths),
        lambda: [why(path) for path in paths],
    )
    assert_readable(paths)
    assert packed.read_bytes() == compressible(MIB)
    cold = tier_status(mount, "cold")
    assert cold["used_bytes"] > cold["capacity_bytes"]


def test_locked_bytes_never_exceed_the_ram_capacity(
    mount_factory: MountFactory, driver: str
) -> None:
    """By the kernel's own count, while three times as much is written and read."""
    mount = mount_factory(driver, config=f'[warm]\nsize = "8MiB"\n{POLICY}')
    paths = []
    for number in range(FILE_COUNT):
        path = mount.root / f"file-{number:02}"
        path.write_bytes(incompressible(MIB, seed=number))
        paths.append(path)
        assert locked_bytes(mount) <= 8 * MIB
    wait_for(lambda: locked_bytes(mount) > 4 * MIB, lambda: status(mount))
    for number, path in enumerate(paths):
        assert path.read_bytes() == incompressible(MIB, seed=number)
        assert locked_bytes(mount) <= 8 * MIB
    assert tier_status(mount, "warm")["used_bytes"] <= 8 * MIB


@pytest.mark.any_driver
def test_pins_beyond_the_ram_capacity_wait_with_a_reason(
    mount_factory: MountFactory, driver: str
) -> None:
    """In `why`, in `memfs why` and in `memfs status`; they follow when there is room."""
    mount = mount_factory(driver, config=f'[warm]\nsize = "4MiB"\n{POLICY}')
    paths = fill(mount)[:6]
    for path in paths:
        pin(path, "warm")

    def waiting() -> list[Path]:
        return [path for path in paths if "pending" in why(path)]

    wait_for(lambda: len(waiting()) == 2, lambda: [why(path) for path in paths])
    reason = "full of pinned files"
    late = paths[0]

    # While it is tried again, it waits for its turn, or for nothing; and one may have waited for
    # another reason before, and be warm by now.
    def is_refused() -> bool:
        nonlocal late
        for late in paths:
            pending = why(late).get("pending", {})
            if pending.get("wanted") == "warm" and reason in str(pending.get("reason")):
                return True
        return False

    wait_for(is_refused, lambda: [why(path) for path in paths])
    wait_for(lambda: reason in run_memfs("why", late), lambda: why(late))
    work = status(mount)["work"]
    assert work["pending_count"] >= 2
    assert {f"/{path.name}" for path in waiting()} <= {each["path"] for each in work["pending"]}
    assert locked_bytes(mount) <= 4 * MIB
    next(path for path in paths if path not in waiting()).unlink()
    paths = [path for path in paths if path.exists()]
    wait_for(lambda: len(waiting()) == 1, lambda: [why(path) for path in paths])


@pytest.mark.any_driver
def test_files_that_are_not_used_go_down_by_age(mount_factory: MountFactory, driver: str) -> None:
    """Out of RAM, packed, to the object store; a pinned one stays where it is pinned."""
    config = f'{POLICY}warm_to_cold = "1s"\npack_after = "1s"\n'
    mount = mount_factory(driver, config=config)
    path, kept = mount.root / "file", mount.root / "kept"
    path.write_bytes(compressible(300_000))
    kept.write_bytes(compressible(300_000))
    pin(kept, "warm")
    wait_for(lambda: residence(path).forms == ["packed"], lambda: why(path))
    assert why(path)["rule"] == "age"
    # By another mount: a machine that is loaded could skip the step before.
    mount.stop()
    mount.config = f'{config}cold_to_glacier = "1s"\n'
    mount.start()
    wait_until_at("glacier", path)
    assert "policy.cold_to_glacier" in why(path)["detail"]
    assert told(kept, "tier") == "warm"
    assert path.read_bytes() == compressible(300_000)


@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verify"])
def test_everything_is_there_after_unmounting_and_mounting(
    mount_factory: MountFactory, driver: str, verify: bool
) -> None:
    """Pins, forms, codecs, digests and bytes; what was pinned warm is in RAM again."""
    mount = mount_factory(driver, config=POLICY)
    tiers = ("warm", "cold", "glacier")
    paths = []
    for number, tier in enumerate(tiers):
        path = mount.root / tier / "sub" / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(compressible(200_000, seed=number))
        pin(mount.root / tier, tier)
        paths.append(path)
    own = mount.root / "glacier" / "own"
    own.write_bytes(compressible(200_000, seed=9))
    send("cold", own)
    for tier, path in zip(tiers, paths, strict=True):
        wait_until_at(tier, path)
    names = ("tier", "pin", "codec")
    before = [[told(path, name) for name in names] for path in [*paths, own]]
    forms = [residence(path).forms for path in [*paths, own]]
    digests = [told(path, "digest") for path in [*paths[1:], own]]
    for _ in range(2):
        mount.stop()
        if verify:
            run_memfs("fsck", "--verify", mount.state)
        mount.start()
        wait_for(
            lambda: told(paths[0], "tier") == "warm" and residence(paths[0]).locked,
            lambda: why(paths[0]),
        )
        assert before == [[told(path, name) for name in names] for path in [*paths, own]]
        assert forms == [residence(path).forms for path in [*paths, own]]
        assert digests == [told(path, "digest") for path in [*paths[1:], own]]
    for number, path in enumerate(paths):
        assert path.read_bytes() == compressible(200_000, seed=number)
