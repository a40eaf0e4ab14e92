"""Orphans and compaction on a real engine and real stores: what nobody needs goes, nothing else."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from memfs.errors import InvalidValueError, StoreError
from memfs.jobs.orphans import AGE_S_MIN, SHARED_AGE_S_MIN, OrphanSearch, SearchPlace
from memfs.metadata.records import MoveKind
from memfs.moves.batching import upload_batch
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from memfs.stores.forwarding import ForwardingStore
from memfs.stores.store import ObjectStat
from memfs.types import FormKind, RawId
from tests.moving import State, compressible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CONTENT = compressible(20_000)
LATER_S = 2 * AGE_S_MIN


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    # Raw files of the process that searches are never orphans: this is one that came before.
    earlier = State(tmp_path / "state")
    earlier.close()
    state = State(tmp_path / "state")
    yield state
    state.close()


def search(state: State, later_s: float = LATER_S) -> OrphanSearch:
    return OrphanSearch(state.parts, clock=lambda: time.time() + later_s)


async def names(state: State, place: SearchPlace, prefix: str = "") -> list[str]:
    return (await search(state).look(place, prefix)).names


def put(state: State, key: str) -> None:
    path = state.objects_dir / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"object")


async def test_what_files_need_is_no_orphan(state: State) -> None:
    """In any form, alone or in a batch, nor is garbage."""
    inos = [await state.create(f"{number}", compressible(20_000, number)) for number in range(6)]
    await pack(state.parts, inos[0])
    await upload(state.parts, inos[1])
    await upload_batch(state.parts, inos[2:4])
    await upload(state.parts, inos[4])
    await state.unlink("4")
    for place in (SearchPlace.RAW, SearchPlace.PACKED, SearchPlace.TEMPORARY):
        assert await names(state, place) == []
    for prefix in ("blobs/", "batches/"):
        assert await names(state, SearchPlace.REMOTE, prefix) == []


async def test_what_a_move_is_writing_is_no_orphan(state: State) -> None:
    """Its intent comes before the first byte."""
    ino = await state.create("a", CONTENT)
    key = "blobs/01/1-1-0123456789abcdef"
    put(state, key)
    assert await names(state, SearchPlace.REMOTE, "blobs/0") == [key]
    generation = (await state.engine.get_inode(ino)).generation
    await state.engine.begin_intent(MoveKind.UPLOAD, ino, generation, key, time.time_ns())
    assert await names(state, SearchPlace.REMOTE, "blobs/0") == []


async def test_local_files_that_nobody_names_go_to_lost_found_on_request(state: State) -> None:
    """Those of memfs's own names: others are fsck's to report."""
    kept = await state.create("a", CONTENT)
    await pack(state.parts, kept)
    os.close(state.raw_store.create(RawId(3)))
    packed = state.packed_store.path((await state.form(kept, FormKind.PACKED)).place.key)
    orphan = packed.with_name(f"{0xABC:x}")
    orphan.write_bytes(b"x")
    stray = packed.with_name("README")
    stray.write_bytes(b"x")
    left_over = state.state_dir / "tmp" / "upload-7-1-0"
    left_over.write_bytes(b"x")
    mine = state.packed_store.temporary_path("upload-8")
    mine.write_bytes(b"x")
    expected = {
        SearchPlace.RAW: state.raw_store.path(RawId(3)),
        SearchPlace.PACKED: orphan,
        SearchPlace.TEMPORARY: left_over,
    }
    for place, path in expected.items():
        assert (await search(state).look(place)).names == [str(path)]
        assert path.exists()
        assert (await search(state).look(place, take=True)).taken_count == 1
        assert not path.exists()
        assert (state.state_dir / "lost+found" / f"{place}-{path.name}").exists()
        assert (await search(state).look(place)).count == 0
    assert stray.exists()
    assert mine.exists()
    assert await state.content(kept) == CONTENT


async def test_raw_files_of_this_process_are_not_looked_at(state: State) -> None:
    """They stand ready before an inode has them."""
    _, raw = state.engine.reserve_ids()
    os.close(state.raw_store.create(raw))
    assert (await search(state).look(SearchPlace.RAW, take=True)).count == 0
    assert state.raw_store.stat(raw).st_size == 0


async def test_old_objects_that_nobody_names_are_noted_on_request(state: State) -> None:
    """Young ones, those of others, and what is not of memfs's layout stay."""
    ino = await state.create("a", CONTENT)
    await upload(state.parts, ino)
    number = int(state.engine.reserve_blob())
    orphan = f"blobs/00/{number:x}-1-0123456789abcdef"
    batch = "batches/0a/0123456789abcdef012345"
    foreign = f"blobs/00/{number + 1000:x}-1-0123456789abcdef"
    strange = "blobs/00/notes.txt"
    for key in (orphan, batch, foreign, strange):
        put(state, key)
    young = await search(state, 0.0).look(SearchPlace.REMOTE, "blobs/", take=True)
    assert (young.count, young.young_count, young.foreign_count) == (0, 1, 1)
    for prefix, key in (("blobs/", orphan), ("batches/0", batch)):
        found = await search(state).look(SearchPlace.REMOTE, prefix, take=True)
        assert (found.names, found.taken_count) == ([key], 1)
    left = {stat.key async for stat in state.remote.list("")}
    assert left == {
        orphan,
        batch,
        foreign,
        strange,
        (await state.form(ino, FormKind.REMOTE)).place.key,
    }
    assert state.parts.lost_found.objects() == [(orphan, 6), (batch, 6)]


async def test_other_prefixes_are_refused(state: State) -> None:
    """Whatever else lies in the bucket is not our business."""
    with pytest.raises(InvalidValueError, match="not one of memfs's keys"):
        await search(state).look(SearchPlace.REMOTE, "backup/")


async def test_unfinished_uploads_are_told_with_their_age_and_ended(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that a move is making, that are young, or that are another state's."""
    ours, batch = "blobs/01/1-1-0123456789abcdef", "batches/01/0123456789abcdef012345"
    foreign = "blobs/ff/ffffffffff-1-0123456789abcdef"
    moving = "blobs/01/1-2-0123456789abcdef"
    inode = await state.engine.get_inode(await state.create("a", CONTENT))
    await state.engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, moving, 1)
    state.engine.commit_nowait()
    uploads = [ours, batch, foreign, moving, "somebody/elses"]
    ended: list[str] = []

    async def list_uploads(_prefix: str) -> list[ObjectStat]:
        return [ObjectStat(key, 0, time.time()) for key in uploads]

    async def abort_uploads(key: str) -> int:
        ended.append(key)
        return 1

    monkeypatch.setattr(state.remote, "list_uploads", list_uploads)
    monkeypatch.setattr(state.remote, "abort_uploads", abort_uploads)
    young = await search(state, 0.0).look(SearchPlace.UPLOADS, take=True)
    assert (young.count, young.young_count, young.foreign_count, ended) == (0, 2, 1, [])
    found = await search(state).look(SearchPlace.UPLOADS)
    assert (found.count, found.taken_count, ended) == (2, 0, [])
    assert found.names[0] == f"unfinished upload of {ours}, 2 h old"
    taken = await search(state).look(SearchPlace.UPLOADS, take=True)
    assert (taken.taken_count, ended) == (2, [ours, batch])


class Breaking(ForwardingStore):
    """A store whose listing breaks off after the first object."""

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        for stat in [stat async for stat in super().list(prefix)][:1]:
            yield stat
        raise StoreError("503 Slow Down")


async def test_a_listing_that_breaks_off_takes_nothing(state: State) -> None:
    for number in range(3):
        put(state, f"blobs/01/1-{number}-0123456789abcdef")
    parts = replace(state.parts, remote=Breaking(state.remote))
    with pytest.raises(StoreError, match="503"):
        await OrphanSearch(parts, clock=lambda: time.time() + LATER_S).look(
            SearchPlace.REMOTE, "blobs/", take=True
        )
    assert [*state.parts.lost_found.objects()] == []
    found = await search(state).look(SearchPlace.REMOTE, "blobs/")
    assert found.count == 3


async def test_on_a_shared_mount_objects_are_left_for_a_day(state: State) -> None:
    key = "blobs/01/1-1-0123456789abcdef"
    put(state, key)
    for hours, count in ((23, 0), (25, 1)):
        later = OrphanSearch(
            state.parts,
            clock=lambda hours=hours: time.time() + hours * 3600,  # type: ignore[misc]
            age_s=SHARED_AGE_S_MIN,
        )
        found = await later.look(SearchPlace.REMOTE, "blobs/")
        assert (found.count, found.young_count) == (count, 1 - count)
