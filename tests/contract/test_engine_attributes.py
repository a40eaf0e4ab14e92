"""Attributes, xattrs, pins and codecs."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from memfs.errors import (
    AlreadyExistsError,
    InvalidValueError,
    NameTooLongError,
    NoXattrError,
    StaleInodeError,
    TooBigError,
    XattrsFullError,
)
from memfs.metadata.records import AttributeChanges, EffectivePin
from memfs.namespace.xattrs import XATTRS_BYTES_MAX, users_bytes
from memfs.types import ROOT_INODE, InodeNo, Tier
from tests.contract.engine.making import (
    NOW_NS,
    make_directory,
    make_file,
    make_sealed,
    new_file,
)

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine
    from tests.contract.engine.site import SqliteSite

LATER_NS = NOW_NS + 100
CREATE, REPLACE = 1, 2


async def test_set_attributes_changes_what_is_given_and_nothing_else(engine: Engine) -> None:
    file = await make_sealed(engine, b"file")
    expected = file._replace(uid=5, mtime_ns=77, ctime_ns=LATER_NS)
    changes = AttributeChanges(uid=5, mtime_ns=77, ctime_ns=LATER_NS)
    assert expected == await engine.set_attributes(file.ino, changes)
    assert expected == await engine.get_inode(file.ino)


async def test_an_xattr_of_many_inodes_is_told_of_those_that_have_it(engine: Engine) -> None:
    files = [await make_file(engine, b"%d" % number) for number in range(300)]
    for number, file in enumerate(files[::3]):
        await engine.set_xattr(file.ino, b"user.a", b"%d" % number, 0, NOW_NS)
    await engine.set_xattr(files[1].ino, b"user.b", b"other", 0, NOW_NS)
    inos = [*(file.ino for file in files), InodeNo(2**40), files[0].ino]
    expected = {file.ino: b"%d" % number for number, file in enumerate(files[::3])}
    assert await engine.get_xattrs(inos, b"user.a") == expected
    assert await engine.get_xattrs([], b"user.a") == {}


async def test_set_attributes_takes_every_field(engine_site: SqliteSite) -> None:
    file = await make_sealed(engine_site.engine, b"file")
    changes = AttributeChanges(0o7, 1, 2, 3, 4, 5, 6, 7)
    expected = file._replace(
        mode=stat.S_IFREG | 0o7,
        uid=1,
        gid=2,
        size=3,
        blocks=4,
        atime_ns=5,
        mtime_ns=6,
        ctime_ns=7,
    )
    assert expected == await engine_site.engine.set_attributes(file.ino, changes)
    await engine_site.engine.commit()
    assert expected == await engine_site.crash().get_inode(file.ino)


async def test_mode_keeps_the_file_type(engine: Engine) -> None:
    directory = await make_directory(engine, b"directory")
    changes = AttributeChanges(mode=stat.S_IFREG | 0o1700)
    assert (await engine.set_attributes(directory.ino, changes)).mode == stat.S_IFDIR | 0o1700


async def test_size_of_a_sealed_file_moves_the_totals(engine: Engine) -> None:
    file = await make_sealed(engine, b"file", size=1000)
    await engine.set_attributes(file.ino, AttributeChanges(size=400))
    assert (await engine.usage()).logical_bytes == 400


async def test_sparse_files_of_more_bytes_than_a_number_holds_are_counted(
    engine_site: SqliteSite,
) -> None:
    """On XFS and in memory a file may have 8 EiB less a byte; two of them ended the engine."""
    end = (1 << 63) - 1
    engine = engine_site.engine
    huge = [await make_sealed(engine, b"huge-%d" % number, size=end) for number in range(5)]
    await make_sealed(engine, b"small", size=10)
    await engine.commit()
    engine = engine_site.reopen()
    assert await engine.recount() == await engine.usage()
    assert (await engine.usage()).logical_bytes == (5 * end + 10) % (1 << 64)
    assert not engine.check()
    for inode in huge:
        await engine.set_attributes(inode.ino, AttributeChanges(size=0))
    await engine.commit()
    assert (await engine_site.crash().usage()).logical_bytes == 10


# --- xattrs --------------------------------------------------------------------------------------
async def test_xattr_is_set_read_listed_and_removed(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.set_xattr(file.ino, b"user.b", b"", 0, LATER_NS)
    await engine.set_xattr(file.ino, b"user.a", b"\0\xff", 0, LATER_NS)
    assert (await engine.get_inode(file.ino)).ctime_ns == LATER_NS
    assert await engine.list_xattrs(file.ino) == [b"user.a", b"user.b"]
    assert await engine.get_xattr(file.ino, b"user.a") == b"\0\xff"
    await engine.remove_xattr(file.ino, b"user.a", LATER_NS + 1)
    assert await engine.list_xattrs(file.ino) == [b"user.b"]
    assert (await engine.get_inode(file.ino)).ctime_ns == LATER_NS + 1
    with pytest.raises(NoXattrError):
        await engine.get_xattr(file.ino, b"user.a")
    with pytest.raises(NoXattrError):
        await engine.remove_xattr(file.ino, b"user.a", LATER_NS)


async def test_xattr_flags_ask_for_new_or_for_old(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    with pytest.raises(NoXattrError):
        await engine.set_xattr(file.ino, b"user.a", b"1", REPLACE, NOW_NS)
    await engine.set_xattr(file.ino, b"user.a", b"2", CREATE, NOW_NS)
    with pytest.raises(AlreadyExistsError):
        await engine.set_xattr(file.ino, b"user.a", b"3", CREATE, NOW_NS)
    await engine.set_xattr(file.ino, b"user.a", b"4", REPLACE, NOW_NS)
    assert await engine.get_xattr(file.ino, b"user.a") == b"4"
    with pytest.raises(InvalidValueError):
        await engine.set_xattr(file.ino, b"user.a", b"5", 4, NOW_NS)


async def test_xattr_of_64_kib_fits_and_one_byte_more_does_not(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    name = b"user." + b"n" * 250
    await engine.set_xattr(file.ino, name, bytes(65_536), 0, NOW_NS)
    assert len(await engine.get_xattr(file.ino, name)) == 65_536
    with pytest.raises(TooBigError):
        await engine.set_xattr(file.ino, name, bytes(65_537), 0, NOW_NS)
    with pytest.raises(NameTooLongError):
        await engine.set_xattr(file.ino, name + b"n", b"", 0, NOW_NS)


async def fill(engine: Engine, ino: InodeNo) -> dict[bytes, bytes]:
    """Give an inode two xattrs that take all the room there is."""
    third = XATTRS_BYTES_MAX // 3
    xattrs = {b"user.a": bytes(third - 6), b"user.b": bytes(XATTRS_BYTES_MAX - third - 6)}
    assert users_bytes(xattrs.items()) == XATTRS_BYTES_MAX
    for name, value in xattrs.items():
        await engine.set_xattr(ino, name, value, 0, NOW_NS)
    return xattrs


async def present(engine: Engine, ino: InodeNo) -> dict[bytes, bytes]:
    return {name: await engine.get_xattr(ino, name) for name in await engine.list_xattrs(ino)}


async def test_xattrs_of_a_user_have_a_bound_together(engine: Engine) -> None:
    """Else one file takes gigabytes of the tables."""
    file = await make_file(engine, b"file")
    xattrs = await fill(engine, file.ino)
    for name, value in ((b"user.c", b""), (b"user.b", xattrs[b"user.b"] + b"1")):
        with pytest.raises(XattrsFullError):
            await engine.set_xattr(file.ino, name, value, 0, LATER_NS)
    assert await present(engine, file.ino) == xattrs
    # What a user has not put there takes no room, and may be there in any case.
    await engine.set_xattr(file.ino, b"user.memfs.note", bytes(1000), 0, NOW_NS)
    await engine.set_xattr(file.ino, b"trusted.overlay.origin", bytes(1000), 0, NOW_NS)
    await engine.set_xattr(file.ino, b"user.b", b"", 0, NOW_NS)
    await engine.set_xattr(file.ino, b"user.c", b"c", 0, NOW_NS)
    await engine.remove_xattr(file.ino, b"user.a", NOW_NS)
    await engine.set_xattr(file.ino, b"user.c", xattrs[b"user.a"], 0, NOW_NS)


async def test_several_xattrs_have_the_bound_when_all_are_changed(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    xattrs = await fill(engine, file.ino)
    exchanged = {b"user.a": xattrs[b"user.b"], b"user.b": xattrs[b"user.a"]}
    for order in (exchanged, dict(reversed(exchanged.items()))):
        await engine.set_mode_and_xattrs(file.ino, None, [*order.items()], NOW_NS)
        assert await present(engine, file.ino) == exchanged
        await engine.set_mode_and_xattrs(file.ino, None, [*xattrs.items()], NOW_NS)
    before = await engine.get_inode(file.ino)
    with pytest.raises(XattrsFullError):
        await engine.set_mode_and_xattrs(
            file.ino, 0o600, [(b"user.a", None), (b"user.c", xattrs[b"user.a"] + b"1")], LATER_NS
        )
    assert await present(engine, file.ino) == xattrs
    assert before == await engine.get_inode(file.ino)


async def test_a_new_inode_has_no_more_xattrs_than_an_old_one(engine: Engine) -> None:
    many = tuple((b"user.%d" % number, bytes(100)) for number in range(1000))
    before = await engine.get_inode(ROOT_INODE)
    new = new_file(engine)._replace(xattrs=many)
    with pytest.raises(XattrsFullError):
        await engine.create(ROOT_INODE, b"file", new)
    with pytest.raises(XattrsFullError):
        await engine.create_orphan(new)
    assert before == await engine.get_inode(ROOT_INODE)
    assert await engine.find(ROOT_INODE, b"file") is None
    assert await engine.list_orphans(1) == []


async def test_mode_and_xattrs_change_in_one_step(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    await engine.set_xattr(file.ino, b"user.old", b"1", 0, NOW_NS)
    changes = [(b"user.old", None), (b"user.new", b"2"), (b"user.never", None)]
    inode = await engine.set_mode_and_xattrs(file.ino, 0o640, changes, LATER_NS)
    assert (inode.mode, inode.ctime_ns) == (stat.S_IFREG | 0o640, LATER_NS)
    assert await engine.list_xattrs(file.ino) == [b"user.new"]
    same = await engine.set_mode_and_xattrs(file.ino, None, [], LATER_NS + 1)
    assert inode._replace(ctime_ns=LATER_NS + 1) == same


async def test_mode_and_xattrs_change_nothing_when_one_is_impossible(engine: Engine) -> None:
    file = await make_file(engine, b"file")
    changes = [(b"user.a", b"1"), (b"user.b", bytes(65_537))]
    with pytest.raises(TooBigError):
        await engine.set_mode_and_xattrs(file.ino, 0o600, changes, LATER_NS)
    assert await engine.list_xattrs(file.ino) == []
    assert file == await engine.get_inode(file.ino)


# --- pins and codecs -----------------------------------------------------------------------------
async def test_nearest_pin_is_in_force(engine: Engine) -> None:
    outer = await make_directory(engine, b"outer")
    inner = await make_directory(engine, b"inner", outer.ino)
    file = await make_file(engine, b"file", inner.ino)
    assert EffectivePin(None, file.ino) == await engine.effective_pin(file.ino)
    await engine.set_pin(ROOT_INODE, Tier.GLACIER)
    assert EffectivePin(Tier.GLACIER, ROOT_INODE) == await engine.effective_pin(file.ino)
    await engine.set_pin(outer.ino, Tier.COLD)
    assert EffectivePin(Tier.COLD, outer.ino) == await engine.effective_pin(file.ino)
    await engine.set_pin(file.ino, Tier.WARM)
    assert EffectivePin(Tier.WARM, file.ino) == await engine.effective_pin(file.ino)
    assert (await engine.get_inode(file.ino)).pin == Tier.WARM
    await engine.set_pin(file.ino, None)
    await engine.set_pin(outer.ino, None)
    assert EffectivePin(Tier.GLACIER, ROOT_INODE) == await engine.effective_pin(file.ino)


async def test_pin_follows_a_rename(engine: Engine) -> None:
    pinned = await make_directory(engine, b"pinned")
    file = await make_file(engine, b"file")
    await engine.set_pin(pinned.ino, Tier.WARM)
    await engine.rename(ROOT_INODE, b"file", pinned.ino, b"file", 0, NOW_NS)
    assert EffectivePin(Tier.WARM, pinned.ino) == await engine.effective_pin(file.ino)


async def test_nearest_codec_is_in_force(engine: Engine) -> None:
    outer = await make_directory(engine, b"outer")
    file = await make_file(engine, b"file", outer.ino)
    assert await engine.effective_codec(file.ino) is None
    await engine.set_codec(ROOT_INODE, "lz4")
    assert await engine.effective_codec(file.ino) == "lz4"
    await engine.set_codec(outer.ino, "zstd:9")
    assert await engine.effective_codec(file.ino) == "zstd:9"
    await engine.set_codec(file.ino, "none")
    assert await engine.effective_codec(file.ino) == "none"
    await engine.set_codec(file.ino, None)
    assert await engine.effective_codec(file.ino) == "zstd:9"


async def test_orphan_is_below_the_root_only(engine: Engine) -> None:
    orphan = await engine.create_orphan(new_file(engine))
    await engine.set_pin(ROOT_INODE, Tier.COLD)
    assert EffectivePin(Tier.COLD, ROOT_INODE) == await engine.effective_pin(orphan.ino)


async def test_changes_of_a_missing_inode_are_stale(engine: Engine) -> None:
    missing = InodeNo(1 << 40)
    calls = (
        engine.set_attributes(missing, AttributeChanges(uid=1)),
        engine.set_xattr(missing, b"user.a", b"", 0, NOW_NS),
        engine.remove_xattr(missing, b"user.a", NOW_NS),
        engine.set_mode_and_xattrs(missing, 0, [], NOW_NS),
        engine.set_pin(missing, Tier.WARM),
        engine.effective_pin(missing),
        engine.set_codec(missing, "lz4"),
        engine.effective_codec(missing),
        engine.list_xattrs(missing),
    )
    for call in calls:
        with pytest.raises(StaleInodeError):
            await call
    assert not engine.uncommitted
