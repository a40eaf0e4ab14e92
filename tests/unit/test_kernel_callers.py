"""Calls of threads that answer their requests: order, errors, and the end of the mount."""

from __future__ import annotations

import errno
import functools
import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from memfs.waiting import call_in_thread, leave
from memfs_daemon.kernel import callers, protocol
from memfs_daemon.kernel.channel import ConnectionClosedError
from memfs_daemon.kernel.protocol import Opcode
from tests.unit.fakes.file_system import FakeFilesystem
from tests.unit.test_kernel_runner import Kernel
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from memfs.filesystem.operations import Caller
    from memfs.types import InodeNo


class Disk:
    """Syncs files; each ends when its gate is opened."""

    def __init__(self) -> None:
        self.gates: dict[InodeNo, threading.Event] = {}
        self.failures: dict[InodeNo, OSError] = {}
        self.answers = True
        self.then: Callable[[], None] = lambda: None
        """What a request does after its call."""
        self.begun: list[InodeNo] = []
        self.ended: list[InodeNo] = []
        self.alone: list[bool] = []

    async def fsync(self, caller: Caller, ino: InodeNo, data_only: bool) -> None:
        self.alone.append(caller.is_alone())
        work = functools.partial(self._sync, ino)
        try:
            await call_in_thread(work, trio.CapacityLimiter(1), answers=self.answers)
            self.then()
        finally:
            self.ended.append(ino)
            if ino in self.failures:
                await leave()

    def _sync(self, ino: InodeNo) -> float:
        self.begun.append(ino)
        assert self.gates[ino].wait(WAIT_S)
        if ino in self.failures:
            raise self.failures[ino]
        return 1.0


class SyncingKernel(Kernel):
    """The kernel, with a disk whose syncs end when they are to."""

    def __init__(self, root: Path) -> None:
        super().__init__(FakeFilesystem(root))
        self.disk = Disk()
        self.filesystem.fsync = self.disk.fsync  # type: ignore[method-assign]  # it alone waits

    def file(self, name: bytes) -> InodeNo:
        """Make a file whose gate is shut."""
        ino = self.make_file(name, slow=False)
        self.disk.gates[ino] = threading.Event()
        return ino

    def sync(self, ino: InodeNo) -> int:
        """Send FSYNC."""
        return self.send(Opcode.FSYNC, ino, protocol.FSYNC_IN.pack(1, 0, 0))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what threads bring about."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110  no thread knows of an event
            await trio.sleep(0.001)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[SyncingKernel]:
    kernel = SyncingKernel(tmp_path)
    yield kernel
    kernel.end.close()
    kernel.daemon_end.close()


async def test_syncs_of_several_files_wait_beside_each_other_and_hold_up_nobody(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    """Not the loop, which serves others, nor a sync that was read later."""
    first, second = kernel.file(b"first"), kernel.file(b"second")
    sent = kernel.sync(first), kernel.sync(second)
    other = kernel.send(Opcode.STATFS)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {other: 0}
    kernel.disk.gates[second].set()
    assert await kernel.receive(1) == {sent[1]: 0}
    kernel.disk.gates[first].set()
    assert await kernel.receive(1) == {sent[0]: 0}
    assert kernel.disk.alone == [False, False]


async def test_a_thread_answers_while_the_loop_is_busy(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    """Else each sync would wait for the loop to be woken."""
    file = kernel.file(b"file")
    sent = kernel.sync(file)
    nursery.start_soon(kernel.runner.run)
    await until(lambda: bool(kernel.disk.begun))
    kernel.disk.gates[file].set()
    # The loop itself waits here.
    kernel.end.setblocking(True)
    kernel.end.settimeout(WAIT_S)
    _, error, unique = protocol.REPLY_HEADER.unpack(kernel.end.recv(1 << 17))
    kernel.end.setblocking(False)
    assert (unique, error) == (sent, 0)
    assert kernel.disk.ended == []


async def test_who_asks_after_the_answer_finds_the_sync_ended(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    """`getfattr` right after fsync and close tells of a file that is safe."""
    seen: list[int] = []
    statistics = kernel.filesystem.statistics

    async def look() -> object:
        seen.append(len(kernel.disk.ended))
        return await statistics()

    kernel.filesystem.statistics = look  # type: ignore[method-assign, assignment]  # looks, too
    file = kernel.file(b"file")
    kernel.disk.gates[file].set()
    nursery.start_soon(kernel.runner.run)
    for count in range(1, 51):
        sent = kernel.sync(file)
        assert await kernel.receive(1) == {sent: 0}
        sent = kernel.send(Opcode.STATFS)
        assert await kernel.receive(1) == {sent: 0}
        assert seen[-1] == count


async def test_a_sync_that_nothing_follows_ends_by_itself(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    """It holds a descriptor of the raw file."""
    file = kernel.file(b"file")
    kernel.disk.gates[file].set()
    sent = kernel.sync(file)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {sent: 0}
    await until(lambda: kernel.disk.ended == [file])


@pytest.mark.parametrize("answers", [True, False])
async def test_an_error_reaches_the_request_whose_call_met_it(
    kernel: SyncingKernel, nursery: trio.Nursery, answers: bool
) -> None:
    kernel.disk.answers = answers
    bad, good = kernel.file(b"bad"), kernel.file(b"good")
    kernel.disk.failures[bad] = OSError(errno.EIO, os.strerror(errno.EIO))
    sent = kernel.sync(bad), kernel.sync(good)
    nursery.start_soon(kernel.runner.run)
    await until(lambda: len(kernel.disk.begun) == 2)
    kernel.disk.gates[good].set()
    kernel.disk.gates[bad].set()
    assert await kernel.receive(2) == {sent[0]: errno.EIO, sent[1]: 0}
    assert kernel.nothing_to_receive()


async def test_what_follows_a_call_is_committed_before_its_answer(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    """Where the request does more than its call, the call does not answer it."""
    kernel.disk.answers = False
    file = kernel.file(b"file")
    kernel.disk.gates[file].set()

    def change() -> None:
        kernel.filesystem._changed = True

    kernel.disk.then = change
    sent = kernel.sync(file)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {sent: 0}
    assert kernel.filesystem.commit_count == 1


async def test_a_defect_after_the_answer_is_told_and_answered_once(
    kernel: SyncingKernel, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("defect")

    kernel.disk.then = fail
    file = kernel.file(b"file")
    kernel.disk.gates[file].set()
    sent = kernel.sync(file)
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(1) == {sent: 0}
    other = kernel.send(Opcode.STATFS)
    assert await kernel.receive(1) == {other: 0}
    assert [record for record in caplog.records if "is a bug" in record.message]
    caplog.clear()


async def test_the_end_of_the_mount_waits_for_calls_under_way(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    """What they use is closed after that."""
    files = [kernel.file(b"%d" % number) for number in range(3)]
    for file in files:
        kernel.sync(file)
    over = trio.Event()

    async def run() -> None:
        await kernel.runner.run()
        over.set()

    nursery.start_soon(run)
    await until(lambda: len(kernel.disk.begun) == 3)
    with trio.fail_after(WAIT_S):
        kernel.channel.read_nowait = _mount_is_gone  # type: ignore[method-assign]
        kernel.send(Opcode.STATFS)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not over.is_set()
        for file in files:
            kernel.disk.gates[file].set()
        await over.wait()
    assert sorted(kernel.disk.ended) == sorted(files)
    assert not [thread for thread in threading.enumerate() if thread.name == callers.THREAD_NAME]


def _mount_is_gone() -> bytes | None:
    raise ConnectionClosedError


async def test_threads_are_bounded(kernel: SyncingKernel, nursery: trio.Nursery) -> None:
    files = [kernel.file(b"%d" % number) for number in range(callers.THREADS_MAX + 3)]
    sent = [kernel.sync(file) for file in files]
    nursery.start_soon(kernel.runner.run)
    await until(lambda: len(kernel.disk.begun) == callers.THREADS_MAX)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count(callers.THREAD_NAME) == callers.THREADS_MAX
    for file in files:
        kernel.disk.gates[file].set()
    assert await kernel.receive(len(sent)) == dict.fromkeys(sent, 0)


@pytest.mark.parametrize("started_count", [0, 1])
async def test_a_limit_of_threads_fails_no_sync(
    kernel: SyncingKernel,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    started_count: int,
) -> None:
    """The daemon has reached RLIMIT_NPROC, or its cgroup's pids.max."""
    start = threading.Thread.start
    left = started_count

    def start_few(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name == callers.THREAD_NAME:
            if not left:
                raise RuntimeError("can't start new thread")
            left -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)
    files = [kernel.file(b"%d" % number) for number in range(3)]
    for file in files:
        kernel.disk.gates[file].set()
    sent = [kernel.sync(file) for file in files]
    nursery.start_soon(kernel.runner.run)
    assert await kernel.receive(3) == dict.fromkeys(sent, 0)


async def test_what_a_request_changed_when_the_mount_ended_is_committed(
    kernel: SyncingKernel, nursery: trio.Nursery
) -> None:
    kernel.disk.answers = False

    def change() -> None:
        kernel.filesystem._changed = True

    kernel.disk.then = change
    file = kernel.file(b"file")
    kernel.sync(file)
    over = trio.Event()

    async def run() -> None:
        await kernel.runner.run()
        over.set()

    nursery.start_soon(run)
    await until(lambda: bool(kernel.disk.begun))
    with trio.fail_after(WAIT_S):
        kernel.channel.read_nowait = _mount_is_gone  # type: ignore[method-assign]
        kernel.send(Opcode.STATFS)
        await trio.testing.wait_all_tasks_blocked(0.01)
        kernel.disk.gates[file].set()
        await over.wait()
    assert not kernel.filesystem.uncommitted
