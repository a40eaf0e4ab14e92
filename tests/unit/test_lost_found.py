"""Lost and found: what has no record is kept under another name, until somebody empties it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.errors import MetadataError
from memfs.jobs.gc import GcMethods
from memfs.jobs.orphans import OrphanSearch, SearchPlace
from memfs.moves.recovery import Sweep
from memfs.placement.upkeep import Compaction
from memfs.stores.lost_found import LostFound
from memfs.types import RawId
from tests.moving import State, compressible

if TYPE_CHECKING:
    from pathlib import Path


def test_files_keep_their_bytes_and_never_replace_one_another(tmp_path: Path) -> None:
    lost = LostFound(tmp_path)
    path = tmp_path / "raw" / "0" / "1a"
    path.parent.mkdir(parents=True)
    for content in (b"first", b"second", b"third"):
        path.write_bytes(content)
        assert lost.take([path, tmp_path / "raw" / "0" / "gone"]) == 1
        assert not path.exists()
    assert lost.names() == ["raw-1a", "raw-1a.1", "raw-1a.2"]
    kept = sorted((lost.root / name).read_bytes() for name in lost.names())
    assert kept == [b"first", b"second", b"third"]
    assert (lost.usage().count, lost.usage().object_count) == (3, 0)


def test_a_move_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    """Between its two steps the file has both names."""
    lost = LostFound(tmp_path)
    path = tmp_path / "raw" / "1"
    path.parent.mkdir()
    path.write_bytes(b"x")
    lost.root.mkdir()
    os.link(path, lost.root / "raw-1")
    assert lost.take([path]) == 1
    assert lost.names() == ["raw-1"]


def test_keys_of_objects_are_kept_once(tmp_path: Path) -> None:
    lost = LostFound(tmp_path)
    lost.note_objects([("blobs/1", 5), ("blobs/2", 6)])
    lost.note_objects([("blobs/2", 6), ("blobs/3", 7)])
    assert lost.objects() == [("blobs/1", 5), ("blobs/2", 6), ("blobs/3", 7)]
    assert lost.usage().object_count == 3


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """At the root of a file system the directory is that of e2fsck(8)."""
    lost = LostFound(tmp_path)
    lost.note_objects([("blobs/1", 5)])
    foreign = lost.root / "#12"
    foreign.write_bytes(b"x")
    assert lost.names() == []
    lost.clear()
    assert foreign.exists()
    assert lost.objects() == []


async def test_the_sweep_removes_only_what_is_empty(tmp_path: Path) -> None:
    """A raw file with bytes lost its record; the bytes may be all that is left of a file."""
    before = State(tmp_path / "before")
    _, empty = before.engine.reserve_ids()
    os.close(before.raw_store.create(empty))
    _, full = before.engine.reserve_ids()
    fd = before.raw_store.create(full)
    os.write(fd, b"precious")
    os.close(fd)
    _, hollow = before.engine.reserve_ids()
    fd = before.raw_store.create(hollow)
    os.ftruncate(fd, 4096)
    os.close(fd)
    kept = await before.create("kept", b"kept")
    before.engine.commit_nowait()
    # As a kill leaves it: nothing is closed.
    state_dir = tmp_path / "state"
    shutil.copytree(before.state_dir, state_dir)
    before.close()
    state = State(state_dir)
    sweep = Sweep(state.parts)
    while not sweep.done:
        await sweep.sweep_slice()
    assert [state.raw_store.path(raw).exists() for raw in (empty, full, hollow)] == [False] * 3
    assert state.parts.lost_found.names() == sorted([f"raw-{full:x}", f"raw-{hollow:x}"])
    assert (state.parts.lost_found.root / f"raw-{full:x}").read_bytes() == b"precious"
    assert await state.content(kept) == b"kept"
    state.close()


async def test_lost_found_is_not_emptied_while_a_repair_is_due(tmp_path: Path) -> None:
    earlier = State(tmp_path / "state")
    earlier.close()
    state = State(tmp_path / "state")
    await state.create("a", compressible(20_000))
    orphan = state.raw_store.path(RawId(3))
    os.close(state.raw_store.create(RawId(3)))
    assert (await OrphanSearch(state.parts).look(SearchPlace.RAW, take=True)).taken_count == 1
    gc = GcMethods(state.parts, state.garbage, Compaction(state.parts, None))  # type: ignore[arg-type]  # it compacts nothing here
    state.engine._totals[1] += 5
    with pytest.raises(MetadataError, match="while a repair is due"):
        await gc.lost_found(clear=True)
    assert state.parts.lost_found.names() == ["raw-3"]
    state.engine._totals[1] -= 5
    answer = await gc.lost_found(clear=True)
    assert isinstance(answer, dict)
    assert answer["removed_count"] == 1
    assert state.parts.lost_found.names() == []
    assert not orphan.exists()
    state.close()
