"""tar, rsync and cp bring a whole tree to the mount and back, with everything that it has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.posix.capabilities import Capability
from tests.programs.running import run
from tests.programs.samples import make_tree
from tests.trees import describe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.data_path


@pytest.fixture
def source(reference: Path) -> Path:
    """A tree on the local file system."""
    tree = reference / "source"
    tree.mkdir()
    make_tree(tree)
    return tree


def test_tar_round_trip(place: Path, reference: Path, source: Path) -> None:
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse"]
    run("tar", "-cf", place / "in.tar", *options, "-C", source, ".")
    (place / "tree").mkdir()
    run("tar", "-xpf", place / "in.tar", *options, "-C", place / "tree")
    assert describe(place / "tree", times=True) == describe(source, times=True)
    run("tar", "-cf", reference / "out.tar", *options, "-C", place / "tree", ".")
    (reference / "back").mkdir()
    run("tar", "-xpf", reference / "out.tar", *options, "-C", reference / "back")
    assert describe(reference / "back", times=True) == describe(source, times=True)


def test_rsync_there_and_back(place: Path, reference: Path, source: Path) -> None:
    options = ["-aHX", "--numeric-ids", "--sparse"]
    run("rsync", *options, f"{source}/", place / "tree")
    assert describe(place / "tree", times=True) == describe(source, times=True)
    changes = run(
        "rsync", *options, "--checksum", "--itemize-changes", f"{source}/", place / "tree"
    )
    assert changes == ""
    run("rsync", *options, f"{place / 'tree'}/", reference / "back")
    assert describe(reference / "back", times=True) == describe(source, times=True)


@pytest.mark.needs(Capability.ACL)
def test_rsync_keeps_access_lists(place: Path, source: Path) -> None:
    run("setfacl", "-R", "-m", "u:54321:rX,d:g:54322:rwX", source / "directory 0")
    options = ["-aHAX", "--numeric-ids"]
    run("rsync", *options, f"{source}/", place / "tree")
    changes = run(
        "rsync", *options, "--checksum", "--itemize-changes", f"{source}/", place / "tree"
    )
    assert changes == ""
    assert describe(place / "tree", times=True) == describe(source, times=True)


def test_rsync_updates_in_place_and_deletes(place: Path, source: Path) -> None:
    run("rsync", "-aHX", f"{source}/", place / "tree")
    victim = next(source.glob("**/file-*.bin"))
    victim.unlink()
    with (source / "sparse").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"changed")
    os.utime(source / "sparse", ns=(10**18, 10**18))
    run("rsync", "-aHX", "--inplace", "--no-whole-file", "--delete", f"{source}/", place / "tree")
    assert describe(place / "tree", times=True) == describe(source, times=True)


def test_cp_copies_within_the_mount(place: Path, source: Path) -> None:
    run("cp", "-a", source, place / "tree")
    run("cp", "-a", place / "tree", place / "copy")
    assert describe(place / "copy", times=True) == describe(source, times=True)
    run("diff", "-r", "--no-dereference", "--exclude=fifo", place / "copy", source)
    run("rm", "-rf", place / "tree", place / "copy")
    assert list(place.iterdir()) == []
