"""A remote form gives its place to another object of the same content (rekey)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import InvalidValueError
from memfs.metadata.records import Form, FormReplacement, MoveKind
from memfs.types import FormCoding, FormKind, Place
from tests.contract.engine.making import NOW_NS, garbage_in, make_sealed, publish

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from tests.contract.engine.site import SqliteSite


async def make_remote(engine: Engine) -> tuple[Inode, Form]:
    """Return a sealed file with a raw and a remote form, and the latter."""
    inode = await make_sealed(engine, b"a")
    assert await publish(engine, inode, FormKind.REMOTE)
    inode = await engine.get_inode(inode.ino)
    [form] = await engine.list_forms(inode.blob)
    return inode, form


async def test_the_former_object_becomes_garbage_in_the_same_step(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    inode, former = await make_remote(engine)
    form = former._replace(
        place=Place("new"), coding=FormCoding("lz4", 1, "0011223344556677"), stored_bytes=9
    )
    intent = await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, "new", NOW_NS)
    assert await engine.replace_form(intent, FormReplacement(former, form))
    await engine.commit()
    engine = engine_site.crash()
    assert await engine.list_forms(former.blob) == [form]
    assert await garbage_in(engine) == {(FormKind.REMOTE, former.place.key)}
    assert await engine.list_intents() == []
    assert (await engine.usage()).remote_bytes == 9
    assert await engine.usage() == await engine.recount()


async def test_a_form_that_is_gone_leaves_its_place_to_none(engine_site: SqliteSite) -> None:
    """The file was rewritten meanwhile: the new object is garbage, and nothing else changes."""
    engine = engine_site.engine
    inode, former = await make_remote(engine)
    await engine.unseal(inode.ino, inode.raw)
    intent = await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, "new", NOW_NS)
    form = former._replace(place=Place("new"))
    assert not await engine.replace_form(intent, FormReplacement(former, form))
    assert (FormKind.REMOTE, "new") in await garbage_in(engine)
    assert await engine.list_intents() == []


async def test_forms_of_two_contents_do_not_change_places(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    inode, former = await make_remote(engine)
    intent = await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, "new", NOW_NS)
    other = former._replace(blob=engine.reserve_blob())
    for form in (other, former._replace(kind=FormKind.PACKED)):
        with pytest.raises(InvalidValueError, match="cannot take the place"):
            await engine.replace_form(intent, FormReplacement(former, form))
    assert await engine.list_forms(former.blob) == [former]


async def test_a_form_that_has_moved_already_is_not_moved_again(engine_site: SqliteSite) -> None:
    """Two moves began with the same object: the later one must not take the earlier one's away."""
    engine = engine_site.engine
    inode, former = await make_remote(engine)
    intents = [
        await engine.begin_intent(MoveKind.UPLOAD, inode.ino, inode.generation, key, NOW_NS)
        for key in ("first", "second")
    ]
    first, second = (former._replace(place=Place(key)) for key in ("first", "second"))
    assert await engine.replace_form(intents[0], FormReplacement(former, first))
    assert not await engine.replace_form(intents[1], FormReplacement(former, second))
    assert await engine.list_forms(former.blob) == [first]
    assert await garbage_in(engine) == {
        (FormKind.REMOTE, former.place.key),
        (FormKind.REMOTE, "second"),
    }
