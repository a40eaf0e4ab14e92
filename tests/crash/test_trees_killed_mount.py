"""SIGKILL of the daemon at every point of a restore and of a clone, at a mount.

Each file is as it was before or as of the snapshot, a clone is there as a whole or not at all, fsck
finds nothing, and the same command ends what was begun.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memfs.moves.faults import FAULT_POINTS, TREE_POINTS
from tests.crash.armed import Armed
from tests.mounting import run_memfs
from tests.tiers.tiering import compressible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

COPY_POINTS = (
    "hydrate.begun",  # The intent of a copy is of that kind.
    *(point for point in FAULT_POINTS if point.startswith("copy.")),
)
OPEN_POINTS = tuple(point for point in FAULT_POINTS if point.startswith("open."))
RESTORE_POINTS = (
    *OPEN_POINTS,
    *COPY_POINTS,
    *(point for point in TREE_POINTS if point.startswith("restore.")),
)
CLONE_POINTS = (*COPY_POINTS, *(point for point in TREE_POINTS if point.startswith("clone.")))
COUNTS = (1, 2, 4, 7)
"""At which reaching of a point the daemon dies, each time the command is run again."""

OPEN_CONTENT = compressible(50_000, 99)

pytestmark = pytest.mark.any_driver


class Seen(NamedTuple):
    """What a user sees of a file."""

    mode: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes


Tree = dict[str, Seen]


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Armed]:
    with pytest.MonkeyPatch.context() as patch:
        yield Armed(tmp_path, patch)


@pytest.fixture
def mount(armed: Armed, driver: str, mount_factory: MountFactory) -> Mount:
    """Files of a tree have been changed, removed, renamed and made since a snapshot."""
    mount = mount_factory(driver)
    plant(mount.root / "tree")
    run_memfs("snapshot", "create", "first", "--mount", mount.root)
    assert armed.reached() == {}
    return mount


def plant(top: Path) -> None:
    (top / "deep").mkdir(parents=True)
    for number, name in enumerate(("changed", "removed", "moded", "deep/one", "deep/two", "same")):
        path = top / name
        path.write_bytes(compressible(40_000 + number, number))
        os.setxattr(path, "user.number", b"%d" % number)
        os.utime(path, ns=(10**18, 10**18 + number))
    os.link(top / "removed", top / "deep/link")
    (top / "symlink").symlink_to("deep/one")


def change(top: Path) -> None:
    with (top / "changed").open("r+b") as file:
        file.write(b"new")
    (top / "removed").unlink()
    (top / "deep/link").unlink()
    (top / "moded").chmod(0o600)
    os.setxattr(top / "moded", "user.number", b"new")
    (top / "deep/one").rename(top / "moved")
    (top / "deep/two").write_bytes(b"two")
    (top / "deep/more").write_bytes(b"more")
    (top / "symlink").unlink()


def see(top: Path) -> Tree:
    found: Tree = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        names = sorted(
            name for name in os.listxattr(path, follow_symlinks=False) if ".memfs." not in name
        )
        found[str(path.relative_to(top))] = Seen(
            status.st_mode,
            status.st_mtime_ns if path.is_file() and not path.is_symlink() else 0,
            tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
            content,
        )
    return found


def check_each(found: Tree, before: Tree, wanted: Tree) -> None:
    """Each path is as it was before, or as it is wanted."""
    for path in {*found, *before, *wanted}:
        assert found.get(path) in (before.get(path), wanted.get(path)), path


@contextlib.contextmanager
def being_written(path: Path) -> Iterator[None]:
    """Hold a file open for writing, so that a snapshot of the present has to copy it."""
    file = path.open("wb", buffering=0)
    try:
        file.write(OPEN_CONTENT)
        yield
    finally:
        # The daemon may be gone.
        with contextlib.suppress(OSError):
            file.close()


def restore(mount: Mount) -> str:
    with being_written(mount.root / "open"):
        return run_memfs("snapshot", "restore", f"{mount.root}/tree@first", "--delete")


def clone(mount: Mount) -> str:
    return run_memfs("clone", "--replace", mount.root / "tree", mount.root / "target")


def kill_at(
    armed: Armed,
    mount: Mount,
    command: Callable[[Mount], str],
    point: str,
    check: Callable[[], None],
) -> None:
    """Run a command until it ends, and kill its daemon at a point as often as it gets there."""
    kill_count = 0
    for count in COUNTS:
        if not armed.run(mount, lambda: command(mount), point, count):
            break
        kill_count += 1
        check()
    else:
        command(mount)
    assert kill_count, f"{point} was not reached"


def check_end(mount: Mount, command: Callable[[Mount], str]) -> None:
    """What was made stays, and fsck finds every byte of it."""
    before = see(mount.root)
    assert not any(".memfs-clone" in path for path in before)
    command(mount)
    run_memfs("umount", mount.root)
    run_memfs("fsck", "--verify", mount.state)
    mount.start()
    after = see(mount.root)
    assert after.pop("open", None) == before.pop("open", None) or command is restore
    assert after == before
    mount.check_log()


@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_a_restore_that_is_killed_leaves_each_file_old_or_new(
    armed: Armed, mount: Mount, point: str
) -> None:
    top = mount.root / "tree"
    wanted = see(top)
    change(top)
    before = see(top)
    assert before != wanted

    def check() -> None:
        check_each(see(top), before, wanted)
        assert (mount.root / "open").read_bytes() == OPEN_CONTENT
        kept = mount.root / ".memfs/snapshots/first/tree"
        assert {path: seen.content for path, seen in see(kept).items()} == {
            path: seen.content for path, seen in wanted.items()
        }

    kill_at(armed, mount, restore, point, check)
    assert see(top) == wanted
    links = {(top / name).stat().st_ino for name in ("removed", "deep/link")}
    assert len(links) == 1
    check_end(mount, restore)


@pytest.mark.parametrize("point", CLONE_POINTS)
def test_a_clone_that_is_killed_is_there_as_a_whole_or_not_at_all(
    armed: Armed, mount: Mount, point: str
) -> None:
    source, target = mount.root / "tree", mount.root / "target"
    shutil.copytree(source, target, symlinks=True)
    change(target)
    wanted, before = see(source), see(target)

    def check() -> None:
        assert see(source) == wanted
        assert see(target) in (before, wanted)

    kill_at(armed, mount, clone, point, check)
    assert see(source) == see(target) == wanted
    check_end(mount, clone)


@pytest.mark.parametrize(
    ("command", "points"),
    [(restore, RESTORE_POINTS), (clone, CLONE_POINTS)],
    ids=["restore", "clone"],
)
def test_all_points_that_are_reached_are_killed_at(
    armed: Armed, mount: Mount, command: Callable[[Mount], str], points: tuple[str, ...]
) -> None:
    """A new step of a restore or a clone needs its kill."""
    shutil.copytree(mount.root / "tree", mount.root / "target", symlinks=True)
    change(mount.root / "tree")
    assert not armed.run(mount, lambda: command(mount), "no point", 1)
    in_background = {point for point in FAULT_POINTS if point.startswith(("garbage.", "drop"))}
    assert set(armed.reached()) - in_background == set(points)
