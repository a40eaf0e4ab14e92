"""Snapshots of `MemoryManager`: keys as they were, what has changed, and bringing them back."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from memfs import MemoryManager
from memfs.control.client import ControlError
from memfs.jobs.restoring import BEFORE_PREFIX
from memfs.manager.errors import MissingKeyError, MissingSnapshotError
from memfs.manager.snapshots import ROOT_LABEL
from tests.posix.capabilities import Capability

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.manager.root import Root
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.any_driver]

LONG = "long/" + "x" * 300


@pytest.fixture
def manager(place: Path, mount: Mount) -> MemoryManager:
    return MemoryManager(mount=place, root=f"{place.relative_to(mount.root)}/keys")


def test_values_and_metadata_are_read_as_they_were(manager: MemoryManager) -> None:
    array = np.arange(1000).reshape(100, 10)
    manager.store("a", array, metadata={"version": 1})
    manager.store(LONG, "before")
    before = datetime.now(UTC)
    snapshot = manager.create_snapshot("first", labels={"run": "7"})
    manager.store("a", array + 1, metadata={"version": 2})
    manager.store("new", b"")
    manager.delete(LONG)

    assert np.array_equal(manager.retrieve("a", snapshot=snapshot), array)
    assert np.array_equal(manager.retrieve("a", start=5, end=7, snapshot=snapshot), array[5:7])
    assert manager.retrieve(LONG, snapshot=snapshot) == "before"
    with pytest.raises(MissingKeyError, match="under the key 'new'"):
        manager.retrieve("new", snapshot=snapshot)
    assert manager.retrieve("new", snapshot=snapshot, default=7) == 7

    assert sorted(manager.query(at=snapshot).keys()) == ["a", LONG]
    [found] = manager.query({"version": 1}, at=snapshot)
    assert found.path == manager.path("a").at(snapshot)
    assert found.metadata == manager.path("a").at(snapshot).metadata == {"version": 1}
    assert np.array_equal(np.load(found.path), array)
    assert not manager.query({"version": 2}, at=snapshot)

    versions = manager.path("a").versions()
    assert [(each.is_now, each.snapshots) for each in versions] == [(True, []), (False, [snapshot])]
    assert versions[1].size_bytes == found.size_bytes

    made = {each.id: each for each in manager.list_snapshots()}[snapshot]
    assert made.description == "first"
    assert made.labels["run"] == "7"
    assert made.labels[ROOT_LABEL] == str(manager.directory.relative_to(manager.mount.mountpoint))  # type: ignore[union-attr]
    assert before < made.created < datetime.now(UTC)
    manager.delete_snapshot(snapshot)
    assert snapshot not in [each.id for each in manager.list_snapshots()]
    with pytest.raises(MissingSnapshotError, match="has no snapshot"):
        manager.retrieve("a", snapshot=snapshot)


@pytest.mark.parametrize("key", ["a", "other"])
def test_a_snapshot_that_is_deleted_while_it_is_read_is_told_of(
    manager: MemoryManager, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    manager.store("a", b"1")
    snapshot = manager.create_snapshot()
    root_at = manager._root_at

    def root_of_deleted(snapshot_id: str) -> Root:
        root = root_at(snapshot_id)
        assert root.exists("a")
        manager.delete_snapshot(snapshot_id)
        return root

    monkeypatch.setattr(manager, "_root_at", root_of_deleted)
    with pytest.raises(MissingSnapshotError, match="no snapshot"):
        manager.retrieve(key, snapshot=snapshot, default=None)


def test_changes_are_told_by_key(manager: MemoryManager, place: Path) -> None:
    for key in ("changed", "tagged", "gone", "moved", "same", LONG, "leaves"):
        manager.store(key, b"1")
    snapshot = manager.create_snapshot(name="one")
    manager.store("changed", b"22")
    manager.set_metadata("tagged", {"n": 1})
    manager.delete("gone")
    manager.delete(LONG)
    os.rename(manager.path("moved"), manager.path("moved-away"))
    os.rename(manager.path("leaves"), place / "outside")
    manager.store("d/new", b"333")
    (place / "beside").write_bytes(b"x")
    found = {(each.key, each.change, each.old_key) for each in manager.diff_snapshots(snapshot)}
    assert found == {
        ("changed", "changed", None),
        ("tagged", "metadata", None),
        ("gone", "removed", None),
        (LONG, "removed", None),
        ("moved-away", "renamed", "moved"),
        ("leaves", "removed", None),
        ("d/new", "added", None),
    }
    [new] = manager.diff_snapshots(snapshot, prefix="d/")
    assert (new.size_bytes, new.old_size_bytes) == (3, None)
    second = manager.create_snapshot()
    assert len(list(manager.diff_snapshots(snapshot, second))) == 7
    assert list(manager.diff_snapshots(second)) == []
    with pytest.raises(ControlError, match="snapshot"):
        list(manager.diff_snapshots(second, snapshot))
    with pytest.raises(ControlError, match="one"):
        manager.create_snapshot(name="one")
    manager.delete_snapshots([snapshot, second])


def test_all_keys_come_back_and_nothing_else_changes(manager: MemoryManager, place: Path) -> None:
    manager.store("a", "1", metadata={"n": 1})
    manager.store("d/b", "2")
    (place / "beside").write_bytes(b"1")
    snapshot = manager.create_snapshot()
    manager.store("a", "other", metadata={"n": 2})
    manager.delete("d/b")
    manager.store("new/c", "3")
    (place / "beside").write_bytes(b"2")
    report = manager.restore_snapshot(snapshot)
    assert {key: manager[key] for key in manager} == {"a": "1", "d/b": "2"}
    assert manager.get_metadata("a") == {"n": 1}
    assert (place / "beside").read_bytes() == b"2"
    assert (report.snapshot_id, report.removed, report.failures) == (snapshot, 2, [])
    assert report.before.startswith(BEFORE_PREFIX)
    manager.restore_snapshot(report.before)
    assert {key: manager[key] for key in manager} == {"a": "other", "new/c": "3"}
    manager.restore_snapshot(snapshot, delete=False)
    assert sorted(manager) == ["a", "d/b", "new/c"]
    assert (manager["a"], manager["new/c"]) == ("1", "3")


def test_some_keys_come_back_or_go_elsewhere(manager: MemoryManager) -> None:
    for key in ("a", "d/b", LONG, "other"):
        manager.store(key, "old")
    snapshot = manager.create_snapshot()
    for key in ("a", "d/b", "other"):
        manager.store(key, "new")
    manager.delete(LONG)
    before = len(manager.list_snapshots())
    told: list[int] = []
    report = manager.restore_snapshot(snapshot, keys=["a", LONG, "a"], on_progress=told.append)
    assert report.files == 2
    assert told == [1, 2]
    assert len(manager.list_snapshots()) == before + 1, "one for all keys of a call"
    assert {key: manager[key] for key in manager} == {
        "a": "old",
        LONG: "old",
        "d/b": "new",
        "other": "new",
    }
    manager.store("copy/kept", "new")
    manager.restore_snapshot(snapshot, keys=["d/b", LONG], to="copy")
    assert manager["copy/d/b"] == manager[f"copy/{LONG}"] == "old"
    assert manager["d/b"] == "new"
    manager.restore_snapshot(snapshot, to="copy")
    assert sorted(manager.keys("copy/")) == sorted(
        f"copy/{key}" for key in ("a", "d/b", LONG, "other", "kept")
    )
    assert manager["copy/other"] == "old"


def test_what_cannot_be_restored_is_told_and_nothing_changes(manager: MemoryManager) -> None:
    manager.store("a", "1")
    snapshot = manager.create_snapshot()
    manager.store("a", "2")
    manager.store("new", "2")
    before = len(manager.list_snapshots())
    for name in ("missing", "", "..", "a/b", "n\0"):
        with pytest.raises(MissingSnapshotError):
            manager.restore_snapshot(name)
        with pytest.raises(MissingSnapshotError):
            manager.retrieve("a", snapshot=name)
    with pytest.raises(MissingSnapshotError):
        manager.delete_snapshots([snapshot, "missing"])
    with pytest.raises(MissingKeyError, match="'new' in the snapshot"):
        manager.restore_snapshot(snapshot, keys=["a", "new"])
    with pytest.raises(ValueError, match="delete=True is for all keys"):
        manager.restore_snapshot(snapshot, keys=["a"], delete=True)
    with pytest.raises(ValueError, match="not one key"):
        manager.restore_snapshot(snapshot, keys=[])
    assert manager["a"] == "2"
    assert len(manager.list_snapshots()) == before


def test_a_manager_without_keys_can_be_restored_to(manager: MemoryManager) -> None:
    snapshot = manager.create_snapshot()
    manager.store("a", "1")
    manager.restore_snapshot(snapshot)
    assert list(manager) == []
