"""The pool: which slabs are on which device, who holds them, and which one leaves next.

Invariants:
- `used_bytes` of a device is the sum of the sizes of its entries, doomed ones included, and grows
  only within the capacity of that moment.
- An entry that is leased, pinned, in a snapshot or still loading is never chosen to leave.

Pure: knows no device and no clock. Evicts by priority class, the lowest first, and within a class
by S3-FIFO (`memfs.policy.s3fifo`).
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import MemfsError
from memfs.policy.s3fifo import S3Fifo
from memfs.sizes import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LAYOUTS = ("", "channels_last")
"""How tensors are laid out: as in the file, or 4-D ones with their channels last."""

PRECISION_LABELS = ("", "float32", "float16", "bfloat16")
"""Precision views; the empty one is the file's own."""


FULL_CODE = "full"
"""In `user.memfs.why`: the file waits for room on a device."""


class HotTierFullError(MemfsError):
    """No device has room for a slab beside what is pinned, leased or being loaded."""

    errno = errno.ENOSPC


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


class EntryState(enum.Enum):
    """How far a slab is."""

    LOADING = "loading"
    """Its bytes are being copied, or not yet known to be those of the generation."""
    READY = "ready"
    """Programs may attach to it."""
    DOOMED = "doomed"
    """Nobody may attach any more; it goes with its last lease."""


class Entry:
    """One slab."""

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
        self.state = EntryState.LOADING
        self.queued = False
        """It has a place in the queue of its class; an older generation has none."""

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
        """The capacity as far as the device has it now."""
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
    """

    def __init__(self, capacities: Sequence[DeviceCapacity]) -> None:
        self._devices = {capacity.uuid: _DeviceQueues(capacity) for capacity in capacities}
        self._entries: dict[SlabKey, Entry] = {}

    # --- questions -------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, key: SlabKey) -> Entry | None:
        """Return the entry of a key, whatever its state."""
        return self._entries.get(key)

    def of_inode(self, ino: int) -> list[Entry]:
        """Return all entries of a file."""
        return [entry for entry in self._entries.values() if entry.key.ino == ino]

    def used_bytes(self, device: str) -> int:
        """Bytes of all slabs of a device."""
        return self._devices[device].used_bytes

    def limit_bytes(self, device: str) -> int:
        """The capacity of a device as far as it has that now."""
        return self._devices[device].limit_bytes

    def capacity(self, device: str) -> DeviceCapacity:
        """The capacity of a device as configured."""
        return self._devices[device].capacity

    def held_bytes(self, device: str) -> int:
        """Bytes of a device that cannot be made free now."""
        here = (entry for entry in self._entries.values() if entry.device == device)
        return sum(entry.size_bytes for entry in here if not entry.evictable)

    # --- changes ---------------------------------------------------------------------------------
    def measure(self, device: str, free_bytes: int) -> None:
        """Take note of a device's free memory, from which others take and to which they give.

        Args:
            device: UUID.
            free_bytes: Left to us, less what is to be left to others.
        """
        here = self._devices[device]
        held_bytes = here.used_bytes - here.index_bytes
        here.limit_bytes = max(0, min(here.capacity.size_bytes, held_bytes + free_bytes))

    def place(
        self, key: SlabKey, size_bytes: int, device: str | None = None, *, pinned: bool = False
    ) -> str:
        """Choose the device for a slab.

        That which is asked for; else the one where the file is leased most; else the one with the
        most room, first without and then with evicting; of equals, the one that holds less.

        Args:
            key: The slab; not in the pool.
            size_bytes: Of it.
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

    def make_room(self, device: str, size_bytes: int) -> list[Entry]:
        """Take out entries so that a slab fits; those that are returned are not in the pool.

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
    ) -> Entry:
        """Add a slab that is being loaded; there is room for it (`make_room`).

        Args:
            key: Not in the pool.
            device: UUID.
            size_bytes: Of the slab and its index.
            priority: 0 to 100.
            pinned: It is.
            index_bytes: Of its index.
        """
        assert key not in self._entries, f"{key} is in the pool already"
        assert size_bytes <= self._room_bytes(device), f"no room was made for {key}"
        entry = self._entries[key] = Entry(
            key, device, size_bytes, priority, pinned=pinned, index_bytes=index_bytes
        )
        self._devices[device].used_bytes += size_bytes
        self._devices[device].index_bytes += index_bytes
        return entry

    def publish(self, entry: Entry) -> list[Entry]:
        """Let programs attach to a slab, and to older generations of the file no more.

        Returns:
            The entries that have left by that.
        """
        gone = []
        for each in self.of_inode(entry.key.ino):
            # One that is still loading is dealt with by who loads it.
            if each.key.generation >= entry.key.generation or each.state == EntryState.LOADING:
                continue
            if self.retire(each):
                gone.append(each)
        entry.state = EntryState.READY
        self._enqueue(entry)
        return gone

    def retire(self, entry: Entry) -> bool:
        """A file is no more what a slab holds; True if the entry has left the pool by that.

        A snapshot that has it keeps it; otherwise it is doomed.
        """
        if not entry.snapshots:
            return self.doom(entry)
        self._discharge(entry)
        entry.pinned = False
        return False

    def keep(self, entry: Entry, snapshot: str) -> None:
        """Add a slab to a snapshot, which keeps it whatever becomes of its file."""
        entry.snapshots.add(snapshot)

    def forget(self, entry: Entry, snapshot: str) -> bool:
        """Take a slab out of a snapshot; True if the entry has left the pool by that."""
        entry.snapshots.discard(snapshot)
        outdated = entry.state == EntryState.READY and not entry.queued
        return outdated and not entry.snapshots and self.doom(entry)

    def attach(self, entry: Entry) -> None:
        """Count one more lease, and one use."""
        assert entry.state == EntryState.READY, f"{entry.key} is {entry.state.value}"
        entry.lease_count += 1
        if entry.queued:
            self._queue(entry).access(entry.key.number, entry.size_bytes)

    def release(self, entry: Entry) -> bool:
        """Count one lease less; True if the entry has left the pool by that."""
        entry.lease_count -= 1
        if entry.state == EntryState.DOOMED and not entry.lease_count:
            self.remove(entry)
            return True
        return False

    def mark(self, ino: int, priority: int, *, pinned: bool) -> None:
        """Set the priority and the pin of all entries of a file."""
        for entry in self.of_inode(ino):
            queued = entry.queued
            self._discharge(entry)
            entry.priority = priority
            entry.pinned = pinned
            if queued:
                self._enqueue(entry)

    def doom(self, entry: Entry) -> bool:
        """Let nobody attach any more; True if the entry has left the pool by that."""
        self._discharge(entry)
        entry.state = EntryState.DOOMED
        entry.pinned = False
        entry.snapshots.clear()
        if not entry.lease_count:
            self.remove(entry)
            return True
        return False

    def remove(self, entry: Entry) -> None:
        """Take an entry out: its memory is free again."""
        del self._entries[entry.key]
        self._devices[entry.device].used_bytes -= entry.size_bytes
        self._devices[entry.device].index_bytes -= entry.index_bytes
        self._discharge(entry)

    def collect(self, device: str, coming_bytes: int = 0) -> list[Entry]:
        """Bring a device that is filled beyond the high watermark down to the low one.

        Args:
            device: UUID.
            coming_bytes: Of a slab that is about to be added.

        Returns:
            The entries that left; fewer than that takes if the others are held.
        """
        here = self._devices[device]
        used_bytes = here.used_bytes + coming_bytes
        if used_bytes <= here.capacity.high_watermark * here.limit_bytes:
            return []
        low_bytes = int(here.capacity.low_watermark * here.limit_bytes)
        return self._evict(device, used_bytes - low_bytes)

    # --- parts -----------------------------------------------------------------------------------
    def _evict(self, device: str, needed_bytes: int) -> list[Entry]:
        by_number: Mapping[int, Entry] = {
            entry.key.number: entry
            for entry in self._entries.values()
            if entry.device == device and entry.evictable
        }
        victims: list[Entry] = []
        for queue in self._devices[device].queues():
            if needed_bytes <= 0:
                break
            for number in queue.evict(needed_bytes, by_number.__contains__):
                entry = by_number[number]
                # Its place is gone already, and what was known of its use lives on as a ghost.
                entry.queued = False
                victims.append(entry)
                needed_bytes -= entry.size_bytes
                self.remove(entry)
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
        here = (entry for entry in self._entries.values() if entry.device == device)
        return sum(entry.size_bytes for entry in here if entry.evictable)

    def _enqueue(self, entry: Entry) -> None:
        self._queue(entry).insert(entry.key.number, entry.size_bytes)
        entry.queued = True

    def _discharge(self, entry: Entry) -> None:
        if entry.queued:
            self._queue(entry).discharge(entry.key.number)
            entry.queued = False

    def _queue(self, entry: Entry) -> S3Fifo:
        return self._devices[entry.device].queue(entry.priority)

    def _refusal(self, names: Sequence[str], size_bytes: int) -> str:
        parts = []
        for name in names:
            here = self._devices[name]
            capacity, share = here.capacity.size_bytes, here.capacity.admission_share
            parts.append(
                f"{name} has {format_size(here.limit_bytes)} of its capacity of "
                f"{format_size(capacity)}, {format_size(self.held_bytes(name))} of it held"
            )
            if size_bytes > share * capacity:
                parts.append(f"unpinned files may take {share:.0%} of a capacity")
        return (
            f"{format_size(size_bytes)} of tensors fit nowhere: {'; '.join(parts)}; "
            "unpin others, close programs that hold tensors, or raise hot.size"
        )
