"""`memfs freeze` on a mount: no system call changes anything there, and all others go on."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from memfs.manager.errors import ReadOnlyMountError
from memfs.manager.manager import MemoryManager
from tests.mounting import MountError, run_memfs
from tests.outcomes import error_of
from tests.processes import ALICE, run_as
from tests.tiers.tiering import compressible, pin, told, wait_until_at, why
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

CONTENT = compressible(300_000)


@pytest.fixture
def mount(driver: str, mount_factory: MountFactory) -> Mount:
    return mount_factory(driver)


@pytest.fixture
def tree(mount: Mount) -> Path:
    """`above/tree`, not frozen yet: files, a directory, a symlink, and a name that is elsewhere."""
    tree = mount.root / "above/tree"
    (tree / "d").mkdir(parents=True)
    (tree / "empty").mkdir()
    for name in ("f", "d/g", "twice"):
        (tree / name).write_bytes(CONTENT)
    os.setxattr(tree / "f", "user.a", b"1")
    (tree / "link").symlink_to("f")
    (mount.root / "other").mkdir()
    (mount.root / "other/twice").hardlink_to(tree / "twice")
    (mount.root / "other/free").write_bytes(b"free")
    return tree


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that programs see of a tree, but for access times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        xattrs = [] if path.is_symlink() else os.listxattr(path)
        found[str(path.relative_to(root))] = (
            *(status.st_ino, status.st_mode, status.st_uid, status.st_nlink, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns, content, xattrs),
        )
    return found


def changes_of(root: Path) -> dict[str, Callable[[], object]]:
    """Return what programs may try, each of which a frozen tree refuses."""
    tree, other = root / "above/tree", root / "other"
    return {
        "write": lambda: os.close(os.open(tree / "f", os.O_WRONLY)),
        "append": lambda: os.close(os.open(tree / "d/g", os.O_RDWR | os.O_APPEND)),
        "open with O_TRUNC": lambda: os.close(os.open(tree / "f", os.O_RDONLY | os.O_TRUNC)),
        "write by another name": lambda: os.close(os.open(other / "twice", os.O_RDWR)),
        "truncate": lambda: os.truncate(tree / "f", 3),
        "create": lambda: (tree / "n").touch(),
        "create below": lambda: (tree / "d/n").write_bytes(b""),
        "O_TMPFILE and link": lambda: os.link(other / "free", tree / "n"),
        "mkdir": lambda: (tree / "n").mkdir(),
        "mkfifo": lambda: os.mkfifo(tree / "n"),
        "symlink": lambda: (tree / "n").symlink_to("f"),
        "link out of it": lambda: os.link(tree / "f", other / "n"),
        "unlink": lambda: (tree / "f").unlink(),
        "unlink a symlink": lambda: (tree / "link").unlink(),
        "unlink another name": lambda: (other / "twice").unlink(),
        "rmdir": lambda: (tree / "empty").rmdir(),
        "rename": lambda: (tree / "f").rename(tree / "n"),
        "rename out of it": lambda: (tree / "d").rename(other / "n"),
        "rename into it": lambda: (other / "free").rename(tree / "f"),
        "rename it": lambda: tree.rename(root / "n"),
        "rename what is above it": lambda: (root / "above").rename(root / "n"),
        "chmod": lambda: (tree / "f").chmod(0o600),
        "chown": lambda: os.chown(tree / "d", 5, 5),
        "utime": lambda: os.utime(tree / "f"),
        "setxattr": lambda: os.setxattr(tree / "f", "user.b", b"1"),
        "removexattr": lambda: os.removexattr(tree / "f", "user.a"),
    }


def test_nothing_in_a_frozen_tree_changes(mount: Mount, tree: Path) -> None:
    before = listing(tree)
    assert run_memfs("freeze", tree) == f"{tree} is frozen\n"
    for what, change in changes_of(mount.root).items():
        assert error_of(change) == "EROFS", what
        assert listing(tree) == before, what
    # What a daemon that was killed knew is known to the next one.
    mount.kill()
    mount.start()
    assert error_of((tree / "f").write_bytes, b"") == "EROFS"
    assert listing(tree) == before
    assert run_memfs("thaw", tree) == f"{tree} is thawed\n"
    (tree / "f").write_bytes(b"new")
    (mount.root / "above").rename(mount.root / "elsewhere")
    assert (mount.root / "elsewhere/tree/f").read_bytes() == b"new"


def test_programs_are_told_by_the_tools_that_they_use(mount: Mount, tree: Path) -> None:
    """cp, rsync, rm and MemoryManager fail with what the kernel says, and change nothing."""
    run_memfs("freeze", tree)
    before = listing(tree)
    with pytest.raises(MountError, match="d/g: /above/tree of the mount is frozen; memfs thaw"):
        run_memfs("tag", tree / "d/g", "a=1")
    free = mount.root / "other/free"
    commands: tuple[list[str | Path], ...] = (
        ["cp", free, tree / "f"],
        ["rm", "-r", "-f", tree / "d"],
        ["rsync", "-a", f"{free.parent}/", f"{tree}/d/"],
        ["mv", free, tree],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0, command
        assert "Read-only file system" in done.stderr
    with (
        MemoryManager(mount=mount.root, root="above/tree/d") as manager,
        pytest.raises(ReadOnlyMountError, match="/above/tree of the mount is frozen"),
    ):
        manager.store("new", b"bytes")
    assert listing(tree) == before


def test_memfs_goes_on_with_its_own_work(mount: Mount, tree: Path) -> None:
    """Files move between tiers, are pinned, and are in snapshots; what is there can be copied."""
    run_memfs("snapshot", "create", "before", "--mount", mount.root)
    (tree / "d/g").write_bytes(b"changed")
    run_memfs("freeze", tree)
    pin(tree / "f", "glacier")
    wait_until_at("glacier", tree / "f")
    assert (tree / "f").read_bytes() == CONTENT
    pin(tree, "cold")
    os.setxattr(tree, "user.memfs.priority", b"7")
    run_memfs("snapshot", "create", "s", "--mount", mount.root)
    assert (mount.root / ".memfs/snapshots/s/above/tree/d/g").read_bytes() == b"changed"
    copy = mount.root / "copy"
    run_memfs("clone", tree, copy)
    (copy / "f").write_bytes(b"new")
    with pytest.raises(MountError, match="is frozen, and all below it"):
        run_memfs("snapshot", "restore", f"{tree}/d/g@before")
    assert (tree / "d/g").read_bytes() == b"changed"
    (mount.root / "above/beside").write_bytes(b"")


def test_it_is_told_what_is_frozen_and_why_not(mount: Mount, tree: Path) -> None:
    root = mount.root
    with pytest.raises(MountError, match="d/g: only a directory can be frozen"):
        run_memfs("freeze", tree / "d/g")
    with pytest.raises(MountError, match="it is not frozen"):
        run_memfs("thaw", tree)
    with pytest.raises(MountError, match="does not lie in a mount of memfs"):
        run_memfs("freeze", mount.base)
    assert json.loads(run_memfs("freeze", "--json", tree)) == {"frozen": [str(tree)]}
    run_memfs("freeze", tree)
    run_memfs("freeze", root / "other")
    assert run_memfs("freeze", "--list", "--mount", root) == "/above/tree\n/other\n"
    listed = json.loads(run_memfs("freeze", "--list", "--json", "--mount", root))
    assert listed[0] == {"path": "/above/tree", "thawing": False}
    for path in (tree, tree / "d", tree / "d/g"):
        assert told(path, "frozen") == "/above/tree"
        assert "/above/tree is frozen" in why(path)["frozen"]
    assert "frozen   /above/tree is frozen: nothing in it changes" in run_memfs("why", tree / "d")
    assert error_of(told, root / "above", "frozen") == "ENODATA"
    with pytest.raises(MountError, match="it is frozen with /above/tree of the mount: thaw that"):
        run_memfs("thaw", tree / "d")
    assert "user.memfs.frozen" not in os.listxattr(tree)
    run_memfs("thaw", tree, root / "other")
    assert run_memfs("freeze", "--list", "--mount", root) == ""


def test_only_its_owner_freezes_a_directory(mount: Mount, tree: Path) -> None:
    tree.chmod(0o777)
    for action in (
        lambda: os.setxattr(tree, "user.memfs.frozen", b"1"),
        lambda: os.removexattr(tree, "user.memfs.frozen"),
    ):
        with pytest.raises(PermissionError):
            run_as(ALICE, action)
    assert error_of(os.setxattr, tree, "user.memfs.frozen", b"yes") == "EINVAL"


def test_a_tree_with_a_file_that_is_written_is_not_frozen(tree: Path) -> None:
    with (tree / "d/g").open("r+b") as file:
        file.write(b"new")
        file.flush()
        with pytest.raises(MountError, match=r"open for writing, or mapped: /above/tree/d/g;"):
            run_memfs("freeze", tree)
        mapped = mmap.mmap(file.fileno(), 0)
    with pytest.raises(MountError, match="open for writing, or mapped"):
        run_memfs("freeze", tree)
    mapped[0] = 1
    mapped.close()
    (tree / "new").write_bytes(b"closed just now")
    run_memfs("freeze", tree)
    assert (tree / "d/g").read_bytes()[:3] == b"\1ew"
    assert (tree / "new").read_bytes() == b"closed just now"


def test_a_source_changes_nothing_in_a_frozen_tree(mount: Mount, tmp_path: Path) -> None:
    source, root = tmp_path / "source", mount.root / "adopted"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"first")
    run_memfs("adopt", f"file://{source}", root, "--lazy")
    with pytest.raises(MountError, match="not listed yet, and would have no files for good"):
        run_memfs("freeze", root)
    run_memfs("adopt", "--refresh", root)
    run_memfs("freeze", root)
    assert (root / "d/f").read_bytes() == b"first"
    (source / "d/new").write_bytes(b"new")
    (source / "d/f").write_bytes(b"second")
    with pytest.raises(MountError, match="/adopted is frozen: what has changed is taken once"):
        run_memfs("adopt", "--refresh", root)
    assert [path.name for path in (root / "d").iterdir()] == ["f"]
    run_memfs("thaw", root)
    run_memfs("adopt", "--refresh", root)
    wait_for(lambda: (root / "d/f").read_bytes() == b"second", "the source's bytes")
    assert (root / "d/new").read_bytes() == b"new"
