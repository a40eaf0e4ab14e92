"""`memfs clone` on a mount: a second file or tree, which shares bytes and nothing else."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from memfs.client.mount import Mount as Client
from memfs.control.client import ControlError
from memfs.exit_codes import ExitCode
from memfs.jobs.cloning import BUILDING_MARK
from tests.posix.capabilities import KERNEL, Capability
from tests.tiers.tiering import compressible, pin, residence, send, told
from tests.warm import run_warm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

CONTENT = compressible(100_000, 1)


def clone(*arguments: str | Path) -> dict[str, Any]:
    """Run `memfs clone --json`, which succeeds; returns its answer."""
    done = run_warm("clone", "--json", *arguments)
    assert done.returncode == ExitCode.OK, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def looks(path: Path) -> tuple[object, ...]:
    """Return what a copy has of its original."""
    status = path.lstat()
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    is_directory = stat.S_ISDIR(status.st_mode)
    return (
        *(status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns),
        0 if is_directory else status.st_size,
        xattrs,
        os.readlink(path) if path.is_symlink() else None,
        path.read_bytes() if stat.S_ISREG(status.st_mode) else None,
    )


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Return the looks of all below a directory, by path."""
    return {str(path.relative_to(root)): looks(path) for path in [root, *root.rglob("*")]}


def plant(root: Path) -> None:
    """Make a tree with something of each kind in it."""
    (root / "a/b").mkdir(parents=True)
    (root / "plain").write_bytes(CONTENT)
    (root / "a/packed").write_bytes(CONTENT[::-1])
    (root / "a/b/empty").touch()
    (root / "a/b/link").symlink_to("../packed")
    os.mkfifo(root / "a/fifo", 0o640)
    (root / "one").write_bytes(b"linked")
    os.link(root / "one", root / "a/two")
    os.setxattr(root / "plain", "user.colour", b"blue")
    os.setxattr(root / "a", "user.colour", b"red")
    (root / "plain").chmod(0o4751)
    os.chown(root / "plain", 12, 34)
    (root / "plain").chmod(0o4751)
    for number, path in enumerate([*root.rglob("*"), root]):
        os.utime(path, ns=(10**18, 10**18 + number), follow_symlinks=False)


def test_what_is_compressed_is_shared_and_parted_by_a_write(place: Path) -> None:
    source, target = place / "source", place / "target"
    source.write_bytes(CONTENT)
    run_warm("compress", source)
    source.chmod(0o640)
    os.setxattr(source, "user.colour", b"blue")
    pin(source, "cold")
    assert not target.exists(), "and the kernel remembers that"
    answer = clone(source, target)
    assert answer["shared_bytes"] == len(CONTENT)
    assert answer["copied_bytes"] == answer["cloned_bytes"] == 0
    assert residence(target).forms == ["packed"]
    assert looks(target) == looks(source)
    assert told(target, "pin") == "auto", "pins are not carried"
    assert told(target, "digest") == told(source, "digest")
    with target.open("r+b") as file:
        file.write(b"changed")
    assert source.read_bytes() == CONTENT
    assert target.read_bytes() == b"changed" + CONTENT[7:]
    source.unlink()
    assert target.read_bytes() == b"changed" + CONTENT[7:]


@pytest.mark.only_at(KERNEL)
def test_a_plain_file_is_copied_and_its_original_may_go(place: Path) -> None:
    source, target = place / "source", place / "target"
    source.write_bytes(CONTENT)
    answer = clone(source, target)
    assert answer["copied_bytes"] + answer["cloned_bytes"] == len(CONTENT)
    assert looks(target) == looks(source)
    source.unlink()
    assert target.read_bytes() == CONTENT


@pytest.mark.only_at(KERNEL)
def test_what_is_in_the_store_alone_is_shared(place: Path) -> None:
    source, target = place / "source", place / "target"
    source.write_bytes(CONTENT)
    send("glacier", source)
    assert clone(source, target)["shared_bytes"] == len(CONTENT)
    assert residence(target).forms == ["remote"]
    source.unlink()
    assert target.read_bytes() == CONTENT


@pytest.mark.only_at(KERNEL)
def test_a_file_that_is_open_is_copied_as_it_is(place: Path) -> None:
    source, target = place / "source", place / "target"
    with source.open("wb", buffering=0) as file:
        file.write(CONTENT)
        clone(source, target)
        file.write(b"more")
    assert target.read_bytes() == CONTENT


def test_a_tree_is_cloned_with_all_that_it_has(place: Path) -> None:
    source, target = place / "source", place / "target"
    plant(source)
    run_warm("compress", source / "a/packed")
    before = tree(source)
    answer = clone(source, target)
    assert answer["failures"] == []
    assert tree(target) == before == tree(source)
    assert (target / "one").stat().st_ino == (target / "a/two").stat().st_ino
    assert (target / "one").stat().st_nlink == 2
    assert (target / "one").stat().st_ino != (source / "one").stat().st_ino
    assert sorted(os.listdir(place)) == ["source", "target"]
    assert BUILDING_MARK.decode() not in os.listxattr(target)


def test_a_target_that_exists_is_replaced_on_request_alone(place: Path) -> None:
    source, target = place / "source", place / "target"
    source.write_bytes(CONTENT)
    target.write_bytes(b"former")
    with target.open("rb") as reader:
        done = run_warm("clone", source, target)
        assert done.returncode == ExitCode.PROBLEMS
        assert "--replace" in done.stderr
        assert target.read_bytes() == b"former"
        clone("--replace", source, target)
        assert reader.read() == b"former", "who has it open keeps it"
    assert target.read_bytes() == CONTENT
    clone("--replace", source, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.only_at(KERNEL)
def test_a_tree_is_replaced_by_another_one(place: Path) -> None:
    source, target = place / "source", place / "target"
    plant(source)
    plant(target)
    (target / "more").write_bytes(b"goes")
    assert run_warm("clone", source, target).returncode == ExitCode.PROBLEMS
    before = tree(source)
    clone("--replace", source, target)
    assert tree(target) == before
    assert sorted(os.listdir(place)) == ["source", "target"]


@pytest.mark.only_at(KERNEL)
def test_paths_that_make_no_sense_are_refused(place: Path) -> None:
    source = place / "source"
    plant(source)
    served = Client.of(place)
    for target in (source / "a/copy", source):
        with pytest.raises(ControlError):
            served.clone(source, target)
    for pair in ((place / "missing", place / "b"), (source, place / "missing/b")):
        with pytest.raises(ControlError, match="there is no such"):
            served.clone(*pair)
    assert sorted(os.listdir(place)) == ["source"]
