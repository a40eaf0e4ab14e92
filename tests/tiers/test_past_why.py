"""`memfs why` below `.memfs/snapshots`: which bytes these are, where, and until when."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from memfs.client.mount import Mount as Client
from tests.mounting import run_memfs
from tests.outcomes import error_of
from tests.tiers.tiering import compressible, pin, send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

OLD, NEW = compressible(100_000, 1), compressible(50_000, 2)


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    return mount_factory(driver)


def why(path: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run_memfs("why", "--json", path))
    return answer


def create(mount: Mount, name: str, *options: str) -> Path:
    run_memfs("snapshot", "create", name, "--mount", mount.root, *options)
    return mount.root / ".memfs" / "snapshots" / name


def test_it_tells_whose_bytes_are_where(mount: Mount) -> None:
    root = mount.root
    (root / "d").mkdir()
    for name in ("same", "changed", "removed", "sent", "scratch"):
        (root / "d" / name).write_bytes(OLD)
    (root / "d/empty").touch()
    os.setxattr(root / "d/scratch", "user.memfs.snapshot", b"off")
    send("glacier", root / "d/sent")
    first = create(mount, "first")
    second = create(mount, "second", "--keep-until", "30d")
    for name in ("changed", "scratch"):
        (root / "d" / name).write_bytes(NEW)
    (root / "d/removed").unlink()
    told = {path.name: why(path) for path in (first / "d").iterdir()}
    assert {name: each["why"]["forms"] for name, each in told.items()} == {
        "same": ["raw"],
        "changed": ["raw"],
        "removed": ["raw"],
        "sent": ["remote"],
        "scratch": [],
        "empty": ["raw"],
    }
    assert {name for name, each in told.items() if each["why"]["now"]} == {"same", "sent", "empty"}
    assert {name: each["state"] for name, each in told.items() if each["state"] != "exact"} == {
        "scratch": "absent"
    }
    assert told["sent"]["tier"] == "glacier"
    assert "were not kept" in told["scratch"]["why"]["detail"]
    changed = told["changed"]["why"]
    assert (changed["snapshot"], changed["snapshots"]) == ("first", ["first", "second"])
    assert changed["generation"] < why(create(mount, "third") / "d/changed")["why"]["generation"]
    assert changed["kept_until_ns"] is None
    assert why(second / "d/changed")["why"]["kept_until_ns"] > changed["time_ns"]
    lines = run_memfs("why", second / "d/changed").splitlines()
    assert lines[0].startswith("snapshot second, of ")
    assert "only snapshots have it" in lines[3]
    assert lines[4].split() == ["also", "in", "first"]
    assert lines[5].startswith("kept     until you delete it; no rule does before ")
    assert why(first / "d")["why"]["rule"] == "snapshot"
    assert "kept     until you delete it" in run_memfs("why", first / "d").splitlines()
    assert Client.of(root).why(first / "d/same")["snapshots"] == ["first", "second", "third"]


def test_it_is_told_to_all_and_listed_for_nobody(mount: Mount) -> None:
    """Else `cp -a` and `rsync -X` of the past would carry it along."""
    (mount.root / "file").write_bytes(OLD)
    path = create(mount, "first") / "file"
    assert os.listxattr(path) == []
    assert json.loads(os.getxattr(path, "user.memfs.why"))["snapshot"] == "first"
    assert error_of(os.setxattr, path, "user.memfs.why", b"x") == "EROFS"
    assert error_of(os.getxattr, path, "user.memfs.tier") == "ENODATA"
    assert error_of(os.getxattr, mount.root / ".memfs/snapshots", "user.memfs.why") == "ENODATA"


@pytest.mark.any_driver
def test_a_snapshot_before_a_restore_goes_by_rules_too(mount: Mount) -> None:
    (mount.root / "file").write_bytes(OLD)
    create(mount, "first")
    pin(mount.root / "file", "cold")
    (mount.root / "file").write_bytes(NEW)
    restored = json.loads(run_memfs("snapshot", "restore", "--json", f"{mount.root}/file@first"))
    path = mount.root / ".memfs/snapshots" / restored["before"] / "file"
    assert "kept     until a rule removes it, or you do" in run_memfs("why", path).splitlines()
