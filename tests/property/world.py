"""A whole file system without a mount, and the kernel's part in it.

Invariant: every part is the real one; only the kernel is played: it keeps the passed-through files
open itself, commits before it "replies", and refuses to mix open modes as fs/fuse/iomode.c does.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from memfs.config import KIB, MIB, ColdConfig, Config, GlacierConfig, PolicyConfig, WarmConfig
from memfs.content.activity import Activity
from memfs.content.file_syncs import FileSyncs
from memfs.content.forms import FormReader
from memfs.content.opening import OpenMode
from memfs.content.opentable import OpenTable
from memfs.content.quick_syncs import QuickSyncs
from memfs.content.rawpool import RawPool
from memfs.content.residency import Residency
from memfs.content.sealing import Sealer
from memfs.content.sources import Sources
from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.errors import MemfsError
from memfs.filesystem.filesystem import Filesystem
from memfs.filesystem.shared import Features, Parts
from memfs.fsck.check import check
from memfs.linux.times import Clock as StampClock
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.moves.attempt import MoveParts
from memfs.moves.faults import FaultPoints
from memfs.moves.garbage import GarbageCollector
from memfs.moves.recovery import Recovery
from memfs.placement.context import Context
from memfs.placement.mover import Mover
from memfs.policy.access_stats import AccessStats
from memfs.stores.lost_found import LostFound
from memfs.stores.packed import PackedStore
from memfs.stores.raw import RawStore
from memfs.stores.remote import open_remote_store, together
from memfs.waiting import LEAVE, Call, fast_path
from tests.moving import SHORT_JOURNALS
from tests.property.backings import KernelBackings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from memfs.content.opening import Handle
    from memfs.content.quick_syncs import Unsynced
    from memfs.filesystem.replies import Opened
    from memfs.metadata.engine import Engine
    from memfs.metadata.sqlite.limits import Limits
    from memfs.stores.source import SourceStore
    from memfs.stores.store import RemoteStore
    from memfs.types import InodeNo
    from tests.contract.engine.suspending import SuspendingEngine

T = TypeVar("T")

FRAME_BYTES = 4 * KIB
READY_FILES = 128
"""Those of the pool: making them takes time, and a larger pool would find nothing else."""
HYDRATE_BYTES_MAX = 8 * KIB
"""Longer files open in direct mode when they have no raw file."""

ROOMY = Config(
    warm=WarmConfig(size_bytes=16 * MIB),
    cold=ColdConfig(frame_bytes=FRAME_BYTES, hydrate_bytes_max=HYDRATE_BYTES_MAX),
    policy=PolicyConfig(retry_s_min=0.001, retry_s_max=0.002),
)
"""Files move only by pins."""

CRAMPED = Config(
    warm=WarmConfig(size_bytes=64 * KIB),
    cold=ColdConfig(
        size_bytes=96 * KIB, frame_bytes=FRAME_BYTES, hydrate_bytes_max=HYDRATE_BYTES_MAX
    ),
    policy=PolicyConfig(retry_s_min=0.001, retry_s_max=0.002),
)
"""Quotas that a few files fill."""

HASTY = Config(
    warm=WarmConfig(size_bytes=64 * KIB),
    cold=ColdConfig(frame_bytes=FRAME_BYTES, hydrate_bytes_max=HYDRATE_BYTES_MAX, codec="lz4"),
    glacier=GlacierConfig(codec="none"),
    policy=PolicyConfig(
        warm_to_cold_s=0.0,
        pack_after_s=0.0,
        cold_to_glacier_s=0.0,
        retry_s_min=0.001,
        retry_s_max=0.002,
    ),
)
"""Every file is old at once."""

IDLE_ROUNDS_MAX = 50


class Refusal(Exception):  # noqa: N818  an answer to a request, and no defect
    """What a program sees of a failed request."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


class WouldWait(Exception):  # noqa: N818  likewise
    """A request that came between two steps of a move has to wait for something."""


class Clock(trio.abc.Clock):
    """Monotonic time that goes on from one run of trio to the next, unlike trio's own."""

    def start_clock(self) -> None:
        """Nothing to start."""

    def current_time(self) -> float:
        """Seconds."""
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Seconds."""
        return deadline - time.monotonic()


class Program:
    """The process behind all requests."""

    uid = 0
    gid = 0
    pid = 1
    umask = 0o022

    def is_alone(self) -> bool:
        """Nobody else makes requests."""
        return True


class ToldSyncs(QuickSyncs):
    """Believes what a test says of the next sync."""

    expected: bool | None = None
    """It will be over soon, or not; None: as was learned."""

    def are_expected(self, unsynced: Unsynced) -> bool:
        """Return what the test says."""
        return super().are_expected(unsynced) if self.expected is None else self.expected


class Interruptions(FaultPoints):
    """Lets requests come in between two steps of a move."""

    def __init__(self) -> None:
        self._point = ""
        self._request: Callable[[], None] | None = None

    def arm(self, point: str, request: Callable[[], None]) -> None:
        """Have a request come in when a move is next at `point`."""
        self._point, self._request = point, request

    def disarm(self) -> None:
        """Forget it."""
        self._request = None

    def reach(self, point: str) -> None:
        """A move has come to `point`."""
        if point == self._point and self._request is not None:
            request, self._request = self._request, None
            request()


@dataclass
class OpenFile:
    """One open file of a program."""

    ino: InodeNo
    handle: Handle
    mode: OpenMode
    flags: int
    """As of open(2)."""
    kernel_fd: int
    """The kernel's own file under passthrough, else -1."""

    @property
    def writable(self) -> bool:
        """True if it may write."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def readable(self) -> bool:
        """True if it may read."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY


class World:
    """A state directory, the file system over it, and programs that have files open.

    Args:
        root: An empty directory of its own.
        config: That of the file system.
        passthrough: Whether the kernel moves the bytes.
        keys: Those of encrypted forms.
        suspending: Wraps the engine; None: it never suspends.
        stamps: Gives the times of files; None: the machine's clock.
        quick: Learns how long syncs take; None: from nothing.
        open_source: Opens the store of each source; None: no source is read.
    """

    _limits: Limits = SHORT_JOURNALS
    """Those of the engine."""

    def __init__(
        self,
        root: Path,
        config: Config,
        *,
        passthrough: bool,
        keys: KeyRing = NO_KEYS,
        suspending: Callable[[Engine], SuspendingEngine] | None = None,
        stamps: StampClock | None = None,
        quick: QuickSyncs | None = None,
        open_source: Callable[[str, str], SourceStore] | None = None,
    ) -> None:
        self._root = root
        self._config = config
        self._passthrough = passthrough
        self.keys = keys
        self._suspending = suspending
        self._stamps = stamps
        self._quick = quick
        self._open_source = open_source
        self.later_ns = 0
        """By so much the clock of the mover is ahead."""
        self._clock = Clock()
        self._running = False
        self._crash_count = 0
        self._captured: Path | None = None
        self.interruptions = Interruptions()
        self.state_dir = root / "state"
        self.files: list[OpenFile] = []
        self.mappings: list[tuple[InodeNo, mmap.mmap]] = []
        self._assemble()

    def _assemble(self) -> None:
        state_dir, config = self.state_dir, self._config
        self.sqlite = self._open_engine()
        self.engine: Engine = self.sqlite
        if self._suspending is not None:
            self.suspending = self._suspending(self.sqlite)
            self.engine = self.suspending.as_engine
        self.raw_store = RawStore(state_dir)
        self.packed_store = PackedStore(state_dir)
        self.remote = self._open_store()
        self._backings = KernelBackings()
        backings = self._backings if self._passthrough else None
        self.raw_pool = RawPool(self.engine, self.raw_store, backings, ready_count_max=READY_FILES)
        self.open_table = OpenTable(self.raw_store, backings)
        self.residency = Residency(self.raw_store, config.warm)
        self.activity = Activity()
        self.sealer = Sealer(self.engine, self.raw_store, self.open_table, self.activity)
        self.file_syncs = FileSyncs(
            self.engine, self.raw_store, self.open_table, self.sealer, self._quick
        )
        self.move_parts = parts = MoveParts(
            self.engine,
            self.raw_store,
            self.packed_store,
            self.remote,
            config,
            self.open_table,
            self.residency,
            self.file_syncs,
            self.sealer,
            LostFound(self.state_dir),
            keys=self.keys,
            faults=self.interruptions,
        )
        sources = None
        if self._open_source is not None:
            sources = parts.sources = Sources(self.engine, self._open_source)
        self.garbage = GarbageCollector(parts, random.Random(1))
        self.recovery = Recovery(parts)
        self.form_reader = FormReader(
            self.engine,
            self.packed_store,
            self.remote,
            self.raw_store,
            keys=self.keys,
            sources=sources,
        )
        self.access_stats = AccessStats()
        self.parts = Parts(
            engine=self.engine,
            raw_store=self.raw_store,
            raw_pool=self.raw_pool,
            open_table=self.open_table,
            sealer=self.sealer,
            file_syncs=self.file_syncs,
            activity=self.activity,
            residency=self.residency,
            move_parts=parts,
            garbage=self.garbage,
            recheck=self.recovery.recheck,
            form_reader=self.form_reader,
            state_dir=state_dir,
            features=Features(
                acl=True,
                atime=True,
                warm=self.residency.capacity_bytes > 0,
                glacier=True,
                hydrate_bytes_max=config.cold.hydrate_bytes_max,
                codec=config.cold.codec,
            ),
            access_stats=self.access_stats,
            clock=self._stamps or StampClock(),
        )
        self.filesystem = Filesystem(self.parts)
        self.placement = Context.of(
            parts,
            self.garbage,
            self.recovery,
            self.activity,
            state_dir,
            access_stats=self.access_stats,
            rng=random.Random(1),
            clock=lambda: time.time_ns() + self.later_ns,
        )
        self.mover = Mover(self.placement, self.filesystem.finish_requests)
        self.run(self._recover())

    def _open_engine(self) -> SqliteEngine:
        return SqliteEngine.open(self.state_dir, self._config.metadata, limits=self._limits)

    def _open_store(self) -> RemoteStore:
        return self._together(self._open_plain_stores())

    def _open_plain_stores(self) -> dict[str, RemoteStore]:
        """Return the stores by name; the named ones are directories of the state."""
        opened = {"": open_remote_store(self._config.glacier, self.state_dir / "glacier")}
        for name, config in self._config.stores.items():
            opened[name] = open_remote_store(
                replace(config, url=None), self.state_dir / f"store-{name}"
            )
        return opened

    def _together(self, stores: dict[str, RemoteStore]) -> RemoteStore:
        return together(stores) if len(stores) > 1 else stores[""]

    async def _recover(self) -> None:
        await self.recovery.begin()
        await self.filesystem.recover()

    # --- calling ---------------------------------------------------------------------------------
    @property
    def program(self) -> Program:
        """Who makes the next request."""
        return Program()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a part of the daemon to its end."""

        async def main() -> T:
            return await work

        self._running = True
        try:
            return trio.run(main, clock=self._clock)
        finally:
            self._running = False

    def request(self, work: Coroutine[Any, Any, T]) -> T:
        """Make a request as a driver does: the reply follows the commit.

        Raises:
            Refusal: The request failed.
            WouldWait: It came in between two steps of a move, and cannot be answered there.
        """
        answering = self._answer(work)
        try:
            answer = _to_its_end(answering) if self._running else self.run(answering)
        except MemfsError as error:
            raise Refusal(error.errno) from error
        except OSError as error:
            raise Refusal(error.errno or 0) from error
        return answer

    async def _answer(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            await self.filesystem.commit()

    # --- open files ------------------------------------------------------------------------------
    def create(self, parent: InodeNo, name: bytes, mode: int, flags: int) -> OpenFile:
        """Create and open a file."""
        entry, opened = self.request(
            self.filesystem.create(self.program, parent, name, mode, flags)
        )
        return self._opened(entry.inode.ino, opened.handle, opened.mode, opened.backing, flags)

    def open(self, ino: InodeNo, flags: int) -> OpenFile:
        """Open a file."""
        opened = self.request(self.filesystem.open(self.program, ino, flags))
        return self._opened(ino, opened.handle, opened.mode, opened.backing, flags)

    async def open_meanwhile(self, ino: InodeNo, flags: int) -> OpenFile:
        """Open a file within a run, as a request that may wait."""
        opened = await self.filesystem.open(self.program, ino, flags)
        await self.filesystem.commit()
        return self._opened(ino, opened.handle, opened.mode, opened.backing, flags)

    async def write_meanwhile(self, file: OpenFile, offset: int, data: bytes) -> None:
        """Do as `write` within a run."""
        if file.mode == OpenMode.PASSTHROUGH:
            os.pwrite(file.kernel_fd, data, offset)
        else:
            await self.filesystem.write(
                self.program, file.ino, file.handle, offset, memoryview(data)
            )

    async def read_meanwhile(self, file: OpenFile, size: int) -> bytes:
        """Do as `read` from the start, within a run."""
        if file.mode == OpenMode.PASSTHROUGH:
            return os.pread(file.kernel_fd, size, 0)
        return bytes(await self.filesystem.read(file.ino, file.handle, 0, size))

    def opened(self, ino: InodeNo, opened: Opened, flags: int) -> OpenFile:
        """A program has opened a file by other ways than these."""
        return self._opened(ino, opened.handle, opened.mode, opened.backing, flags)

    def _opened(
        self, ino: InodeNo, handle: Handle, mode: OpenMode, backing: int, flags: int
    ) -> OpenFile:
        others = {file.mode for file in self.files if file.ino == ino}
        kernel_fd = -1
        if mode == OpenMode.PASSTHROUGH:
            assert OpenMode.CACHED not in others, "EIO: passed through while cached"
            kernel_fd = self._backings.open(backing, flags)
            for other in self.files:
                if other.ino == ino and other.kernel_fd >= 0:
                    same = os.path.sameopenfile(other.kernel_fd, kernel_fd)
                    assert same, "EIO: passed through to another file"
        else:
            assert not backing
            assert OpenMode.PASSTHROUGH not in others, "EIO: cached or direct while passed through"
        file = OpenFile(ino, handle, mode, flags, kernel_fd)
        self.files.append(file)
        return file

    def read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """Read as the kernel or the daemon does, by the file's mode."""
        if file.mode == OpenMode.PASSTHROUGH:
            return os.pread(file.kernel_fd, size, offset)
        reading = self.filesystem.read(file.ino, file.handle, offset, size)
        return bytes(self.request(reading))

    def write(self, file: OpenFile, offset: int, data: bytes) -> None:
        """Write as the kernel or the daemon does, by the file's mode."""
        assert len(data) == self.write_some(file, offset, data)

    def write_some(self, file: OpenFile, offset: int, data: bytes) -> int:
        """Write likewise; returns how many bytes were taken, fewer where the disk becomes full."""
        if file.mode == OpenMode.PASSTHROUGH:
            return os.pwrite(file.kernel_fd, data, offset)
        view = memoryview(data)
        return self.request(
            self.filesystem.write(self.program, file.ino, file.handle, offset, view)
        )

    def map(self, file: OpenFile, size: int) -> None:
        """Map the first bytes of a passed-through file, shared; the mapping outlives the handle."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if file.writable else 0)
        mapping = mmap.mmap(file.kernel_fd, size, mmap.MAP_SHARED, protection)
        self.mappings.append((file.ino, mapping))

    def release(self, file: OpenFile) -> None:
        """Close an open file."""
        self.files.remove(file)
        if file.kernel_fd >= 0:
            os.close(file.kernel_fd)
        self.filesystem.release(file.ino, file.handle)

    def unmap(self, ino: InodeNo, mapping: mmap.mmap) -> None:
        """Give a mapping up."""
        self.mappings.remove((ino, mapping))
        mapping.close()

    def is_used(self, ino: InodeNo) -> bool:
        """True while a program has the file open or mapped, so that the kernel keeps its inode."""
        return any(ino == file.ino for file in self.files) or any(
            ino == mapped for mapped, _ in self.mappings
        )

    # --- the daemon ------------------------------------------------------------------------------
    def step(self) -> None:
        """Let the mover do a round."""
        self.run(self.mover.run_round())

    async def read_all(self, ino: InodeNo) -> bytes:
        """Return a file's bytes by its best form, leaving all as it is."""
        inode = await self.engine.get_inode(ino)
        if inode.raw:
            return self.raw_store.path(inode.raw).read_bytes()
        return await self.form_reader.read(inode, 0, inode.size) if inode.size else b""

    def remount(self) -> None:
        """Unmount in order, check, and mount again."""
        self.end(killed=False)
        self.check()
        self.begin()

    def end(self, *, killed: bool) -> None:
        """Have the daemon end, in order or by SIGKILL, and leave its files as they are then."""
        if killed:
            self._die()
            return
        self._let_programs_go()
        self.run(self._drain())
        self._close()

    def begin(self) -> None:
        """Mount what `end` has left."""
        self._assemble()

    @property
    def is_captured(self) -> bool:
        """True if `capture` was called since the last crash."""
        return self._captured is not None

    def capture(self) -> None:
        """Keep the files as they are now: `crash` goes on with them."""
        self.sqlite.wait_for_checkpoint()
        self._crash_count += 1
        self._captured = self._root / f"crash-{self._crash_count}"
        shutil.copytree(self.state_dir, self._captured)

    def crash(self, *, checked: bool) -> None:
        """Go on with the files as SIGKILL of the daemon left them, or leaves them now.

        Args:
            checked: Check them first, as a careful administrator does.
        """
        self.end(killed=True)
        if checked:
            self.check()
        self.begin()

    def _die(self) -> None:
        if self._captured is None:
            self.capture()
        assert self._captured is not None
        self._let_programs_go()
        self._close()
        shutil.rmtree(self.state_dir)
        self.state_dir, self._captured = self._captured, None

    def close(self) -> None:
        """Unmount in order and check."""
        self.end(killed=False)
        self.check()

    def check(self) -> None:
        """Run fsck over the closed state directory; fails if it finds anything."""
        engine = self._open_engine()
        raw_store = RawStore(self.state_dir)
        try:
            packed_store = PackedStore(self.state_dir)
            stores = self._open_plain_stores()
            report = self.run(
                check(
                    engine,
                    raw_store,
                    packed_store,
                    self._together(stores),
                    verify=True,
                    keys=self.keys,
                    stores=[*stores],
                )
            )
        finally:
            raw_store.close()
            engine.close()
        problems = [str(problem) for problem in report.problems]
        assert problems == [], problems

    async def _drain(self) -> None:
        """As the daemon does at its end."""
        await self.filesystem.reap_left_over()
        await self.filesystem.finish_requests()
        inodes = await self.engine.list_not_durable(1000)
        await self.file_syncs.make_durable(inodes)
        await self.filesystem.sync()
        await self.recovery.recheck.note_drained()
        await self.engine.commit()

    def _let_programs_go(self) -> None:
        for ino, mapping in list(self.mappings):
            self.unmap(ino, mapping)
        for file in list(self.files):
            self.release(file)

    def _close(self) -> None:
        self.residency.close()
        self.open_table.close()
        self.raw_pool.close()
        self.engine.close()
        self.raw_store.close()
        self._backings.close()


def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a request that suspends nowhere, inside of a run of trio."""
    try:
        with fast_path():
            trap = work.send(None)
            assert trap is LEAVE or isinstance(trap, Call), "a request suspended without leave()"
            work.throw(WouldWait())
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    raise AssertionError("a request went on without being waited for")
