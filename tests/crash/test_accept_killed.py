"""SIGKILL while changed raw files are accepted: each file is accepted, or as it was."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.fsck.accept import Change, accept_changes, find_change
from memfs.metadata.records import InodeFlags
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.moves.faults import ACCEPT_POINTS, FaultPoints
from memfs.moves.packing import pack
from memfs.stores.raw import RawStore
from tests.crash.moves_scenario import KillAt
from tests.moving import State, compressible
from tests.processes import outlived

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = compressible(30_000)
EDITED = b"edited"


async def make(state_dir: Path) -> None:
    state = State(state_dir)
    for name in ("f", "g"):
        ino = await state.create(name, CONTENT)
        await pack(state.parts, ino)
        state.raw_store.path((await state.engine.get_inode(ino)).raw).write_bytes(EDITED)
    state.close()


async def look(state_dir: Path) -> list[Change]:
    engine, raw_store = SqliteEngine.open(state_dir, MetadataConfig()), RawStore(state_dir)
    try:
        found = [await find_change(engine, raw_store, name) for name in ("f", "g")]
        for change in found:
            inode = await engine.get_inode(change.ino)
            forms = await engine.list_forms(inode.blob) if inode.blob else []
            assert raw_store.path(inode.raw).read_bytes() == EDITED
            if change.differs:
                assert (inode.size, len(forms)) == (len(CONTENT), 1)
            else:
                assert inode.flags == InodeFlags.UNSEALED
        return [change for change in found if change.differs]
    finally:
        raw_store.close()
        engine.close()


async def accept(state_dir: Path, changes: list[Change], faults: FaultPoints) -> None:
    engine = SqliteEngine.open(state_dir, MetadataConfig())
    try:
        await accept_changes(engine, changes, faults)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("point", "occurrence", "left_count"),
    [(ACCEPT_POINTS[0], 1, 1), (ACCEPT_POINTS[0], 2, 0), (ACCEPT_POINTS[1], 1, 0)],
)
def test_a_kill_leaves_each_file_accepted_or_as_it_was(
    tmp_path: Path, point: str, occurrence: int, left_count: int
) -> None:
    state_dir = tmp_path / "state"
    trio.run(make, state_dir)
    changes = trio.run(look, state_dir)
    assert len(changes) == 2
    faults = KillAt(point, occurrence)
    ended = outlived(lambda: trio.run(accept, state_dir, changes, faults))
    assert ended == signal.SIGKILL
    left = trio.run(look, state_dir)
    assert len(left) == left_count
    trio.run(accept, state_dir, left, FaultPoints())
    assert trio.run(look, state_dir) == []
