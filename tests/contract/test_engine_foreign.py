"""Foreign objects: files have their bytes, and listings find them again."""

from __future__ import annotations

import random
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from memfs.content import sources
from memfs.errors import AlreadyExistsError, InvalidValueError, NotFoundError, UsageError
from memfs.metadata.foreign import (
    AdoptedFile,
    Conflict,
    ForeignDirectory,
    ForeignObject,
    Source,
    SourceCounts,
    WhenGone,
)
from memfs.metadata.records import NewInode
from memfs.metadata.sqlite import opening
from memfs.metadata.sqlite.format import FOREIGN_NUMBER, FORMAT_NUMBER
from memfs.types import NO_BLOB, NO_RAW, ROOT_INODE, FormKind, Generation, InodeNo
from tests.contract.engine.making import (
    NOW_NS,
    garbage_in,
    hydrate,
    make_directory,
    make_file,
    make_sealed,
    names_in,
    publish,
    seal,
)
from tests.contract.engine.site import local_only

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from memfs.types import SourceId
    from tests.contract.engine.site import SqliteSite

URL = "s3://bucket/prefix"
FIRST = Generation(1)
SIZE = 5_000


async def add_source(engine: Engine, root: InodeNo = ROOT_INODE) -> Source:
    return await engine.add_source(URL, root, 0, WhenGone.KEEP, "{}")


def object_of(source: SourceId, key: bytes, *, etag: str = "e1", ino: int = 0) -> ForeignObject:
    return ForeignObject(
        ino=InodeNo(ino),
        generation=FIRST,
        source=source,
        key=key,
        etag=etag,
        version="",
        size=SIZE,
        mtime_ns=NOW_NS - 7,
        digest=None,
        checked_ns=NOW_NS,
        ours=False,
        current=True,
        conflict=Conflict.NONE,
    )


def file_of(
    engine: Engine, source: SourceId, key: bytes, parent: InodeNo = ROOT_INODE, *, etag: str = "e1"
) -> AdoptedFile:
    new = NewInode(engine.reserve_ids()[0], stat.S_IFREG | 0o640, 7, 8, NOW_NS)
    name = key.rpartition(b"/")[2]
    return AdoptedFile(parent, name, new, object_of(source, key, etag=etag, ino=new.ino))


async def adopt(
    engine: Engine, source: SourceId, key: bytes = b"key", *, etag: str = "e1"
) -> Inode:
    file = file_of(engine, source, key, etag=etag)
    assert await engine.adopt_files([file]) == [True]
    return await engine.get_inode(file.new.ino)


async def rewrite(engine: Engine, inode: Inode) -> Inode:
    """Write the file anew, with a new raw file."""
    after = await engine.unseal(inode.ino, engine.reserve_ids()[1])
    return await seal(engine, after, 123)


async def test_a_file_is_made_of_an_object_and_outlives_a_crash(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    source = await add_source(engine)
    key = b"a \xff'\"\0b"
    with pytest.raises(InvalidValueError):
        await engine.adopt_files([file_of(engine, source.source, key)])
    file = file_of(engine, source.source, key)._replace(name=b"name")
    assert await engine.adopt_files([file]) == [True]
    await engine.commit()
    engine = engine_site.crash()
    inode = await engine.lookup(ROOT_INODE, b"name")
    assert (inode.size, inode.mtime_ns, inode.raw, inode.blob, inode.flags) == (
        *(SIZE, NOW_NS - 7, NO_RAW, NO_BLOB, 0),
    )
    assert (inode.uid, inode.gid, stat.S_IMODE(inode.mode)) == (7, 8, 0o640)
    found = await engine.get_object(inode.ino)
    assert found == file.foreign
    assert await engine.find_object(source.source, key) == found
    assert await engine.list_sources() == [source]
    [form] = await engine.list_all_forms(inode)
    assert (form.kind, form.owned, form.stored_bytes) == (FormKind.REMOTE, False, SIZE)
    assert (form.place.store, form.place.etag) == (str(source.source), "e1")
    usage = await engine.usage()
    assert (usage.inode_count, usage.logical_bytes, usage.raw_count) == (2, SIZE, 0)
    assert usage == await engine.recount()


async def test_names_that_are_taken_and_keys_that_are_known_are_left_alone(engine: Engine) -> None:
    source = (await add_source(engine)).source
    own = await make_sealed(engine, b"taken")
    assert await engine.adopt_files(
        [file_of(engine, source, key) for key in (b"a", b"taken", b"b", b"a")]
    ) == [True, False, True, False]
    assert sorted(await names_in(engine)) == [b"a", b"b", b"taken"]
    assert await engine.lookup(ROOT_INODE, b"taken") == own
    assert await engine.get_object(own.ino) is None
    assert [each.key for each in await engine.list_objects(source, b"", 10)] == [b"a", b"b"]
    assert [each.key for each in await engine.list_objects(source, b"a", 10)] == [b"b"]
    assert [each.key for each in await engine.list_objects(source, b"", 10, b"a")] == [b"a"]
    assert await counted(engine, source) == (2, 0, 0)


async def test_a_removed_directory_takes_no_files(engine: Engine) -> None:
    source = (await add_source(engine)).source
    directory = await make_directory(engine, b"d")
    good = file_of(engine, source, b"good")
    await engine.rmdir(ROOT_INODE, b"d", NOW_NS)
    with pytest.raises(NotFoundError):
        await engine.adopt_files([good, file_of(engine, source, b"d/x", directory.ino)])
    assert await names_in(engine) == []


async def test_a_hydrated_file_lets_its_raw_file_go_for_the_object(engine: Engine) -> None:
    inode = await adopt(engine, (await add_source(engine)).source)
    assert await hydrate(engine, inode)
    raw = (await engine.get_inode(inode.ino)).raw
    assert raw
    assert await engine.drop_raw(inode.ino, inode.generation, raw)
    assert (FormKind.RAW, str(raw)) in await garbage_in(engine)
    assert (await engine.get_inode(inode.ino)).raw == NO_RAW


async def test_a_packed_form_may_be_dropped_beside_an_object(engine: Engine) -> None:
    inode = await adopt(engine, (await add_source(engine)).source)
    assert await hydrate(engine, inode)
    assert await publish(engine, await engine.get_inode(inode.ino), FormKind.PACKED)
    assert await engine.drop_raw(inode.ino, inode.generation)
    now = await engine.get_inode(inode.ino)
    kinds = [form.kind for form in await engine.list_all_forms(now)]
    assert kinds == [FormKind.PACKED, FormKind.REMOTE]
    assert await engine.drop_form(inode.ino, inode.generation, FormKind.PACKED)
    assert (await engine.get_inode(inode.ino)).blob == NO_BLOB


async def test_a_file_that_was_written_has_lost_its_object_but_not_the_row(engine: Engine) -> None:
    """A later listing knows what it was made of."""
    source = (await add_source(engine)).source
    inode = await rewrite(engine, await adopt(engine, source))
    assert await engine.list_all_forms(inode) == []
    assert not await engine.drop_raw(inode.ino, inode.generation)
    found = await engine.find_object(source, b"key")
    assert found is not None
    assert (found.ino, found.generation, found.current) == (inode.ino, FIRST, True)
    assert await garbage_in(engine) == set()


async def test_what_has_lost_its_last_name_is_gone_for_its_source(engine: Engine) -> None:
    source = (await add_source(engine)).source
    inode = await adopt(engine, source, b"a")
    await engine.link(inode.ino, ROOT_INODE, b"second", NOW_NS)
    await engine.unlink(ROOT_INODE, b"a", NOW_NS)
    assert await engine.list_gone(source, b"", 10) == []
    await engine.rename(ROOT_INODE, b"second", ROOT_INODE, b"third", 0, NOW_NS)
    assert (await engine.list_objects(source, b"", 10))[0].ino == inode.ino
    await engine.unlink(ROOT_INODE, b"third", NOW_NS)
    replaced = await adopt(engine, source, b"b")
    await make_sealed(engine, b"own")
    await engine.rename(ROOT_INODE, b"own", ROOT_INODE, b"b", 0, NOW_NS)
    assert await engine.list_gone(source, b"", 10) == [b"a", b"b"]
    assert await engine.list_gone(source, b"a", 10) == [b"b"]
    assert await engine.list_objects(source, b"", 10) == []
    # Who has it open reads on.
    assert len(await engine.list_all_forms(replaced)) == 1
    await engine.reap([inode.ino, replaced.ino])
    assert await engine.get_object(inode.ino) is None
    assert await garbage_in(engine) == set()
    await engine.clear_gone(source, [b"a"])
    assert await engine.list_gone(source, b"", 10) == [b"b"]


async def test_a_snapshot_keeps_names_and_etags(engine: Engine) -> None:
    """Not bytes: a raw file that is written in place is not copied for it."""
    source = (await add_source(engine)).source
    written, removed = await adopt(engine, source, b"w"), await adopt(engine, source, b"r")
    for inode in (written, removed):
        assert await hydrate(engine, inode)
    snapshot = await engine.create_snapshot("s", NOW_NS)
    assert not await engine.needs_copy(written.ino)
    raw = (await engine.get_inode(written.ino)).raw
    after = await engine.unseal(written.ino, raw)
    assert after.generation == FIRST + 1
    await seal(engine, after, 99)
    await engine.unlink(ROOT_INODE, b"r", NOW_NS)
    await engine.reap([removed.ino])
    for inode in (written, removed):
        was = await engine.inode_at(snapshot.snap, inode.ino)
        assert was.size == SIZE
        [form] = await engine.list_all_forms(was)
        assert form.place.etag == "e1"
        assert not await engine.can_detach(inode.ino)
        assert not await engine.detach_object(inode.ino)
    with pytest.raises(InvalidValueError):
        await engine.remove_source(source)
    await engine.delete_snapshot(snapshot.snap)
    while await engine.delete_snapshot_step(10):
        pass
    assert await engine.get_object(removed.ino) is None
    assert await engine.get_object(written.ino) is not None
    assert await engine.can_detach(written.ino)
    assert await engine.detach_object(written.ino)
    assert await engine.get_object(written.ino) is None


async def test_another_inode_takes_the_place_of_an_object_that_changed(engine: Engine) -> None:
    """In one change: no key is gone, and the former one is read on by who has it open."""
    source = (await add_source(engine)).source
    former = await adopt(engine, source)
    known = await engine.get_object(former.ino)
    assert known is not None
    async with engine.change():
        assert await engine.put_object(known._replace(current=False))
        await engine.unlink(ROOT_INODE, b"key", NOW_NS)
        later = await adopt(engine, source, etag="e2")
    assert await engine.list_gone(source, b"", 10) == []
    [now] = await engine.list_objects(source, b"", 10)
    assert (now.ino, now.etag) == (later.ino, "e2")
    with pytest.raises(AlreadyExistsError):
        await engine.put_object(known)
    assert await engine.get_object(former.ino) == known._replace(current=False)


async def test_what_is_known_of_an_object_changes_only_for_its_etag(engine: Engine) -> None:
    source = (await add_source(engine)).source
    inode = await adopt(engine, source)
    known = await engine.get_object(inode.ino)
    assert known is not None
    learned = known._replace(digest=bytes(32), checked_ns=9, conflict=Conflict.GONE)
    assert await engine.put_object(learned)
    assert await engine.get_object(inode.ino) == learned
    assert not await engine.put_object(known._replace(etag="other"))
    assert not await engine.put_object(known._replace(ino=ROOT_INODE))
    assert await engine.get_object(inode.ino) == learned


async def test_a_file_of_memfs_is_given_an_object(engine: Engine) -> None:
    """As publishing does; and one that only remembers a key has no byte of it."""
    source = (await add_source(engine)).source
    inode = await make_sealed(engine, b"own", size=SIZE)
    foreign = object_of(source, b"own", ino=inode.ino)._replace(ours=True)
    assert not await engine.attach_object(foreign._replace(generation=Generation(9)))
    assert await engine.attach_object(foreign)
    assert await engine.drop_raw(inode.ino, inode.generation)
    other = await make_file(engine, b"open")
    assert not await engine.attach_object(object_of(source, b"x", ino=other.ino))
    taken = object_of(source, b"x", ino=other.ino)
    taken = taken._replace(generation=Generation(0), conflict=Conflict.TAKEN)
    assert await engine.attach_object(taken)
    assert await engine.get_object(other.ino) == taken
    with pytest.raises(AlreadyExistsError):
        await engine.attach_object(object_of(source, b"own", ino=other.ino)._replace(generation=0))  # type: ignore[arg-type]


async def test_a_source_changes_and_goes(engine: Engine) -> None:
    source = await add_source(engine)
    changed = source._replace(problem="no", listed_ns=5, deleted=WhenGone.REMOVE)
    await engine.put_source(changed)
    assert await engine.list_sources() == [changed]
    inode = await adopt(engine, source.source)
    with pytest.raises(InvalidValueError):
        await engine.remove_source(source.source)
    await engine.unlink(ROOT_INODE, b"key", NOW_NS)
    await engine.reap([inode.ino])
    await engine.remove_source(source.source)
    assert await engine.list_sources() == []
    assert await engine.list_gone(source.source, b"", 10) == []
    with pytest.raises(NotFoundError):
        await engine.put_source(source)


async def test_a_change_that_is_undone_leaves_no_object(engine: Engine) -> None:
    source = (await add_source(engine)).source
    made: list[Inode] = []

    async def fail() -> None:
        async with engine.change():
            made.append(await adopt(engine, source))
            assert await engine.get_object(made[0].ino) is not None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await engine.get_object(made[0].ino) is None
    assert await counted(engine, source) == (0, 0, 0)


async def test_a_directory_stands_for_one_prefix_until_it_loses_its_name(engine: Engine) -> None:
    source = (await add_source(engine)).source
    first = await make_directory(engine, b"d")
    second = await make_directory(engine, b"e")
    assert await engine.get_directory(first.ino) is None
    row = ForeignDirectory(first.ino, source, b"d/", 0)
    assert await engine.add_directory(row)
    assert not await engine.add_directory(row._replace(prefix=b"other/"))
    assert not await engine.add_directory(row._replace(ino=second.ino))
    assert await engine.add_directory(ForeignDirectory(second.ino, source, b"e/", 0))
    assert await engine.get_directory(first.ino) == row
    assert await engine.find_directory(source, b"e/") == (second.ino, source, b"e/", 0)
    assert await engine.find_directory(source, b"f/") is None
    assert await counted(engine, source) == (0, 0, 2)
    await engine.set_listed(first.ino, 7)
    assert await counted(engine, source) == (0, 1, 1)
    listed = await engine.list_directories(source, b"", 10)
    assert [(each.prefix, each.listed_ns) for each in listed] == [(b"d/", 7), (b"e/", 0)]
    assert await engine.list_directories(source, b"d/", 10) == listed[1:]
    # A rename keeps it; the directory that is replaced loses it.
    await engine.rename(ROOT_INODE, b"d", ROOT_INODE, b"moved", 0, NOW_NS)
    assert await engine.get_directory(first.ino) == row._replace(listed_ns=7)
    await engine.rename(ROOT_INODE, b"moved", ROOT_INODE, b"e", 0, NOW_NS)
    assert await engine.list_gone(source, b"", 10) == [b"e/"]
    await engine.rmdir(ROOT_INODE, b"e", NOW_NS)
    assert await engine.list_gone(source, b"", 10) == [b"d/", b"e/"]
    assert await engine.get_directory(first.ino) is None


async def test_a_source_that_goes_takes_its_directories_along(engine: Engine) -> None:
    source = (await add_source(engine)).source
    directory = await make_directory(engine, b"d")
    await engine.add_directory(ForeignDirectory(directory.ino, source, b"d/", 0))
    await engine.forget_directories(source)
    assert await engine.get_directory(directory.ino) is None
    await engine.add_directory(ForeignDirectory(directory.ino, source, b"d/", 0))
    await engine.remove_source(source)
    assert await engine.get_directory(directory.ino) is None


@local_only
async def test_an_older_memfs_refuses_a_state_with_sources(
    engine_site: SqliteSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take such files for damaged. Once the last source is gone it opens the state."""
    engine = engine_site.engine
    source = await add_source(engine)
    engine = engine_site.reopen()
    assert engine_format(engine_site) == FOREIGN_NUMBER
    with monkeypatch.context() as older:
        older.setattr(opening, "FOREIGN_NUMBER", -1)
        with pytest.raises(UsageError, match="tables of format 4"):
            engine_site.reopen()
    engine = engine_site.reopen()
    assert await engine.list_sources() == [source]
    await engine.remove_source(source.source)
    engine_site.reopen()
    assert engine_format(engine_site) == FORMAT_NUMBER


def engine_format(site: SqliteSite) -> int:
    with sqlite3.connect(site.state_dir / "metadata.db") as connection:
        (number,) = connection.execute("pragma user_version").fetchone()
    connection.close()
    return int(number)


# --- how many there are --------------------------------------------------------------------------
async def counted(engine: Engine, source: SourceId, limit: int = 1000) -> SourceCounts:
    while (counts := await engine.count_source(source, limit)) is None:
        pass
    return counts


async def present_counts(engine: Engine, source: SourceId) -> SourceCounts:
    """Return how many rows there are, by looking at each."""
    objects = await engine.list_objects(source, b"", 1000)
    found = [await engine.find_directory(source, b"")]
    rows = [row for row in found if row] + await engine.list_directories(source, b"", 1000)
    listed = sum(bool(row.listed_ns) for row in rows)
    return SourceCounts(len(objects), listed, len(rows) - listed)


@pytest.mark.parametrize("seed", range(3))
async def test_rows_of_sources_are_counted_in_steps_while_they_change(
    engine: Engine, seed: int
) -> None:
    rng = random.Random(seed)
    source, other = (await add_source(engine)).source, (await add_source(engine)).source
    files: dict[bytes, Inode] = {}
    directories: dict[bytes, InodeNo] = {}

    async def adopt_one() -> None:
        key = b"k%03d" % rng.randrange(200)
        if key not in files:
            await engine.clear_gone(source, [key])
            files[key] = await adopt(engine, source, key)

    async def remove_one() -> None:
        if files:
            key = rng.choice(sorted(files))
            inode = files.pop(key)
            await engine.unlink(ROOT_INODE, key, NOW_NS)
            await engine.reap([inode.ino])

    async def change_one() -> None:
        if files:
            foreign = await engine.get_object(files[rng.choice(sorted(files))].ino)
            assert foreign is not None
            assert await engine.put_object(foreign._replace(checked_ns=NOW_NS + 1))

    async def forget_one() -> None:
        """It is written, and then of no source any more."""
        if files:
            key = rng.choice(sorted(files))
            await rewrite(engine, files[key])
            assert await engine.detach_object(files[key].ino)
            await engine.unlink(ROOT_INODE, key, NOW_NS)
            del files[key]

    async def make_one_directory() -> None:
        prefix = b"" if not directories else b"d%03d/" % rng.randrange(50)
        if prefix not in directories:
            made = await make_directory(engine, b"d" + (prefix.rstrip(b"/") or b"root"))
            row = ForeignDirectory(made.ino, source, prefix, rng.randrange(2))
            assert await engine.add_directory(row)
            directories[prefix] = made.ino

    async def list_one() -> None:
        if directories:
            await engine.set_listed(directories[rng.choice(sorted(directories))], NOW_NS)

    async def remove_one_directory() -> None:
        if directories:
            prefix = rng.choice(sorted(directories))
            del directories[prefix]
            await engine.rmdir(ROOT_INODE, b"d" + (prefix.rstrip(b"/") or b"root"), NOW_NS)

    async def fail() -> None:
        async with engine.change():
            await adopt(engine, source, b"undone")
            raise ZeroDivisionError

    async def undo_one() -> None:
        with pytest.raises(ZeroDivisionError):
            await fail()

    async def step() -> None:
        await engine.count_source(source, 3)

    steps = [adopt_one, adopt_one, remove_one, change_one, forget_one, undo_one, step, step, step]
    steps += [make_one_directory, make_one_directory, list_one, remove_one_directory]
    for _ in range(60):
        for _ in range(10):
            await rng.choice(steps)()
        assert await counted(engine, source, 3) == await present_counts(engine, source)
        if rng.randrange(8) == 0:
            await undo_one()
    assert await counted(engine, other) == (0, 0, 0)
    await engine.forget_directories(source)
    assert (await counted(engine, source))[1:] == (0, 0)


async def test_what_was_counted_once_is_not_counted_again(
    engine_site: SqliteSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_site.engine
    source = (await add_source(engine)).source
    for number in range(20):
        await adopt(engine, source, b"%d" % number)
    assert await engine.count_source(source, 10) is None
    assert await counted(engine, source, 10) == (20, 0, 0)

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the tables were asked")

    monkeypatch.setattr(engine_site._sqlite, "_rows", refuse)
    assert await engine.count_source(source, 10) == (20, 0, 0)


async def test_other_tasks_go_on_while_a_source_is_counted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ROWS_A_STEP", 5)
    source = (await add_source(engine)).source
    for number in range(20):
        await adopt(engine, source, b"%d" % number)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert await sources.count_rows(engine, source) == (20, 0, 0)
        nursery.cancel_scope.cancel()
    assert turns >= 3
