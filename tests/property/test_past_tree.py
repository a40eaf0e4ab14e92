"""Snapshots by way of `.memfs`, beside writers, renames, removals and the mover.

Each equals a copy of the tree that was taken at its instant, contents included.
"""

from __future__ import annotations

import os
import random
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from memfs.content.opening import OpenMode
from memfs.filesystem.inside.inside import Inside
from memfs.filesystem.inside.tree import NAME
from memfs.filesystem.operations import AttributeRequest
from memfs.types import ROOT_INODE, InodeNo, Tier
from tests.property.world import HASTY, HYDRATE_BYTES_MAX, ROOMY, OpenFile, Refusal, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from memfs.filesystem.querying import Answer, Question
    from memfs.metadata.records import Inode

TURN_COUNT = 70
NAMES = (b"a", b"b", b"c")
TIMES_NS = (1_000_000_000, 5_000_000_007)


class Seen(NamedTuple):
    """What a program sees at one path."""

    mode: int
    owner: tuple[int, int]
    content: bytes
    """That of a file, or the target of a symlink."""
    mtime_ns: int
    """0 for a directory, whose names are seen by themselves."""
    xattrs: tuple[tuple[bytes, bytes], ...]


Tree = dict[bytes, Seen]


async def no_answer(_question: Question) -> Answer:
    raise AssertionError("nobody asks")


class PastLife:
    """A world with `.memfs` in its root, and what its snapshots have to show."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.expected: dict[bytes, Tree] = {}
        self.held: list[tuple[OpenFile, bytes]] = []
        """Files of the past that are open, and their bytes."""
        self.serial = 0
        self.begin()

    def begin(self) -> None:
        """Serve `.memfs`."""
        self.inside = Inside(self.world.parts, {}, no_answer)
        self.tree = self.inside.mounted(self.world.filesystem)

    def end(self) -> None:
        """Close what is open in it."""
        for file, content in self.held:
            assert self.read(file) == content
            self.close(file)
        self.held.clear()
        self.inside.close()

    # --- the live tree ---------------------------------------------------------------------------
    def places(self, *, directories: bool = False) -> list[tuple[InodeNo, bytes, Inode]]:
        """Return directory, name and inode of all names, or of directories alone."""
        found, rest = [], [ROOT_INODE]
        while rest:
            parent = rest.pop()
            for entry in self.world.run(self.world.engine.list_directory(parent, 0, 1000)):
                is_directory = stat.S_ISDIR(entry.inode.mode)
                if is_directory:
                    rest.append(entry.inode.ino)
                if is_directory == directories:
                    found.append((parent, entry.name, entry.inode))
        return found

    def pick_directory(self) -> InodeNo:
        directories = [ROOT_INODE, *(each[2].ino for each in self.places(directories=True))]
        return self.rng.choice(directories)

    def pick(self) -> tuple[InodeNo, bytes, Inode] | None:
        places = self.places()
        return self.rng.choice(places) if places else None

    def pick_file(self) -> InodeNo | None:
        files = [each[2].ino for each in self.places() if stat.S_ISREG(each[2].mode)]
        return self.rng.choice(files) if files else None

    def some_bytes(self) -> bytes:
        return self.rng.randbytes(self.rng.choice([10, 3000, HYDRATE_BYTES_MAX * 2]))

    # --- changes ---------------------------------------------------------------------------------
    def make_file(self) -> None:
        name = self.rng.choice(NAMES)
        file = self.world.create(self.pick_directory(), name, 0o644, os.O_RDWR)
        self.world.write(file, 0, self.some_bytes())
        self.world.release(file)

    def make_directory(self) -> None:
        self.request("make_directory", self.pick_directory(), self.rng.choice(NAMES), 0o755)

    def make_symlink(self) -> None:
        self.request("make_symlink", self.pick_directory(), self.rng.choice(NAMES), b"to/a/file")

    def write(self) -> None:
        if (ino := self.pick_file()) is not None:
            file = self.world.open(ino, os.O_RDWR | self.rng.choice([0, 0, os.O_TRUNC]))
            self.world.write(file, self.rng.choice([0, 1000]), self.some_bytes())
            self.world.release(file)

    def cut(self) -> None:
        if (ino := self.pick_file()) is not None:
            self.set_attributes(ino, AttributeRequest(size=self.rng.choice([0, 5, 4000])))

    def change_attributes(self) -> None:
        if (place := self.pick()) is not None and not stat.S_ISLNK(place[2].mode):
            requests = [
                AttributeRequest(mode=self.rng.choice([0o600, 0o444])),
                AttributeRequest(uid=7, gid=8),
                AttributeRequest(mtime_ns=self.rng.choice(TIMES_NS)),
            ]
            self.set_attributes(place[2].ino, self.rng.choice(requests))

    def set_attributes(self, ino: InodeNo, request: AttributeRequest) -> None:
        self.world.request(self.tree.set_attributes(self.world.program, ino, request))

    def change_xattr(self) -> None:
        ino, value = self.pick_directory(), self.rng.choice([b"1", b"2"])
        self.world.request(self.tree.set_xattr(self.world.program, ino, b"user.a", value, 0, False))

    def move(self) -> None:
        places = [*self.places(), *self.places(directories=True)]
        if places:
            parent, name, _ = self.rng.choice(places)
            target, flags = self.rng.choice(NAMES), self.rng.choice([0, 0, 2])
            where = self.pick_directory()
            gone = self.world.run(self.world.engine.find(where, target))
            self.world.request(self.tree.rename(parent, name, where, target, flags))
            self.forget(gone)

    def wander(self) -> None:
        """Move a file twice, with a snapshot before each move: it has more than one past."""
        if (place := self.pick()) is not None:
            parent, name, _ = place
            for _ in range(2):
                self.snapshot()
                where, target = self.pick_directory(), b"moved %d" % self.serial
                self.world.request(self.tree.rename(parent, name, where, target, 0))
                parent, name = where, target

    def link(self) -> None:
        if (place := self.pick()) is not None:
            name = self.rng.choice(NAMES)
            self.world.request(self.tree.link(place[2].ino, self.pick_directory(), name))

    def remove(self) -> None:
        if (place := self.pick()) is not None:
            self.world.request(self.tree.unlink(place[0], place[1]))
            self.forget(place[2])

    def forget(self, inode: Inode | None) -> None:
        """The kernel drops an inode that has lost its last name."""
        if inode is not None and not self.world.is_used(inode.ino):
            self.tree.forget([inode.ino])

    def pin(self) -> None:
        if (ino := self.pick_file()) is not None:
            tier = self.rng.choice([Tier.GLACIER, Tier.COLD, None])
            self.world.run(self.world.engine.set_pin(ino, tier))
            self.world.engine.commit_nowait()
            self.world.activity.note_pin(ino)
            self.world.step()

    def request(self, name: str, *arguments: object) -> None:
        self.world.request(getattr(self.tree, name)(self.world.program, *arguments))

    # --- snapshots -------------------------------------------------------------------------------
    def snapshot(self) -> None:
        """Make one, of files without a writer, and copy the tree."""
        world = self.world
        for _ in range(50):
            world.step()
            if not world.run(world.engine.count_work(1)).unsealed_count:
                break
        else:
            raise AssertionError("files have a writer")
        self.serial += 1
        name = b"snapshot %d" % self.serial
        world.run(world.engine.create_snapshot(name.decode(), time.time_ns()))
        world.engine.commit_nowait()
        self.expected[name] = self.copy_live()

    def copy_live(self) -> Tree:
        world = self.world
        tree, rest = {}, [(b"", ROOT_INODE)]
        while rest:
            above, parent = rest.pop()
            for entry in world.run(world.engine.list_directory(parent, 0, 1000)):
                ino, path = entry.inode.ino, above + b"/" + entry.name
                if stat.S_ISDIR(entry.inode.mode):
                    rest.append((path, ino))
                content = b""
                if stat.S_ISREG(entry.inode.mode):
                    content = world.run(world.read_all(ino))
                elif stat.S_ISLNK(entry.inode.mode):
                    content = world.run(world.engine.read_link(ino))
                names = world.run(world.engine.list_xattrs(ino))
                xattrs = [(name, world.run(world.engine.get_xattr(ino, name))) for name in names]
                tree[path] = seen(entry.inode, content, xattrs)
        return tree

    def root_of(self, name: bytes) -> InodeNo:
        """Go to a snapshot by its path."""
        node = ROOT_INODE
        for part in (NAME, b"snapshots", name):
            entry = self.world.request(self.tree.lookup(node, part))
            assert entry is not None
            node = entry.inode.ino
        return node

    def copy_past(self, name: bytes) -> Tree:
        """Return what a program sees of a snapshot."""
        request = self.world.request
        tree: Tree = {}
        rest = [(b"", self.root_of(name))]
        while rest:
            above, parent = rest.pop()
            cookie = 0
            while entries := request(self.tree.list_directory(parent, cookie, 2)):
                cookie = entries[-1].cookie
                for _, each, inode in entries:
                    node, path = inode.ino, above + b"/" + each
                    entry = request(self.tree.lookup(parent, each))
                    assert entry is not None
                    assert entry.inode == inode == request(self.tree.get_attributes(node)).inode
                    content = b""
                    if stat.S_ISDIR(inode.mode):
                        rest.append((path, node))
                        assert request(self.tree.get_parent(node)) == parent
                    elif stat.S_ISREG(inode.mode):
                        content = self.content_of(node)
                        assert inode.size == len(content)
                    else:
                        content = request(self.tree.read_link(node))
                    names = request(self.tree.list_xattrs(self.world.program, node))
                    xattrs = [(one, self.xattr(node, one)) for one in names]
                    tree[path] = seen(inode, content, xattrs)
        return tree

    def xattr(self, node: InodeNo, name: bytes) -> bytes:
        return self.world.request(self.tree.get_xattr(self.world.program, node, name))

    def content_of(self, node: InodeNo) -> bytes:
        """Read a file of the past; sometimes keep it open for later."""
        file = self.open(node)
        content = self.read(file)
        if self.rng.random() < 0.1:
            self.held.append((file, content))
        else:
            self.close(file)
        return content

    def open(self, node: InodeNo) -> OpenFile:
        opened = self.world.request(self.tree.open(self.world.program, node, os.O_RDONLY))
        return self.world.opened(node, opened, os.O_RDONLY)

    def read(self, file: OpenFile) -> bytes:
        parts: list[bytes] = []
        while True:
            offset, size = sum(map(len, parts)), self.rng.choice([100, 5000, 1 << 20])
            if file.mode is OpenMode.PASSTHROUGH:
                part = os.pread(file.kernel_fd, size, offset)
            else:
                reading = self.tree.read(file.ino, file.handle, offset, size)
                part = bytes(self.world.request(reading))
            if not part:
                return b"".join(parts)
            parts.append(part)

    def close(self, file: OpenFile) -> None:
        self.world.files.remove(file)
        if file.kernel_fd >= 0:
            os.close(file.kernel_fd)
        self.tree.release(file.ino, file.handle)

    def compare(self) -> None:
        """See that a snapshot shows its instant, and open files their bytes."""
        if self.expected:
            name = self.rng.choice(list(self.expected))
            assert self.copy_past(name) == self.expected[name]
        for file, content in self.held:
            assert self.read(file) == content

    def delete(self) -> None:
        """Delete a snapshot; its open files can be read to their ends."""
        if len(self.expected) < 3:
            return
        name = self.rng.choice(list(self.expected))
        del self.expected[name]
        engine = self.world.engine
        made = self.world.run(engine.get_snapshot(name.decode()))
        self.world.run(engine.delete_snapshot(made.snap))
        while self.world.run(engine.delete_snapshot_step(3)):
            pass
        self.world.engine.commit_nowait()
        for file, content in list(self.held):
            # Forms that nobody needs may be gone, and are an error then; other bytes never come.
            try:
                assert self.read(file) == content
            except Refusal:
                self.held.remove((file, content))
                self.close(file)


def seen(inode: Inode, content: bytes, xattrs: list[tuple[bytes, bytes]]) -> Seen:
    mtime_ns = 0 if stat.S_ISDIR(inode.mode) else inode.mtime_ns
    return Seen(inode.mode, (inode.uid, inode.gid), content, mtime_ns, tuple(xattrs))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("passthrough", [True, False], ids=["passthrough", "served"])
def test_each_snapshot_shows_its_instant(tmp_path: Path, passthrough: bool, seed: int) -> None:
    rng = random.Random(seed)
    world = World(tmp_path, HASTY if seed % 2 else ROOMY, passthrough=passthrough)
    life = PastLife(world, rng)
    changes: list[Callable[[], None]] = [
        *[life.make_file, life.write] * 4,
        *[life.move, life.remove, life.cut, life.change_attributes, life.link] * 2,
        *(life.make_directory, life.make_symlink, life.change_xattr, life.pin),
        *(world.step, life.snapshot, life.wander, life.compare, life.delete),
    ]
    try:
        for _ in range(10):
            with suppress(Refusal):
                life.make_file()
        life.wander()
        for turn in range(TURN_COUNT):
            with suppress(Refusal):
                rng.choice(changes)()
            if turn == TURN_COUNT // 2:
                life.end()
                world.remount()
                life.begin()
        for name, expected in life.expected.items():
            assert life.copy_past(name) == expected
    finally:
        life.end()
        world.close()
