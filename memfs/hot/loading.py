"""Loading: files become slabs, slabs become precision views, and what must leaves.

Invariant: an entry of the pool that is not loading has a slab here, and the other way round.
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
from memfs.hot.pool import EntryState, HotTierFullError, SlabKey
from memfs.hot.protocol import HotMissError
from memfs.hot.slabs import BuildReport, Layout, build_slab, file_reader, plan_slab
from memfs.keyed_lock import KeyedLock
from memfs.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memfs.hot.devices.device import Device, Slab
    from memfs.hot.headers import HeaderReader
    from memfs.hot.pool import Entry, Pool
    from memfs.hot.slabs import SlabPlan, Traits

THREADS_A_DEVICE = 2
"""Loads at a time: one reads from the disk while the other one copies to the device. Guess."""

ALLOCATION_ATTEMPTS = 3
"""Where others take memory between the measuring and the allocation. Guess."""

LARGE_INDEX_BYTES = 1 << 20
"""Of an encoded index: slabs of larger ones are built one after the other, since plans of 10,000
tensors take some 20 MB meanwhile."""

GONE_COUNT_MAX = 65_536
"""Entries that left and were not told of yet; the daemon asks for all when some were lost."""


class LoadRequest(NamedTuple):
    """A file that is to be loaded."""

    key: SlabKey
    fd: int
    """Of its raw file; open until the load ends."""
    name: str
    """Its path, for messages."""
    dtype: str | None
    """Of a raw file of numbers; None: the file says."""
    shape: str | None
    """Likewise, extents separated by commas."""
    priority: int
    pinned: bool
    device: str | None
    """UUID; None: any."""


class Resident(NamedTuple):
    """A slab with what is in it."""

    entry: Entry
    slab: Slab
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
        reserve_bytes: Of each device's memory, left to others.
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
        self._residents: dict[SlabKey, Resident] = {}
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

    def device(self, entry: Entry) -> Device:
        """Return the device of an entry."""
        return self._devices[entry.device]

    def resident(self, entry: Entry) -> Resident:
        """Return the slab of an entry that is not loading."""
        return self._residents[entry.key]

    async def next_gone(self) -> SlabKey:
        """Wait for a published file to leave, and return it; views are not told of."""
        while not self._gone:
            await self._left.wait(self._left.count)
        return self._gone.popleft()

    # --- files -----------------------------------------------------------------------------------
    async def load(self, request: LoadRequest) -> Resident:
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
        entry = self.pool.get(key)
        if entry is None or key not in self._residents:
            raise HotMissError(f"inode {key.ino} is not loaded")
        if entry.state == EntryState.LOADING:
            for gone in self.pool.publish(entry):
                self._drop(gone)

    def discard(self, key: SlabKey) -> None:
        """Take a file out that was loaded and has changed meanwhile."""
        entry = self.pool.get(key)
        if entry is not None and key in self._residents and self.pool.doom(entry):
            self._drop(entry)

    def evict(self, ino: int) -> None:
        """Take a file out, all generations that no snapshot keeps; leases go on."""
        for entry in self.pool.of_inode(ino):
            if entry.state == EntryState.READY and self.pool.retire(entry):
                self._drop(entry)

    def release(self, entry: Entry) -> None:
        """Count one lease less."""
        if self.pool.release(entry):
            self._drop(entry)
        elif entry.evictable:
            self.collect(entry.device)

    def forget_snapshot(self, name: str) -> None:
        """Let what a snapshot keeps go."""
        for entry in self.pool:
            if name in entry.snapshots and self.pool.forget(entry, name):
                self._drop(entry)

    def collect(self, device: str) -> None:
        """Bring a device below its watermark."""
        self._measure(device)
        for entry in self.pool.collect(device):
            self._leave(entry)

    # --- views -----------------------------------------------------------------------------------
    async def variant(self, base: Resident, layout: Layout) -> Resident:
        """Return a file in a precision and layout, made from its slab if need be.

        Raises:
            HotTierFullError: The view has no room.
            HotMissError: The file left meanwhile.
        """
        key = base.entry.key._replace(dtype=layout.dtype, layout=layout.layout)
        if key == base.entry.key:
            return base
        async with self._building.hold(key):
            return await self._variant(base, layout, key)

    async def _variant(self, base: Resident, layout: Layout, key: SlabKey) -> Resident:
        if self.pool.get(base.entry.key) is not base.entry or base.entry.state != EntryState.READY:
            raise HotMissError(f"inode {key.ino} was rewritten or left the hot tier")
        known = self._residents.get(key)
        if known is not None and known.entry.state == EntryState.READY:
            return known
        if not base.traits.differ(layout):
            return base
        # So that its source is there to the end.
        self.pool.attach(base.entry)
        try:
            entry = base.entry
            made = await self._build(
                key,
                base.encoded,
                layout,
                base.slab.read,
                entry.priority,
                pinned=False,
                device=entry.device,
            )
            if base.entry.state != EntryState.READY:
                self.pool.doom(made.entry)
                self._drop(made.entry)
                raise HotMissError(f"inode {key.ino} was rewritten or left the hot tier")
            self.pool.publish(made.entry)
            return made
        finally:
            self.release(base.entry)

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
    ) -> Resident:
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
                    entry = self._take_room(
                        key, size_bytes, len(encoded), priority, pinned=pinned, device=device
                    )
                except HotTierFullError:
                    self.refused_count += 1
                    raise
                try:
                    slab, report = await trio.to_thread.run_sync(
                        build_slab,
                        self._devices[entry.device],
                        plan,
                        read,
                        limiter=self._threads[entry.device],
                    )
                except DeviceFullError as error:
                    # Somebody else was faster: what is measured next counts that.
                    self.pool.remove(entry)
                    full = error
                except BaseException:
                    self.pool.remove(entry)
                    raise
                else:
                    made = Resident(entry, slab, len(plan.placed), encoded, plan.traits, report)
                    self._residents[key] = made
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
    ) -> Entry:
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

    def _leave(self, entry: Entry) -> None:
        self.evicted_count += 1
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        """Give the memory of an entry back that has left the pool."""
        resident = self._residents.pop(entry.key)
        resident.slab.release()
        if not entry.key.dtype and not entry.key.layout:
            self._gone.append(entry.key)
            self._left.set()


def _plan(index: bytes, layout: Layout) -> tuple[SlabPlan, bytes]:
    """Return where everything goes in a slab, and that as an encoded index."""
    plan = plan_slab(decode_index(index), layout)
    return plan, encode_index(plan.index)
