"""Room for files that are fetched: only what is needed leaves, whatever bounds the disk tier."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memfs.config import ColdConfig
from memfs.moves.uploading import upload
from memfs.placement.prefetch.done_files import DoneFiles
from memfs.placement.prefetch.fetcher import Fetcher
from memfs.types import FormKind
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from pathlib import Path

FILE_COUNT = 10
FILE_BYTES = 16384
DISK_BYTES = 200_000


class _Disk(NamedTuple):
    """What statvfs(3) tells of a small disk."""

    f_bavail: int
    f_blocks: int = DISK_BYTES // 512
    f_frsize: int = 512
    f_files: int = 0
    """It counts no inodes."""
    f_favail: int = 0


@pytest.mark.parametrize("configured", [False, True], ids=["the disk", "cold.size"])
async def test_only_as_many_done_files_leave_as_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    """A raw file that was detached takes room on the disk until it is removed."""
    cold = ColdConfig(size_bytes=DISK_BYTES * 9 // 10 if configured else None)
    state = State(tmp_path / "state", replace(SMALL_FRAMES, cold=cold))

    def statvfs(_path: object) -> _Disk:
        files = [path for path in (state.state_dir / "raw").rglob("*") if path.is_file()]
        taken_bytes = sum(path.stat().st_blocks * 512 for path in files)
        # A disk that is larger than what is configured never bounds the tier.
        free_bytes = (5 if configured else 1) * DISK_BYTES - taken_bytes
        return _Disk(free_bytes // 512)

    monkeypatch.setattr(os, "statvfs", statvfs)
    placement = state.placement()
    done = DoneFiles(placement)
    inos = []
    for number in range(FILE_COUNT):
        ino = await state.create(f"{number}", compressible(FILE_BYTES, number))
        await upload(state.parts, ino)
        inos.append(ino)
    done.add(inos)
    fetcher = Fetcher(placement, done)
    await fetcher._check_room(2 * FILE_BYTES)
    gone = [ino for ino in inos if FormKind.RAW not in await state.forms(ino)]
    state.close()
    assert gone == inos[: len(gone)]
    assert len(gone) == 3
