"""Snapshots of a mount as users have them: by the command, and from Python."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from memfs.client.mount import Mount as Client
from memfs.control.client import ControlError
from tests.mounting import MountError, run_memfs

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
    run_memfs("snapshot", "delete", "before", *place)
    assert run_memfs("snapshot", "list", *place) == ""


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
