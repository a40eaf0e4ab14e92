"""Every field of every request at the limits of its type: an errno, never a defect.

The real file system behind the kernel driver's own loop; only `/dev/fuse` is a socket.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
import trio.testing

from memfs.config import MountConfig
from memfs.types import ROOT_INODE, InodeNo
from memfs_daemon.kernel import protocol
from memfs_daemon.kernel.channel import Channel
from memfs_daemon.kernel.handlers.table import build_table
from memfs_daemon.kernel.negotiation import KernelOffer, negotiate
from memfs_daemon.kernel.protocol import InitFlag, Opcode
from memfs_daemon.kernel.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from struct import Struct

    from tests.property.world import World

ENDS: dict[str, tuple[int, ...]] = {
    "I": (0, 1, 1 << 31, (1 << 32) - 1),
    "i": (0, 1, -1, -(1 << 31), (1 << 31) - 1),
    "Q": (0, 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    "q": (0, 1, -1, 1 << 32, (1 << 63) - 1, -(1 << 63)),
    "H": (0, (1 << 16) - 1),
}
"""By letter of `struct`: the ends of the type, and what lies beside the ends of a smaller one."""


class Shape(NamedTuple):
    """What a request consists of."""

    opcode: Opcode
    body: Struct
    tail: bytes = b""


SHAPES = (
    Shape(Opcode.LOOKUP, struct.Struct("<"), b"file\0"),
    Shape(Opcode.GETATTR, struct.Struct("<IIQ")),
    Shape(Opcode.STATX, struct.Struct("<IIQII")),
    Shape(Opcode.SETATTR, protocol.SETATTR_IN),
    Shape(Opcode.READLINK, struct.Struct("<")),
    Shape(Opcode.SYMLINK, struct.Struct("<"), b"link\0target\0"),
    Shape(Opcode.MKNOD, protocol.MKNOD_IN, b"node\0"),
    Shape(Opcode.MKDIR, protocol.MKDIR_IN, b"directory\0"),
    Shape(Opcode.UNLINK, struct.Struct("<"), b"missing\0"),
    Shape(Opcode.RMDIR, struct.Struct("<"), b"missing\0"),
    Shape(Opcode.RENAME, protocol.RENAME_IN, b"other\0moved\0"),
    Shape(Opcode.RENAME2, protocol.RENAME2_IN, b"other\0moved\0"),
    Shape(Opcode.LINK, protocol.LINK_IN, b"linked\0"),
    Shape(Opcode.OPEN, protocol.OPEN_IN),
    Shape(Opcode.READ, protocol.READ_IN),
    Shape(Opcode.WRITE, protocol.WRITE_IN, b"bytes"),
    Shape(Opcode.STATFS, struct.Struct("<")),
    Shape(Opcode.RELEASE, protocol.RELEASE_IN),
    Shape(Opcode.FSYNC, protocol.FSYNC_IN),
    Shape(Opcode.SETXATTR, protocol.SETXATTR_IN, b"user.name\0value"),
    Shape(Opcode.SETXATTR, protocol.SETXATTR_IN, b"user.memfs.tier\0auto"),
    Shape(Opcode.GETXATTR, protocol.GETXATTR_IN, b"user.name\0"),
    Shape(Opcode.LISTXATTR, protocol.GETXATTR_IN),
    Shape(Opcode.REMOVEXATTR, struct.Struct("<"), b"user.missing\0"),
    Shape(Opcode.READDIR, protocol.READ_IN),
    Shape(Opcode.READDIRPLUS, protocol.READ_IN),
    Shape(Opcode.FSYNCDIR, protocol.FSYNC_IN),
    Shape(Opcode.CREATE, protocol.CREATE_IN, b"created\0"),
    Shape(Opcode.TMPFILE, protocol.CREATE_IN, b"\0"),
    Shape(Opcode.FALLOCATE, protocol.FALLOCATE_IN),
    Shape(Opcode.LSEEK, protocol.LSEEK_IN),
    Shape(Opcode.COPY_FILE_RANGE, protocol.COPY_FILE_RANGE_IN),
    Shape(Opcode.COPY_FILE_RANGE_64, protocol.COPY_FILE_RANGE_IN),
    Shape(Opcode.SYNCFS, struct.Struct("<Q")),
)


def letters(body: Struct) -> str:
    """Return a letter for each field of a structure."""
    return body.format.lstrip("<")


def bodies(body: Struct, rng: random.Random) -> Iterator[bytes]:
    """Yield each field at each of its ends with the others 0, and mixtures of all."""
    fields = letters(body)
    for index, letter in enumerate(fields):
        for value in ENDS[letter]:
            yield body.pack(*(value if at == index else 0 for at in range(len(fields))))
    for _ in range(40):
        yield body.pack(*(rng.choice(ENDS[letter]) for letter in fields))
    if fields.startswith("IIQ") and len(fields) == len(letters(protocol.SETATTR_IN)):
        for mask, seconds in itertools.product((16, 32, 48, 8, 0xFFF), ENDS["q"]):
            values = [mask, 0, 0, seconds, 0, seconds, seconds, seconds, *[999_999_999] * 3]
            yield body.pack(*values, 0o644, 0, (1 << 32) - 1, (1 << 32) - 1, 0)


class Kernel:
    """Plays the kernel: one datagram a request, one a reply."""

    def __init__(self, world: World) -> None:
        self.end, self.daemon_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        channel = Channel(self.daemon_end.fileno())
        channel.expect_writes(65536)
        negotiated = negotiate(
            KernelOffer(7, 45, 0, InitFlag((1 << 43) - 1)),
            MountConfig(passthrough=False),
            pages_limit=16,
            stack_depth=1,
            may_pass_through=False,
        )
        table = build_table(world.filesystem, negotiated)
        self.runner = Runner(channel, world.filesystem, table, is_dying=lambda pid: False)
        self._unique = 0

    async def ask(self, opcode: int, node: int, body: bytes) -> int:
        """Send a request and return the errno of its reply."""
        self._unique += 2
        head = struct.pack(
            "<IIQQIIIHH",
            protocol.HEADER_BYTES + len(body), opcode, self._unique,
            node & ((1 << 64) - 1), 0, 0, 1, 0, 0,
        )  # fmt: skip
        self.end.send(head + body)
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(self.end)
        error: int
        _, error, unique = protocol.REPLY_HEADER.unpack_from(self.end.recv(1 << 18))
        assert unique == self._unique
        return -error


def drive(world: World, body: Callable[[Kernel], Awaitable[None]]) -> None:
    """Run `body(kernel)` beside the driver's loop."""

    async def both() -> None:
        kernel = Kernel(world)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.runner.run)
                await body(kernel)
                nursery.cancel_scope.cancel()
        finally:
            kernel.end.close()
            kernel.daemon_end.close()

    trio.run(both)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.opcode.name}")
def test_no_request_meets_a_defect_and_the_state_stays_whole(
    world: World, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    rng = random.Random(8)
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    other = world.create(ROOT_INODE, b"other", 0o644, os.O_RDWR)
    world.release(other)
    world.step()
    nodes = (ROOT_INODE, file.ino, other.ino, 0, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

    async def ask_all(kernel: Kernel) -> None:
        for body in bodies(shape.body, rng):
            node = rng.choice(nodes)
            answer = await kernel.ask(shape.opcode, node, body + shape.tail)
            assert answer != errno.EIO, (shape.opcode.name, node, body)
        for node in nodes:
            answer = await kernel.ask(shape.opcode, node, bytes(shape.body.size) + shape.tail)
            assert answer != errno.EIO, (shape.opcode.name, node)

    drive(world, ask_all)
    assert not [record.getMessage() for record in caplog.records]
    world.step()
    world.remount()


@pytest.mark.parametrize("seconds", ENDS["q"])
@pytest.mark.parametrize("when", ["written", "sealed"])
def test_a_time_of_any_size_is_cut_and_stays_what_it_was(
    world: World, seconds: int, when: str
) -> None:
    """The raw file and the engine are given the same, so the file is not taken for changed."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    if when == "sealed":
        world.release(file)
        world.step()
    valid = protocol.SetattrField.ATIME | protocol.SetattrField.MTIME
    values = [int(valid), 0, 0, 0, 0, seconds, seconds, 0, 999_999_999, 999_999_999, 0]

    async def ask(kernel: Kernel) -> None:
        body = protocol.SETATTR_IN.pack(*values, 0, 0, 0, 0, 0)
        assert await kernel.ask(Opcode.SETATTR, file.ino, body) == 0

    drive(world, ask)
    shown_ns = world.run(world.filesystem.get_attributes(file.ino)).inode.mtime_ns
    assert -(1 << 31) * 10**9 <= shown_ns < 1 << 63
    if when == "written":
        world.release(file)
    world.step()
    inode = world.run(world.engine.get_inode(file.ino))
    assert inode.mtime_ns == shown_ns
    assert not world.sealer.is_changed(inode)
    world.crash(checked=False)
    inode = world.run(world.engine.get_inode(InodeNo(file.ino)))
    assert inode.mtime_ns == shown_ns


def test_a_raw_file_of_the_year_2300_is_sealed_and_mounted(world: World) -> None:
    """As an earlier version of memfs has left it: the inode could not take its time."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    raw = world.run(world.engine.get_inode(file.ino)).raw
    world.release(file)
    os.utime(world.raw_store.path(raw), (10_413_792_000, 10_413_792_000))
    world.crash(checked=False)
    world.step()
    inode = world.run(world.engine.get_inode(file.ino))
    assert not inode.flags & 1
    assert not world.sealer.is_changed(inode)
