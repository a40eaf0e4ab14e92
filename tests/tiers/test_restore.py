"""`memfs snapshot restore` on a mount: what the kernel has cached is what it is told to forget."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from memfs.jobs.restoring import BEFORE_PREFIX
from tests.mounting import MountError, run_memfs
from tests.tiers.tiering import compressible

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

OLD, NEW = compressible(300_000, 1), b"new"


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    return mount_factory(driver)


def restore(*arguments: str | Path) -> dict[str, Any]:
    """Run `memfs snapshot restore --json`; returns its answer."""
    answer: dict[str, Any] = json.loads(run_memfs("snapshot", "restore", "--json", *arguments))
    return answer


def test_a_file_and_a_tree_come_back(mount: Mount) -> None:
    """Also names that the kernel believes to be missing, and bytes that it has cached."""
    root = mount.root
    (root / "d").mkdir()
    contents = {root / "d/changed": OLD, root / "d/removed": OLD[::-1], root / "d/same": OLD[:9]}
    for path, content in contents.items():
        path.write_bytes(content)
    os.setxattr(root / "d/changed", "user.x", b"1")
    os.utime(root / "d", ns=(10**18, 10**18))
    run_memfs("snapshot", "create", "first", "--mount", root)
    with (root / "d/changed").open("r+b") as file:
        file.write(NEW)
    os.setxattr(root / "d/changed", "user.x", b"2")
    (root / "d/removed").unlink()
    (root / "d/more").write_bytes(b"more")
    assert not (root / "d/removed").exists()
    assert (root / "d/changed").read_bytes().startswith(NEW)
    with (root / "d/changed").open("rb") as reader:
        told = restore(f"{root}/d/changed@first")
        assert (told["file_count"], told["snapshot"]) == (1, "first")
        assert (root / "d/changed").read_bytes() == OLD
        assert os.getxattr(root / "d/changed", "user.x") == b"1"
        assert reader.read(3) == NEW, "who has it open keeps it"
    plan = run_memfs("snapshot", "restore", root / "d", "--dry-run", "--delete").splitlines()
    assert sorted(plan) == [
        "compared with first; nothing was changed",
        "make    /d/removed",
        "remove  /d/more",
    ]
    assert (root / "d/more").exists()
    told = restore(root / "d", "--delete")
    assert (told["snapshot"], told["file_count"], told["removed_count"]) == ("first", 1, 1)
    assert told["before"].startswith(BEFORE_PREFIX)
    assert {path: path.read_bytes() for path in (root / "d").iterdir()} == contents
    assert (root / "d").stat().st_mtime_ns == 10**18
    told = restore("--all", "--at", told["before"], "--mount", root)
    assert (root / "d/more").read_bytes() == b"more"
    restore(root / "d@first", "--to", root / "e")
    assert {path.name: path.read_bytes() for path in (root / "e").iterdir()} == {
        path.name: content for path, content in contents.items()
    }


@pytest.mark.any_driver
def test_what_is_in_the_way_is_told_with_its_path(mount: Mount) -> None:
    """A file alone, and one in a tree, of which all others are restored."""
    root = mount.root
    (root / "d").mkdir()
    for name in ("a", "b"):
        (root / "d" / name).write_bytes(OLD)
    run_memfs("snapshot", "create", "first", "--mount", root)
    (root / "d/a").unlink()
    (root / "d/b").unlink()
    (root / "d/a").mkdir()
    with pytest.raises(MountError, match="d/a: a directory stands there; --delete removes it"):
        restore(f"{root}/d/a@first")
    with pytest.raises(MountError, match="d/a: a directory stands there; --delete removes it"):
        run_memfs("snapshot", "restore", f"{root}/d@first")
    assert (root / "d/b").read_bytes() == OLD
    with pytest.raises(MountError, match="new/sub: there is no such directory; make it first"):
        restore(f"{root}/d/b@first", "--to", root / "new/sub/b")
    restore(f"{root}/d/a@first", "--delete")
    assert (root / "d/a").read_bytes() == OLD


def test_files_and_snapshots_may_have_an_at_in_their_names(mount: Mount) -> None:
    root = mount.root
    (root / "a@b").write_bytes(OLD)
    for name in ("first", "of@me"):
        run_memfs("snapshot", "create", name, "--mount", root)
        (root / "a@b").write_bytes(NEW)
    assert restore(f"{root}/a@b@of@me")["snapshot"] == "of@me"
    assert (root / "a@b").read_bytes() == NEW
    assert restore(f"{root}/a@b@first")["snapshot"] == "first"
    assert (root / "a@b").read_bytes() == OLD
    (root / "a@b").unlink()
    with pytest.raises(MountError, match=r"there is no snapshot 'b': .*--at NAME takes a PATH"):
        restore(f"{root}/a@b")
    restore(f"{root}/a@b", "--at", "of@me")
    assert (root / "a@b").read_bytes() == NEW
    assert restore(f"{root}/a@b")["snapshot"] == "of@me"


def test_mistakes_are_told(mount: Mount) -> None:
    (mount.root / "f").write_bytes(OLD)
    with pytest.raises(MountError, match="there is no snapshot to restore from"):
        restore(mount.root / "f")
    run_memfs("snapshot", "create", "first", "--mount", mount.root)
    with pytest.raises(MountError, match="there is no snapshot 'secnd'"):
        restore(f"{mount.root}/f@secnd")
    with pytest.raises(MountError, match="g was not there in the snapshot 'first'"):
        restore(mount.root / "g")
    with pytest.raises(MountError, match="name a path, or --all"):
        restore("--mount", mount.root)
    assert (mount.root / "f").read_bytes() == OLD
