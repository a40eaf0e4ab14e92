"""Batches: remote forms of many files in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from memfs.errors import InvalidValueError
from memfs.metadata.records import (
    Batch,
    BatchMember,
    Blob,
    Form,
    FormReplacement,
    Intent,
    MoveKind,
    PlacedObject,
)
from memfs.types import NO_INODE, ROOT_INODE, FormCoding, FormKind, Generation, Place, RawId
from tests.contract.engine.making import DIGEST, NOW_NS, garbage_in, make_sealed, publish

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from tests.contract.engine.site import SqliteSite

KEY = "batches/1"
PART_BYTES = 1000


class Published(NamedTuple):
    """What `publish_batch` was given and returned."""

    members: list[BatchMember]
    outcomes: list[bool]


def member(engine: Engine, inode: Inode, number: int, key: str = KEY) -> BatchMember:
    """Return the part with that number of a batch."""
    blob = Blob(inode.blob or engine.reserve_blob(), inode.size, DIGEST)
    place = Place(key, number * PART_BYTES)
    form = Form(blob.blob, FormKind.REMOTE, place, FormCoding("lz4"), PART_BYTES)
    return BatchMember(inode.ino, inode.generation, blob, form)


async def publish_batch(engine: Engine, *inodes: Inode, key: str = KEY) -> Published:
    """Publish a batch of these files."""
    members = [member(engine, inode, number, key) for number, inode in enumerate(inodes)]
    intent = await engine.begin_batch(key, NOW_NS)
    size_bytes = len(inodes) * PART_BYTES
    return Published(members, await engine.publish_batch(intent, key, size_bytes, members))


async def make_files(engine: Engine, count: int) -> list[Inode]:
    return [await make_sealed(engine, b"file-%d" % number) for number in range(count)]


async def live(engine: Engine) -> list[Batch]:
    """Return all batches."""
    return await engine.list_sparse_batches(101, 100)


async def test_all_files_of_a_batch_get_their_forms_in_one_step(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    files = await make_files(engine, 3)
    published = await publish_batch(engine, *files)
    assert published.outcomes == [True] * 3
    await engine.commit()
    engine = engine_site.crash()
    assert await engine.list_batched(KEY) == [each.form for each in published.members]
    for file, each in zip(files, published.members, strict=True):
        inode = await engine.get_inode(file.ino)
        assert await engine.list_forms(inode.blob) == [each.form]
    assert await live(engine) == [Batch(KEY, 3000, 3, 3000)]
    usage = await engine.usage()
    assert (usage.remote_count, usage.remote_bytes) == (3, 3000)
    assert await engine.list_intents() == []
    assert engine.check() == []


async def test_a_batch_under_way_is_known_and_rolled_back(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    intent = await engine.begin_batch(KEY, NOW_NS)
    await engine.commit()
    engine = engine_site.crash()
    assert await engine.list_intents() == [
        Intent(intent, MoveKind.BATCH, NO_INODE, Generation(0), KEY, NOW_NS)
    ]
    await engine.cancel_intent(intent)
    assert await garbage_in(engine) == {(FormKind.REMOTE, KEY)}


async def test_files_that_moved_on_are_left_out(engine: Engine) -> None:
    """Rewritten, deleted, uploaded by itself: their parts are dead from the start."""
    rewritten, deleted, uploaded, kept = await make_files(engine, 4)
    members = [
        member(engine, inode, number)
        for number, inode in enumerate((rewritten, deleted, uploaded, kept))
    ]
    await engine.unseal(rewritten.ino, rewritten.raw)
    await engine.unlink(ROOT_INODE, b"file-1", NOW_NS)
    await engine.reap([deleted.ino])
    assert await publish(engine, uploaded, FormKind.REMOTE)
    intent = await engine.begin_batch(KEY, NOW_NS)
    assert await engine.publish_batch(intent, KEY, 4000, members) == [False, False, False, True]
    assert await live(engine) == [Batch(KEY, 4000, 1, 1000)]
    assert (FormKind.REMOTE, KEY) not in await garbage_in(engine)
    assert engine.check() == []


async def test_what_nothing_names_is_found_among_other_locations(engine: Engine) -> None:
    """Forms alone and in batches, garbage, and what a move writes are all named."""
    alone, batched, deleted, moving = await make_files(engine, 4)
    assert await publish(engine, alone, FormKind.REMOTE)
    assert await publish(engine, deleted, FormKind.REMOTE)
    await publish_batch(engine, batched)
    await engine.unlink(ROOT_INODE, b"file-2", NOW_NS)
    await engine.reap([deleted.ino])
    await engine.begin_intent(MoveKind.UPLOAD, moving.ino, moving.generation, "blobs/new", NOW_NS)
    inode = await engine.get_inode(alone.ino)
    [form] = await engine.list_forms(inode.blob)
    garbage = [location for kind, location in await garbage_in(engine) if kind == FormKind.REMOTE]
    assert len(garbage) == 1
    named = [form.place.key, KEY, *garbage, "blobs/new"]
    assert await engine.find_unreferenced(FormKind.REMOTE, [*named, "blobs/lost"]) == ["blobs/lost"]
    assert await engine.find_unreferenced(FormKind.PACKED, [form.place.key]) == [form.place.key]
    assert await engine.find_unreferenced(FormKind.REMOTE, []) == []


async def test_objects_are_listed_once_with_all_that_lies_in_them(engine: Engine) -> None:
    """One of a file with its own size, a batch with that of the whole object; in pages."""
    files = await make_files(engine, 5)
    for file in files[:2]:
        assert await publish(engine, file, FormKind.REMOTE)
    assert (await publish_batch(engine, *files[2:])).outcomes == [True] * 3
    forms = [
        (await engine.list_forms((await engine.get_inode(file.ino)).blob))[0] for file in files
    ]
    [batch] = await live(engine)
    expected = sorted(
        {
            *(PlacedObject(form.place.key, form.stored_bytes) for form in forms[:2]),
            PlacedObject(batch.key, batch.size_bytes),
        }
    )
    assert await engine.list_placed("", 10) == expected
    assert await engine.list_placed("", 2) == expected[:2]
    assert await engine.list_placed(expected[1].key, 2) == expected[2:]
    assert await engine.list_blobs_at(batch.key) == [form.blob for form in forms[2:]]
    assert await engine.list_blobs_at(forms[0].place.key) == [forms[0].blob]
    assert await engine.list_blobs_at("blobs/other") == []


async def test_a_batch_that_nobody_wants_is_garbage_at_once(engine: Engine) -> None:
    [file] = await make_files(engine, 1)
    await engine.unseal(file.ino, file.raw)
    assert (await publish_batch(engine, file)).outcomes == [False]
    assert await live(engine) == []
    assert (FormKind.REMOTE, KEY) in await garbage_in(engine)


async def test_the_object_goes_with_its_last_form(engine: Engine) -> None:
    first, second = await make_files(engine, 2)
    await publish_batch(engine, first, second)
    await engine.unseal(first.ino, first.raw)
    assert await live(engine) == [Batch(KEY, 2000, 1, 1000)]
    assert await garbage_in(engine) == set()
    assert (await engine.usage()).remote_bytes == 1000
    assert await engine.drop_form(second.ino, second.generation, FormKind.REMOTE)
    assert await live(engine) == []
    assert await garbage_in(engine) == {(FormKind.REMOTE, KEY)}
    assert engine.check() == []


async def test_sparse_batches_come_first_and_full_ones_not_at_all(engine: Engine) -> None:
    files = await make_files(engine, 12)
    for number, key in enumerate(("full", "third", "quarter")):
        await publish_batch(engine, *files[number * 4 : number * 4 + 4], key=key)
    for file in (files[4], *files[8:11]):
        await engine.unseal(file.ino, file.raw)
    assert [batch.key for batch in await engine.list_sparse_batches(76, 10)] == ["quarter", "third"]
    assert [batch.key for batch in await engine.list_sparse_batches(76, 1)] == ["quarter"]
    assert [batch.key for batch in await engine.list_sparse_batches(50, 10)] == ["quarter"]


async def test_compaction_moves_forms_and_frees_the_old_object(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    files = await make_files(engine, 3)
    await publish_batch(engine, *files)
    await engine.unseal(files[0].ino, files[0].raw)
    former = await engine.list_batched(KEY)
    replacements = [
        FormReplacement(form, form._replace(place=Place("new", number * 900), stored_bytes=900))
        for number, form in enumerate(former)
    ]
    # Between reading and publishing one of them is rewritten.
    await engine.unseal(files[2].ino, files[2].raw)
    intent = await engine.begin_batch("new", NOW_NS)
    assert await engine.replace_batched(intent, "new", 1800, replacements) == [True, False]
    await engine.commit()
    engine = engine_site.crash()
    assert await live(engine) == [Batch("new", 1800, 1, 900)]
    assert await garbage_in(engine) == {(FormKind.REMOTE, KEY)}
    inode = await engine.get_inode(files[1].ino)
    assert await engine.list_forms(inode.blob) == [replacements[0].form]
    assert (await engine.usage()).remote_bytes == 900
    assert engine.check() == []


async def test_a_whole_object_is_taken_into_a_batch(engine: Engine) -> None:
    [file] = await make_files(engine, 1)
    assert await publish(engine, file, FormKind.REMOTE, "single")
    inode = await engine.get_inode(file.ino)
    [former] = await engine.list_forms(inode.blob)
    form = former._replace(place=Place(KEY, 0))
    intent = await engine.begin_batch(KEY, NOW_NS)
    assert await engine.replace_batched(
        intent, KEY, former.stored_bytes, [FormReplacement(former, form)]
    ) == [True]
    assert await garbage_in(engine) == {(FormKind.REMOTE, "single")}


async def test_hydrated_files_share_no_fate_with_their_batch(engine: Engine) -> None:
    """The raw file goes and comes; the batch stays."""
    [file] = await make_files(engine, 1)
    await publish_batch(engine, file)
    assert await engine.drop_raw(file.ino, file.generation)
    assert (await engine.get_inode(file.ino)).raw == RawId(0)
    assert not await engine.drop_form(file.ino, file.generation, FormKind.REMOTE)
    assert len(await live(engine)) == 1


@pytest.mark.parametrize(
    "place", [Place("other", 0), Place(KEY), Place(KEY, -1), Place(KEY, 0, "x")]
)
async def test_a_form_outside_of_its_batch_is_refused(engine: Engine, place: Place) -> None:
    [file] = await make_files(engine, 1)
    wrong = member(engine, file, 0)
    wrong = wrong._replace(form=wrong.form._replace(place=place))
    intent = await engine.begin_batch(KEY, NOW_NS)
    with pytest.raises(InvalidValueError):
        await engine.publish_batch(intent, KEY, 1000, [wrong])
    assert len(await engine.list_intents()) == 1
