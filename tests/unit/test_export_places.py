"""Exports of mounts with named stores and sources: formats, addresses, and who may change what."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import stat
import tomllib
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.config import MetadataConfig, NamedStoreConfig
from memfs.config_file import load_config
from memfs.encryption.keys import NO_KEYS, Key, KeyRing
from memfs.errors import CorruptDataError, NewerFormatError, UsageError
from memfs.exports.description import (
    FORMAT,
    FORMAT_MAX,
    FORMAT_WITH_SOURCES,
    Description,
    done_key,
)
from memfs.exports.importing import list_exports, take_over
from memfs.exports.places import StoreAddress, needs_trust
from memfs.metadata.columns import encode
from memfs.metadata.foreign import (
    AdoptedFile,
    Conflict,
    ForeignDirectory,
    ForeignObject,
    Source,
    WhenGone,
)
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.exporting import (
    GONE_SHAPE,
    OBJECT_SHAPE,
    PERHAPS,
    PUBLISHED_SHAPE,
    PartLimits,
)
from memfs.metadata.sqlite.format import FOREIGN_NUMBER
from memfs.metadata.sqlite.importing import StateBuilder
from memfs.metadata.sqlite.text_index import SLOT_COUNT
from memfs.metadata.store_record import recall_store
from memfs.moves.generation import StateGeneration
from memfs.moves.uploading import upload
from memfs.policy.marks import STORE_XATTR
from memfs.stores.directory import DirectoryStore
from memfs.types import ROOT_INODE, Generation, InodeNo, SnapshotId, SourceId, StateId
from tests.mounting import MountError, run_memfs
from tests.moving import SMALL_FRAMES, State, compressible
from tests.states import unpack_store
from tests.unit.test_exports import KEYS, World, bring, fill, look, mounted
from tests.unit.test_importing import build, inodes, names

if TYPE_CHECKING:
    from pathlib import Path

BUCKET = "s3://bucket/set"
EMPTY = Description(StateId(bytes(16)), SnapshotId(7), 1, 100, 0, 0, 0, 0, ())
SOURCE = Source(SourceId(5), BUCKET, InodeNo(1), 600, WhenGone.REMOVE, 9, "a problem", "{}")


def test_an_export_has_a_later_format_only_where_an_older_memfs_would_lose_files() -> None:
    """Without sources an older version imports it as ever."""
    with_store = EMPTY._replace(stores=(StoreAddress("archive", "s3://cheap/x"),))
    for description, number in (
        (EMPTY, FORMAT),
        (with_store, FORMAT),
        (EMPTY._replace(sources=(SOURCE,)), FORMAT_WITH_SOURCES),
    ):
        data = description.encode()
        assert json.loads(data)["format"] == number
        told = description._replace(
            sources=tuple(each._replace(problem="") for each in description.sources)
        )
        assert Description.decode(data, "here") == told


def test_a_description_of_before_has_no_places() -> None:
    fields = json.loads(EMPTY.encode())
    del fields["stores"], fields["sources"]
    assert Description.decode(json.dumps(fields).encode(), "here") == EMPTY


def test_a_description_has_indexes_and_a_life() -> None:
    told = EMPTY._replace(indexes=("$name", "user.note"), life=3)
    assert Description.decode(told.encode(), "here") == told
    assert not told.is_like(EMPTY)
    fields = json.loads(told.encode())
    for name, value in (
        ("indexes", [7]),
        ("indexes", 7),
        ("indexes", ["user.\ud800"]),
        ("life", -1),
        ("life", "3"),
    ):
        with pytest.raises(CorruptDataError, match="no description"):
            Description.decode(json.dumps({**fields, name: value}).encode(), "here")
    del fields["indexes"], fields["life"]
    assert Description.decode(json.dumps(fields).encode(), "here") == EMPTY


def test_an_import_takes_no_index_that_there_cannot_be(tmp_path: Path) -> None:
    """Nor more than there are places for, whatever an export says."""
    wanted = ["$size", "$size", "$path", "size", "user.memfs.pin", "trusted.x", "user.a", "", "é"]
    wanted += [f"user.n{number}" for number in range(40)]
    builder = StateBuilder(tmp_path / "state")
    builder.begin()
    for data in (inodes(), names((2, 5, 8))):
        builder.add(data, "part", 9)
    imported = builder.finish(StateId(bytes(16)), 1000, {}, (), wanted)
    assert imported.indexes[:2] == ("$size", "user.a")
    assert len(imported.indexes) == 1 + SLOT_COUNT
    engine = SqliteEngine.open(tmp_path / "state", MetadataConfig())
    assert [each.field for each in engine.field_indexes()] == [*imported.indexes]
    assert [each for each in engine.check() if "index" in each] == []
    engine.close()


def test_a_published_object_that_is_not_below_its_place_is_damage(tmp_path: Path) -> None:
    row = ("s3://bucket/a", "s3://other", 2, 1, "etag", "token", 5, 1, bytes(32), "")
    with pytest.raises(CorruptDataError, match="not below 's3://other'"):
        build(tmp_path / "state", [inodes(), names((2, 5, 8)), encode([(PUBLISHED_SHAPE, [row])])])


def test_what_a_listing_changes_of_a_source_is_no_news() -> None:
    """Else each export after a refresh would be stored."""
    before = EMPTY._replace(sources=(SOURCE,))
    assert before.is_like(EMPTY._replace(sources=(SOURCE._replace(listed_ns=10, problem=""),)))
    assert not before.is_like(EMPTY._replace(sources=(SOURCE._replace(watch_s=0),)))
    assert not before.is_like(EMPTY)


async def test_an_export_of_before_is_imported(tmp_path: Path) -> None:
    """A saved one, of the last version that said nothing of stores and sources."""
    expected = unpack_store(tmp_path)["seen"]
    chosen = await bring(tmp_path)
    assert (chosen.passed_over, chosen.imported.missing_paths) == ((), (b"/local",))
    state = State(tmp_path / "new")
    try:
        found = {
            path.decode("latin1"): [
                *attributes,
                None if target is None else target.decode("latin1"),
                sorted([name.decode("latin1"), value.decode("latin1")] for name, value in xattrs),
            ]
            for path, (*attributes, target, xattrs) in (await look(state)).items()
        }
        assert found == expected
    finally:
        state.close()
    async with mounted(World(tmp_path, "new")) as world:
        ino = (await world.state.engine.lookup(ROOT_INODE, b"large")).ino
        assert await world.state.content(ino) == compressible(50_000, 77)


@pytest.mark.parametrize("where", ["done.json", "contents"])
async def test_an_export_of_a_later_version_is_refused_with_a_remedy(
    tmp_path: Path, where: str
) -> None:
    """It is not passed over as a damaged one, for an older export that nobody has asked for."""
    async with mounted(World(tmp_path, keep_count=3)) as world:
        await fill(world.state)
        await world.exporter.export()
        await world.state.create("more", b"more")
        with pytest.MonkeyPatch.context() as patch:
            if where == "contents":
                encode_so_far = Description.encode

                def encode_later(description: Description) -> bytes:
                    fields = json.loads(encode_so_far(description))
                    return json.dumps({**fields, "format": FORMAT_MAX + 1}).encode()

                patch.setattr(Description, "encode", encode_later)
            await world.exporter.export()
        newest, older = await list_exports(world.store)
        if where == "done.json":
            path = tmp_path / "store" / done_key(newest.state_id, newest.snap)
            path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT_MAX + 1}))
        world.exporter.stored._known.clear()
        # The mount that finds it there stores all anew, and removes nothing that it may need.
        await world.state.create("yet more", b"more")
        await world.exporter.export()
        assert world.exporter.stored.lost == []
        with pytest.raises(NewerFormatError, match="use the version that has written it"):
            await world.exporter.stored.look_for_unneeded(remove=True)
    shutil.rmtree(
        (tmp_path / "store" / done_key(newest.state_id, world.exporter.stored.notes[0].snap)).parent
    )
    with pytest.raises(UsageError, match=r"format 3, and this memfs knows 1 to 2.*--at"):
        await bring(tmp_path)
    assert (await bring(tmp_path, at=str(older))).export == older


# --- adopted files -------------------------------------------------------------------------------
def object_of(ino: InodeNo, source: SourceId, key: bytes, etag: str = "e1") -> ForeignObject:
    return ForeignObject(
        ino=ino,
        generation=Generation(1),
        source=source,
        key=key,
        etag=etag,
        version="v1",
        size=4000,
        mtime_ns=5,
        digest=None,
        checked_ns=6,
        ours=False,
        current=True,
        conflict=Conflict.NONE,
    )


async def adopt(state: State, url: str = BUCKET) -> Source:
    """Have two adopted files, of which one was written since, and a key that was removed."""
    engine, now = state.engine, 1_700_000_000_000_000_000
    async with engine.change():
        source = await engine.add_source(url, ROOT_INODE, 600, WhenGone.REMOVE, "{}")
    files = []
    for name in (b"read", b"written", b"removed"):
        ino, _ = engine.reserve_ids()
        new = NewInode(ino, stat.S_IFREG | 0o644, 1, 2, now)
        files.append(
            AdoptedFile(ROOT_INODE, name, new, object_of(ino, source.source, b"keys/" + name))
        )
    async with engine.change():
        assert await engine.adopt_files(files) == [True] * 3
    await state.unlink("removed")
    await state.rewrite(files[1].new.ino, compressible(100))
    await upload(state.parts, files[1].new.ino)
    return source


async def objects_of(state: State) -> list[ForeignObject | None]:
    return [
        await state.engine.get_object((await state.engine.lookup(ROOT_INODE, name)).ino)
        for name in (b"read", b"written")
    ]


async def test_adopted_files_come_back_with_their_objects_and_what_was_removed(
    tmp_path: Path,
) -> None:
    async with mounted(World(tmp_path)) as world:
        source = await adopt(world.state)
        note = await world.exporter.export()
        assert (note.file_count, note.missing_count) == (2, 0)
        before, rows = await look(world.state), await objects_of(world.state)
        # A listing that found nothing new is no reason to store an export.
        async with world.state.engine.change():
            await world.state.engine.put_source(source._replace(listed_ns=77, problem="x"))
        assert (await world.exporter.export()).snap == note.snap
    chosen = await bring(tmp_path)
    assert chosen.imported.missing_count == 0
    async with mounted(World(tmp_path, "new")) as world:
        engine = world.state.engine
        assert await look(world.state) == before
        assert await objects_of(world.state) == rows
        assert await engine.list_sources() == [source]
        assert await engine.list_gone(source.source, b"", 10) == [b"keys/removed"]
        assert engine.check() == []
        assert await engine.recount() == await engine.usage()
    connection = sqlite3.connect(tmp_path / "new" / "metadata.db")
    assert connection.execute("pragma user_version").fetchone() == (FOREIGN_NUMBER,)
    connection.close()


async def test_adopted_files_that_have_not_changed_are_not_stored_again(tmp_path: Path) -> None:
    """Neither after a listing, nor beside a file that has: it costs the parts of that one."""
    limits = PartLimits(row_count_min=16, end_count=32, fetch_count=16)
    async with mounted(World(tmp_path, limits=limits)) as world:
        state, engine = world.state, world.state.engine
        source = await adopt(state)
        files = []
        for number in range(600):
            ino, _ = engine.reserve_ids()
            key = b"more/%03d" % number
            new = NewInode(ino, stat.S_IFREG | 0o644, 1, 2, 1)
            files.append(
                AdoptedFile(ROOT_INODE, b"%d" % number, new, object_of(ino, source.source, key))
            )
        async with engine.change():
            await engine.adopt_files(files)
            await engine.add_directory(ForeignDirectory(ROOT_INODE, source.source, b"", 1))
        await world.exporter.export()
        assert world.exporter.progress.stored_count > 20
        async with engine.change():
            await engine.put_source(source._replace(listed_ns=88))
            await engine.set_listed(ROOT_INODE, 2)
        await world.exporter.export()
        assert world.exporter.progress.stored_count == 0
        changed = object_of(files[300].new.ino, source.source, files[300].foreign.key)
        async with engine.change():
            assert await engine.put_object(changed._replace(digest=bytes(32)))
        await world.exporter.export()
        assert world.exporter.progress.stored_count == 1
        await state.unlink("301")
        await world.exporter.export()
        # The inode and its object, the directory, the name, and the key that is gone.
        assert world.exporter.progress.stored_count <= 5


async def test_what_becomes_of_a_key_while_it_is_exported_is_not_in_the_export(
    tmp_path: Path,
) -> None:
    """The file loses its name, and a clone has the same object: it is no file of the key."""
    async with mounted(World(tmp_path)) as world:
        state, engine = world.state, world.state.engine
        source = await adopt(state)
        [row, _] = await objects_of(state)
        assert row is not None
        clone = await state.create("clone", b"")
        inode = await engine.get_inode(clone)
        await engine.attach_object(
            row._replace(ino=clone, current=False, generation=inode.generation, size=0)
        )
        publish = world.exporter._writer._reader.publish

        async def change_first() -> None:
            await state.unlink("read")
            await state.unlink("clone")
            await publish()

        world.exporter._writer._reader.publish = change_first  # type: ignore[method-assign]  # of this one
        await world.exporter.export()
    await bring(tmp_path)
    async with mounted(World(tmp_path, "new")) as world:
        found = await objects_of(world.state)
        assert found[0] == row
        assert await world.state.engine.list_gone(source.source, b"", 10) == [b"keys/removed"]
        copied = await world.state.engine.get_object(clone)
        assert copied is not None
        assert not copied.current
        assert world.state.engine.check() == []


async def test_sources_on_this_machine_are_read_only_if_the_export_can_be_trusted(
    tmp_path: Path,
) -> None:
    """Who may write to a bucket could have files of the machine shown to all its users."""
    async with mounted(World(tmp_path)) as world:
        await adopt(world.state, "file:///etc")
        await world.exporter.export()
    with pytest.raises(UsageError, match=r"file:///etc.*--trust-sources"):
        await bring(tmp_path)
    assert not (tmp_path / "new" / "format").exists()
    await bring(tmp_path, trusts_sources=True)
    shutil.rmtree(tmp_path / "store")
    async with mounted(World(tmp_path, "encrypting", keys=KEYS)) as world:
        await adopt(world.state, "file:///etc")
        await world.exporter.export()
    await bring(tmp_path, "decrypting", keys=KEYS)


@pytest.mark.parametrize(
    ("url", "options", "doubtful"),
    [
        ("s3://bucket/a", {}, False),
        ("gs://bucket", {"store": "archive"}, False),
        ("s3://bucket/a", {"fsspec": {"region": "x", "anon": True}}, False),
        ("s3://bucket/a", {"fsspec": {"endpoint_url": "http://10.0.0.1"}}, True),
        ("file:///srv", {}, True),
        ("local:///srv", {}, True),
        ("filecache::file:///srv", {}, True),
        ("http://169.254.169.254/", {}, True),
    ],
)
def test_only_clouds_themselves_lead_nowhere_else(
    url: str, options: dict[str, object], doubtful: bool
) -> None:
    assert needs_trust(SOURCE._replace(url=url, options=json.dumps(options))) == doubtful


def objects(*rows: ForeignObject, current: int = 1) -> bytes:
    found = [(*row[:-3], int(row.ours), current, row.conflict) for row in rows]
    return encode([(OBJECT_SHAPE, found)])


GOOD = object_of(InodeNo(2), SOURCE.source, b"key")._replace(size=5)


@pytest.mark.parametrize(
    ("rows", "current", "sources", "why"),
    [
        ([GOOD._replace(ino=ROOT_INODE)], 1, [SOURCE], "inode 1, which is no file"),
        ([GOOD._replace(ino=InodeNo(77))], 1, [SOURCE], "inode 77, which is no file"),
        ([GOOD], 1, [], "source 5, which is missing"),
        ([GOOD._replace(size=6)], 1, [SOURCE], "of 5 bytes, was made of .*, of 6 bytes"),
        ([GOOD], 7, [SOURCE], "impossible state"),
        ([GOOD], 1, [SOURCE, SOURCE], "two sources of one number"),
        ([GOOD], 1, [SOURCE._replace(source=SourceId(1000))], "of no number"),
        ([GOOD], 1, [SOURCE._replace(root=InodeNo(0))], "which never was"),
    ],
)
def test_rows_of_objects_that_fit_nothing_are_refused(
    tmp_path: Path, rows: list[ForeignObject], current: int, sources: list[Source], why: str
) -> None:
    """No mount is made of them, by whatever they were written."""
    parts = [inodes(numbers=(2,)), objects(*rows, current=current), names((2,))]
    with pytest.raises(CorruptDataError, match=why):
        build(tmp_path / "state", parts, sources)


def test_of_files_that_claim_one_key_at_two_instants_one_has_it(tmp_path: Path) -> None:
    """The table would not take both; nor is a key gone that a file has."""
    rows = [GOOD._replace(ino=InodeNo(ino)) for ino in (2, 5, 8)]
    gone = encode([(GONE_SHAPE, [(SOURCE.source, b"key"), (SOURCE.source, b"other")])])
    for current, expected in ((1, [1, 0, 0]), (PERHAPS, [1, 0, 0]), (0, [0, 0, 0])):
        parts = [inodes(), objects(*rows, current=current), names((2, 5, 8)), gone]
        connection = build(tmp_path / f"state-{current}", parts, [SOURCE])
        found = connection.execute("select current from foreign_object order by ino").fetchall()
        assert [each for (each,) in found] == expected
        left = connection.execute("select key from foreign_gone order by key").fetchall()
        assert left == ([(b"other",)] if current else [(b"key",), (b"other",)])
        connection.close()


# --- named stores --------------------------------------------------------------------------------
ARCHIVE = NamedStoreConfig(
    url="s3://user:word@cheap/memfs",
    codec="lz4",
    storage_class="STANDARD_IA",
    options={"endpoint_url": "https://me:pw@there", "key": "id", "secret": "word"},
)
CONFIG = dataclasses.replace(SMALL_FRAMES, stores={"archive": ARCHIVE, "spare": ARCHIVE})


async def exported(root: Path, keys: KeyRing) -> None:
    async with mounted(World(root, keys=keys, config=CONFIG)) as world:
        ino = await world.state.create("there", compressible(9000))
        async with world.state.engine.change():
            await world.state.engine.set_xattr(ino, STORE_XATTR, b"archive", 0, 1)
        await upload(world.state.parts, ino)
        await world.exporter.export()


def keys_of_archive() -> KeyRing:
    return KeyRing([], {"archive": [Key(bytes(range(2, 34)), "archive")]})


async def test_an_import_tells_the_sections_of_stores_without_secrets(tmp_path: Path) -> None:
    keys = keys_of_archive()
    key = keys.first_of("archive")
    assert key is not None
    config = dataclasses.replace(ARCHIVE, keys=("file:/unused",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIG.stores, "archive", config)
        await exported(tmp_path, keys)
    chosen = await bring(tmp_path)
    [store] = chosen.stores
    assert (store.name, store.url, store.object_count) == ("archive", "s3://cheap/memfs", 1)
    assert key.id.hex() in store.section
    told = tomllib.loads(store.section)["stores"]["archive"]
    assert told == {
        "url": "s3://cheap/memfs",
        "codec": "lz4",
        "storage_class": "STANDARD_IA",
        "options": {"endpoint_url": "https://there"},
    }
    state = State(tmp_path / "new", dataclasses.replace(SMALL_FRAMES))
    try:
        assert await recall_store(state.engine, "archive") == "s3://cheap/memfs"
    finally:
        state.close()
    file = tmp_path / "config.toml"
    file.write_text(store.section)
    assert load_config(file, {}).stores["archive"].url == "s3://cheap/memfs"


async def taken(root: Path, *names: str, without: tuple[str, ...] = ()) -> None:
    """Take stores over."""
    state = State(root / "new")
    stores = {
        name: DirectoryStore(root / (f"store-{name}" if name else "store"), 30.0, 4)
        for name in ("", *names)
    }
    try:
        await take_over(state.engine, stores, state.packed_store.temporary_path, without=without)
    finally:
        state.close()


async def refusal_of(root: Path, name: str) -> str | None:
    """Return why a mount with a store changes nothing in it."""
    state = State(root / "new")
    remote = DirectoryStore(root / f"store-{name}", 30.0, 4)
    generation = StateGeneration(
        state.engine, remote, state.packed_store.temporary_path, store=name
    )
    try:
        await generation.begin()
        return generation.source
    finally:
        state.close()


async def test_a_store_that_has_objects_is_taken_over_or_named_as_left(tmp_path: Path) -> None:
    """One that is left, or came to no import, stays the former state's until it is taken too."""
    await exported(tmp_path, NO_KEYS)
    await bring(tmp_path)
    assert await refusal_of(tmp_path, "archive")
    with pytest.raises(UsageError, match=r"archive \(s3://cheap/memfs\).*--without archive"):
        await taken(tmp_path)
    with pytest.raises(UsageError, match="no store of that name"):
        await taken(tmp_path, without=("archiv",))
    await taken(tmp_path, without=("archive",))
    for name in ("archive", "spare"):
        assert "--take-over" in (await refusal_of(tmp_path, name) or "")
    await taken(tmp_path, "archive")
    assert await refusal_of(tmp_path, "archive") is None
    assert await refusal_of(tmp_path, "spare")
    with pytest.raises(UsageError, match="belongs to this state already"):
        await taken(tmp_path, "archive")


def test_the_command_prints_what_a_configuration_lacks(tmp_path: Path) -> None:
    """As it can be copied into the file; and where adopted files are read from."""

    async def prepare() -> None:
        await exported(tmp_path, NO_KEYS)
        async with mounted(World(tmp_path, config=CONFIG)) as world:
            await adopt(world.state)
            await world.exporter.export()

    trio.run(prepare)
    url, state = f"file://{tmp_path}/store", tmp_path / "new"
    printed = run_memfs("snapshot", "import", url, "--state", state)
    assert f"adopted files are read from {BUCKET}\n" in printed
    _, told, section = printed.partition("the configuration lacks stores")
    assert told
    toml = section.partition("\n")[2].rpartition("nothing in ")[0]
    assert tomllib.loads(toml)["stores"]["archive"]["url"] == "s3://cheap/memfs"
    assert "# 1 object of these files\n" in toml
    with pytest.raises(MountError, match="--without archive"):
        run_memfs("snapshot", "import", "--take-over", "--state", state, "-o", f"glacier.url={url}")
    words = ("--take-over", "--without", "archive", "--state", state, "-o", f"glacier.url={url}")
    assert "its own now" in run_memfs("snapshot", "import", *words)
