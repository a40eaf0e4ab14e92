"""Snapshots of a mount as users have them: by the command, and from Python."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import trio

from memfs.client.mount import Mount as Client
from memfs.config import MetadataConfig
from memfs.control.client import ControlError
from memfs.jobs.automatic_snapshots import DEFAULT_SETTING
from memfs.metadata.sqlite.engine import SqliteEngine
from tests.mounting import MountError, run_memfs
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.conftest import MountFactory
    from tests.mounting import Mount


@pytest.fixture
def mount(mount_factory: MountFactory) -> Mount:
    return mount_factory(driver="auto")


def test_snapshots_come_and_go_by_the_command(mount: Mount) -> None:
    (mount.root / "file").write_bytes(b"old")
    place = ("--mount", mount.root)
    told = run_memfs(
        *("snapshot", "create", "before", "--description", "of all", "--label", "kind=hand"),
        *("--keep-until", "2100-01-01", "--json", *place),
    )
    made = json.loads(told)
    assert (made["snapshot"]["name"], made["snapshot"]["labels"]) == ("before", {"kind": "hand"})
    [listed] = json.loads(run_memfs("snapshot", "list", "--json", *place))
    assert listed == made["snapshot"]
    assert listed == json.loads(run_memfs("snapshot", "show", "before", "--json", *place))
    line = run_memfs("snapshot", "list", *place)
    assert line.startswith("before  ")
    assert line.endswith("  kind=hand  of all\n")
    assert "kept until   2100-01-01 00:00:00" in run_memfs("snapshot", "show", "before", *place)
    with pytest.raises(MountError, match="there is a snapshot 'before' already: choose another"):
        run_memfs("snapshot", "create", "before", *place)
    with pytest.raises(MountError, match="no instant: write 30d"):
        run_memfs("snapshot", "create", "other", "--keep-until", "soon", *place)
    with pytest.raises(MountError, match="no label: write KEY=VALUE"):
        run_memfs("snapshot", "create", "other", "--label", "soon", *place)
    with pytest.raises(MountError, match=r"exit 1\nmemfs: .*`memfs snapshot list` shows those"):
        run_memfs("snapshot", "delete", "missing", *place)
    (mount.root / "file").unlink()
    sizes = Client.of(mount.root).snapshots.sizes
    wait_for(lambda: sizes()["alone"]["before"]["local_bytes"], "the removed file is kept")
    [sized, shared] = run_memfs("snapshot", "list", "--sizes", *place).splitlines()
    assert "4.0 KiB on disk, 0 B in the store" in sized
    assert shared == "shown by two or more: 0 B on disk, 0 B in the store"
    told = json.loads(run_memfs("snapshot", "list", "--sizes", "--json", *place))
    assert told == {"snapshots": [listed], **sizes()}
    run_memfs("snapshot", "delete", "before", *place)
    assert run_memfs("snapshot", "list", *place) == ""


def test_a_mount_without_a_store_of_its_own_cannot_be_exported(mount: Mount) -> None:
    for option in ("--wait", "--list"):
        with pytest.raises(MountError, match=r"lost with it: set glacier\.url to export"):
            run_memfs("snapshot", "export", option, mount.root)


def test_snapshots_come_and_go_from_python(mount: Mount) -> None:
    snapshots = Client.of(mount.root).snapshots
    made = snapshots.create("first", labels={"a": "b"})
    mount.kill()
    mount.start()
    assert snapshots.list() == [made["snapshot"]]
    with (mount.root / "open").open("wb") as file:
        file.write(b"open")
        assert snapshots.create("second")["open_count"] == 1
    with pytest.raises(ControlError) as refused:
        snapshots.create("second")
    assert refused.value.errno == errno.EEXIST
    snapshots.delete(["first", "second"])
    assert snapshots.list() == []
    with pytest.raises(ControlError) as refused:
        snapshots.show("first")
    assert refused.value.errno == errno.ENOENT


def shown(mount: Mount, *arguments: str | Path) -> list[str]:
    place: tuple[str | Path, ...] = () if "--under" in arguments else ("--under", mount.root)
    return sorted(run_memfs("snapshot", "diff", *arguments, *place).splitlines())


def test_what_differs_is_told_by_path(mount: Mount) -> None:
    root = mount.root
    (root / "a/deep").mkdir(parents=True)
    for name in ("gone", "written", "replaced", "moved", "attributes", "rotated", "same"):
        (root / "a" / name).write_bytes(b"old " * 10)
    run_memfs("snapshot", "create", "before", "--mount", root)
    (root / "a/gone").unlink()
    (root / "a/written").write_bytes(b"new")
    (root / "a/new").write_bytes(b"replacing")
    (root / "a/new").rename(root / "a/replaced")
    (root / "a/moved").rename(root / "a/deep/moved")
    (root / "a/attributes").chmod(0o600)
    (root / "a/rotated").rename(root / "a/rotated.1")
    (root / "a/rotated").write_bytes(b"again")
    (root / "came").mkdir()
    (root / "came/file").write_bytes(b"12345")
    expected = sorted(
        [
            "+ came/",
            "+ came/file  5 B",
            "- a/gone  40 B",
            "M a/replaced  40 B -> 9 B",
            "M a/rotated  40 B -> 5 B",
            "M a/written  40 B -> 3 B",
            "R a/moved -> a/deep/moved  40 B",
            "R a/rotated -> a/rotated.1  40 B",
            "m a/attributes  40 B",
        ]
    )
    assert shown(mount, "before") == expected
    run_memfs("snapshot", "create", "after", "--mount", root)
    (root / "a/later").write_bytes(b"x")
    assert shown(mount, "before", "after") == expected
    assert shown(mount, "after") == ["+ a/later  1 B"]
    assert shown(mount, "before", "after", "--under", root / "came") == [
        "+ came/",
        "+ came/file  5 B",
    ]
    paths = run_memfs("snapshot", "diff", "before", "after", "--paths0", "--under", root / "a")
    assert sorted(paths.split("\0")[:-1]) == sorted(
        ["attributes", "deep/moved", "replaced", "rotated", "rotated.1", "written"]
    )
    rows = [json.loads(line) for line in shown(mount, "before", "after", "--json")]
    [moved] = [row for row in rows if row["path"] == "a/deep/moved"]
    assert (moved["change"], moved["old_path"], moved["size"]) == ("R", "a/moved", 40)
    memfs = Path(sys.executable).with_name("memfs")
    stream = subprocess.check_output(
        [memfs, "snapshot", "diff", "before", "after", "--arrow", "--under", root]
    )
    table = pa.ipc.open_stream(stream).read_all().to_pylist()
    assert sorted(row["path"] for row in table) == sorted(row["path"] for row in rows)
    with pytest.raises(MountError, match="'before' is older than 'after': swap them"):
        shown(mount, "after", "before")
    with pytest.raises(MountError, match="there was no 'nowhere' at either instant"):
        shown(mount, "before", "--under", root / "nowhere")


def test_the_versions_of_a_file_are_told_also_when_it_is_gone(mount: Mount) -> None:
    root, snapshots = mount.root, Client.of(mount.root).snapshots
    file = root / "dir/file"
    file.parent.mkdir()
    file.write_bytes(b"1")
    snapshots.create("first")
    snapshots.create("second")
    file.write_bytes(b"22")
    snapshots.create("third")
    (root / "new").write_bytes(b"333")
    (root / "new").rename(file)
    versions = snapshots.versions("dir/file")
    told = [(each["size"], each["now"], each["snapshots"], each["state"]) for each in versions]
    assert told == [
        (3, True, [], "exact"),
        (2, False, ["third"], "exact"),
        (1, False, ["second", "first"], "exact"),
    ]
    assert all(each["forms"] == ["raw"] for each in versions)
    file.unlink()
    lines = run_memfs("snapshot", "versions", file).splitlines()
    assert [line.partition("  ")[2] for line in lines] == [
        "2 B  raw  third",
        "1 B  raw  second, first",
    ]
    with pytest.raises(MountError, match="no 'dir/none', and no snapshot has one"):
        run_memfs("snapshot", "versions", root / "dir/none")


def test_open_files_are_copied_named_or_refused(mount: Mount) -> None:
    root = mount.root
    (root / "scratch").mkdir()
    os.setxattr(root / "scratch", "user.memfs.snapshot", b"off")
    with (root / "open").open("wb", 0) as file, (root / "scratch/vm").open("wb", 0) as image:
        file.write(b"while open")
        image.write(b"of a machine")
        with pytest.raises(MountError, match=r"open for writing, or mapped: /.*, /.*; close them"):
            run_memfs("snapshot", "create", "strict", "--strict", "--mount", root)
        told = run_memfs("snapshot", "create", "open", "--verbose", "--mount", root)
        assert told.splitlines() == [
            "open is kept",
            "2 files were open for writing, and copied meanwhile; the bytes of 1 are not kept",
            "open    /open",
            "absent  /scratch/vm: user.memfs.snapshot is off",
        ]
        file.write(b", and later")
    assert os.getxattr(root / "scratch/vm", "user.memfs.snapshot") == b"off"
    [version, former] = Client.of(root).snapshots.versions("open")
    assert (former["state"], former["size"]) == ("open", len("while open"))
    assert (root / ".memfs/snapshots/open/open").read_bytes() == b"while open"
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        (root / ".memfs/snapshots/open/scratch/vm").read_bytes()
    assert version["size"] == len("while open, and later")


def test_a_mount_that_is_killed_at_once_has_the_rules_of_a_new_state(mount: Mount) -> None:
    """They used to be noted a little later, and the next mount took the state for an older one."""
    mount.kill()
    engine = SqliteEngine.open(mount.state, MetadataConfig())
    try:
        assert trio.run(engine.get_setting, DEFAULT_SETTING) == b"1"
    finally:
        engine.close()
