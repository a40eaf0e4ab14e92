"""The file system of a node that reads, over tables that the other node changes behind its back."""

from __future__ import annotations

import errno
import inspect
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Never

import pytest

from memfs.content.opening import Handle, OpenMode
from memfs.errors import ReadOnlyNodeError
from memfs.filesystem.aliased import AliasedTree
from memfs.filesystem.nodes import is_alias, number_of
from memfs.filesystem.operations import AttributeRequest, Operations
from memfs.filesystem.reading import ReadingFilesystem
from memfs.filesystem.recency import Recency
from memfs.metadata.records import Seal
from memfs.metadata.shared.applying import Aspect, Effects
from memfs.types import ROOT_INODE, InodeNo
from tests.property.world import ROOMY, Refusal, World
from tests.unit.fakes.reader_log import StandInLog, Thread, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from memfs.filesystem.replies import Opened

HANDLE = Handle(8)


class Reader:
    """A node that reads what a world has.

    Args:
        world: Its own file system writes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.log = StandInLog()
        recency = Recency(self.log, world.engine, world.parts.invalidations)
        self.log.tell = recency.tell
        self.filesystem = ReadingFilesystem(world.parts, recency)

    def commit(self, change: Callable[[], Effects]) -> None:
        """The other node commits a change, which is not here yet."""
        self.log.committed.append(change)

    def open(self, ino: InodeNo) -> Opened:
        return self.world.request(self.filesystem.open(Thread(), ino, os.O_RDONLY))

    def read(self, ino: InodeNo, opened: Opened) -> bytes:
        return bytes(self.world.request(self.filesystem.read(ino, opened.handle, 0, 100)))

    def find_node(self, name: bytes) -> InodeNo:
        """Return what the kernel is told that a name leads to."""
        entry = self.world.request(self.filesystem.lookup(ROOT_INODE, name, Thread()))
        assert entry is not None
        return InodeNo(entry.node or entry.inode.ino)

    def find(self, name: bytes) -> InodeNo | None:
        entry = self.world.request(self.filesystem.lookup(ROOT_INODE, name))
        return None if entry is None else entry.inode.ino


@pytest.fixture(params=[True, False], ids=["passthrough", "served"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reader]:
    world = World(tmp_path, ROOMY, passthrough=request.param)
    try:
        yield Reader(world)
    finally:
        world.close()


def write_file(world: World, name: bytes, content: bytes) -> InodeNo:
    """Write a file on the node that writes, closed and sealed."""
    file = world.create(ROOT_INODE, name, 0o644, os.O_WRONLY)
    world.write(file, 0, content)
    world.release(file)
    world.run(world.filesystem.finish_requests())
    return file.ino


def rewrite(world: World, ino: InodeNo, content: bytes) -> Effects:
    """Give a file other bytes in another raw file, as a fetch of its next generation does."""
    _, raw = world.engine.reserve_ids()
    fd = world.raw_store.create(raw)
    os.write(fd, content)
    status = os.fstat(fd)
    os.close(fd)

    async def change() -> None:
        inode = await world.engine.get_inode(ino)
        async with world.engine.change():
            after = await world.engine.unseal(ino, raw, inode.generation)
            times = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
            seal = Seal(ino, after.generation, status.st_size, status.st_blocks, *times)
            await world.engine.seal([seal])

    to_its_end(change())
    effects = Effects()
    effects.note(ino, Aspect.CONTENT | Aspect.ATTRIBUTES)
    return effects


def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run what does not suspend, within a run of the world as well."""
    with pytest.raises(StopIteration):
        work.send(None)


def remove(world: World, name: bytes) -> Effects:
    """Remove a file for good."""

    async def change() -> None:
        async with world.engine.change():
            inode = await world.engine.unlink(ROOT_INODE, name, 1)
            await world.engine.reap([inode.ino])
            gone.append(inode.ino)

    gone: list[InodeNo] = []
    to_its_end(change())
    effects = taken(gone[0], name)
    effects.note(gone[0], Aspect.CONTENT | Aspect.ATTRIBUTES)
    return effects


def test_a_missing_name_is_looked_for_again(reader: Reader) -> None:
    """A name that is there is answered at once."""
    assert reader.find(b"new") is None
    assert reader.log.barrier_count == 1
    ino = write_file(reader.world, b"new", b"content")
    assert reader.find(b"new") == ino
    assert reader.log.barrier_count == 1


def test_a_name_that_comes_while_it_is_looked_for(reader: Reader) -> None:
    made: list[InodeNo] = []

    def change() -> Effects:
        world = reader.world
        made.append(world.create(ROOT_INODE, b"new", 0o644, os.O_WRONLY).ino)
        return Effects()

    reader.commit(change)
    assert reader.find(b"new") == made[0]


def test_a_listing_begins_with_what_is_there_now(reader: Reader) -> None:
    for name in (b"1", b"2", b"3"):
        write_file(reader.world, name, b"")
    reader.commit(lambda: remove(reader.world, b"1"))
    list_directory = reader.filesystem.list_directory
    first = reader.world.request(list_directory(ROOT_INODE, 0, 1))
    assert [entry.name for entry in first] == [b"2"]
    reader.commit(lambda: remove(reader.world, b"3"))
    # It goes on as it began.
    rest = reader.world.request(list_directory(ROOT_INODE, first[-1].cookie, 10))
    assert [entry.name for entry in rest] == [b"3"]


def test_a_directory_that_was_removed_since_it_was_opened(reader: Reader) -> None:
    world = reader.world
    made = world.request(world.filesystem.make_directory(Thread(), ROOT_INODE, b"d", 0o755))
    ino = made.inode.ino

    async def remove_directory() -> None:
        async with world.engine.change():
            await world.engine.rmdir(ROOT_INODE, b"d", 1)
            await world.engine.reap([ino])

    reader.world.request(reader.filesystem.open_directory(Thread(), ino))
    world.run(remove_directory())
    for request in (
        reader.filesystem.get_parent(ino),
        reader.filesystem.list_directory(ino, 0, 10),
    ):
        with pytest.raises(Refusal) as caught:
            world.request(request)
        assert caught.value.errno == errno.ENOENT
    shown = world.request(reader.filesystem.get_attributes(ino)).inode
    assert (shown.nlink, shown.mode) == (0, made.inode.mode)


def test_an_opened_directory_may_have_moved(reader: Reader) -> None:
    entry = reader.world.request(
        reader.world.filesystem.make_directory(Thread(), ROOT_INODE, b"d", 0o755)
    )
    reader.commit(lambda: taken(entry.inode.ino, b"d", leads_on=True))
    for code in (errno.ESTALE, 0):
        request = reader.filesystem.open_directory(Thread(), entry.inode.ino)
        if code:
            with pytest.raises(Refusal) as caught:
                reader.world.request(request)
            assert caught.value.errno == code
        else:
            reader.world.request(request)


def test_a_file_that_was_replaced_is_walked_to_anew(reader: Reader) -> None:
    old = write_file(reader.world, b"f", b"old")
    new = write_file(reader.world, b"temporary", b"new")

    def change() -> Effects:
        world = reader.world
        world.request(world.filesystem.rename(ROOT_INODE, b"temporary", ROOT_INODE, b"f", 0))
        return taken(old, b"f")

    reader.commit(change)
    with pytest.raises(Refusal) as caught:
        reader.open(old)
    assert caught.value.errno == errno.ESTALE
    assert reader.find(b"f") == new
    opened = reader.open(new)
    assert opened.mode in (OpenMode.PASSTHROUGH, OpenMode.CACHED)
    reader.filesystem.release(new, opened.handle)


def test_what_is_open_is_read_on_after_its_removal(reader: Reader) -> None:
    """Under passthrough the kernel does that by itself."""
    ino = write_file(reader.world, b"f", b"content")
    opened = reader.open(ino)
    if opened.mode == OpenMode.CACHED:
        assert reader.read(ino, opened) == b"content"
    reader.commit(lambda: remove(reader.world, b"f"))
    assert reader.find(b"f") is not None
    assert reader.find(b"missing") is None
    assert reader.find(b"f") is None
    if opened.mode == OpenMode.CACHED:
        reader.world.run(reader.world.garbage.collect(10))
        assert reader.read(ino, opened) == b"content"
    shown = reader.world.request(reader.filesystem.get_attributes(ino)).inode
    assert (shown.nlink, shown.size) == (0, 7)
    reader.filesystem.release(ino, opened.handle)
    assert not reader.world.open_table.is_open(ino)
    with pytest.raises(Refusal) as caught:
        reader.world.request(reader.filesystem.get_attributes(ino))
    assert caught.value.errno == errno.ESTALE


def test_a_file_that_is_rewritten_while_it_is_open(reader: Reader) -> None:
    """The kernel takes one backing file of a node at a time: the file gets another node."""
    world = reader.world
    ino = write_file(world, b"f", b"old")
    former = reader.open(ino)
    reader.commit(lambda: rewrite(world, ino, b"another"))
    node = ino
    if former.mode == OpenMode.PASSTHROUGH:
        with pytest.raises(Refusal) as caught:
            reader.open(ino)
        assert caught.value.errno == errno.ESTALE
        node = reader.find_node(b"f")
        assert is_alias(node)
        assert number_of(node) == ino
    again = reader.open(node)
    inode = world.run(world.engine.get_inode(ino))
    assert again.mode == former.mode
    if again.mode == OpenMode.CACHED:
        assert reader.read(ino, again) == b"another"
    else:
        assert world.open_table.is_registered(node, inode.raw)
        assert not world.open_table.is_registered(ino, inode.raw)
    # By either number it is the same file.
    shown = world.request(AliasedTree(reader.filesystem, no_tree).get_attributes(node)).inode
    assert (shown.ino, shown.size) == (ino, 7)
    for number, opened in ((ino, former), (node, again)):
        reader.filesystem.release(number, opened.handle)
    assert not world.open_table.is_open(ino)
    assert not world.open_table.is_open(node)
    if node != ino:
        # No backing of it keeps the raw file.
        assert not world.open_table.is_registered(node, inode.raw)
    # Now that the former bytes are closed, its own node serves it.
    assert reader.find_node(b"f") == ino
    last = reader.open(ino)
    assert world.open_table.is_registered(ino, inode.raw) == (last.mode == OpenMode.PASSTHROUGH)
    reader.filesystem.release(ino, last.handle)


def test_a_file_that_is_rewritten_again_and_again(tmp_path: Path) -> None:
    """Each of its generations that is open has a node of its own."""
    world = World(tmp_path, ROOMY, passthrough=True)
    try:
        reader = Reader(world)
        ino = write_file(world, b"f", b"old")
        opened = {ino: reader.open(ino)}
        for number in range(3):
            reader.commit(partial(rewrite, world, ino, b"%d" % number))
            assert reader.find(b"missing") is None
            node = reader.find_node(b"f")
            assert node not in opened
            opened[node] = reader.open(node)
        for node, each in opened.items():
            reader.filesystem.release(node, each.handle)
        assert reader.find_node(b"f") == ino
    finally:
        world.close()


def no_tree(node: InodeNo) -> Never:
    raise AssertionError(f"node {node} is not inside of .memfs")


def test_a_name_that_leads_nowhere_ends_a_walk_anew(reader: Reader) -> None:
    world = reader.world
    old, other = (write_file(world, name, b"") for name in (b"old", b"other"))
    reader.commit(lambda: remove(world, b"old"))
    with pytest.raises(Refusal):
        reader.open(old)
    lookup = reader.filesystem.lookup
    assert world.request(lookup(ROOT_INODE, b"old", Thread())) is None
    assert world.request(lookup(ROOT_INODE, b"other", Thread())) is not None
    reader.commit(lambda: taken(other, b"other"))
    with pytest.raises(Refusal) as caught:
        reader.open(other)
    assert caught.value.errno == errno.ESTALE


CHANGES: dict[str, tuple[Any, ...]] = {
    "create": (Thread(), ROOT_INODE, b"n", 0o644, os.O_WRONLY),
    "create_unnamed": (Thread(), ROOT_INODE, 0o644, os.O_RDWR),
    "make_node": (Thread(), ROOT_INODE, b"n", 0o100644, 0),
    "make_directory": (Thread(), ROOT_INODE, b"n", 0o755),
    "make_symlink": (Thread(), ROOT_INODE, b"n", b"target"),
    "link": (InodeNo(2), ROOT_INODE, b"n"),
    "unlink": (ROOT_INODE, b"f"),
    "remove_directory": (ROOT_INODE, b"f"),
    "rename": (ROOT_INODE, b"f", ROOT_INODE, b"g", 0),
    "set_attributes": (Thread(), ROOT_INODE, AttributeRequest(mode=0o700)),
    "set_xattr": (Thread(), ROOT_INODE, b"user.a", b"1", 0, False),
    "remove_xattr": (Thread(), ROOT_INODE, b"user.a"),
    "open": (Thread(), InodeNo(2), os.O_WRONLY),
    "write": (Thread(), InodeNo(2), HANDLE, 0, memoryview(b"1")),
    "allocate": (InodeNo(2), 0, 0, 1),
    "copy_range": (InodeNo(2), 0, InodeNo(2), 0, 1),
}
"""Requests that change something, with arguments."""

OTHERS = {
    *("lookup", "read_link", "list_directory", "open_directory", "get_parent", "forget"),
    *("get_attributes", "lacks_capability", "get_xattr", "list_xattrs", "release", "read"),
    *("fsync", "fsync_directory", "sync", "seek", "statistics", "commit", "give_back"),
}


def test_all_requests_are_decided() -> None:
    requests = {
        name
        for name, each in vars(Operations).items()
        if inspect.isfunction(each) and not name.startswith("_")
    }
    assert requests == CHANGES.keys() | OTHERS


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_is_changed(name: str, tmp_path: Path) -> None:
    """A mount that was made writable past the daemon changes nothing either."""
    world = World(tmp_path, ROOMY, passthrough=False)
    try:
        reader = Reader(world)
        with pytest.raises(ReadOnlyNodeError, match="node reads; the writer is first") as caught:
            world.run(getattr(reader.filesystem, name)(*CHANGES[name]))
        assert caught.value.errno == errno.EROFS
    finally:
        world.close()
