"""Programs in chaos: their requests, at a world where any of them may fail, and the model.

Invariant: the model changes when a request was answered, and only then.
"""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

from memfs.addresses import told_store
from memfs.filesystem.operations import AttributeRequest
from memfs.types import InodeNo
from tests.property.tree import FileContent, Tree
from tests.property.world import HYDRATE_BYTES_MAX, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.property.chaos_world import ChaosWorld
    from tests.property.world import OpenFile

NAMES = [b"a", b"b", b"c", b"d", b"\xff\xfe", b"e" * 255]
SIZES = [0, 1, 100, 4096, HYDRATE_BYTES_MAX, HYDRATE_BYTES_MAX + 1, 20_000, 40_000]
OFFSETS = [0, 1, 4095, 4096, 10_000, 30_000]
TIERS = [b"warm", b"cold", b"glacier", b"auto"]
CODECS = [b"none", b"lz4", b"snappy", b"zstd:1"]
PRIORITIES = [b"0", b"50", b"100"]

PIECE_BYTES = 16 << 10
"""A write has several pages: a disk that becomes full may take some of them."""

FILE_COUNT_MAX = 40
DIRECTORY_COUNT_MAX = 6

FAULT_ERRNOS = {errno.EIO, errno.ENOSPC, errno.EBUSY}
"""What a program may see while the store or the disk fails."""


def pattern(size: int, seed: int) -> bytes:
    """Return bytes, different for every seed; half of the seeds give some that no codec shrinks."""
    if seed % 2:
        return random.Random(seed).randbytes(size)
    unit = random.Random(seed).randbytes(199)
    return (unit * (size // len(unit) + 1))[:size]


class Programs:
    """What programs do to a world, a step each.

    Args:
        world: Serves them.
        tree: What should be there.
    """

    def __init__(self, world: ChaosWorld, tree: Tree) -> None:
        self.world = world
        self.tree = tree

    # --- picking ---------------------------------------------------------------------------------
    @property
    def files(self) -> list[InodeNo]:
        nodes, world = self.tree.nodes, self.world
        return [
            InodeNo(ino)
            for ino in self.tree.files
            if nodes[ino].nlink or world.is_used(InodeNo(ino))
        ]

    def pick_file(self, rng: random.Random) -> InodeNo | None:
        return rng.choice(self.files) if self.files else None

    def pick_some(self, rng: random.Random) -> list[InodeNo]:
        files = self.files
        return rng.sample(files, rng.randint(0, len(files)))

    def _pick_directory(self, rng: random.Random) -> InodeNo:
        return InodeNo(rng.choice(self.tree.directories))

    def _pick_name(self, rng: random.Random) -> tuple[InodeNo, bytes] | None:
        """Return a dentry of a file."""
        found = [
            (InodeNo(directory), name)
            for directory, names in sorted(self.tree.entries.items())
            for name, ino in sorted(names.items())
            if not self.tree.nodes[ino].directory
        ]
        return rng.choice(found) if found else None

    # --- requests --------------------------------------------------------------------------------
    def _ask(self, call: Callable[[], object]) -> bool:
        """Make a request; True if it was done, False if the weather forbade it."""
        try:
            call()
        except Refusal as refusal:
            allowed = refusal.errno in FAULT_ERRNOS and not self.world.is_calm
            if not allowed:
                raise
            return False
        except OSError as error:
            # From the kernel's own call on a passed-through file.
            if error.errno != errno.ENOSPC or not self.world.is_full:
                raise
            return False
        return True

    def _open(self, ino: InodeNo, flags: int) -> OpenFile | None:
        opened: list[OpenFile] = []
        self._ask(lambda: opened.append(self.world.open(ino, flags)))
        return opened[0] if opened else None

    def _write(self, file: OpenFile, offset: int, data: bytes) -> bool:
        """Write, and go on behind what was taken, as programs do on a disk that becomes full."""
        end = offset + len(data)
        while offset < end:
            piece, counts = data[offset - end :][:PIECE_BYTES], list[int]()

            def write(at: int = offset, piece: bytes = piece, counts: list[int] = counts) -> None:
                counts.append(self.world.write_some(file, at, piece))

            if not self._ask(write):
                return False
            [count] = counts
            assert 0 < count <= len(piece)
            assert count == len(piece) or self.world.is_full
            self.tree.contents[file.ino].write(offset, piece[:count])
            offset += count
        return True

    # --- programs --------------------------------------------------------------------------------
    def write_new(self, rng: random.Random) -> None:
        where, name = self._pick_directory(rng), rng.choice(NAMES)
        if name in self.tree.entries[where] or len(self.files) >= FILE_COUNT_MAX:
            return
        made: list[OpenFile] = []
        if not self._ask(lambda: made.append(self.world.create(where, name, 0o644, os.O_WRONLY))):
            return
        self.tree.plant(where, name, made[0].ino, FileContent())
        self._write(made[0], 0, pattern(rng.choice(SIZES), rng.randrange(1 << 16)))
        self.world.release(made[0])

    def overwrite(self, rng: random.Random) -> None:
        ino = self.pick_file(rng)
        if ino is None:
            return
        cut = rng.random() < 0.4
        file = self._open(ino, os.O_WRONLY | (os.O_TRUNC if cut else 0))
        if file is None:
            return
        if cut:
            self.tree.contents[ino].truncate(0)
        offset = 0 if cut else rng.choice(OFFSETS)
        self._write(file, offset, pattern(rng.choice(SIZES), rng.randrange(1 << 16)))
        if rng.random() < 0.3:
            self._ask(
                lambda: self.world.request(
                    self.world.filesystem.fsync(self.world.program, ino, False)
                )
            )
        self.world.release(file)

    def truncate(self, rng: random.Random) -> None:
        ino, size = self.pick_file(rng), rng.choice(SIZES)
        if ino is None:
            return
        request = AttributeRequest(size=size)
        filesystem, program = self.world.filesystem, self.world.program
        if self._ask(lambda: self.world.request(filesystem.set_attributes(program, ino, request))):
            self.tree.contents[ino].truncate(size)

    def read(self, rng: random.Random) -> None:
        ino = self.pick_file(rng)
        file = self._open(ino, os.O_RDONLY) if ino is not None else None
        if file is not None:
            self._read_from(file, rng)
            self.world.release(file)

    def _read_from(self, file: OpenFile, rng: random.Random) -> None:
        offset, size = rng.choice(OFFSETS), rng.choice(SIZES)
        read: list[bytes] = []
        if size and self._ask(lambda: read.append(self.world.read(file, offset, size))):
            expected = bytes(self.tree.contents[file.ino].data[offset : offset + size])
            assert expected == read[0], f"inode {file.ino}: wrong bytes were read"

    def hold(self, rng: random.Random) -> None:
        """A program keeps a file open."""
        ino = self.pick_file(rng)
        if ino is not None and len(self.world.files) < 4:
            self._open(ino, rng.choice([os.O_RDONLY, os.O_RDWR]))

    def release(self, rng: random.Random) -> None:
        if not self.world.files:
            return
        file = rng.choice(self.world.files)
        if file.readable:
            self._read_from(file, rng)
        if file.writable:
            self._write(file, rng.choice(OFFSETS), pattern(300, rng.randrange(1 << 16)))
        self.world.release(file)

    def sync(self, rng: random.Random) -> None:
        ino = self.pick_file(rng)
        if ino is not None:
            filesystem, program = self.world.filesystem, self.world.program
            self._ask(lambda: self.world.request(filesystem.fsync(program, ino, False)))

    def rename(self, rng: random.Random) -> None:
        source = self._pick_name(rng)
        if source is None:
            return
        target = self._pick_name(rng) if rng.random() < 0.5 else None
        where, name = target or (self._pick_directory(rng), rng.choice(NAMES))
        found = self.tree.entries[where].get(name)
        if found is not None and self.tree.nodes[found].directory:
            return
        renaming = self.world.filesystem.rename(*source, where, name, 0)
        if self._ask(lambda: self.world.request(renaming)):
            self.tree.rename(*source, where, name, 0)
            self.forget()

    def link(self, rng: random.Random) -> None:
        source, where, name = self._pick_name(rng), self._pick_directory(rng), rng.choice(NAMES)
        if source is None or name in self.tree.entries[where]:
            return
        ino = InodeNo(self.tree.entries[source[0]][source[1]])
        if self._ask(lambda: self.world.request(self.world.filesystem.link(ino, where, name))):
            self.tree.link(ino, where, name)

    def unlink(self, rng: random.Random) -> None:
        found = self._pick_name(rng)
        if found is None:
            return
        if self._ask(lambda: self.world.request(self.world.filesystem.unlink(*found))):
            self.tree.unlink(*found)
            self.forget()

    def forget(self) -> None:
        """The kernel drops the inodes that have no name and no user."""
        gone = [InodeNo(ino) for ino in self.tree.nameless if not self.world.is_used(InodeNo(ino))]
        self.world.filesystem.forget(gone)
        for ino in gone:
            self.tree.forget(ino)

    def make_directory(self, rng: random.Random) -> None:
        where, name = self._pick_directory(rng), rng.choice(NAMES)
        if name in self.tree.entries[where] or len(self.tree.directories) >= DIRECTORY_COUNT_MAX:
            return
        filesystem, program = self.world.filesystem, self.world.program
        made: list[InodeNo] = []

        def make() -> None:
            entry = self.world.request(filesystem.make_directory(program, where, name, 0o755))
            made.append(entry.inode.ino)

        if self._ask(make):
            self.tree.plant(where, name, made[0], None)

    def pin(self, rng: random.Random) -> None:
        self._mark(rng, b"user.memfs.tier", rng.choice(TIERS))

    def set_codec(self, rng: random.Random) -> None:
        self._mark(rng, b"user.memfs.codec", rng.choice(CODECS))

    def set_priority(self, rng: random.Random) -> None:
        self._mark(rng, b"user.memfs.priority", rng.choice(PRIORITIES))

    def set_store(self, rng: random.Random) -> None:
        names = [told_store(name).encode() for name in self.world.move_parts.store_names]
        self._mark(rng, b"user.memfs.store", rng.choice(names))

    def _mark(self, rng: random.Random, name: bytes, value: bytes) -> None:
        ino = self.pick_file(rng) if rng.random() < 0.7 else self._pick_directory(rng)
        if ino is None:
            return
        filesystem = self.world.filesystem
        self._ask(
            lambda: self.world.request(
                filesystem.set_xattr(self.world.program, ino, name, value, 0, False)
            )
        )
