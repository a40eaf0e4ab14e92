"""The pool: which slabs are on which device, who holds them, and which one leaves next.

Invariants:
- `used_bytes` of a device is the sum of the sizes of its slabs, doomed ones included, and grows
  only within the capacity of that moment.
- A slab that is leased, pinned, in a snapshot or still loading is never chosen to leave.

Pure: knows no device and no clock. Evicts by priority class, the lowest first, and within a class
by S3-FIFO (`memfs.policy.s3fifo`).
"""

from __future__ import annotations

import enum
import errno
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError
from memfs.policy.s3fifo import S3Fifo
from memfs.sizes import format_size
from memfs.types import PendingCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LAYOUTS = ("", "channels_last")
"""How tensors are laid out: as in the file, or 4-D ones with their channels last."""

PRECISION_LABELS = ("", "float32", "float16", "bfloat16")
"""Precisions of variants; the empty one is the file's own."""


class HotTierFullError(MemfsError):
    """No device has room for a slab beside what is pinned, leased or being loaded."""

    errno = errno.ENOSPC
    pending_code = PendingCode.FULL


class SlabKey(NamedTuple):
    """What a slab holds: one file, one generation of it, in one precision and layout."""

    ino: int
    generation: int
    dtype: str = ""
    layout: str = ""

    @property
    def number(self) -> int:
        """The key of the queues: the same for all generations, so that use counts on."""
        variant = PRECISION_LABELS.index(self.dtype) * len(LAYOUTS) + LAYOUTS.index(self.layout)
        return self.ino << 3 | variant


class SlabState(enum.Enum):
    """How far a slab is."""

    LOADING = "loading"
    """Its bytes are being copied, or not yet known to be those of the generation."""
    READY = "ready"
    """Programs may attach to it."""
    DOOMED = "doomed"
    """Nobody may attach any more; it goes with its last lease."""


class SlabInfo:
    """What the server knows of one slab."""

    __slots__ = (
        "device",
        "index_bytes",
        "key",
        "lease_count",
        "pinned",
        "priority",
        "queued",
        "size_bytes",
        "snapshots",
        "state",
        "used_s",
    )

    def __init__(
        self,
        key: SlabKey,
        device: str,
        size_bytes: int,
        priority: int,
        *,
        pinned: bool,
        index_bytes: int = 0,
    ) -> None:
        self.key = key
        self.device = device
        """UUID."""
        self.size_bytes = size_bytes
        """What it takes of the capacity, its index included."""
        self.index_bytes = index_bytes
        """The part that is not on the device but in the server's memory."""
        self.priority = priority
        """0 to 100; higher leaves later."""
        self.pinned = pinned
        self.lease_count = 0
        """Programs that may have it mapped."""
        self.snapshots: set[str] = set()
        """Names of the snapshots that keep it."""
        self.state = SlabState.LOADING
        self.used_s = 0.0
        """When a program last had it, by the clock of the pool."""
        self.queued = False
        """It has a place in the queue of its class; an older generation has no such place."""

    @property
    def evictable(self) -> bool:
        """True if it may be chosen to leave."""
        return self.queued and not (self.pinned or self.lease_count or self.snapshots)


class DeviceCapacity(NamedTuple):
    """How much of a device the hot tier may take."""

    uuid: str
    size_bytes: int
    """At most; less where others use the device."""
    high_watermark: float = 0.8
    """Filled beyond this share, unused slabs leave."""
    low_watermark: float = 0.7
    """That stops here."""
    admission_share: float = 0.5
    """An unpinned slab larger than this share of the capacity is not taken."""
    snapshot_share: float = 1.0
    """Snapshots of one user keep no larger share of the capacity."""


class _DeviceQueues:
    """The slabs of one device by priority class."""

    def __init__(self, capacity: DeviceCapacity) -> None:
        self.capacity = capacity
        self.limit_bytes = capacity.size_bytes
        """What the device has of the capacity now."""
        self.used_bytes = 0
        self.index_bytes = 0
        """The part of `used_bytes` that is not on the device."""
        self._classes: dict[int, S3Fifo] = {}

    def queue(self, priority: int) -> S3Fifo:
        """Return the queue of a class."""
        found = self._classes.get(priority)
        if found is None:
            found = self._classes[priority] = S3Fifo(self.capacity.size_bytes)
        return found

    def queues(self) -> list[S3Fifo]:
        """Return the queues, that of the lowest priority first."""
        return [self._classes[priority] for priority in sorted(self._classes)]


class Pool:
    """The slabs of all devices.

    Args:
        capacities: One a device.
        clock: Tells seconds.
    """

    def __init__(
        self, capacities: Sequence[DeviceCapacity], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._devices = {capacity.uuid: _DeviceQueues(capacity) for capacity in capacities}
        self._slabs: dict[SlabKey, SlabInfo] = {}
        self._by_inode: defaultdict[int, dict[SlabKey, SlabInfo]] = defaultdict(dict)
        """The same; without empty ones."""

    # --- questions -------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._slabs)

    def __iter__(self) -> Iterator[SlabInfo]:
        return iter(list(self._slabs.values()))

    def get(self, key: SlabKey) -> SlabInfo | None:
        """Return the slab of a key, whatever its state."""
        return self._slabs.get(key)

    def of_inode(self, ino: int) -> list[SlabInfo]:
        """Return all slabs of a file."""
        return list(self._by_inode.get(ino, {}).values())

    def used_bytes(self, device: str) -> int:
        """Bytes of all slabs of a device."""
        return self._devices[device].used_bytes

    def limit_bytes(self, device: str) -> int:
        """What a device has of its capacity now."""
        return self._devices[device].limit_bytes

    def capacity(self, device: str) -> DeviceCapacity:
        """The capacity of a device as configured."""
        return self._devices[device].capacity

    def unevictable_bytes(self, device: str) -> int:
        """Bytes of a device that cannot be made free now."""
        here = (slab for slab in self._slabs.values() if slab.device == device)
        return sum(slab.size_bytes for slab in here if not slab.evictable)

    # --- changes ---------------------------------------------------------------------------------
    def measure(self, device: str, free_bytes: int) -> None:
        """Take note of a device's free memory, from which others take and to which they give.

        Args:
            device: UUID.
            free_bytes: Left to us, less what is to be left to others.
        """
        here = self._devices[device]
        on_device_bytes = here.used_bytes - here.index_bytes
        here.limit_bytes = max(0, min(here.capacity.size_bytes, on_device_bytes + free_bytes))

    def place(
        self, key: SlabKey, size_bytes: int, device: str | None = None, *, pinned: bool = False
    ) -> str:
        """Choose the device for a slab.

        That which is asked for; else the one where the file is leased most; else the one with the
        most room, first without and then with evicting; of equals, the one that holds less.

        Args:
            key: The slab; not in the pool.
            device: UUID; None: any.
            pinned: It may be larger than the share that one slab is granted.

        Raises:
            HotTierFullError: It fits nowhere.
        """
        names = [device] if device is not None else list(self._devices)
        fitting = [name for name in names if self._fits(name, size_bytes, pinned=pinned)]
        if not fitting:
            raise HotTierFullError(self._refusal(names, size_bytes))

        def preference(name: str) -> tuple[int, bool, int, int]:
            leases = sum(e.lease_count for e in self.of_inode(key.ino) if e.device == name)
            room_bytes = self._room_bytes(name)
            return leases, room_bytes >= size_bytes, room_bytes, -self.used_bytes(name)

        return max(fitting, key=preference)

    def make_room(self, device: str, size_bytes: int) -> list[SlabInfo]:
        """Take out slabs so that a new one fits; those that are returned are not in the pool.

        Raises:
            HotTierFullError: It cannot fit; nothing was taken out.
        """
        needed_bytes = size_bytes - self._room_bytes(device)
        if needed_bytes > self._evictable_bytes(device):
            raise HotTierFullError(self._refusal([device], size_bytes))
        return self._evict(device, needed_bytes)

    def begin(
        self,
        key: SlabKey,
        device: str,
        size_bytes: int,
        priority: int,
        *,
        pinned: bool,
        index_bytes: int = 0,
    ) -> SlabInfo:
        """Add a slab that is being loaded; there is room for it (`make_room`).

        Args:
            key: Not in the pool.
            device: UUID.
            size_bytes: Bytes of the slab and its index.
            priority: 0 to 100.
            pinned: It is.
            index_bytes: Bytes of its index.
        """
        assert key not in self._slabs, f"{key} is in the pool already"
        assert size_bytes <= self._room_bytes(device), f"no room was made for {key}"
        slab = self._slabs[key] = self._by_inode[key.ino][key] = SlabInfo(
            key, device, size_bytes, priority, pinned=pinned, index_bytes=index_bytes
        )
        self._devices[device].used_bytes += size_bytes
        self._devices[device].index_bytes += index_bytes
        return slab

    def publish(self, slab: SlabInfo) -> list[SlabInfo]:
        """Let programs attach to a slab, and not any more to older generations of the file.

        Returns:
            The slabs that have left the pool.
        """
        gone = []
        for each in self.of_inode(slab.key.ino):
            # One that is still loading is dealt with by who loads it.
            if each.key.generation >= slab.key.generation or each.state == SlabState.LOADING:
                continue
            if self.retire(each):
                gone.append(each)
        slab.state = SlabState.READY
        slab.used_s = self._clock()
        self._enqueue(slab)
        return gone

    def retire(self, slab: SlabInfo) -> bool:
        """A file is not what a slab holds any more; True if the slab has left the pool.

        A snapshot that has it keeps it; otherwise it is doomed.
        """
        if not slab.snapshots:
            return self.doom(slab)
        self._discharge(slab)
        slab.pinned = False
        return False

    def keep(self, slab: SlabInfo, snapshot: str) -> None:
        """Add a slab to a snapshot, which keeps it whatever becomes of its file."""
        slab.snapshots.add(snapshot)

    def forget(self, slab: SlabInfo, snapshot: str) -> bool:
        """Take a slab out of a snapshot; True if the slab has left the pool."""
        slab.snapshots.discard(snapshot)
        outdated = slab.state == SlabState.READY and not slab.queued
        return outdated and not slab.snapshots and self.doom(slab)

    def attach(self, slab: SlabInfo) -> None:
        """Count one more lease, and one use."""
        assert slab.state == SlabState.READY, f"{slab.key} is {slab.state.value}"
        slab.lease_count += 1
        if slab.queued:
            self._queue(slab).access(slab.key.number, slab.size_bytes)

    def release(self, slab: SlabInfo) -> bool:
        """Count one lease less; True if the slab has left the pool."""
        slab.lease_count -= 1
        slab.used_s = self._clock()
        if slab.state == SlabState.DOOMED and not slab.lease_count:
            self.remove(slab)
            return True
        return False

    def mark(self, ino: int, priority: int, *, pinned: bool) -> None:
        """Set the priority and the pin of all slabs of a file."""
        for slab in self.of_inode(ino):
            queued = slab.queued
            self._discharge(slab)
            slab.priority = priority
            slab.pinned = pinned
            if queued:
                self._enqueue(slab)

    def doom(self, slab: SlabInfo) -> bool:
        """Let nobody attach any more; True if the slab has left the pool."""
        self._discharge(slab)
        slab.state = SlabState.DOOMED
        slab.pinned = False
        slab.snapshots.clear()
        if not slab.lease_count:
            self.remove(slab)
            return True
        return False

    def remove(self, slab: SlabInfo) -> None:
        """Take a slab out: its memory is free again."""
        del self._slabs[slab.key]
        there = self._by_inode[slab.key.ino]
        del there[slab.key]
        if not there:
            del self._by_inode[slab.key.ino]
        self._devices[slab.device].used_bytes -= slab.size_bytes
        self._devices[slab.device].index_bytes -= slab.index_bytes
        self._discharge(slab)

    def collect(self, device: str, coming_bytes: int = 0) -> list[SlabInfo]:
        """Bring a device that is filled beyond the high watermark down to the low one.

        Args:
            device: UUID.
            coming_bytes: Bytes of a slab that is about to be added.

        Returns:
            The slabs that left; fewer than that takes if the others may not leave.
        """
        here = self._devices[device]
        used_bytes = here.used_bytes + coming_bytes
        if used_bytes <= here.capacity.high_watermark * here.limit_bytes:
            return []
        low_bytes = int(here.capacity.low_watermark * here.limit_bytes)
        return self._evict(device, used_bytes - low_bytes)

    def idle(self, idle_s_min: float) -> dict[int, float]:
        """Return the files whose slabs may all leave, and that no program had for so long.

        Returns:
            For how many seconds not, by inode.
        """
        idle = {ino: self.idle_s(ino) for ino in self._by_inode}
        return {ino: idle_s for ino, idle_s in idle.items() if idle_s >= idle_s_min}

    def idle_s(self, ino: int) -> float:
        """Return for how many seconds no program had a file whose slabs may all leave; else -1."""
        slabs = self._by_inode.get(ino, {}).values()
        if not all(slab.evictable for slab in slabs):
            return -1.0
        return self._clock() - max((slab.used_s for slab in slabs), default=math.inf)

    # --- parts -----------------------------------------------------------------------------------
    def _evict(self, device: str, needed_bytes: int) -> list[SlabInfo]:
        by_number: Mapping[int, SlabInfo] = {
            slab.key.number: slab
            for slab in self._slabs.values()
            if slab.device == device and slab.evictable
        }
        victims: list[SlabInfo] = []
        for queue in self._devices[device].queues():
            if needed_bytes <= 0:
                break
            for number in queue.evict(needed_bytes, by_number.__contains__):
                slab = by_number[number]
                # Its place is gone already, and what was known of its use lives on as a ghost.
                slab.queued = False
                victims.append(slab)
                needed_bytes -= slab.size_bytes
                self.remove(slab)
        return victims

    def _fits(self, device: str, size_bytes: int, *, pinned: bool) -> bool:
        here = self._devices[device]
        if not pinned and size_bytes > here.capacity.admission_share * here.capacity.size_bytes:
            return False
        return size_bytes <= self._room_bytes(device) + self._evictable_bytes(device)

    def _room_bytes(self, device: str) -> int:
        here = self._devices[device]
        return max(0, here.limit_bytes - here.used_bytes)

    def _evictable_bytes(self, device: str) -> int:
        here = (slab for slab in self._slabs.values() if slab.device == device)
        return sum(slab.size_bytes for slab in here if slab.evictable)

    def _enqueue(self, slab: SlabInfo) -> None:
        self._queue(slab).insert(slab.key.number, slab.size_bytes)
        slab.queued = True

    def _discharge(self, slab: SlabInfo) -> None:
        if slab.queued:
            self._queue(slab).discharge(slab.key.number)
            slab.queued = False

    def _queue(self, slab: SlabInfo) -> S3Fifo:
        return self._devices[slab.device].queue(slab.priority)

    def _refusal(self, names: Sequence[str], size_bytes: int) -> str:
        parts = []
        for name in names:
            here = self._devices[name]
            capacity, share = here.capacity.size_bytes, here.capacity.admission_share
            parts.append(
                f"{name} has {format_size(here.limit_bytes)} of its capacity of "
                f"{format_size(capacity)}, and {format_size(self.unevictable_bytes(name))} may not "
                "leave"
            )
            if size_bytes > share * capacity:
                parts.append(f"unpinned files may take {share:.0%} of a capacity")
        return (
            f"{format_size(size_bytes)} of tensors fit nowhere: {'; '.join(parts)}; "
            "unpin others, close programs that hold tensors, or raise hot.size"
        )
