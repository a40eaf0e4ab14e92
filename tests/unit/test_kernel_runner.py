"""The kernel driver's loop over a socket instead of `/dev/fuse`: batches, commits, tasks."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.config import MountConfig
from memfs.errors import NoSpaceError
from memfs.metrics.latency import Latencies
from memfs.waiting import leave
from memfs_daemon.kernel import protocol
from memfs_daemon.kernel.channel import Channel, ConnectionClosedError
from memfs_daemon.kernel.handlers.table import build_table
from memfs_daemon.kernel.negotiation import KernelOffer, negotiate
from memfs_daemon.kernel.protocol import InitFlag, Opcode
from memfs_daemon.kernel.runner import BATCH_COUNT_MAX, Runner
from tests.unit.fakes.file_system import FakeFilesystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.filesystem.operations import Caller
    from memfs.types import InodeNo

ROOT = 1
SLOW = b"user.test.slow"


class Kernel:
    """Plays the kernel's end of the descriptor: one datagram a request, one a reply."""

    def __init__(self, filesystem: FakeFilesystem) -> None:
        self.end, self.daemon_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.filesystem = filesystem
        self._unique = 0
        self.channel = Channel(self.daemon_end.fileno())
        self.channel.expect_writes(65536)
        negotiated = negotiate(
            KernelOffer(7, 45, 0, InitFlag((1 << 43) - 1)),
            MountConfig(passthrough=False),
            pages_limit=16,
            stack_depth=1,
            may_pass_through=False,
        )
        self.programs_die = True
        self.latencies = Latencies()
        self.runner = Runner(
            self.channel,
            filesystem,
            build_table(filesystem, negotiated),
            is_dying=lambda pid: self.programs_die,
            latencies=self.latencies,
        )

    def send(self, opcode: int, node: int = ROOT, body: bytes = b"") -> int:
        """Send a request; return its number."""
        self._unique += 2
        length = protocol.HEADER_BYTES + len(body)
        header = protocol.HEADER.pack(length, opcode, self._unique, node, 0, 0, 1, 0, 0)
        self.end.send(header + body)
        return self._unique

    def make_directory(self, name: bytes) -> int:
        """Send MKDIR."""
        return self.send(Opcode.MKDIR, ROOT, protocol.MKDIR_IN.pack(0o755, 0) + name + b"\0")

    def read(self, node: int) -> int:
        """Send READ of a page."""
        return self.send(Opcode.READ, node, protocol.READ_IN.pack(1, 0, 4096, 0, 0, 0, 0))

    def interrupt(self, unique: int) -> None:
        """Send INTERRUPT."""
        self.send(Opcode.INTERRUPT, 0, protocol.INTERRUPT_IN.pack(unique))

    async def receive(self, count: int) -> dict[int, int]:
        """Return the errors of the next replies by the number of their requests."""
        replies: dict[int, int] = {}
        with trio.fail_after(60):
            while len(replies) < count:
                await trio.lowlevel.wait_readable(self.end)
                reply = self.end.recv(1 << 17)
                length, error, unique = protocol.REPLY_HEADER.unpack_from(reply)
                assert length == len(reply)
                replies[unique] = -error
        return replies

    def nothing_to_receive(self) -> bool:
        """Return True if no reply is waiting."""
        try:
            self.end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def make_file(self, name: bytes, *, slow: bool) -> InodeNo:
        """Put a file into the file system, behind the driver's back."""
        filesystem = self.filesystem
        node = filesystem.add_file(name, b"content")
        if slow:
            node.xattrs[SLOW] = b"1"
        return node.ino


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(FakeFilesystem(tmp_path))
    yield kernel
    kernel.end.close()
    kernel.daemon_end.close()


async def test_requests_that_wait_together_share_one_commit(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    sent = [kernel.make_directory(b"a"), kernel.make_directory(b"b"), kernel.send(Opcode.STATFS)]
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(3) == dict.fromkeys(sent, 0)
    assert kernel.filesystem.commit_count == 1


async def test_each_answer_is_counted_once_with_its_duration(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    """Those that wait for a commit, those that fail, and those that nobody serves."""
    kernel.make_directory(b"a")
    kernel.send(Opcode.STATFS)
    kernel.send(Opcode.STATFS)
    kernel.send(Opcode.POLL)
    kernel.send(4096)
    kernel.send(Opcode.FORGET, ROOT, bytes(8))
    nursery.start_soon(kernel.runner.run)
    await kernel.receive(5)
    counted = {name: sum(counts) for name, counts in kernel.latencies.counts().items()}
    assert counted == {"mkdir": 1, "statfs": 2, "poll": 1, "other": 1}
    assert all(kernel.latencies.sums_ns().values())


async def test_a_batch_is_bounded(kernel: Kernel, nursery: trio.Nursery) -> None:
    """Else a busy client would keep the daemon's other tasks from running."""
    sent = [kernel.make_directory(b"%d" % index) for index in range(BATCH_COUNT_MAX + 1)]
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(len(sent)) == dict.fromkeys(sent, 0)
    assert kernel.filesystem.commit_count == 2


async def test_other_tasks_run_while_requests_keep_coming(
    kernel: Kernel, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner waits for the next request outside of the loop, but not for ever."""
    kernel.send(Opcode.STATFS)
    request = kernel.channel.read_nowait()
    kernel.send(Opcode.STATFS)
    asked_count = 0
    turned = trio.Event()

    def ask_again() -> bytes | None:
        nonlocal asked_count
        asked_count += 1
        if turned.is_set() or asked_count > 100_000:
            raise ConnectionClosedError
        return request

    async def take_turns() -> None:
        while not asked_count:
            await trio.lowlevel.checkpoint()
        turned.set()

    monkeypatch.setattr(kernel.channel, "read_nowait", ask_again)
    monkeypatch.setattr(kernel.channel, "wait", lambda wait_ms: True)
    monkeypatch.setattr(kernel.channel, "write", lambda unique, error, payload: True)
    nursery.start_soon(take_turns)
    nursery.start_soon(kernel.runner.run)
    with trio.fail_after(10):
        await turned.wait()
    assert asked_count <= 100_000


async def test_a_failed_commit_fails_all_that_waited_for_it(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    kernel.filesystem.commit_error = NoSpaceError("disk full")
    sent = [kernel.make_directory(b"a"), kernel.send(Opcode.STATFS)]
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(2) == dict.fromkeys(sent, errno.ENOSPC)
    kernel.filesystem.commit_error = None
    again = kernel.make_directory(b"c")
    assert await kernel.receive(1) == {again: 0}


async def test_a_commit_that_waits_holds_up_its_replies_and_no_request(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    """As that of an engine behind a network; nobody is told of what may be undone."""
    kernel.filesystem.commit_gate = trio.Event()
    sent = [kernel.make_directory(b"a"), kernel.send(Opcode.STATFS)]
    nursery.start_soon(kernel.runner.run)
    await trio.testing.wait_all_tasks_blocked()
    assert kernel.nothing_to_receive()
    sent += [kernel.make_directory(b"b"), kernel.send(Opcode.STATFS)]
    await trio.testing.wait_all_tasks_blocked()
    assert kernel.nothing_to_receive()
    assert len(kernel.filesystem.inodes) == 3, "the second batch was served"
    kernel.filesystem.commit_gate.set()
    assert await kernel.receive(4) == dict.fromkeys(sent, 0)
    kernel.filesystem.commit_gate = None
    again = kernel.make_directory(b"c")
    assert await kernel.receive(1) == {again: 0}


async def test_a_commit_that_fails_late_fails_all_that_waited_for_it(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    kernel.filesystem.commit_gate = trio.Event()
    kernel.filesystem.commit_error = NoSpaceError("disk full")
    body = protocol.CREATE_IN.pack(os.O_RDWR, 0o100644, 0, 0) + b"f\0"
    sent = [kernel.send(Opcode.CREATE, ROOT, body), kernel.send(Opcode.STATFS)]
    nursery.start_soon(kernel.runner.run)
    await trio.testing.wait_all_tasks_blocked()
    kernel.filesystem.commit_gate.set()
    assert await kernel.receive(2) == dict.fromkeys(sent, errno.ENOSPC)
    assert kernel.filesystem.released == [2]


async def test_a_request_that_waited_waits_for_its_commit_too(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    """It has a task of its own already."""
    node = kernel.make_file(b"slow", slow=True)
    slow = kernel.read(node)
    nursery.start_soon(kernel.runner.run)
    await kernel.filesystem.waiting.wait()
    kernel.filesystem.commit_gate = trio.Event()
    made = kernel.make_directory(b"a")
    await trio.testing.wait_all_tasks_blocked()
    kernel.filesystem.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert kernel.nothing_to_receive()
    kernel.filesystem.commit_gate.set()
    assert await kernel.receive(2) == {slow: 0, made: 0}


async def test_a_commit_is_waited_for_when_the_mount_is_gone(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> bytes | None:
        raise ConnectionClosedError

    kernel.filesystem.commit_gate = trio.Event()
    kernel.make_directory(b"a")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.runner.run)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(kernel.channel, "read_nowait", end)
            kernel.send(Opcode.STATFS)
            await trio.testing.wait_all_tasks_blocked()
            kernel.filesystem.commit_gate.set()
    assert not kernel.filesystem.uncommitted


async def test_an_open_whose_commit_failed_is_given_back(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    """The kernel sends no RELEASE for an open that failed."""
    kernel.filesystem.commit_error = NoSpaceError("disk full")
    body = protocol.CREATE_IN.pack(os.O_RDWR, 0o100644, 0, 0) + b"f\0"
    sent = kernel.send(Opcode.CREATE, ROOT, body)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {sent: errno.ENOSPC}
    assert kernel.filesystem.released == [2]


async def test_a_request_that_waits_does_not_hold_up_the_next(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    slow = kernel.read(kernel.make_file(b"slow", slow=True))
    fast = kernel.send(Opcode.STATFS)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {fast: 0}
    kernel.filesystem.gate.set()
    assert await kernel.receive(1) == {slow: 0}


async def test_a_request_knows_whether_it_is_alone(kernel: Kernel, nursery: trio.Nursery) -> None:
    """Only then may it keep the loop: nothing else waits, is under way, or is to be answered."""
    alone: list[bool] = []
    sync = kernel.filesystem.fsync

    async def fsync(caller: Caller, ino: InodeNo, data_only: bool) -> None:
        alone.append(caller.is_alone())
        if len(alone) == 2:
            await leave()
            alone.append(caller.is_alone())
            await sync(caller, ino, data_only)

    kernel.filesystem.fsync = fsync  # type: ignore[method-assign]  # the one method that asks
    body = protocol.FSYNC_IN.pack(1, 0, 0)
    node = kernel.make_file(b"f", slow=False)
    nursery.start_soon(kernel.runner.run)
    kernel.send(Opcode.FSYNC, node, body)
    await kernel.receive(1)
    assert alone == [True]
    kernel.send(Opcode.FSYNC, node, body)
    kernel.send(Opcode.STATFS)
    await kernel.receive(2)
    assert alone == [True, False, False]
    kernel.make_directory(b"a")
    kernel.send(Opcode.FSYNC, node, body)
    await kernel.receive(2)
    assert alone == [True, False, False, False], "a reply waits for its commit"
    slow = kernel.read(kernel.make_file(b"slow", slow=True))
    await kernel.filesystem.waiting.wait()
    kernel.send(Opcode.FSYNC, node, body)
    await kernel.receive(1)
    assert alone[4:] == [False]
    kernel.filesystem.gate.set()
    assert await kernel.receive(1) == {slow: 0}


async def test_the_data_of_a_waiting_write_is_not_overwritten_by_the_next(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    node = kernel.make_file(b"slow", slow=True)
    for offset, data in ((0, b"A" * 4096), (4096, b"B" * 4096)):
        kernel.send(Opcode.WRITE, node, protocol.WRITE_IN.pack(1, offset, 4096, 0, 0, 0, 0) + data)
    nursery.start_soon(kernel.runner.run)
    await kernel.filesystem.waiting.wait()
    kernel.filesystem.gate.set()
    await kernel.receive(2)
    assert kernel.filesystem.path(node).read_bytes() == b"A" * 4096 + b"B" * 4096


async def test_an_interrupt_ends_a_request_that_waits(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    slow = kernel.read(kernel.make_file(b"slow", slow=True))
    nursery.start_soon(kernel.runner.run)
    await kernel.filesystem.waiting.wait()
    kernel.interrupt(slow)
    assert await kernel.receive(1) == {slow: errno.EINTR}


async def test_an_interrupt_right_behind_its_request_ends_it(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    """Both are in one batch: the request's task has not begun when the interrupt is read."""
    slow = kernel.read(kernel.make_file(b"slow", slow=True))
    kernel.interrupt(slow)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {slow: errno.EINTR}


async def test_a_signal_that_does_not_kill_ends_no_request(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    """A program with a timer would get EINTR from fsync, or SIGBUS from a mapping."""
    kernel.programs_die = False
    slow = kernel.read(kernel.make_file(b"slow", slow=True))
    nursery.start_soon(kernel.runner.run)
    await kernel.filesystem.waiting.wait()
    kernel.interrupt(slow)
    other = kernel.send(Opcode.STATFS)
    assert await kernel.receive(1) == {other: 0}
    kernel.filesystem.gate.set()
    assert await kernel.receive(1) == {slow: 0}


async def test_an_interrupt_of_an_answered_request_has_no_reply(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    first = kernel.send(Opcode.STATFS)
    kernel.interrupt(first)
    second = kernel.send(Opcode.STATFS)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(2) == {first: 0, second: 0}
    assert kernel.nothing_to_receive()


@pytest.mark.parametrize(
    "opcode", [Opcode.OPENDIR, Opcode.FLUSH, Opcode.ACCESS, Opcode.POLL, Opcode.IOCTL, 999]
)
async def test_what_is_not_served_is_enosys(
    kernel: Kernel, nursery: trio.Nursery, opcode: int
) -> None:
    sent = kernel.send(opcode, ROOT, bytes(64))
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {sent: errno.ENOSYS}


async def test_directories_that_others_change_are_opened(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The kernel then keeps no listing of its own."""
    filesystem = FakeFilesystem(tmp_path)
    filesystem.opens_directories = True
    kernel = Kernel(filesystem)
    opened = kernel.send(Opcode.OPENDIR, ROOT, bytes(8))
    released = kernel.send(Opcode.RELEASEDIR, ROOT, bytes(24))
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(2) == {opened: 0, released: 0}
    assert filesystem.calls["open_directory"] == 1
    nursery.cancel_scope.cancel()
    kernel.end.close()
    kernel.daemon_end.close()


async def test_forgets_reach_the_file_system_and_have_no_reply(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    kernel.send(Opcode.FORGET, 7, protocol.FORGET_IN.pack(3))
    pairs = protocol.FORGET_ONE.pack(8, 1) + protocol.FORGET_ONE.pack(9, 2)
    kernel.send(Opcode.BATCH_FORGET, 0, protocol.BATCH_FORGET_IN.pack(2, 0) + pairs)
    last = kernel.send(Opcode.STATFS)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {last: 0}
    assert kernel.filesystem.forgotten == [7, 8, 9]
    assert kernel.nothing_to_receive()


@pytest.mark.parametrize("name", [b"bug", b"bad-suspension"])
async def test_a_bug_is_eio_with_one_traceback(
    kernel: Kernel, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, name: bytes
) -> None:
    sent = [kernel.send(Opcode.LOOKUP, ROOT, name + b"\0") for _ in range(3)]
    after = kernel.send(Opcode.STATFS)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(4) == {**dict.fromkeys(sent, errno.EIO), after: 0}
    records = [record for record in caplog.records if "is a bug" in record.message]
    assert [bool(record.exc_info) for record in records] == [True, False, False]
    assert "inode 1: opcode 1" in records[0].message


async def test_a_reply_that_does_not_arrive_gives_its_open_back(
    kernel: Kernel, nursery: trio.Nursery
) -> None:
    node = kernel.make_file(b"f", slow=False)
    kernel.send(Opcode.OPEN, node, struct.pack("<II", os.O_RDONLY, 0))
    kernel.end.shutdown(socket.SHUT_RD)
    nursery.start_soon(kernel.runner.run)
    await trio.testing.wait_all_tasks_blocked()
    assert kernel.filesystem.released == [node]


async def test_capabilities_that_a_file_is_known_to_lack_are_answered_without_an_error_on_the_way(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel asks before the first write to each inode; the exception cost half of that."""
    monkeypatch.setattr(kernel.filesystem, "lacks_capability", lambda ino: ino == ROOT)
    other = kernel.make_file(b"other", slow=False)
    body = protocol.GETXATTR_IN.pack(24, 0) + b"security.capability\0"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.runner.run)
        asked = [kernel.send(Opcode.GETXATTR, node, body) for node in (ROOT, other)]
        assert await kernel.receive(2) == dict.fromkeys(asked, errno.ENODATA)
        nursery.cancel_scope.cancel()
    assert kernel.filesystem.calls["get_xattr"] == 1


async def test_after_a_request_that_came_alone_none_is_read(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that finds no request costs four times as much as a look."""
    read, found = kernel.channel.read_nowait, []

    def note() -> bytes | None:
        data = read()
        found.append(data is not None)
        return data

    monkeypatch.setattr(kernel.channel, "read_nowait", note)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.runner.run)
        for number in range(3):
            kernel.make_directory(b"%d" % number)
            await kernel.receive(1)
        nursery.cancel_scope.cancel()
    assert found == [True] * 3
