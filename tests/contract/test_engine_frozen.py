"""Frozen trees: what an engine refuses, and what it still does, until they are thawed."""

from __future__ import annotations

import errno
import inspect
import re
from typing import TYPE_CHECKING

import pytest

from memfs.errors import FrozenError, InvalidValueError, NotADirectoryInodeError
from memfs.metadata.namespace import FROZEN_COUNT_MAX, FrozenTree
from memfs.metadata.records import AttributeChanges, Seal
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.namespace import RENAME_EXCHANGE
from memfs.types import ROOT_INODE, FormKind, Tier
from tests.contract.engine.making import (
    NOW_NS,
    hydrate,
    make_directory,
    make_file,
    make_sealed,
    new_directory,
    new_file,
    publish,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode
    from tests.contract.engine.site import SqliteSite


class Scene:
    """`/above/tree/below/file` and `/above/tree/twice`, which is `/elsewhere/twice` as well."""

    above: Inode
    tree: Inode
    below: Inode
    file: Inode
    twice: Inode
    elsewhere: Inode
    free: Inode
    """`/elsewhere/free`"""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def make(self) -> None:
        engine = self.engine
        self.above = await make_directory(engine, b"above")
        self.tree = await make_directory(engine, b"tree", self.above.ino)
        self.below = await make_directory(engine, b"below", self.tree.ino)
        self.elsewhere = await make_directory(engine, b"elsewhere")
        self.file = await make_sealed(engine, b"file", self.below.ino)
        self.twice = await make_sealed(engine, b"twice", self.tree.ino)
        await engine.link(self.twice.ino, self.elsewhere.ino, b"twice", NOW_NS)
        self.free = await make_sealed(engine, b"free", self.elsewhere.ino)
        for inode in (self.file, self.tree, self.free):
            await engine.set_xattr(inode.ino, b"user.a", b"1", 0, NOW_NS)


@pytest.fixture
async def scene(engine: Engine) -> Scene:
    made = Scene(engine)
    await made.make()
    await engine.freeze(made.tree.ino)
    return made


REFUSED: dict[str, Callable[[Engine, Scene], Awaitable[object]]] = {
    "a new file": lambda engine, at: engine.create(at.below.ino, b"n", new_file(engine)),
    "a new directory": lambda engine, at: engine.create(at.tree.ino, b"n", new_directory(engine)),
    "another name of a file in it": lambda engine, at: engine.link(
        at.file.ino, at.elsewhere.ino, b"n", NOW_NS
    ),
    "a name in it": lambda engine, at: engine.link(at.free.ino, at.below.ino, b"n", NOW_NS),
    "removing a file": lambda engine, at: engine.unlink(at.below.ino, b"file", NOW_NS),
    "removing another name of a file in it": lambda engine, at: engine.unlink(
        at.elsewhere.ino, b"twice", NOW_NS
    ),
    "renaming in it": lambda engine, at: engine.rename(
        at.below.ino, b"file", at.below.ino, b"n", 0, NOW_NS
    ),
    "moving out of it": lambda engine, at: engine.rename(
        at.below.ino, b"file", ROOT_INODE, b"n", 0, NOW_NS
    ),
    "moving into it": lambda engine, at: engine.rename(
        at.elsewhere.ino, b"free", at.below.ino, b"n", 0, NOW_NS
    ),
    "replacing a file in it": lambda engine, at: engine.rename(
        at.elsewhere.ino, b"free", at.below.ino, b"file", 0, NOW_NS
    ),
    "replacing another name of a file in it": lambda engine, at: engine.rename(
        at.elsewhere.ino, b"free", at.elsewhere.ino, b"twice", 0, NOW_NS
    ),
    "exchanging with a file in it": lambda engine, at: engine.rename(
        at.elsewhere.ino, b"free", at.below.ino, b"file", RENAME_EXCHANGE, NOW_NS
    ),
    "moving it": lambda engine, at: engine.rename(
        at.above.ino, b"tree", ROOT_INODE, b"n", 0, NOW_NS
    ),
    "moving a directory above it": lambda engine, at: engine.rename(
        ROOT_INODE, b"above", at.elsewhere.ino, b"n", 0, NOW_NS
    ),
    "exchanging a directory above it": lambda engine, at: engine.rename(
        ROOT_INODE, b"elsewhere", ROOT_INODE, b"above", RENAME_EXCHANGE, NOW_NS
    ),
    "attributes of a file": lambda engine, at: engine.set_attributes(
        at.file.ino, AttributeChanges(mode=0o600)
    ),
    "times of it": lambda engine, at: engine.set_attributes(
        at.tree.ino, AttributeChanges(atime_ns=1, ctime_ns=1)
    ),
    "an xattr": lambda engine, at: engine.set_xattr(at.file.ino, b"user.b", b"1", 0, NOW_NS),
    "removing an xattr": lambda engine, at: engine.remove_xattr(at.tree.ino, b"user.a", NOW_NS),
    "an ACL": lambda engine, at: engine.set_mode_and_xattrs(
        at.file.ino, None, [(b"system.posix_acl_access", b"x")], NOW_NS
    ),
    "a mode": lambda engine, at: engine.set_mode_and_xattrs(at.below.ino, 0o700, [], NOW_NS),
    "writing": lambda engine, at: engine.unseal(at.file.ino, at.file.raw),
    "writing to a file by another name": lambda engine, at: engine.unseal(
        at.twice.ino, engine.reserve_ids()[1]
    ),
    "opening it for writing": lambda engine, at: engine.require_thawed(at.twice.ino),
}


async def everything(engine: Engine, at: Scene) -> list[object]:
    """Return all that programs see of the scene."""
    inodes = (at.above, at.tree, at.below, at.file, at.twice, at.elsewhere, at.free)
    return [
        (
            await engine.get_inode(each.ino),
            await engine.get_path(each.ino),
            await engine.list_xattrs(each.ino),
        )
        for each in inodes
    ]


@pytest.mark.parametrize("what", REFUSED)
async def test_nothing_in_a_frozen_tree_changes(engine: Engine, scene: Scene, what: str) -> None:
    before = await everything(engine, scene)
    with pytest.raises(FrozenError, match="/above/tree is frozen, and all below it") as caught:
        await REFUSED[what](engine, scene)
    assert caught.value.errno == errno.EROFS
    assert await everything(engine, scene) == before
    await engine.begin_thaw(scene.tree.ino)
    with pytest.raises(FrozenError):
        await REFUSED[what](engine, scene)
    await engine.thaw(scene.tree.ino)
    await REFUSED[what](engine, scene)


async def test_an_empty_frozen_directory_is_not_removed(engine: Engine) -> None:
    directory = await make_directory(engine, b"d")
    await engine.freeze(directory.ino)
    with pytest.raises(FrozenError):
        await engine.rmdir(ROOT_INODE, b"d", NOW_NS)
    other = await make_directory(engine, b"e")
    with pytest.raises(FrozenError):
        await engine.rename(ROOT_INODE, b"e", ROOT_INODE, b"d", 0, NOW_NS)
    await engine.thaw(directory.ino)
    await engine.rename(ROOT_INODE, b"e", ROOT_INODE, b"d", 0, NOW_NS)
    assert (await engine.lookup(ROOT_INODE, b"d")).ino == other.ino


async def test_what_memfs_does_by_itself_goes_on(engine: Engine, scene: Scene) -> None:
    """Files move between tiers, are pinned, and are in snapshots; access times are renewed."""
    ino = scene.file.ino
    await engine.set_pin(scene.tree.ino, Tier.GLACIER)
    await engine.set_codec(ino, "lz4")
    await engine.set_xattr(ino, b"user.memfs.priority", b"7", 0, NOW_NS)
    await engine.remove_xattr(ino, b"user.memfs.priority", NOW_NS)
    await engine.set_attributes(ino, AttributeChanges(atime_ns=NOW_NS + 99))
    assert await publish(engine, scene.file, FormKind.REMOTE)
    assert await engine.drop_raw(ino, scene.file.generation)
    assert await hydrate(engine, await engine.get_inode(ino))
    await engine.create_snapshot("s", NOW_NS)
    # Power loss may leave other bytes than were sealed: they are what is there.
    after = await engine.unseal(ino, (await engine.get_inode(ino)).raw, overwritten=True)
    await engine.seal([Seal(ino, after.generation, 5, 1, 1, NOW_NS, NOW_NS)])


async def test_what_is_elsewhere_changes_as_ever(engine: Engine, scene: Scene) -> None:
    await engine.create(scene.above.ino, b"n", new_file(engine))
    await engine.rename(scene.above.ino, b"n", ROOT_INODE, b"m", 0, NOW_NS)
    await engine.set_attributes(scene.above.ino, AttributeChanges(mode=0o700))
    await engine.unlink(scene.elsewhere.ino, b"free", NOW_NS)
    orphan = await engine.create_orphan(new_file(engine))
    await engine.set_attributes(orphan.ino, AttributeChanges(mode=0o600))
    moved = await make_directory(engine, b"moved", scene.elsewhere.ino)
    await engine.rename(scene.elsewhere.ino, b"moved", scene.above.ino, b"moved", 0, NOW_NS)
    assert await engine.find_frozen(moved.ino) is None


async def test_the_whole_mount_may_be_frozen(engine: Engine, scene: Scene) -> None:
    await engine.freeze(ROOT_INODE)
    with pytest.raises(FrozenError, match="/ is frozen"):
        await engine.create(ROOT_INODE, b"n", new_file(engine))
    with pytest.raises(FrozenError, match="/above/tree is frozen"):
        await engine.create(scene.tree.ino, b"n", new_file(engine))
    await engine.thaw(scene.tree.ino)
    with pytest.raises(FrozenError, match="/ is frozen"):
        await engine.create(scene.tree.ino, b"n", new_file(engine))
    await engine.thaw(ROOT_INODE)
    await engine.create(scene.tree.ino, b"n", new_file(engine))


async def test_it_is_told_which_trees_are_frozen(
    engine_site: SqliteSite, engine: Engine, scene: Scene
) -> None:
    tree = FrozenTree(scene.tree.ino, False)
    assert engine.has_frozen
    assert await engine.list_frozen() == [tree]
    for inode in (scene.tree, scene.below, scene.file, scene.twice):
        assert await engine.find_frozen(inode.ino) == tree
    for inode in (scene.above, scene.elsewhere, scene.free):
        assert await engine.find_frozen(inode.ino) is None
    await engine.freeze(scene.below.ino)
    assert await engine.find_frozen(scene.file.ino) == FrozenTree(scene.below.ino, False)
    await engine.thaw(scene.below.ino)
    await engine.begin_thaw(scene.tree.ino)
    thawing = FrozenTree(scene.tree.ino, True)
    assert await engine.find_frozen(scene.file.ino) == thawing
    await engine.commit()
    # A crash forgets nothing.
    engine = engine_site.crash()
    assert await engine.list_frozen() == [thawing]
    # What was begun can be taken back.
    await engine.freeze(scene.tree.ino)
    assert await engine.find_frozen(scene.file.ino) == tree
    await engine.thaw(scene.tree.ino)
    await engine.commit()
    engine = engine_site.reopen()
    assert not engine.has_frozen
    assert await engine.find_frozen(scene.file.ino) is None


async def test_a_change_that_fails_freezes_nothing(engine: Engine, scene: Scene) -> None:
    async def fail() -> None:
        async with engine.change():
            await engine.freeze(scene.elsewhere.ino)
            await engine.thaw(scene.tree.ino)
            assert await engine.find_frozen(scene.free.ino) is not None
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await engine.find_frozen(scene.free.ino) is None
    assert await engine.find_frozen(scene.file.ino) is not None


async def test_what_cannot_be_frozen(engine: Engine) -> None:
    file = await make_file(engine, b"f")
    with pytest.raises(NotADirectoryInodeError):
        await engine.freeze(file.ino)
    directories = [
        (await make_directory(engine, b"%d" % number)).ino for number in range(FROZEN_COUNT_MAX + 1)
    ]
    for ino in directories[:-1]:
        await engine.freeze(ino)
    with pytest.raises(InvalidValueError, match="freeze a directory above them"):
        await engine.freeze(directories[-1])
    await engine.freeze(directories[0])
    removed = await make_directory(engine, b"removed")
    await engine.thaw(directories[0])
    await engine.rmdir(ROOT_INODE, b"removed", NOW_NS)
    with pytest.raises(InvalidValueError, match="removed"):
        await engine.freeze(removed.ino)


ASKS = {
    *("create", "link", "unlink", "rmdir", "rename", "set_attributes", "set_xattr"),
    *("remove_xattr", "set_mode_and_xattrs", "unseal", "adopt_files"),
}
"""Methods that change what programs see, and ask first whether it is frozen."""

UNSEEN = {
    # Forms and places of the same bytes, and notes about them.
    *("begin_batch", "publish_batch", "replace_batched", "replace_form", "publish_form"),
    *("publish_raw", "drop_form", "drop_raw", "share_blob", "keep_copy", "keep_open", "part_open"),
    *("begin_intent", "cancel_intent", "clear_pending", "set_pending", "mark_durable", "seal"),
    *("set_pin", "set_codec", "record_access", "record_decision", "clear_garbage"),
    # What is without a name.
    *("create_orphan", "reap"),
    # Snapshots, questions, measurements, settings.
    *("create_snapshot", "delete_snapshot", "delete_snapshot_step", "add_index", "drop_index"),
    *("index_attributes", "add_events", "put_metrics", "put_setting", "put_published"),
    "forget_published",
    # Sources: what is known of them, and which object a file was made of.
    *("add_source", "put_source", "remove_source", "add_directory", "forget_directories"),
    *("set_listed", "attach_object", "detach_object", "put_object", "clear_gone"),
    *("freeze", "begin_thaw", "thaw"),
}
"""Methods that change nothing in a tree that programs see."""


def test_each_change_is_decided() -> None:
    """What changes the tables asks, or changes nothing that programs see in a tree."""
    changing = {
        name
        for name, method in inspect.getmembers(SqliteEngine, inspect.isfunction)
        if not name.startswith("_") and "_begin_change(" in inspect.getsource(method)
    }
    asking = {
        name
        for name in changing
        if re.search("_require_(thawed|settable)", inspect.getsource(getattr(SqliteEngine, name)))
    }
    assert asking == ASKS
    assert changing - asking == UNSEEN
