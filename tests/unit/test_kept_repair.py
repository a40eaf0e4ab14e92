"""What snapshots keep: its accounts are counted again, and a repair leaves its bytes in place."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from memfs.config import MetadataConfig
from memfs.fsck.check import check
from memfs.fsck.repair import repair
from memfs.metadata.sqlite.opening import FILE_NAME
from memfs.moves.dropping import drop_raw
from memfs.moves.packing import pack
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from tests.moving import State, compressible
from tests.past import past

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.fsck.repair import Repaired
    from memfs.types import InodeNo, SnapshotId

PAST = {"raw": compressible(9000, 1), "packed": compressible(9000, 2)}


async def make(state_dir: Path) -> tuple[SnapshotId, dict[str, InodeNo]]:
    """Leave a state in which only a snapshot shows a raw file, and a packed one."""
    state = State(state_dir)
    inos = {name: await state.create(name, content) for name, content in PAST.items()}
    await pack(state.parts, inos["packed"])
    await drop_raw(state.parts, inos["packed"])
    async with state.engine.change():
        made = await state.engine.create_snapshot("before", 1)
    for name in PAST:
        await state.unlink(name)
    while await state.garbage.collect(10):
        pass
    state.close()
    return made.snap, inos


async def mend(state_dir: Path) -> Repaired:
    raw_store = RawStore(state_dir)
    try:
        stores = (raw_store, PackedStore(state_dir), LostFound(state_dir))
        return await repair(state_dir, MetadataConfig(), *stores, time.time_ns())
    finally:
        raw_store.close()


async def faults(state_dir: Path) -> list[str]:
    """Return what `memfs fsck --verify` says."""
    state = State(state_dir)
    stores = (state.raw_store, state.packed_store, state.remote)
    report = await check(state.engine, *stores, verify=True)
    state.close()
    return [problem.fault for problem in report.problems]


async def test_a_repair_leaves_what_snapshots_show_where_it_is(tmp_path: Path) -> None:
    """It went to lost+found, as what nobody names, and the snapshots could not be read."""
    snap, inos = await make(tmp_path / "state")
    repaired = await mend(tmp_path / "state")
    assert (repaired.moved, repaired.lost) == ([], [])
    state = State(tmp_path / "state")
    for name, ino in inos.items():
        assert await past(state, snap, ino) == PAST[name]
    state.close()
    assert await faults(tmp_path / "state") == []


async def test_a_repair_tells_which_bytes_of_a_snapshot_are_lost(tmp_path: Path) -> None:
    _, inos = await make(tmp_path / "state")
    state = State(tmp_path / "state")
    [kept] = await state.engine.list_kept((inos["raw"], 0), 1)  # type: ignore[arg-type]
    state.raw_store.unlink(kept.raw)
    state.close()
    repaired = await mend(tmp_path / "state")
    assert repaired.lost == [f"generation 1 of inode {inos['raw']}, as snapshots show it"]


@pytest.mark.parametrize("column", ["raw_count", "raw_bytes"])
async def test_accounts_of_kept_bytes_are_mended(tmp_path: Path, column: str) -> None:
    await make(tmp_path / "state")
    state = State(tmp_path / "state")
    usage = (await state.engine.usage())._asdict()
    assert usage[column] > 0, "only a snapshot has it"
    state.close()
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as connection:
        connection.execute(f"update state set {column} = {column} + 7")
    connection.close()
    # A defect wrote that, not a disk: the sums are those of what was written.
    (tmp_path / "state" / "metadata.sums").unlink()
    drifted = f"{column} is kept as {usage[column] + 7}, but counts {usage[column]}"
    assert await faults(tmp_path / "state") == [drifted]
    await mend(tmp_path / "state")
    assert await faults(tmp_path / "state") == []
    state = State(tmp_path / "state")
    assert (await state.engine.usage())._asdict() == usage
    assert await state.engine.snapshot_usage() == await state.engine.recount_snapshots()
    state.close()
