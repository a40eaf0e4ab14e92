"""SIGKILL at every step of an export, an import and a take-over: nothing is lost or left over."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig
from memfs.errors import UsageError
from memfs.exports.importing import list_exports, take_over
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.moves.faults import EXPORT_POINTS, IMPORT_POINTS
from memfs.moves.generation import StateGeneration
from memfs.stores.directory import DirectoryStore
from memfs_daemon.state_dir import prepare_state
from tests.crash.moves_scenario import KillAt
from tests.moving import State
from tests.processes import outlived
from tests.unit.test_export_places import adopt, objects_of
from tests.unit.test_exports import World, bring, fill, left_over, look, mounted

if TYPE_CHECKING:
    from pathlib import Path

TAKE_OVER_POINTS = ("generation.raised", "generation.written", "generation.stored")


async def prepare(root: Path) -> None:
    """Make a state with two exports, and a third that is due; some files are adopted."""
    async with mounted(World(root)) as world:
        await fill(world.state)
        await adopt(world.state)
        for number in range(2):
            await world.exporter.export()
            await world.state.create(f"more-{number}", b"more")


async def export(root: Path, point: str) -> None:
    async with mounted(World(root, faults=KillAt(point, 1))) as world:
        await world.exporter.export()


async def check_export(root: Path, point: str) -> None:
    """What was exported before can be imported; the next export has all, and nothing is over."""
    store = DirectoryStore(root / "store", 30.0, 4)
    is_done = EXPORT_POINTS.index(point) >= EXPORT_POINTS.index("export.done")
    chosen = await bring(root)
    assert chosen.passed_over == ()
    assert chosen.description.file_count == (12 if is_done else 11)
    shutil.rmtree(root / "new")
    async with mounted(World(root)) as world:
        assert world.state.parts.held_from is not None
        await world.exporter.stored.forget_unfinished()
        assert await world.state.engine.list_snapshots() == []
        await world.state.create("after", b"after")
        await world.exporter.export()
        before = await look(world.state), await objects_of(world.state)
        assert await left_over(world.state) == []
        assert world.state.engine.check() == []
        named = {str(note.snap) for note in world.exporter.stored.notes}
        assert {str(int(each.snap)) for each in await list_exports(store)} == named
        assert len(named) == 2
    await bring(root)
    state = State(root / "new")
    assert (await look(state), await objects_of(state)) == before
    state.close()


@pytest.mark.parametrize("point", EXPORT_POINTS)
def test_a_kill_at_any_point_of_an_export_leaves_the_one_before(tmp_path: Path, point: str) -> None:
    trio.run(prepare, tmp_path)
    assert outlived(lambda: trio.run(export, tmp_path, point)) == signal.SIGKILL
    trio.run(check_export, tmp_path, point)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    trio.run(prepare, root)
    return root


async def bring_until(root: Path, point: str) -> None:
    await bring(root, faults=KillAt(point, 1))


@pytest.mark.parametrize("point", IMPORT_POINTS[:-2])
def test_a_kill_at_any_point_of_an_import_is_made_good_by_the_next(
    tmp_path: Path, exported: Path, point: str
) -> None:
    """No mount takes what is half there."""
    shutil.copytree(exported / "store", tmp_path / "store")
    assert outlived(lambda: trio.run(bring_until, tmp_path, point)) == signal.SIGKILL
    if point != "import.formatted":
        with pytest.raises(UsageError, match="run `memfs snapshot import` again"):
            prepare_state(tmp_path / "new")
        with pytest.raises(UsageError, match="run `memfs snapshot import` again"):
            SqliteEngine.open(tmp_path / "new", MetadataConfig())
        trio.run(bring, tmp_path)
    prepare_state(tmp_path / "new")

    async def check() -> None:
        original, state = State(exported / "state"), State(tmp_path / "new")
        try:
            expected = await look(original)
            # The newest export was made before this file.
            del expected[b"/more-1"], expected[b""]
            found = await look(state)
            del found[b""]
            assert found == expected
            assert await objects_of(state) == await objects_of(original)
            assert await state.engine.list_sources() == await original.engine.list_sources()
        finally:
            original.close()
            state.close()

    trio.run(check)


@pytest.mark.parametrize("point", [*TAKE_OVER_POINTS, "import.marked", "import.taken"])
def test_a_kill_at_any_point_of_a_take_over_is_made_good_by_the_next(
    tmp_path: Path, exported: Path, point: str
) -> None:
    """Until its end the state changes nothing in the store; afterwards the former one may not."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    store = tmp_path / "store"

    async def take(point: str) -> None:
        state = State(tmp_path / "new")
        remote = DirectoryStore(store, 30.0, 4)
        try:
            temporary_path = state.packed_store.temporary_path
            await take_over(state.engine, {"": remote}, temporary_path, KillAt(point, 1))
        finally:
            state.close()

    trio.run(bring, tmp_path)
    assert outlived(lambda: trio.run(take, point)) == signal.SIGKILL

    async def check() -> None:
        world = World(tmp_path, "new")
        await world.mount()
        assert (world.generation.source is None) == (point == "import.taken")
        world.close()
        if point != "import.taken":
            await take("none")
        async with mounted(World(tmp_path, "new")) as world:
            await world.exporter.export()
        former = World(tmp_path)
        with pytest.raises(UsageError, match="older copy"):
            await former.mount()
        former.close()

    trio.run(check)


@pytest.mark.parametrize("point", [*TAKE_OVER_POINTS, "import.marked"])
def test_a_kill_between_two_stores_leaves_both_as_they_were_for_the_new_state(
    tmp_path: Path, exported: Path, point: str
) -> None:
    """One has its mark: nothing is changed in either before both have."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    (tmp_path / "second").mkdir()

    async def take(point: str) -> None:
        state = State(tmp_path / "new")
        stores = {
            name: DirectoryStore(tmp_path / (name or "store"), 30.0, 4) for name in ("", "second")
        }
        # The second store is the second one that comes to each of these points.
        faults = KillAt(point, 2 if point in TAKE_OVER_POINTS else 1)
        try:
            await take_over(state.engine, stores, state.packed_store.temporary_path, faults)
        finally:
            state.close()

    async def refusals() -> list[bool]:
        state, found = State(tmp_path / "new"), []
        for name in ("", "second"):
            remote = DirectoryStore(tmp_path / (name or "store"), 30.0, 4)
            temporary_path = state.packed_store.temporary_path
            generation = StateGeneration(state.engine, remote, temporary_path, store=name)
            await generation.begin()
            found.append(generation.source is not None)
        state.close()
        return found

    trio.run(bring, tmp_path)
    assert outlived(lambda: trio.run(take, point)) == signal.SIGKILL
    assert trio.run(refusals) == [True, True]
    trio.run(take, "none")
    assert trio.run(refusals) == [False, False]
