"""Loading: files become slabs, slabs get variants, and what must leave does.

Invariant: a slab of the pool that is not loading has its memory here, and the other way round.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.hot.devices.device import DeviceError, DeviceFullError
from memfs.hot.headers import HeaderFile
from memfs.hot.indexes import decode_index, encode_index
from memfs.hot.pool import HotTierFullError, SlabKey, SlabState
from memfs.hot.protocol import HotMissError
from memfs.hot.slabs import BuildReport, Layout, build_slab, file_reader, plan_slab
from memfs.keyed_lock import KeyedLock
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memfs.hot.devices.device import Device, SlabMemory
    from memfs.hot.headers import HeaderReader
    from memfs.hot.pool import Pool, SlabInfo
    from memfs.hot.slabs import SlabPlan, Traits

THREADS_A_DEVICE = 2
"""Loads at a time: one reads from the disk while the other one copies to the device. Guess."""

ALLOCATION_ATTEMPTS = 3
"""Where others take memory between the measuring and the allocation. Guess."""

LARGE_INDEX_BYTES = 1 << 20
"""Bytes of an encoded index: slabs of larger ones are built one after the other, since plans of
10,000 tensors take some 20 MB meanwhile."""

GONE_COUNT_MAX = 65_536
"""Slabs that left and were not told of yet; the daemon asks for all when some were lost."""


class LoadRequest(NamedTuple):
    """A file that is to be loaded."""

    key: SlabKey
    fd: int
    """That of its raw file; open until the load ends."""
    name: str
    """Its path, for messages."""
    dtype: str | None
    """That of a raw file of numbers; None: the file says."""
    shape: str | None
    """Likewise, extents separated by commas."""
    priority: int
    pinned: bool
    device: str | None
    """UUID; None: any."""


class LoadedSlab(NamedTuple):
    """A slab with its memory and what is in it."""

    info: SlabInfo
    memory: SlabMemory
    tensor_count: int
    encoded: bytes
    """The index as programs get it (`hot.indexes`): as objects it is ten times as large."""
    traits: Traits
    report: BuildReport


class Loader:
    """Fills and empties the pool.

    Args:
        pool: With a capacity for each device.
        devices: What it has capacities for.
        reserve_bytes: Bytes of each device's memory, left to others.
        headers: Reads what files hold.
    """

    def __init__(
        self, pool: Pool, devices: list[Device], reserve_bytes: int, headers: HeaderReader
    ) -> None:
        self.pool = pool
        self._headers = headers
        self._large = trio.Lock()
        self._devices = {device.uuid: device for device in devices}
        self._reserve_bytes = reserve_bytes
        self._loaded: dict[SlabKey, LoadedSlab] = {}
        self._building: KeyedLock[SlabKey] = KeyedLock()
        self._threads = {device.uuid: trio.CapacityLimiter(THREADS_A_DEVICE) for device in devices}
        self._gone: deque[SlabKey] = deque(maxlen=GONE_COUNT_MAX)
        self._left = Signal()
        self.loaded_count = 0
        self.loaded_bytes = 0
        self.evicted_count = 0
        self.refused_count = 0

    # --- questions -------------------------------------------------------------------------------
    @property
    def devices(self) -> Mapping[str, Device]:
        """The devices by UUID."""
        return self._devices

    def device(self, slab: SlabInfo) -> Device:
        """Return the device of a slab."""
        return self._devices[slab.device]

    def loaded(self, slab: SlabInfo) -> LoadedSlab:
        """Return a slab that is not loading, with its memory and index."""
        return self._loaded[slab.key]

    async def next_gone(self) -> SlabKey:
        """Wait for a published file to leave, and return it; variants are not told of."""
        while not self._gone:
            await self._left.wait(self._left.count)
        return self._gone.popleft()

    # --- files -----------------------------------------------------------------------------------
    async def load(self, request: LoadRequest) -> LoadedSlab:
        """Load a file; nobody can attach to it before `publish`.

        Raises:
            FormatError: It holds no tensors.
            HotTierFullError: It has no room.
            DeviceError: The device failed.
            HotMissError: It is loaded or being loaded already.
        """
        key = request.key
        if request.device is not None and request.device not in self._devices:
            raise DeviceError(f"this hot tier has no device {request.device!r}")
        if self.pool.get(key) is not None or not self._building.try_enter(key):
            raise HotMissError(f"inode {key.ino} is being loaded already")
        try:
            name = request.name
            index = await self._headers.read(
                HeaderFile(
                    name=name,
                    size_bytes=os.fstat(request.fd).st_size,
                    fd=request.fd,
                    read=None,
                    dtype=request.dtype,
                    shape=request.shape,
                )
            )
            return await self._build(
                key,
                index,
                Layout(),
                file_reader(request.fd, name),
                request.priority,
                pinned=request.pinned,
                device=request.device,
            )
        finally:
            self._building.exit(key)

    def publish(self, key: SlabKey) -> None:
        """Let programs attach to a file that was loaded.

        Raises:
            HotMissError: It is not loaded.
        """
        slab = self.pool.get(key)
        if slab is None or key not in self._loaded:
            raise HotMissError(f"inode {key.ino} is not loaded")
        if slab.state == SlabState.LOADING:
            for gone in self.pool.publish(slab):
                self._drop(gone)

    def discard(self, key: SlabKey) -> None:
        """Take a file out that was loaded and has changed meanwhile."""
        slab = self.pool.get(key)
        if slab is not None and key in self._loaded and self.pool.doom(slab):
            self._drop(slab)

    def evict(self, ino: int) -> None:
        """Take a file out, all generations that no snapshot keeps; leases go on."""
        for slab in self.pool.of_inode(ino):
            if slab.state == SlabState.READY and self.pool.retire(slab):
                self._drop(slab)

    def expire(self, ino: int, idle_s_min: float) -> bool:
        """Take a file out that no program had for so long; False: one has it, or had it since."""
        if self.pool.idle_s(ino) < max(0.0, idle_s_min):
            return False
        for slab in self.pool.of_inode(ino):
            self.pool.remove(slab)
            self._leave(slab)
        return True

    def release(self, slab: SlabInfo) -> None:
        """Count one lease less."""
        if self.pool.release(slab):
            self._drop(slab)
        elif slab.evictable:
            self.collect(slab.device)

    def forget_snapshot(self, name: str) -> None:
        """Let what a snapshot keeps go."""
        for slab in self.pool:
            if name in slab.snapshots and self.pool.forget(slab, name):
                self._drop(slab)

    def collect(self, device: str) -> None:
        """Bring a device below its watermark."""
        self._measure(device)
        for slab in self.pool.collect(device):
            self._leave(slab)

    # --- variants --------------------------------------------------------------------------------
    async def variant(self, base: LoadedSlab, layout: Layout) -> LoadedSlab:
        """Return a file in a precision and layout, made from its slab if need be.

        Raises:
            HotTierFullError: The variant has no room.
            HotMissError: The file left meanwhile.
        """
        key = base.info.key._replace(dtype=layout.dtype, layout=layout.layout)
        if key == base.info.key:
            return base
        async with self._building.hold(key):
            return await self._variant(base, layout, key)

    async def _variant(self, base: LoadedSlab, layout: Layout, key: SlabKey) -> LoadedSlab:
        if self.pool.get(base.info.key) is not base.info or base.info.state != SlabState.READY:
            raise HotMissError(f"inode {key.ino} was rewritten or left the hot tier")
        known = self._loaded.get(key)
        if known is not None and known.info.state == SlabState.READY:
            return known
        if not base.traits.differ(layout):
            return base
        # So that its source is there to the end.
        self.pool.attach(base.info)
        try:
            slab = base.info
            made = await self._build(
                key,
                base.encoded,
                layout,
                base.memory.read,
                slab.priority,
                pinned=False,
                device=slab.device,
            )
            if base.info.state != SlabState.READY:
                self.pool.doom(made.info)
                self._drop(made.info)
                raise HotMissError(f"inode {key.ino} was rewritten or left the hot tier")
            self.pool.publish(made.info)
            return made
        finally:
            self.release(base.info)

    # --- parts -----------------------------------------------------------------------------------
    async def _build(
        self,
        key: SlabKey,
        index: bytes,
        layout: Layout,
        read: Callable[[int, memoryview], None],
        priority: int,
        *,
        pinned: bool,
        device: str | None,
    ) -> LoadedSlab:
        """Return a slab with the tensors of an encoded index."""
        # Large indexes take memory of the server: one at a time.
        turn: contextlib.AbstractAsyncContextManager[object] = (
            self._large if len(index) > LARGE_INDEX_BYTES else contextlib.nullcontext()
        )
        async with turn:
            plan, encoded = await trio.to_thread.run_sync(_plan, index, layout)
            granularity = max(each.granularity_bytes for each in self._devices.values())
            size_bytes = math.ceil(plan.size_bytes / granularity) * granularity + len(encoded)
            full: DeviceFullError | None = None
            for _ in range(ALLOCATION_ATTEMPTS):
                try:
                    slab = self._take_room(
                        key, size_bytes, len(encoded), priority, pinned=pinned, device=device
                    )
                except HotTierFullError:
                    self.refused_count += 1
                    raise
                try:
                    memory, report = await trio.to_thread.run_sync(
                        build_slab,
                        self._devices[slab.device],
                        plan,
                        read,
                        limiter=self._threads[slab.device],
                    )
                except DeviceFullError as error:
                    # Somebody else was faster: what is measured next counts that.
                    self.pool.remove(slab)
                    full = error
                except BaseException:
                    self.pool.remove(slab)
                    raise
                else:
                    made = LoadedSlab(slab, memory, len(plan.placed), encoded, plan.traits, report)
                    self._loaded[key] = made
                    self.loaded_count += 1
                    self.loaded_bytes += size_bytes
                    return made
            self.refused_count += 1
            raise HotTierFullError(f"inode {key.ino}: {full}") from full

    def _take_room(
        self,
        key: SlabKey,
        size_bytes: int,
        index_bytes: int,
        priority: int,
        *,
        pinned: bool,
        device: str | None,
    ) -> SlabInfo:
        for uuid in self._devices:
            self._measure(uuid)
        uuid = self.pool.place(key, size_bytes, device, pinned=pinned)
        for gone in self.pool.make_room(uuid, size_bytes):
            self._leave(gone)
        # Before it is there, so that what comes is not what leaves.
        for gone in self.pool.collect(uuid, size_bytes):
            self._leave(gone)
        return self.pool.begin(
            key, uuid, size_bytes, priority, pinned=pinned, index_bytes=index_bytes
        )

    def _measure(self, uuid: str) -> None:
        memory = self._devices[uuid].memory()
        self.pool.measure(uuid, memory.free_bytes - self._reserve_bytes)

    def _leave(self, slab: SlabInfo) -> None:
        self.evicted_count += 1
        self._drop(slab)

    def _drop(self, slab: SlabInfo) -> None:
        """Give the memory of a slab back that has left the pool."""
        self._loaded.pop(slab.key).memory.release()
        if not slab.key.dtype and not slab.key.layout:
            self._gone.append(slab.key)
            self._left.set()


def _plan(index: bytes, layout: Layout) -> tuple[SlabPlan, bytes]:
    """Return where everything goes in a slab, and that as an encoded index."""
    plan = plan_slab(decode_index(index), layout)
    return plan, encode_index(plan.index)
