"""`.memfs` in the root of a mount, as programs and users meet it."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import time
import tomllib
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from memfs.config import MetadataConfig
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metrics.traffic import Level
from memfs.types import ROOT_INODE
from tests import trees
from tests.contract.engine.site import run
from tests.mounting import run_memfs
from tests.outcomes import error_of
from tests.posix.calls import name_to_handle, open_by_handle
from tests.processes import ALICE, run_as
from tests.tiers.tiering import HYDRATE_BYTES_MAX, SMALL_FRAMES, pin, told
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MountFactory
    from tests.mounting import Mount

SECRETIVE = (
    SMALL_FRAMES
    + """
[glacier.options]
key = "AKIA-not-to-be-seen"
auto_mkdir = true
"""
)


@pytest.fixture
def mount(mount_factory: MountFactory, driver: str) -> Mount:
    return mount_factory(driver=driver, config=SECRETIVE)


def snapshot(mount: Mount, name: str) -> None:
    run_memfs("snapshot", "create", "--mount", mount.root, name)


def test_it_is_there_by_its_name_alone(mount: Mount) -> None:
    root = mount.root
    (root / "file").write_bytes(b"content")
    inside = root / ".memfs"
    assert sorted(os.listdir(root)) == ["file"]
    names = ["config.toml", "metrics", "pending", "query", "snapshots", "status.json"]
    assert sorted(os.listdir(inside)) == names
    for command in ("find", "du -a", "ls -laR"):
        assert b".memfs" not in subprocess.check_output([*command.split(), str(root)])
    status = json.loads((inside / "status.json").read_bytes())
    for file in inside.iterdir():
        assert file.is_dir() or file.stat().st_uid == os.getuid()
    assert status["mountpoint"] == str(root)
    assert status["inode_count"] == 2
    (root / "second").touch()
    assert json.loads((inside / "status.json").read_bytes())["inode_count"] == 3
    assert json.loads(subprocess.check_output(["cat", inside / "status.json"]))["pid"]
    assert os.stat(inside / "..").st_ino == root.stat().st_ino
    assert os.path.realpath(inside / "snapshots" / "..") == str(inside)


def test_metrics_are_the_same_in_the_mount_by_the_command_and_in_a_file(
    mount: Mount, tmp_path: Path
) -> None:
    (mount.root / "file").write_bytes(b"content")
    (mount.root / "file").read_bytes()
    counted = [f'memfs_opens_total{{mount="{mount.root}",level="{level}"}} 1' for level in Level]
    textfile = tmp_path / "memfs.prom"
    run_memfs("metrics", mount.root, "--textfile", textfile)
    for text in (
        (mount.root / ".memfs/metrics").read_text(),
        run_memfs("metrics", mount.root),
        textfile.read_text(),
    ):
        lines = text.splitlines()
        label = f'mount="{mount.root}"'
        assert f"memfs_inodes{{{label}}} 2" in lines
        # The mover may have brought it into RAM before it was opened.
        assert any(line in lines for line in counted)
        name = f'seconds_count{{{label},operation="lookup"}}'
        [lookups] = [line for line in lines if name in line]
        assert int(lookups.split()[1]) > 0
    assert textfile.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == [textfile.name]


def test_its_files_are_made_when_they_are_opened(mount: Mount) -> None:
    root, inside = mount.root, mount.root / ".memfs"
    config = (inside / "config.toml").read_text()
    assert "AKIA" not in config
    parsed = tomllib.loads(config)
    assert parsed["cold"]["frame"] == "64.0 KiB"
    assert parsed["mount"]["driver"] == mount.driver
    file = mount.base / "again.toml"
    shutil.copyfile(inside / "config.toml", file)
    assert file.read_text() == config
    assert (inside / "pending").read_bytes() == b""
    with open(inside / "status.json", "rb") as status:
        before = status.read()
        (root / "new").touch()
        status.seek(0)
        assert status.read() == before
        assert os.fstat(status.fileno()).st_size == len(before)
    mapped = os.open(inside / "config.toml", os.O_RDONLY)
    with mmap.mmap(mapped, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
        assert mapping[:] == config.encode()
    os.close(mapped)
    jq = shutil.which("jq")
    if jq is not None:
        assert subprocess.check_output([jq, ".inode_count", inside / "status.json"]) == b"2\n"
    copied = mount.base / "copied.json"
    subprocess.check_call(["cp", inside / "status.json", copied])
    assert json.loads(copied.read_bytes())["inode_count"] == 2
    assert error_of(run_as, ALICE, os.listdir, inside) is None
    assert error_of(run_as, ALICE, (inside / "status.json").read_bytes) == "EACCES"


def test_nothing_in_it_can_be_changed(mount: Mount) -> None:
    root = mount.root
    (root / "file").write_bytes(b"content")
    (root / "directory").mkdir()
    snapshot(mount, "one")
    inside = root / ".memfs"
    past = inside / "snapshots" / "one"
    changes = [
        lambda: (inside / "new").touch(),
        lambda: (inside / "snapshots" / "new").mkdir(),
        lambda: (past / "new").touch(),
        lambda: (past / "file").open("r+b"),
        lambda: (past / "file").unlink(),
        lambda: (past / "file").chmod(0o600),
        lambda: os.utime(past / "file"),
        lambda: os.truncate(past / "file", 1),
        lambda: os.setxattr(past / "file", "user.a", b"1"),
        lambda: (past / "file").rename(past / "other"),
        lambda: (past / "file").rename(root / "other"),
        lambda: (root / "file").rename(past / "other"),
        lambda: (root / "file").rename(past / "file"),
        lambda: os.link(root / "file", past / "other"),
        lambda: (past / "link").symlink_to("x"),
        lambda: (past / "directory").rmdir(),
        lambda: os.mkfifo(past / "fifo"),
        lambda: (inside / "status.json").write_bytes(b""),
        lambda: inside.rename(root / "other"),
        lambda: (root / "directory").rename(inside),
        lambda: inside.rmdir(),
    ]
    assert {error_of(change) for change in changes} == {"EROFS"}
    unnamed = error_of(os.open, past, os.O_TMPFILE | os.O_RDWR)
    assert unnamed == ("EROFS" if mount.driver == "kernel" else "ENOTSUP")
    assert error_of(inside.mkdir) == "EEXIST"
    assert error_of(os.link, past / "file", root / "other") == "EXDEV"
    shutil.rmtree(root, ignore_errors=True)
    assert os.listdir(root) == []
    assert (past / "file").read_bytes() == b"content"


def test_an_entry_of_that_name_is_the_user_s(mount: Mount) -> None:
    """A state of an earlier version may have such a name; it stays reachable."""
    (mount.root / "mine").mkdir()
    (mount.root / "mine" / "file").write_bytes(b"content")
    mount.stop()
    engine = SqliteEngine.open(mount.state, MetadataConfig())
    try:
        run(engine.rename(ROOT_INODE, b"mine", ROOT_INODE, b".memfs", 0, time.time_ns()))
    finally:
        engine.close()
    mount.start()
    mine = mount.root / ".memfs"
    assert os.listdir(mount.root) == [".memfs"]
    assert (mine / "file").read_bytes() == b"content"
    (mine / "second").touch()
    mine.rename(mount.root / "mine")
    assert sorted(os.listdir(mount.root / "mine")) == ["file", "second"]
    assert (mine / "status.json").exists()
    mount.check_log((r"/\.memfs is an entry of the user's own",))


def fill(root: Path) -> None:
    """Make a tree of all that a tree can have."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b").chmod(0o750)
    (root / "a" / "small").write_bytes(b"small content")
    (root / "a" / "large").write_bytes(os.urandom(2 * HYDRATE_BYTES_MAX))
    (root / "a" / "packed").write_bytes(b"packed" * HYDRATE_BYTES_MAX)
    os.link(root / "a" / "small", root / "a" / "b" / "linked")
    (root / "symlink").symlink_to("a/small")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "a", "user.colour", b"blue")
    os.setxattr(root / "a" / "small", "user.colour", b"red")
    os.chown(root / "a" / "small", 12, 34)
    (root / "empty").touch()
    for number in range(70):
        (root / "a" / "b" / f"{number:03}").write_bytes(b"%d" % number * 100)


def spoil(root: Path) -> None:
    """Change all of it."""
    (root / "a" / "small").write_bytes(b"other content")
    with (root / "a" / "large").open("r+b") as file:
        file.write(b"over it")
    (root / "a" / "packed").unlink()
    (root / "symlink").unlink()
    (root / "a" / "b").rename(root / "c")
    (root / "a").chmod(0o700)
    os.setxattr(root / "a", "user.colour", b"green")
    os.chown(root / "a" / "small", 0, 0)
    for number in range(0, 70, 2):
        (root / "c" / f"{number:03}").unlink()
    (root / "a" / "b").write_bytes(b"a file now")


def test_a_snapshot_shows_the_tree_of_its_instant(mount: Mount) -> None:
    root = mount.root
    fill(root)
    pin(root / "a" / "packed", "glacier")
    wait_for(
        lambda: told(root / "a" / "packed", "tier") == "glacier",
        lambda: told(root / "a" / "packed", "why"),
    )
    expected = trees.describe(root, times=True)
    reference = mount.base / "reference"
    subprocess.check_call(["cp", "-a", root, reference])
    snapshot(mount, "one")
    past = root / ".memfs" / "snapshots" / "one"
    assert trees.describe(past, times=True) == expected
    spoil(root)
    snapshot(mount, "two")
    assert os.listdir(root / ".memfs" / "snapshots") == ["one", "two"]
    second = trees.describe(root, times=True)
    assert trees.describe(past, times=True) == expected
    shutil.rmtree(root / "a")
    assert trees.describe(root / ".memfs" / "snapshots" / "two", times=True) == second
    subprocess.check_call(["diff", "-r", "-x", "fifo", "--no-dereference", past, reference])
    grepped = subprocess.check_output(["grep", "-rl", "small content", past / "a"])
    assert sorted(grepped.decode().split()) == [f"{past}/a/b/linked", f"{past}/a/small"]
    for command in (["cp", "-a"], ["rsync", "-aHX"]):
        copy = mount.base / command[0]
        subprocess.check_call([*command, f"{past}/", copy])
        assert trees.describe(copy, times=True) == expected
        shutil.rmtree(copy)
    assert os.path.samefile(past / "a" / "small", past / "a" / "b" / "linked")
    assert not os.path.samefile(past / "a" / "b" / "linked", root / "c" / "linked")
    assert (past / "a" / "b" / "..").stat().st_ino == (past / "a").stat().st_ino
    assert (past / "..").stat().st_ino == (root / ".memfs" / "snapshots").stat().st_ino
    assert os.getxattr(past / "a" / "large", "user.memfs.snapshot_state") == b"exact"
    assert error_of(os.getxattr, past / "a", "user.memfs.snapshot_state") == "ENODATA"
    assert error_of(os.listdir, past / "gone") == "ENOENT"
    handle = name_to_handle(past / "a" / "small")
    directory = name_to_handle(past / "a" / "b")
    numbers = {entry.name: entry.inode() for entry in os.scandir(past / "a" / "b")}
    mount.stop()
    mount.start()
    assert {entry.name: entry.inode() for entry in os.scandir(past / "a" / "b")} == numbers
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    fd = open_by_handle(top, handle, os.O_RDONLY)
    assert os.read(fd, 100) == b"small content"
    os.close(fd)
    os.close(top)
    held = os.open(past / "a" / "large", os.O_RDONLY)
    run_memfs("snapshot", "delete", "--mount", root, "one")
    assert os.listdir(root / ".memfs" / "snapshots") == ["two"]
    wait_for(lambda: error_of(os.listdir, past) == "ENOENT", "the kernel asks again")
    assert len(os.pread(held, HYDRATE_BYTES_MAX, 0)) == HYDRATE_BYTES_MAX
    os.close(held)
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    assert error_of(open_by_handle, top, handle, os.O_RDONLY) == "ESTALE"
    assert error_of(open_by_handle, top, directory, os.O_RDONLY) == "ESTALE"
    os.close(top)


def ask(mount: Mount, text: str) -> list[tuple[str, str]]:
    """Return name and path, from the root of the mount, of all that a question finds."""
    directory = mount.root / ".memfs" / "query" / text
    found = []
    for name in os.listdir(directory):
        link = directory / name
        assert link.is_symlink()
        assert link.samefile(link.resolve())
        found.append((name, os.path.relpath(link.resolve(), mount.root)))
    return found


def test_a_question_is_a_directory(mount: Mount) -> None:
    root = mount.root
    (root / "a").mkdir()
    for name in ("a/red", "a/blue", "red", "new\nline"):
        (root / name).write_bytes(name.encode())
        os.setxattr(root / name, "user.colour", name.rpartition("/")[2].encode())
    red = '{"colour": "red"}'
    expected = [("0001-red", "a/red"), ("0002-red", "red")]
    assert ask(mount, red) == expected
    assert ask(mount, quote(red, safe="")) == expected
    (root / "a" / "red").rename(root / "b")
    assert ask(mount, red) == [("0001-b", "b"), ("0002-red", "red")]
    assert ask(mount, '{"colour": "new\\nline"}') == [("0001-new\nline", "new\nline")]
    assert ask(mount, '{"colour": "green"}') == []
    query = root / ".memfs" / "query"
    assert os.listdir(query) == []
    assert (query / red / "0002-red").read_bytes() == b"red"
    assert error_of(os.readlink, query / red / "0003-red") == "ENOENT"
    assert error_of(os.listdir, query / '{"colour": {"$gtt": 1}}') == "EINVAL"
    assert error_of(os.listdir, query / "no JSON") == "EINVAL"
    assert error_of((query / red / "new").touch) == "EROFS"
    assert error_of((query / "{}").mkdir) in ("EEXIST", "EROFS")
    listed = subprocess.check_output(["ls", "-l", f"{query}/{red}/"], text=True)
    assert "0001-b -> ../../../b" in listed
    many = [f"{number:04}" for number in range(2500)]
    (root / "many").mkdir()
    for name in many:
        os.mknod(root / "many" / name, 0o600 | 0o100000)
    every = os.listdir(query / quote('{"$path": "many/*"}', safe=""))
    assert [name.partition("-")[2] for name in every] == many


def test_a_question_finds_what_the_caller_would(mount: Mount) -> None:
    root = mount.root
    root.chmod(0o755)
    (root / "closed").mkdir(0o700)
    for name in ("open", "hidden", "closed/file"):
        (root / name).write_bytes(b"x")
        (root / name).chmod(0o600 if name == "hidden" else 0o644)
        os.setxattr(root / name, "user.kind", b"k")
    directory = root / ".memfs" / "query" / '{"kind": "k"}'
    mine = os.listdir(directory)
    assert mine == ["0001-file", "0002-hidden", "0003-open"]
    assert run_as(ALICE, os.listdir, directory) == ["0001-open"]
    assert os.listdir(directory) == mine
    assert run_as(ALICE, _read, directory / "0001-open") == b"x"
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    assert error_of(run_as, ALICE, os.listdir, f"/proc/{os.getpid()}/fd/{held}") == "EACCES"
    os.close(held)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def test_files_of_the_past_can_be_mapped(mount: Mount) -> None:
    """Pages that were not touched before the file changed are those of the instant as well."""
    root = mount.root
    content = os.urandom(3 * HYDRATE_BYTES_MAX)
    for name in ("kept", "shared", "remote"):
        (root / name).write_bytes(content)
    pin(root / "remote", "glacier")
    wait_for(lambda: told(root / "remote", "tier") == "glacier", "the file is in the store")
    snapshot(mount, "one")
    with (root / "kept").open("r+b") as file:
        file.write(b"new")
    past = root / ".memfs" / "snapshots" / "one"
    maps: list[mmap.mmap] = []
    for name in ("kept", "shared", "remote"):
        for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
            fd = os.open(past / name, os.O_RDONLY)
            maps.append(mmap.mmap(fd, 0, flags, mmap.PROT_READ))
            os.close(fd)
            assert maps[-1][:10] == content[:10]
    writer = (root / "shared").open("r+b", buffering=0)
    writer.write(b"new" * len(content))
    (root / "remote").unlink()
    for each in maps:
        assert each[:] == content
        each.close()
    writer.close()
    assert (past / "shared").read_bytes() == content
