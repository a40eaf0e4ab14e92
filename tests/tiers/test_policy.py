"""The policy as users steer it: priorities, pools, policies of their own, and reasons."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.mounting import MountError, run_memfs
from tests.outcomes import error_of
from tests.tiers.tiering import (
    compressible,
    incompressible,
    let_mover_look,
    pin,
    residence,
    status,
    tell,
    tier_status,
    told,
    why,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

MIB = 1 << 20

POLICY = '[policy]\ninterval = "100ms"\nretry_min = "100ms"\nretry_max = "400ms"\n'
WARM = f'[warm]\nsize = "8MiB"\n{POLICY}'


def write(path: Path, seed: int = 1) -> Path:
    path.write_bytes(incompressible(MIB, seed))
    return path


def is_warm(path: Path) -> bool:
    return told(path, "tier") == "warm"


def wait_until_warm(path: Path) -> None:
    # A file that is still being written is in RAM, too, but by no decision.
    wait_for(lambda: is_warm(path) and why(path)["rule"] == "seal", lambda: why(path))


def push_out(mount: Mount, victim: Path) -> None:
    """Write files one after the other until the new ones have taken a file's room in RAM."""
    numbers = itertools.count()

    def has_left() -> bool:
        # The mover may be slow: a file that finds no room takes no room, and another follows.
        number = next(numbers)
        write(mount.root / f"other-{number}", seed=number)
        wait_for(
            lambda: tier_status(mount, "warm")["used_bytes"] <= 0.95 * 8 * MIB,
            lambda: status(mount),
        )
        return not is_warm(victim)

    wait_for(has_left, lambda: why(victim))


@pytest.mark.any_driver
def test_files_of_high_priority_stay_in_ram(mount_factory: MountFactory, driver: str) -> None:
    """Although they came first, and a directory's priority holds for all below it."""
    mount = mount_factory(driver, config=WARM)
    dear = mount.root / "dear"
    dear.mkdir()
    tell(dear, "priority", "90")
    kept, plain = write(dear / "kept"), write(mount.root / "plain")
    wait_until_warm(kept)
    wait_until_warm(plain)
    assert told(kept, "priority") == "90"
    assert why(kept)["score"]["priority"] == 90
    push_out(mount, plain)
    assert is_warm(kept)
    assert "priority 50" in why(plain)["detail"]


@pytest.mark.any_driver
def test_a_pool_keeps_its_share_of_ram(mount_factory: MountFactory, driver: str) -> None:
    """What others write does not push its files out, and its files do not push out others."""
    mount = mount_factory(driver, config=WARM)
    run_memfs("pool", "create", "team", "--size", "3MiB", "--mount", mount.root)
    ours = mount.root / "ours"
    ours.mkdir()
    tell(ours, "pool", "team")
    kept, rest = write(ours / "kept"), write(mount.root / "rest")
    wait_until_warm(kept)
    wait_until_warm(rest)
    [pool] = json.loads(run_memfs("pool", "list", "--json", "--mount", mount.root))
    assert pool == {
        "name": "team",
        "size_bytes": 3 * MIB,
        "used_bytes": MIB,
        "file_count": 1,
    }
    for number in range(6):
        more = write(ours / f"more-{number}", seed=number)
        # It has come into RAM, and so much has left that nothing else will.
        wait_for(
            lambda more=more: why(more)["rule"] in ("seal", "watermark"),  # type: ignore[misc]  # bound at once
            lambda more=more: why(more),  # type: ignore[misc]  # ditto
        )
        wait_for(lambda: pool_used_bytes(mount) <= 0.95 * 3 * MIB, lambda: status(mount)["policy"])
    assert is_warm(rest)
    survivors = [path for path in ours.iterdir() if is_warm(path)]
    push_out(mount, rest)
    assert [path for path in ours.iterdir() if is_warm(path)] == survivors
    assert survivors


def pool_used_bytes(mount: Mount) -> int:
    [pool] = status(mount)["policy"]["pools"]
    return int(pool["used_bytes"])


@pytest.mark.any_driver
def test_pools_and_marks_survive_a_restart(mount_factory: MountFactory, driver: str) -> None:
    mount = mount_factory(driver, config=WARM)
    run_memfs("pool", "create", "team", "--size", "3MiB", "--mount", mount.root)
    path = write(mount.root / "file")
    tell(path, "pool", "team")
    tell(path, "priority", "7")
    wait_for(lambda: pool_used_bytes(mount) == MIB, lambda: status(mount)["policy"])
    mount.stop()
    mount.start()
    assert told(path, "pool") == "team"
    assert told(path, "priority") == "7"
    assert path.read_bytes() == incompressible(MIB)
    wait_for(lambda: pool_used_bytes(mount) == MIB, lambda: status(mount)["policy"])
    run_memfs("pool", "remove", "team", "--mount", mount.root)
    assert status(mount)["policy"]["pools"] == []
    wait_until_warm(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("priority", "101"), ("priority", "high"), ("priority", ""), ("pool", "nobody")],
)
@pytest.mark.any_driver
def test_what_is_no_priority_and_no_pool_is_einval(
    mount_factory: MountFactory, driver: str, name: str, value: str
) -> None:
    """And nothing changes."""
    mount = mount_factory(driver, config=WARM)
    path = write(mount.root / "file")
    assert error_of(tell, path, name, value) == "EINVAL"
    assert told(path, "priority") == "50"
    assert os.listxattr(path) == []


@pytest.mark.any_driver
def test_a_mark_can_be_taken_away(mount_factory: MountFactory, driver: str) -> None:
    """What is above then holds again; what is not set cannot be removed."""
    mount = mount_factory(driver, config=WARM)
    tell(mount.root, "priority", "20")
    path = write(mount.root / "file")
    tell(path, "priority", "80")
    assert told(path, "priority") == "80"
    assert os.listxattr(path) == []
    os.removexattr(path, "user.memfs.priority")
    assert told(path, "priority") == "20"
    for name in ("priority", "pool"):
        removed = error_of(os.removexattr, path, f"user.memfs.{name}")
        assert removed == "ENODATA"


@pytest.mark.any_driver
def test_pools_larger_than_the_ram_tier_are_refused(
    mount_factory: MountFactory, driver: str
) -> None:
    """With what is left, on the command line."""
    mount = mount_factory(driver, config=WARM)
    run_memfs("pool", "create", "one", "--size", "6MiB", "--mount", mount.root)
    with pytest.raises(MountError, match=r"raise warm\.size"):
        run_memfs("pool", "create", "two", "--size", "6MiB", "--mount", mount.root)


@pytest.mark.any_driver
def test_why_tells_what_would_change_a_place(mount_factory: MountFactory, driver: str) -> None:
    """For programs and for people."""
    mount = mount_factory(driver, config=WARM)
    path = write(mount.root / "file")
    wait_until_warm(path)
    answer = why(path)
    assert answer["rule"] == "seal"
    assert "last writer closed it" in answer["trigger"]
    assert answer["score"] == {"priority": 50, "uses": 0, "pool": None}
    assert "policy.warm_to_cold" in answer["outlook"]
    assert "before it have left" in answer["outlook"]
    assert "outlook  it leaves RAM when not used until" in run_memfs("why", path)
    pin(path, "glacier")
    wait_for(lambda: told(path, "tier") == "glacier", lambda: why(path))
    assert "until its pin is removed" in why(path)["outlook"]


LOOP_COUNT = 40


def test_reading_in_rounds_does_not_empty_the_ram_tier(
    mount_factory: MountFactory, driver: str
) -> None:
    """Five times what fits, epoch after epoch: what is held stays, by far most of it.

    Last use as the rule would leave nothing of it after an epoch. That not every file stays is
    within the rule: how the reads fall into the mover's rounds can end a loop for a moment.
    """
    mount = mount_factory(driver, config=WARM)
    paths = [write(mount.root / f"file-{number:02}", number) for number in range(LOOP_COUNT)]

    def read_all() -> None:
        for path in paths:
            with path.open("rb") as file:
                file.read(1)
        # Two reads of a file within one round of the mover count as one.
        let_mover_look(mount.root / "witness")

    def is_frozen() -> bool:
        return bool(status(mount)["policy"]["frozen"])

    def is_settled() -> bool:
        return is_frozen() and tier_status(mount, "warm")["used_bytes"] <= 0.95 * 8 * MIB

    for _ in range(4):
        read_all()
    wait_for(is_settled, lambda: status(mount))
    held = {path for path in paths if is_warm(path)}
    assert held
    read_all()
    assert 2 * len(held & {path for path in paths if is_warm(path)}) > len(held)
    wait_for(is_settled, lambda: status(mount))
    cold = next(path for path in paths if not is_warm(path))
    assert "a loop over more than the RAM tier holds" in why(cold)["outlook"]


PLUGIN = """
from memfs.policy.plan import plan as built_in
from memfs.policy.view import Goal, Move

def pack_csv(view, limits):
    moves = {move.ino: move for move in built_in(view, limits)}
    for file in view.candidates:
        if file.raw and file.packable and file.pin is None and not file.waiting and not file.open:
            moves[file.ino] = Move(file.ino, Goal.PACKED, "packer", "all is packed", 0)
    return list(moves.values())

def broken(view, limits):
    return [1 / 0]
"""
ENTRY_POINTS = """
[memfs.policies]
packer = user_policies:pack_csv
broken = user_policies:broken
"""


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_policies.py").write_text(PLUGIN)
    metadata = tmp_path / "user_policies-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: user-policies\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("_installed")
@pytest.mark.any_driver
def test_a_policy_of_a_user_decides(mount_factory: MountFactory, driver: str) -> None:
    """By the name of its entry point; its reasons are told as those of the built-in one."""
    mount = mount_factory(driver, config=f'{POLICY}name = "packer"\n')
    path = mount.root / "table.csv"
    path.write_bytes(compressible(MIB))
    wait_for(lambda: residence(path).forms == ["packed"], lambda: why(path))
    assert why(path)["rule"] == "packer"
    assert why(path)["trigger"] == "the policy's rule packer"
    assert path.read_bytes() == compressible(MIB)
    assert status(mount)["policy"]["name"] == "packer"
    assert status(mount)["policy"]["note"] is None


@pytest.mark.usefixtures("_installed")
@pytest.mark.expects_log("policy broken failed")
@pytest.mark.any_driver
def test_a_policy_that_raises_costs_no_round(mount_factory: MountFactory, driver: str) -> None:
    """The built-in one goes on, and the status says whose fault it is."""
    mount = mount_factory(driver, config=f'{POLICY}name = "broken"\n')
    path = write(mount.root / "file")
    wait_until_warm(path)
    assert "ZeroDivisionError" in status(mount)["policy"]["note"]


@pytest.mark.any_driver
def test_a_policy_that_is_not_there_is_refused_at_the_mount(tmp_path: Path, driver: str) -> None:
    """With the names that there are, before anything is mounted."""
    (tmp_path / "config.toml").write_text('[policy]\nname = "missing"\n')
    (tmp_path / "mount").mkdir()
    arguments: list[str | Path] = [
        "--state",
        tmp_path / "state",
        "--driver",
        driver,
        "-c",
        tmp_path / "config.toml",
    ]
    with pytest.raises(MountError, match=r"policy\.name: no policy is named 'missing'"):
        run_memfs("mount", *arguments, tmp_path / "mount")
