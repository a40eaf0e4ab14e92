"""What memfs does not own: an engine refers to it, and never lets it be removed or moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import InvalidValueError
from memfs.metadata.records import Blob, Form, FormReplacement, MoveKind
from memfs.types import ROOT_INODE, FormCoding, FormKind, InodeNo, Layout, Place
from tests.contract.engine.making import (
    DIGEST,
    NOW_NS,
    garbage_in,
    make_sealed,
    publish,
)

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from tests.contract.engine.site import SqliteSite

KEY = "photos/2024@home/a@12.jpg"
"""Such keys were taken for places in batches once."""


def adopted(engine: Engine, inode: Inode, place: Place | None = None) -> tuple[Blob, Form]:
    blob = Blob(inode.blob or engine.reserve_blob(), inode.size, DIGEST)
    place = place or Place(KEY, etag='"5d41402a"', version="v1")
    coding = FormCoding("none")
    form = Form(blob.blob, FormKind.REMOTE, place, coding, inode.size, Layout.PLAIN, owned=False)
    return blob, form


async def adopt(engine: Engine, name: bytes = b"file", place: Place | None = None) -> Form:
    """Make a file with an adopted form."""
    inode = await make_sealed(engine, name)
    blob, form = adopted(engine, inode, place)
    assert await engine.publish_form(inode.ino, inode.generation, blob, form, None)
    return form


async def inode_of(engine: Engine, name: bytes = b"file") -> Inode:
    return await engine.lookup(ROOT_INODE, name)


async def remote_garbage(engine: Engine) -> list[str]:
    return [key for kind, key in await garbage_in(engine) if kind == FormKind.REMOTE]


@pytest.mark.parametrize(
    "place",
    [
        Place(KEY, etag="e"),
        Place(KEY, version="7"),
        Place(KEY, store="source-1", etag="e"),
        Place("@", etag="e"),
        Place("a@", etag="e"),
    ],
)
async def test_an_adopted_form_is_what_it_was(engine_site: SqliteSite, place: Place) -> None:
    """A form under any key, with all that tells its bytes from later ones."""
    form = await adopt(engine_site.engine, place=place)
    await engine_site.engine.commit()
    engine = engine_site.crash()
    inode = await inode_of(engine)
    assert await engine.list_forms(inode.blob) == [form]
    assert await engine.drop_raw(inode.ino, inode.generation)
    assert engine.check() == []


async def rewrite(engine: Engine, inode: Inode) -> None:
    await engine.unseal(inode.ino, engine.reserve_ids()[1])


async def unlink(engine: Engine, inode: Inode) -> None:
    await engine.unlink(ROOT_INODE, b"file", NOW_NS)
    await engine.reap([inode.ino])


async def drop(engine: Engine, inode: Inode) -> None:
    assert await engine.drop_form(inode.ino, inode.generation, FormKind.REMOTE)


@pytest.mark.parametrize("way", [rewrite, unlink, drop])
async def test_an_object_that_memfs_does_not_own_never_becomes_garbage(
    engine: Engine, way: object
) -> None:
    form = await adopt(engine)
    assert callable(way)
    await way(engine, await inode_of(engine))
    assert await engine.list_forms(form.blob) == []
    assert await remote_garbage(engine) == []
    usage = await engine.usage()
    assert (usage.remote_count, usage.remote_bytes) == (0, 0)
    assert engine.check() == []


async def test_a_refused_form_is_no_garbage_either(engine: Engine) -> None:
    """The file has moved on while its object was looked at."""
    inode = await make_sealed(engine, b"file")
    blob, form = adopted(engine, inode)
    await rewrite(engine, inode)
    assert not await engine.publish_form(inode.ino, inode.generation, blob, form, None)
    assert await remote_garbage(engine) == []


async def test_garbage_never_names_an_adopted_object(engine: Engine) -> None:
    """The one place where garbage is recorded sees to it, however a key gets there."""
    await adopt(engine, place=Place(KEY, etag="e"))
    intent = await engine.begin_intent(MoveKind.UPLOAD, (await inode_of(engine)).ino, 1, KEY, 1)  # type: ignore[arg-type]
    await engine.cancel_intent(intent)
    assert await engine.list_intents() == []
    assert await remote_garbage(engine) == []


async def test_what_is_being_removed_is_not_adopted(engine: Engine) -> None:
    """The collector may have asked the store already."""
    inode = await make_sealed(engine, b"former")
    assert await publish(engine, inode, FormKind.REMOTE, "blobs/1")
    await rewrite(engine, inode)
    assert await remote_garbage(engine) == ["blobs/1"]
    with pytest.raises(InvalidValueError, match="is removing it"):
        await adopt(engine, place=Place("blobs/1", etag="e"))
    await adopt(engine, b"other", Place("blobs/1", store="source-1", etag="e"))
    assert engine.check() == []


async def test_an_object_of_the_same_key_elsewhere_does_not_keep_our_own(engine: Engine) -> None:
    await adopt(engine, place=Place("blobs/1", store="source-1", etag="e"))
    intent = await engine.begin_intent(
        MoveKind.UPLOAD,
        (await inode_of(engine)).ino,
        1,  # type: ignore[arg-type]
        "blobs/1",
        1,
    )
    await engine.cancel_intent(intent)
    assert await remote_garbage(engine) == ["blobs/1"]
    assert engine.check() == []


async def test_what_memfs_does_not_own_is_never_moved(engine: Engine) -> None:
    """Neither rekeyed nor taken into a batch, nor the other way round."""
    former = await adopt(engine)
    inode = await inode_of(engine)
    own = former._replace(place=Place("own"), owned=True)
    intent = await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, "own", NOW_NS)
    for replacement in (FormReplacement(former, own), FormReplacement(own, former)):
        with pytest.raises(InvalidValueError, match="does not own"):
            await engine.replace_form(intent, replacement)
    batched = own._replace(place=Place("batch", 0))
    batch = await engine.begin_batch("batch", NOW_NS)
    with pytest.raises(InvalidValueError, match="does not own"):
        await engine.replace_batched(batch, "batch", 10, [FormReplacement(former, batched)])
    assert await engine.list_forms(former.blob) == [former]
    assert await remote_garbage(engine) == []


@pytest.mark.parametrize(
    ("changes", "owned"),
    [
        ({"kind": FormKind.PACKED}, False),
        ({"place": Place("batch", 0, etag="e")}, False),
        ({"place": Place("key", store="source-1")}, True),
        ({"place": Place("key", etag="e")}, True),
        ({"place": Place("key", version="v")}, True),
    ],
)
async def test_a_form_that_cannot_be_owned_so_is_refused(
    engine: Engine, changes: dict[str, object], owned: bool
) -> None:
    inode = await make_sealed(engine, b"file")
    blob, form = adopted(engine, inode)
    form = form._replace(owned=owned, **changes)  # type: ignore[arg-type]  # of both kinds
    intent = None
    if owned:
        intent = await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, "key", 1)
    with pytest.raises(InvalidValueError):
        await engine.publish_form(inode.ino, inode.generation, blob, form, intent)
    assert await engine.list_forms(blob.blob) == []


async def test_only_what_memfs_wrote_has_an_intent(engine: Engine) -> None:
    """Rolling one back removes what it names."""
    inode = await make_sealed(engine, b"file")
    blob, form = adopted(engine, inode)
    intent = await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, "key", 1)
    with pytest.raises(InvalidValueError, match="intent"):
        await engine.publish_form(inode.ino, inode.generation, blob, form, intent)
    own = form._replace(place=Place("key"), owned=True)
    with pytest.raises(InvalidValueError, match="intent"):
        await engine.publish_form(inode.ino, inode.generation, blob, own, None)


async def test_an_adopted_object_is_no_orphan(engine: Engine) -> None:
    await adopt(engine, place=Place("blobs/1", etag="e"))
    await adopt(engine, b"other", Place("blobs/2", store="source-1", etag="e"))
    found = await engine.find_unreferenced(FormKind.REMOTE, ["blobs/1", "blobs/2"])
    assert found == ["blobs/2"]


async def test_two_files_may_have_adopted_one_object(engine: Engine) -> None:
    """A bucket may be adopted twice; what memfs writes has a key of its own."""
    for name in (b"file", b"other"):
        await adopt(engine, name, Place(KEY, etag="e"))
    assert (await engine.usage()).remote_count == 2
    assert engine.check() == []


async def test_a_key_may_hold_what_batches_had_as_a_separator(engine: Engine) -> None:
    """The object of its own that is called `key@7` is no part of the batch `key`."""
    inode = await make_sealed(engine, b"file")
    assert await publish(engine, inode, FormKind.REMOTE, "key@7")
    now = await inode_of(engine)
    [form] = await engine.list_forms(now.blob)
    assert form.place == Place("key@7")
    assert await engine.list_batched("key") == []
    await engine.unseal(InodeNo(now.ino), now.raw)
    assert await remote_garbage(engine) == ["key@7"]
    assert engine.check() == []
