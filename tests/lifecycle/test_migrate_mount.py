"""`memfs migrate` at real mounts: programs find all that they had, and go on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from tests import scratch
from tests.mounting import Mount, MountError, run_memfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgresql import Database

pytestmark = pytest.mark.mount


@pytest.fixture
def base(scratch_area: scratch.Scratch) -> Iterator[Path]:
    made = scratch_area.directory("migrate")
    yield made
    scratch.remove(made)


def _place(base: Path, name: str) -> Path:
    place = base / name
    place.mkdir(mode=0o755)
    return place


def _tree(root: Path) -> dict[str, object]:
    """Return what programs find: kinds, attributes, xattrs, targets and bytes."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            told = os.lstat(path)
            attributes = (told.st_ino, told.st_mode, told.st_uid, told.st_nlink, told.st_mtime_ns)
            if os.path.islink(path):
                found[path] = (attributes, os.readlink(path))
                continue
            xattrs = {
                each: os.getxattr(path, each)
                for each in os.listxattr(path)
                if not each.startswith(("user.memfs.", "system."))
            }
            content = None
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
            found[path] = (attributes, xattrs, content)
    return found


def _write(root: Path) -> None:
    """Work as programs do."""
    (root / "d/e").mkdir(parents=True)
    for number in range(40):
        (root / f"d/{number}").write_bytes(os.urandom(1000) * number)
        os.setxattr(root / f"d/{number}", "user.number", b"%d" % number)
    os.symlink("d/1", root / "link")
    os.link(root / "d/2", root / "hard")
    (root / "d/3").rename(root / "d/e/\udc80three")
    (root / "d/4").unlink()


def test_a_mount_moves_into_a_database(base: Path, postgres: Database) -> None:
    """Names, bytes, snapshots; then another machine reads."""
    store = f"file://{_place(base, 'objects')}"
    alone = f'[glacier]\nurl = "{store}"\n'
    shared = f'{alone}[metadata]\nurl = "{postgres.url}"\n[nodes]\nname = "a"\n'
    mount = Mount(_place(base, "a"), "kernel", alone, forked=True)
    mount.start()
    _write(mount.root)
    run_memfs("snapshot", "create", "before", "--mount", mount.root)
    (mount.root / "d/5").write_text("changed since")
    tree = _tree(mount.root)
    run_memfs("format", postgres.url, "--store", store)
    with pytest.raises(MountError, match=rf"exit {ExitCode.STATE_IN_USE:d}\n"):
        run_memfs("migrate", mount.state, postgres.url)
    mount.stop()

    # The former configuration and the new one each say what is to be done.
    node = Mount(mount.base, "kernel", shared, forked=True)
    with pytest.raises(MountError, match="memfs migrate STATE URL"):
        node.start()
    told = run_memfs("migrate", mount.state, "-c", mount.base / "config.toml")
    assert "compared row by row" in told
    assert "as node a" in told
    assert "already" in run_memfs("migrate", mount.state, postgres.url)
    with pytest.raises(MountError, match=rf"exit {ExitCode.STATE_UNUSABLE:d}\n.*metadata\.url"):
        Mount(mount.base, "kernel", alone, forked=True).start()

    node.start()
    assert _tree(node.root) == tree
    assert "before" in run_memfs("snapshot", "list", "--mount", node.root)
    (node.root / "d/new").write_text("after the move")
    (node.root / "d/6").unlink()
    run_memfs("barrier", "--level", "remote", node.root)
    reader = Mount(
        _place(base, "b"),
        "kernel",
        shared.replace('"a"', '"b"\nrole = "reader"'),
        forked=True,
    )
    reader.start()
    assert (reader.root / "d/new").read_text() == "after the move"
    assert (reader.root / "d/7").read_bytes() == (node.root / "d/7").read_bytes()
    assert not (reader.root / "d/6").exists()
    reader.stop()
    node.stop()


def test_a_mount_leaves_its_database(base: Path, postgres: Database) -> None:
    """The state directory is enough again, with what programs did on the node."""
    store = f"file://{_place(base, 'objects')}"
    alone = f'[glacier]\nurl = "{store}"\n'
    shared = f'{alone}[metadata]\nurl = "{postgres.url}"\n[nodes]\nname = "a"\n'
    run_memfs("format", postgres.url, "--store", store)
    node = Mount(_place(base, "a"), "kernel", shared, forked=True)
    node.start()
    _write(node.root)
    run_memfs("snapshot", "create", "before", "--mount", node.root)
    tree = _tree(node.root)
    with pytest.raises(MountError, match=rf"exit {ExitCode.STATE_IN_USE:d}\n"):
        run_memfs("migrate", postgres.url, node.state)
    node.stop()
    told = run_memfs("migrate", postgres.url, node.state)
    assert "has its names alone, compared row by row" in told
    assert "drop them" in told
    assert "has its names alone" in run_memfs("migrate", postgres.url, node.state)
    with pytest.raises(MountError, match="have moved out of it"):
        node.start()

    mount = Mount(node.base, "kernel", alone, forked=True)
    mount.start()
    assert _tree(mount.root) == tree
    assert "before" in run_memfs("snapshot", "list", "--mount", mount.root)
    (mount.root / "d/new").write_text("alone again")
    run_memfs("barrier", "--level", "remote", mount.root)
    mount.stop()
    mount.fsck()
    mount.start()
    assert (mount.root / "d/new").read_text() == "alone again"
    mount.stop()
