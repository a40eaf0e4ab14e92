"""What is lost of an export is noticed, and the next export has it again."""

from __future__ import annotations

import json
import logging
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from memfs.encryption.keys import Key, KeyRing
from memfs.errors import StoreUnavailableError, UsageError
from memfs.exports.importing import take_over
from memfs.exports.integrity import READ_S
from memfs.jobs.exports import ExportMethods, export_report
from memfs.metadata.namespace import FrozenTree
from memfs.moves.rekeying import rekey
from memfs.moves.uploading import upload
from memfs.placement.resident import POOLS_SETTING
from memfs.stores.directory import DirectoryStore
from memfs.types import ROOT_INODE
from tests.faulty_store import Fault, FaultKind
from tests.moving import State, compressible
from tests.unit.test_exports import (
    KEYS,
    OTHER_KEYS,
    World,
    bring,
    damage,
    fill,
    left_over,
    look,
    mounted,
    objects,
)

if TYPE_CHECKING:
    from pathlib import Path

HOWS = ("drop", "cut", "flip")


async def check_import(root: Path, world: World) -> None:
    """The newest export that is complete is what is there now."""
    chosen = await bring(root)
    assert chosen.passed_over == ()
    state = State(root / "new")
    assert await look(state) == await look(world.state)
    state.close()
    shutil.rmtree(root / "new")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("remounted", [False, True])
@pytest.mark.parametrize("at", range(5))
async def test_each_object_that_is_lost_is_made_again(
    tmp_path: Path, how: str, remounted: bool, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nothing has changed since, and an export would have nothing to say."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
        keys = sorted(objects(tmp_path))
        assert len(keys) == 5
        if not remounted:
            damage(tmp_path / "store" / keys[at], how)
            await export_again(tmp_path, world, keys[at])
    if remounted:
        damage(tmp_path / "store" / keys[at], how)
        async with mounted(World(tmp_path)) as world:
            await export_again(tmp_path, world, keys[at])
    [record] = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert keys[at] in record.getMessage()


async def export_again(root: Path, world: World, key: str) -> None:
    exporter = world.exporter
    [former] = exporter.stored.notes
    await exporter.stored.look()
    assert exporter.stored.notes == []
    [(note, why)] = exporter.stored.lost
    assert note == former
    assert key in why
    report = export_report(exporter)
    assert (report.age_s, report.file_count) == (None, 0)
    assert key in (report.lost or "")
    assert (await ExportMethods(exporter).exports())["lost"] == [
        {"id": exporter.stored.name_of(former), "reason": why}
    ]
    made = await exporter.export()
    assert made.snap != former.snap
    assert [each.snap for each in exporter.stored.notes] == [made.snap]
    assert export_report(exporter).lost is None
    await check_import(root, world)
    # What is whole is not stored again.
    assert (await exporter.export()).snap == made.snap
    assert exporter.progress.stored_count == 0


async def test_only_the_part_that_is_lost_is_stored_again(tmp_path: Path) -> None:
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
        before = objects(tmp_path)
        part = next(key for key in sorted(before) if "/parts/" in key)
        damage(tmp_path / "store" / part, "drop")
        await world.exporter.export()
        assert world.exporter.progress.stored_count == 1
        after = objects(tmp_path)
        kept = {key for key in before if "/parts/" in key} - {part}
        assert kept < after.keys()
        await check_import(tmp_path, world)


async def test_a_loss_that_cannot_be_made_good_is_told(tmp_path: Path) -> None:
    """The age is that of the newest export that is complete, over a new mount too."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        first = await world.exporter.export()
        known = objects(tmp_path).keys()
        await world.state.create("more", b"more")
        await world.exporter.export()
        part = next(key for key in sorted(objects(tmp_path).keys() - known) if "/parts/" in key)
        damage(tmp_path / "store" / part, "flip")
        world.state.faults.add(Fault(FaultKind.UNAVAILABLE, "put_file"))
        with pytest.raises(StoreUnavailableError):
            await world.exporter.export()
        assert [each.snap for each in world.exporter.stored.notes] == [first.snap]
    async with mounted(World(tmp_path)) as world:
        report = export_report(world.exporter)
        assert report.file_count == first.file_count
        assert part in (report.lost or "")
    chosen = await bring(tmp_path)
    assert chosen.export.snap == first.snap
    [told] = chosen.passed_over
    assert part in told


async def test_what_rots_unseen_is_found_within_a_day(tmp_path: Path) -> None:
    """Size and time are as they were."""
    now_s = 0.0
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        world.exporter.stored._integrity._clock = lambda: now_s
        await world.exporter.export()
        await world.exporter.stored.look()
        part = next(key for key in sorted(objects(tmp_path)) if "/parts/" in key)
        path = tmp_path / "store" / part
        times = path.stat()
        damage(path, "flip")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        await world.exporter.stored.look()
        assert world.exporter.stored.lost == []
        now_s = READ_S
        await world.exporter.stored.look()
        assert len(world.exporter.stored.lost) == 1


async def test_a_store_that_does_not_answer_has_lost_nothing(tmp_path: Path) -> None:
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
        for call in ("list", "get_range"):
            world.state.faults.add(Fault(FaultKind.UNAVAILABLE, call))
            with pytest.raises(StoreUnavailableError):
                await world.exporter.stored.look()
            world.state.faults.clear()
        assert world.exporter.stored.lost == []
        assert len(world.exporter.stored.notes) == 1


async def test_complete_exports_stay_beside_those_that_have_lost_something(tmp_path: Path) -> None:
    """Else two that are useless were kept, and the one that is not had gone."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        made = []
        for number in range(2):
            made.append(await world.exporter.export())
            await world.state.create(f"more-{number}", b"more")
        newest = made[1]
        done = next(key for key in objects(tmp_path) if f"{newest.snap:016x}/done" in key)
        damage(tmp_path / "store" / done, "cut")
        made.append(await world.exporter.export())
        assert [each.snap for each in world.exporter.stored.notes] == [made[2].snap, made[0].snap]
        assert [each.snap for each, _ in world.exporter.stored.lost] == [newest.snap]
        await world.state.create("last", b"last")
        made.append(await world.exporter.export())
        assert [each.snap for each in world.exporter.stored.notes] == [made[3].snap, made[2].snap]
        assert world.exporter.stored.lost == []
        # Those of the first one and of the lost one are gone.
        snaps = {f"{each.snap:016x}" for each in made[2:]}
        assert {key.split("/")[2] for key in objects(tmp_path)} == {*snaps, "parts"}


async def test_pools_go_into_an_export(tmp_path: Path) -> None:
    """A pool is all that has changed, and that is enough for a new export."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        first = await world.exporter.export()
        pools = json.dumps({"training": 1 << 20}).encode()
        async with world.state.engine.change():
            await world.state.engine.put_setting(POOLS_SETTING, pools)
        assert (await world.exporter.export()).snap != first.snap
    await bring(tmp_path)
    state = State(tmp_path / "new")
    assert await state.engine.get_setting(POOLS_SETTING) == pools
    state.close()


async def test_frozen_trees_go_into_an_export(tmp_path: Path) -> None:
    """And what is frozen or thawed is enough for a new export."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        engine = world.state.engine
        first = await world.exporter.export()
        await engine.freeze(ROOT_INODE)
        second = await world.exporter.export()
        await engine.thaw(ROOT_INODE)
        assert len({first.snap, second.snap, (await world.exporter.export()).snap}) == 3
        await engine.freeze(ROOT_INODE)
        await world.exporter.export()
    await bring(tmp_path)
    state = State(tmp_path / "new")
    assert await state.engine.list_frozen() == [FrozenTree(ROOT_INODE, False)]
    state.close()


async def test_the_former_key_is_needed_by_exports_of_before_a_rekey_alone(tmp_path: Path) -> None:
    """Their objects stay as they are until these exports go; then nothing is left under it."""
    both = KeyRing([Key(bytes(range(1, 33)), "other"), Key(bytes(range(32)), "first")])
    content = compressible(50_000, 77)
    async with mounted(World(tmp_path, keys=KEYS)) as world:
        ino = await world.state.create("large", content)
        await upload(world.state.parts, ino)
        first = await world.exporter.export()
    async with mounted(World(tmp_path, keys=both)) as world:
        await rekey(world.state.parts, ino)
        second = await world.exporter.export()
        while await world.state.garbage.collect(100):
            pass
        assert await world.state.engine.count_held(0) == 1
    for number, (note, keys) in enumerate(((first, both), (first, KEYS), (second, OTHER_KEYS))):
        name = f"new-{number}"
        export = f"{world.state.engine.state_id.hex()[:8]}-{note.snap:x}"
        await bring(tmp_path, name, keys=keys, at=export)
        async with mounted(World(tmp_path, name, keys=keys)) as imported:
            assert await imported.state.content(ino) == content
    with pytest.raises(UsageError, match="encrypted with key"):
        await bring(tmp_path, "none", keys=KEYS)
    async with mounted(World(tmp_path, keys=OTHER_KEYS)) as world:
        for number in range(2):
            await world.state.create(f"more-{number}", b"more")
            await world.exporter.export()
        assert await left_over(world.state) == []
        assert await world.state.engine.count_held(0) == 0
    blobs = [path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 1


async def test_an_import_knows_what_is_in_the_exports_of_the_store(tmp_path: Path) -> None:
    """That which was imported at once, others once they were looked at."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        made = []
        for number in range(2):
            made.append(await world.exporter.export())
            await world.state.create(f"more-{number}", b"more")
        state_id = world.state.engine.state_id
    await bring(tmp_path, at=f"{state_id.hex()[:8]}-{made[0].snap:x}")
    state = State(tmp_path / "new")
    store = DirectoryStore(tmp_path / "store", 30.0, 4)
    await take_over(state.engine, {"": store}, state.packed_store.temporary_path)
    state.close()
    async with mounted(World(tmp_path, "new")) as world:
        newest, older = world.exporter.stored.notes
        assert older == made[0]
        assert (newest.snap, newest.file_count) == (made[1].snap, 0)
        await world.exporter.stored.look()
        assert [*world.exporter.stored.notes] == made[::-1]
