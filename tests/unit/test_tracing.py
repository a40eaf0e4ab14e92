"""The trace that the configuration asks for: it begins and ends with the mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from memfs.config import TraceConfig
from memfs.errors import UsageError
from memfs.traces.access_log import AccessLog, Operation
from memfs.traces.recorder import Recorder
from memfs.types import InodeNo, Tier
from memfs_daemon.tracing import Tracing

if TYPE_CHECKING:
    from pathlib import Path


async def _get_path(ino: InodeNo) -> bytes:
    return b"/%d" % ino


def _tracing(log: AccessLog, mountpoint: Path, path: Path | None) -> Tracing:
    config = TraceConfig(path=None if path is None else str(path))
    return Tracing(Recorder(log, _get_path, config.size_bytes_max), mountpoint, config)


async def test_a_configured_trace_lasts_as_long_as_the_mount(tmp_path: Path) -> None:
    log = AccessLog()
    tracing = _tracing(log, tmp_path / "mount", tmp_path / "trace")
    await tracing.begin()
    log.note(Operation.OPEN, InodeNo(2), 1, Tier.COLD)
    await tracing.end()
    assert pq.read_table(tmp_path / "trace").column("path").to_pylist() == ["/2"]


async def test_without_a_configured_path_nothing_is_recorded(tmp_path: Path) -> None:
    log = AccessLog()
    tracing = _tracing(log, tmp_path, None)
    await tracing.begin()
    assert not log.active
    await tracing.end()


@pytest.mark.parametrize("name", ["mount/trace", "file"])
async def test_a_path_that_cannot_be_used_refuses_the_mount(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    tracing = _tracing(AccessLog(), tmp_path / "mount", tmp_path / name)
    with pytest.raises(UsageError, match=r"^trace\.path = "):
        await tracing.begin()
