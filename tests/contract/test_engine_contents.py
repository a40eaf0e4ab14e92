"""Raw files, blobs, forms and garbage."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from memfs.errors import InvalidValueError, NotFoundError
from memfs.metadata.records import (
    AttributeChanges,
    Blob,
    Form,
    Inode,
    InodeFlags,
    MoveKind,
    NewInode,
    PendingMove,
    Seal,
    WorkCounts,
)
from memfs.types import (
    NO_BLOB,
    NO_RAW,
    ROOT_INODE,
    BlobId,
    FormCoding,
    FormKind,
    Generation,
    InodeNo,
    PendingCode,
    Place,
    RawId,
    Tier,
)
from tests.contract.engine.making import (
    DIGEST,
    NOW_NS,
    garbage_in,
    hydrate,
    make_file,
    make_sealed,
    publish,
    seal,
)

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine

GONE = InodeNo(1 << 40)


async def fresh(engine: Engine, inode: Inode) -> Inode:
    return await engine.get_inode(inode.ino)


def raw_garbage(inode: Inode) -> tuple[FormKind, str]:
    return FormKind.RAW, str(inode.raw)


# --- sealing -------------------------------------------------------------------------------------
async def test_seal_stores_size_and_times_once(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    first = Seal(file.ino, file.generation, 10, 1, 11, 12, 13)
    await engine.seal([first, first._replace(ino=GONE)])
    sealed = await fresh(engine, file)
    expected = file._replace(size=10, blocks=1, atime_ns=11, mtime_ns=12, ctime_ns=13, flags=0)
    assert expected == sealed
    await engine.seal([first._replace(size=99)])
    assert sealed == await fresh(engine, file)


async def test_seal_of_another_generation_does_nothing(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    unsealed = await engine.unseal(file.ino, file.raw)
    await engine.seal([Seal(file.ino, file.generation, 99, 1, 1, 1, 1)])
    assert unsealed == await fresh(engine, file)


async def test_unseal_begins_a_generation_and_drops_the_forms(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    assert await publish(engine, file, FormKind.PACKED, "packed/1")
    await engine.mark_durable([(file.ino, file.generation)])
    blob = (await fresh(engine, file)).blob
    unsealed = await engine.unseal(file.ino, file.raw)
    assert (2, NO_BLOB, InodeFlags.UNSEALED, file.raw) == (
        unsealed.generation,
        unsealed.blob,
        unsealed.flags,
        unsealed.raw,
    )
    assert {(FormKind.PACKED, "packed/1")} == await garbage_in(engine)
    with pytest.raises(NotFoundError):
        await engine.get_blob(blob)
    assert unsealed == await engine.unseal(file.ino, file.raw)


async def test_unseal_with_a_fresh_raw_file_discards_the_former(engine: Engine) -> None:
    """An open with O_TRUNC, also while another writer is there."""
    file = await make_sealed(engine, b"file")
    second = await engine.unseal(file.ino, engine.reserve_ids()[1])
    assert {raw_garbage(file)} == await garbage_in(engine)
    third = await engine.unseal(file.ino, engine.reserve_ids()[1])
    assert (second.generation + 1, third.raw) == (third.generation, third.raw)
    assert {raw_garbage(file), raw_garbage(second)} == await garbage_in(engine)


async def test_unseal_needs_a_regular_file_and_a_raw_file(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    with pytest.raises(InvalidValueError):
        await engine.unseal(file.ino, NO_RAW)
    with pytest.raises(InvalidValueError):
        await engine.unseal(ROOT_INODE, RawId(99))


async def test_unsealed_files_are_listed_in_pages(engine: Engine) -> None:
    files = [await make_file(engine, b"%d" % index) for index in range(5)]
    await seal(engine, files[2])
    first = await engine.list_unsealed(InodeNo(0), 2)
    rest = await engine.list_unsealed(first[-1].ino, 10)
    assert [files[0], files[1], files[3], files[4]] == first + rest


async def test_files_are_listed_until_they_are_durable(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    other = await make_sealed(engine, b"other")
    await make_file(engine, b"unsealed")
    assert [file, other] == await engine.list_not_durable(10)
    stale = Generation(file.generation + 1)
    await engine.mark_durable([(file.ino, stale), (GONE, stale), (other.ino, other.generation)])
    assert [file] == await engine.list_not_durable(10)
    assert (await fresh(engine, other)).flags == InodeFlags.DURABLE
    await engine.unseal(other.ino, other.raw)
    await seal(engine, await fresh(engine, other))
    assert len(await engine.list_not_durable(10)) == 2


async def test_work_is_counted_up_to_a_limit(engine: Engine) -> None:
    """What the lists would return, without their rows."""
    sealed = [await make_sealed(engine, b"sealed-%d" % number) for number in range(3)]
    for number in range(2):
        await make_file(engine, b"open-%d" % number)
    await engine.mark_durable([(sealed[0].ino, sealed[0].generation)])
    await engine.set_pending(
        PendingMove(sealed[0].ino, Tier.GLACIER, "down", 1, 10, 5, PendingCode.STORE)
    )
    file = sealed[1]
    await engine.begin_intent(MoveKind.UPLOAD, file.ino, file.generation, "key", NOW_NS)
    assert await engine.count_work(10) == WorkCounts(2, 2, 1, 1)
    assert await engine.count_work(1) == WorkCounts(1, 1, 1, 1)


# --- forms ---------------------------------------------------------------------------------------
async def test_published_form_is_found_by_its_blob(engine: Engine) -> None:
    file = await make_sealed(engine, b"file", size=1000)
    assert await publish(engine, file, FormKind.REMOTE, "key")
    assert await publish(engine, await fresh(engine, file), FormKind.PACKED, "packed/1")
    blob = (await fresh(engine, file)).blob
    assert Blob(blob, 1000, DIGEST) == await engine.get_blob(blob)
    forms = await engine.list_forms(blob)
    assert [
        Form(blob, FormKind.PACKED, Place("packed/1"), FormCoding("zstd:3"), 500),
        Form(blob, FormKind.REMOTE, Place("key"), FormCoding("zstd:3"), 500),
    ] == forms
    usage = await engine.usage()
    assert usage[4:8] == (1, 500, 1, 500)
    assert await engine.list_intents() == []


async def test_form_of_a_changed_file_is_refused_and_becomes_garbage(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    changed = await engine.unseal(file.ino, file.raw)
    assert not await publish(engine, file, FormKind.PACKED, "packed/old")
    assert not await publish(engine, changed, FormKind.PACKED, "packed/unsealed")
    expected = {(FormKind.PACKED, "packed/old"), (FormKind.PACKED, "packed/unsealed")}
    assert expected == await garbage_in(engine)
    assert await engine.list_intents() == []


async def test_form_of_a_reaped_file_becomes_garbage(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    intent = await engine.begin_intent(MoveKind.UPLOAD, file.ino, file.generation, "key", NOW_NS)
    await engine.unlink(ROOT_INODE, b"file", NOW_NS)
    await engine.reap([file.ino])
    blob = Blob(engine.reserve_blob(), file.size, DIGEST)
    form = Form(blob.blob, FormKind.REMOTE, Place("key"), FormCoding("none"), 10)
    assert not await engine.publish_form(file.ino, file.generation, blob, form, intent)
    assert {raw_garbage(file), (FormKind.REMOTE, "key")} == await garbage_in(engine)
    assert await engine.list_intents() == []


async def test_form_of_another_blob_than_the_inodes_is_refused(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    assert await publish(engine, file, FormKind.PACKED, "packed/1")
    # The record from before the publication asks for a blob of its own.
    assert not await publish(engine, file, FormKind.REMOTE, "key")
    assert {(FormKind.REMOTE, "key")} == await garbage_in(engine)


async def test_second_form_of_a_kind_is_refused_and_the_first_kept(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    assert await publish(engine, file, FormKind.PACKED, "packed/1")
    current = await fresh(engine, file)
    assert not await publish(engine, current, FormKind.PACKED, "packed/2")
    assert {(FormKind.PACKED, "packed/2")} == await garbage_in(engine)
    assert await publish(engine, current, FormKind.PACKED, "packed/1")
    assert {(FormKind.PACKED, "packed/2")} == await garbage_in(engine)


async def test_form_must_be_of_its_blob_and_not_raw(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    intent = await engine.begin_intent(MoveKind.PACK, file.ino, file.generation, "1", NOW_NS)
    blob = Blob(engine.reserve_blob(), file.size, DIGEST)
    for form in (
        Form(blob.blob, FormKind.RAW, Place("1"), FormCoding("none"), 1),
        Form(BlobId(blob.blob + 1), FormKind.PACKED, Place("1"), FormCoding("none"), 1),
    ):
        with pytest.raises(InvalidValueError):
            await engine.publish_form(file.ino, file.generation, blob, form, intent)
    assert (await fresh(engine, file)).blob == NO_BLOB


async def publish_shared(engine: Engine) -> tuple[Inode, Inode, BlobId]:
    """Let two files share one blob with one packed form."""
    first = await make_sealed(engine, b"first")
    second = await make_sealed(engine, b"second")
    assert await publish(engine, first, FormKind.PACKED, "packed/1")
    blob = (await fresh(engine, first)).blob
    shared = second._replace(blob=blob)
    assert await publish(engine, shared, FormKind.REMOTE, "key")
    return await fresh(engine, first), await fresh(engine, second), blob


async def test_shared_blob_lives_until_its_last_inode_leaves(engine: Engine) -> None:
    first, second, blob = await publish_shared(engine)
    assert blob == first.blob == second.blob
    await engine.unseal(first.ino, first.raw)
    assert await garbage_in(engine) == set()
    assert len(await engine.list_forms(blob)) == 2
    await engine.unlink(ROOT_INODE, b"second", NOW_NS)
    await engine.reap([second.ino])
    expected = {
        (FormKind.PACKED, "packed/1"),
        (FormKind.REMOTE, "key"),
        raw_garbage(second),
    }
    assert expected == await garbage_in(engine)


async def test_last_form_of_a_shared_blob_stays_while_any_sharer_needs_it(engine: Engine) -> None:
    """Dropping it for one that has a raw file would lose the bytes of the other."""
    first, second, blob = await publish_shared(engine)
    assert await engine.drop_form(first.ino, first.generation, FormKind.PACKED)
    assert await engine.drop_raw(second.ino, second.generation)
    assert not await engine.drop_form(first.ino, first.generation, FormKind.REMOTE)
    assert await hydrate(engine, await fresh(engine, second))
    assert await engine.drop_form(first.ino, first.generation, FormKind.REMOTE)
    assert (await fresh(engine, first)).blob == NO_BLOB
    assert (await fresh(engine, second)).blob == NO_BLOB
    with pytest.raises(NotFoundError):
        await engine.get_blob(blob)


async def test_packed_list_follows_every_sharer(engine: Engine) -> None:
    first, second, _blob = await publish_shared(engine)
    listed = await engine.list_packed_by_access(1 << 62, (0, 0), 10)
    assert [first.ino, second.ino] == [inode.ino for inode in listed]
    await engine.drop_form(second.ino, second.generation, FormKind.PACKED)
    assert await engine.list_packed_by_access(1 << 62, (0, 0), 10) == []


async def test_a_blob_is_shared_by_a_file_that_has_nothing(engine: Engine) -> None:
    first, second, blob = await publish_shared(engine)
    ino, _ = engine.reserve_ids()
    await engine.create_orphan(NewInode(ino, stat.S_IFREG | 0o600, 1, 1, NOW_NS))
    assert not await engine.share_blob(ino, Generation(2), blob)
    assert not await engine.share_blob(ino, Generation(1), engine.reserve_blob())
    assert await engine.share_blob(ino, Generation(1), blob)
    assert not await engine.share_blob(ino, Generation(1), blob), "it has one now"
    assert not await engine.share_blob(first.ino, first.generation, blob)
    await engine.set_attributes(ino, AttributeChanges(size=first.size))
    sharers = await engine.list_sharers(blob, 10)
    assert [each.ino for each in sharers] == [first.ino, second.ino, ino]
    assert [each.ino for each in await engine.list_sharers(blob, 2)] == [first.ino, second.ino]
    listed = await engine.list_packed_by_access(1 << 62, (0, 0), 10)
    assert {each.ino for each in listed} == {first.ino, second.ino, ino}
    for file in (first, second):
        await engine.unseal(file.ino, file.raw)
    assert await garbage_in(engine) == set()
    await engine.reap([ino])
    assert await garbage_in(engine) == {(FormKind.PACKED, "packed/1"), (FormKind.REMOTE, "key")}
    with pytest.raises(NotFoundError):
        await engine.get_blob(blob)


# --- dropping and hydrating ----------------------------------------------------------------------
async def test_raw_file_is_dropped_only_beside_a_form(engine: Engine) -> None:
    file = await make_sealed(engine, b"file", size=1000)
    assert not await engine.drop_raw(file.ino, file.generation)
    assert await publish(engine, file, FormKind.PACKED)
    assert not await engine.drop_raw(file.ino, Generation(file.generation + 1))
    assert await engine.drop_raw(file.ino, file.generation)
    dropped = await fresh(engine, file)
    assert (NO_RAW, file.blocks, 0) == (dropped.raw, dropped.blocks, dropped.flags)
    assert {raw_garbage(file)} == await garbage_in(engine)
    assert (await engine.usage())[2:4] == (0, 0)
    assert not await engine.drop_raw(file.ino, file.generation)
    assert not await engine.drop_raw(GONE, file.generation)


async def test_last_form_is_never_dropped(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    assert await publish(engine, file, FormKind.PACKED)
    assert not await engine.drop_form(file.ino, file.generation, FormKind.REMOTE)
    assert await engine.drop_raw(file.ino, file.generation)
    assert not await engine.drop_form(file.ino, file.generation, FormKind.PACKED)
    assert not await engine.drop_form(GONE, file.generation, FormKind.PACKED)


async def test_hydrated_raw_file_is_published_once(engine: Engine) -> None:
    file = await make_sealed(engine, b"file", size=1000)
    assert await publish(engine, file, FormKind.PACKED)
    assert not await hydrate(engine, await fresh(engine, file))
    await engine.drop_raw(file.ino, file.generation)
    assert await hydrate(engine, await fresh(engine, file))
    hydrated = await fresh(engine, file)
    assert hydrated.raw not in (NO_RAW, file.raw)
    assert [hydrated] == await engine.list_not_durable(10)
    assert len(await garbage_in(engine)) == 2


async def test_raw_file_that_is_published_as_durable_is_no_work_for_the_syncer(
    engine: Engine,
) -> None:
    file = await make_sealed(engine, b"file", size=1000)
    assert await publish(engine, file, FormKind.PACKED)
    await engine.drop_raw(file.ino, file.generation)
    raw = engine.reserve_ids()[1]
    intent = await engine.begin_intent(
        MoveKind.HYDRATE, file.ino, file.generation, str(raw), NOW_NS
    )
    after = await engine.publish_raw(file.ino, file.generation, raw, 2, intent, durable=True)
    assert after == await fresh(engine, file)
    assert (after.raw, after.flags) == (raw, InodeFlags.DURABLE)
    assert await engine.list_not_durable(10) == []
    assert await engine.list_intents() == []


# --- garbage -------------------------------------------------------------------------------------
async def test_garbage_is_listed_oldest_first_until_it_is_cleared(engine: Engine) -> None:
    for name in (b"1", b"2", b"3"):
        file = await make_file(engine, name)
        await engine.unlink(ROOT_INODE, name, NOW_NS)
        await engine.reap([file.ino])
    items = await engine.list_garbage(2)
    assert sorted(int(item.location) for item in items) == [int(i.location) for i in items]
    assert (await engine.usage()).garbage_count == 3
    await engine.clear_garbage([item.item for item in items] * 2)
    assert (await engine.usage()).garbage_count == 1
    assert [file.raw] == [int(item.location) for item in await engine.list_garbage(10)]


async def test_local_garbage_is_listed_alone_where_that_is_asked_for(engine: Engine) -> None:
    file = await make_sealed(engine, b"1")
    await publish(engine, file, FormKind.REMOTE)
    await engine.unlink(ROOT_INODE, b"1", NOW_NS)
    await engine.reap([file.ino])
    assert {item.kind for item in await engine.list_garbage(10)} == {FormKind.RAW, FormKind.REMOTE}
    assert [item.kind for item in await engine.list_garbage(1, remote=False)] == [FormKind.RAW]
