"""rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import (
    AlreadyExistsError,
    DirectoryNotEmptyError,
    InvalidValueError,
    IsADirectoryInodeError,
    NameTooLongError,
    NotADirectoryInodeError,
    NotFoundError,
)
from memfs.types import NO_INODE, ROOT_INODE
from tests.contract.engine.making import NOW_NS, make_directory, make_file, names_in

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from memfs.types import InodeNo

NOREPLACE, EXCHANGE = 1, 2
LATER_NS = NOW_NS + 100


async def links(engine: Engine, ino: InodeNo) -> int:
    return (await engine.get_inode(ino)).nlink


async def test_file_moves_between_directories_with_its_times(engine: Engine) -> None:
    source = await make_directory(engine, b"source")
    target = await make_directory(engine, b"target")
    file = await make_file(engine, b"old", source.ino)
    result = await engine.rename(source.ino, b"old", target.ino, b"new", 0, LATER_NS)
    assert result.replaced is None
    assert (file.ino, LATER_NS, NOW_NS) == (
        result.moved.ino,
        result.moved.ctime_ns,
        result.moved.mtime_ns,
    )
    assert await names_in(engine, source.ino) == []
    assert await names_in(engine, target.ino) == [b"new"]
    for parent in (source, target):
        inode = await engine.get_inode(parent.ino)
        assert (inode.mtime_ns, inode.ctime_ns, inode.nlink) == (LATER_NS, LATER_NS, 2)


async def test_names_that_lead_elsewhere_by_now_are_not_renamed(engine: Engine) -> None:
    """Neither the one that leaves, nor the one that would give way to it."""
    old = await make_file(engine, b"old")
    new = await make_file(engine, b"new")
    before = await engine.get_inode(ROOT_INODE)

    async def rename(name: bytes, expected: InodeNo | None, target: InodeNo | None) -> None:
        await engine.rename(
            ROOT_INODE, b"old", ROOT_INODE, name, 0, LATER_NS, None, expected, target
        )

    for name, expected, target in (
        (b"free", new.ino, None),
        (b"new", old.ino, old.ino),
        (b"new", None, NO_INODE),
        (b"free", None, new.ino),
    ):
        with pytest.raises(NotFoundError, match="leads to inode"):
            await rename(name, expected, target)
    assert await engine.get_inode(ROOT_INODE) == before
    assert await names_in(engine) == [b"old", b"new"]
    await rename(b"new", old.ino, new.ino)
    await engine.rename(
        ROOT_INODE, b"new", ROOT_INODE, b"free", 0, LATER_NS, expected_target=NO_INODE
    )
    assert await names_in(engine) == [b"free"]


async def test_directory_takes_its_link_along(engine: Engine) -> None:
    source = await make_directory(engine, b"source")
    target = await make_directory(engine, b"target")
    moved = await make_directory(engine, b"moved", source.ino)
    await engine.rename(source.ino, b"moved", target.ino, b"moved", 0, LATER_NS)
    assert await links(engine, source.ino) == 2
    assert await links(engine, target.ino) == 3
    assert target.ino == await engine.get_parent(moved.ino)
    assert await engine.get_path(moved.ino) == b"/target/moved"


async def test_replaced_file_becomes_an_orphan(engine: Engine) -> None:
    moved = await make_file(engine, b"moved")
    replaced = await make_file(engine, b"replaced")
    result = await engine.rename(ROOT_INODE, b"moved", ROOT_INODE, b"replaced", 0, LATER_NS)
    assert result.replaced is not None
    assert (replaced.ino, 0, LATER_NS) == (
        result.replaced.ino,
        result.replaced.nlink,
        result.replaced.ctime_ns,
    )
    assert [replaced.ino] == await engine.list_orphans(10)
    assert (await engine.lookup(ROOT_INODE, b"replaced")).ino == moved.ino
    assert await names_in(engine) == [b"replaced"]


async def test_replaced_empty_directory_becomes_an_orphan(engine: Engine) -> None:
    source = await make_directory(engine, b"source")
    await make_directory(engine, b"moved", source.ino)
    replaced = await make_directory(engine, b"replaced")
    await engine.rename(source.ino, b"moved", ROOT_INODE, b"replaced", 0, LATER_NS)
    assert await links(engine, ROOT_INODE) == 4
    assert await links(engine, source.ino) == 2
    assert [replaced.ino] == await engine.list_orphans(10)


async def test_replaced_directory_must_be_empty(engine: Engine) -> None:
    await make_directory(engine, b"moved")
    replaced = await make_directory(engine, b"replaced")
    await make_file(engine, b"file", replaced.ino)
    with pytest.raises(DirectoryNotEmptyError):
        await engine.rename(ROOT_INODE, b"moved", ROOT_INODE, b"replaced", 0, LATER_NS)


async def test_files_and_directories_do_not_replace_each_other(engine: Engine) -> None:
    await make_directory(engine, b"directory")
    await make_file(engine, b"file")
    with pytest.raises(IsADirectoryInodeError):
        await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"directory", 0, LATER_NS)
    with pytest.raises(NotADirectoryInodeError):
        await engine.rename(ROOT_INODE, b"directory", ROOT_INODE, b"file", 0, LATER_NS)
    assert await names_in(engine) == [b"directory", b"file"]


async def test_renaming_onto_another_link_of_the_same_inode_does_nothing(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    linked = await engine.link(file.ino, ROOT_INODE, b"link", NOW_NS)
    result = await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"link", 0, LATER_NS)
    assert (linked, None) == (result.moved, result.replaced)
    assert await names_in(engine) == [b"file", b"link"]
    assert linked == await engine.get_inode(file.ino)


async def test_renaming_onto_itself_does_nothing(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"file", 0, LATER_NS)
    assert file == await engine.lookup(ROOT_INODE, b"file")


async def test_noreplace_refuses_a_taken_name(engine: Engine) -> None:
    await make_file(engine, b"file")
    await make_file(engine, b"taken")
    with pytest.raises(AlreadyExistsError):
        await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"taken", NOREPLACE, LATER_NS)
    await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"free", NOREPLACE, LATER_NS)
    assert sorted(await names_in(engine)) == [b"free", b"taken"]


async def test_exchange_of_a_file_with_a_directory_moves_the_link(engine: Engine) -> None:
    source = await make_directory(engine, b"source")
    target = await make_directory(engine, b"target")
    directory = await make_directory(engine, b"name", source.ino)
    file = await make_file(engine, b"other", target.ino)
    result = await engine.rename(source.ino, b"name", target.ino, b"other", EXCHANGE, LATER_NS)
    assert result.replaced is not None
    assert (directory.ino, file.ino) == (result.moved.ino, result.replaced.ino)
    assert (result.moved.nlink, result.replaced.nlink) == (2, 1)
    assert (await engine.lookup(source.ino, b"name")).ino == file.ino
    assert (await engine.lookup(target.ino, b"other")).ino == directory.ino
    assert (await links(engine, source.ino), await links(engine, target.ino)) == (2, 3)


async def test_exchange_within_a_directory_keeps_its_links(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    file = await make_file(engine, b"file")
    await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"directory", EXCHANGE, LATER_NS)
    assert (await engine.lookup(ROOT_INODE, b"file")).ino == directory.ino
    assert (await engine.lookup(ROOT_INODE, b"directory")).ino == file.ino
    assert await links(engine, ROOT_INODE) == 3


async def test_exchange_needs_both_names(engine: Engine) -> None:
    await make_file(engine, b"file")
    with pytest.raises(NotFoundError):
        await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"missing", EXCHANGE, LATER_NS)


@pytest.mark.parametrize("flags", [0, NOREPLACE])
async def test_directory_never_moves_below_itself(engine: Engine, flags: int) -> None:
    outer = await make_directory(engine, b"outer")
    inner = await make_directory(engine, b"inner", outer.ino)
    for parent in (outer.ino, inner.ino):
        with pytest.raises(InvalidValueError):
            await engine.rename(ROOT_INODE, b"outer", parent, b"below", flags, LATER_NS)
    assert await engine.get_path(inner.ino) == b"/outer/inner"


async def test_exchange_never_makes_a_cycle_from_either_side(engine: Engine) -> None:
    outer = await make_directory(engine, b"outer")
    await make_directory(engine, b"inner", outer.ino)
    await make_file(engine, b"file", outer.ino)
    for name in (b"inner", b"file"):
        with pytest.raises(InvalidValueError):
            await engine.rename(ROOT_INODE, b"outer", outer.ino, name, EXCHANGE, LATER_NS)
        with pytest.raises(InvalidValueError):
            await engine.rename(outer.ino, name, ROOT_INODE, b"outer", EXCHANGE, LATER_NS)


@pytest.mark.parametrize("flags", [NOREPLACE | EXCHANGE, 4, 8])
async def test_unknown_flags_are_refused(engine: Engine, flags: int) -> None:
    await make_file(engine, b"file")
    with pytest.raises(InvalidValueError):
        await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"new", flags, LATER_NS)


async def test_missing_source_and_impossible_names_are_refused(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    with pytest.raises(NotFoundError):
        await engine.rename(ROOT_INODE, b"missing", ROOT_INODE, b"new", 0, LATER_NS)
    with pytest.raises(NameTooLongError):
        await engine.rename(ROOT_INODE, b"file", ROOT_INODE, b"n" * 256, 0, LATER_NS)
    with pytest.raises(NotADirectoryInodeError):
        await engine.rename(ROOT_INODE, b"file", file.ino, b"new", 0, LATER_NS)


async def test_reader_of_the_directory_sees_a_renamed_entry_once(engine: Engine) -> None:
    for index in range(4):
        await make_file(engine, b"%d" % index)
    head = await engine.list_directory(ROOT_INODE, 0, 2)
    await engine.rename(ROOT_INODE, b"0", ROOT_INODE, b"zero", 0, LATER_NS)
    await engine.rename(ROOT_INODE, b"3", ROOT_INODE, b"three", 0, LATER_NS)
    tail = await engine.list_directory(ROOT_INODE, head[-1].cookie, 10)
    assert [entry.name for entry in head + tail] == [b"0", b"1", b"2", b"three"]
