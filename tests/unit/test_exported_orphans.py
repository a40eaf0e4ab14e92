"""Objects that only exports of before a take-over name: no orphans as long as these can be used."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from memfs.encryption.keys import NO_KEYS
from memfs.errors import EncryptionKeyError
from memfs.exports.importing import list_exports, take_over
from memfs.jobs.gc import GcMethods
from memfs.jobs.orphans import AGE_S_MIN, Orphans, OrphanSearch, SearchPlace
from memfs.moves.batching import upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.uploading import upload
from memfs.policy.marks import STORE_XATTR
from memfs.stores.directory import DirectoryStore
from memfs.types import ROOT_INODE
from tests.moving import State, compressible
from tests.unit.test_export_places import CONFIG
from tests.unit.test_exports import KEYS, World, bring, mounted

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.encryption.keys import KeyRing

PLACES = ("blobs/", "batches/", "archive:blobs/", "archive:batches/")
LOST = "blobs/01/1-1-0123456789abcdef"


async def prepare(root: Path, keys: KeyRing = NO_KEYS) -> None:
    """Have two exports, of which the first alone names a file of each store; then lose the state.

    And the store has an object that nothing has ever named.
    """
    async with mounted(World(root, keys=keys, config=CONFIG)) as world:
        state = world.state
        alone, archived, *small = [
            await state.create(name, compressible(5000, number))
            for number, name in enumerate(("alone", "archived", "small-0", "small-1"))
        ]
        async with state.engine.change():
            await state.engine.set_xattr(archived, STORE_XATTR, b"archive", 0, 1)
        for ino in (alone, archived):
            await upload(state.parts, ino)
        await upload_batch(state.parts, small)
        for ino in (alone, archived, *small):
            await drop_raw(state.parts, ino)
        state.engine.commit_nowait()
        await world.exporter.export()
        for name in ("alone", "archived", "small-0", "small-1"):
            await state.unlink(name)
        await state.create("left", b"")
        await world.exporter.export()
    shutil.rmtree(root / "state")
    for store in ("store", "store-archive"):
        path = root / store / LOST
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"lost")
    await bring(root, keys=keys)
    state = State(root / "new", CONFIG, keys=keys)
    try:
        stores = {
            name: DirectoryStore(root / (f"store-{name}" if name else "store"), 30.0, 4)
            for name in ("", "archive")
        }
        await take_over(state.engine, stores, state.packed_store.temporary_path)
    finally:
        state.close()


async def look_at(world: World, *, take: bool = False) -> dict[str, Orphans]:
    search = OrphanSearch(
        world.state.parts, world.exporter.stored, clock=lambda: time.time() + 2 * AGE_S_MIN
    )
    return {place: await search.look(SearchPlace.REMOTE, place, take=take) for place in PLACES}


@pytest.mark.parametrize("keys", [NO_KEYS, KEYS], ids=["clear", "encrypted"])
async def test_what_an_older_export_names_is_no_orphan_before_that_is_gone(
    tmp_path: Path, keys: KeyRing
) -> None:
    await prepare(tmp_path, keys)
    async with mounted(World(tmp_path, "new", keys=keys, config=CONFIG)) as world:
        found = await look_at(world, take=True)
        assert {place: each.names for place, each in found.items()} == {
            "blobs/": [LOST],
            "batches/": [],
            "archive:blobs/": [f"archive:{LOST}"],
            "archive:batches/": [],
        }
        assert [each.held_count for each in found.values()] == [1, 1, 1, 0]
        # Nor does the removal for good take what an earlier version has noted.
        old = str((await list_exports(world.store))[1])
        [named] = [
            path for path in (tmp_path / "store/blobs").rglob("*-*") if LOST not in str(path)
        ]
        key = str(named.relative_to(tmp_path / "store"))
        world.state.parts.lost_found.note_objects([(key, 1)])
        methods = GcMethods(world.state.parts, world.state.garbage, None, world.exporter.stored)  # type: ignore[arg-type]  # not asked
        await methods.lost_found(clear=True)
        assert named.is_file()
        assert not (tmp_path / "store" / LOST).exists()
        # The older export brings all of it back.
    chosen = await bring(tmp_path, "older", keys=keys, at=old)
    assert chosen.imported.missing_count == 0
    async with mounted(World(tmp_path, "older", keys=keys, config=CONFIG)) as world:
        for number, name in enumerate((b"alone", b"archived", b"small-0", b"small-1")):
            ino = (await world.state.engine.lookup(ROOT_INODE, name)).ino
            assert await world.state.content(ino) == compressible(5000, number)
    async with mounted(World(tmp_path, "new", keys=keys, config=CONFIG)) as world:
        for number in range(3):
            await world.state.create(f"more-{number}", b"")
            await world.exporter.export()
        found = await look_at(world)
        assert [each.count for each in found.values()] == [1, 1, 1, 0]
        assert [each.held_count for each in found.values()] == [0, 0, 0, 0]


async def test_nothing_is_told_where_it_is_not_known_what_an_export_names(tmp_path: Path) -> None:
    """Its key is not configured; and one that has lost a part names what is left of it."""
    await prepare(tmp_path, KEYS)
    async with mounted(World(tmp_path, "new", config=CONFIG)) as world:
        with pytest.raises(EncryptionKeyError):
            await look_at(world)
    async with mounted(World(tmp_path, "new", keys=KEYS, config=CONFIG)) as world:
        for path in (tmp_path / "store/meta").rglob("parts/*"):
            path.unlink()
        found = await look_at(world)
        assert [each.count for each in found.values()] == [2, 1, 2, 0]
