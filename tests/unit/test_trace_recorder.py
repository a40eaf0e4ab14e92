"""The recorder: rows on the disk, bounds, and the ends that a trace can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from memfs.errors import AlreadyExistsError, InvalidValueError, NotFoundError
from memfs.traces.access_log import FLUSH_ROW_COUNT, AccessLog, Operation
from memfs.traces.parquet import PartWriter, list_parts
from memfs.traces.recorder import Recorder
from memfs.types import InodeNo, Tier

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED = 1 << 40
GONE = InodeNo(99)


async def _get_path(ino: InodeNo) -> bytes:
    if ino == GONE:
        raise NotFoundError("gone")
    return b"/caf\xe9/%d" % ino


class Site:
    """A recorder and the log that it empties."""

    def __init__(self, size_bytes_max: int = UNLIMITED, log: AccessLog | None = None) -> None:
        self.log = log or AccessLog()
        self.recorder = Recorder(self.log, _get_path, size_bytes_max)

    def note(self, count: int = 1, ino: int = 7) -> None:
        for _ in range(count):
            self.log.note(Operation.OPEN, InodeNo(ino), 4096, Tier.WARM)


async def test_a_trace_has_the_documented_columns(tmp_path: Path) -> None:
    site = Site()
    directory = tmp_path / "new" / "trace"
    await site.recorder.start(directory, paths=True)
    site.note()
    site.log.note(Operation.UNLINK, GONE, 5, Tier.COLD)
    report = await site.recorder.stop()
    rows = pq.read_table(directory).to_pylist()
    assert all(row.pop("time") > 1_600_000_000 * 10**9 for row in rows)
    assert rows == [
        {"inode": 7, "path": r"/caf\xe9/7", "operation": "open", "bytes": 4096, "tier": "warm"},
        {"inode": 99, "path": None, "operation": "unlink", "bytes": 5, "tier": "cold"},
    ]
    assert (report.recording, report.row_count, report.reason) == (False, 2, None)
    assert report.size_bytes == sum(part.stat().st_size for part in directory.iterdir())


async def test_paths_are_left_out_when_nobody_wants_them(tmp_path: Path) -> None:
    site = Site()
    await site.recorder.start(tmp_path, paths=False)
    site.note()
    await site.recorder.stop()
    assert pq.read_table(tmp_path).column("path").to_pylist() == [None]


async def test_what_was_written_once_is_there_without_an_end(tmp_path: Path) -> None:
    """As after SIGKILL: no footer is due that only the end of the trace would write."""
    site = Site()
    await site.recorder.start(tmp_path, paths=True)
    site.note(3)
    await site.recorder.write_gathered()
    site.note(2)
    await site.recorder.write_gathered()
    assert pq.read_table(tmp_path).num_rows == 5
    assert len(list_parts(tmp_path)) == 1


async def test_half_a_part_is_passed_over_and_the_trace_goes_on(tmp_path: Path) -> None:
    site = Site()
    await site.recorder.start(tmp_path, paths=False)
    site.note(3)
    await site.recorder.stop()
    (tmp_path / ".part-000002.parquet.new").write_bytes(b"PAR1 half")
    await site.recorder.start(tmp_path, paths=False)
    site.note(4)
    await site.recorder.stop()
    assert [part.name for part in list_parts(tmp_path)] == [
        "part-000001.parquet",
        "part-000002.parquet",
    ]
    assert pq.read_table(tmp_path).num_rows == 7


def test_a_full_part_is_followed_by_another(tmp_path: Path) -> None:
    site = Site()
    writer = PartWriter(tmp_path, UNLIMITED, part_row_count=10)
    for _ in range(3):
        site.note(6)
        writer.append(site.log.take(), {})
    assert [pq.read_table(part).num_rows for part in list_parts(tmp_path)] == [12, 6]


async def test_the_oldest_parts_make_room(tmp_path: Path) -> None:
    site = Site(size_bytes_max=1)
    for ino in (1, 2, 3):
        await site.recorder.start(tmp_path, paths=False)
        site.note(ino=ino)
        await site.recorder.stop()
    assert pq.read_table(tmp_path).column("inode").to_pylist() == [3]
    assert site.recorder.report().removed_count == 1


async def test_rows_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    site = Site(log=AccessLog(row_count_max=5))
    await site.recorder.start(tmp_path, paths=False)
    site.note(8)
    report = await site.recorder.stop()
    assert (report.row_count, report.dropped_count) == (5, 3)


async def test_a_trace_that_cannot_be_written_ends_with_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    directory = tmp_path / "trace"
    await site.recorder.start(directory, paths=False)
    site.note()
    directory.rmdir()
    await site.recorder.write_gathered()
    report = site.recorder.report()
    assert not report.recording
    assert report.reason is not None
    assert "cannot be written: " in report.reason
    assert not site.log.active
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()


async def test_there_is_one_trace_at_a_time(tmp_path: Path) -> None:
    site = Site()
    with pytest.raises(NotFoundError, match="no trace is being recorded"):
        await site.recorder.stop()
    await site.recorder.start(tmp_path, paths=False)
    with pytest.raises(AlreadyExistsError, match="is being recorded into"):
        await site.recorder.start(tmp_path / "other", paths=False)
    assert not (tmp_path / "other").exists()


def test_other_files_are_never_mixed_with_a_trace(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidValueError, match=r"'thesis\.tex', which is no part of a trace"):
        PartWriter(tmp_path, UNLIMITED)


async def test_many_rows_are_written_before_the_interval() -> None:
    """Without it a busy mount would lose rows."""
    log = AccessLog()
    for _ in range(FLUSH_ROW_COUNT + 1):
        log.note(Operation.OPEN, InodeNo(1), 1, Tier.WARM)
    await log.wait(timeout_s=1e9)
