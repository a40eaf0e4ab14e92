"""`memfs://` for libraries of fsspec: files of a mount as local files, with what memfs knows."""

from __future__ import annotations

import asyncio
import os
import pickle
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from memfs import MemoryManager
from memfs.client.placement import PlacementError
from memfs.fsspec import MemfsFileSystem
from tests.posix.capabilities import Capability
from tests.tiers.tiering import wait_until_at

if TYPE_CHECKING:
    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.any_driver]


@pytest.fixture(autouse=True)
def _registered() -> None:
    """As the entry point does where memfs is installed."""
    fsspec.register_implementation("memfs", MemfsFileSystem, clobber=True)


@pytest.fixture
def named(place: Path, mount: Mount) -> str:
    """The URL of `place` by the name of its mount's directory, which all mounts of tests have."""
    return f"memfs://{place}"


def test_the_entry_point_is_the_class() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["fsspec.specs"]["memfs"].partition(":")
    assert getattr(import_module(module), name) is MemfsFileSystem


def test_files_are_local_ones(place: Path, named: str) -> None:
    with fsspec.open(f"{named}/d.txt", "wt") as file:
        file.write("content")
    assert (place / "d.txt").read_text() == "content"
    fs, path = fsspec.url_to_fs(f"{named}/d.txt")
    assert isinstance(fs, LocalFileSystem)
    assert path == str(place / "d.txt")
    assert not fs.async_impl
    assert fs.unstrip_protocol(path) == f"{named}/d.txt"
    assert fsspec.open_local(f"{named}/d.txt") == str(place / "d.txt")
    assert fs.cat_ranges([path, path], [0, 3], [3, 7]) == [b"con", b"tent"]
    assert fs.ls(named, detail=False) == [path]
    assert fs.glob(f"{named}/*.txt") == [path]
    fs.mv(path, f"{named}/e.txt")
    fs.copy(f"{named}/e.txt", f"{named}/f.txt")
    assert sorted(os.listdir(place)) == ["e.txt", "f.txt"]
    fs.rm(named + "/f.txt")
    assert pickle.loads(pickle.dumps(fs)).cat(f"{named}/e.txt") == b"content"

    async def within_a_loop() -> bytes:
        """Where asynchronous file systems of fsspec hang or raise."""
        with fsspec.open(f"{named}/e.txt") as file:
            data: bytes = file.read()
        return data

    assert asyncio.run(within_a_loop()) == b"content"


def test_libraries_take_its_urls(place: Path, named: str) -> None:
    frame = pd.DataFrame({"n": range(10)})
    frame.to_parquet(f"{named}/frame.parquet")
    assert pd.read_parquet(f"{named}/frame.parquet").equals(frame)
    assert pq.read_table(place / "frame.parquet").num_rows == 10
    np.save(place / "a.npy", np.arange(5))
    mapped = np.load(fsspec.open_local(f"{named}/a.npy"), mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.tolist() == [0, 1, 2, 3, 4]
    del mapped


def test_what_memfs_knows(place: Path, named: str, mount: Mount) -> None:
    manager = MemoryManager(mount=place, root=str(place.relative_to(mount.root)))
    for number in range(5):
        manager.store(f"k{number}", bytes(100_000), metadata={"n": number})
    fs = fsspec.filesystem("memfs")
    assert fs.query(named, {"n": {"$gte": 3}}, sort="-n") == [f"{place}/k4", f"{place}/k3"]
    assert len(fs.query(named)) == 5
    top = f"memfs://{mount.root}"
    assert fs.query(top, {"n": 4}) == [f"{place}/k4"], "all of a mount"
    with pytest.raises(ValueError, match="a filter is a dictionary"):
        fs.query(named, "n")
    with pytest.raises(ValueError, match="limit = -1"):
        fs.query(named, limit=-1)
    for tier, priority, told in (("gpu", None, "'gpu' is not one of"), ("warm", 101, "101 is no")):
        with pytest.raises(PlacementError, match=told):
            fs.pin(f"{named}/k4", tier, priority)
    assert fs.query(named, {"n": {"$gte": 0}}, sort="n", limit=2) == [f"{place}/k0", f"{place}/k1"]
    with pytest.raises(ValueError, match=r"at n\.\$ge"):
        fs.query(named, {"n": {"$ge": 1}})
    snapshot = manager.create_snapshot()
    manager.delete("k4")
    [then] = fs.query(named, {"n": 4}, at=snapshot)
    assert Path(then).read_bytes() == bytes(100_000)
    fs.pin(f"{named}/k1", "glacier")
    wait_until_at("glacier", place / "k1")
    assert fs.tier(f"{named}/k1") == "glacier"
    assert fs.why(f"{named}/k1")["rule"] == "pin"
    fs.unpin(f"{named}/k1")
    assert fs.prefetch([f"{named}/k1", f"{named}/k2"]) == 2
    manager.delete_snapshot(snapshot)


@pytest.fixture
def _only_our_mount(monkeypatch: pytest.MonkeyPatch, mount: Mount) -> None:
    """Only the mount of the test: others of this machine have the same name."""
    from memfs.linux.mounts import list_mounts

    ours = [each for each in list_mounts() if each.mountpoint == mount.root]
    monkeypatch.setattr("memfs.fsspec.list_mounts", lambda: ours)


@pytest.mark.usefixtures("_only_our_mount")
def test_names_of_mounts(place: Path, mount: Mount) -> None:
    (place / "f").write_bytes(b"1")
    fs = fsspec.filesystem("memfs")
    below = place.relative_to(mount.root)
    assert fs.cat(f"memfs://{mount.root.name}/{below}/f") == b"1"
    assert fs._strip_protocol(f"memfs://{mount.root.name}") == str(mount.root)
    with pytest.raises(FileNotFoundError, match=r"in a directory 'other'; there are mount$"):
        fs.cat("memfs://other/f")
    with pytest.raises(FileNotFoundError, match="leads out of its mount"):
        fs.cat(f"memfs://{mount.root.name}/../state/lock")
    with pytest.raises(FileNotFoundError, match="does not lie in a mount"):
        fs.cat("memfs:///etc/passwd")


def test_two_mounts_of_one_name_are_told(monkeypatch: pytest.MonkeyPatch, mount: Mount) -> None:
    from memfs.linux.mounts import list_mounts

    [one] = [each for each in list_mounts() if each.mountpoint == mount.root]
    other = one._replace(mountpoint=Path("/mnt/mount"))
    monkeypatch.setattr("memfs.fsspec.list_mounts", lambda: [one, other])
    with pytest.raises(FileNotFoundError, match="several mounts are named 'mount': memfs:///dev"):
        fsspec.filesystem("memfs").cat("memfs://mount/f")
