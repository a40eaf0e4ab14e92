"""The disk of an adopted tree is lost: an export brings names, objects and own bytes back.

The model is that of `test_adoption`. What users and the bucket do while the export is written
leaves no trace in what is imported, and the next listing finds what is there as it was left.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings

from memfs.config import MetadataConfig, QuotasConfig, SnapshotsConfig
from memfs.encryption.keys import NO_KEYS
from memfs.errors import StoreError
from memfs.exports.exporter import Exporter
from memfs.exports.importing import Wanted, import_state, take_over
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.moves.open_files import OpenFiles
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.stores.directory import DirectoryStore
from memfs.stores.packed import PackedStore
from tests.property.test_adoption import ACTS, KEYS, Life, Model, a_world, adopt
from tests.property.test_lazy_adoption import a_bucket, names_of, walk
from tests.property.test_lazy_adoption import adopt as lazily_adopt
from tests.property.test_lazy_adoption import expected as whole
from tests.property.world import ROOMY, World
from tests.unit.fakes.bucket import URL, Bucket
from tests.unit.test_exports import NearReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.metadata.foreign import Source
    from memfs.types import InodeNo, SourceId

MEANWHILE = st.lists(
    st.tuples(st.sampled_from((0, 4, 8, 9, 10)), st.integers(0, 7)), min_size=0, max_size=8
)
"""Acts while an export is written: the bucket, a listing, a program that writes, unlinks, renames.

Keys that were removed from the bucket stay so, or the model would have to know listings by time."""


def exporter_of(world: World) -> Exporter:
    async def confirm() -> None:
        await trio.lowlevel.checkpoint()

    return Exporter(
        world.move_parts,
        NearReader(world.sqlite, world.state_dir),
        OpenFiles(world.move_parts),
        Quotas(QuotasConfig(), world.engine),
        world.sealer.seal_all,
        confirm,
        SnapshotsConfig(),
    )


def export(world: World, happen: Callable[[], None]) -> None:
    """Do the steps of `Exporter._export` in two runs, with something between them."""
    exporter, remote = exporter_of(world), world.move_parts.remote
    assert remote is not None
    world.run(exporter.stored.begin())
    world.run(world.sealer.seal_all())
    note, sources, _ = world.run(exporter._begin())
    happen()

    async def go_on() -> None:
        writer = exporter._writer
        description = await writer.write(remote, note, sources, None)
        assert description.missing_count == 0
        await writer.finish(remote, await writer.describe(remote, description))

    world.run(go_on())


def bring(objects: Path, root: Path) -> None:
    """Import, and leave the objects where a new world looks for them."""
    state_dir = root / "state"

    async def main() -> None:
        store = DirectoryStore(objects, 30.0, 4)
        wanted = Wanted(store, URL, NO_KEYS, state_dir, trusts_sources=True)
        chosen = await import_state(wanted, lambda *_: None)
        assert (chosen.imported.missing_count, chosen.passed_over) == (0, ())
        engine = SqliteEngine.open(state_dir, MetadataConfig())
        try:
            await take_over(engine, {"": store}, PackedStore(state_dir).temporary_path)
        finally:
            engine.close()

    trio.run(main)
    shutil.copytree(objects, state_dir / "glacier")


def have_objects(life: Life) -> None:
    """Give all files objects that would be lost with the disk."""

    async def send(ino: InodeNo) -> None:
        inode = await life.world.engine.get_inode(ino)
        if inode.size and not await life.world.engine.list_all_forms(inode):
            await upload(life.world.move_parts, ino)

    for path in life.files:
        life.world.run(send(life.ino(path)))


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(ACTS, MEANWHILE)
def test_an_export_brings_the_tree_back(
    acts: list[tuple[int, int]], meanwhile: list[tuple[int, int]]
) -> None:
    bucket = Bucket()
    for key in KEYS[:5]:
        bucket.put(key, key.encode() * 100)
    with a_world(bucket) as world, tempfile.TemporaryDirectory(prefix="memfs-exports-") as name:
        life = Life(world, bucket)
        adopt(world)
        life.files = {key: Model(key, *found) for key, found in bucket.objects.items()}
        for act, which in acts:
            life.do(act, which)
        life.check_held(let_go=True)
        world.run(world.sealer.seal_all())
        have_objects(life)
        files, gone = dict(life.files), set(life.gone)

        def happen() -> None:
            for act, which in meanwhile:
                if act or KEYS[which] in bucket.objects:
                    life.do(act, which)

        export(world, happen)
        bring(world.state_dir / "glacier", Path(name))
        new = World(
            Path(name), ROOMY, passthrough=True, open_source=lambda _url, _options: bucket.open()
        )
        found = Life(new, bucket)
        found.files, found.count = files, life.count
        # What came meanwhile and was removed here is not there, and stays removed.
        found.gone = gone | (life.gone - {model.key for model in files.values()})
        found.check()
        found.refresh()
        for act, which in acts[:6]:
            found.do(act, which)
        found.check_held(let_go=True)
        found.refresh()
        new.close()


@pytest.mark.parametrize("looks", ["before", "meanwhile", "never"])
def test_a_directory_that_nobody_had_looked_into_is_listed_after_an_import(looks: str) -> None:
    """What is found in it after the instant is not exported: it must not look as listed."""
    bucket = a_bucket()
    with a_world(bucket) as world, tempfile.TemporaryDirectory(prefix="memfs-exports-") as name:
        lazily_adopt(world)

        def look_into(path: str, when: str) -> None:
            if looks == when:
                world.run(names_of(world, path))

        world.run(names_of(world, "set"))
        look_into("set/b", "before")
        export(world, lambda: look_into("set/b", "meanwhile"))
        bring(world.state_dir / "glacier", Path(name))
        new = World(
            Path(name), ROOMY, passthrough=True, open_source=lambda _url, _options: bucket.open()
        )
        bucket.listed.clear()
        assert new.run(names_of(new, "set/b")) == ["deep", "one", "two"]
        assert bool(bucket.listed) == (looks != "before")
        assert new.run(walk(new)) == whole(bucket)
        new.close()


def test_an_export_is_not_complete_if_its_source_was_listed_whole_meanwhile() -> None:
    """It would show directories as empty that nobody had looked into."""
    bucket = a_bucket()
    with a_world(bucket) as world:
        lazily_adopt(world)
        world.run(names_of(world, "set"))
        exporter = exporter_of(world)
        world.run(exporter.stored.begin())
        publish, waiting = exporter._writer._reader.publish, exporter._waiting
        counted: list[int] = []

        async def list_whole() -> None:
            [source] = await world.engine.list_sources()
            async with world.engine.change():
                await world.engine.forget_directories(source.source)
            await publish()

        async def count(sources: Sequence[Source]) -> set[SourceId]:
            found = await waiting(sources)
            counted.append(len(found))
            return found

        exporter._waiting = count  # type: ignore[method-assign]  # of this one
        exporter._writer._reader.publish = list_whole  # type: ignore[method-assign]  # of this one
        with pytest.raises(StoreError, match="was listed whole"):
            world.run(exporter.export())
        assert counted == [1, 0]
        exporter._writer._reader.publish = publish  # type: ignore[method-assign]  # of this one
        assert world.run(exporter.export()).missing_count == 0
