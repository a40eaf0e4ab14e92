"""How nodes of `.memfs` are opened, told and let go of, without a mount."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from memfs.content.opening import OpenMode
from memfs.errors import IsADirectoryInodeError, NotPermittedError, StaleInodeError
from memfs.filesystem.inside.found import FIRST_QUESTION
from memfs.filesystem.inside.inside import Inside
from memfs.filesystem.inside.own import OWN_ROOT, QUERY, SNAPSHOTS
from memfs.filesystem.inside.tree import NAME
from memfs.filesystem.nodes import node_of, number_of, own_node, slot_of
from memfs.filesystem.querying import Answer, FoundFile, Question
from memfs.filesystem.validity import VALID_S
from memfs.metadata.records import InodeFlags
from memfs.types import ROOT_INODE, InodeNo
from tests.property.world import ROOMY, Program, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.filesystem.mounted import MountedTree
    from memfs.filesystem.replies import Entry, Opened
    from memfs.metadata.records import Inode

OLD, NEW = b"old content " * 1000, b"new"
FOUND = [FoundFile(InodeNo(2), path, 0, 0, None) for path in ("b/two", "a", "c/three")]


class InsideSite:
    """A world with `.memfs`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[Question] = []
        self.found = [*FOUND]
        self.content = b"made"
        self.parts = Inside(world.parts, {b"file": self.make}, self.answer)
        self.tree: MountedTree = self.parts.mounted(world.filesystem)

    async def make(self) -> bytes:
        return self.content

    async def answer(self, question: Question) -> Answer:
        self.asked.append(question)
        return Answer(self.found, len(self.found), None, "", "loop", True, 0.0, ())

    def lookup(self, parent: InodeNo, *names: bytes) -> Entry:
        found: Entry | None = None
        for name in names:
            found = self.world.request(self.tree.lookup(parent, name, self.world.program))
            assert found is not None
            parent = found.inode.ino
        assert found is not None
        return found

    def open(self, node: InodeNo) -> Opened:
        return self.world.request(self.tree.open(self.world.program, node, os.O_RDONLY))

    def write(self, name: bytes, content: bytes) -> InodeNo:
        file = self.world.create(ROOT_INODE, name, 0o640, os.O_RDWR)
        self.world.write(file, 0, content)
        self.world.release(file)
        for _ in range(5):
            self.world.step()
            if not self.inode(file.ino).flags & InodeFlags.UNSEALED:
                return file.ino
        raise AssertionError("the file was not sealed")

    def inode(self, ino: InodeNo) -> Inode:
        return self.world.run(self.world.engine.get_inode(ino))

    def overwrite(self, ino: InodeNo) -> None:
        file = self.world.open(ino, os.O_RDWR)
        self.world.write(file, 0, NEW)
        self.world.release(file)

    def snapshot(self, name: str) -> None:
        self.world.run(self.world.engine.create_snapshot(name, time.time_ns()))
        self.world.engine.commit_nowait()


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[InsideSite]:
    world = World(tmp_path, ROOMY, passthrough=True)
    inside = InsideSite(world)
    try:
        yield inside
    finally:
        inside.parts.close()
        world.close()


def test_only_bytes_that_never_change_are_passed_through(inside: InsideSite) -> None:
    ino = inside.write(b"file", OLD)
    inside.snapshot("one")
    node = inside.lookup(ROOT_INODE, NAME, b"snapshots", b"one", b"file").inode.ino
    assert (number_of(node), slot_of(node) > 1) == (ino, True)
    shared = inside.open(node)
    assert (shared.mode, shared.backing) == (OpenMode.DIRECT, 0)
    inside.overwrite(ino)
    # The kernel refuses to mix the two modes while one is mapped.
    second = inside.open(node)
    assert second.mode is OpenMode.DIRECT
    for opened in (shared, second):
        assert inside.world.request(inside.tree.read(node, opened.handle, 0, 1 << 20)) == OLD
        inside.tree.release(node, opened.handle)
    kept = inside.open(node)
    assert kept.mode is OpenMode.PASSTHROUGH
    assert inside.world.open_table.is_open(node)
    inside.tree.release(node, kept.handle)
    # A backing id that nobody uses would keep the space of a deleted snapshot.
    assert not inside.world.open_table.is_open(node)
    assert node not in inside.world.open_table._backings


def test_how_long_the_kernel_may_believe_what_is_inside(inside: InsideSite) -> None:
    inside.write(b"file", OLD)
    inside.snapshot("one")
    times = {
        path: (entry.entry_valid_s, entry.attributes_valid_s)
        for path in ("", "/file", "/snapshots", "/query", "/snapshots/one", "/snapshots/one/file")
        for entry in [inside.lookup(ROOT_INODE, *f"{NAME.decode()}{path}".encode().split(b"/"))]
    }
    assert times == {
        "": (0.0, 0.0),
        "/file": (0.0, 0.0),
        "/snapshots": (0.0, 0.0),
        "/query": (0.0, 0.0),
        "/snapshots/one": (1.0, VALID_S),
        "/snapshots/one/file": (VALID_S, VALID_S),
    }


def test_a_deleted_snapshot_is_stale(inside: InsideSite) -> None:
    inside.write(b"file", OLD)
    inside.snapshot("one")
    root = inside.lookup(ROOT_INODE, NAME, b"snapshots", b"one").inode.ino
    node = inside.lookup(root, b"file").inode.ino
    tree, program, request = inside.tree, inside.world.program, inside.world.request
    engine = inside.world.engine
    inside.world.run(engine.delete_snapshot(inside.world.run(engine.get_snapshot("one")).snap))
    engine.commit_nowait()
    assert request(tree.lookup(SNAPSHOTS, b"one")) is None
    for work in (
        tree.lookup(root, b"file"),
        tree.lookup(root, b"gone"),
        tree.list_directory(root, 0, 10),
        tree.get_attributes(node),
        tree.get_parent(node),
        tree.read_link(node),
        tree.list_xattrs(program, node),
        tree.get_xattr(program, node, b"user.a"),
        tree.open(program, node, os.O_RDONLY),
    ):
        with pytest.raises(StaleInodeError):
            inside.world.run(work)


def test_nodes_that_nobody_has_are_stale(inside: InsideSite) -> None:
    tree, program = inside.tree, inside.world.program
    for node in (
        own_node(7),
        own_node(FIRST_QUESTION + 5),
        own_node((1 << 46) + 5),
        own_node((1 << 48) - 1),
        node_of(77, ROOT_INODE),
        InodeNo((1 << 64) - 1),
    ):
        with pytest.raises(StaleInodeError):
            inside.world.run(tree.get_attributes(node))
        with pytest.raises((StaleInodeError, IsADirectoryInodeError)):
            inside.world.run(tree.open(program, node, os.O_RDONLY))
        tree.forget([node])
        assert not tree.lacks_capability(node)


def test_a_look_up_and_the_open_behind_it_share_one_content(inside: InsideSite) -> None:
    """Programs that were told a size get as many bytes; and each open gets what is true then."""
    contents = []
    for number in range(3):
        inside.content = b"x" * number
        entry = inside.lookup(ROOT_INODE, NAME, b"file")
        inside.content = b"later" * 3 if number == 1 else inside.content
        opened = inside.open(entry.inode.ino)
        content = inside.world.request(inside.tree.read(entry.inode.ino, opened.handle, 0, 100))
        assert len(content) == entry.inode.size
        told = inside.world.request(inside.tree.get_attributes(entry.inode.ino))
        assert told.inode.size == len(content)
        contents.append(content)
        inside.tree.release(entry.inode.ino, opened.handle)
    assert contents == [b"", b"x", b"xx"]
    # A second open without a look-up of its own takes nothing that is old.
    inside.content = b"new"
    opened = inside.open(entry.inode.ino)
    assert inside.world.request(inside.tree.read(entry.inode.ino, opened.handle, 0, 100)) == b"new"
    inside.tree.release(entry.inode.ino, opened.handle)


def test_a_caller_whose_groups_are_not_known_asks_nothing(inside: InsideSite) -> None:
    """A file may be shut to a group and open to all others."""
    stranger = Program()
    stranger.uid, stranger.gid, stranger.pid = 4321, 4321, 0
    with pytest.raises(NotPermittedError):
        inside.world.run(inside.tree.lookup(QUERY, b"{}", stranger))
    assert inside.asked == []


def test_links_of_another_answer_are_other_nodes(inside: InsideSite) -> None:
    """The kernel keeps the target of a symlink for as long as it knows the node."""
    tree, request = inside.tree, inside.world.request
    directory = inside.lookup(QUERY, b"{}").inode.ino
    first = request(tree.list_directory(directory, 0, 10))
    assert [entry.name for entry in first] == [b"0001-a", b"0002-two", b"0003-three"]
    links = [request(tree.read_link(entry.inode.ino)) for entry in first]
    assert links == [b"../../../a", b"../../../b/two", b"../../../c/three"]
    assert [entry.inode.size for entry in first] == [len(link) for link in links]
    assert request(tree.list_directory(directory, first[1].cookie, 10)) == first[2:]
    assert [entry.name for entry in request(tree.list_directory(directory, 0, 1))] == [b"0001-a"]
    assert request(tree.list_directory(directory, 0, 10)) == first
    assert request(tree.get_parent(directory)) == QUERY
    assert request(tree.get_parent(QUERY)) == OWN_ROOT
    inside.found = inside.found[:1]
    second = request(tree.list_directory(directory, 0, 10))
    assert [entry.name for entry in second] == [b"0001-two"]
    assert second[0].inode.ino not in {entry.inode.ino for entry in first}
    with pytest.raises(StaleInodeError):
        inside.world.run(tree.read_link(first[0].inode.ino))
    assert request(tree.lookup(directory, b"0001-a")) is None
    assert request(tree.lookup(directory, b"x")) is None
    assert inside.lookup(directory, b"0001-two").inode == second[0].inode
    # The world's programs are root's.
    assert {question.caller for question in inside.asked} == {None}


def test_questions_are_forgotten_when_there_are_many(inside: InsideSite) -> None:
    first = inside.lookup(QUERY, b"{}").inode.ino
    inside.world.request(inside.tree.list_directory(first, 0, 10))
    again = [inside.lookup(QUERY, b'{"a": %d}' % number).inode.ino for number in range(64)]
    with pytest.raises(StaleInodeError):
        inside.world.run(inside.tree.list_directory(first, 0, 10))
    assert inside.lookup(QUERY, b'{"a": 63}').inode.ino == again[-1]
    assert inside.lookup(QUERY, b"{}").inode.ino != first
