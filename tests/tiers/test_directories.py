"""A directory of the machine is adopted by reference, by a copy or by a move, and given back."""

from __future__ import annotations

import json
import os
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests import scratch
from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.tiers.tiering import pin, send, told, wait_until_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

Tree = dict[str, tuple[int, int, bytes]]
"""Mode, time of change (0 of directories and symlinks) and bytes, by path."""


@pytest.fixture
def data(mount: Mount, place: Path) -> Iterator[Path]:
    """A directory on the file system of the state directory."""
    root = mount.base / f"data-{place.name}"
    (root / "deep/er").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "one").write_bytes(b"1" * 100_000)
    (root / "deep/two").write_bytes(b"2" * 5)
    (root / "deep/er/nothing").touch()
    (root / "deep/link").symlink_to("../one")
    (root / "one").chmod(0o600)
    os.utime(root / "one", ns=(10**18, 10**18 + 7))
    yield root
    # A check of the state asks the directory for what still refers to it.
    scratch.remove(place / "set")
    scratch.remove(root)


def see(root: Path) -> Tree:
    found: Tree = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content, mtime_ns = b"", 0
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content, mtime_ns = file.read(), status.st_mtime_ns
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            found[os.path.relpath(path, root)] = (status.st_mode, mtime_ns, content)
    return found


def adopt(*words: str | Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run_memfs("adopt", "--json", *words))
    return report


@pytest.mark.parametrize("how", ["--reference", "--copy", "--move"])
def test_a_directory_is_taken_and_given_back(place: Path, data: Path, how: str) -> None:
    before = see(data)
    adopt(how, data, place / "set")
    assert see(place / "set") == before
    if how == "--move":
        assert not any(stat.S_ISREG(mode) for mode, _, _ in see(data).values())
        assert told(place / "set/one", "state") == "local"
    else:
        assert see(data) == before
    # Once more: nothing is left to do.
    adopt(how, data, place / "set")
    assert see(place / "set") == before
    run_memfs("release", place / "set")
    assert see(data) == before
    assert not (place / "set").exists()


def test_a_reference_is_read_past_the_daemon_and_written_apart(
    place: Path, data: Path, mount: Mount, capabilities: frozenset[Capability]
) -> None:
    before = see(data)
    adopt("--reference", data, place / "set")
    path = place / "set/one"
    with path.open("rb", buffering=0) as reader:
        inode = os.fstat(reader.fileno()).st_ino
        assert os.pread(reader.fileno(), 100, 0) == b"1" * 100
        if Capability.PASSTHROUGH in capabilities:
            pids = mount.daemon_pids()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                # A stopped daemon answers nothing.
                assert os.pread(reader.fileno(), 100_000, 50_000) == b"1" * 50_000
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
        with path.open("r+b") as writer:
            writer.write(b"mine")
        os.truncate(place / "set/deep/two", 2)
        assert path.read_bytes() == b"mine" + b"1" * 99_996
        if Capability.PASSTHROUGH in capabilities:
            assert path.stat().st_ino != inode
            assert os.pread(reader.fileno(), 10, 0) == b"1" * 10
    assert (place / "set/deep/two").read_bytes() == b"22"
    assert see(data) == before


def test_what_was_changed_after_a_move_goes_back(place: Path, data: Path) -> None:
    adopt("--move", data, place / "set")
    (place / "set/new").write_bytes(b"new")
    (place / "set/deep/two").write_bytes(b"changed")
    (place / "set/deep/er/nothing").unlink()
    send("cold", place / "set/one")
    expected = see(place / "set")
    run_memfs("release", place / "set")
    assert see(data) == expected


@pytest.mark.parametrize("how", ["--reference", "--copy"])
def test_what_was_written_here_is_not_thrown_away(place: Path, data: Path, how: str) -> None:
    before = see(data)
    adopt(how, data, place / "set")
    (place / "set/deep/two").write_bytes(b"mine")
    with pytest.raises(MountError, match="written here"):
        run_memfs("release", place / "set")
    assert (place / "set/deep/two").read_bytes() == b"mine"
    assert not (place / "set/one").exists()
    (place / "set/deep/two").unlink()
    run_memfs("release", place / "set")
    assert see(data) == before


def test_files_that_cannot_be_moved_stay_where_they_are(place: Path, data: Path) -> None:
    os.link(data / "one", data / "second")
    with (data / "deep/two").open("r+b"), pytest.raises(MountError) as caught:
        adopt("--move", data, place / "set")
    report = json.loads(str(caught.value).partition("\n")[2])
    assert report["failed_count"] == 3
    assert sorted(name.partition(":")[0] for name in report["failures"]) == [
        *("deep/two", "one", "second"),
    ]
    pin(place / "set/one", "warm")
    wait_until_at("warm", place / "set/one")
    assert (place / "set/one").read_bytes() == (data / "one").read_bytes()
    (data / "second").unlink()
    # The link count is a part of the etag, by its time of change.
    with pytest.raises(MountError, match="changed"):
        adopt("--move", data, place / "set")
    assert not (data / "deep/two").exists()


def test_what_makes_no_sense_is_refused(place: Path, mount: Mount, data: Path) -> None:
    for words, message in (
        (("--move", data / "nowhere", place / "set"), "no directory"),
        (("--move", mount.state, place / "set"), "state directory"),
        (("--copy", mount.base, place / "set"), "mount of memfs"),
        (("--reference", place, place / "set"), "mount of memfs"),
    ):
        with pytest.raises(MountError, match=message):
            adopt(*words)
        assert not (place / "set").exists()
    adopt("--move", data, place / "set")
    with pytest.raises(MountError, match="memfs's own"):
        adopt("--refresh", place / "set")
