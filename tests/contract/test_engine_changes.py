"""A step of several calls happens whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from memfs.errors import AlreadyExistsError, StaleInodeError
from memfs.types import FormKind, Generation
from tests.contract.engine.making import (
    garbage_in,
    hydrate,
    make_file,
    make_sealed,
    names_in,
    publish,
)

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from tests.contract.engine.site import SqliteSite


class GivenUpError(Exception):
    """What a step raises."""


async def test_a_change_is_there_after_a_crash_with_all_its_calls(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    async with engine.change():
        await make_file(engine, b"a")
        await engine.put_setting("cursor", b"1")
    assert not engine.uncommitted
    engine = engine_site.crash()
    assert await names_in(engine) == [b"a"]
    assert await engine.get_setting("cursor") == b"1"


async def test_a_change_that_raises_leaves_nothing(engine: Engine) -> None:
    """Rows, caches and totals are as they were, and what came before is still to be committed."""
    before = await make_file(engine, b"before")
    usage = await engine.usage()
    with suppress(GivenUpError):
        async with engine.change():
            made = await make_file(engine, b"given up")
            await engine.unseal(before.ino, engine.reserve_ids()[1])
            await engine.put_setting("cursor", b"1")
            raise GivenUpError
    assert before == await engine.get_inode(before.ino)
    with pytest.raises(StaleInodeError):
        await engine.get_inode(made.ino)
    assert usage == await engine.usage() == await engine.recount()
    assert set() == await garbage_in(engine)
    await engine.commit()
    assert await names_in(engine) == [b"before"]
    assert await engine.get_setting("cursor") is None


async def test_what_a_change_gave_up_stays_so_after_a_crash(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    await make_file(engine, b"before")
    with suppress(GivenUpError):
        async with engine.change():
            await make_file(engine, b"given up")
            raise GivenUpError
    await make_file(engine, b"after")
    await engine.commit()
    engine = engine_site.crash()
    assert await names_in(engine) == [b"before", b"after"]


async def test_a_call_that_is_refused_takes_nothing_of_its_change_with_it(engine: Engine) -> None:
    async with engine.change():
        await make_file(engine, b"a")
        with pytest.raises(AlreadyExistsError):
            await make_file(engine, b"a")
        await make_file(engine, b"b")
    assert await names_in(engine) == [b"a", b"b"]


async def test_a_change_within_a_change_is_a_part_of_it(engine_site: SqliteSite) -> None:
    engine = engine_site.engine
    with suppress(GivenUpError):
        async with engine.change():
            await make_file(engine, b"outer")
            async with engine.change():
                await make_file(engine, b"inner")
            raise GivenUpError
    assert await names_in(engine) == []
    async with engine.change():
        await make_file(engine, b"outer")
        with suppress(GivenUpError):
            async with engine.change(deferred=True):
                await make_file(engine, b"inner")
                raise GivenUpError
    engine = engine_site.crash()
    assert await names_in(engine) == [b"outer"]


async def test_a_file_that_has_moved_on_is_not_unsealed(engine: Engine) -> None:
    """Else the raw file that another one writes to would become garbage."""
    file = await make_sealed(engine, b"file")
    mine = await engine.unseal(file.ino, file.raw, file.generation)
    assert mine.generation == file.generation + 1
    other = engine.reserve_ids()[1]
    assert mine == await engine.unseal(file.ino, other, file.generation)
    assert mine == await engine.get_inode(file.ino)
    assert set() == await garbage_in(engine)


async def test_a_raw_file_that_was_made_anew_is_not_dropped_for_the_former_one(
    engine: Engine,
) -> None:
    file = await make_sealed(engine, b"file")
    assert await publish(engine, file, FormKind.PACKED)
    assert await engine.drop_raw(file.ino, file.generation, file.raw)
    assert await hydrate(engine, file)
    again = await engine.get_inode(file.ino)
    assert not await engine.drop_raw(file.ino, file.generation, file.raw)
    assert not await engine.drop_raw(file.ino, Generation(file.generation + 1), again.raw)
    assert again == await engine.get_inode(file.ino)
    assert await engine.drop_raw(file.ino, file.generation, again.raw)
