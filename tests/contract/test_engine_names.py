"""Creating, finding, linking and removing names."""

from __future__ import annotations

import stat
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
    NotPermittedError,
    StaleInodeError,
)
from memfs.metadata.records import Inode, InodeFlags, NewInode, WrittenRaw
from memfs.metadata.sqlite.namespace import FOUND_A_QUERY
from memfs.types import BLOCK_BYTES, NO_BLOB, NO_INODE, NO_RAW, ROOT_INODE, Generation, InodeNo
from tests.contract.engine.making import (
    NOW_NS,
    make_directory,
    make_file,
    names_in,
    new_directory,
    new_file,
)
from tests.contract.engine.site import BIRTH_NS

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine

MISSING = InodeNo(1 << 40)


async def test_created_file_has_every_attribute(engine: Engine) -> None:
    ino, raw = engine.reserve_ids()
    new = NewInode(ino, stat.S_IFREG | 0o4640, 7, 8, NOW_NS, raw=raw, xattrs=((b"user.a", b"1"),))
    expected = Inode(
        ino=ino,
        mode=stat.S_IFREG | 0o4640,
        uid=7,
        gid=8,
        nlink=1,
        rdev=0,
        size=0,
        blocks=0,
        atime_ns=NOW_NS,
        mtime_ns=NOW_NS,
        ctime_ns=NOW_NS,
        btime_ns=NOW_NS,
        generation=Generation(1),
        raw=raw,
        blob=NO_BLOB,
        flags=InodeFlags.UNSEALED,
        pin=0,
        codec=None,
        accessed_ns=NOW_NS,
    )
    assert expected == await engine.create(ROOT_INODE, b"file", new)
    assert expected == await engine.lookup(ROOT_INODE, b"file")
    assert expected == await engine.get_inode(ino)
    assert await engine.get_xattr(ino, b"user.a") == b"1"


async def test_a_file_may_be_made_with_its_bytes_and_counts_at_once(engine: Engine) -> None:
    before = await engine.usage()
    written = WrittenRaw(5, 8, 7)
    new = new_file(engine)._replace(written=written)
    inode = await engine.create(ROOT_INODE, b"file", new)
    assert inode == await engine.get_inode(new.ino)
    assert (inode.size, inode.blocks, inode.mtime_ns, inode.flags) == (*written, 0)
    assert await engine.list_unsealed(InodeNo(0), 10) == []
    assert await engine.list_not_durable(10) == [inode]
    after = await engine.usage()
    assert after.raw_count - before.raw_count == 1
    assert after.raw_bytes - before.raw_bytes == 8 * BLOCK_BYTES
    assert after.logical_bytes - before.logical_bytes == 5
    await engine.unlink(ROOT_INODE, b"file", NOW_NS)
    await engine.reap([new.ino])
    left = await engine.usage()
    assert (left.raw_bytes, left.logical_bytes) == (before.raw_bytes, before.logical_bytes)


async def test_create_updates_the_parents_times(engine: Engine) -> None:
    await make_file(engine, b"file")
    root = await engine.get_inode(ROOT_INODE)
    assert (root.mtime_ns, root.ctime_ns, root.atime_ns) == (NOW_NS, NOW_NS, BIRTH_NS)


async def test_directory_starts_with_two_links_and_adds_one_above(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    assert directory.nlink == 2
    assert (await engine.get_inode(ROOT_INODE)).nlink == 3


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR])
async def test_special_files_keep_type_and_device(engine: Engine, kind: int) -> None:
    new = NewInode(engine.reserve_ids()[0], kind | 0o600, 0, 0, NOW_NS, rdev=0x10203)
    inode = await engine.create(ROOT_INODE, b"special", new)
    assert (kind | 0o600, 0x10203, 0, 1) == (inode.mode, inode.rdev, inode.flags, inode.nlink)


async def test_symlink_has_the_length_of_its_target(engine: Engine) -> None:
    target = b"/some/\xff/where"
    new = NewInode(engine.reserve_ids()[0], stat.S_IFLNK | 0o777, 0, 0, NOW_NS, target=target)
    inode = await engine.create(ROOT_INODE, b"link", new)
    assert len(target) == inode.size
    assert target == await engine.read_link(inode.ino)
    file = await make_file(engine, b"file")
    with pytest.raises(InvalidValueError):
        await engine.read_link(file.ino)


async def test_create_refuses_a_taken_name_and_changes_nothing(engine: Engine) -> None:
    first = await make_file(engine, b"file")
    usage = await engine.usage()
    with pytest.raises(AlreadyExistsError):
        await engine.create(ROOT_INODE, b"file", new_directory(engine))
    assert first == await engine.lookup(ROOT_INODE, b"file")
    assert usage == await engine.usage()
    assert (await engine.get_inode(ROOT_INODE)).nlink == 2


async def test_create_refuses_a_parent_that_is_no_directory(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    with pytest.raises(NotADirectoryInodeError):
        await make_file(engine, b"below", file.ino)
    with pytest.raises(NotADirectoryInodeError):
        await engine.lookup(file.ino, b"below")
    with pytest.raises(NotADirectoryInodeError):
        await engine.list_directory(file.ino, 0, 10)


async def test_removed_directory_takes_no_new_names(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    other = await make_file(engine, b"other")
    await engine.rmdir(ROOT_INODE, b"directory", NOW_NS)
    with pytest.raises(NotFoundError):
        await make_file(engine, b"file", directory.ino)
    with pytest.raises(NotFoundError):
        await engine.link(other.ino, directory.ino, b"link", NOW_NS)
    with pytest.raises(NotFoundError):
        await engine.rename(ROOT_INODE, b"other", directory.ino, b"other", 0, NOW_NS)


async def test_name_of_255_bytes_fits_and_one_more_does_not(engine: Engine) -> None:
    await make_file(engine, b"n" * 255)
    with pytest.raises(NameTooLongError):
        await make_file(engine, b"n" * 256)
    with pytest.raises(NameTooLongError):
        await engine.lookup(ROOT_INODE, b"n" * 256)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
async def test_impossible_names_are_refused(engine: Engine, name: bytes) -> None:
    with pytest.raises(InvalidValueError):
        await make_file(engine, name)


async def test_names_are_bytes_and_told_apart_by_case(engine: Engine) -> None:
    for name in (b"\xff\xfe", b"Name", b"name", "é".encode(), "é".encode("latin-1")):
        await make_file(engine, name)
    assert len(await names_in(engine)) == 5
    assert (await engine.lookup(ROOT_INODE, b"\xff\xfe")).nlink == 1


async def test_missing_inodes_are_stale(engine: Engine) -> None:
    with pytest.raises(StaleInodeError):
        await engine.get_inode(MISSING)
    with pytest.raises(StaleInodeError):
        await engine.lookup(MISSING, b"name")
    with pytest.raises(StaleInodeError):
        await engine.list_directory(MISSING, 0, 1)
    with pytest.raises(StaleInodeError):
        await make_file(engine, b"file", MISSING)
    with pytest.raises(StaleInodeError):
        await engine.get_xattr(MISSING, b"user.a")
    with pytest.raises(StaleInodeError):
        await engine.read_link(MISSING)


async def test_lookup_of_a_missing_name_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFoundError):
        await engine.lookup(ROOT_INODE, b"missing")


async def test_find_tells_a_missing_name_without_an_error(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    assert file == await engine.find(ROOT_INODE, b"file")
    assert await engine.find(ROOT_INODE, b"missing") is None
    with pytest.raises(NotADirectoryInodeError):
        await engine.find(file.ino, b"below")
    with pytest.raises(NameTooLongError):
        await engine.find(ROOT_INODE, b"n" * 256)


# --- listing -------------------------------------------------------------------------------------
async def test_many_names_are_found_as_one_by_one(engine: Engine) -> None:
    """In several queries, some of them with few names; whatever is cached, missing or odd."""
    parents = [(await make_directory(engine, b"d%d" % number)).ino for number in range(5)]
    for number in range(2 * FOUND_A_QUERY):
        await make_file(engine, b"%d" % number, parents[number % 5])
    file = await make_file(engine, b"file")
    names = [(parents[number % 5], b"%d" % number) for number in range(3 * FOUND_A_QUERY)]
    odd = [(ROOT_INODE, b"d1"), (ROOT_INODE, b"d1"), (file.ino, b"x"), (NO_INODE, b"")]
    names += [*odd, (InodeNo(2**40), b"x"), (ROOT_INODE, b"x" * 300), (ROOT_INODE, b"\xff")]
    for count in (0, 1, 15, 16, FOUND_A_QUERY, FOUND_A_QUERY + 1, len(names)):
        some = names[-count:] if count else []
        found = await engine.find_all(some)
        for (parent, name), inode in zip(some, found, strict=True):
            try:
                expected = await engine.find(parent, name)
            except (StaleInodeError, NotADirectoryInodeError, NameTooLongError):
                expected = None
            assert inode == expected


async def test_listing_goes_on_after_a_cookie_while_names_come_and_go(engine: Engine) -> None:
    """A reader sees each name that stays exactly once."""
    for index in range(10):
        await make_file(engine, b"%d" % index)
    head = await engine.list_directory(ROOT_INODE, 0, 4)
    await engine.unlink(ROOT_INODE, b"1", NOW_NS)
    await engine.unlink(ROOT_INODE, b"3", NOW_NS)
    await make_file(engine, b"new")
    tail = await engine.list_directory(ROOT_INODE, head[-1].cookie, 100)
    names = [entry.name for entry in head + tail]
    assert names == [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"new"]
    assert min(entry.cookie for entry in head) > 2


async def test_listing_shows_inodes_as_they_are(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    file = await make_file(engine, b"file", directory.ino)
    (entry,) = await engine.list_directory(directory.ino, 0, 10)
    assert (b"file", file) == (entry.name, entry.inode)


async def test_parent_and_path_are_found_upwards(engine: Engine) -> None:
    outer = await make_directory(engine, b"outer")
    inner = await make_directory(engine, b"inner", outer.ino)
    file = await make_file(engine, b"f\xff", inner.ino)
    assert inner.ino == await engine.get_parent(file.ino)
    assert await engine.get_parent(outer.ino) == ROOT_INODE
    assert await engine.get_parent(ROOT_INODE) == ROOT_INODE
    assert await engine.get_path(file.ino) == b"/outer/inner/f\xff"
    assert await engine.get_path(ROOT_INODE) == b"/"
    assert (inner.ino, b"f\xff") == await engine.get_dentry(file.ino)
    assert await engine.get_dentry(ROOT_INODE) is None


async def test_path_of_an_orphan_says_its_number(engine: Engine) -> None:
    orphan = await engine.create_orphan(new_file(engine))
    assert b"<inode %d>" % orphan.ino == await engine.get_path(orphan.ino)
    assert await engine.get_parent(orphan.ino) == ROOT_INODE
    assert await engine.get_dentry(orphan.ino) is None


# --- links ---------------------------------------------------------------------------------------
async def test_link_adds_a_name_and_a_link(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    linked = await engine.link(file.ino, ROOT_INODE, b"link", NOW_NS + 1)
    assert (linked.nlink, linked.ctime_ns, linked.mtime_ns) == (2, NOW_NS + 1, NOW_NS)
    assert linked == await engine.lookup(ROOT_INODE, b"link")
    assert (await engine.get_inode(ROOT_INODE)).mtime_ns == NOW_NS + 1
    assert await names_in(engine) == [b"file", b"link"]


async def test_link_refuses_directories_and_taken_names(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    file = await make_file(engine, b"file")
    with pytest.raises(NotPermittedError):
        await engine.link(directory.ino, ROOT_INODE, b"link", NOW_NS)
    with pytest.raises(AlreadyExistsError):
        await engine.link(file.ino, ROOT_INODE, b"directory", NOW_NS)
    assert file == await engine.get_inode(file.ino)


async def test_orphan_gets_a_name_by_link(engine: Engine) -> None:
    """linkat(2) of an O_TMPFILE."""
    orphan = await engine.create_orphan(new_file(engine))
    assert orphan.nlink == 0
    assert [orphan.ino] == await engine.list_orphans(10)
    await engine.link(orphan.ino, ROOT_INODE, b"named", NOW_NS)
    assert await engine.list_orphans(10) == []
    assert (await engine.lookup(ROOT_INODE, b"named")).nlink == 1


# --- removing ------------------------------------------------------------------------------------
async def test_unlink_leaves_an_orphan_until_it_is_reaped(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.set_xattr(file.ino, b"user.a", b"1", 0, NOW_NS)
    gone = await engine.unlink(ROOT_INODE, b"file", NOW_NS + 1)
    assert (gone.nlink, gone.ctime_ns) == (0, NOW_NS + 1)
    assert (await engine.get_inode(ROOT_INODE)).mtime_ns == NOW_NS + 1
    with pytest.raises(NotFoundError):
        await engine.lookup(ROOT_INODE, b"file")
    assert await engine.get_xattr(file.ino, b"user.a") == b"1"
    assert [file.ino] == await engine.list_orphans(10)
    await engine.reap([file.ino])
    with pytest.raises(StaleInodeError):
        await engine.get_inode(file.ino)
    assert await engine.list_orphans(10) == []


async def test_unlink_of_one_of_two_names_keeps_the_inode(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.link(file.ino, ROOT_INODE, b"link", NOW_NS)
    assert (await engine.unlink(ROOT_INODE, b"file", NOW_NS)).nlink == 1
    await engine.reap([file.ino])
    assert (await engine.lookup(ROOT_INODE, b"link")).ino == file.ino
    assert await engine.get_path(file.ino) == b"/link"


async def test_unlink_refuses_directories_and_missing_names(engine: Engine) -> None:
    await make_directory(engine, b"directory")
    with pytest.raises(IsADirectoryInodeError):
        await engine.unlink(ROOT_INODE, b"directory", NOW_NS)
    with pytest.raises(NotFoundError):
        await engine.unlink(ROOT_INODE, b"missing", NOW_NS)
    assert await names_in(engine) == [b"directory"]


async def test_a_name_that_leads_elsewhere_by_now_is_not_removed(engine: Engine) -> None:
    """Who looked at it holds the gate of another inode, or has asked somebody about that."""
    file = await make_file(engine, b"file")
    directory = await make_directory(engine, b"directory")
    for name, remove in ((b"file", engine.unlink), (b"directory", engine.rmdir)):
        with pytest.raises(NotFoundError, match="leads to inode"):
            await remove(ROOT_INODE, name, NOW_NS + 1, MISSING)
    assert await names_in(engine) == [b"file", b"directory"]
    assert (await engine.get_inode(ROOT_INODE)).mtime_ns == NOW_NS
    await engine.unlink(ROOT_INODE, b"file", NOW_NS, file.ino)
    await engine.rmdir(ROOT_INODE, b"directory", NOW_NS, directory.ino)
    assert await names_in(engine) == []


async def test_rmdir_takes_empty_directories_only(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    await make_file(engine, b"file", directory.ino)
    with pytest.raises(DirectoryNotEmptyError):
        await engine.rmdir(ROOT_INODE, b"directory", NOW_NS)
    await engine.unlink(directory.ino, b"file", NOW_NS)
    gone = await engine.rmdir(ROOT_INODE, b"directory", NOW_NS + 1)
    assert (directory.ino, 0) == (gone.ino, gone.nlink)
    root = await engine.get_inode(ROOT_INODE)
    assert (root.nlink, root.mtime_ns) == (2, NOW_NS + 1)
    await make_file(engine, b"file")
    with pytest.raises(NotADirectoryInodeError):
        await engine.rmdir(ROOT_INODE, b"file", NOW_NS)
    with pytest.raises(NotFoundError):
        await engine.rmdir(ROOT_INODE, b"missing", NOW_NS)


async def test_reap_passes_over_what_is_no_orphan_or_gone(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.reap([file.ino, MISSING, ROOT_INODE])
    assert file == await engine.get_inode(file.ino)


async def test_reap_takes_everything_of_a_symlink(engine: Engine) -> None:
    new = new_file(engine)._replace(mode=stat.S_IFLNK | 0o777, raw=NO_RAW, target=b"x")
    link = await engine.create(ROOT_INODE, b"link", new)
    await engine.unlink(ROOT_INODE, b"link", NOW_NS)
    await engine.reap([link.ino])
    with pytest.raises(StaleInodeError):
        await engine.read_link(link.ino)
