"""What snapshots hold, each alone and together: what the deletion of one of them frees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.jobs.snapshot_removal import SnapshotRemoval
from memfs.jobs.snapshots import SnapshotMethods
from memfs.moves.dropping import drop_raw
from memfs.moves.open_files import OpenFiles
from memfs.moves.packing import pack
from memfs.moves.uploading import upload
from tests.moving import State, compressible
from tests.past import clone

if TYPE_CHECKING:
    from memfs.control.methods.snapshots import HeldBytesReport, SnapshotSizesReport
    from memfs.types import InodeNo

NOTHING: HeldBytesReport = {"local_bytes": 0, "remote_bytes": 0}


async def snapshot(state: State, name: str) -> None:
    async with state.engine.change():
        await state.engine.create_snapshot(name, 1)


async def make(state: State, name: str, seed: int) -> InodeNo:
    """Return a file that has a packed and a remote form."""
    ino = await state.create(name, compressible(9000, seed))
    await pack(state.parts, ino)
    await upload(state.parts, ino)
    await drop_raw(state.parts, ino)
    return ino


async def sizes(state: State) -> SnapshotSizesReport:
    parts = state.parts
    methods = SnapshotMethods(parts, SnapshotRemoval(parts.engine), OpenFiles(parts))
    return await methods.sizes()


async def stored(state: State) -> HeldBytesReport:
    """Return all bytes that the engine accounts for."""
    usage = await state.engine.usage()
    return {
        "local_bytes": usage.raw_bytes + usage.packed_bytes,
        "remote_bytes": usage.remote_bytes,
    }


async def delete(state: State, name: str) -> HeldBytesReport:
    """Delete a snapshot with all that it kept; return what that has freed."""
    before = await stored(state)
    async with state.engine.change():
        await state.engine.delete_snapshot((await state.engine.get_snapshot(name)).snap)
        while await state.engine.delete_snapshot_step(10):
            pass
    after = await stored(state)
    return {
        "local_bytes": before["local_bytes"] - after["local_bytes"],
        "remote_bytes": before["remote_bytes"] - after["remote_bytes"],
    }


async def test_deletion_frees_what_a_snapshot_holds_alone(state: State) -> None:
    """Raw files, forms, and blobs of clones; and what two of them show goes with the last one."""
    await state.create("raw", compressible(9000, 1))
    ino = await make(state, "twice", 2)
    await make(state, "both", 3)
    shared = await make(state, "shared", 4)
    await snapshot(state, "first")
    await state.unlink("raw")
    await state.rewrite(ino, compressible(7000, 5))
    await clone(state, shared, "clone")
    await state.unlink("shared")
    await snapshot(state, "second")
    for name in ("twice", "both", "clone"):
        await state.unlink(name)
    told = await sizes(state)
    assert [told["alone"][name]["remote_bytes"] > 0 for name in ("first", "second")] == [
        True,
        False,
    ]
    assert told["shared"]["remote_bytes"] > 0
    assert await delete(state, "first") == told["alone"]["first"]
    second = await sizes(state)
    assert second["shared"] == NOTHING
    left = await stored(state)
    assert await delete(state, "second") == second["alone"]["second"] == left
    assert await sizes(state) == {"alone": {}, "shared": NOTHING}


async def test_what_a_file_has_is_held_by_no_snapshot(state: State) -> None:
    ino = await make(state, "a", 1)
    await clone(state, ino, "b")
    await snapshot(state, "only")
    await state.unlink("a")
    assert (await sizes(state))["alone"] == {"only": NOTHING}
    await state.unlink("b")
    assert (await sizes(state))["alone"] == {"only": await stored(state)}
    assert await delete(state, "only") != NOTHING


async def test_a_snapshot_between_two_others_may_hold_nothing_alone(state: State) -> None:
    await state.create("a", compressible(9000, 1))
    for name in ("first", "second", "third"):
        await snapshot(state, name)
    await state.unlink("a")
    told = await sizes(state)
    assert told["alone"] == dict.fromkeys(("first", "second", "third"), NOTHING)
    assert told["shared"] == await stored(state)
    for name in ("first", "third"):
        assert await delete(state, name) == NOTHING
    assert (await sizes(state))["alone"] == {"second": told["shared"]}
