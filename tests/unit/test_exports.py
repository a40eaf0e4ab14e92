"""Exports and imports on real engines and stores: all comes back, and what is damaged is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from memfs.config import QuotasConfig, SnapshotsConfig
from memfs.encryption.keys import NO_KEYS, Key, KeyRing
from memfs.errors import CorruptDataError, NotSupportedError, StoreUnavailableError, UsageError
from memfs.exports import notes as export_notes
from memfs.exports.description import PREFIX, done_key, root_of
from memfs.exports.exporter import Exporter
from memfs.exports.importing import Wanted, import_state, list_exports, take_over
from memfs.jobs.automatic_snapshots import DEFAULT_SETTING, SETTINGS_OF_NEW_STATE
from memfs.jobs.orphans import OrphanSearch, SearchPlace
from memfs.metadata.records import AttributeChanges, NewInode
from memfs.metadata.sqlite.exporting import PART_LIMITS, PartLimits, read_page, write_part
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_raw
from memfs.moves.generation import StateGeneration
from memfs.moves.hydrating import hydrate
from memfs.moves.open_files import OpenFiles
from memfs.moves.uploading import upload
from memfs.placement.quotas import Quotas
from memfs.policy.marks import MARKED_SETTING, PRIORITY_XATTR
from memfs.stores.directory import DirectoryStore
from memfs.types import NOW, ROOT_INODE, FormKind, InodeNo
from tests.faulty_store import Fault, FaultKind
from tests.moving import SMALL_FRAMES, State, compressible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from memfs.config import Config
    from memfs.exports.importing import Chosen
    from memfs.metadata.records import ExportPosition
    from memfs.metadata.sqlite.engine import SqliteEngine
    from memfs.moves.faults import FaultPoints
    from memfs.stores.store import RemoteStore
    from memfs.types import SnapshotId

URL = "file:///store"
KEYS = KeyRing([Key(bytes(range(32)), "first")])
OTHER_KEYS = KeyRing([Key(bytes(range(1, 33)), "other")])


class NearReader:
    """Reads the tables in this process, in a connection of its own."""

    def __init__(
        self, engine: SqliteEngine, state_dir: Path, limits: PartLimits = PART_LIMITS
    ) -> None:
        self._engine = engine
        self._state_dir = state_dir
        self._limits = limits

    async def publish(self) -> None:
        self._engine.wait_for_checkpoint()
        assert self._engine.publish()
        await trio.lowlevel.checkpoint()

    async def read_parts(
        self, table: str, snap: SnapshotId, after: ExportPosition, paths: Sequence[Path]
    ) -> dict[str, Any]:
        path = self._state_dir / "metadata.db"
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            page = read_page(connection, table, snap, after, self._limits)
        finally:
            connection.close()
        told = page._asdict()
        told["parts"] = [
            {"kind": part.kind, "row_count": part.row_count, "size": len(part.data)}
            for part in page.parts
        ]
        for part, target in zip(page.parts, paths, strict=False):
            write_part(str(target), part.data)
        return told


class World:
    """A state with its exporter, whose stores lie beside it."""

    def __init__(
        self,
        root: Path,
        name: str = "state",
        keys: KeyRing = NO_KEYS,
        faults: FaultPoints | None = None,
        keep_count: int = 2,
        limits: PartLimits = PART_LIMITS,
        config: Config = SMALL_FRAMES,
    ) -> None:
        self.state = State(root / name, config, keys=keys, faults=faults)
        self.store = DirectoryStore(root / "store", 30.0, 4)
        self.state.remote._inner = self.store
        for named, faulty in self.state.named_stores.items():
            faulty._inner = DirectoryStore(root / f"store-{named}", 30.0, 4)
        self.generation = StateGeneration(
            self.state.engine, self.state.remote, self.state.packed_store.temporary_path
        )
        self.exporter = Exporter(
            self.state.parts,
            NearReader(self.state.engine, self.state.state_dir, limits),
            OpenFiles(self.state.parts),
            Quotas(QuotasConfig(), self.state.engine),
            self.state.sealer.seal_all,
            self.generation.confirm_now,
            SnapshotsConfig(export_keep_count=keep_count),
        )

    async def mount(self) -> None:
        await self.generation.begin()
        self.state.parts.source = self.generation.source
        await self.exporter.stored.begin()
        await self.state.recovery.begin()
        if self.generation.source is None:
            assert await self.generation.try_to_mark()

    def close(self) -> None:
        self.state.close()


@contextlib.asynccontextmanager
async def mounted(world: World) -> AsyncIterator[World]:
    try:
        await world.mount()
        yield world
    finally:
        world.close()


async def fill(state: State) -> None:
    """Files, packed in batches and alone, links, symlinks, devices, xattrs, empty ones."""
    engine, now = state.engine, 1_700_000_000_000_000_000
    small = [await state.create(f"small-{n}", compressible(3000 + n, n)) for n in range(5)]
    large = await state.create("large", compressible(50_000, 77))
    await state.create("local", compressible(4000, 5))
    await state.create("empty", b"")
    await upload_batch(state.parts, small)
    await upload(state.parts, large)
    for ino in (*small, large):
        await drop_raw(state.parts, ino)
    parent = ROOT_INODE
    for name in (b"d", b"\xff\xfe \n"):
        ino = engine.reserve_ids()[0]
        await engine.create(parent, name, NewInode(ino, stat.S_IFDIR | 0o2750, 7, 8, now))
        parent = ino
    await engine.link(small[0], parent, b"second name", now)
    ino = engine.reserve_ids()[0]
    await engine.create(
        parent, b"link", NewInode(ino, stat.S_IFLNK | 0o777, 1, 2, now, target=b"../x")
    )
    ino = engine.reserve_ids()[0]
    await engine.create(parent, b"fifo", NewInode(ino, stat.S_IFIFO | 0o600, 1, 2, now))
    ino = engine.reserve_ids()[0]
    await engine.create(
        ROOT_INODE, b"dev", NewInode(ino, stat.S_IFCHR | 0o600, 1, 2, now, rdev=0x105)
    )
    await engine.set_xattr(large, b"user.label", b"cat", 0, now)
    await engine.set_xattr(parent, b"user.b", bytes(range(256)), 0, now)
    await engine.set_codec(parent, "zstd:9")
    await engine.set_attributes(small[1], AttributeChanges(mode=0o4711, uid=12, gid=13, mtime_ns=5))
    engine.commit_nowait()


async def look(state: State, snap: SnapshotId = NOW) -> dict[bytes, Any]:
    """Return all that a user can see, by path, but for bytes."""
    found: dict[bytes, Any] = {}

    async def walk(ino: InodeNo, path: bytes) -> None:
        inode = await state.engine.inode_at(snap, ino)
        target = await state.engine.read_link_at(snap, ino) if stat.S_ISLNK(inode.mode) else None
        xattrs = await state.engine.list_xattrs_at(snap, ino)
        found[path] = (ino, *inode[1:13], target, xattrs)
        if stat.S_ISDIR(inode.mode):
            for entry in await state.engine.list_directory_at(snap, ino, 0, 1000):
                await walk(entry.inode.ino, path + b"/" + entry.name)

    await walk(ROOT_INODE, b"")
    return found


async def bring(
    root: Path,
    name: str = "new",
    keys: KeyRing = NO_KEYS,
    at: str | None = None,
    encrypted: bool = False,
    faults: FaultPoints | None = None,
    remote: RemoteStore | None = None,
    stores: frozenset[str] = frozenset(),
    trusts_sources: bool = False,
) -> Chosen:
    """Import into a new state."""
    store = remote or DirectoryStore(root / "store", 30.0, 4)
    wanted = Wanted(
        *(store, URL, keys, root / name, at, encrypted, SETTINGS_OF_NEW_STATE),
        stores=stores,
        trusts_sources=trusts_sources,
    )
    return await import_state(wanted, lambda *_: None, faults)


def objects(root: Path) -> dict[str, bytes]:
    """Return the objects of exports by key."""
    top = root / "store"
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in sorted((top / PREFIX).rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("keys", [NO_KEYS, KEYS], ids=["clear", "encrypted"])
async def test_all_comes_back_from_the_store_alone(tmp_path: Path, keys: KeyRing) -> None:
    """Names, attributes, xattrs, targets and bytes; what had no object is named."""
    async with mounted(World(tmp_path, keys=keys)) as world:
        await fill(world.state)
        note = await world.exporter.export()
        before = await look(world.state)
        assert (note.file_count, note.missing_count, note.missing_bytes) == (8, 1, 4000)
        assert await left_over(world.state) == []
        assert await world.state.engine.list_snapshots() == []
        assert world.state.engine.check() == []
    shutil.rmtree(tmp_path / "state")
    if keys is KEYS:
        assert b"second name" not in b"".join(objects(tmp_path).values())
    chosen = await bring(tmp_path, keys=keys)
    assert (chosen.imported.missing_count, chosen.imported.missing_paths) == (1, (b"/local",))
    assert chosen.passed_over == ()
    async with mounted(World(tmp_path, "new", keys=keys)) as world:
        assert await look(world.state) == before
        damage = world.state.engine.check()
        assert [each for each in damage if "neither a raw file nor a form" not in each] == []
        assert len(damage) == 1
        for number in range(5):
            ino = before[b"/small-%d" % number][0]
            assert await world.state.content(ino) == compressible(3000 + number, number)
        assert await world.state.content(before[b"/large"][0]) == compressible(50_000, 77)
        empty = await hydrate(world.state.parts, before[b"/empty"][0])
        assert world.state.raw_store.path(empty.raw).read_bytes() == b""
        parent = before[b"/d/\xff\xfe \n"][0]
        assert await world.state.engine.effective_codec(parent) == "zstd:9"


async def test_what_is_imported_has_the_settings_of_a_new_state(tmp_path: Path) -> None:
    """Else it had no automatic snapshots; and the mover looked for no mark (`AccessStats`)."""
    for name, mark in (("plain", b"user.x"), ("marked", PRIORITY_XATTR)):
        root = tmp_path / name
        root.mkdir()
        async with mounted(World(root)) as world:
            await fill(world.state)
            await world.state.engine.set_xattr(ROOT_INODE, mark, b"70", 0, 1)
            world.state.engine.commit_nowait()
            await world.exporter.export()
        await bring(root)
        async with mounted(World(root, "new")) as world:
            settings = world.state.engine
            assert await settings.get_setting(DEFAULT_SETTING) == b"1"
            is_marked = await settings.get_setting(MARKED_SETTING) is not None
            assert is_marked == (mark == PRIORITY_XATTR)


async def test_an_export_shows_one_instant_while_files_change(tmp_path: Path) -> None:
    """Whatever is renamed, removed and written between two of its reads."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        before = await look(world.state)
        state, engine = world.state, world.state.engine
        reader = NearReader(engine, state.state_dir)
        read = reader.read_parts
        changed: list[int] = []

        async def change_first(
            table: str, snap: SnapshotId, after: ExportPosition, paths: Sequence[Path]
        ) -> dict[str, Any]:
            number = len(changed)
            if table == "published":
                return await read(table, snap, after, paths)
            changed.append(number)
            await engine.rename(
                ROOT_INODE, b"small-%d" % number, ROOT_INODE, b"moved-%d" % number, 0, 9
            )
            await state.unlink(f"small-{number + 2}")
            await state.create(f"later-{number}", b"later")
            await engine.set_xattr(ROOT_INODE, b"user.later", b"%d" % number, 0, 9)
            engine.commit_nowait()
            await reader.publish()
            return await read(table, snap, after, paths)

        reader.read_parts = change_first  # type: ignore[method-assign]  # for this reader alone
        world.exporter._writer._reader = reader
        await world.exporter.export()
        assert len(changed) == 2
    await bring(tmp_path)
    async with mounted(World(tmp_path, "new")) as world:
        assert await look(world.state) == before
        for number in range(5):
            # Those that were removed are garbage that the export holds.
            ino = before[b"/small-%d" % number][0]
            assert await world.state.content(ino) == compressible(3000 + number, number)


async def test_a_file_that_is_open_for_writing_has_no_bytes_of_later(tmp_path: Path) -> None:
    """Written on, sealed and uploaded between the instant and the first read."""
    first, second = compressible(3000, 1), compressible(7000, 2)
    async with mounted(World(tmp_path)) as world:
        state, engine = world.state, world.state.engine
        ino = await state.create("log", b"")
        inode = await engine.get_inode(ino)
        await engine.unseal(ino, inode.raw)
        engine.commit_nowait()
        state.raw_store.path(inode.raw).write_bytes(first)
        reader = NearReader(engine, state.state_dir)
        publish = reader.publish

        async def go_on_first() -> None:
            state.raw_store.path(inode.raw).write_bytes(second)
            await state.seal(ino)
            await upload(state.parts, ino)
            await publish()

        reader.publish = go_on_first  # type: ignore[method-assign]  # for this reader alone
        world.exporter._writer._reader = reader
        note = await world.exporter.export()
        assert (note.missing_count, note.missing_bytes) == (1, len(first))
        assert await state.content(ino) == second
        assert await left_over(state) == []
        assert engine.check() == []
    chosen = await bring(tmp_path)
    assert chosen.imported.missing_paths == (b"/log",)
    async with mounted(World(tmp_path, "new")) as world:
        assert (await world.state.engine.get_inode(ino)).size == len(first)


async def test_what_has_not_changed_is_not_stored_again(tmp_path: Path) -> None:
    """Neither a part nor, where nothing has changed, the export."""
    # Half of what a part has on average, as in earnest: else ends that come too soon move others.
    limits = PartLimits(row_count_min=16, end_count=32, fetch_count=16)
    async with mounted(World(tmp_path, limits=limits)) as world:
        await fill(world.state)
        for number in range(600):
            await world.state.create(f"file-{number}", b"")
        await world.exporter.export()
        first = objects(tmp_path)
        assert world.exporter.progress.stored_count == len(first) - 2 > 10
        await world.exporter.export()
        assert objects(tmp_path) == first
        assert len(world.exporter.stored.notes) == 1
        await world.state.engine.set_xattr(InodeNo(1), b"user.a", b"b", 0, 1)
        await world.exporter.export()
        assert world.exporter.progress.stored_count == 1
        await world.state.unlink("file-300")
        await world.exporter.export()
        # The file, the directory that had it, its name, and where the bytes lie.
        assert world.exporter.progress.stored_count <= 4
        before = await look(world.state)
    await bring(tmp_path)
    async with mounted(World(tmp_path, "new")) as world:
        assert await look(world.state) == before


async def test_an_export_that_is_gone_is_not_the_newest(tmp_path: Path) -> None:
    """Nothing has changed, and yet nothing is there: neither may be said of an empty bucket."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        first = await world.exporter.export()
        shutil.move(tmp_path / "store", tmp_path / "away")
        with pytest.raises(StoreUnavailableError):
            await world.exporter.export()
        assert list(world.exporter.stored.notes) == [first]
        shutil.move(tmp_path / "away", tmp_path / "store")
        shutil.rmtree(tmp_path / "store" / PREFIX)
        await world.exporter.export()
        before = await look(world.state)
    await bring(tmp_path)
    async with mounted(World(tmp_path, "new")) as world:
        assert await look(world.state) == before


async def test_objects_stay_as_long_as_an_export_names_them(tmp_path: Path) -> None:
    """A removed file, and a batch that was compacted; then the exports of before go."""
    async with mounted(World(tmp_path)) as world:
        state = world.state
        await fill(state)
        before = await look(state)
        await world.exporter.export()
        for name in ("large", "small-1", "small-2", "small-3"):
            await state.unlink(name)
        [batch] = await state.engine.list_sparse_batches(99, 10)
        await compact(state.parts, batch)
        while await state.garbage.collect(100):
            pass
        assert await state.engine.count_held(0) == 2
        await bring(tmp_path)
        async with mounted(World(tmp_path, "new")) as other:
            for number in range(5):
                ino = before[b"/small-%d" % number][0]
                assert await other.state.content(ino) == compressible(3000 + number, number)
            assert await other.state.content(before[b"/large"][0]) == compressible(50_000, 77)
        for number in range(3):
            await state.create(f"more-{number}", b"more")
            await world.exporter.export()
            assert len(await list_exports(world.store)) == min(number + 2, 2)
        while await state.garbage.collect(100):
            pass
        assert await state.engine.count_held(0) == 0
        assert await left_over(state) == []


async def test_the_former_state_keeps_its_store_until_it_is_taken_over(tmp_path: Path) -> None:
    """Nothing is put, removed, compacted or marked; then the former one is refused."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
    await bring(tmp_path)
    everything = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    async with mounted(World(tmp_path, "new")) as world:
        state = world.state
        ino = await state.create("written", compressible(4000, 9))
        with pytest.raises(NotSupportedError, match="take-over"):
            await upload(state.parts, ino)
        with pytest.raises(NotSupportedError, match="take-over"):
            await upload_batch(state.parts, [ino])
        with pytest.raises(NotSupportedError, match="take-over"):
            await world.exporter.export()
        with pytest.raises(NotSupportedError, match="take-over"):
            world.exporter.begin_now()
        await state.unlink("large")
        while await state.garbage.collect(100):
            pass
        await world.generation.run()
        hydrated = (await state.engine.lookup(ROOT_INODE, b"small-1")).ino
        await state.content(hydrated)
        await drop_raw(state.parts, hydrated)
        assert await state.forms(hydrated) == {FormKind.REMOTE}
        assert everything == {
            path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")
        }
    state = State(tmp_path / "new")
    store = DirectoryStore(tmp_path / "store", 30.0, 4)
    await take_over(state.engine, {"": store}, state.packed_store.temporary_path)
    with pytest.raises(UsageError, match="belongs to this state"):
        await take_over(state.engine, {"": store}, state.packed_store.temporary_path)
    state.close()
    async with mounted(World(tmp_path, "new")) as world:
        await upload(world.state.parts, ino)
        for number in range(3):
            await world.state.create(f"more-{number}", b"more")
            await world.exporter.export()
        while await world.state.garbage.collect(100):
            pass
        assert await world.state.engine.count_held(0) == 0
        assert await left_over(world.state) == []
    former = World(tmp_path)
    with pytest.raises(UsageError, match="older copy"):
        await former.mount()
    former.close()


async def test_a_former_state_that_is_mounted_hears_of_a_take_over(tmp_path: Path) -> None:
    """Before it removes an object, and before it says that an export is complete."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
        await bring(tmp_path)
        state = State(tmp_path / "new")
        await take_over(state.engine, {"": world.store}, state.packed_store.temporary_path)
        state.close()
        # At once: its own exports would go as parts that no export needs.
        before = objects(tmp_path)
        await world.state.create("later", b"later")
        with pytest.raises(Exception, match="older copy"):
            await world.exporter.export()
        assert objects(tmp_path) == before
        world.generation._confirmed_s = -1e9
        with pytest.raises(Exception, match="older copy"):
            await world.generation.confirm_anew()


async def test_what_no_complete_export_needs_is_listed_and_removed_on_request(
    tmp_path: Path,
) -> None:
    """Parts of a killed export, and of one that was forgotten; never those of another state."""
    async with mounted(World(tmp_path, "other")) as world:
        await world.state.create("file", b"x")
        await world.exporter.export()
    other = objects(tmp_path)
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
        own = objects(tmp_path)
        first = world.exporter.stored.notes[0]
        search = OrphanSearch(world.state.parts, world.exporter.stored)
        found = await search.look(SearchPlace.EXPORTS)
        assert (found.count, found.foreign_count) == (0, len(other))
        root = root_of(world.state.engine.state_id)
        left = {
            f"{root}parts/{'0' * 16}-1-{'a' * 16}",
            f"{root}{'0' * 15}1/contents-{'b' * 16}",
            f"{root}{'0' * 15}1/done.json",
        }
        for key in left:
            path = tmp_path / "store" / key
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"left")
        found = await search.look(SearchPlace.EXPORTS)
        assert ({*found.names}, found.bytes, found.taken_count) == (left, 12, 0)
        # An import must not take for complete what has lost a part.
        assert found.names[0].endswith("done.json")
        assert objects(tmp_path).keys() == own.keys() | left
        found = await search.look(SearchPlace.EXPORTS, take=True)
        assert found.taken_count == 3
        assert objects(tmp_path) == own
        # Nothing is told where it is not known what is needed.
        done = tmp_path / "store" / done_key(world.state.engine.state_id, first.snap)
        done.write_bytes(b"{}")
        with pytest.raises(CorruptDataError):
            await search.look(SearchPlace.EXPORTS, take=True)
        assert objects(tmp_path).keys() == own.keys()


async def left_over(state: State) -> list[str]:
    """Return what nothing refers to, once the garbage is removed."""
    while await state.garbage.collect(100):
        pass
    return await state.leaks()


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "drop":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        at = {"flip": len(data) // 2, "flip the first": 0, "flip the last": len(data) - 1}[how]
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


HOWS = {
    "clear": (NO_KEYS, ("flip", "flip the first", "drop")),
    "encrypted": (KEYS, ("flip", "flip the last", "cut")),
}


@pytest.mark.parametrize("kind", HOWS)
async def test_each_damage_is_refused_or_the_export_before_is_taken(
    tmp_path: Path, kind: str
) -> None:
    keys, hows = HOWS[kind]
    async with mounted(World(tmp_path, keys=keys)) as world:
        await fill(world.state)
        await world.exporter.export()
        first, before = objects(tmp_path), await look(world.state)
        for number in range(3):
            # Each table has changed: the second export shares no part with the first.
            await world.state.create(f"more-{number}", compressible(500, number))
        ino = (await world.state.engine.lookup(ROOT_INODE, b"local")).ino
        await upload(world.state.parts, ino)
        await world.exporter.export()
        second, after = objects(tmp_path), await look(world.state)
    newer = second.keys() - first.keys()
    newest = str((await list_exports(world.store))[0])
    assert len(newer) == len(first) == 5
    for key in sorted(newer):
        for how in hows:
            damage(tmp_path / "store" / key, how)
            chosen = await bring(tmp_path, keys=keys)
            # Without its last object it is no export.
            is_gone = key.endswith("done.json") and how == "drop"
            assert len(chosen.passed_over) == (0 if is_gone else 1), (key, how)
            assert chosen.imported.usage.inode_count < len(after)
            state = State(tmp_path / "new", keys=keys)
            assert await look(state) == before, (key, how)
            state.close()
            shutil.rmtree(tmp_path / "new")
            with pytest.raises(UsageError, match=r"nothing was imported|no export"):
                await bring(tmp_path, keys=keys, at=newest)
            assert not (tmp_path / "new" / "format").exists()
            (tmp_path / "store" / key).write_bytes(second[key])
    for key in (*first, *newer):
        if key.endswith("done.json"):
            damage(tmp_path / "store" / key, "cut")
    with pytest.raises(UsageError, match="nothing was imported"):
        await bring(tmp_path, keys=keys)
    assert not any((tmp_path / "new").glob("*"))


async def test_wrong_keys_urls_and_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(UsageError, match="no complete export"):
        await bring(tmp_path)
    async with mounted(World(tmp_path, keys=KEYS)) as world:
        await fill(world.state)
        await world.exporter.export()
    with pytest.raises(UsageError, match="encrypted with key"):
        await bring(tmp_path)
    with pytest.raises(UsageError, match="encrypted with key"):
        await bring(tmp_path, keys=OTHER_KEYS)
    with pytest.raises(UsageError, match="no export 'x'"):
        await bring(tmp_path, keys=KEYS, at="x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        await bring(tmp_path, "full", keys=KEYS)
    with pytest.raises(UsageError, match="state directory already"):
        await bring(tmp_path, "state", keys=KEYS)
    assert not (tmp_path / "new" / "format").exists()
    async with mounted(World(tmp_path, "second")) as world:
        await world.state.create("file", b"x")
        await world.exporter.export()
    with pytest.raises(UsageError, match="several states"):
        await bring(tmp_path, keys=KEYS)
    known = world.state.engine.state_id
    [second] = [each for each in await list_exports(world.store) if each.state_id == known]
    with pytest.raises(UsageError, match="is in clear"):
        await bring(tmp_path, keys=KEYS, at=str(second), encrypted=True)
    chosen = await bring(tmp_path, at=str(second).partition("-")[0])
    assert chosen.export == second


async def test_an_export_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    """At whatever call of the store; and nothing is left over."""
    async with mounted(World(tmp_path)) as world:
        await fill(world.state)
        await world.exporter.export()
        before = await look(world.state)
        for number in range(1, 6):
            await world.state.create(f"more-{number}", b"more")
            for call in ("put_file", "get_range"):
                world.state.faults.add(Fault(FaultKind.UNAVAILABLE, call, skip_count=number))
                with contextlib.suppress(StoreUnavailableError):
                    await world.exporter.export()
                world.state.faults.clear()
            assert await world.state.engine.list_snapshots() == []
        assert world.exporter.stored.notes
        assert before
        await world.exporter.export()
        assert await left_over(world.state) == []
        after = await look(world.state)
    await bring(tmp_path)
    async with mounted(World(tmp_path, "new")) as world:
        assert await look(world.state) == after


def test_exports_are_due_by_the_age_of_the_newest(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        try:
            due = partial(world.exporter._due_s, trio.current_time())
            assert 3590 < due() <= 3600
            now_ns = time.time_ns()
            old = export_notes.ExportNote(InodeNo(5), 1, True, now_ns - 10**13)  # type: ignore[arg-type]
            world.exporter.stored._notes = [old]
            assert 290 < due() <= 300
            world.exporter.stored._notes = [old._replace(checked_ns=now_ns - 600 * 10**9)]
            assert 2990 < due() <= 3000
            world.state.parts.source = "another's"
            assert due() == float("inf")
        finally:
            world.close()

    trio.run(main)


def test_the_note_of_exports_comes_back() -> None:
    note = export_notes.ExportNote(InodeNo(7), 1, True, 2, 3, 4, 5, 6)  # type: ignore[arg-type]
    assert export_notes.load_notes(export_notes.dump_notes([note])) == [note]
    assert export_notes.load_notes(None) == []
    assert os.path.basename(export_notes.SETTING) == "exports"
