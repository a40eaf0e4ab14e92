"""Traces of a real mount: what programs do comes to the disk, and can be replayed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from tests.mounting import MountError, run_memfs
from tests.posix.capabilities import Capability
from tests.tiers.tiering import FRAME_BYTES, HYDRATE_BYTES_MAX, incompressible, send
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.mount, pytest.mark.needs(Capability.MEMFS_XATTRS)]

SIZE = 4096
LARGE = HYDRATE_BYTES_MAX + FRAME_BYTES


def _trace(mount: Mount, *arguments: str | Path) -> dict[str, Any]:
    """Run `memfs trace` and return its report."""
    report: dict[str, Any] = json.loads(run_memfs("trace", *arguments, mount.root, "--json"))
    return report


def _rows(trace: Path, place: Path, mount: Mount) -> list[tuple[str, str, int, str]]:
    """Operation, name, bytes and tier of the files of a test."""
    prefix = f"/{place.relative_to(mount.root)}/"
    return [
        (row["operation"], row["path"].removeprefix(prefix), row["bytes"], row["tier"])
        for row in pq.read_table(trace).to_pylist()
        if row["path"] is not None and row["path"].startswith(prefix)
    ]


def test_what_programs_do_is_recorded(place: Path, mount: Mount, tmp_path: Path) -> None:
    small, large = place / "small", place / "large"
    large.write_bytes(incompressible(LARGE))
    send("glacier", large)
    assert _trace(mount, "start", tmp_path / "trace")["recording"]
    small.write_bytes(bytes(SIZE))
    assert small.read_bytes() == bytes(SIZE)
    send("glacier", small)
    assert small.read_bytes() == bytes(SIZE)
    with large.open("rb", buffering=0) as file:
        # What was written may still be in the page cache of a driver without passthrough.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read(10)
    assert _trace(mount, "stop")["row_count"] > 0
    rows = _rows(tmp_path / "trace", place, mount)
    assert ("create", "small", 0, "cold") in rows
    assert ("write", "small", SIZE, "cold") in rows
    assert ("open", "small", SIZE, "glacier") in rows
    assert ("hydrate", "small", SIZE, "glacier") in rows
    assert ("open", "large", LARGE, "glacier") in rows
    assert any(row[0] == "read" and row[1] == "large" for row in rows)
    answer = json.loads(
        run_memfs("what-if", "--trace", tmp_path / "trace", "--warm", "50%", "--json")
    )
    assert answer["file_count"] >= 2


def test_a_removed_file_is_recorded_by_its_inode(place: Path, mount: Mount, tmp_path: Path) -> None:
    """Its path is gone by the time that rows are written."""
    path = place / "file"
    path.write_bytes(bytes(SIZE))
    ino = path.stat().st_ino
    _trace(mount, "start", tmp_path / "trace")
    path.unlink()
    _trace(mount, "stop")
    rows = pq.read_table(tmp_path / "trace").to_pylist()
    [found] = [row for row in rows if row["inode"] == ino and row["operation"] == "unlink"]
    assert (found["path"], found["bytes"]) == (None, SIZE)


def test_rows_reach_the_disk_before_the_end_of_the_trace(
    place: Path, mount: Mount, tmp_path: Path
) -> None:
    _trace(mount, "start", tmp_path / "trace")
    try:
        (place / "file").write_bytes(bytes(SIZE))
        wait_for(lambda: _trace(mount, "status")["row_count"] > 0, "rows on the disk")
        assert pq.read_table(tmp_path / "trace").num_rows > 0
    finally:
        _trace(mount, "stop")


def test_a_trace_is_never_written_into_its_own_mount(place: Path, mount: Mount) -> None:
    with pytest.raises(MountError, match="lies in the mount that is to be recorded"):
        _trace(mount, "start", place / "trace")
